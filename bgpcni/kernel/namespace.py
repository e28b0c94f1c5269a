"""Network namespaces: opens them, proves what they are, and lets one thread work inside.

A descriptor or socket of a container's namespace keeps that namespace alive. So nothing here is cached: what is opened
for a request is closed before the request is answered.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from bgpcni.kernel import uapi
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError, attribute, attributes, open_socket

CLONE_NEWNET = 0x40000000
_NSFS_MAGIC = 0x6E736673
_NS_GET_NSTYPE = 0xB703

_libc = ctypes.CDLL(None, use_errno=True)
log = logging.getLogger(__name__)


class NotANamespace(Exception):
    """The path or descriptor is no network namespace of a container; the message says what it is."""


def setns(fd: int) -> None:
    """Move the calling thread into the namespace behind `fd` (setns(2)). os.setns needs Python 3.12."""
    if _libc.setns(fd, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def unshare() -> None:
    """Move the calling thread into a new namespace, which ends with the thread (unshare(2))."""
    if _libc.unshare(CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


def open_path(path: str) -> int:
    """Open the path of a namespace. The caller closes it. Raises NotANamespace with the reason."""
    try:
        # not blocking: it may be a FIFO, which is refused by `verify`, not waited for
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise NotANamespace(f"{path}: {error.strerror}") from None
    except ValueError:
        raise NotANamespace(f"{path!r} is no path") from None


def verify(fd: int, path: str) -> None:
    """Prove that `fd` is a network namespace: nsfs by fstatfs, network by NS_GET_NSTYPE."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer) or struct.unpack_from("=q", buffer.raw)[0] != _NSFS_MAGIC:
        raise NotANamespace(f"{path} is not a namespace")
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError as error:
        raise NotANamespace(f"{path}: {error.strerror}") from None
    if kind != CLONE_NEWNET:
        raise NotANamespace(f"{path} is a namespace, but not a network namespace")


@cache
def home() -> int:
    """A descriptor of the process's own network namespace, opened once and kept."""
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """Run the block with the calling thread in namespace `fd`, and bring the thread home again.

    A thread that cannot return would go on working in a foreign namespace. Then the whole process ends instead: the
    next start recovers from that.
    """
    back = home()
    setns(fd)
    try:
        yield
    finally:
        try:
            setns(back)
        except OSError:
            log.critical("cannot return to the node's network namespace; ending")
            os._exit(70)


def netlink_inside(fd: int) -> Netlink:
    """A netlink socket in namespace `fd`. It stays there when the thread has come home."""
    with inside(fd):
        sock = open_socket()
    return Netlink(sock)


def cookie_of(sock: socket.socket) -> int:
    """SO_NETNS_COOKIE: identifies a network namespace, never reused within a boot."""
    raw = sock.getsockopt(socket.SOL_SOCKET, uapi.SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


def nsid_of(netlink: Netlink, fd: int) -> int:
    """The number by which the namespace of `netlink` knows the one behind `fd`. It is given one if it has none.

    The number is valid until that namespace ends. The kernel reports that (RTM_DELNSID) and may use the number again.
    Raises NetlinkError.
    """
    asked = bytes(4) + attribute(uapi.NETNSA_FD, fd)
    any_number = attribute(uapi.NETNSA_NSID, struct.pack("=i", -1))
    # EEXIST if it has a number: the first link that was moved there gave it one
    given, found = netlink.send(Message(uapi.RTM_NEWNSID, 0, asked + any_number), Message(uapi.RTM_GETNSID, 0, asked))
    if isinstance(found, NetlinkError):
        raise found
    number = int(struct.unpack("=i", attributes(found, 4)[uapi.NETNSA_NSID])[0])
    if number < 0:
        raise given if isinstance(given, NetlinkError) else NetlinkError(errno.ENOENT, "no nsid was given")
    return number


@cache
def home_cookie() -> int:
    """The cookie of the node's own namespace, which the calling thread has to be in."""
    with open_socket() as sock:
        return cookie_of(sock)


def boot_id() -> str:
    """This boot's random ID (proc_sys_kernel(5))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class Namespace:
    """A network namespace that is open for one request: a descriptor, a netlink socket and the cookie."""

    def __init__(self, path: str, fd: int) -> None:
        """Takes over `fd`. If it is no network namespace, it is closed and NotANamespace is raised."""
        self.path = path
        self.fd = fd
        try:
            verify(fd, path)
            self.netlink = netlink_inside(fd)
        except BaseException:
            os.close(fd)
            raise
        self.cookie = cookie_of(self.netlink.socket)

    @classmethod
    def open(cls, path: str, fd: int | None = None) -> Namespace:
        """Open it by the descriptor if there is one, else by the path."""
        return cls(path, open_path(path) if fd is None else os.dup(fd))

    @classmethod
    def of_container(cls, path: str, fd: int | None = None) -> Namespace:
        """As `open`; raises NotANamespace also for the node's own, where no container is."""
        space = cls.open(path, fd)
        if space.cookie == home_cookie():
            space.close()
            raise NotANamespace(f"{path} is the node's own network namespace")
        return space

    def close(self) -> None:
        self.netlink.close()
        os.close(self.fd)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
