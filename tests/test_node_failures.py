"""A limited number of failed ADDs is remembered, until the ADD succeeds."""

from __future__ import annotations

import json

from bgpcni.node import failures as module
from bgpcni.node.failures import Failures


def fail(
    failures: Failures, container: str = "c1", network: str | None = "net", code: int = 7, msg: str = "no"
) -> None:
    stdin = b"{" if network is None else json.dumps({"name": network}).encode()
    error = {"cniVersion": "1.0.0", "code": code, "msg": msg, "details": "more"}
    variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0"}
    failures.failed(variables, stdin, json.dumps(error).encode())


def test_the_last_failure_of_each_is_kept() -> None:
    failures = Failures()
    fail(failures, msg="first")
    fail(failures, "c2", "other")
    fail(failures, msg="second", code=11)
    (found,) = failures.about("c1")
    assert (found.code, found.msg, found.details, found.network) == (11, "second", "more", "net")
    assert found.at.endswith("Z")
    assert [one.container_id for one in failures.about("other")] == ["c2"]
    assert failures.about("c3") == failures.about("") == []


def test_the_beginning_of_a_long_id_will_do() -> None:
    """As for attachments; and a configuration that cannot be read has a container nevertheless."""
    failures = Failures()
    fail(failures, "0123456789abcdef", None)
    assert [one.network for one in failures.about("012345")] == [""]
    assert failures.about("01234") == []


def test_what_works_is_forgotten() -> None:
    """That interface's alone; the runtime's DEL after a failed ADD changes nothing, since nobody tells of it."""
    failures = Failures()
    fail(failures)
    fail(failures, "c2")
    failures.worked({"CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1"})
    assert failures.about("c1")
    failures.worked({"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"})
    assert failures.about("c1") == []
    assert failures.about("c2")


def test_what_is_kept_is_bounded() -> None:
    """The oldest goes; a message that is absurdly long is cut."""
    failures = Failures()
    for n in range(module.MOST + 1):
        fail(failures, f"c{n}", msg="x" * 100_000)
    assert len(failures.about("net")) == module.MOST
    assert failures.about("c0") == []
    assert len(failures.about("c1")[0].msg) == module.LONGEST


def test_a_pod_that_failed_is_found_by_its_name() -> None:
    failures = Failures()
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"
    error = json.dumps({"code": 7, "msg": "no"}).encode()
    failures.failed({"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_ARGS": args}, b"{}", error)
    failures.failed({"CNI_CONTAINERID": "c2", "CNI_IFNAME": "eth0", "CNI_ARGS": "nonsense"}, b"{}", error)
    assert [one.container_id for one in failures.about("shop/web-0")] == ["c1"]
    assert failures.about("shop") == failures.about("None") == []
