"""What an API server does with writes: defaults, validation, status apart from spec, finalizers, definitions of kinds.
No I/O, no HTTP: requests come with kind, key and options, and a Failure is raised.
"""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from integration.kubernetes import failures, ownership, patches, schema
from integration.kubernetes.access import Access
from integration.kubernetes.failures import Cause, Failure
from integration.kubernetes.kinds import BUILT_IN, CRD, Kind, Object, of_definition
from integration.kubernetes.objects import Key, Objects, home_of
from integration.kubernetes.ownership import Manager
from integration.kubernetes.selectors import Selection

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NOT_A_NAME = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName")
"""Metadata that no write can change."""
_NODE_INFO = (
    "machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeletVersion",
    "kubeProxyVersion", "operatingSystem", "architecture",
)  # fmt: skip


@dataclass(slots=True)
class Options:
    """What comes with a write besides the object. `warnings` are told to the client, come what may."""

    manager: str = "unknown"
    dry: bool = False
    validation: str = "Warn"
    subresource: str = ""
    force: bool = False
    warnings: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    """Fields that were there twice in the body."""


def now() -> datetime:
    return datetime.now(UTC)


def stamp(time: datetime | None = None) -> str:
    return (time or now()).strftime("%Y-%m-%dT%H:%M:%SZ")


class Machinery:
    """The objects, the kinds, and who may do what."""

    def __init__(self) -> None:
        self.objects = Objects()
        self._kinds = {(kind.group, kind.version, kind.plural): kind for kind in BUILT_IN}
        self.access = Access(self)
        self.unserved: dict[tuple[str, str], int] = {}
        """Definitions that are Established and not served yet: how many more requests get an error."""
        for name in NAMESPACES:
            self.create(self.kind("", "v1", "namespaces"), "", {"metadata": {"name": name}}, Options("kube-apiserver"))

    # ---------------------------------------------------------------- kinds

    def kind(self, group: str, version: str, plural: str) -> Kind:
        """Raises Failure 404."""
        if (group, version) not in {(kind.group, kind.version) for kind in self._kinds.values()}:
            raise failures.no_such_page()
        if (group, version, plural) not in self._kinds:
            raise failures.no_such_resource()
        return self._kinds[group, version, plural]

    def kinds(self) -> list[Kind]:
        return list(self._kinds.values())

    def _named(self, plural: str) -> Kind:
        return next(kind for kind in BUILT_IN if kind.plural == plural)

    # ---------------------------------------------------------------- create

    def create(self, kind: Kind, namespace: str, body: Object, options: Options) -> Object:
        """Raises Failure."""
        wanted = self._typed(kind, namespace, body, options)
        metadata = wanted["metadata"]
        if metadata.get("resourceVersion"):
            raise Failure(500, "", "resourceVersion should not be set on objects to be created")
        if kind.namespaced:
            self._refuse_namespace(kind, namespace, metadata.get("name", ""))
        if not metadata.get("name") and metadata.get("generateName"):
            alphabet = "bcdfghjklmnpqrstvwxz2456789"
            metadata["name"] = metadata["generateName"] + "".join(secrets.choice(alphabet) for _ in range(5))
        name = str(metadata.get("name", ""))
        key = (namespace if kind.namespaced else "", name)
        if (found := self.objects.get(kind, key)) is not None:
            raise failures.already_exists(kind, name, deleting="deletionTimestamp" in found["metadata"])
        if kind.status and kind.name != "Node":
            wanted.pop("status", None)
        if kind.namespaced:
            metadata["namespace"] = namespace
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": stamp()}
        if kind.generation:
            metadata["generation"] = 1
        _without_empty_data(wanted)
        self._complete(kind, wanted)
        self._note(kind, None, wanted, options)
        _begin(kind, wanted)
        self._refuse(kind, wanted, None, options)
        if options.dry:
            return wanted
        made = self.objects.put(kind, key, wanted)
        if kind.plural == CRD.plural:
            self._define(made)
            made = made | {"status": {"conditions": None, "acceptedNames": {"plural": "", "kind": ""},
                                      "storedVersions": made["status"]["storedVersions"]}}  # fmt: skip
        return made

    def _refuse_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        space = self.objects.get(self._named("namespaces"), ("", namespace))
        if space is None:
            raise failures.not_found(self._named("namespaces"), namespace)
        if space["metadata"].get("deletionTimestamp"):
            cause = {"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated",
                     "field": "metadata.namespace"}  # fmt: skip
            text = f"unable to create new content in namespace {namespace} because it is being terminated"
            details = {"name": name, "group": kind.group, "kind": kind.plural, "causes": [cause]}
            details = {key: value for key, value in details.items() if value}
            raise Failure(403, "Forbidden", f'{kind.qualified} "{name}" is forbidden: {text}', details)

    def _typed(self, kind: Kind, namespace: str, body: Object, options: Options) -> Object:
        """The body as an object of this kind: what it says of itself compared with the path. Raises Failure."""
        found = body.get("kind", kind.name)
        if found != kind.name:
            api = body.get("apiVersion", kind.group_version)
            of = f"{api.rpartition('/')[2]}.{found}"
            text = f"converting ({of}) to ({kind.group or 'core'}.{kind.name}): unknown conversion"
            raise failures.bad_request(f'{found} in version "{api}" cannot be handled as a {kind.name}: {text}')
        wanted = deepcopy(body)
        metadata = wanted.setdefault("metadata", {}) or wanted.update(metadata={}) or wanted["metadata"]
        if kind.namespaced and metadata.get("namespace", namespace) != namespace:
            text = "the namespace of the provided object does not match the namespace sent on the request"
            raise failures.bad_request(text)
        if kind.custom:
            wanted |= {"apiVersion": kind.group_version, "kind": kind.name}
        else:
            wanted.pop("apiVersion", None), wanted.pop("kind", None)
        self._decode(kind, wanted, options)
        return wanted

    def _decode(self, kind: Kind, wanted: Object, options: Options, *, patch: bool = False) -> None:
        """Unknown fields are taken out, with a warning or an error; so are fields that are there twice."""
        if kind.schema is not None:
            unknown = list(schema.prune(wanted, kind.schema))
        else:
            known = ("apiVersion", "kind", "metadata", *kind.fields)
            unknown = [name for name in wanted if kind.fields and name not in known]
            for name in unknown:
                del wanted[name]
        findings = [f'unknown field "{path}"' for path in unknown]
        findings += [f'duplicate field "{path}"' for path in options.duplicates]
        if findings and options.validation == "Strict":
            text = f"strict decoding error: {', '.join(findings)}"
            if patch:
                shown = json.dumps(json.dumps(wanted, separators=(",", ":"), sort_keys=True))
                raise failures.invalid(' ""', {}, [("FieldValueInvalid", "patch", f"Invalid value: {shown}: {text}")])
            api = kind.version
            raise failures.bad_request(f'{kind.name} in version "{api}" cannot be handled as a {kind.name}: {text}')
        if options.validation != "Ignore":
            options.warnings += findings
        if kind.plural == "configmaps":
            for name, value in (wanted.get("data") or {}).items():
                if not isinstance(value, str):
                    found = {int: "number", float: "number", bool: "bool", dict: "object", list: "array"}[type(value)]
                    text = f"json: cannot unmarshal {found} into Go struct field ConfigMap.data of type string"
                    api = kind.group_version
                    raise failures.bad_request(f'ConfigMap in version "{api}" cannot be handled as a ConfigMap: {text}')
                del name
        for name in wanted["metadata"].get("finalizers") or ():
            if "/" not in name:
                why = "to avoid accidental conflicts with other finalizer writers"
                text = f'metadata.finalizers: "{name}": prefer a domain-qualified finalizer name {why}'
                options.warnings.append(text)

    def _complete(self, kind: Kind, wanted: Object) -> None:
        """The defaults of a new object."""
        metadata = wanted["metadata"]
        if kind.schema is not None:
            schema.fill(wanted, kind.schema)
        match kind.name:
            case "Node":
                spec = wanted.setdefault("spec", {})
                taint = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
                if taint not in spec.setdefault("taints", []):
                    spec["taints"].append(taint)
                status = wanted.setdefault("status", {})
                status.setdefault("daemonEndpoints", {"kubeletEndpoint": {"Port": 0}})
                status["nodeInfo"] = dict.fromkeys(_NODE_INFO, "") | status.get("nodeInfo", {})
            case "Pod":
                spec = wanted.setdefault("spec", {})
                spec.setdefault("terminationGracePeriodSeconds", 30)
                spec.setdefault("restartPolicy", "Always")
                spec.setdefault("serviceAccountName", "default")
            case "Namespace":
                metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
            case "CustomResourceDefinition":
                wanted["spec"].setdefault("conversion", {"strategy": "None"})
                names = wanted["spec"].get("names", {})
                if "kind" in names:
                    names.setdefault("singular", names["kind"].lower())
                    names.setdefault("listKind", f"{names['kind']}List")
            case "Event" if not kind.group:
                wanted |= {"eventTime": None, "reportingComponent": "", "reportingInstance": ""} | wanted
            case "Event":
                later: Object = {
                    "deprecatedSource": {},
                    "deprecatedFirstTimestamp": None,
                    "deprecatedLastTimestamp": None,
                }
                wanted |= later | wanted

    # ---------------------------------------------------------------- validation

    def _refuse(self, kind: Kind, wanted: Object, before: Object | None, options: Options) -> None:
        """Raises Failure for what cannot be stored."""
        name = str(wanted["metadata"].get("name", ""))
        if kind.name == "Pod" and before is None:
            account = wanted["spec"].get("serviceAccountName", "default")
            place = wanted["metadata"]["namespace"]
            if account != "default" and self.objects.get(self._named("serviceaccounts"), (place, account)) is None:
                text = f'error looking up service account {place}/{account}: serviceaccount "{account}" not found'
                details = {"name": name, "kind": kind.plural}
                raise Failure(403, "Forbidden", f'pods "{name}" is forbidden: {text}', details)
        if causes := list(self._causes(kind, wanted, before)):
            kind = self._named("events") if kind.name == "Event" else kind
            raise failures.invalid_object(kind, name, causes)

    def _causes(self, kind: Kind, wanted: Object, before: Object | None) -> Iterator[Cause]:
        metadata = wanted["metadata"]
        name = metadata.get("name", "")
        if not name:
            yield "FieldValueRequired", "metadata.name", "Required value: name or generateName is required"
        elif not _NAME.fullmatch(name) and not kind.group.startswith("rbac."):
            yield "FieldValueInvalid", "metadata.name", f'Invalid value: "{name}": {_NOT_A_NAME}'
        if before is not None and before["metadata"].get("deletionTimestamp"):
            more = set(metadata.get("finalizers") or ()) - set(before["metadata"].get("finalizers") or ())
            if more:
                listed = ", ".join(f'"{item}"' for item in sorted(more))
                text = (
                    "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
                    f"[]string{{{listed}}}"
                )
                yield "FieldValueForbidden", "metadata.finalizers", text
                yield "FieldValueForbidden", "metadata.finalizers", text
        match kind.name:
            case "Node":
                yield from self._node_causes(wanted, before)
            case "ConfigMap":
                if sum(len(value) for value in (wanted.get("data") or {}).values()) > 1 << 20:
                    yield "FieldValueTooLong", "[]", f"Too long: may not be more than {1 << 20} bytes"
            case "Event":
                yield from _event_causes(kind, wanted)
            case "CustomResourceDefinition":
                yield from _definition_causes(wanted)
        if kind.schema is not None:
            yield from schema.refusals(wanted, kind.schema, before)

    def _node_causes(self, wanted: Object, before: Object | None) -> Iterator[Cause]:
        for index, taint in enumerate(wanted["spec"].get("taints") or ()):
            effects = ("NoSchedule", "PreferNoSchedule", "NoExecute")
            if taint.get("effect") not in effects:
                listed = ", ".join(f'"{item}"' for item in effects)
                text = f'Unsupported value: "{taint.get("effect")}": supported values: {listed}'
                yield "FieldValueNotSupported", f"metadata.taints[{index}].effect", text
        old = before["spec"].get("podCIDRs") if before is not None else None
        if old and wanted["spec"].get("podCIDRs") != old:
            text = 'Forbidden: node updates may not change podCIDR except from "" to valid'
            yield "FieldValueForbidden", "spec.podCIDRs", text

    # ---------------------------------------------------------------- update, patch, apply

    def update(self, kind: Kind, key: Key, body: Object, options: Options) -> tuple[Object, bool]:
        """PUT: the object, and whether it was made by that. Raises Failure."""
        name = key[1]
        said = (body.get("metadata") or {}).get("name", "")
        if said != name:
            text = f"the name of the object ({said}) does not match the name on the URL ({name})"
            raise failures.bad_request(text)
        found = self.objects.get(kind, key)
        if found is None:
            if kind.name == "Lease":
                return self.create(kind, key[0], body, options), True
            raise failures.not_found(kind, name)
        wanted = self._typed(kind, key[0], body, options)
        if kind.custom and not wanted["metadata"].get("resourceVersion"):
            text = "Invalid value: 0: must be specified for an update"
            causes = [("FieldValueInvalid", "metadata.resourceVersion", text)]
            raise failures.invalid_object(kind, name, causes, plural=True)
        return self._replace(kind, key, found, wanted, options, labels=not (kind.custom and options.subresource)), False

    def patch(self, kind: Kind, key: Key, media: str, body: Any, options: Options) -> Object:
        """Merge, JSON and strategic merge patches. Raises Failure."""
        found = self.objects.get(kind, key)
        if found is None:
            raise failures.not_found(kind, key[1])
        if media == "application/json-patch+json":
            wanted = patches.json_patch(deepcopy(found), body)
        elif media == "application/merge-patch+json":
            wanted = patches.merge(found, body)
        else:
            wanted = patches.strategic(found, body, kind.merged_by)
        if not kind.custom:
            wanted.pop("apiVersion", None), wanted.pop("kind", None)
            if kind.plural == "nodes":
                _times(wanted)
        self._decode(kind, wanted, options, patch=True)
        return self._replace(kind, key, found, wanted, options, labels=kind.status_takes_labels)

    def apply(self, kind: Kind, key: Key, body: Object, options: Options) -> tuple[Object, bool]:
        """Server-side apply: the object, and whether it was made by that. Raises Failure."""
        if (body.get("metadata") or {}).get("managedFields"):
            raise failures.bad_request("metadata.managedFields must be nil")
        found = self.objects.get(kind, key)
        wanted = deepcopy(body)
        revision = wanted.get("metadata", {}).pop("resourceVersion", "")
        if found is not None and revision and revision != found["metadata"]["resourceVersion"]:
            raise failures.conflict(kind, key[1])
        if kind.schema is not None and (unknown := list(schema.prune(deepcopy(wanted), kind.schema))):
            place = wanted.get("metadata", {}).get("namespace", "")
            text = f"failed to create typed patch object ({place}/{key[1]}; {kind.group_version}, Kind={kind.name})"
            raise Failure(500, "", f"{text}: .{unknown[0]}: field not declared in schema")
        for name in ("apiVersion", "kind"):
            wanted.pop(name, None)
        manager = Manager(options.manager, "Apply", kind.group_version, options.subresource)
        after = ownership.apply(found, wanted, kind, manager, stamp(), force=options.force)
        if found is None:
            managed = after["metadata"].pop("managedFields")
            after["metadata"].pop("namespace", None)
            made = self.create(kind, key[0], after, Options("", dry=True, validation=options.validation))
            made["metadata"]["managedFields"] = managed
            return (made if options.dry else self.objects.put(kind, key, made)), True
        return self._replace(kind, key, found, after, options, labels=kind.status_takes_labels, noted=True), False

    def _replace(
        self,
        kind: Kind,
        key: Key,
        found: Object,
        wanted: Object,
        options: Options,
        *,
        labels: bool,
        noted: bool = False,
    ) -> Object:
        """Store `wanted` in place of `found`, with what this request may change of it. `noted`: its managers are."""
        metadata, old = wanted["metadata"], found["metadata"]
        if metadata.get("resourceVersion", "") not in ("", old["resourceVersion"]):
            raise failures.conflict(kind, key[1])
        managed = metadata.get("managedFields")
        if options.subresource == "status":
            after = deepcopy(found)
            after["status"] = wanted.get("status", {})
            if not after["status"] and "status" not in found:
                del after["status"]
            if labels and kind.status_takes_labels:
                for name in ("labels", "annotations"):
                    after["metadata"].pop(name, None)
                    if metadata.get(name):
                        after["metadata"][name] = metadata[name]
        else:
            after = deepcopy(wanted)
            after["metadata"] |= {name: old[name] for name in _KEPT if name in old}
            after["metadata"] |= {"name": key[1]} | ({"namespace": key[0]} if kind.namespaced else {})
            for name in ("labels", "annotations", "finalizers"):
                if not after["metadata"].get(name):
                    after["metadata"].pop(name, None)
            if kind.status:
                after.pop("status", None)
                if "status" in found:
                    after["status"] = deepcopy(found["status"])
        after["metadata"]["resourceVersion"] = old["resourceVersion"]
        if kind.schema is not None:
            schema.fill(after, kind.schema)
        _without_empty_data(after)
        self._refuse(kind, after, found, options)
        if kind.generation and _spec(after) != _spec(found):
            after["metadata"]["generation"] = old.get("generation", 0) + 1
        after["metadata"]["managedFields"] = old.get("managedFields", [])
        same = after == found
        if noted:
            after["metadata"]["managedFields"] = managed
            same = same and _managed(managed) == _managed(old.get("managedFields"))
        elif not same:
            self._note(kind, found, after, options)
        if same:
            return found
        gone = old.get("deletionTimestamp") and not after["metadata"].get("finalizers")
        if options.dry or gone:
            if gone and not options.dry:
                self.objects.put(kind, key, None)
            return after
        after = self.objects.put(kind, key, after)
        if kind.plural == CRD.plural and _spec(after) != _spec(found):
            self._undefine(found, ending=False)
            self._define(after)
        return after

    def _note(self, kind: Kind, before: Object | None, after: Object, options: Options) -> None:
        manager = Manager(options.manager, "Update", kind.group_version, options.subresource)
        ownership.updated(before, after, kind, manager, stamp())

    # ---------------------------------------------------------------- delete

    def delete(self, kind: Kind, key: Key, body: Mapping[str, Any], options: Options) -> tuple[Object, bool]:
        """The object as it is now, and whether it is gone. Raises Failure."""
        found = self.objects.get(kind, key)
        if found is None:
            raise failures.not_found(kind, key[1])
        policy = body.get("propagationPolicy")
        if policy not in (None, "Foreground", "Background", "Orphan"):
            text = f'Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
            raise failures.invalid_options("DeleteOptions", [("FieldValueNotSupported", "propagationPolicy", text)])
        metadata = found["metadata"]
        for what, name in (("UID", "uid"), ("ResourceVersion", "resourceVersion")):
            asked = (body.get("preconditions") or {}).get(name)
            if asked is not None and asked != metadata[name]:
                raise failures.precondition(kind, key[1], what, asked, metadata[name])
        if options.dry:
            return found, True
        if kind.name == "Namespace":
            return self._end_namespace(kind, key, found), False
        after = deepcopy(found)
        grace = body.get("gracePeriodSeconds")
        grace = after.get("spec", {}).get("terminationGracePeriodSeconds", 30) if grace is None else grace
        waits = kind.name == "Pod" and grace > 0 and after["spec"].get("nodeName")
        if policy == "Foreground":
            after["metadata"].setdefault("finalizers", []).append("foregroundDeletion")
        if after["metadata"].get("finalizers") or waits or kind.name == "Pod":
            grace = grace if waits else 0
            first = "deletionTimestamp" not in metadata
            if first or grace < metadata.get("deletionGracePeriodSeconds", 0):
                end = stamp(datetime.fromtimestamp(now().timestamp() + grace, UTC))
                after["metadata"] |= {"deletionTimestamp": end, "deletionGracePeriodSeconds": grace}
                if first and kind.generation:
                    after["metadata"]["generation"] = metadata.get("generation", 0) + 1
                after = self.objects.put(kind, key, after)
            if after["metadata"].get("finalizers") or waits:
                return after, False
        if kind.plural == CRD.plural:
            self._undefine(found, ending=True)
        return self.objects.put(kind, key, None), True

    def evict(self, kind: Kind, key: Key, body: Mapping[str, Any], options: Options) -> None:
        """Delete a pod unless a disruption budget selects it: no controller is here to allow it. Raises Failure."""
        found = self.objects.get(kind, key)
        if found is None:
            raise failures.not_found(kind, key[1])
        labels = (found["metadata"].get("labels") or {}).items()
        for budget in self.objects.all(self._named("poddisruptionbudgets"), key[0]):
            selected = budget["spec"].get("selector", {}).get("matchLabels") or {}
            if selected.items() <= labels:
                name = budget["metadata"]["name"]
                text = f"The disruption budget {name} is still being processed by the server."
                causes = {"causes": [{"reason": "DisruptionBudget", "message": text}]}
                message = "Cannot evict pod as it would violate the pod's disruption budget."
                raise Failure(429, "TooManyRequests", message, causes, retry_after=10)
        self.delete(kind, key, body, options)

    def delete_all(
        self, kind: Kind, namespace: str, selection: Selection, body: Mapping[str, Any], options: Options
    ) -> list[Object]:
        found = [item for item in self.objects.all(kind, namespace) if selection.takes(item)]
        keys = [(item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in found]
        return [self.delete(kind, key, body, options)[0] for key in keys]

    def _end_namespace(self, kind: Kind, key: Key, found: Object) -> Object:
        if found["metadata"].get("deletionTimestamp"):
            return found
        after = deepcopy(found)
        after["metadata"]["deletionTimestamp"] = stamp()
        after["status"]["phase"] = "Terminating"
        return self.objects.put(kind, key, after)

    # ---------------------------------------------------------------- definitions

    def _define(self, definition: Object) -> None:
        for kind in of_definition(definition):
            self._kinds[kind.group, kind.version, kind.plural] = kind
            self.objects.ended.discard(home_of(kind))
            self.objects.floors.setdefault(home_of(kind), self.objects.revision)

    def _undefine(self, definition: Object, *, ending: bool) -> None:
        for kind in of_definition(definition):
            del self._kinds[kind.group, kind.version, kind.plural]
            if ending:
                for item in self.objects.all(kind):
                    self.objects.put(kind, (item["metadata"].get("namespace", ""), item["metadata"]["name"]), None)
                self.objects.ended.add(home_of(kind))
                self.objects.floors.pop(home_of(kind), None)
                self.objects.tell()


def _condition(name: str, reason: str, message: str) -> Object:
    return {"type": name, "status": "True", "lastTransitionTime": stamp(), "reason": reason, "message": message}


def _begin(kind: Kind, wanted: Object) -> None:
    """What the server itself puts into a new object, which no manager owns."""
    match kind.name:
        case "Pod":
            wanted["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        case "Namespace":
            wanted["spec"] = {"finalizers": ["kubernetes"]}
            wanted["status"] = {"phase": "Active"}
        case "CustomResourceDefinition":
            stored = [version["name"] for version in wanted["spec"].get("versions", ()) if version.get("storage")]
            wanted["status"] = {
                "conditions": [
                    _condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                    _condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
                ],
                "acceptedNames": deepcopy(wanted["spec"].get("names", {})),
                "storedVersions": stored,
            }


def _without_empty_data(wanted: Object) -> None:
    for name in ("data", "binaryData"):
        if name in wanted and not wanted[name]:
            del wanted[name]


def _times(node: Object) -> None:
    for condition in node.get("status", {}).get("conditions") or ():
        condition.setdefault("lastHeartbeatTime", None)
        condition.setdefault("lastTransitionTime", None)


def _spec(item: Object) -> Object:
    return {name: value for name, value in item.items() if name not in ("metadata", "status", "apiVersion", "kind")}


def _managed(managed: Any) -> list[Object]:
    return [{name: value for name, value in entry.items() if name != "time"} for entry in managed or ()]


def _event_causes(kind: Kind, wanted: Object) -> Iterator[Cause]:
    if kind.group and not wanted.get("eventTime"):
        yield "FieldValueRequired", "eventTime", "Required value"
    about = wanted.get("involvedObject") or {}
    space = wanted["metadata"]["namespace"]
    if not kind.group and about.get("namespace", "") != space and (about.get("namespace") or space != "default"):
        text = f'Invalid value: "{about.get("namespace", "")}": does not match event.namespace'
        yield "FieldValueInvalid", "involvedObject.namespace", text


def _definition_causes(wanted: Object) -> Iterator[Cause]:
    spec = wanted["spec"]
    versions = spec.get("versions", ())
    expected = f"{spec.get('names', {}).get('plural')}.{spec.get('group')}"
    if wanted["metadata"].get("name") != expected:
        text = f'Invalid value: "{wanted["metadata"].get("name")}": must be spec.names.plural+"."+spec.group'
        yield "FieldValueInvalid", "metadata.name", text
    if sum(bool(version.get("storage")) for version in versions) != 1:
        text = "Invalid value: must have exactly one version marked as storage version"
        yield "FieldValueInvalid", "spec.versions", text
    for index, version in enumerate(versions):
        inner = (version.get("schema") or {}).get("openAPIV3Schema")
        where = (
            f"spec.versions[{index}].schema.openAPIV3Schema" if len(versions) > 1 else "spec.validation.openAPIV3Schema"
        )
        if inner is None:
            yield "FieldValueRequired", where, "Required value: schemas are required"
        else:
            yield from schema.unstructural(inner, where)
