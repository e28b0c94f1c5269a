"""Objects in etcd 3: a key each, `PREFIX/KIND/NAME`, its value the object as JSON.

etcd3gw speaks to etcd's JSON gateway. Ours are the choice among several endpoints, and the watch: etcd3gw's own one
does not tell that a revision is compacted, nor that the server has ended the watch.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception

from bgpcni.cluster.objects import Object, Path, parse
from bgpcni.cluster.store import Change, Conflict, Kept, Listing, Progress, Store, TooOld, Trouble
from bgpcni.config.agent import EtcdTable
from bgpcni.errors import InvalidConfiguration

ANSWER_SECONDS = 5.0
SILENT_SECONDS = 60.0
"""A watch gets a sign of life from etcd every so often (`progress_notify`, asked for each 10 s): then it hangs."""
HEARD_SECONDS = 86400
"""For how long it is known when an agent was heard last."""
_ALIVE = "alive"
"""The key BGPNode/NAME/alive is below the object, and no object itself."""
_WITH_LEADER = {"Grpc-Metadata-hasleader": "true"}
"""Have a member that has lost the others end the watch: it would say nothing, and seem to be well."""
T = TypeVar("T")


class Etcd(Store):
    """One client of an etcd cluster. An endpoint that does not answer is left for the next one."""

    def __init__(self, config: EtcdTable) -> None:
        self._prefix = config.prefix.rstrip("/")
        self._endpoints = [_client(endpoint, config) for endpoint in config.endpoints]
        self._names = list(config.endpoints)
        self._at = 0
        self._lock = threading.Lock()
        self._streams: set[requests.Response] = set()
        self._closed = False
        self._lease = ""

    # ---------------------------------------------------------------- the contract

    def list(self) -> Listing[Kept]:
        answer = self._post("kv/range", _below(self._prefix + "/"))
        items: dict[Path, Kept] = {}
        broken: dict[Path, str] = {}
        for pair in answer.get("kvs", ()):
            path = self._path(pair)
            if path is None:
                continue
            try:
                items[path] = self._kept(path, pair)
            except InvalidConfiguration as error:
                broken[path] = error.msg
        return Listing(str(answer["header"]["revision"]), items, broken)

    def get(self, path: Path) -> Kept | None:
        pairs = self._post("kv/range", {"key": self._key(path)}).get("kvs", ())
        return self._kept(path, pairs[0]) if pairs else None

    def create(self, item: Object) -> Kept:
        compare = {"key": self._key(item.path), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        return self._put(item, compare, f"{' '.join(item.path)} exists already")

    def swap(self, item: Object, version: str) -> Kept:
        compare = {"key": self._key(item.path), "target": "MOD", "result": "EQUAL", "mod_revision": version}
        return self._put(item, compare, f"{' '.join(item.path)} was changed meanwhile")

    def delete(self, path: Path, version: str | None = None) -> None:
        key = self._key(path)
        compare = {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": version}
        if version is None:
            compare = {"key": key, "target": "CREATE", "result": "GREATER", "create_revision": "0"}
        operation = {"request_delete_range": {"key": key}}
        if not self._swapped(compare, operation):
            raise Conflict(f"{' '.join(path)} does not exist, or was changed meanwhile")

    def watch(self, revision: str) -> Iterator[Change[Kept] | Progress]:
        create = _below(self._prefix + "/") | {"start_revision": str(int(revision) + 1), "progress_notify": True}
        stream = self._tried(lambda client: self._opened(client, create))
        at = self._at
        try:
            for line in stream.iter_lines(chunk_size=65536):
                if not line:
                    continue
                try:
                    result = json.loads(line)["result"]
                except (ValueError, KeyError, TypeError):
                    raise Trouble(f"etcd: the watch says {line[:200]!r}") from None
                if int(result.get("compact_revision", 0)):
                    raise TooOld
                if result.get("canceled"):
                    self._at = (at + 1) % len(self._endpoints)  # this member may have lost the others
                    raise Trouble(f"etcd: the watch was cancelled: {result.get('cancel_reason', 'no reason given')}")
                if int(result.get("header", {}).get("revision", revision)) < int(revision):
                    raise TooOld  # a store that was restored or made anew: it would be silent until it is as far again
                events = result.get("events", ())
                if not events:  # what it says of its revision is complete, but where the watch was only accepted
                    yield Progress("" if result.get("created") else str(result["header"]["revision"]))
                revisions = [int(event["kv"]["mod_revision"]) for event in events]
                for event, its, after in zip(events, revisions, [*revisions[1:], 0], strict=False):
                    # a transaction is done with its last change only: who begins again before that sees all of it
                    if change := self._change(event, str(its - 1 if its == after else its)):
                        yield change
        except (requests.RequestException, OSError) as error:
            self._at = (at + 1) % len(self._endpoints)
            raise Trouble(f"etcd: the watch broke: {_said(error)}") from None
        finally:
            with self._lock:
                self._streams.discard(stream)
            stream.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            streams, self._streams = self._streams, set()
        for stream in streams:
            _cut(stream)
        for client in self._endpoints:
            client.session.close()

    # ---------------------------------------------------------------- who lives

    def beat(self, node: str) -> None:
        """A key with a lease, which is renewed: that is no event to a watch. What is left of it says how old it is."""
        if self._lease and int(self._post("lease/keepalive", {"ID": self._lease})["result"].get("TTL", 0)) > 0:
            return
        self._lease = str(self._post("lease/grant", {"TTL": str(HEARD_SECONDS)})["ID"])
        key = _text("/".join((self._prefix, "BGPNode", node, _ALIVE)))
        self._post("kv/put", {"key": key, "value": "", "lease": self._lease})

    def heard(self) -> Mapping[str, datetime]:
        found: dict[str, datetime] = {}
        for pair in self._post("kv/range", _below(f"{self._prefix}/BGPNode/")).get("kvs", ()):
            name, _, rest = _plain(pair["key"]).removeprefix(f"{self._prefix}/BGPNode/").partition("/")
            if rest == _ALIVE and "lease" in pair:
                left = self._post("lease/timetolive", {"ID": pair["lease"]})
                age = int(left.get("grantedTTL", 0)) - int(left.get("TTL", -1))
                if int(left.get("TTL", -1)) > 0:
                    found[name] = datetime.now(UTC) - timedelta(seconds=age)
        return found

    # ---------------------------------------------------------------- keys and values

    def _key(self, path: Path) -> str:
        return _text("/".join((self._prefix, *path)))

    def _path(self, pair: dict[str, Any]) -> Path | None:
        """Kind and name of a key; None for a key that is no object of ours."""
        words = _plain(pair["key"]).removeprefix(self._prefix + "/").split("/")
        return (words[0], words[1]) if len(words) == 2 else None

    def _kept(self, path: Path, pair: dict[str, Any]) -> Kept:
        """Raises InvalidConfiguration."""
        where = f"etcd {self._prefix}/{'/'.join(path)}"
        try:
            document = json.loads(_plain(pair.get("value", "")))
        except ValueError:
            raise InvalidConfiguration(f"{where}: the value is no JSON") from None
        found = parse(document, where)
        if found.path != path:
            raise InvalidConfiguration(f"{where}: the value is {' '.join(found.path)}")
        return Kept(found, str(pair["mod_revision"]))

    def _change(self, event: dict[str, Any], revision: str) -> Change[Kept] | None:
        pair = event["kv"]
        path = self._path(pair)
        if path is None:
            return None
        if event.get("type") == "DELETE":
            return Change(path, None, revision)
        try:
            return Change(path, self._kept(path, pair), revision)
        except InvalidConfiguration as error:
            return Change(path, None, revision, error.msg)

    def _put(self, item: Object, compare: dict[str, Any], conflict: str) -> Kept:
        """An earlier try of the same change, whose answer was lost, is no conflict: the store has what was wanted."""
        value = json.dumps(item.document(), sort_keys=True)
        revision = self._swapped(compare, {"request_put": {"key": self._key(item.path), "value": _text(value)}})
        if revision:
            return Kept(item, revision)
        found = self.get(item.path)
        if found is None or found.object != item:
            raise Conflict(conflict)
        return found

    def _swapped(self, compare: dict[str, Any], operation: dict[str, Any]) -> str:
        """The revision of the change, "" where the comparison failed."""
        answer = self._post("kv/txn", {"compare": [compare], "success": [operation], "failure": []})
        return str(answer["header"]["revision"]) if answer.get("succeeded") else ""

    # ---------------------------------------------------------------- requests

    def _post(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._tried(lambda client: client.post(client.get_url(method), json=body))
        return answer

    def _tried(self, ask: Callable[[Etcd3Client], T]) -> T:
        """Ask the endpoint that answered last, else each of the others once. Raises Trouble."""
        troubles = []
        first = self._at  # another thread may change it meanwhile
        for step in range(len(self._endpoints)):
            at = (first + step) % len(self._endpoints)
            if self._closed:
                raise Trouble("etcd: the client was closed")
            try:
                answer = ask(self._endpoints[at])
            except (Etcd3Exception, requests.RequestException, OSError) as error:
                troubles.append(f"{self._names[at]}: {_said(error)}")
                continue
            self._at = at
            return answer
        raise Trouble(f"etcd: {'; '.join(troubles)}")

    def _opened(self, client: Etcd3Client, create: dict[str, Any]) -> requests.Response:
        stream = client.session.post(
            client.get_url("watch"), json={"create_request": create}, stream=True, headers=_WITH_LEADER,
            timeout=(ANSWER_SECONDS, SILENT_SECONDS),
        )  # fmt: skip
        if stream.status_code != 200:
            raise Etcd3Exception(stream.text, stream.reason)
        with self._lock:
            self._streams.add(stream)
        return stream


def _client(endpoint: str, config: EtcdTable) -> Etcd3Client:
    parts = urlsplit(endpoint)
    session = requests.Session()
    session.trust_env = False  # a proxy of the environment is never meant for etcd
    if parts.scheme == "https":
        session.verify = config.ca or True
        session.cert = (config.cert, config.key) if config.cert and config.key else None
    return Etcd3Client(
        parts.hostname or "", parts.port or 2379, parts.scheme,
        timeout=ANSWER_SECONDS, api_path="/v3/", session=session,
    )  # fmt: skip


def _cut(stream: requests.Response) -> None:
    """End a stream that another thread reads."""
    connection = getattr(getattr(stream.raw, "_fp", None), "fp", None)
    raw = getattr(getattr(connection, "raw", None), "_sock", None)
    if isinstance(raw, socket.socket):
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)
    stream.close()


def _below(prefix: str) -> dict[str, Any]:
    """The range of all keys that begin with `prefix`."""
    return {"key": _text(prefix), "range_end": _text(prefix[:-1] + chr(ord(prefix[-1]) + 1))}


def _text(plain: str) -> str:
    return base64.b64encode(plain.encode()).decode()


def _plain(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")


def _said(error: BaseException) -> str:
    if isinstance(error.__context__, requests.RequestException):  # etcd3gw wraps it, and repeats all of it
        error = error.__context__
    text = getattr(error, "detail_text", None) or str(error)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["message"]
    if isinstance(error, requests.exceptions.SSLError):
        return f"TLS: {text}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return " ".join(str(text).split())[:300] or type(error).__name__
