"""Checks that this is an ExaBGP whose inside we know, before anything of it is replaced."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import exabgp.reactor.network.outgoing as outgoing
from exabgp.bgp.message import Action, Update
from exabgp.bgp.message.open.capability.capabilities import Capabilities
from exabgp.bgp.message.update.attribute.nexthop import NextHop
from exabgp.configuration.configuration import Configuration
from exabgp.configuration.neighbor.family import ParseFamily
from exabgp.environment import getenv
from exabgp.logger import log
from exabgp.protocol.family import AFI, SAFI
from exabgp.reactor.api.processes import Processes
from exabgp.reactor.api.response.json import JSON
from exabgp.reactor.delay import Delay
from exabgp.reactor.listener import Listener
from exabgp.reactor.loop import Reactor
from exabgp.reactor.network.connection import Connection
from exabgp.reactor.peer import Peer
from exabgp.reactor.protocol import Protocol
from exabgp.rib.change import Change
from exabgp.rib.outgoing import OutgoingRIB

from bgpcni_exabgp.engine.rib import AfiSafi, GroupingRIB, RawAttributes, RawNLRI

VERSIONS = ((5, 0, 8), (5, 1))
"""ExaBGP from the first, below the second."""


class Mismatch(Exception):
    """This ExaBGP is not the one whose inside we know."""


def check() -> None:
    """Raise `Mismatch` unless the functions we replace are there as we know them, and our Adj-RIB-Out works in it."""
    found = version("exabgp")
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if not VERSIONS[0] <= numbers < VERSIONS[1]:
        raise Mismatch(f"ExaBGP {found}: from 5.0.8 to below 5.1 is needed")
    signatures: dict[Any, list[str]] = {
        Peer._main: ["self"],
        Peer.resend: ["self", "enhanced", "family"],
        Connection.reader: ["self"],
        outgoing.connect: ["io", "ip", "port", "afi", "md5"],
        outgoing.ready: ["io"],
        Protocol.new_update: ["self", "include_withdraw"],
        Protocol.new_eors: ["self", "afi", "safi"],
        Protocol.validate_open: ["self"],
        JSON._neighbor: ["self", "neighbor", "direction", "content"],
        Capabilities.new: ["self", "neighbor", "restarted"],
        Reactor.reload: ["self"],
        Reactor._pending_adjribout: ["self"],
        Reactor._wait_for_io: ["self", "sleeptime"],
        OutgoingRIB.updates: ["self", "grouped"],
        OutgoingRIB.add_to_rib: ["self", "change", "force"],
        OutgoingRIB._update_rib: ["self", "change"],
        OutgoingRIB.pending: ["self"],
        Configuration.inject_eor: ["self", "peers", "family"],
        Update.messages: ["self", "negotiated", "include_withdraw"],
        Listener.listen_on: [
            *("self", "local_addr", "remote_addr", "port", "md5_password", "md5_base64", "ttl_in"),
        ],
        Processes.write: ["self", "process", "string", "neighbor"],
        Delay.increase: ["self"],
    }
    for function, expected in signatures.items():
        found_names = list(inspect.signature(function).parameters)
        if function is Capabilities.new:
            found_names = found_names[: len(expected)]  # later versions have more, and all of them are passed on
        if found_names != expected:
            raise Mismatch(f"ExaBGP {found}: {function.__qualname__} is not the one we know")

    if not isinstance(ParseFamily.convert.get("ipv4"), dict):
        raise Mismatch(f"ExaBGP {found}: ParseFamily.convert is not the table we know")

    log.init(getenv())  # the RIB logs, and before this there is no logger

    class Negotiated:
        families = ((AFI.ipv4, SAFI.unicast), (AFI.l2vpn, SAFI.evpn))
        msg_size = 4096
        asn4 = True
        sent_open = SimpleNamespace(capabilities={})
        local_as = peer_as = 64512
        nexthop = ()

    family, evpn = Negotiated.families
    rib = GroupingRIB(True, list(Negotiated.families))
    hop, attributes = NextHop("192.0.2.1"), RawAttributes(b"\x40\x01\x01\x00")

    def put(which: AfiSafi, action: int, wire: bytes, key: bytes) -> None:
        rib.add_to_rib(Change(RawNLRI(which, action, hop, wire, key), attributes))

    put(family, Action.ANNOUNCE, b"\x08\x0a", b"a")
    put(family, Action.WITHDRAW, b"\x08\x0b", b"b")
    put(family, Action.ANNOUNCE, b"\x08\x0b", b"b")
    put(family, Action.ANNOUNCE, b"\x08\x0c", b"c")
    put(family, Action.WITHDRAW, b"\x08\x0c", b"c")
    put(evpn, Action.ANNOUNCE, b"\x03\x00", b"e")
    found_octets = sorted(m[19:].hex() for update in rib.updates(True) for m in update.messages(Negotiated))
    expected_octets = [
        "0000000b" + "400304c0000201" + "40010100" + "080a080b",
        "00000013" + "900e000b" + "001946" + "04c0000201" + "00" + "0300" + "40010100",
        "0002080c0000",
    ]
    if found_octets != expected_octets or rib.pending() or len(rib.held(family)) != 2:
        raise Mismatch(f"ExaBGP {found}: its Adj-RIB-Out gives {found_octets}, not {expected_octets}")
