"""A page of a long list, and a search: which rows they give, and that a page reads no more records than it has."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.commands.answers.selection import Page, Subject, fits, searched, stored_on, words
from bgpcni.model import Address, Attachment, Bgp, Pod, State
from bgpcni.store import Store


def attachment(number: int) -> Attachment:
    return Attachment(
        boot_id="b",
        network="tenant-a",
        container_id=f"c{number}",
        ifname="eth0",
        netns="/x",
        mac="02:00:00:00:00:0a",
        addresses=(Address(address=f"10.1.2.{number}/24"), Address(address=f"2001:db8::{number:x}/64")),
        pod=Pod(namespace="shop", name=f"Web-{number}"),
        bgp=Bgp(family="evpn", vni=5001),
    )


@given(st.lists(st.integers()), st.none() | st.integers(1, 20), st.integers(0, 30))
def test_a_page_is_a_slice_and_the_number_of_all(rows: list[int], limit: int | None, offset: int) -> None:
    page = Page(limit, offset)
    assert page.of(iter(rows)) == (rows[offset : page.end], len(rows))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", True), ("tenant", True), ("SHOP/web-7", True), ("c7", True), ("c8", False), ("02:00:00", True),
        ("10.1.2.7", True), ("10.1.2.70", False), ("10.1.2.", True), ("2001:DB8:0::7", True), ("2001:db8::8", False),
        ("10.1.2.0/29", True), ("10.1.2.0/30", False), ("2001:db8::/32", True), ("10.1.2.7/24", True), ("5001", True),
        ("500", False), ("tenant 5001", True), ("tenant nothing", False), ("<script>", False), ("\0", False),
        ("999.1.1.1", False), ("10.1.2.0/99", False),
    ],
)  # fmt: skip
def test_what_a_search_finds(text: str, found: bool) -> None:
    """An address is found as a whole, a prefix by the addresses in it, the rest as a part of a name, in any case."""
    assert fits(words(text), Subject.of(attachment(7))) is found


@given(st.text())
def test_no_search_is_an_error(text: str) -> None:
    assert fits(words(text), Subject.of(attachment(7))) in (True, False)


def test_only_the_records_of_the_page_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "data", tmp_path / "run")
    for number in range(1, 31):
        store.put(State.UP, attachment(number))
    everything = list(store.all())
    read: list[str] = []
    find = store._find
    monkeypatch.setattr(store, "_find", lambda name: (read.append(name), find(name))[1])
    assert stored_on(store, Page(5, 10), searched("")) == (everything[10:15], 30)
    assert len(read) == 5
    assert stored_on(store, Page(5, 28), None) == (everything[28:], 30)
    assert stored_on(store, Page(2, 1), searched("web-2")) == (
        [each for each in everything if "Web-2" in str(each.attachment)][1:3],
        11,
    )
    store.close()
