"""What an operator may call an attachment: every word that `ip`, `crictl`, `kubectl` or a log shows of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bgpcni.commands.answers.selection import is_of
from bgpcni.ip import ip_address, ip_network
from bgpcni.kernel.namespace import Namespace, NotANamespace
from bgpcni.model import Attachment
from bgpcni.store import Stored

KINDS = "container ID, pod (NAMESPACE/NAME), address, prefix, network, MAC, interface, bridge, PID, namespace or peer"
_NAMESPACE = re.compile(r"/proc/\d+/ns/net|(/var)?/run/netns/[^/]+|(/var)?/run/docker/netns/[^/]+")
"""Paths that the agent opens to see which namespace that is. Others are compared with the record's as text."""


@dataclass(frozen=True, slots=True)
class Handle:
    """`word`: as it was typed. `cookie`: of the namespace that it leads to, a PID's or that of a path."""

    word: str
    cookie: int | None = None

    @classmethod
    def of(cls, word: str) -> Handle:
        path = f"/proc/{word}/ns/net" if word.isascii() and word.isdigit() else word
        if not _NAMESPACE.fullmatch(path):
            return cls(word)
        try:
            with Namespace.of_container(path) as space:
                return cls(word, space.cookie)
        except (NotANamespace, OSError):  # no such process, no namespace, or the node's own
            return cls(word)

    def names(self, stored: Stored) -> bool:
        item = stored.attachment
        if self.word == stored.network:
            return True
        return item is not None and (self._is_word_of(item) or self._has_address_of(item))

    def _is_word_of(self, item: Attachment) -> bool:
        words = (item.host_veth, item.ifname, item.bridge, item.netns, item.pod and str(item.pod))
        return (
            is_of(item, self.word)
            or self.word in words
            or self.word.lower() == item.mac
            or (self.cookie is not None and self.cookie == item.cookie)
        )

    def _has_address_of(self, item: Attachment) -> bool:
        own = [ip_address(each.address.partition("/")[0]) for each in item.addresses]
        try:
            if "/" in self.word:
                return any(ip in ip_network(self.word, False) for ip in own)
            return ip_address(self.word) in own
        except ValueError:
            return False
