"""Network namespaces: opened, proved to be what they claim, entered by one thread and left again.

A descriptor or socket of a container's namespace keeps that namespace alive, so nothing here is cached: what is
opened for a request is closed before its answer.
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
    """Move the calling thread into a new namespace, which goes when the thread ends (unshare(2))."""
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
    """Run the body with the calling thread in namespace `fd`; come home whatever happens.

    A thread that cannot come home would work on a stranger's namespace from then on: the process ends instead,
    which recovery is made for.
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
    """A netlink socket of namespace `fd`; it stays there when the thread comes home."""
    with inside(fd):
        sock = open_socket()
    return Netlink(sock)


def cookie_of(sock: socket.socket) -> int:
    """SO_NETNS_COOKIE: identifies a network namespace, never reused within a boot."""
    raw = sock.getsockopt(socket.SOL_SOCKET, uapi.SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


def nsid_of(netlink: Netlink, fd: int) -> int:
    """The number by which the namespace of `netlink` knows the one behind `fd`; it gets one if it has none.

    It lasts as long as that namespace does, is then announced as gone (uapi.RTM_DELNSID), and may be given to another.
    Raises NetlinkError.
    """
    asked = bytes(4) + attribute(uapi.NETNSA_FD, fd)
    any_number = attribute(uapi.NETNSA_NSID, struct.pack("=i", -1))
    # EEXIST where it has one: it got it with the first link that was moved there
    given, found = netlink.send(Message(uapi.RTM_NEWNSID, 0, asked + any_number), Message(uapi.RTM_GETNSID, 0, asked))
    if isinstance(found, NetlinkError):
        raise found
    number = int(struct.unpack("=i", attributes(found, 4)[uapi.NETNSA_NSID])[0])
    if number < 0:
        raise given if isinstance(given, NetlinkError) else NetlinkError(errno.ENOENT, "no nsid was given")
    return number


@cache
def home_cookie() -> int:
    """The cookie of the namespace that the calling thread is in: the node's own."""
    with open_socket() as sock:
        return cookie_of(sock)


def boot_id() -> str:
    """This boot's random ID (proc_sys_kernel(5))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class Namespace:
    """A container's network namespace, open for one request: a descriptor, a netlink socket, its cookie."""

    def __init__(self, path: str, fd: int) -> None:
        """Takes over `fd`. Raises NotANamespace and closes it when it is none."""
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
        """Open by descriptor where the caller passed one, else by path."""
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
