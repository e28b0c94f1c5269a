"""This node as a member of a cluster whose store has bgpcni's objects: it makes its BGPNode, follows all objects, and
keeps on disk what was last true, so that a start without the store has the same neighbours, pools and policies.

It changes nothing on the node: `wishes` says which neighbours the objects give it, `pictures` has the objects for
whoever follows others of them, and `store` is where they may be changed.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgpcni import __version__, atomic
from bgpcni.clock import now
from bgpcni.cluster import peers
from bgpcni.cluster.follower import Follower
from bgpcni.cluster.identity import ByConfiguration, Identity, Source
from bgpcni.cluster.names import node_name
from bgpcni.cluster.nodes import described
from bgpcni.cluster.objects import BGPNode, BGPNodeSpec, BGPPeer, Metadata, Object, parse
from bgpcni.cluster.objects import Path as ObjectPath
from bgpcni.cluster.peers import Gateway, Wish
from bgpcni.cluster.picture import Pictures
from bgpcni.cluster.store import Absent, Conflict, Kept, Store, Trouble
from bgpcni.config.agent import AgentConfig, ClusterTable
from bgpcni.errors import InvalidConfiguration
from bgpcni.files import read_plain

if TYPE_CHECKING:
    from bgpcni.cluster.own_node import OwnNode
    from bgpcni.cluster.secrets import Secrets

log = logging.getLogger(__name__)
FILE = "cluster.json"
_MOST = 256 << 20
_OF_PEERS = ("BGPNode", "BGPPeer")
"""The kinds of which neighbours are made."""
SECONDS = 5.0
"""Between two looks at what the object of this node should say, and at the default gateway."""

BEAT_SECONDS = 30.0
"""Between two signs of life."""


class Member:
    """Made before the agent is, `start`ed when it serves."""

    def __init__(
        self, config: AgentConfig, table: ClusterTable, store: Store, gateway: Gateway, own_node: OwnNode | None = None
    ) -> None:
        """`own_node`: the Node object, which says who this node is; None: agent.toml says it."""
        self.own_node = own_node
        self._secrets = _secrets(own_node, Path(config.run_dir))
        self._own: Source = own_node or ByConfiguration()
        self.name, self.store, self._gateway = node_name(table), store, gateway
        self._file = Path(config.data_dir) / FILE
        self._written: dict[ObjectPath, tuple[Object, str]] = {}
        """Each object as it was last written to the file."""
        self.pictures = Pictures()
        """The objects of all kinds, as the store has them or, until it has been asked, as the file has them."""
        self.epoch, objects = self._read()
        self.pictures.put(objects)
        self._config = config
        self._follower = Follower(store, self._changed, name="the cluster's store")
        self._gateways: tuple[str | None, ...] = ()
        self._registered = self._followed = False
        self._away = self._disputed = self._unkept = self._mute = ""
        self._beat_due = 0.0
        self._wake, self._stopped = self._own.subscribe(), False
        self._identity = self._identified(config)
        self._generations = itertools.count(1)  # two threads take from it
        self.generation = 0
        """Another number as soon as `wishes` may have changed."""

    # ---------------------------------------------------------------- for the agent

    def wishes(self, config: AgentConfig) -> list[Wish]:
        """The neighbours by the objects that are known, for a node with this agent.toml."""
        return peers.wishes(self._objects.values(), self._me(config), self._gateway, self._secret)

    def configured(self, config: AgentConfig) -> AgentConfig:
        """This agent.toml with what the cluster says of this node."""
        return self._identified(config).completes(config)

    @property
    def labels(self) -> Mapping[str, str]:
        """Those of this node, by which objects select it."""
        return self._me(self._config).metadata.labels

    @property
    def trouble(self) -> str:
        """Why the store cannot be asked now, "" if it can."""
        return self._follower.trouble or self._away

    @property
    def synced(self) -> bool:
        """Whether the picture has been the store's in this life of the agent."""
        return self._follower.synced

    def kept(self, path: ObjectPath) -> Kept | None:
        """An object as the store had it last in this life of the agent, with its version for a compare-and-swap."""
        return self._follower.items.get(path)

    @property
    def _objects(self) -> Mapping[ObjectPath, Object]:
        return self.pictures.last.objects

    def renew(self, config: AgentConfig) -> None:
        """This agent.toml is in force from now on."""
        self._config = config
        self._wake.set()

    @property
    def looks(self) -> Mapping[str, Callable[[], str]]:
        """What is amiss, by its code in `status`."""
        return {
            "cluster-store": self._without_store,
            "cluster-objects": lambda: "; ".join(
                f"{' '.join(path)} cannot be read, what it said before holds: {why}"
                for path, why in self._follower.broken.items()
            ),
            "cluster-node": lambda: self._disputed or self._unkept or self._identity.amiss or self._mute,
        }

    def nodes(self) -> list[dict[str, Any]]:
        """Every node of the cluster, as far as this one has heard."""
        try:
            heard = self.store.heard()
        except Trouble:
            heard = {}
        return described((kept.object for kept in list(self._follower.items.values())), heard)

    def start(self, sessions: Callable[[], int | None]) -> None:
        """`sessions`: how many BGP sessions are established."""
        self._write(self._objects)  # the epoch must not change with a restart
        for name, run in (("cluster-follower", self._follower.run), ("cluster-member", lambda: self._keep(sessions))):
            threading.Thread(target=run, name=name, daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        self._follower.stop()
        self.pictures.close()

    def _without_store(self) -> str:
        if isinstance(self._follower.failure, Absent) and not self._objects:
            return ""  # nobody wants objects there
        return f"the cluster's store is away, and what it said last holds: {self.trouble}" if self.trouble else ""

    # ---------------------------------------------------------------- what the others say

    def _changed(self, paths: set[ObjectPath]) -> None:
        """In the follower's thread: what is new is kept on disk, and told to whoever waits for it."""
        if not self._registered:
            self._wake.set()
        items, broken, before = self._follower.items, self._follower.broken, self._objects
        if not self._followed:  # what the file has and the store has not is gone
            self._followed, paths = True, {*before, *items}
        found = dict(before)
        for path in paths:
            if path in items:
                found[path] = items[path].object.model_copy(update={"status": None})
            elif path not in broken:  # what nobody can read is what it was before
                found.pop(path, None)
        if different := {path for path in paths if found.get(path) != before.get(path)}:
            self._write(found)
            self.pictures.put(found)
            if any(path[0] in _OF_PEERS for path in different):
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

    def _write(self, objects: Mapping[ObjectPath, Object]) -> None:
        """Objects that have not changed are not encoded again."""
        known, self._written = self._written, {}
        for path, item in objects.items():
            same = path in known and known[path][0] is item
            self._written[path] = known[path] if same else (item, json.dumps(item.document()))
        items = ", ".join(text for _, text in self._written.values())
        text = f'{{"epoch": {json.dumps(self.epoch)}, "objects": [{items}]}}'
        try:
            atomic.put(self._file, text.encode(), 0o600)
            self._unkept = ""
        except OSError as error:
            self._unkept = (
                f"{self._file}: {error.strerror}: a restart without the store would not have what it says now"
            )

    # ---------------------------------------------------------------- what this node says

    def _identified(self, config: AgentConfig) -> Identity:
        """Who this node is; until its source says it, who it was when that was last kept on disk."""
        if (found := self._own.identity(config)) is not None:
            return found
        last = self.pictures.last.find(BGPNode, self.name)
        if last is None:
            bgp = config.bgp
            return Identity({}, (bgp.local_address,), bgp.asn, bgp.router_id) if bgp else Identity()
        return Identity(last.metadata.labels, last.spec.addresses, last.spec.asn, last.spec.router_id)

    def _me(self, config: AgentConfig) -> BGPNode:
        identity = self._identified(config)
        return BGPNode(
            metadata=Metadata(name=self.name, labels=dict(identity.labels)),
            spec=BGPNodeSpec(
                addresses=identity.addresses,
                asn=identity.asn,
                routerID=identity.router_id,
                epoch=self.epoch,
                version=__version__,
            ),
        )

    def _keep(self, sessions: Callable[[], int | None]) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                self._look()
                self._tell(sessions() or 0)
                self._beat()
            except Exception:
                log.exception("keeping this node's object failed because of a defect")
            self._wake.wait(SECONDS)

    def _secret(self, name: str) -> peers.Password:
        return self._secrets.of(name) if self._secrets is not None else peers.no_secrets(name)

    def _named(self) -> set[str]:
        """The Secrets that the peers of this node name."""
        wishes = peers.wishes(self._objects.values(), self._me(self._config), self._gateway, self._secret)
        mine = {wish.place for wish in wishes}
        return {
            item.spec.password_secret
            for item in self.pictures.last.of(BGPPeer)
            if item.spec.password_secret and " ".join(item.path) in mine
        }

    def _look(self) -> None:
        """Gateways come and go, and a Node changes, without an event in the store."""
        identity = self._identified(self._config)
        if identity != self._identity:
            self._identity = identity
            self.generation = next(self._generations)
        if self._secrets is not None and self._secrets.look(self._named()):
            self.generation = next(self._generations)
        if any(isinstance(item, BGPPeer) and item.spec.gateway for item in self._objects.values()):
            found = self._gateway(4), self._gateway(6)
            if found != self._gateways:
                self._gateways = found
                self.generation = next(self._generations)

    def _tell(self, sessions: int) -> None:
        """Have the object of this node say what is true. The follower tells when somebody changed it."""
        if not self._follower.synced or self._follower.trouble or self._own.identity(self._config) is None:
            return
        me = self._me(self._config)
        kept = self._follower.items.get(me.path)
        its = kept.object if kept else None
        same = isinstance(its, BGPNode) and its.spec.epoch == self.epoch
        self._disputed = ""
        if kept and not same and self._registered:
            self._disputed = f"another agent says that it is the node {self.name}: give one of them another name"
            return
        since = (its.status or {}).get("since") if same and its else None
        me = me.model_copy(update={"status": {"since": since or now(), "sessions": sessions}})
        try:
            if kept is None:
                self.store.create(self._owned(me))
                log.info("this node is %s in the cluster", self.name)
            elif _says(kept) != me.document():
                self.store.swap(me, kept.version)
            self._registered, self._away = True, ""
        except Conflict:
            pass  # the follower has not heard of it yet
        except Trouble as trouble:
            self._away = str(trouble)

    def _beat(self) -> None:
        """Say that this agent lives, now and then."""
        if not self._registered or self._follower.trouble or time.monotonic() < self._beat_due:
            return
        self._beat_due = time.monotonic() + BEAT_SECONDS
        try:
            self.store.beat(self.name)
            self._mute = ""
        except Trouble as trouble:
            self._mute = f"`bgpcni nodes` does not learn that this agent lives: {trouble}"

    def _owned(self, me: BGPNode) -> BGPNode:
        """With the object whose deletion is the end of this one too, where there is one: the Node."""
        if self._identity.owner is None:
            return me
        metadata = me.metadata.model_copy(update={"ownerReferences": [dict(self._identity.owner)]})
        return me.model_copy(update={"metadata": metadata})


def _secrets(own_node: OwnNode | None, run_dir: Path) -> Secrets | None:
    if own_node is None:
        return None
    from bgpcni.cluster.secrets import Secrets

    return Secrets(own_node.api, run_dir)


def _says(kept: Kept) -> object:
    return kept.object.document()
