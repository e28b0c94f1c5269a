"""Sysctls of the calling thread's network namespace, which /proc/sys/net shows. They are changed only if needed."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from bgpcni.errors import KernelRefused
from bgpcni.kernel import uapi
from bgpcni.kernel.library import iproute

log = logging.getLogger(__name__)
_ROOT = Path("/proc/sys")


def read(name: str) -> str:
    """`net/ipv4/ip_forward` → its value. Written with slashes, because interface names may contain dots."""
    fd = os.open(f"{_ROOT}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode("ascii").strip()
    finally:
        os.close(fd)


def exists(name: str) -> bool:
    """Whether this kernel has it: IPv6 may be missing or switched off."""
    return (_ROOT / name).exists()


def write(name: str, value: str) -> None:
    """Set it unless it has that value already. Raises KernelRefused."""
    try:
        if read(name) != value:
            (_ROOT / name).write_text(value, encoding="ascii")
    except OSError as error:
        raise KernelRefused(f"sysctl {name} = {value}: {error.strerror}") from None


def put(name: str, value: str) -> bool:
    """Set it without reading it first. False if this kernel does not have it, or refuses."""
    try:
        fd = os.open(f"{_ROOT}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, value.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def forwards(version: int, device: str) -> bool:
    """Whether packets that come in by this device are forwarded: set for each device in IPv4, for all in IPv6."""
    try:
        if version == 4:
            return read(f"net/ipv4/conf/{device}/forwarding") == "1"
        return read("net/ipv6/conf/all/forwarding") == "1" or read(f"net/ipv6/conf/{device}/force_forwarding") == "1"
    except FileNotFoundError:
        return not exists(f"net/ipv{version}/conf/{device}")  # a device that is missing is no obstacle


def enable_forwarding(version: int) -> None:
    """Switch forwarding on for IPv4 or IPv6. A default route from router advertisements survives that.

    The kernel removes such a route when `all.forwarding` is set to 1, unless its device has accept_ra=2 by then.
    """
    if version == 4:
        write("net/ipv4/ip_forward", "1")
        return
    if read("net/ipv6/conf/all/forwarding") == "1":
        return
    with iproute() as library:
        for route in library.get_routes(family=socket.AF_INET6):
            if route["proto"] == uapi.RTPROT_RA and route["dst_len"] == 0:
                device = socket.if_indextoname(route.get_attr("RTA_OIF"))
                log.warning("IPv6 forwarding: %s has a default route from router advertisements: setting accept_ra=2",
                            device,
                            extra={"link": device})  # fmt: skip
                write(f"net/ipv6/conf/{device}/accept_ra", "2")
    log.info("enabling IPv6 forwarding")
    write("net/ipv6/conf/all/forwarding", "1")
