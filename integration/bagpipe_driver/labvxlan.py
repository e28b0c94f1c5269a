"""Packets for BaGPipe's EVPN: a VXLAN port on the bridge of each VPN, its forwarding database filled by BGP.

Runs inside the daemon, which since version 22 has no such driver of its own. The bridge is there already, and so are
the containers' ports in it; only the VXLAN port is ours, by the name that its VNI gives it.
"""

from __future__ import annotations

import errno
from typing import Any

from networking_bagpipe.bagpipe_bgp import constants
from networking_bagpipe.bagpipe_bgp.engine import exa
from networking_bagpipe.bagpipe_bgp.vpn import dataplane_drivers, evpn
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

PREFIX = "vxlan--"
PORT = 4789
SELF = 2
"""NTF_SELF: the VXLAN port's own database, not the bridge's."""
EVERYBODY = "00:00:00:00:00:00"


def unless(code: int, call: Any, *words: Any, **attributes: Any) -> None:
    """A netlink request that may fail in one way."""
    try:
        call(*words, **attributes)
    except NetlinkError as error:
        if error.code != code:
            raise


class Instance(evpn.VPNInstanceDataplane):
    """One VPN: `vxlan--VNI` on `linuxbr`."""

    def __init__(self, *args: Any, linuxbr: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.local = str(self.driver.get_local_address())
        self.name = f"{PREFIX}{self.instance_label}"
        with IPRoute() as kernel:
            (bridge,) = kernel.link_lookup(ifname=linuxbr)
            for index in kernel.link_lookup(ifname=self.name):
                kernel.link("del", index=index)
            kernel.link(
                "add", ifname=self.name, kind="vxlan", vxlan_id=self.instance_label,
                vxlan_local=self.local, vxlan_port=PORT, vxlan_learning=0,
            )  # fmt: skip
            (self.index,) = kernel.link_lookup(ifname=self.name)
            kernel.link("set", index=self.index, master=bridge, state="up")

    def cleanup(self) -> None:
        with IPRoute() as kernel:
            unless(errno.ENODEV, kernel.link, "del", index=self.index)

    def vif_plugged(self, mac_address: str, ip_address: str, localport: Any, *_: Any) -> None:
        """The container's port is in the bridge, which learns where it is."""
        with IPRoute() as kernel:
            if not kernel.link_lookup(ifname=localport["linuxif"]):
                raise RuntimeError(f"no interface {localport['linuxif']}")

    def vif_unplugged(self, *_: Any) -> None:
        """Nothing was done."""

    def set_gateway_port(self, *_: Any) -> None:
        raise NotImplementedError("this driver routes nothing")

    gateway_port_down = set_gateway_port

    def setup_dataplane_for_remote_endpoint(self, prefix: Any, remote: Any, label: int, *_: Any) -> None:
        self._forward("replace", str(prefix), str(remote), label)

    def remove_dataplane_for_remote_endpoint(self, prefix: Any, remote: Any, label: int, *_: Any) -> None:
        self._forward("del", str(prefix), str(remote), label)

    def add_dataplane_for_bum_endpoint(self, remote: Any, label: int, *_: Any) -> None:
        self._forward("append", EVERYBODY, str(remote), label)

    def remove_dataplane_for_bum_endpoint(self, remote: Any, label: int, *_: Any) -> None:
        self._forward("del", EVERYBODY, str(remote), label)

    def _forward(self, verb: str, mac: str, remote: str, vni: int) -> None:
        if remote == self.local:
            return  # reflected to us, or of another VPN here
        with IPRoute() as kernel:
            unless(
                errno.ENOENT if verb == "del" else errno.EEXIST,
                kernel.fdb, verb, ifindex=self.index, lladdr=mac, dst=remote, vni=vni, flags=SELF,
            )  # fmt: skip


class Driver(dataplane_drivers.DataplaneDriver):
    """`dataplane_driver = labvxlan` in `[DATAPLANE_DRIVER_EVPN]`."""

    type = constants.EVPN
    dataplane_instance_class = Instance
    encaps = [exa.Encapsulation(exa.Encapsulation.Type.VXLAN)]  # noqa: RUF012 - the base class has it so

    def reset_state(self) -> None:
        """Before the first attachment: what a daemon that was killed left behind."""
        with IPRoute() as kernel:
            for link in kernel.get_links():
                if str(link.get_attr("IFLA_IFNAME")).startswith(PREFIX):
                    kernel.link("del", index=link["index"])
