"""An error of the kernel's part tells the operator which key of the network configuration asked for what failed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bgpcni.errors import CheckFailed, CniError, KernelRefused, Unfit, Unsupported
from bgpcni.kernel.namespace import NotANamespace
from bgpcni.kernel.vlans import Tagging
from bgpcni.node.keys import asked_by
from bgpcni.node.plan import vlan_key


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Unfit("MTU", "9000 is over the 1500 of bridge cni0"), 7, "mtu: 9000 is over the 1500 of bridge cni0"),
        (Unfit("bridge", "eth0 exists and is a physical link, not a bridge"), 7, "bridge: eth0 exists"),
        (Unfit("address", "bridge cni0 has 10.0.0.1/8, so it cannot have …"), 7, "ipam: bridge cni0 has"),
        (Unfit("VRF", "red exists and is a bridge link, not a VRF"), 7, "bgp.vrf: red exists"),
        (Unsupported("nft or iptables is not installed on this node"), 2, "ipMasq: nft or iptables is not"),
        (CheckFailed("10.0.0.2/24 is not in map masquerade4"), 102, "ipMasq: 10.0.0.2/24 is not in"),
        (NotANamespace("/etc/hosts is not a namespace"), 8, "CNI_NETNS: /etc/hosts is not a namespace"),
        (KernelRefused("bridge cni0: Operation not permitted"), 101, "bridge cni0: Operation not permitted"),
    ],
)
def test_an_error_has_its_key_and_its_code(error: Exception, code: int, words: str) -> None:
    with pytest.raises(CniError) as caught, asked_by("ipMasq"):
        raise error
    assert caught.value.code == code
    assert caught.value.msg.startswith(words)


@pytest.mark.parametrize(("make", "code"), [(lambda: Unfit("MTU", "x"), 101), (lambda: Unsupported("x"), 101)])
def test_without_a_key_it_is_still_an_error_of_the_kernel(make: Callable[[], CniError], code: int) -> None:
    """Whoever catches CNI errors, such as the reconciler, catches these."""
    assert make().code == code


def test_vlans_are_asked_for_by_one_of_two_keys() -> None:
    assert [vlan_key(item) for item in (Tagging(5), Tagging(0, (5,)), Tagging())] == ["vlan", "vlanTrunk", "vlanTrunk"]
