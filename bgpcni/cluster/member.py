"""This node as a member of a cluster whose store has bgpcni's objects: it makes its BGPNode, follows the others, and
keeps on disk what was last true, so that a start without the store has the same neighbours.

It changes nothing on the node: `wishes` says which neighbours the objects give it.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from bgpcni import __version__, atomic
from bgpcni.clock import now
from bgpcni.cluster import peers
from bgpcni.cluster.follower import Follower
from bgpcni.cluster.names import node_name
from bgpcni.cluster.objects import BGPNode, BGPNodeSpec, BGPPeer, Metadata, Object, parse
from bgpcni.cluster.objects import Path as ObjectPath
from bgpcni.cluster.peers import Gateway, Wish
from bgpcni.cluster.store import Conflict, Kept, Store, Trouble
from bgpcni.config.agent import AgentConfig, ClusterTable
from bgpcni.errors import InvalidConfiguration
from bgpcni.files import read_plain

log = logging.getLogger(__name__)
FILE = "cluster.json"
_MOST = 64 << 20
SECONDS = 5.0
"""Between two looks at what the object of this node should say, and at the default gateway."""


class Member:
    """Made before the agent is, `start`ed when it serves."""

    def __init__(self, config: AgentConfig, table: ClusterTable, store: Store, gateway: Gateway) -> None:
        self._name, self._store, self._gateway = node_name(table), store, gateway
        self._file = Path(config.data_dir) / FILE
        self._epoch, self._objects = self._read()
        self._config = config
        self._follower = Follower(store, self._changed)
        self._gateways: tuple[str | None, ...] = ()
        self._registered = False
        self._away = self._disputed = self._unkept = ""
        self._wake, self._stopped = threading.Event(), False
        self._generations = itertools.count(1)  # two threads take from it
        self.generation = 0
        """Another number as soon as `wishes` may have changed."""

    # ---------------------------------------------------------------- for the agent

    def wishes(self, config: AgentConfig) -> list[Wish]:
        """The neighbours by the objects that are known, for a node with this agent.toml."""
        return peers.wishes(self._objects.values(), self._me(config), self._gateway)

    def renew(self, config: AgentConfig) -> None:
        """This agent.toml is in force from now on."""
        self._config = config
        self._wake.set()

    @property
    def looks(self) -> Mapping[str, Callable[[], str]]:
        """What is amiss, by its code in `status`."""
        return {
            "cluster-store": lambda: self._without_store(self._follower.trouble or self._away),
            "cluster-objects": lambda: "; ".join(
                f"{' '.join(path)} cannot be read, what it said before holds: {why}"
                for path, why in self._follower.broken.items()
            ),
            "cluster-node": lambda: self._disputed or self._unkept,
        }

    def start(self, sessions: Callable[[], int | None]) -> None:
        """`sessions`: how many BGP sessions are established."""
        for name, run in (("cluster-follower", self._follower.run), ("cluster", lambda: self._keep(sessions))):
            threading.Thread(target=run, name=name, daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        self._follower.stop()

    def _without_store(self, trouble: str) -> str:
        return f"the cluster's store is away, and what it said last holds: {trouble}" if trouble else ""

    # ---------------------------------------------------------------- what the others say

    def _changed(self) -> None:
        """In the follower's thread: what concerns neighbours is taken up, and kept on disk."""
        if not self._registered:
            self._wake.set()
        found: dict[ObjectPath, Object] = {
            path: kept.object.model_copy(update={"status": None})
            for path, kept in self._follower.items.items()
            if isinstance(kept.object, BGPPeer | BGPNode)
        }
        for path in self._follower.broken:  # after a restart, the follower does not know what it said before
            if path in self._objects:
                found.setdefault(path, self._objects[path])
        if found != self._objects:
            self._objects = found
            self._write()
            self.generation = next(self._generations)

    def _read(self) -> tuple[str, dict[ObjectPath, Object]]:
        try:
            document = json.loads(read_plain(self._file, _MOST))
            objects = [parse(item) for item in document["objects"]]
            return str(document["epoch"]), {item.path: item for item in objects}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, InvalidConfiguration) as error:
            log.error("%s cannot be read, so this node starts without it: %s", self._file, error)
        return uuid.uuid4().hex, {}

    def _write(self) -> None:
        document = {"epoch": self._epoch, "objects": [item.document() for item in self._objects.values()]}
        try:
            atomic.put(self._file, json.dumps(document).encode(), 0o600)
            self._unkept = ""
        except OSError as error:
            self._unkept = (
                f"{self._file}: {error.strerror}: a restart without the store would not have these neighbours"
            )

    # ---------------------------------------------------------------- what this node says

    def _me(self, config: AgentConfig) -> BGPNode:
        bgp = config.bgp
        return BGPNode(
            metadata=Metadata(name=self._name, labels=config.cluster.labels if config.cluster else {}),
            spec=BGPNodeSpec(
                addresses=(bgp.local_address,) if bgp else (),
                asn=bgp.asn if bgp else None,
                routerID=bgp.router_id if bgp else None,
                epoch=self._epoch,
                version=__version__,
            ),
        )

    def _keep(self, sessions: Callable[[], int | None]) -> None:
        self._write()  # the epoch must not change with a restart
        while not self._stopped:
            self._wake.clear()
            try:
                self._look()
                self._tell(sessions() or 0)
            except Exception:
                log.exception("keeping this node's object failed because of a defect")
            self._wake.wait(SECONDS)

    def _look(self) -> None:
        """Gateways come and go without an event in the store."""
        if any(isinstance(item, BGPPeer) and item.spec.gateway for item in self._objects.values()):
            found = self._gateway(4), self._gateway(6)
            if found != self._gateways:
                self._gateways = found
                self.generation = next(self._generations)

    def _tell(self, sessions: int) -> None:
        """Have the object of this node say what is true. The follower tells when somebody changed it."""
        if not self._follower.synced or self._follower.trouble:
            return
        me = self._me(self._config)
        kept = self._follower.items.get(me.path)
        its = kept.object if kept else None
        same = isinstance(its, BGPNode) and its.spec.epoch == self._epoch
        self._disputed = ""
        if kept and not same and self._registered:
            self._disputed = f"another agent says that it is the node {self._name}: give one of them another name"
            return
        since = (its.status or {}).get("since") if same and its else None
        me = me.model_copy(update={"status": {"since": since or now(), "sessions": sessions}})
        try:
            if kept is None:
                self._store.create(me)
                log.info("this node is %s in the cluster", self._name)
            elif _says(kept) != me.document():
                self._store.swap(me, kept.version)
            self._registered, self._away = True, ""
        except Conflict:
            pass  # the follower has not heard of it yet
        except Trouble as trouble:
            self._away = str(trouble)


def _says(kept: Kept) -> object:
    return kept.object.document()
