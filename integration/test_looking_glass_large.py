"""The looking glass of a node with ten thousand attachments and thousands of received routes, in a real Chromium.

How long each page takes is measured by `python -m integration.bench.glass`, and not asserted here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from integration.bench.glass import large
from integration.glass import Browser, LookingGlass
from integration.lab import Lab, Node

ATTACHMENTS, RECEIVED = 10_000, 2_000
MOST_ROWS = 50


@pytest.fixture(scope="module")
def node() -> Iterator[tuple[Lab, Node, Browser]]:
    with Lab() as lab:
        node = large(lab, ATTACHMENTS, RECEIVED)
        LookingGlass(lab, node).start()
        yield lab, node, Browser(lab, node)


def rows(browser: Browser) -> int:
    return int(browser.run("return document.querySelectorAll('table.cards tbody tr').length"))


def test_attachments_are_paged_searched_and_filtered(node: tuple[Lab, Node, Browser]) -> None:
    """By links and forms alone; a page never has more than fifty rows, and the filters go with it from page to page."""
    _, _, browser = node
    browser.open("/attachments")
    browser.shows("10,001 attachments", "Page 1 of 201")
    assert rows(browser) == MOST_ROWS
    browser.run("document.querySelector('a[rel=next]').focus()")
    browser.keys(Keys.ENTER)
    browser.shows("Page 2 of 201")
    assert rows(browser) == MOST_ROWS
    browser.open("/attachments?page=201")
    browser.shows("Page 201 of 201")
    assert rows(browser) == 1
    browser.open("/attachments?page=202")
    browser.shows("beyond the end")
    for search, words in (
        ("10.64.12.34", ("1 attachment", "crowd-3106")),
        ("10.64.12.0/24", ("256 attachments", "Page 1 of 6")),
        ("02:00:00:00:27:0f", ("1 attachment", "crowd-9999")),
        ("crowd-9998 crowd", ("1 attachment", "10.64.39.14/32")),
        ("nobody", ("0 attachments", "No attachment fits")),
    ):
        browser.open("/attachments")
        browser.run("document.getElementById('filter').focus()")
        browser.keys(search, Keys.ENTER)
        browser.shows(*words)
    browser.open("/attachments?search=10.64.12.0/24&network=crowd&page=2")
    browser.shows("256 attachments", "network crowd", "Page 2 of 6")
    assert "network=crowd" in browser.run("return document.querySelector('a[rel=next]').search")
    browser.open("/attachments")
    browser.run("document.getElementById('by-network').focus()")
    browser.keys("tenant-a", Keys.ENTER)
    browser.run("document.querySelector('.filter button').click()")
    browser.shows("1 attachment", "network tenant-a", gone="crowd-")


def test_a_container_appears_among_ten_thousand(node: tuple[Lab, Node, Browser]) -> None:
    """And goes, in the page that is open."""
    lab, here, browser = node
    browser.open("/attachments?network=tenant-b")
    browser.shows("0 attachments")
    conf = here.network("tenant-b", subnet="10.201.0.0/24", bridge="br-b", bgp={"wait": "none"})
    space = lab.container("late")
    assert here.cni("ADD", "late", space, conf).ok
    browser.shows("1 attachment", "late", "10.201.0.2")
    assert here.cni("DEL", "late", space, conf).ok
    browser.shows("0 attachments", gone="10.201.0.2")


def test_routes_of_both_directions(node: tuple[Lab, Node, Browser]) -> None:
    """Those of this node by address; those received by prefix, peer and state, with the reason of a refusal."""
    _, here, browser = node
    browser.open("/routes?search=10.64.12.34")
    browser.shows("10.64.12.34/32", "crowd-3106", "1 attachment")
    browser.open("/received")
    browser.shows("2,000 routes", "Page 1 of 40", "Not used, by reason", "bgp.import does not name it", "not used")
    browser.open("/received?search=20.0.3.0/24")
    browser.shows("256 routes", "20.0.3.7/32", gone="20.0.4.")
    browser.open(f"/received?state=refused&peer={here.peer}")
    browser.shows("2,000 routes", "state refused")
    browser.open("/received?state=best")
    browser.shows("0 routes", "No peer has announced such a route")


def test_overview_and_map_of_so_many_are_short(node: tuple[Lab, Node, Browser]) -> None:
    """They count, and do not list."""
    _, _, browser = node
    browser.open("/")
    browser.shows("10,001 container interfaces", "10,000 single addresses")
    assert browser.run("return document.documentElement.outerHTML.length") < 100_000
    browser.open("/map")
    browser.shows("crowd")
    assert browser.log() == []
