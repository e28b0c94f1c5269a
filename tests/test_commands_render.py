"""Documents as text for people."""

from __future__ import annotations

from bgpcni.commands import render


def test_columns_stand_under_their_heads() -> None:
    """Nothing is a dash; a number is itself, zero too."""
    assert render.table(("A", "LONG"), [("xyz", 0), (None, []), ("", "q")]) == "A    LONG\nxyz  0\n-    -\n-    q\n"


def test_no_rows_are_the_heads_alone() -> None:
    assert render.table(("A", "B"), []) == "A  B\n"


def test_what_is_wrong_comes_with_the_status() -> None:
    text = render.status(
        {
            "version": "1", "healthy": False, "mode": "none",
            "exporters": {"exabgp": {"state": "late", "since": "T", "reason": "away"}},
            "problems": [{"code": "x", "text": "all is lost"}],
        }
    )  # fmt: skip
    assert text == (
        "bgpcni 1: not healthy (no agent is running)\n  exporter exabgp is late since T: away\n  problem: all is lost\n"
    )


def test_drain_names_who_is_late() -> None:
    assert render.drain({"drained": True, "late": []}) == "everything is withdrawn; the speaker has ended\n"
    assert render.drain({"drained": False, "late": ["a", "b"]}) == "not everything is withdrawn: a, b is late\n"
    assert render.reload({}) == "configuration reloaded\n"


def test_attributes_have_a_column_where_a_route_has_any() -> None:
    """Communities, local preference and MED stand beside the next hop; zero is a value."""
    row = {"network": "n", "containerID": "c1", "nlri": "10.1.2.3/32", "nextHop": "192.0.2.1", "communities": [],
           "localPreference": None, "med": None, "exporters": {"exabgp": {"state": "announced", "since": "T",
           "reason": ""}}}  # fmt: skip
    assert "ATTRIBUTES" not in render.routes({"routes": [row]})
    rich = row | {"communities": ["64512:1"], "localPreference": 200, "med": 0}
    text = render.routes({"routes": [row, rich]})
    assert "64512:1 local-preference 200 med 0" in text
    assert text.splitlines()[0].split()[:4] == ["ROUTE", "NEXT", "HOP", "ATTRIBUTES"]


def test_pods_have_a_column_where_there_are_any() -> None:
    """A node without Kubernetes needs none."""
    row = {"network": "n", "containerID": "c1", "ifname": "eth0", "state": "up", "ips": [], "mac": "", "hostVeth": "v",
           "since": "T"}  # fmt: skip
    pod = {"namespace": "shop", "name": "web-0", "uid": ""}
    assert "POD" not in render.attachments({"attachments": [row]})
    head, *rows = render.attachments({"attachments": [row, row | {"pod": pod}]}).splitlines()
    assert head.split()[:3] == ["NETWORK", "POD", "CONTAINER"]
    assert [line.split()[1] for line in rows] == ["-", "shop/web-0"]
    assert render.explain({"attachments": [{**row, "pod": pod, "steps": []}]}).startswith(
        "n/c1/eth0 (pod shop/web-0)\n"
    )
