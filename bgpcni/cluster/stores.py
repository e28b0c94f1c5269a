"""Stores by name: loaded through stevedore from the entry-point group `bgpcni.stores`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpcni import extensions
from bgpcni.cluster.names import node_name
from bgpcni.cluster.store import Store
from bgpcni.config.agent import ClusterTable
from bgpcni.errors import InvalidConfiguration

if TYPE_CHECKING:
    from bgpcni.cluster.own_node import OwnNode

GROUP = "bgpcni.stores"


def open_store(table: ClusterTable) -> Store:
    """A client of the store of `[cluster]`, made with its table `[cluster.NAME]`. It does not connect yet.

    Raises InvalidConfiguration for a store that is not installed, or whose library is not.
    """
    name = table.store
    try:
        found = extensions.load(GROUP, name)
    except extensions.NotInstalled as error:
        raise InvalidConfiguration(f"cluster.store: no store {name!r} is installed; installed: {error.known}") from None
    except ImportError as error:
        text = f"its client is not installed ({error}): pip install 'bgpcni[{name}]'"
        raise InvalidConfiguration(f"cluster.store: {name}: {text}") from None
    except (Exception, SystemExit) as error:  # importing somebody else's store may raise anything
        raise InvalidConfiguration(f"cluster.store: {name} cannot be loaded: {error!r}") from error
    if not (isinstance(found, type) and issubclass(found, Store)):
        raise InvalidConfiguration(f"cluster.store: {name} is no bgpcni.cluster.store.Store")
    make: type = found
    store: Store = make(getattr(table, name))
    return store


def own_node(store: Store, table: ClusterTable) -> OwnNode | None:
    """The Node object of this node, where the store is Kubernetes."""
    if table.store != "kubernetes":
        return None
    from bgpcni.cluster.kubernetes_store import Kubernetes
    from bgpcni.cluster.own_node import OwnNode

    return OwnNode(store.api, node_name(table)) if isinstance(store, Kubernetes) else None
