"""Documents as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from bgpcni.commands import render
from bgpcni.commands.render.tables import SCREEN, Screen


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


LONG, ID = "a-network-with-quite-a-long-name", "0123456789abcdef" * 4
SIX = "2001:db8:1234:5678:9abc:def0:1234:5678"
POD = {"namespace": "production-of-tenant", "name": "checkout-service-7f8d9c6b5-abcde", "uid": "1"}
WHEN = "2026-01-31T11:59:48Z"
WHY = f"no session: {SIX} is Idle (cannot connect: Connection refused); the agent goes on trying"
EVPN = f"{SIX}:7:[2]:[0]:[48]:[02:00:00:00:00:01]:[128]:[{SIX}]"
NAMED = {"network": LONG, "containerID": ID, "ifname": "eth0", "pod": POD}
STEP = {"step": "reachability", "state": "no", "since": WHEN, "detail": WHY, "problem": "x", "remedy": "do it"}
ROUTE = NAMED | {
    "nlri": EVPN, "prefix": f"{SIX}/128", "nextHop": SIX, "communities": ["64512:100"] * 9, "localPreference": 200,
    "med": 1, "exporter": "a-speaker-of-a-long-name",
    "exporters": {"a-speaker-of-a-long-name": {"state": "wanted", "since": WHEN, "reason": WHY}},
}  # fmt: skip
PEER = {
    "exporter": "a-speaker-of-a-long-name", "address": SIX, "asn": 4200000000, "state": "Idle", "since": WHEN,
    "families": ["ipv4-unicast", "ipv6-unicast", "l2vpn-evpn"], "sent": 123456, "received": 123456, "flaps": 12,
    "lastError": WHY,
}  # fmt: skip
DOCUMENTS: dict[str, dict[str, Any]] = {
    "attachments": {"attachments": [NAMED | {"state": "up", "ips": [f"{SIX}/64", "10.100.200.250/24"],
                    "mac": "02:00:00:00:00:01", "hostVeth": "veth0123456789a", "since": WHEN}]},
    "routes": {"routes": [ROUTE]},
    "routes advertised": {"peer": SIX, "routes": [ROUTE]},
    "routes received": {"received": [ROUTE | {"vni": 16777215, "peer": SIX, "routeTargets": ["4200000000:65535"] * 3,
                        "imported": [{"table": "vrf-of-tenant", "state": "refused", "reason": WHY}], "stale": True,
                        "datapath": True}], "refused": {"a-reason": 3}},
    "peers": {"peers": [PEER]},
    "explain": {"attachments": [NAMED | {"steps": [STEP]}], "peers": [PEER | {"steps": [STEP]}]},
    "networks": {"networks": [{"network": LONG, "family": "unicast", "bridges": ["bridge-of-tenant"], "vni": 16777215,
                 "vrf": "vrf-of-tenant", "exporters": ["a-speaker-of-a-long-name"], "attachments": {"up": 10000},
                 "subnets": [{"used": 10000, "size": 2**64, "subnet": "2001:db8:1234:5678::/64"}]}], "devices": []},
    "ipam show": {"addresses": [NAMED | {"address": SIX, "state": "used", "leased": True}],
                  "blocks": [{"block": "2001:db8:1234:5678:9abc:def0:1234:5600/122", "pool": LONG, "node": LONG,
                              "used": 60, "size": 64}]},
}  # fmt: skip


@pytest.fixture
def terminal() -> Iterator[None]:
    """One of 80 columns."""
    token = SCREEN.set(Screen(80, datetime(2026, 1, 31, 12, tzinfo=UTC)))
    yield
    SCREEN.reset(token)


def body(text: str) -> list[str]:
    """The lines of tables, without headings and remedies between them, and without what says that something is left
    out."""
    return [line for line in text.splitlines() if not line.startswith(("(left out: ", "  what to do", LONG + "/"))]


@pytest.mark.parametrize("command", DOCUMENTS)
@pytest.mark.usefixtures("terminal")
def test_every_table_fits_80_columns_or_says_what_it_left_out(command: str) -> None:
    """With long names, IPv6 and EVPN. The address can always be read, and a reason is whole."""
    document, render_it = DOCUMENTS[command], getattr(render, command.replace("ipam ", "ipam_").partition(" ")[0])
    text = render_it(document)
    assert [line for line in body(text) if len(line) > 80 and not line.startswith("session of ")] == []
    if command not in ("explain",):
        assert "(left out: " in text
        assert "--wide shows all" in text
    if WHY in str(document) and command != "routes advertised":
        assert "Connection refused" in " ".join(text.split())
    assert WHEN not in text, "an age is shown, not a time"


@pytest.mark.usefixtures("terminal")
def test_what_a_route_leads_to_can_be_read_beside_its_reason() -> None:
    """On 80 columns, of a pod: names go before the address does."""
    short = ROUTE | {"nlri": "2001:db8:1:2::2/128"}
    assert "2001:db8:1:2::2/128" in render.routes({"routes": [short]})


@pytest.mark.usefixtures("terminal")
def test_times_are_ages_in_every_text() -> None:
    asked = {"maintenance": {"operator": WHEN}, "late": [], "unable": []}
    assert "operator for 12 s" in render.maintenance(asked)
    failed = {"unreachable": [], "more": False, "failed": [NAMED | {"problems": [{"since": WHEN, "text": "lost"}]}]}
    assert "12 s ago: lost" in render.unreachable(failed)
