"""Does what the agent's commands say (`bgpcni_exabgp.protocol`): each whole or not at all, and answered in order."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from exabgp.bgp.message import Action, Notify
from exabgp.bgp.message.update.attribute.nexthop import NextHop
from exabgp.logger import log
from exabgp.protocol.family import AFI, SAFI, Family
from exabgp.protocol.ip import NoNextHop
from exabgp.rib.change import Change

from bgpcni_exabgp import protocol
from bgpcni_exabgp.engine.rib import AfiSafi, PairedAttributes, RawAttributes, RawNLRI
from bgpcni_exabgp.engine.watch import News, tell, watch_of

_next_hop_of = lru_cache(4096)(NextHop)
_attributes_of = lru_cache(4096)(RawAttributes)
_NONE = RawAttributes(b"")


@lru_cache(64)
def family_of(text: str) -> AfiSafi:
    """`ipv4/mpls-vpn` as ExaBGP's pair. Raises ValueError."""
    afi, _, safi = text.partition("/")
    family = AFI.fromString(afi), SAFI.fromString(safi)
    if family[0] == AFI.undefined or family[1] == SAFI.undefined:
        raise ValueError(f"unknown family {text}")
    return family


class Engine:
    """What the command works on: ExaBGP's configuration file, and what is told of its neighbours."""

    def __init__(self, path: Path, news: News) -> None:
        self.path = path
        self.news = news
        self.digest = ""

    def run(self, reactor: Any, service: str, line: str) -> bool:
        """Do what one line says, and answer it before the next one is read, so that answers keep their order."""
        try:
            number, command = protocol.decode_command(line)
            if isinstance(command, protocol.AskState):
                tell(reactor, [service], self.state(reactor))
            else:
                known = {name: reactor.configuration.neighbors[name] for name in reactor.peers(service)}
                chosen = {
                    name: neighbor
                    for name, neighbor in known.items()
                    if not command.peers or str(neighbor["peer-address"]) in command.peers
                }
                self.apply(reactor, chosen, command)
                for neighbor in known.values():  # to the others the command has nothing to say
                    neighbor.rib.outgoing.sequence = number
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = f"refused: {error}: {line[:200]}"
            log.error(lambda: reason, "api")
            reactor.processes.answer_error(service)
            return False
        reactor.processes.answer_done(service)
        return True

    def apply(self, reactor: Any, chosen: dict[str, Any], command: protocol.Command) -> None:
        """Do what a command says to the chosen neighbours, by their names in ExaBGP. Raises ValueError."""
        neighbors = list(chosen.values())
        ribs = [neighbor.rib.outgoing for neighbor in neighbors]
        watches = [watch for name in chosen if (watch := watch_of(reactor._peers[name])) is not None]
        match command:
            case protocol.Announce():
                _announce(neighbors, command)
            case protocol.Withdraw(family=name, routes=routes):
                family = family_of(name)
                gone = [Change(RawNLRI(family, Action.WITHDRAW, NoNextHop, nlri, key), _NONE) for nlri, key in routes]
                _queue(neighbors, family, gone)
            case protocol.Mark():
                for rib in ribs:
                    rib.mark()
            case protocol.Keep(family=name, keys=keys):
                for rib in ribs:
                    rib.keep(family_of(name), keys)
            case protocol.Spare(networks=networks):
                for rib in ribs:
                    rib.spare(frozenset(networks))
            case protocol.Sweep():
                for rib in ribs:
                    rib.sweep()
            case protocol.SendEndOfRib(family=name):
                established = [peer for peer in chosen if peer in reactor.established_peers()]
                if not reactor.configuration.inject_eor(established, Family(*family_of(name))):
                    raise ValueError("no established neighbour")
            case protocol.Listen(wanted=wanted):
                self.news.listening = wanted
            case protocol.Refresh(families=names):
                families = [family_of(name) for name in names]
                for watch in watches:
                    watch.refresh(families)
            case protocol.Resend(families=names):
                for watch in watches:
                    watch.resend([family_of(name) for name in names])
            case protocol.EndSession(code=code, subcode=subcode):
                for watch in watches:
                    watch.end = Notify(code, subcode)

    def state(self, reactor: Any) -> protocol.EngineState:
        peers = list(reactor._peers.values())
        newest = max((peer.neighbor.rib.outgoing.sequence for peer in peers), default=0)
        neighbors = tuple(self._neighbor(peer) for peer in peers)
        return protocol.EngineState(protocol.PROTOCOL, newest, self.digest, neighbors, self.news.listening)

    def _neighbor(self, peer: Any) -> protocol.NeighborState:
        address, watch = str(peer.neighbor["peer-address"]), watch_of(peer)
        found = protocol.NeighborState(
            peer=address,
            asn=int(peer.neighbor["peer-as"] or (watch.asn if watch is not None else 0)),
            configured=tuple(f"{afi}/{safi}" for afi, safi in peer.neighbor.families()),
            hold=int(peer.neighbor["hold-time"]),
            state=peer.fsm.name(),
            since=peer.stats["complete"] or peer.stats["reset"],
            unreached=self.news.told.get(address, ""),
            families=(),
            sent=-1,
            acked=-1,
            started=-1,
            eor=(),
            ended=(),
            sent_messages=_messages(peer.stats, "send-"),
            received_messages=_messages(peer.stats, "receive-"),
        )
        if watch is None:
            return found
        return replace(
            found,
            families=watch.families,
            sent=watch.sent,
            acked=watch.acked,
            started=watch.started,
            eor=tuple(sorted(watch.eor)),
            ended=tuple(sorted(watch.ended)),
            asn4=watch.asn4,
            graceful=watch.graceful,
            refresh=watch.refreshes,
            long_lived=watch.long_lived,
        )

    def reload(self, stock: Callable[[Any], bool], reactor: Any) -> bool:
        """ExaBGP's reload; then the agent is told the digest of the configuration in force."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        done = stock(reactor)
        if done:
            self.digest = digest
        if reactor.processes is not None:
            error = "" if done else str(reactor.configuration.error)
            tell(reactor, list(reactor.processes._process), protocol.Configured(self.digest, error))
        return done


def _messages(stats: dict[str, Any], way: str) -> dict[str, int]:
    """What ExaBGP has counted, by the type of the message."""
    return {name.removeprefix(way): int(count) for name, count in stats.items() if name.startswith(way)}


def _announce(neighbors: list[Any], command: protocol.Announce) -> None:
    family, next_hop = family_of(command.family), _next_hop_of(command.next_hop)
    network = sys.intern(command.network)
    ibgp, ebgp = command.attributes
    if any(neighbor["peer-as"] is None for neighbor in neighbors):
        if ibgp is None or ebgp is None:
            raise ValueError("no attributes for both kinds of neighbours")
        _put(
            [n for n in neighbors if n["peer-as"] is None],
            family,
            next_hop,
            network,
            PairedAttributes(ibgp, ebgp),
            command,
        )
        neighbors = [neighbor for neighbor in neighbors if neighbor["peer-as"] is not None]
    for internal, octets in zip((True, False), command.attributes, strict=True):
        kind = [neighbor for neighbor in neighbors if bool(neighbor["local-as"] == neighbor["peer-as"]) is internal]
        if not kind:
            continue
        if octets is None:
            raise ValueError(f"no attributes for {'iBGP' if internal else 'eBGP'} neighbours")
        _put(kind, family, next_hop, network, _attributes_of(octets), command)


def _put(
    neighbors: list[Any],
    family: AfiSafi,
    next_hop: Any,
    network: str,
    attributes: RawAttributes,
    command: protocol.Announce,
) -> None:
    changes = [
        Change(RawNLRI(family, Action.ANNOUNCE, next_hop, nlri, key, network), attributes)
        for nlri, key in command.routes
    ]
    _queue(neighbors, family, changes)


def _queue(neighbors: list[Any], family: AfiSafi, changes: list[Any]) -> None:
    for neighbor in neighbors:
        if family in neighbor.families():
            for change in changes:
                neighbor.rib.outgoing.add_to_rib(change)
