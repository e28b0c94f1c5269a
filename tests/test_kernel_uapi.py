"""The numbers are the kernel's: pyroute2, which has most of them from the same headers, agrees."""

from __future__ import annotations

from types import ModuleType

import pytest
from pyroute2 import netlink as base
from pyroute2.netlink import nfnetlink, rtnl
from pyroute2.netlink.nfnetlink import nftsocket
from pyroute2.netlink.rtnl import ifaddrmsg, ndmsg, rtmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ifinfmsg.plugins import vlan, vrf, vxlan

from bgpcni.kernel import uapi


@pytest.mark.parametrize("module", [base, rtnl, ifaddrmsg, ndmsg, nfnetlink, nftsocket], ids=lambda m: m.__name__)
def test_constants_are_those_of_the_headers(module: ModuleType) -> None:
    shared = [name for name in vars(uapi) if name.isupper() and isinstance(getattr(module, name, None), int)]
    assert shared
    assert {name: getattr(uapi, name) for name in shared} == {name: getattr(module, name) for name in shared}


def numbers(message: type) -> dict[str, int]:
    """The attributes of one of pyroute2's message classes, by name."""
    return {item[0]: place for place, item in enumerate(message.nla_map)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "message",
    [
        ifinfmsg, ifinfmsg.ifinfo, ifinfmsg.ifinfo.bridge_data, vrf.vrf, vxlan.vxlan, vlan.vlan, rtmsg.rtmsg,
        ifaddrmsg.ifaddrmsg, ndmsg.ndmsg,
    ],
    ids=lambda message: message.__name__,
)  # fmt: skip
def test_attributes_are_those_of_the_headers(message: type) -> None:
    theirs = {name: number for name, number in numbers(message).items() if hasattr(uapi, name)}
    assert theirs
    assert {name: getattr(uapi, name) for name in theirs} == theirs
