"""nf_tables: elements of our own sets and maps, one packed message each, and tables made through `nft -j -f -`.

A container is one element of a set or map, so adding or removing it always costs the same, and nothing is dumped. The
nft executable makes the table, the chains and the rules once, from a JSON document (libnftables-json(5)). Our table is
called `bgpcni`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bgpcni.errors import KernelRefused
from bgpcni.kernel import uapi
from bgpcni.kernel.netlink import MAKE, attribute, attributes, each_attribute, nested, split

TABLE = "bgpcni"

_NEW, _GET, _DELETE = (
    uapi.NFNL_SUBSYS_NFTABLES << 8 | message
    for message in (uapi.NFT_MSG_NEWSETELEM, uapi.NFT_MSG_GETSETELEM, uapi.NFT_MSG_DELSETELEM)
)
_COMMENT_MAX = 126
_SECONDS = 30.0
_NOT_HERE = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)


class Element(NamedTuple):
    """One element: of a set, or with `goto` (a chain's name) of a verdict map.

    `key`: as the kernel has it, each part of a concatenation padded to four octets. `comment`: whose it is.
    """

    family: int
    name: str
    key: bytes
    goto: str | None = None
    comment: str = ""


def add(elements: Sequence[Element]) -> None:
    """Add all, or none. One that is there with another comment or verdict is replaced.

    Raises FileNotFoundError where table, set or chain are missing, else KernelRefused.
    """
    try:
        _commit([(_NEW, MAKE, element) for element in elements])
    except FileExistsError:
        for element in elements:
            _replace(element)


def remove(elements: Sequence[Element]) -> None:
    """Remove the elements that are there with the same comment. It is no error if they are not."""
    for element in elements:
        found = get(element)
        if found is not None and found.comment == element.comment:
            try:
                _commit([(_DELETE, 0, element)])
            except FileNotFoundError:
                pass  # gone between the two


def get(element: Element) -> Element | None:
    """The element that the kernel has with this key, None if there is none or no such set."""
    with _socket() as sock:
        sock.send(_message(_GET, 0, element.family, 1, _body(element, key_only=True)))
        data = sock.recv(1 << 16)
    kind = uapi.NLMSGHDR.unpack_from(data)[1]
    if kind == uapi.NLMSG_ERROR:
        code = -int(struct.unpack_from("=i", data, 16)[0])
        if code in _NOT_HERE:
            return None
        raise _refusal(code)
    listed = attributes(attributes(data, 20).get(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, b""), 0)
    return _element(element.family, element.name, listed.get(uapi.NFTA_LIST_ELEM, b""))


def elements(family: int, name: str) -> list[Element]:
    """All elements of a set or map of ours. None if there is no such set, or this kernel has no nf_tables."""
    try:
        sock = _socket()
    except KernelRefused:
        return []
    found: list[Element] = []
    with sock:
        whole = attribute(uapi.NFTA_SET_ELEM_LIST_TABLE, TABLE) + attribute(uapi.NFTA_SET_ELEM_LIST_SET, name)
        sock.send(_message(_GET, uapi.NLM_F_DUMP, family, 1, whole))
        while True:
            for kind, _, _, body in split(sock.recv(1 << 18)):
                if kind == uapi.NLMSG_DONE:
                    return found
                if kind == uapi.NLMSG_ERROR:
                    code = -int(struct.unpack_from("=i", body)[0])
                    if code in _NOT_HERE:
                        return []
                    raise _refusal(code)
                elements = attributes(body, 4).get(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, b"")
                found += [_element(family, name, value) for _, value in each_attribute(elements, 0)]


def _element(family: int, name: str, data: bytes) -> Element:
    found = attributes(data, 0)
    key = attributes(found.get(uapi.NFTA_SET_ELEM_KEY, b""), 0).get(uapi.NFTA_DATA_VALUE, b"")
    verdict = attributes(attributes(found.get(uapi.NFTA_SET_ELEM_DATA, b""), 0).get(uapi.NFTA_DATA_VERDICT, b""), 0)
    chain = verdict.get(uapi.NFTA_VERDICT_CHAIN, b"").rstrip(b"\0").decode(errors="replace")
    note = found.get(uapi.NFTA_SET_ELEM_USERDATA, b"\0\0")[2:].rstrip(b"\0").decode(errors="replace")
    return Element(family, name, key, chain or None, note)


def available() -> bool:
    """Whether tables can be made here: the nft executable is installed."""
    return shutil.which("nft") is not None


def apply(commands: Sequence[Mapping[str, Any]]) -> None:
    """Run commands of libnftables-json(5), all or none. Raises KernelRefused in nft's words."""
    document = json.dumps({"nftables": list(commands)})
    done = _nft(["-j", "-f", "-"], document)
    if done.returncode:
        raise KernelRefused(f"nftables: {_first_line(done.stderr)}")


def load(script: str) -> None:
    """Run a script of nft(8), all or none. Made of checked values only. Raises KernelRefused in nft's words."""
    done = _nft(["-f", "-"], script)
    if done.returncode:
        raise KernelRefused(f"nftables: {_first_line(done.stderr)}")


def tables(family: str) -> list[str]:
    """The names of all tables of a family, whoever made them. None if nft is missing."""
    return [item["name"] for item in listed("tables", family)]


def listed(*what: str, kind: str = "") -> list[dict[str, Any]]:
    """What `nft list` says. Empty if nft is missing or there is no such thing."""
    wanted = kind or what[0].rstrip("s")
    if not available():
        return []
    done = _nft(["-j", "list", *what])
    if done.returncode:
        return []
    return [item[wanted] for item in json.loads(done.stdout)["nftables"] if wanted in item]


def text(*argv: str) -> str:
    """What nft prints, "" if it fails."""
    done = _nft(argv)
    return done.stdout if not done.returncode else ""


def rules(family: str, chain: str) -> int:
    """How many rules a chain of our table has, 0 also where there is none."""
    return len(listed_chain(family, TABLE, chain))


def listed_chain(family: str, table: str, chain: str) -> list[dict[str, Any]]:
    """The rules of a chain, whoever made it, as libnftables-json(5) has them. None if there is no such chain."""
    done = _nft(["-j", "list", "chain", family, table, chain])
    if done.returncode:
        return []
    return [item["rule"] for item in json.loads(done.stdout)["nftables"] if "rule" in item]


def listed_set(family: str, name: str) -> list[dict[str, Any]]:
    """The elements of a set of our table that have a comment, as libnftables-json(5) has them; none without the set."""
    done = _nft(["-j", "list", "set", family, TABLE, name])
    if done.returncode:
        return []
    sets = (item["set"] for item in json.loads(done.stdout)["nftables"] if "set" in item)
    found = (element for one in sets for element in one.get("elem", ()))
    return [element["elem"] for element in found if isinstance(element, dict) and "elem" in element]


def _nft(argv: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    executable = shutil.which("nft")
    if executable is None:
        raise KernelRefused("nftables: the nft executable is not installed")
    try:
        return subprocess.run(
            [executable, *argv], input=stdin, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelRefused(f"nftables: {executable}: {error}") from None


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "nft failed without a word")


def _replace(element: Element) -> None:
    """Replace one element in one transaction, or make it if it has gone."""
    try:
        _commit([(_DELETE, 0, element), (_NEW, uapi.NLM_F_CREATE, element)])
    except FileNotFoundError:
        _commit([(_NEW, uapi.NLM_F_CREATE, element)])


def _commit(steps: Sequence[tuple[int, int, Element]]) -> None:
    """One netfilter batch. Raises its first error: FileNotFoundError, FileExistsError or KernelRefused."""
    packed = [_message(uapi.NFNL_MSG_BATCH_BEGIN, 0, 0, 0, b"", uapi.NFNL_SUBSYS_NFTABLES)]
    for number, (kind, flags, element) in enumerate(steps, 1):
        body = _body(element, key_only=kind == _DELETE)
        packed.append(_message(kind, uapi.NLM_F_ACK | flags, element.family, number, body))
    packed.append(_message(uapi.NFNL_MSG_BATCH_END, 0, 0, len(steps) + 1, b"", uapi.NFNL_SUBSYS_NFTABLES))
    waiting = set(range(1, len(steps) + 1))
    codes: dict[int, int] = {}
    with _socket() as sock:
        sock.send(b"".join(packed))
        while waiting:
            data = sock.recv(1 << 16)
            at = 0
            while at + 20 <= len(data):
                length, kind, _, sequence, _ = uapi.NLMSGHDR.unpack_from(data, at)
                if kind == uapi.NLMSG_ERROR:
                    codes[sequence] = -int(struct.unpack_from("=i", data, at + 16)[0])
                    waiting.discard(sequence)
                    if sequence == 0:  # the batch as a whole was refused
                        waiting.clear()
                at += (length + 3) & ~3
    for _, code in sorted(codes.items()):
        if code == errno.ENOENT:
            raise FileNotFoundError(code, "no such set or element")
        if code == errno.EEXIST:
            raise FileExistsError(code, "the element exists")
        if code:
            raise _refusal(code)


def _refusal(code: int) -> KernelRefused:
    return KernelRefused(f"nftables: {os.strerror(code)}")


def _socket() -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, uapi.NETLINK_NETFILTER)
    except OSError as error:
        raise KernelRefused(f"nftables: not in this kernel: {error.strerror}") from None
    sock.settimeout(_SECONDS)
    return sock


def _message(kind: int, flags: int, family: int, sequence: int, body: bytes, resource: int = 0) -> bytes:
    """One request with its struct nfgenmsg. `flags`: those beyond NLM_F_REQUEST; `resource`: a batch's subsystem."""
    head = uapi.NFGENMSG.pack(family, 0, resource)
    return uapi.NLMSGHDR.pack(20 + len(body), kind, uapi.NLM_F_REQUEST | flags, sequence, 0) + head + body


def _body(element: Element, *, key_only: bool) -> bytes:
    inner = nested(uapi.NFTA_SET_ELEM_KEY, attribute(uapi.NFTA_DATA_VALUE, element.key))
    if not key_only:
        if element.goto is not None:
            verdict = attribute(uapi.NFTA_VERDICT_CODE, struct.pack("!i", uapi.NFT_GOTO))
            verdict += attribute(uapi.NFTA_VERDICT_CHAIN, element.goto)
            inner += nested(uapi.NFTA_SET_ELEM_DATA, nested(uapi.NFTA_DATA_VERDICT, verdict))
        if element.comment:
            # as nft writes comments: type 0, length, the text with its NUL
            text = element.comment.encode()[:_COMMENT_MAX] + b"\0"
            inner += attribute(uapi.NFTA_SET_ELEM_USERDATA, bytes([0, len(text)]) + text)
    return (
        attribute(uapi.NFTA_SET_ELEM_LIST_TABLE, TABLE)
        + attribute(uapi.NFTA_SET_ELEM_LIST_SET, element.name)
        + nested(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, nested(uapi.NFTA_LIST_ELEM, inner))
    )
