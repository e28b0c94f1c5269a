"""What kinds of objects the double has: those built in, and those that a CustomResourceDefinition adds. Pure data.

Built-in kinds are kept without a schema of their own: what the project does not use of them is stored as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
CUSTOM_VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")
NAMES = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a Table; `path`: where its value is, as `additionalPrinterColumns` has it, "" for one computed."""

    name: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of one version of one API group."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    singular: str = ""
    status: bool = False
    """Whether it has the subresource `status`."""
    status_takes_labels: bool = True
    """Whether a write to `status` may change labels and annotations: of a built-in kind only."""
    fields: tuple[str, ...] = ()
    """Its fields at the top level; unknown ones get a warning. Empty: any."""
    selectable: tuple[str, ...] = ()
    """What a fieldSelector may name besides name and namespace."""
    merged_by: Mapping[str, str] = field(default_factory=dict)
    """Lists that a strategic merge patch merges item by item, and by which key; `*` stands for items."""
    generation: bool = False
    """Whether metadata.generation counts the changes of its spec."""
    custom: bool = False
    schema: Object | None = None
    columns: tuple[Column, ...] = ()
    verbs: tuple[str, ...] = VERBS

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As messages name the resource: `widgets.example.dev`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        return f"{self.name}.{self.group}" if self.group else self.name

    @property
    def list_name(self) -> str:
        return f"{self.name}List"

    @property
    def one(self) -> str:
        return self.singular or self.name.lower()


_POD_LISTS = {
    "containers": "name",
    "containers.*.env": "name",
    "containers.*.ports": "containerPort",
    "containers.*.volumeMounts": "mountPath",
    "initContainers": "name",
    "initContainers.*.env": "name",
    "initContainers.*.volumeMounts": "mountPath",
    "volumes": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
}
_OF_PODS = {f"spec.{path}": key for path, key in _POD_LISTS.items()}
_OF_TEMPLATES = {f"spec.template.spec.{path}": key for path, key in _POD_LISTS.items()}
_APPS = {"group": "apps", "version": "v1", "status": True, "generation": True, "merged_by": _OF_TEMPLATES}
_RBAC = {"group": "rbac.authorization.k8s.io", "version": "v1"}

BUILT_IN: tuple[Kind, ...] = (
    Kind(
        "", "v1", "nodes", "Node", namespaced=False, short=("no",), status=True, selectable=("spec.unschedulable",),
        merged_by={"status.conditions": "type", "status.addresses": "type"},
    ),
    Kind(
        "", "v1", "pods", "Pod", short=("po",), categories=("all",), status=True, generation=True,
        selectable=(
            "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
            "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName",
        ),
        merged_by=_OF_PODS | {"status.conditions": "type", "status.podIPs": "ip"},
    ),
    Kind(
        "", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",), status=True, selectable=("status.phase",),
        verbs=tuple(verb for verb in VERBS if verb != "deletecollection"),
        merged_by={"status.conditions": "type"},
    ),
    Kind(
        "", "v1", "configmaps", "ConfigMap", short=("cm",),
        fields=("data", "binaryData", "immutable"),
    ),
    Kind("", "v1", "secrets", "Secret", selectable=("type",)),
    Kind("", "v1", "serviceaccounts", "ServiceAccount", short=("sa",), merged_by={"secrets": "name"}),
    Kind("", "v1", "services", "Service", short=("svc",), categories=("all",), status=True),
    Kind("", "v1", "endpoints", "Endpoints", short=("ep",)),
    Kind(
        "", "v1", "events", "Event", short=("ev",),
        selectable=(*(f"involvedObject.{name}" for name in ("name", "namespace", "kind", "uid")), "reason", "type"),
    ),
    Kind("events.k8s.io", "v1", "events", "Event", short=("ev",)),
    Kind(plural="daemonsets", name="DaemonSet", short=("ds",), categories=("all",), **_APPS),  # type: ignore[arg-type]
    Kind(plural="deployments", name="Deployment", short=("deploy",), categories=("all",), **_APPS),  # type: ignore[arg-type]
    Kind("coordination.k8s.io", "v1", "leases", "Lease"),
    Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, short=("pc",)),
    Kind(plural="roles", name="Role", **_RBAC),  # type: ignore[arg-type]
    Kind(plural="rolebindings", name="RoleBinding", **_RBAC),  # type: ignore[arg-type]
    Kind(plural="clusterroles", name="ClusterRole", namespaced=False, **_RBAC),  # type: ignore[arg-type]
    Kind(plural="clusterrolebindings", name="ClusterRoleBinding", namespaced=False, **_RBAC),  # type: ignore[arg-type]
    Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short=("pdb",), status=True, generation=True),
    Kind(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False,
        short=("crd", "crds"), categories=("api-extensions",), status=True, generation=True,
        merged_by={"status.conditions": "type"},
    ),
)  # fmt: skip

CRD = BUILT_IN[-1]


def of_definition(definition: Object) -> list[Kind]:
    """The kinds that a CustomResourceDefinition adds, one for each version that is served."""
    spec, names = definition["spec"], definition["spec"]["names"]
    return [
        Kind(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            name=names["kind"],
            namespaced=spec["scope"] == "Namespaced",
            short=tuple(names.get("shortNames", ())),
            categories=tuple(names.get("categories", ())),
            singular=names.get("singular", ""),
            status="status" in version.get("subresources", {}),
            status_takes_labels=False,
            selectable=tuple(item["jsonPath"].lstrip(".") for item in version.get("selectableFields", ())),
            generation=True,
            custom=True,
            schema=version["schema"]["openAPIV3Schema"],
            columns=tuple(_column(item) for item in version.get("additionalPrinterColumns", ())),
            verbs=CUSTOM_VERBS,
        )
        for version in spec["versions"]
        if version["served"]
    ]


def _column(item: Object) -> Column:
    described = item.get("description") or (
        "Custom resource definition column (in JSONPath format): " + item["jsonPath"]
    )
    return Column(
        item["name"], item["type"], item.get("format", ""), described, item.get("priority", 0), item["jsonPath"]
    )
