"""Who a request is from, and what they may do: bearer tokens, and the roles that are stored as objects (RBAC)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from integration.kubernetes.failures import Failure
from integration.kubernetes.kinds import Object

if TYPE_CHECKING:
    from integration.kubernetes.machinery import Machinery

ANONYMOUS = "system:anonymous"
ADMINISTRATOR = "kubernetes-admin"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants to do."""

    verb: str
    group: str = ""
    resource: str = ""
    """With its subresource: `nodes/status`."""
    namespace: str = ""
    name: str = ""
    path: str = ""
    """For what is no resource."""


class Access:
    """`tokens`: the user behind each."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self.admin = secrets.token_hex(16)
        self.tokens = {self.admin: ADMINISTRATOR}

    def user(self, authorization: str | None) -> str:
        """Raises Failure 401 for a token that nobody has."""
        if not authorization:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or token.strip() not in self.tokens:
            raise Failure(401, "Unauthorized", "Unauthorized")
        return self.tokens[token.strip()]

    def issue(self, namespace: str, account: str) -> str:
        """A token of a service account."""
        token = secrets.token_hex(16)
        self.tokens[token] = f"system:serviceaccount:{namespace}:{account}"
        return token

    def revoke(self, token: str) -> None:
        """From now on this token is nobody's."""
        del self.tokens[token]

    def may(self, user: str, asked: Asked) -> bool:
        if user == ADMINISTRATOR or (asked.path and user != ANONYMOUS) or asked.resource == "selfsubjectaccessreviews":
            return True
        return any(_covers(rule, asked) for rule in self._rules(user, asked.namespace))

    def refuse(self, user: str, asked: Asked) -> None:
        """Raises Failure 403."""
        if self.may(user, asked):
            return
        if asked.path:
            raise Failure(403, "Forbidden", f'forbidden: User "{user}" cannot get path "{asked.path}"', {})
        plural = asked.resource.partition("/")[0]
        called = f"{plural}.{asked.group}" if asked.group else plural
        where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
        text = f'User "{user}" cannot {asked.verb} resource "{asked.resource}" in API group "{asked.group}" {where}'
        subject = f'{called} "{asked.name}"' if asked.name else called
        details = {"name": asked.name, "group": asked.group, "kind": plural}
        details = {key: value for key, value in details.items() if value}
        raise Failure(403, "Forbidden", f"{subject} is forbidden: {text}", details)

    def _rules(self, user: str, namespace: str) -> Iterator[Object]:
        for plural, place in (("clusterrolebindings", ""), ("rolebindings", namespace)):
            if plural == "rolebindings" and not place:
                continue
            for binding in self._all(plural, place):
                if any(_is(subject, user) for subject in binding.get("subjects") or ()):
                    role = binding["roleRef"]
                    within = "" if role["kind"] == "ClusterRole" else place
                    for found in self._all("clusterroles" if not within else "roles", within):
                        if found["metadata"]["name"] == role["name"]:
                            yield from found.get("rules") or ()

    def _all(self, plural: str, namespace: str) -> list[Object]:
        kind = self._machinery.kind("rbac.authorization.k8s.io", "v1", plural)
        return self._machinery.objects.all(kind, namespace)


def _is(subject: Object, user: str) -> bool:
    if subject["kind"] == "ServiceAccount":
        return user == f"system:serviceaccount:{subject.get('namespace')}:{subject['name']}"
    return bool(subject["kind"] == "User" and subject["name"] == user)


def _covers(rule: Object, asked: Asked) -> bool:
    def within(name: str, wanted: str) -> bool:
        return "*" in rule.get(name, ()) or wanted in rule.get(name, ())

    names = rule.get("resourceNames")
    return (
        within("verbs", asked.verb)
        and within("apiGroups", asked.group)
        and within("resources", asked.resource)
        and (not names or asked.name in names)
    )
