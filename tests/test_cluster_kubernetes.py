"""The client of the Kubernetes API: what it makes of recorded answers, and that a mirror is what the server has,
wherever its streams were cut."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bgpcni.cluster.kubernetes import NODES, STRATEGIC, Api, Gone, Mirror, Object, Resource, Trouble, events
from bgpcni.cluster.pause import Pause
from bgpcni.errors import InvalidConfiguration
from bgpcni.testing.patience import until
from integration.kubernetes.double import Double
from integration.kubernetes.failures import Failure
from integration.kubernetes.recordings import Exchange, read

CONFIG_MAPS = Resource("", "v1", "configmaps", "default")
WATCHES = [(case.name, exchange) for case in (*read("watch"), *read("crd")) for exchange in case.exchanges
           if exchange.watches and case.name != "watch-2"]  # fmt: skip
FAILURES = [
    pytest.param(exchange, id=f"{case.name}-{index}")
    for file in ("list", "watch", "write", "errors", "crd")
    for case in read(file)
    for index, exchange in enumerate(case.exchanges)
    if exchange.status >= 400 and case.name not in ("crd-4", "crd-28", "errors-34", "errors-35")
]


# ---------------------------------------------------------------- recorded answers


def _lines(exchange: Exchange) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in exchange.events())


@pytest.mark.parametrize("exchange", [pytest.param(exchange, id=name) for name, exchange in WATCHES])
def test_a_stream_that_is_cut_tells_whole_events_only(exchange: Exchange) -> None:
    """However much of a recorded watch arrives, and in whatever pieces: the events that are whole, in order, each as it
    was recorded; a 410 among them is Gone."""
    octets, recorded = _lines(exchange), exchange.events()
    ends = [index + 1 for index, octet in enumerate(octets) if octet == 0x0A]
    for cut in range(0, len(octets) + 1, 7):
        told: list[Object] = []
        wanted = recorded[: sum(end <= cut for end in ends)]
        try:
            for event in events(octets[place : min(place + 13, cut)] for place in range(0, cut, 13)):
                told.append({"type": event.type, "object": event.object})
        except Gone:
            wanted, refused = wanted[:-1], wanted[-1]
            assert refused["type"] == "ERROR"
        assert told == wanted


def test_a_line_of_text_stays_one_line() -> None:
    """Characters at which Python splits lines, and JSON does not, are part of a value."""
    item = {"metadata": {"resourceVersion": "1", "annotations": {"a": "x\u0085y\u2028z"}}}
    octets = json.dumps({"type": "ADDED", "object": item}, ensure_ascii=False).encode() + b"\n"
    assert [event.object for event in events([octets])] == [item]


@pytest.mark.parametrize(
    "line", [b"garbage", b"{}", b"[]", b'{"type": "ADDED", "object": {}}', b"\xff\xfe", b'{"type"']
)
def test_a_line_that_is_no_event_is_trouble(line: bytes) -> None:
    """Nothing is made of it; whoever watches begins again."""
    with pytest.raises(Trouble):
        list(events([line + b"\n"]))


class Replayed:
    """A server that answers each request with the next recorded answer, octet by octet as it was."""

    def __init__(self, folder: Path, *answers: Exchange) -> None:
        self.left, self.asked = list(answers), list[str]()
        replayed = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                replayed.asked.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                exchange = replayed.left.pop(0)
                body = _lines(exchange) if exchange.watches else _body(exchange)
                self.send_response(exchange.status)
                for name, value in exchange.answer_headers:
                    if name not in ("Transfer-Encoding", "Content-Length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PATCH = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        cluster = {"server": f"http://127.0.0.1:{self.server.server_port}"}
        document = {
            "current-context": "c", "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(document))


def _body(exchange: Exchange) -> bytes:
    text = exchange.answer.strip()
    if not text.startswith("{"):
        return text.encode()
    document = json.loads(text)
    if document.get("…") == "Failure":
        document = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"} | document
    return json.dumps(document).encode()


@contextmanager
def _replaying(folder: Path, *answers: Exchange) -> Iterator[tuple[Api, Replayed]]:
    replayed = Replayed(folder, *answers)
    api = Api(str(replayed.kubeconfig))
    yield api, replayed
    api.close()
    replayed.server.shutdown()
    replayed.server.server_close()


@pytest.mark.parametrize("exchange", FAILURES)
def test_a_recorded_failure_is_said_in_the_servers_words(tmp_path: Path, exchange: Exchange) -> None:
    """Code, reason, message and how long to wait, of each failure that was recorded; also where it is no Status."""
    answers = [exchange] * 2 if exchange.status in (401, 410) else [exchange]  # 401: with the token as it is now
    with _replaying(tmp_path, *answers) as (api, _):
        with pytest.raises(Gone if exchange.status == 410 else Trouble) as caught:
            api.list(NODES)
        assert caught.value.code == exchange.status
        retry = dict(exchange.answer_headers).get("Retry-After", "0")
        assert caught.value.after == float(retry)
        text = exchange.answer.strip()
        if text.startswith("{"):
            status = json.loads(text)
            assert (str(caught.value), caught.value.reason) == (status["message"], status.get("reason", ""))
        else:
            assert text in str(caught.value)


def test_recorded_pages_are_one_list(tmp_path: Path) -> None:
    """The client goes on with the token of the first page, and has the revision of the whole."""
    pages = [case.exchanges[0] for case in read("list")[1:3]]
    with _replaying(tmp_path, *pages) as (api, replayed):
        listing = api.list(NODES)
    assert list(listing.items) == [("", "n1"), ("", "n2"), ("", "n3")]
    assert listing.revision == "232"
    token = json.loads(pages[0].answer)["metadata"]["continue"]
    assert f"continue={token}" in replayed.asked[1]


def test_a_page_too_old_begins_the_list_again(tmp_path: Path) -> None:
    """410 for a continue token: everything is listed at once, not what is left."""
    first, second = (case.exchanges[0] for case in read("list")[1:3])
    gone = read("watch")[24].exchanges[0]
    with _replaying(tmp_path, first, gone, second) as (api, replayed):
        assert list(api.list(NODES).items) == [("", "n3")]
    assert "limit" not in replayed.asked[2]
    assert "continue" not in replayed.asked[2]


# ---------------------------------------------------------------- the double


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with Double() as double:
        yield double


@pytest.fixture
def api(double: Double, tmp_path: Path) -> Iterator[Api]:
    double.line.cuts.clear()
    api = Api(str(double.kubeconfig(tmp_path / "kubeconfig")))
    yield api
    api.close()


def _pause() -> Pause:
    return Pause(0.001, 0.01)


@contextmanager
def _mirrored(api: Api, resource: Resource = CONFIG_MAPS, **selection: str) -> Iterator[Mirror]:
    mirror = Mirror(api, resource, lambda keys: None, pause=_pause(), **selection)
    thread = threading.Thread(target=mirror.run, daemon=True)
    thread.start()
    yield mirror
    mirror.stop()


def _is_the_servers(mirror: Mirror, double: Double, test: str) -> bool:
    there = double.all("v1/configmaps")
    wanted = {key: item for key, item in there.items() if item["metadata"].get("labels", {}).get("test") == test}
    return mirror.synced and {k: _plain(v) for k, v in mirror.objects.items()} == {
        k: _plain(v) for k, v in wanted.items()
    }


def _plain(item: Object) -> Object:
    return {name: value for name, value in item.items() if name not in ("kind", "apiVersion")}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["make", "change", "delete", "leave", "enter"]), st.integers(0, 3)),
        st.tuples(st.just("cut"), st.integers(0, 6000)),
        st.tuples(st.sampled_from(["reset", "forget", "refuse"]), st.integers(0, 0)),
    ),
    min_size=1, max_size=25,
)  # fmt: skip
_count = iter(range(1_000_000))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
@example(steps=[("make", 0), ("cut", 700), ("reset", 0), ("change", 0), ("delete", 0), ("forget", 0), ("make", 1)])
@example(steps=[("make", 0), ("make", 1), ("forget", 0), ("delete", 0), ("reset", 0)])
def test_whatever_is_cut_the_mirror_is_what_the_server_has(
    double: Double, api: Api, steps: list[tuple[str, int]]
) -> None:
    """Objects come, change, leave the selection, enter it again and go, while answers are cut at any octet, connections
    reset, revisions forgotten and requests refused: in the end nothing is missing, nothing is left over, all is new."""
    test = f"t{next(_count)}"
    with _mirrored(api, labels=f"test={test}") as mirror:
        for what, number in steps:
            _step(double, test, what, number)
        double.do(double.line.cuts.clear)
        until(lambda: _is_the_servers(mirror, double, test))
        until(lambda: mirror.trouble == "")
    double.cut()  # so that its watch ends, and the next example has no other


def _step(double: Double, test: str, what: str, number: int) -> None:
    name = f"{test}-{number}"
    there = double.get("v1/configmaps", name, "default") is not None
    if what == "make" and not there:
        double.create("v1/configmaps", {"metadata": {"name": name, "labels": {"test": test}}}, "default")
    elif what == "change" and there:
        double.merge("v1/configmaps", name, {"data": {"a": str(next(_count))}}, "default")
    elif what in ("leave", "enter") and there:
        label = "other" if what == "leave" else test
        double.merge("v1/configmaps", name, {"metadata": {"labels": {"test": label}}}, "default")
    elif what == "delete" and there:
        double.delete("v1/configmaps", name, "default")
    elif what == "cut":
        double.do(lambda: double.line.cuts.append(number))
    elif what == "reset":
        double.cut()
    elif what == "forget":
        double.forget()
    elif what == "refuse":
        refusal = Failure(429, "TooManyRequests", "too many")
        double.do(lambda: double.api.faults.refusals.append(refusal))
        double.cut()


def test_a_watch_goes_on_where_it_was_cut(double: Double, api: Api) -> None:
    """No list but the first: what happened meanwhile is told by the next watch."""
    double.taken()
    with _mirrored(api, labels="test=on") as mirror:
        until(double.watching)
        for number in range(3):
            double.cut()
            double.create("v1/configmaps", {"metadata": {"name": f"on-{number}", "labels": {"test": "on"}}}, "default")
            until(lambda: _is_the_servers(mirror, double, "on"))
    assert sum("watch" not in seen.query for seen in double.taken()) == 1


def test_a_deletion_that_was_not_told_is_seen_by_the_list_after_it(double: Double, api: Api) -> None:
    """Deleted while nobody listened, and the revision forgotten: the object goes, and whoever asked is told its key."""
    told = list[set[Any]]()
    double.create("v1/configmaps", {"metadata": {"name": "gone", "labels": {"test": "gone"}}}, "default")
    mirror = Mirror(api, CONFIG_MAPS, told.append, labels="test=gone", pause=_pause())
    threading.Thread(target=mirror.run, daemon=True).start()
    until(lambda: mirror.objects)
    double.do(lambda: setattr(double.line, "refused", True))
    double.cut()
    double.delete("v1/configmaps", "gone", "default")
    double.forget()
    double.do(lambda: setattr(double.line, "refused", False))
    until(lambda: not mirror.objects)
    assert told[-1] == {("default", "gone")}
    mirror.stop()


def test_a_bookmark_saves_the_list(tmp_path: Path) -> None:
    """A quiet mirror keeps up with the server's revisions: when older ones are forgotten it still goes on."""
    with Double(pace=6000) as double:  # a bookmark each 10 ms
        api = Api(str(double.kubeconfig(tmp_path / "kubeconfig")))
        with _mirrored(api, labels="test=quiet") as mirror:
            until(double.watching)
            double.create("v1/configmaps", {"metadata": {"name": "noise"}}, "default")
            now = double.do(lambda: double.machinery.objects.revision)
            until(lambda: mirror._revision == str(now))
            double.taken()
            double.forget()
            until(lambda: any(double.watching()) and mirror.trouble == "")
            assert all("watch" in seen.query for seen in double.taken())
        api.close()


def test_a_server_that_is_back_is_no_trouble_any_more(double: Double, api: Api) -> None:
    """As soon as it accepts the watch, not only when something happens there."""
    with _mirrored(api, labels="test=back") as mirror:
        until(double.watching)
        double.do(lambda: setattr(double.line, "refused", True))
        double.cut()
        until(lambda: mirror.trouble)
        double.do(lambda: setattr(double.line, "refused", False))
        until(lambda: double.watching() and not mirror.trouble)
    double.cut()


def test_a_server_that_becomes_silent_is_left(double: Double, tmp_path: Path) -> None:
    """A server that ends leaves its streams open and says nothing: the mirror notices, says so, and comes back."""
    api = Api(str(double.kubeconfig(tmp_path / "kubeconfig")), silent=0.3)
    with _mirrored(api, labels="test=silent") as mirror:
        until(double.watching)
        double.do(lambda: setattr(double.line, "held", True))
        until(lambda: "does not answer" in mirror.trouble or "not be reached" in mirror.trouble)
        double.create("v1/configmaps", {"metadata": {"name": "silent", "labels": {"test": "silent"}}}, "default")
        double.do(lambda: setattr(double.line, "held", False))
        until(lambda: _is_the_servers(mirror, double, "silent"))
    api.close()


def test_a_token_that_is_replaced_is_read_again(double: Double, tmp_path: Path) -> None:
    """kubelet replaces the token of a service account before it ends: the client reads the file again, and goes on."""
    file = tmp_path / "token"
    access = double.machinery.access
    first = access.admin
    file.write_text(first)
    api = Api(str(double.kubeconfig(tmp_path / "kubeconfig", tokenFile=str(file))))
    api.list(CONFIG_MAPS)
    second = "another"
    double.do(lambda: access.tokens.update({second: access.tokens.pop(first)}))
    try:
        with pytest.raises(Trouble, match="Unauthorized"):
            api.list(CONFIG_MAPS)
        file.write_text(f"{second}\n")
        api.list(CONFIG_MAPS)
    finally:
        double.do(lambda: access.tokens.update({first: access.tokens.pop(second)}))
        api.close()


def test_what_a_role_does_not_allow_is_trouble_that_names_it(double: Double, tmp_path: Path) -> None:
    """403 for a service account without a role: the mirror says who may not do what, and keeps trying."""
    double.create("v1/serviceaccounts", {"metadata": {"name": "poor"}}, "default")
    token = double.do(lambda: double.machinery.access.issue("default", "poor"))
    api = Api(str(double.kubeconfig(tmp_path / "kubeconfig", token=token)))
    with _mirrored(api, NODES) as mirror:
        until(lambda: 'User "system:serviceaccount:default:poor" cannot list resource "nodes"' in mirror.trouble)
        assert not mirror.synced
    api.close()


def test_a_patch_of_a_stale_revision_is_refused(double: Double, api: Api) -> None:
    """Somebody else changed the Node in between: 409, and nothing is overwritten."""
    made = double.create("v1/nodes", {"metadata": {"name": "stale"}})
    double.merge("v1/nodes", "stale", {"metadata": {"labels": {"a": "1"}}})
    body = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "labels": {"a": "2"}}}
    with pytest.raises(Trouble) as caught:
        api.patch(NODES, "stale", body)
    assert (caught.value.code, caught.value.reason) == (409, "Conflict")
    assert api.get(NODES, "stale")["metadata"]["labels"] == {"a": "1"}


def test_conditions_are_merged_by_their_type(double: Double, api: Api) -> None:
    """Ours is set beside those of others."""
    double.create("v1/nodes", {"metadata": {"name": "conditions"}})
    for name in ("Ready", "NetworkUnavailable"):
        body = {"status": {"conditions": [{"type": name, "status": "True"}]}}
        found = api.patch(NODES, "conditions", body, STRATEGIC, subresource="status")
    assert {item["type"] for item in found["status"]["conditions"]} == {"Ready", "NetworkUnavailable"}


def test_pauses_grow_and_vary() -> None:
    """Twice as long each time up to the longest, never at one moment for all nodes, and short again once it works."""
    pause = Pause(1.0, 8.0)
    found = [pause.seconds() for _ in range(6)]
    for seconds, longest in zip(found, (1, 2, 4, 8, 8, 8), strict=True):
        assert longest / 2 <= seconds <= longest
    assert pause.seconds(20.0) == 20.0
    pause.over()
    assert pause.seconds() <= 1.0


# ---------------------------------------------------------------- the kubeconfig


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not found"),
        ("", "not a kubeconfig"),
        ("a: [", "not a kubeconfig"),
        ("[]", "not a kubeconfig"),
        ('{"current-context": "x", "clusters": [], "contexts": [], "users": []}', "Context 'x' not found"),
        ('{"clusters": [], "contexts": []}', "No current context"),
        ('{"current-context": "c"}', "clusters is missing"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    """The key of agent.toml, the file, and what is wrong with it."""
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidConfiguration) as caught:
        Api(str(path))
    assert caught.value.msg.startswith(f"cluster.kubernetes.kubeconfig: {path}: ") or str(path) in caught.value.msg
    assert said in caught.value.msg


def test_without_a_kubeconfig_and_outside_of_a_pod_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a service account would be, and that there is none."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidConfiguration, match="there is no service account of a pod in /var/run/secrets"):
        Api(None)


def test_only_the_cluster_pays_for_the_client() -> None:
    """Neither a plugin call without an agent nor an agent without `[cluster]` imports the library."""
    found = "[name for name in sys.modules if 'lightkube' in name or 'bgpcni.cluster' in name]"
    code = f"import bgpcni.plugin, bgpcni.agent.agent, sys; print({found})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
