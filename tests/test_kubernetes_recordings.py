"""The double answers as a real API server did: each recorded request is put to it, and the answers are compared."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import pytest

from integration.kubernetes.api import Api
from integration.kubernetes.asked import Answer, Asking
from integration.kubernetes.clock import Stepped
from integration.kubernetes.kinds import Object
from integration.kubernetes.machinery import Machinery, Options
from integration.kubernetes.recordings import Bound, Case, Different, Exchange, compare, read

MERGE = "application/merge-patch+json"
AGENT = "system:serviceaccount:default:agent"
CASES = {case.name: case for file in ("list", "watch", "write", "errors", "crd", "discovery") for case in read(file)}
COMPARED = ("Content-Type", "Warning", "Retry-After", "Vary", "Content-Encoding")

BEYOND = {
    "list-24": "protobuf",
    "crd-28": "the Status of the 406 is protobuf",
    "crd-4": "two CRDs on the wire, in a test of its own below",
    "watch-2": "chunk framing, which is the HTTP server's; in a test of its own with the client",
    "watch-21": "a server that ends and stays silent: the relay's `held`, in the tests of the client",
    "discovery-6": "the subresource `proxy` of nodes",
    "discovery-12": "the checks of the server's own parts",
}
"""What the double cannot answer, and why."""


class World:
    """A double and what is in it."""

    def __init__(self, case: Case) -> None:
        self.machinery = Machinery()
        self.clock = Stepped()
        self.api = Api(self.machinery, self.clock)
        self.asking = Asking(self.api)
        self.bound: Bound = {}
        self.create("v1/serviceaccounts", {"metadata": {"name": "agent"}}, "default")
        rule = {"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["get", "list", "watch"]}
        self.create("rbac.authorization.k8s.io/v1/clusterroles", {"metadata": {"name": "agent"}, "rules": [rule]})
        binding = {
            "metadata": {"name": "agent"}, "roleRef": {"kind": "ClusterRole", "name": "agent"},
            "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "agent"}],
        }  # fmt: skip
        self.create("rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        self.agent = self.machinery.access.issue("default", "agent")
        if (case.file in ("crd", "discovery") and case.number > 2) or case.name == "watch-16":
            self.define()
        for number in (1, 2, 3):
            self.create("v1/nodes", {"metadata": {"name": f"n{number}"}})
        for number, node in enumerate(("n1", "n1", "n2", "n2", "")):
            self.pod(f"p{number}", node, "ab"[number % 2 == 0])
        for name in ("c1", "c2", "gen-2kwpt", *(f"z{number}" for number in range(6))):
            self.create("v1/configmaps", {"metadata": {"name": name}, "data": {"a": "5"}}, "default")

    def kind(self, resource: str) -> Any:
        group, version, plural = ("", *resource.split("/"))[-3:]
        return self.machinery.kind(group, version, plural)

    def create(self, resource: str, body: Object, namespace: str = "", manager: str = "curl") -> Object:
        return self.machinery.create(self.kind(resource), namespace, body, Options(manager))

    def pod(self, name: str, node: str, app: str) -> None:
        spec = {"containers": [{"name": "c", "image": "i"}]} | ({"nodeName": node} if node else {})
        self.create("v1/pods", {"metadata": {"name": name, "labels": {"app": app}}, "spec": spec}, "default")

    def define(self, name: str = "") -> None:
        definition = json.loads(CASES["crd-2"].exchanges[0].body)
        if name:
            spec = definition["spec"] | {"group": "example.org"}
            spec["names"] = {"plural": f"{name.lower()}s", "singular": name.lower(), "kind": name}
            spec["versions"][0]["schema"]["openAPIV3Schema"]["required"] = []
            definition = definition | {"metadata": {"name": f"{name.lower()}s.example.org"}, "spec": spec}
        self.create("apiextensions.k8s.io/v1/customresourcedefinitions", definition)

    def drop(self, resource: str, name: str, namespace: str = "") -> None:
        self.machinery.objects.put(self.kind(resource), (namespace, name), None)

    def change(self, resource: str, name: str, namespace: str = "", subresource: str = "", **patch: Any) -> Object:
        options = Options("curl", subresource=subresource)
        return self.machinery.patch(self.kind(resource), (namespace, name), MERGE, patch, options)

    def store(self, resource: str, name: str, namespace: str = "", **parts: Any) -> Object:
        """As somebody stored it, whatever a request could not do."""
        kind = self.kind(resource)
        found = self.machinery.objects.get(kind, (namespace, name))
        assert found is not None
        metadata = found["metadata"] | parts.pop("metadata", {})
        return self.machinery.objects.put(kind, (namespace, name), found | parts | {"metadata": metadata})

    # ---------------------------------------------------------------- requests

    async def replay(self, exchange: Exchange, case: Case) -> Answer:
        """Put a recorded request to the double, with what happened meanwhile."""
        headers, anonymous = dict(exchange.headers), False
        body = exchange.body.strip()
        if "(no Authorization header)" in body:
            anonymous, body = True, ""
        if marker := re.match(r"\(no Content-Type header\)\n", body):
            body = body[marker.end() :]
        elif body and "Content-Type" not in headers:
            headers["Content-Type"] = "application/json"
        if size := re.match(r"\((\d+) bytes: (.*)…\)", body):
            body = size[2].ljust(int(size[1]) - 3, "x") + '"}}'
        if headers.get("Authorization", "").endswith(f"(of {AGENT})"):
            headers["Authorization"] = f"Bearer {self.agent}"
        headers.setdefault("User-Agent", "curl/8")
        if case.name == "crd-1":
            body = _not_structural()
        for recorded, here in self.bound.items():
            body = body.replace(f'"{recorded}"', f'"{here}"')
        answer, task = self.asking.begin(exchange.method, self._url(exchange.path), body.encode(), headers,
                                         anonymous=anonymous)  # fmt: skip
        for method, path, text, media in MEANWHILE.get(case.name, ()):
            await _settled()
            await self.asking.ask(method, path, text.encode(), {"Content-Type": media})
        unbounded = exchange.watches and "timeoutSeconds" not in exchange.path
        for _ in range(100):
            await _settled()
            if task.done():
                break
            if unbounded and len(answer.body.splitlines()) >= len(exchange.events()):
                task.cancel()  # as the recorded client did
            else:
                self.clock.step()
        assert task.done()
        return answer

    def _url(self, url: str) -> str:
        def here(match: re.Match[str]) -> str:
            name, value = match[1], unquote(match[2])
            if value in self.bound:
                return f"{name}={quote(self.bound[value])}"
            if name == "resourceVersion" and value.isdigit() and 100 <= int(value) < 1000:
                return f"{name}={self.machinery.objects.revision}"
            return match[0]

        return re.sub(r"\b(resourceVersion|continue)=([^&]*)", here, url)


def _not_structural() -> str:
    definition = json.loads(CASES["crd-2"].exchanges[0].body)
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["type"]
    return json.dumps(definition)


async def _settled() -> None:
    """Whatever can happen without waiting has happened."""
    for _ in range(20):
        await asyncio.sleep(0)


# ---------------------------------------------------------------- what was there before

NODE = "/api/v1/nodes"
PODS = "/api/v1/namespaces/default/pods"
CONDITION = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z",
             "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "KubeletReady", "message": "ok"}  # fmt: skip
UNAVAILABLE = {"type": "NetworkUnavailable", "status": "False", "lastHeartbeatTime": "2026-01-01T00:00:10Z",
               "lastTransitionTime": "2026-01-01T00:00:10Z", "reason": "RouteCreated", "message": "ready"}  # fmt: skip
WIDGET = {"mode": "on", "size": 2, "v4": "192.0.2.1"}
Given = Callable[[World], Any]


def _node_with(*conditions: Object, labels: bool = False, version: str = "") -> Given:
    def given(world: World) -> None:
        found = world.store("v1/nodes", "n1", spec={"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]})
        status = found["status"] | ({"conditions": list(conditions)} if conditions else {})
        status["nodeInfo"] = status["nodeInfo"] | {"kernelVersion": version}
        metadata = {"labels": {"via": "status"}, "annotations": {"via": "status"}} if labels else {}
        made = world.store("v1/nodes", "n1", status=status, metadata=metadata)
        if labels:
            world.bound["300"] = made["metadata"]["resourceVersion"]

    return given


def _config_map(**parts: Any) -> Given:
    def given(world: World) -> None:
        world.bound["282"] = world.store("v1/configmaps", "c1", "default", **parts)["metadata"]["resourceVersion"]

    return given


def _stale(world: World) -> None:
    first = world.change("v1/configmaps", "c1", "default", data={"a": "1"})
    world.bound["281"] = first["metadata"]["resourceVersion"]
    second = world.change("v1/configmaps", "c1", "default", data={"a": "2"})
    world.bound["282"] = second["metadata"]["resourceVersion"]
    world.bound["dfba9212-0e2f-456c-b082-e86ab6a8f23b"] = second["metadata"]["uid"]


def _uid_of_c1(world: World) -> None:
    found = world.store("v1/configmaps", "c1", "default")
    world.bound["dfba9212-0e2f-456c-b082-e86ab6a8f23b"] = found["metadata"]["uid"]


def _same(name: str, revision: str) -> Given:
    def given(world: World) -> None:
        world.bound[revision] = world.store("v1/configmaps", name, "default")["metadata"]["resourceVersion"]

    return given


def _many_managers(world: World) -> None:
    world.drop("v1/configmaps", "c2", "default")
    world.create("v1/configmaps", {"metadata": {"name": "c2"}, "data": {"a": "5"}}, "default")
    kind = world.kind("v1/configmaps")
    world.machinery.patch(kind, ("default", "c2"), MERGE, {"data": {"z": "1"}}, Options("carol"))


def _many_values(world: World) -> None:
    found = world.store("v1/configmaps", "c2", "default", data={"a": "5", "y": "1", "z": "1"})
    world.bound["347"] = found["metadata"]["resourceVersion"]


def _widget(name: str = "w1", **parts: Any) -> Given:
    def given(world: World) -> None:
        made = world.create("example.dev/v1/widgets", {"metadata": {"name": name}, "spec": dict(WIDGET)}, "default")
        if parts:
            made = world.store("example.dev/v1/widgets", name, "default", **parts)
        world.bound |= {"355": made["metadata"]["resourceVersion"], "490": made["metadata"]["resourceVersion"]}

    return given


def _gizmos(world: World) -> None:
    world.define("Gizmo")
    world.create("example.org/v1/gizmos", {"metadata": {"name": "g1"}}, "default")


def _going(world: World) -> None:
    world.create("v1/namespaces", {"metadata": {"name": "going"}})


def _gone_namespace(world: World) -> None:
    _going(world)
    world.machinery.delete(world.kind("v1/namespaces"), ("", "going"), {}, Options())


def _history_lost(world: World) -> None:
    token = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NTEzLCJzdGFydCI6Ii9jMlx1MDAwMCJ9"
    objects = world.machinery.objects
    _, metadata = objects.page(world.kind("v1/configmaps"), "default", _all(), 2, "", None)
    world.bound |= {"300": str(objects.revision), token: metadata["continue"]}
    world.change("v1/configmaps", "z5", "default", data={"b": "1"})
    objects.forget(*world.machinery.kinds())


def _two_nodes(world: World) -> None:
    _history_lost(world)
    via = {"via": "status"}
    world.store("v1/nodes", "n1", metadata={"labels": via, "annotations": via})
    world.store("v1/nodes", "n2", metadata={"labels": {"kw": "1", "y": "6"}})
    world.drop("v1/nodes", "n3")


def _history_of_events_lost(world: World) -> None:
    world.bound["373"] = str(world.machinery.objects.revision)
    world.change("v1/configmaps", "z5", "default", data={"b": "1"})
    world.machinery.objects.forget(world.kind("v1/events"))


def _second_page(limit: int, token: str, revision: str) -> Given:
    def given(world: World) -> None:
        maps = {"metadata": {"generateName": "gen-"}, "data": {"k": "v"}}
        world.store("v1/configmaps", "gen-2kwpt", "default", **maps)
        kind = world.kind("v1/nodes" if revision == "232" else "v1/configmaps")
        namespace = "" if revision == "232" else "default"
        _, metadata = world.machinery.objects.page(kind, namespace, _all(), limit, "", None)
        world.bound |= {token: metadata["continue"], revision: metadata["resourceVersion"]}
        if revision == "232":
            for name in ("n0", "n9"):
                world.create("v1/nodes", {"metadata": {"name": name}})

    return given


def _all() -> Any:
    from integration.kubernetes.selectors import Selection

    return Selection()


def _large(world: World) -> None:
    world.create("v1/configmaps", {"metadata": {"name": "big"}, "data": {"a": "x" * 200_000}}, "default")


_TOKEN_OF_PAGE = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MjMyLCJzdGFydCI6Ii9uMlx1MDAwMCJ9"
_TOKEN_OF_MAPS = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MzczLCJzdGFydCI6Ii9jMlx1MDAwMCJ9"
GIVEN: dict[str, Given] = {
    "list-3": _second_page(2, _TOKEN_OF_PAGE, "232"),
    "list-26": _large,
    "list-27": _large,
    "watch-6": lambda world: world.store("v1/nodes", "n2", metadata={"labels": {"y": "1"}}),
    "watch-13": lambda world: world.store("v1/nodes", "n2", metadata={"labels": {"y": "6"}}),
    "watch-15": _history_of_events_lost,
    "watch-19": _second_page(2, _TOKEN_OF_MAPS, "373"),
    **{f"watch-{number}": _history_lost for number in (22, 23, 24, 25)},
    "watch-27": _two_nodes,
    "watch-17": lambda world: world.bound.update({"2": "2"}),
    "watch-18": lambda world: world.bound.update({"2": "2"}),
    "write-2": lambda world: world.drop("v1/nodes", "n1"),
    "write-3": lambda world: world.drop("v1/pods", "p0", "default"),
    "write-5": _config_map(data={"a": "3"}),
    "write-6": _config_map(data={"a": "4"}),
    "write-7": _same("c1", "289"),
    "write-8": lambda world: world.drop("v1/configmaps", "c2", "default"),
    "write-10": _config_map(data={"b": "1"}, metadata={"labels": {"l": "1"}}),
    "write-11": _node_with(),
    "write-12": _node_with(),
    "write-13": _node_with(CONDITION),
    "write-14": _node_with(UNAVAILABLE, CONDITION),
    "write-15": _node_with(UNAVAILABLE | {"status": "True"}, CONDITION),
    "write-16": _node_with(UNAVAILABLE),
    "write-17": _node_with({"type": "Ready", "status": "True", "lastHeartbeatTime": None, "lastTransitionTime": None}),
    **{
        f"write-{number}": _node_with(
            {"type": "Ready", "status": "True", "lastHeartbeatTime": None, "lastTransitionTime": None},
            labels=True, version="6.1",
        )
        for number in (18, 45)
    },
    "write-20": lambda world: world.store(
        "v1/pods", "p0", "default", metadata={"labels": {"app": "b", "sel": "no"}, "annotations": {"a": "b"}}
    ),
    "write-28": _uid_of_c1,
    "write-39": lambda world: [
        world.create("v1/configmaps", {"metadata": {"name": name, "labels": {"d": "1"}}}, "default")
        for name in ("dc1", "dc2")
    ],
    "write-47": _many_managers,
    "write-48": _many_values,
    "errors-20": _stale,
    "errors-21": _stale,
    "errors-22": _stale,
    "errors-24": _node_with(),
    "errors-32": lambda world: world.create(
        "policy/v1/poddisruptionbudgets",
        {"metadata": {"name": "b"}, "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "a"}}}},
        "default",
    ),
    "errors-39": _going,
    "errors-40": _gone_namespace,
    "crd-17": _widget(),
    "crd-18": _widget(),
    "crd-19": _widget(),
    "crd-24": _widget(),
    "crd-28": _widget(),
    "crd-31": _widget(),
    "crd-30": _widget("w2", metadata={"finalizers": ["example.dev/hold"]}),
    "crd-33": _gizmos,
    "crd-34": _widget("p1"),
    "crd-35": _widget("p1"),
    "crd-36": _widget("p1"),
    "crd-37": _widget("p1"),
    "crd-39": _widget("p1", metadata={"annotations": {"z": "1"}}),
}  # fmt: skip
AFTER: dict[str, tuple[int, ...]] = {
    "write-22": (21,),
    "write-23": (21, 22),
    "write-24": (21, 22),
    "write-25": (21, 22, 24),
    "write-26": (21, 22, 24, 25),
    "write-27": (21, 22, 24, 25),
    "write-31": (30,),
    "write-33": (32,),
    "write-34": (32, 33),
    "write-35": (32, 33),
    "write-36": (32, 33, 35),
    "write-37": (32, 33, 35),
    "write-38": (21, 22, 24, 25),
    "crd-19": (18,),
    "crd-20": (6, 18),
    "crd-21": (6, 18, 20),
    "crd-22": (6, 18, 20),
    "crd-23": (6, 18, 20),
    "crd-25": (6, 9, 18, 20, 23),
    "crd-26": (6, 9, 18, 20, 23),
    "crd-27": (6, 9),
    "discovery-5": (4,),
}
"""The recorded requests that came before, which the world has to have seen."""


def _patch(path: str, body: Object) -> tuple[str, str, str, str]:
    return "PATCH", path, json.dumps(body), MERGE


def _post(path: str, body: Object) -> tuple[str, str, str, str]:
    return "POST", path, json.dumps(body), "application/json"


_POD = {"spec": {"containers": [{"name": "c", "image": "i"}]}}
_BINDING = {"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "s2"}, "target": {"kind": "Node", "name": "n1"}}
_WIDGETS = "/apis/example.dev/v1/namespaces/default/widgets"
MEANWHILE: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "watch-1": (
        _post(NODE, {"metadata": {"name": "w1"}}),
        _patch(f"{NODE}/w1", {"metadata": {"labels": {"x": "1"}}}),
        _post("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "other"}}),
        ("DELETE", f"{NODE}/w1", "", ""),
    ),
    "watch-4": (_patch(f"{NODE}/n2", {"metadata": {"labels": {"y": "1"}}}),),
    "watch-7": (
        _post(PODS, {"metadata": {"name": "s1"}, "spec": _POD["spec"] | {"nodeName": "n2"}}),
        _post(PODS, {"metadata": {"name": "s2"}, "spec": _POD["spec"]}),
        _post(f"{PODS}/s2/binding", _BINDING),
        _patch(f"{PODS}/s2", {"metadata": {"labels": {"z": "1"}}}),
        _patch(f"{PODS}/s2", {"metadata": {"labels": None}}),
        ("DELETE", f"{PODS}/s2?gracePeriodSeconds=0", "", ""),
        ("DELETE", f"{PODS}/s1?gracePeriodSeconds=0", "", ""),
    ),
    "watch-8": (
        _patch(f"{PODS}/p0", {"metadata": {"labels": {"sel": "yes"}}}),
        _patch(f"{PODS}/p0", {"metadata": {"annotations": {"a": "b"}}}),
        _patch(f"{PODS}/p0", {"metadata": {"labels": {"sel": "no"}}}),
    ),
    "watch-9": (
        _patch(f"{NODE}/n2", {"metadata": {"labels": {"y": "5"}}}),
        _patch(f"{NODE}/n2", {"metadata": {"labels": {"y": "6"}}}),
    ),
    "watch-20": (
        _post("/api/v1/namespaces", {"metadata": {"name": "going"}}),
        ("DELETE", "/api/v1/namespaces/going", "", ""),
    ),
    "crd-29": (
        _post(_WIDGETS, {"metadata": {"name": "w9"}, "spec": WIDGET}),
        _patch(f"{_WIDGETS}/w9/status", {"status": {"observedGeneration": 1}}),
        ("DELETE", f"{_WIDGETS}/w9", "", ""),
    ),
    "crd-33": (("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gizmos.example.org", "", ""),),
}  # fmt: skip


# ---------------------------------------------------------------- the comparison


@pytest.mark.parametrize("name", [name for name in CASES if name not in BEYOND])
def test_the_double_answers_as_recorded(name: str) -> None:
    """Status, headers and the shape of the body; for a watch, each of its events in order."""
    asyncio.run(_replayed(CASES[name]))


async def _replayed(case: Case) -> None:
    world = World(case)
    GIVEN.get(case.name, lambda world: None)(world)
    for number in AFTER.get(case.name, ()):
        before = CASES[f"{case.file}-{number}"]
        for exchange in before.exchanges:
            answer = await world.replay(exchange, before)
            _compare_answers(exchange, answer, world.bound, before)
            if answer.header("Etag"):
                case.exchanges[0].headers["If-None-Match"] = answer.header("Etag")[0]
    if case.name in ("crd-25", "crd-26"):
        widgets = "example.dev/v1/widgets"
        world.change(widgets, "w1", "default", metadata={"labels": {"a": "b"}}, spec={"size": 5})
    for exchange in case.exchanges:
        answer = await world.replay(exchange, case)
        try:
            _compare_answers(exchange, answer, world.bound, case)
        except Different as difference:
            raise AssertionError(f"{case.name} {case.title}: {difference}\n{answer.body[:2000]!r}") from None


def _compare_answers(exchange: Exchange, answer: Answer, bound: Bound, case: Case) -> None:
    assert answer.status == exchange.status, answer.body
    recorded = [(name, value) for name, value in exchange.answer_headers if name in COMPARED]
    if answer.body and not any(name == "Content-Type" for name, _ in recorded):
        recorded.append(("Content-Type", "application/json"))
    for name in {name for name, _ in recorded}:
        wanted = [value for other, value in recorded if other == name]
        assert [text.replace(" ", "") for text in answer.header(name)] == [text.replace(" ", "") for text in wanted]
    assert answer.header("Warning") == [value for name, value in recorded if name == "Warning"]
    text = exchange.answer.strip()
    if exchange.watches:
        _compare_events(exchange, answer, bound)
    elif answer.header("Content-Type") == ["application/yaml"]:
        import yaml

        compare(yaml.safe_load(text.replace("\n- ", "\n  - ")), yaml.safe_load(answer.body), bound)
    elif text.startswith("{"):
        compare(json.loads(text), json.loads(answer.body), bound)
        if case.name == "errors-34":
            assert b"\n" not in answer.body
        elif case.name == "errors-35":
            assert answer.body.decode() == text
    elif text and not text.startswith("("):
        compare(text, answer.body.decode().strip(), bound)


def _compare_events(exchange: Exchange, answer: Answer, bound: Bound) -> None:
    found = [json.loads(line) for line in answer.body.splitlines()]
    recorded = exchange.events()
    if any("22 more" in remark for remark in exchange.remarks):
        found = found[: len(recorded)]
    compare(recorded, _with_bookmarks_once(found, recorded), bound)


def _with_bookmarks_once(found: list[Object], recorded: list[Object]) -> list[Object]:
    """How often the same bookmark comes is the server's business: as often as recorded, if it comes."""
    ends = [event for event in found if event["type"] == "BOOKMARK"]
    wanted = [event for event in recorded if event["type"] == "BOOKMARK"]
    if ends and len(ends) < len(wanted):
        found = found + [ends[-1]] * (len(wanted) - len(ends))
    return found


def test_a_new_kind_is_served_a_little_after_it_is_established() -> None:
    """404 as text, then 429, then the list: what a client sees that is fast after a CRD."""

    async def work() -> None:
        world = World(CASES["list-1"])
        world.define()
        world.machinery.unserved["example.dev", "v1"] = 2
        answers = [await world.asking.ask("GET", "/apis/example.dev/v1/widgets") for _ in range(3)]
        assert [answer.status for answer in answers] == [404, 429, 200]
        assert answers[0].body == b"404 page not found\n"

    asyncio.run(work())


def test_nothing_is_left_out_of_the_comparison_by_mistake() -> None:
    """Each case that is beyond the double exists."""
    assert BEYOND.keys() | GIVEN.keys() | AFTER.keys() | MEANWHILE.keys() <= CASES.keys()


@pytest.mark.parametrize(
    ("recorded", "answered"),
    [
        ({"code": 404}, {"code": 409}),
        ({"kind": "Node"}, {"kind": "Node", "surprise": 1}),
        ({"spec": {"size": 2}}, {"spec": {}}),
        ({"items": ["n1 … "]}, {"items": [{"metadata": {"name": "n2"}}]}),
        ({"items": [1, 2]}, {"items": [1]}),
        ({"message": 'nodes "n1" not found'}, {"message": 'nodes "n2" not found'}),
        ([{"metadata": {"resourceVersion": "5"}}] * 2, [{"metadata": {"resourceVersion": n}} for n in "78"]),
        ({"…": "Failure", "code": 404}, {"kind": "Node", "apiVersion": "v1", "metadata": {}, "code": 404}),
    ],
)
def test_the_comparison_sees_a_difference(recorded: Any, answered: Any) -> None:
    """A wrong code, a key too many, one missing, another name, another revision than the one that was the same."""
    with pytest.raises(Different):
        compare(recorded, answered, {})
