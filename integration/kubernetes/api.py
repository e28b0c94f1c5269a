"""The double's HTTP: requests parsed, answers in the form that was asked for, watches as streams.

JSON and YAML only: who asks for protobuf first, as kubectl's `cordon` does, gets JSON, which it takes as well; who
takes nothing else gets 406, as from a server for custom resources.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import yaml
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from integration.kubernetes import discovery, failures, tables
from integration.kubernetes.access import Asked
from integration.kubernetes.clock import Clock
from integration.kubernetes.failures import Failure
from integration.kubernetes.kinds import Kind, Object
from integration.kubernetes.machinery import Machinery, Options, now
from integration.kubernetes.objects import Key
from integration.kubernetes.selectors import Selection, selection
from integration.kubernetes.watches import Watch

MOST = 3 << 20
"""Octets of a body."""
LARGE = 128 << 10
"""Octets from which an answer is compressed, where the client takes that."""
PATCHES = {
    "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
}  # fmt: skip
_VERB = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}


@dataclass(slots=True)
class Seen:
    """One request, and the status of its answer."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    user: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    watch: bool = False

    @property
    def key(self) -> Key:
        return (self.namespace if self.kind.namespaced else "", self.name)


@dataclass(frozen=True, slots=True)
class Form:
    """In which form the client wants its answer: `shape` is "", Table or PartialObjectMetadata."""

    media: str = "application/json"
    shape: str = ""


@dataclass(slots=True)
class Faults:
    """What goes wrong on purpose, above TCP. `refusals`: the next answers, whatever is asked."""

    refusals: list[Failure] = field(default_factory=list)


class Api:
    """The ASGI application."""

    def __init__(self, machinery: Machinery, clock: Clock) -> None:
        self.machinery, self.clock = machinery, clock
        self.seen: list[Seen] = []
        self.faults = Faults()
        self.watching: list[Seen] = []
        """The requests whose streams are open."""
        self.closing = False
        """True: streams end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        seen = Seen(request.method, scope["path"], dict(request.query_params), dict(request.headers), b"")
        self.seen.append(seen)
        options = Options()
        try:
            seen.body = await request.body()
            response = self._answer(seen, options)
        except ClientDisconnect:
            return
        except Failure as failure:
            response = self._failed(failure, seen)
        for warning in options.warnings:
            response.headers.append("Warning", f"299 - {json.dumps(warning)}")
        seen.status = response.status_code
        await response(scope, receive, send)

    # ---------------------------------------------------------------- requests

    def _answer(self, seen: Seen, options: Options) -> Response:
        """Raises Failure."""
        if self.faults.refusals:
            raise self.faults.refusals.pop(0)
        if len(seen.body) > MOST:
            raise Failure(413, "RequestEntityTooLarge", f"Request entity too large: limit is {MOST}")
        seen.user = self.machinery.access.user(seen.headers.get("authorization"))
        words = seen.path.removeprefix("/").removesuffix("/").split("/")
        if "" in words and words != [""]:
            raise failures.no_such_page()
        resource = _split(words)
        if resource is None:
            self.machinery.access.refuse(seen.user, Asked("get", path=seen.path))
            return self._page(seen, words)
        return self._resource(seen, options, *resource)

    def _resource(self, seen: Seen, options: Options, group: str, version: str, rest: list[str]) -> Response:
        named = _target(rest)
        namespace, plural, name, subresource, watch = named
        query = seen.query
        watch = watch or (query.get("watch") in ("true", "1") and not name)
        verb = "watch" if watch else _VERB.get(seen.method, "")
        if verb == "get" and not name:
            verb = "list"
        if verb == "delete" and not name:
            verb = "deletecollection"
        asked_name = name
        if match := re.fullmatch(r"metadata\.name=([^,]*)", query.get("fieldSelector", "")):
            asked_name = name or match[1]
        resource = f"{plural}/{subresource}" if subresource else plural
        self.machinery.access.refuse(seen.user, Asked(verb, group, resource, namespace, asked_name))
        if group == "authorization.k8s.io":
            return self._review(seen)
        kind = self.machinery.kind(group, version, plural)
        if kind.name == "Endpoints":
            options.warnings.append("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        self._refuse_unserved(group, version)
        target = Target(kind, namespace, name, subresource, watch)
        if subresource and not (subresource == "status" and kind.status):
            return self._odd_subresource(seen, target, options)
        if watch:
            return self._watch(seen, target)
        options.manager = query.get("fieldManager") or seen.headers.get("user-agent", "unknown").partition("/")[0]
        options.dry = query.get("dryRun") == "All"
        options.validation = query.get("fieldValidation") or "Warn"
        options.subresource = subresource
        options.force = query.get("force") == "true"
        work = {
            "get": self._get, "list": self._list, "create": self._create, "update": self._update,
            "patch": self._patch, "delete": self._delete, "deletecollection": self._delete_all,
        }.get(verb)  # fmt: skip
        if work is None or (verb == "create" and name) or verb not in kind.verbs:
            raise failures.not_allowed()
        if verb in ("update", "patch") and not name:
            raise failures.not_allowed()
        return work(seen, target, options)

    def _refuse_unserved(self, group: str, version: str) -> None:
        left = self.machinery.unserved.get((group, version), 0)
        if left:
            self.machinery.unserved[group, version] = left - 1
            if left > 1:
                raise failures.no_such_page()
            raise Failure(429, "TooManyRequests", "storage is (re)initializing", retry_after=1)

    def _get(self, seen: Seen, target: Target, options: Options) -> Response:
        form = self._form(seen)
        found = self.machinery.objects.get(target.kind, target.key)
        if found is None:
            raise failures.not_found(target.kind, target.name)
        return self._object(seen, target.kind, found, form)

    def _list(self, seen: Seen, target: Target, options: Options) -> Response:
        form, query = self._form(seen), seen.query
        chosen = self._selection(seen, target)
        limit, token = int(query.get("limit") or 0), query.get("continue", "")
        text, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
        revision = self._revision(text) if text else None
        if token and text not in ("", "0"):
            raise failures.bad_request("specifying resource version is not allowed when using continue")
        if revision is not None and revision > self.machinery.objects.revision:
            message = f"Timeout: Too large resource version: {revision}, current: {self.machinery.objects.revision}"
            causes = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
            raise Failure(504, "Timeout", message, causes, retry_after=1)
        exact = bool(revision) and (match == "Exact" or (bool(limit) and not match))
        if text == "0":
            limit = 0
        items, metadata = self.machinery.objects.page(
            target.kind, target.namespace, chosen, limit, token, revision if exact else None
        )
        return self._many(target.kind, items, metadata, form, seen)

    def _create(self, seen: Seen, target: Target, options: Options) -> Response:
        body = self._body(seen, target.kind, options)
        made = self.machinery.create(target.kind, target.namespace, body, options)
        return self._object(seen, target.kind, made, self._form(seen), 201)

    def _update(self, seen: Seen, target: Target, options: Options) -> Response:
        body = self._body(seen, target.kind, options)
        found, made = self.machinery.update(target.kind, target.key, body, options)
        return self._object(seen, target.kind, found, self._form(seen), 201 if made else 200)

    def _patch(self, seen: Seen, target: Target, options: Options) -> Response:
        media = seen.headers.get("content-type", "").partition(";")[0].strip()
        if media not in PATCHES:
            raise Failure(415, "UnsupportedMediaType", "415: Unsupported Media Type")
        if target.kind.custom and media == "application/strategic-merge-patch+json":
            text = "the body of the request was in an unknown format - accepted media types include: "
            accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            raise Failure(415, "UnsupportedMediaType", text + accepted)
        if media != "application/apply-patch+yaml":
            body = _json(seen.body, target.kind, options)
            found = self.machinery.patch(target.kind, target.key, media, body, options)
            return self._object(seen, target.kind, found, self._form(seen))
        if not seen.query.get("fieldManager"):
            causes = [("FieldValueRequired", "fieldManager", "Required value: is required for apply patch")]
            raise failures.invalid_options("PatchOptions", causes)
        found, made = self.machinery.apply(target.kind, target.key, yaml.safe_load(seen.body), options)
        return self._object(seen, target.kind, found, self._form(seen), 201 if made else 200)

    def _delete(self, seen: Seen, target: Target, options: Options) -> Response:
        body = self._delete_options(seen)
        found, gone = self.machinery.delete(target.kind, target.key, body, options)
        if not gone or target.kind.name == "Pod":
            return self._object(seen, target.kind, found, self._form(seen))
        details = {"name": target.name, "group": target.kind.group, "kind": target.kind.plural,
                   "uid": found["metadata"]["uid"]}  # fmt: skip
        details = {name: value for name, value in details.items() if value}
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return self._json(success, seen)

    def _delete_all(self, seen: Seen, target: Target, options: Options) -> Response:
        chosen = self._selection(seen, target)
        body = self._delete_options(seen)
        gone = self.machinery.delete_all(target.kind, target.namespace, chosen, body, options)
        metadata = {"resourceVersion": str(self.machinery.objects.revision)}
        return self._many(target.kind, gone, metadata, self._form(seen), seen)

    def _delete_options(self, seen: Seen) -> Mapping[str, Any]:
        body: dict[str, Any] = json.loads(seen.body) if seen.body.strip() else {}
        if "propagationPolicy" in seen.query:
            body["propagationPolicy"] = seen.query["propagationPolicy"]
        if "gracePeriodSeconds" in seen.query:
            body["gracePeriodSeconds"] = int(seen.query["gracePeriodSeconds"])
        return body

    def _odd_subresource(self, seen: Seen, target: Target, options: Options) -> Response:
        """The few that are no status: a pod's binding and eviction, and a service account's token."""
        machinery, kind = self.machinery, target.kind
        found = machinery.objects.get(kind, target.key)
        body = json.loads(seen.body or b"{}")
        if found is None:
            raise failures.not_found(kind, target.name)
        if (kind.name, target.subresource) == ("Pod", "binding"):
            machinery.objects.put(
                kind, target.key, found | {"spec": found["spec"] | {"nodeName": body["target"]["name"]}}
            )
            return self._json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}, seen, 201)
        if (kind.name, target.subresource) == ("Pod", "eviction"):
            machinery.evict(kind, target.key, body.get("deleteOptions") or {}, options)
            return self._json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}, seen, 201)
        if (kind.name, target.subresource) == ("ServiceAccount", "token"):
            kept = ("name", "namespace", "uid", "creationTimestamp", "managedFields")
            metadata = {name: found["metadata"][name] for name in kept}
            spec = {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 3600, "boundObjectRef": None}
            token = machinery.access.issue(target.namespace, target.name)
            status = {"token": token, "expirationTimestamp": "2100-01-01T00:00:00Z"}
            answer = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": metadata,
                      "spec": spec | body.get("spec", {}), "status": status}  # fmt: skip
            return self._json(answer, seen, 201)
        raise failures.no_such_resource()

    def _review(self, seen: Seen) -> Response:
        body = json.loads(seen.body)
        wanted = body["spec"].get("resourceAttributes") or {}
        resource = "/".join(filter(None, (wanted.get("resource", ""), wanted.get("subresource", ""))))
        asked = Asked(wanted.get("verb", ""), wanted.get("group", ""), resource, wanted.get("namespace", ""),
                      wanted.get("name", ""))  # fmt: skip
        allowed = self.machinery.access.may(seen.user, asked)
        answer = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
                  "spec": body["spec"], "status": {"allowed": allowed}}  # fmt: skip
        return self._json(answer, seen, 201)

    # ---------------------------------------------------------------- watches

    def _watch(self, seen: Seen, target: Target) -> Response:
        form, query = self._form(seen), seen.query
        chosen = self._selection(seen, target)
        text, initial = query.get("resourceVersion", ""), query.get("sendInitialEvents") == "true"
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            message = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            causes = [("FieldValueForbidden", "resourceVersionMatch", message)]
            raise failures.invalid_options("ListOptions", causes)
        try:
            since = int(text or 0)
        except ValueError:
            raise Failure(500, "", _not_a_number(text)) from None
        watch = Watch(self.machinery.objects, target.kind, target.namespace, chosen, query, form.shape)
        return StreamingResponse(self._open(seen, watch, since), media_type=form.media)

    async def _open(self, seen: Seen, watch: Watch, since: int) -> AsyncIterator[bytes]:
        self.watching.append(seen)
        try:
            async for octets in watch.stream(since, self.clock, lambda: self.closing):
                yield octets
        finally:
            self.watching.remove(seen)

    # ---------------------------------------------------------------- what is no object

    def _page(self, seen: Seen, words: list[str]) -> Response:
        kinds = self.machinery.kinds()
        path = "/".join(words)
        if path in ("healthz", "livez", "readyz"):
            verbose = "[+]ping ok\n" * ("verbose" in seen.query) + f"{path} check passed" * ("verbose" in seen.query)
            return Response(verbose or "ok", media_type="text/plain")
        if path == "version":
            return self._json(discovery.VERSION, seen)
        if path in ("api", "apis"):
            wanted = self._discovery(seen)
            if wanted:
                return self._marked(discovery.aggregated(kinds, core=path == "api"), seen, discovery.AGGREGATED)
            host = seen.headers.get("host", "")
            return self._json(discovery.api_versions(host) if path == "api" else discovery.groups(kinds), seen)
        if words[0] == "openapi" and words[1:2] == ["v3"]:
            if len(words) == 2:
                text = json.dumps(discovery.openapi_paths(kinds))
                return Response(text, media_type="text/plain")
            document = discovery.openapi(kinds, "/".join(words[2:]))
            if document is not None:
                response = self._marked(document, seen, "application/json")
                if "hash" in seen.query:  # it is of this content, and clients keep it
                    response.headers["Cache-Control"] = "public, immutable"
                    response.headers["Expires"] = formatdate(time.time() + 365 * 86400, usegmt=True)
                return response
        elif path == "openapi/v2":
            raise Failure(503, "ServiceUnavailable", "the double has no OpenAPI v2")
        elif words[0] in ("api", "apis"):
            group_version = "/".join(words[1:])
            listed = discovery.resources(kinds, group_version)
            if listed is not None:
                return self._json(listed, seen)
        raise failures.no_such_page()

    def _discovery(self, seen: Seen) -> bool:
        """Whether aggregated discovery is wanted. Raises Failure."""
        for entry in seen.headers.get("accept", "*/*").split(","):
            media, *parameters = [part.strip() for part in entry.split(";")]
            if "g=apidiscovery.k8s.io" in parameters:
                if "v=v2" in parameters:
                    return True
            elif media in ("application/json", "*/*", "application/*"):
                return False
        accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
        raise Failure(406, "NotAcceptable", f"only the following media types are accepted: {accepted}")

    def _marked(self, document: Any, seen: Seen, media: str) -> Response:
        mark = discovery.etag(document)
        headers = {"Etag": mark, "Vary": "Accept"}
        if seen.headers.get("if-none-match") == mark:
            return Response(status_code=304, headers=headers)
        response = self._json(document, seen, media=media)
        response.headers.update(headers)
        return response

    # ---------------------------------------------------------------- forms

    def _form(self, seen: Seen) -> Form:
        """Raises Failure 406."""
        for entry in seen.headers.get("accept", "*/*").split(","):
            media, *rest = [part.strip() for part in entry.split(";")]
            parameters = dict(part.partition("=")[::2] for part in rest)
            if media in ("*/*", "application/*"):
                return Form()
            if media in ("application/json", "application/yaml") and parameters.get("v", "v1") in ("v1", "v1beta1"):
                shape = parameters.get("as", "")
                if shape in ("", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"):
                    return Form(media, shape.removesuffix("List"))
        available = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
        text = f"406: Not Acceptable\n\nAvailable representations: {available}"
        raise Failure(406, "NotAcceptable", text)

    def _object(self, seen: Seen, kind: Kind, item: Object, form: Form, code: int = 200) -> Response:
        if form.shape == "Table":
            metadata = {"resourceVersion": item["metadata"].get("resourceVersion", "")}
            include = seen.query.get("includeObject", "Metadata")
            document = tables.table(kind, [item], metadata, now(), include, columns=True)
        elif form.shape:
            document = tables.partial(item)
        else:
            document = {"kind": kind.name, "apiVersion": kind.group_version} | item
        return self._written(document, form, seen, code)

    def _many(self, kind: Kind, items: list[Object], metadata: Object, form: Form, seen: Seen) -> Response:
        document: Object
        if form.shape == "Table":
            include = seen.query.get("includeObject", "Metadata")
            document = tables.table(kind, items, metadata, now(), include, columns=True)
        elif form.shape:
            document = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                        "items": [tables.partial(item) for item in items]}  # fmt: skip
        else:
            if kind.custom:
                metadata = {"continue": ""} | metadata
            document = {"kind": kind.list_name, "apiVersion": kind.group_version, "metadata": metadata, "items": items}
        return self._written(document, form, seen)

    def _written(self, document: Object, form: Form, seen: Seen, code: int = 200) -> Response:
        if form.media == "application/yaml":
            return Response(yaml.safe_dump(document), code, media_type=form.media)
        return self._json(document, seen, code)

    def _json(self, document: Any, seen: Seen, code: int = 200, media: str = "application/json") -> Response:
        pretty = seen.query.get("pretty") == "true" or seen.headers.get("user-agent", "").startswith("curl")
        text = json.dumps(document, indent=2) if pretty else json.dumps(document, separators=(",", ":"))
        body, headers = text.encode(), {}
        if len(body) > LARGE and "gzip" in seen.headers.get("accept-encoding", ""):
            body, headers = gzip.compress(body, 1), {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return Response(body, code, headers, media)

    def _failed(self, failure: Failure, seen: Seen) -> Response:
        if failure.text:
            return Response(f"{failure.message}\n", failure.code, media_type="text/plain")
        response = self._json(failure.status(), seen, failure.code)
        if failure.retry_after:
            response.headers["Retry-After"] = str(failure.retry_after)
        return response

    # ---------------------------------------------------------------- parts of requests

    def _selection(self, seen: Seen, target: Target) -> Selection:
        fields = seen.query.get("fieldSelector", "")
        if target.watch and target.name:
            fields = f"metadata.name={target.name}"
        return selection(target.kind, seen.query.get("labelSelector", ""), fields)

    def _revision(self, text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise failures.bad_request(f"invalid resource version: {_not_a_number(text)}") from None

    def _body(self, seen: Seen, kind: Kind, options: Options) -> Object:
        media = seen.headers.get("content-type", "").partition(";")[0].strip()
        if media == "application/vnd.kubernetes.protobuf":
            text = "the double takes no protobuf: `kubectl create -f` sends JSON where `kubectl create KIND` does not"
            raise Failure(415, "UnsupportedMediaType", text)
        body = yaml.safe_load(seen.body) if media == "application/yaml" else _json(seen.body, kind, options)
        if not isinstance(body, dict):
            raise failures.bad_request(f"the object provided is unrecognized (must be of type {kind.name})")
        return body


def _not_a_number(text: str) -> str:
    return f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'


def _json(body: bytes, kind: Kind, options: Options) -> Any:
    """Raises Failure; fields that are there twice are noted, and the last one counts."""

    def pairs(items: list[tuple[str, Any]]) -> Any:
        found = _Doubled(items)
        names = [name for name, _ in items]
        found.doubled = list(dict.fromkeys(name for name in names if names.count(name) > 1))
        return found

    try:
        document = json.loads(body or b"{}", object_pairs_hook=pairs)
    except ValueError:
        text = body.decode(errors="replace")
        raise failures.bad_request(
            f"the object provided is unrecognized (must be of type {kind.name}): couldn't get version/kind; json parse "
            f"error: unexpected end of JSON input ({text})"
        ) from None
    options.duplicates = list(_doubled(document, ""))
    return json.loads(body or b"{}")


class _Doubled(dict[str, Any]):
    doubled: list[str]


def _doubled(value: Any, path: str) -> list[str]:
    found = []
    if isinstance(value, _Doubled):
        found += [f"{path}{name}" for name in value.doubled]
        for name, item in value.items():
            found += _doubled(item, f"{path}{name}.")
    elif isinstance(value, list):
        for item in value:
            found += _doubled(item, path)
    return found


def _split(words: list[str]) -> tuple[str, str, list[str]] | None:
    """Group, version and the rest of a path of a resource; None for another path."""
    if words[0] == "api" and len(words) > 2:
        return "", words[1], words[2:]
    if words[0] == "apis" and len(words) > 3:
        return words[1], words[2], words[3:]
    return None


def _target(rest: list[str]) -> tuple[str, str, str, str, bool]:
    """Namespace, plural, name, subresource, whether it is the old path of a watch. Raises Failure."""
    watch = rest[0] == "watch"
    rest = rest[watch:]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    elif rest[:1] == ["namespaces"] and len(rest) > 1:
        return rest[1], "namespaces", rest[1], "/".join(rest[2:]), watch
    if not rest or len(rest) > 3:
        raise failures.no_such_page()
    plural, name, subresource = (*rest, "", "")[:3]
    return namespace, plural, name, subresource, watch
