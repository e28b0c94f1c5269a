"""The Kubernetes API as a client: it reads and changes objects, and mirrors of them follow the server's changes.

lightkube finds the server and says who we are (kubeconfig, service account, token files that are replaced while we
run). Alone it costs 24 MB and 95 ms, the official client 36 MB and 160 ms; in the agent it is 11 MB. Its own watch is
not used: it never notices a server that has become silent, and a deletion is lost where its revision is too old.

Nothing here knows what the objects are for.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec
import yaml
from lightkube.config.client_adapter import Client, ConnectionParams
from lightkube.config.kubeconfig import SERVICE_ACCOUNT, KubeConfig
from lightkube.core.exceptions import ConfigError

from bgpcni import __version__
from bgpcni.cluster import store
from bgpcni.cluster.follower import Follower
from bgpcni.cluster.pause import Pause, chance
from bgpcni.cluster.store import Key
from bgpcni.errors import InvalidConfiguration

Object = dict[str, Any]

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 20.0
SILENT_SECONDS = 100.0
"""A watch without even a bookmark, of which there is one a minute, hangs: servers that end leave streams open."""
WATCH_SECONDS = (240, 360)
"""How long a watch is asked to last, at random: so that the nodes do not all come back at once."""
PAGE = 500
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class Trouble(store.Trouble):
    """The server could not be asked, or said no. `code`: HTTP's, 0 without an answer."""

    def __init__(self, message: str, code: int = 0, reason: str = "", after: float = 0.0) -> None:
        super().__init__(message, after=after)
        self.code, self.reason = code, reason


class Gone(Trouble, store.TooOld):
    """410: the server does not know that revision any more."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of objects, as paths name it. `namespace` "": those of all namespaces, or of none."""

    group: str
    version: str
    plural: str
    namespace: str = ""

    def path(self, name: str = "", subresource: str = "") -> str:
        words = ["apis", self.group, self.version] if self.group else ["api", self.version]
        words += ["namespaces", self.namespace] if self.namespace else []
        return "/" + "/".join(filter(None, (*words, self.plural, name, subresource)))


NODES = Resource("", "v1", "nodes")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a watch. `type`: ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object

    @property
    def revision(self) -> str:
        return str(self.object["metadata"]["resourceVersion"])


def key_of(item: Object) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Api:
    """One server, as one user. Safe for threads. Raises Trouble from every request."""

    def __init__(self, kubeconfig: str | None, *, silent: float = SILENT_SECONDS) -> None:
        """`kubeconfig` None: the pod's service account. Raises InvalidConfiguration; asks nobody yet."""
        self.server, self.namespace, self._http = _connect(kubeconfig)
        self._http.headers["User-Agent"] = f"bgpcni/{__version__}"
        self._silent = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, read=silent)

    def close(self) -> None:
        self._http.close()

    def get(self, resource: Resource, name: str) -> Object:
        return self._asked("GET", resource.path(name))

    def patch(
        self, resource: Resource, name: str, body: Object | list[Object], media: str = MERGE, *, subresource: str = ""
    ) -> Object:
        """Change an object; the object as it is then. With a `metadata.resourceVersion` that is stale: 409."""
        path = resource.path(name, subresource)
        params = {"fieldManager": "bgpcni"}
        return self._asked("PATCH", path, params=params, content=json.dumps(body), headers={"Content-Type": media})

    def create(self, resource: Resource, body: Object) -> Object:
        """The object as it is then; 409 AlreadyExists where there is one of that name."""
        params = {"fieldManager": "bgpcni"}
        content, headers = json.dumps(body), {"Content-Type": "application/json"}
        return self._asked("POST", resource.path(), params=params, content=content, headers=headers)

    def delete(self, resource: Resource, name: str, revision: str | None = None) -> None:
        """`revision`: only if it still has this one, else 409."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if revision is not None:
            body["preconditions"] = {"resourceVersion": revision}
        headers = {"Content-Type": "application/json"}
        self._asked("DELETE", resource.path(name), content=json.dumps(body), headers=headers)

    def list(self, resource: Resource, *, fields: str = "", labels: str = "") -> store.Listing[Object]:
        """All of the selection, page by page, at one revision."""
        try:
            return self._list(resource, _selected(fields, labels) | {"limit": str(PAGE)})
        except Gone:  # between two pages: then all at once
            return self._list(resource, _selected(fields, labels))

    def _list(self, resource: Resource, params: dict[str, str]) -> store.Listing[Object]:
        items: dict[Key, Object] = {}
        while True:
            answer = self._asked("GET", resource.path(), params=params)
            items |= {key_of(item): item for item in answer["items"]}
            token = answer["metadata"].get("continue")
            if not token:
                return store.Listing(answer["metadata"]["resourceVersion"], items)
            params = params | {"continue": token}

    def watch(
        self, resource: Resource, revision: str, ending: Ending, *, fields: str = "", labels: str = ""
    ) -> Iterator[Event | None]:
        """What happens after `revision`, until the server or `ending` ends it; first None, once it is accepted.

        Raises Trouble, Gone for a revision too old.
        """
        lasting = str(chance.randint(*WATCH_SECONDS))
        params = _selected(fields, labels) | {
            "watch": "true", "resourceVersion": revision, "allowWatchBookmarks": "true", "timeoutSeconds": lasting,
        }  # fmt: skip
        try:
            with (
                self._http.stream("GET", resource.path(), params=params, timeout=self._silent) as answer,
                ending.of(answer),
            ):
                if answer.status_code != 200:
                    answer.read()
                    raise _refused(answer)
                yield None
                yield from events(answer.iter_bytes())
        except (httpx2.HTTPError, ConfigError, OSError) as error:
            raise Trouble(_said(error)) from error

    def _asked(self, method: str, path: str, **request: Any) -> Object:
        try:
            answer = self._http.request(method, path, **request)
        except (httpx2.HTTPError, ConfigError, OSError) as error:
            raise Trouble(_said(error)) from error
        if answer.status_code // 100 != 2:
            raise _refused(answer)
        try:
            document: Object = answer.json()
        except ValueError:
            raise Trouble(f"{method} {path}: the answer is no JSON") from None
        return document


def events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """The events of a stream, whole lines only: what a broken stream leaves of the last one says nothing.

    Raises Trouble for a line that is no event, and for one that says ERROR (Gone if it is a 410).
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield _event(line)


def _event(line: bytes) -> Event:
    try:
        document = json.loads(line)
        event = Event(document["type"], document["object"])
        if event.type == "ERROR":
            status = event.object
            code, message = int(status.get("code", 0)), str(status.get("message", "the watch failed"))
            raise (Gone if code == 410 else Trouble)(message, code, str(status.get("reason", "")))
        event.revision  # noqa: B018 - raises where there is none
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Trouble(f"a line of a watch is no event: {line[:80]!r}") from error
    return event


def _selected(fields: str, labels: str) -> dict[str, str]:
    found = {"fieldSelector": fields, "labelSelector": labels}
    return {name: value for name, value in found.items() if value}


def _refused(answer: httpx2.Response) -> Trouble:
    try:
        status = answer.json()
        message, reason = str(status["message"]), str(status.get("reason", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, reason = f"HTTP {answer.status_code}: {answer.text[:200].strip()}", ""
    wait = answer.headers.get("Retry-After", "")
    after = float(wait) if wait.isdigit() else 0.0
    return (Gone if answer.status_code == 410 else Trouble)(message, answer.status_code, reason, after)


def _said(error: Exception) -> str:
    if isinstance(error, httpx2.ReadTimeout):
        return "the server does not answer"
    if isinstance(error, httpx2.TimeoutException):
        return "the server cannot be reached in time"
    return str(error) or type(error).__name__


def _connect(kubeconfig: str | None) -> tuple[str, str, httpx2.Client]:
    """The server, the namespace of the context or pod, and the client."""
    key = "cluster.kubernetes.kubeconfig"
    try:
        config = KubeConfig.from_service_account() if kubeconfig is None else KubeConfig.from_file(kubeconfig)
        chosen = config.get()
        assert chosen is not None  # it raises instead
        if chosen.user is None:
            raise InvalidConfiguration(f"{key}: context {chosen.context_name} of {kubeconfig} names no user")
        timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        return chosen.cluster.server, chosen.namespace, Client(chosen, ConnectionParams(timeout=timeout))
    except (ConfigError, KeyError, OSError) as error:
        if kubeconfig is None:
            where = f"no service account of a pod in {SERVICE_ACCOUNT}"
            raise InvalidConfiguration(f"{key}: it is absent, and there is {where}: {_first(error)}") from None
        raise InvalidConfiguration(f"{key}: {kubeconfig}: {_first(error)}") from None
    except (yaml.YAMLError, msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
        raise InvalidConfiguration(f"{key}: {kubeconfig}: not a kubeconfig: {_first(error)}") from None


def _first(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (f"{text} is missing" if isinstance(error, KeyError) else text).splitlines()[0]


# ---------------------------------------------------------------- what is followed


class Ending:
    """Ends streams that other threads read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._over = False

    @property
    def over(self) -> bool:
        return self._over

    @contextmanager
    def of(self, answer: httpx2.Response) -> Iterator[None]:
        """While this answer is read. It ends at once if that was asked for before."""
        sock: socket.socket = answer.extensions["network_stream"].get_extra_info("socket")
        with self._lock:
            self._open.add(sock)
            if self._over:
                _shut(sock)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(sock)

    def end(self) -> None:
        """End them all, and all that begin after this."""
        with self._lock:
            self._over = True
            for sock in self._open:
                _shut(sock)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of TLS too: whoever reads has the end of the stream


class Selection:
    """Objects of one kind, as a source that can be followed."""

    def __init__(self, api: Api, resource: Resource, *, fields: str = "", labels: str = "") -> None:
        self._api, self.resource = api, resource
        self._selected = {"fields": fields, "labels": labels}
        self._ending = Ending()

    def list(self) -> store.Listing[Object]:
        return self._api.list(self.resource, **self._selected)

    def watch(self, revision: str) -> Iterator[store.Change[Object] | store.Progress]:
        for event in self._api.watch(self.resource, revision, self._ending, **self._selected):
            if event is None:
                yield store.Progress()
            elif event.type == "BOOKMARK":
                yield store.Progress(event.revision)
            else:
                item = None if event.type == "DELETED" else event.object
                yield store.Change(key_of(event.object), item, event.revision)

    @property
    def closed(self) -> bool:
        return self._ending.over

    def close(self) -> None:
        """End the watch, in whatever thread; the Api stays open."""
        self._ending.end()


class Mirror(Follower[Object]):
    """This process's copy of a selection of objects, kept up to date by a thread that runs `run`.

    `objects` and `trouble` may be read by any thread. `changed` is told the keys of what may differ from before.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        changed: Callable[[set[Key]], None],
        *,
        fields: str = "",
        labels: str = "",
        pause: Pause | None = None,
    ) -> None:
        selection = Selection(api, resource, fields=fields, labels=labels)
        super().__init__(selection, changed, name=resource.plural, pause=pause or Pause())

    @property
    def objects(self) -> Mapping[Key, Object]:
        return self.items
