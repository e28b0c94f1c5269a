"""ExaBGP's configuration: what is written, and what is refused rather than written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgpcni.model import Family, Neighbor, NodeFacts
from bgpcni_exabgp.configure import Misconfigured, configure, read_passwords, sessions, sessions_in

RELAY = ("/usr/bin/python3", "-I", "-m", "bgpcni_exabgp.relay", "/run/bgpcni/exabgp.sock")
PLAIN = Neighbor("192.0.2.1", 64512, (Family.L2VPN_EVPN, Family.IPV4_UNICAST), 90)
NODE = NodeFacts(
    "/run/bgpcni", "/var/lib/bgpcni", asn=64513, router_id="192.0.2.2", local_address="192.0.2.2", neighbors=(PLAIN,)
)

GOLDEN = """\
process bgpcni {
	run /usr/bin/python3 -I -m bgpcni_exabgp.relay /run/bgpcni/exabgp.sock;
	encoder json;
}

neighbor 192.0.2.1 {
	router-id 192.0.2.2;
	local-address 192.0.2.2;
	local-as 64513;
	peer-as 64512;
	hold-time 90;
	manual-eor true;
	adj-rib-out true;
	adj-rib-in false;
	group-updates true;
	family {
		ipv4 unicast;
		l2vpn evpn;
	}
	capability {
		asn4 enable;
		route-refresh enable;
		extended-message disable;
		graceful-restart 120;
	}
	api {
		processes [ bgpcni ];
		neighbor-changes;
		negotiated;
		fsm;
	}
}

neighbor 2001:db8::1 {
	router-id 192.0.2.2;
	local-address auto;
	local-as 64513;
	peer-as 4200000000;
	hold-time 30;
	manual-eor true;
	adj-rib-out true;
	adj-rib-in false;
	group-updates true;
	md5-password "s3cret;#{}";
	md5-base64 false;
	incoming-ttl 255;
	outgoing-ttl 255;
	family {
		ipv6 unicast;
	}
	capability {
		asn4 enable;
		route-refresh enable;
		extended-message disable;
		graceful-restart 120;
	}
	api {
		processes [ bgpcni ];
		neighbor-changes;
		negotiated;
		fsm;
	}
}
"""


def test_the_whole_file():
    """Two neighbours, with all that a neighbour can have, octet by octet."""
    other = Neighbor("2001:db8::1", 4200000000, (Family.IPV6_UNICAST,), 30, ttl_security=True)
    assert configure(replace(NODE, neighbors=(PLAIN, other)), RELAY, {"2001:db8::1": "s3cret;#{}"}) == GOLDEN


def test_a_passive_neighbour_and_no_graceful_restart():
    """Passive: we listen on port 179 of our address. Zero seconds: no graceful restart."""
    text = configure(replace(NODE, neighbors=(replace(PLAIN, passive=True),), graceful_restart=0), RELAY, {})
    assert "\tpassive true;\n\tlisten 179;\n" in text
    assert "graceful-restart disable;" in text


@pytest.mark.parametrize(
    ("node", "neighbor", "password", "words"),
    [
        ({}, {"address": "192.0.2.1; run"}, None, "192.0.2.1; run"),
        ({}, {"asn": 1 << 32}, None, "asn of 192.0.2.1"),
        ({}, {"hold_time": 2}, None, "hold_time of 192.0.2.1"),
        ({}, {"families": ()}, None, "no families"),
        ({}, {}, 'a"b', "password of 192.0.2.1"),
        ({}, {}, "a\\b", "password of 192.0.2.1"),
        ({}, {}, "", "password of 192.0.2.1"),
        ({}, {}, "x" * 81, "password of 192.0.2.1"),
        ({"router_id": None}, {}, None, "router_id"),
        ({"router_id": "2001:db8::1"}, {}, None, "2001:db8::1"),
        ({"asn": None}, {}, None, "bgp.asn"),
        ({"graceful_restart": 4096}, {}, None, "graceful_restart"),
        ({"local_address": None}, {"passive": True}, None, "passive"),
    ],
)
def test_bad_values_are_refused_in_words(node, neighbor, password, words):
    """Nothing that ExaBGP could take for something else is written."""
    facts = replace(NODE, **node, neighbors=(replace(PLAIN, **neighbor),))
    with pytest.raises(Misconfigured, match=words):
        configure(facts, RELAY, {} if password is None else {PLAIN.address: password})


def test_an_odd_path_is_refused():
    """A folder whose name ExaBGP's parser would cut in two."""
    with pytest.raises(Misconfigured, match="a path"):
        configure(NODE, ("/usr/a path/python3", "-I"), {})


def test_the_sessions_can_be_read_from_the_configuration():
    """Also where the kernel chooses the node's address, since the configured one is of the other family."""
    node = replace(NODE, neighbors=(PLAIN, replace(PLAIN, address="2001:DB8::1")))
    expected = {("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "auto")}
    assert sessions(node) == sessions_in(configure(node, RELAY, {})) == expected
    assert sessions_in("") == sessions(replace(NODE, neighbors=())) == frozenset()


def test_passwords_are_read_from_their_files(tmp_path):
    """The end of the line is not part of the password; a missing file is said."""
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    file.chmod(0o600)
    assert read_passwords([replace(PLAIN, password_file=str(file)), PLAIN]) == {PLAIN.address: "s3cret"}
    with pytest.raises(Misconfigured, match=r"password_file of 192\.0\.2\.1"):
        read_passwords([replace(PLAIN, password_file=str(tmp_path / "none"))])
    file.chmod(0o640)
    with pytest.raises(Misconfigured, match="accessible to other users"):
        read_passwords([replace(PLAIN, password_file=str(file))])
