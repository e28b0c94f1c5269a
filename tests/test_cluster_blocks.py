"""Blocks of a pool: which one a node claims next, and which it gives back."""

from __future__ import annotations

from ipaddress import ip_address, ip_network, summarize_address_range
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bgpcni.cluster import blocks
from bgpcni.cluster.blocks import Net, Use
from bgpcni.cluster.objects import IPPoolSpec, object_name


def spec(*cidrs: str, **more: Any) -> IPPoolSpec:
    return IPPoolSpec(cidrs=cidrs, **more)


@st.composite
def pools(draw: st.DrawFn) -> IPPoolSpec:
    """Small pools of both families, with static ranges anywhere in them."""
    cidrs, static = [], []
    bases = st.sampled_from(["10.1.0.0/24", "10.2.0.0/25", "2001:db8::/120"])
    for base in draw(st.lists(bases, min_size=1, unique=True)):
        network = ip_network(base)
        cidrs.append(base)
        size = network.num_addresses - 1
        for low, length in draw(st.lists(st.tuples(st.integers(0, size), st.integers(0, 40)), max_size=3)):
            static.append(f"{network[low]}-{network[min(low + length, size)]}")
    sizes = {"ipv4": draw(st.integers(25, 30)), "ipv6": draw(st.integers(121, 126))}
    return spec(*cidrs, static=tuple(static), blockSize=sizes)


def all_of(pool: IPPoolSpec, version: int, names: list[str]) -> list[tuple[str, Net]]:
    """What nodes claim until nothing is left, in turns."""
    claimed: list[tuple[str, Net]] = []
    while True:
        name = names[len(claimed) % len(names)]
        block = blocks.next_block(pool, version, [block for _, block in claimed], name)
        if block is None:
            return claimed
        claimed.append((name, block))


@given(pools(), st.sampled_from([4, 6]))
def test_nodes_share_a_pool_without_overlap_and_without_rest(pool: IPPoolSpec, version: int) -> None:
    """Blocks are within the pool, overlap neither each other nor a static range, and what is left has no room for one
    more."""
    claimed = [block for _, block in all_of(pool, version, ["a", "b", "c"])]
    numbers = [set(range(int(block[0]), int(block[-1]) + 1)) for block in claimed]
    union: set[int] = set().union(*numbers)
    assert len(union) == sum(map(len, numbers))
    static = {n for low, high in blocks._statics(pool, version) for n in range(low, high + 1)}
    whole = {n for cidr in pool.cidrs if ip_network(cidr).version == version
             for n in range(int(ip_network(cidr)[0]), int(ip_network(cidr)[-1]) + 1)}  # fmt: skip
    assert union <= whole - static
    size = pool.block_size.ipv4 if version == 4 else pool.block_size.ipv6
    assert all(size <= block.prefixlen <= blocks.SMALLEST[version] for block in claimed)
    rest = whole - static - union
    assert all(not {n & ~3 | bit for bit in range(4)} <= rest for n in rest), "a /30 is left"


@given(pools(), st.data())
def test_an_address_that_is_asked_for_is_in_the_block(pool: IPPoolSpec, data: st.DataObject) -> None:
    """The block with an address is found, unless the address is static, claimed, or in no room for a block."""
    version = ip_network(pool.cidrs[0]).version
    cidr = ip_network(pool.cidrs[0])
    address = cidr[data.draw(st.integers(0, cidr.num_addresses - 1))]
    block = blocks.next_block(pool, version, [], "a", address)
    if blocks.is_static(pool, address):
        assert block is None
    elif block is None:
        low = int(address) & ~3
        assert any(blocks.is_static(pool, type(address)(low + bit)) for bit in range(4))
    else:
        assert address in block
        assert blocks.next_block(pool, version, [block], "a", address) is None


def test_a_large_pool_of_ipv6_costs_no_more_than_its_claims() -> None:
    """2^74 blocks are not counted one by one."""
    pool = spec("2001:db8::/48", static=("2001:db8::-2001:db8::ffff:ffff:ffff:ffff",))
    claimed = [block for _, block in zip(range(50), (b for _, b in _claims(pool)), strict=False)]
    assert len(set(claimed)) == 50


def _claims(pool: IPPoolSpec) -> Any:
    taken: list[Net] = []
    while (block := blocks.next_block(pool, 6, taken, f"n{len(taken)}")) is not None:
        taken.append(block)
        yield "", block


def test_the_rest_of_a_block_that_is_partly_static_is_claimed_last() -> None:
    """Whole blocks come first, then the largest pieces of what a static range leaves."""
    pool = spec("10.1.0.0/25", static=("10.1.0.0-10.1.0.9",))
    found = [str(block) for _, block in all_of(pool, 4, ["a"])]
    assert found[0] == "10.1.0.64/26"
    assert set(found) == {"10.1.0.64/26", "10.1.0.32/27", "10.1.0.16/28", "10.1.0.12/30"}


def test_a_pool_that_grows_has_more_blocks() -> None:
    """Another cidr is used once the first one is full."""
    small = spec("10.1.0.0/26")
    assert all_of(small, 4, ["a"]) == [("a", ip_network("10.1.0.0/26"))]
    grown = spec("10.1.0.0/26", "10.9.0.0/26")
    assert str(blocks.next_block(grown, 4, [ip_network("10.1.0.0/26")], "a")) == "10.9.0.0/26"
    assert blocks.next_block(grown, 6, [], "a") is None


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 32))
def test_a_name_is_one_that_kubernetes_takes(address: Any, length: int) -> None:
    """Each prefix has a name of its own, and it is a DNS subdomain."""
    block = ip_network(f"{address}/{length}", strict=False)
    assert object_name(blocks.name_of(block))
    other = ip_network(f"{address}/{(length + 1) % 33}", strict=False)
    assert (blocks.name_of(block) == blocks.name_of(other)) == (block == other)


def test_gateway_network_and_broadcast_are_nobodys() -> None:
    """A container gets none of them, nor the pool's own gateway, nor what became static later."""
    pool = spec("10.1.0.0/24", static=("10.1.0.70-10.1.0.71",))
    found = [n for low, high in blocks.spans(pool, ip_network("10.1.0.64/26"), ip_network("10.1.0.0/24"))
             for n in range(low, high + 1)]  # fmt: skip
    assert [str(ip_address(n)) for n in found[:5]] == [
        "10.1.0.66", "10.1.0.67", "10.1.0.68", "10.1.0.69", "10.1.0.72",
    ]  # fmt: skip
    assert str(ip_address(found[-1])) == "10.1.0.126"
    six = spec("2001:db8::/120")
    low, high = next(blocks.spans(six, ip_network("2001:db8::40/122"), ip_network("2001:db8::/120")))
    assert (str(ip_address(low)), str(ip_address(high))) == ("2001:db8::42", "2001:db8::7f")


@given(st.lists(st.lists(st.integers(1, 61), min_size=1, max_size=3), max_size=3), st.integers(0, 6))
def test_a_block_does_not_come_and_go_with_one_container(used: list[list[int]], spare: int) -> None:
    """What is given back is empty and not the last, and no network would claim another one at once; nor after ten
    more containers."""
    size = blocks.size_of(spec("10.1.0.0/16"), 4)
    assert size == 61
    nets = iter(ip_network(f"10.1.{n}.0/26") for n in range(100))
    empty = [next(nets) for _ in range(spare)]
    busy = [[Use(next(nets), size, n) for n in one] for one in used]
    gone = blocks.surplus(empty, busy, size)
    assert set(gone) <= set(empty)
    left = len(empty) - len(gone)
    assert busy or left or not empty
    if gone:
        for mine in busy:
            needy = blocks.is_short([*mine, Use(next(nets), -10, 0)], size)
            assert not needy or left > 0
            left -= needy


def test_the_next_block_is_claimed_before_the_last_is_full() -> None:
    """With 45 of 61 addresses in use there is time left."""
    net = ip_network("10.1.0.0/26")
    assert not blocks.is_short([Use(net, 61, 45)], 61)
    assert blocks.is_short([Use(net, 61, 46)], 61)
    assert blocks.is_short([], 61)


def test_claims_of_another_size_are_seen() -> None:
    """Whoever claims a block knows of a claim that overlaps it, whatever its size."""
    one = ip_network("10.1.0.0/26")
    others = {blocks.path_of(net): net for net in map(ip_network, ("10.1.0.64/26", "10.1.0.63/32"))}
    assert blocks.overlapping(one, others) == blocks.path_of(ip_network("10.1.0.63/32"))
    assert blocks.overlapping(ip_network("10.1.0.128/26"), others) is None
    assert next(summarize_address_range(one[0], one[-1])) == one
