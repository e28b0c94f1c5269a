"""The pages of the looking glass in a real Chromium: what they show, that they follow the node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from integration.glass import Browser, LookingGlass
from integration.lab import Lab, until
from integration.lab.node import BGPCNI
from integration.seen import add, announced, delete, dual, ready

HOSTILE = "<script>alert(1)</script>\u202e"
IFNAME = "'\"><b>bold"
USER = 64998
"""The number of the user bgpcni, whom only this node knows."""


class Site:
    """A node with web (two families) and mail (EVPN), its looking glass, and a route that FRR announces to it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.frr, self.node = ready(lab)
        self.conf = dual(self.node, bgp={"wait": "sent", "waitSeconds": 30, "import": ["203.0.113.0/24"]})
        self.blue = dual(self.node, "blue", bridge="br-blue", bgp={"family": "evpn", "vni": 5001})
        announced(self.frr, self.node, self.attach("web"))
        self.attach("mail", self.blue)
        self.frr.namespace.ip("addr", "add", "203.0.113.1/24", "dev", "lo")
        networks = ("network 203.0.113.0/24", "network 198.18.1.0/24")
        self.frr.configure(f"router bgp {self.frr.asn}", "address-family ipv4 unicast", *networks)
        self.glass = LookingGlass(lab, self.node)
        self.glass.start()
        self.browser = Browser(lab, self.node)

    def attach(self, name: str, conf: dict[str, Any] | None = None) -> Any:
        args = f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name}"
        return add(self.node, f"{name}-id", self.lab.container(name), conf or self.conf, args=args)

    def detach(self, name: str) -> None:
        delete(self.node, f"{name}-id", None, self.conf)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab:
        yield Site(lab)


WORDS = {
    "/": ("All is well", "2 container interfaces", "1 of 1 session", "10.1.2.0/24", "exabgp"),
    "/attachments": ("shop/web", "shop/mail", "tenant-a", "blue", "10.1.2.2/24", "up"),
    "/attachments/web-id": ("Nothing on the way is broken", "Runtime", "Link", "Bridge", "BGP session", "announced"),
    "/attachments/mail-id": ("VNI", "vxlan5001 on br-blue"),
    "/routes": ("10.1.2.2/32", "shop/web", "announced", "5001"),
    "/received": ("203.0.113.0/24", "not used", "used"),
    "/peers": ("Established", "AS 64512", "ipv4-unicast", "1 change"),
    "/map": ("tenant-a", "cni0", "VNI 5001", "exabgp", "198.18.1.1"),
    "/events": ("session-up", "attachment-up", "shop/web"),
}


@pytest.mark.parametrize("path", WORDS)
def test_every_page_shows_what_it_is_for(site: Site, path: str) -> None:
    """And the browser has nothing to complain of: no script fails, nothing breaks the content security policy."""
    until(lambda: len(site.node.operator("routes", "--received").document["received"]) >= 2, "FRR's routes")
    site.browser.open(path)
    site.browser.shows(*WORDS[path])
    assert site.browser.log() == []
    assert site.browser.run("return document.querySelectorAll('nav [aria-current]').length") == 1


def test_the_same_without_scripts(site: Site) -> None:
    """Pages, search and links do not need them."""
    browser = Browser(site.lab, site.node, scripts=False)
    for path, words in WORDS.items():
        browser.open(path)
        browser.shows(*words)
    browser.open("/attachments?search=shop/web")
    browser.shows("1 attachment", "shop/web", gone="shop/mail")
    assert "Reload the page" in site.glass.get("/").text
    browser.close()


def test_a_container_comes_and_goes_before_the_readers_eyes(site: Site) -> None:
    """Nothing is loaded by hand: the page follows, and keeps the focus where it is."""
    site.browser.open("/attachments")
    site.browser.run("document.querySelector('a[href=\"/attachments/web-id\"]').focus()")
    site.attach("visitor")
    site.browser.shows("shop/visitor", "3 attachments")
    assert site.browser.run("return document.activeElement.getAttribute('href')") == "/attachments/web-id"
    site.detach("visitor")
    site.browser.shows("2 attachments", gone="shop/visitor")


def test_a_peer_dies_before_the_readers_eyes(site: Site) -> None:
    """The overview turns, and says which containers are cut off; then it turns back."""
    site.browser.open("/")
    site.browser.shows("All is well")
    site.frr.stop()
    site.browser.shows("wrong", site.node.peer, "Containers that cannot be reached", "shop/web", "shop/mail")
    site.frr.start()
    site.browser.shows("All is well", gone="cannot be reached")
    site.browser.open("/peers")
    site.browser.shows("Established", "3 changes")


def test_by_keyboard_alone(site: Site) -> None:
    """Skip link, pages, search: all is reached by Tab, and it is seen where the focus is."""
    site.browser.open("/")
    site.browser.keys(Keys.TAB)
    assert site.browser.run("return document.activeElement.textContent") == "Skip to the content"
    site.browser.keys(Keys.ENTER)
    assert site.browser.run("return document.activeElement.id") == "main"
    site.browser.open("/")
    seen = []
    for _ in range(12):
        site.browser.keys(Keys.TAB)
        seen.append(site.browser.run("return document.activeElement.textContent.trim() || document.activeElement.name"))
        style = "const s = getComputedStyle(document.activeElement); return s.outlineStyle + ' ' + s.outlineWidth"
        assert site.browser.run(style) == "solid 3px"
        if seen[-1] == "search":
            break
    assert {"Attachments", "Routes", "Received", "Peers", "Map", "Events", "search"} <= set(seen)
    site.browser.keys("tenant-a 10.1.2.2", Keys.ENTER)
    site.browser.shows("shop/web", gone="shop/mail")
    assert site.browser.path() == "/attachments?search=tenant-a+10.1.2.2"


def test_a_screen_reader_finds_its_way(site: Site) -> None:
    """Landmarks, one heading of the first rank, labels, heads of tables, names of pictures; on every page."""
    look = """
      const bad = [];
      for (const one of ["header", "nav", "main", "footer"]) if (!document.querySelector(one)) bad.push("no " + one);
      if (document.querySelectorAll("h1").length !== 1) bad.push("h1");
      if (!document.documentElement.lang || !document.title) bad.push("language or title");
      for (const each of document.querySelectorAll("input")) if (!each.labels.length) bad.push("label");
      for (const each of document.querySelectorAll("table")) {
        if (!each.querySelector("thead th[scope=col]")) bad.push("columns");
        if (!each.querySelector("tbody th[scope=row]")) bad.push("rows");
      }
      for (const each of document.querySelectorAll("svg")) if (!each.getAttribute("aria-label")) bad.push("picture");
      const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
      if (new Set(ids).size !== ids.length) bad.push("ids");
      return bad;"""
    for path in WORDS:
        site.browser.open(path)
        assert site.browser.run(look) == [], path


def test_on_a_phone_nothing_is_cut_off(site: Site) -> None:
    """Rows become cards, in which each value has its name before it; no page is wider than the screen."""
    site.browser.wide(390)
    try:
        for path in WORDS:
            site.browser.open(path)
            assert site.browser.run("return document.documentElement.scrollWidth") <= 390, path
            wide = "return [...document.querySelectorAll('.cards')].filter((each) => each.scrollWidth > 390).length"
            assert site.browser.run(wide) == 0, path
        site.browser.open("/attachments")
        named = "getComputedStyle(document.querySelector('td[data-label=Addresses]'), '::before').content"
        assert site.browser.run(f"return {named}") == '"Addresses"'
    finally:
        site.browser.wide(None)


def test_dark_light_and_on_paper(site: Site) -> None:
    """It follows the system's scheme; on paper there is black on white, all columns, and nothing to click."""
    look = """
      const bright = (text) => text.match(/[0-9]+/g).slice(0, 3).reduce((sum, each) => sum + Number(each), 0);
      const style = getComputedStyle(document.body);
      const shown = (what) => document.querySelector(what).getClientRects().length > 0;
      return [bright(style.backgroundColor) > bright(style.color), shown("nav"), shown("form"), shown("tbody td")];"""
    site.browser.open("/attachments")
    try:
        for dark in (True, False):
            site.browser.dark(dark)
            assert site.browser.run(look) == [not dark, True, True, True]
        site.browser.dark(True)
        site.browser.on_paper(True)
        assert site.browser.run(look) == [True, False, False, True]
    finally:
        site.browser.on_paper(False)
        site.browser.dark(False)


def test_names_that_mean_ill_are_text(site: Site) -> None:
    """Of an interface, of what a refused configuration says, of a search: shown as they are, and run never.

    What would turn text round is written out.
    """
    node, space = site.node, site.lab.container("ill")
    answer = node.cni("ADD", "ill-id", space, site.conf, ifname=IFNAME)
    assert answer.ok, answer.document
    refused = node.cni("ADD", "worse-id", space, site.conf | {"bridge": HOSTILE})
    assert not refused.ok
    tags = "return document.querySelectorAll('main b, main script, main img').length"
    try:
        for path in ("/attachments", "/attachments/ill-id", "/attachments?search=" + IFNAME[:3]):
            site.browser.open(path)
            site.browser.shows(IFNAME)
            assert site.browser.run(tags) == 0
        site.browser.open("/")
        site.browser.shows("ADDs that failed", "<script>", "\\u202e")
        assert site.browser.run(tags) == 0
        assert site.browser.log() == []
    finally:
        assert node.cni("DEL", "ill-id", space, site.conf, ifname=IFNAME).ok
        until(lambda: len(node.operator("attachments").document["attachments"]) == 2, "nothing of it is left")


def test_the_api_is_the_commands(site: Site) -> None:
    """`/api/v1/NAME` is what `bgpcni NAME --json` prints."""

    def equal(name: str, command: tuple[str, ...]) -> bool:
        """Whether both say the same; the two ask one after the other, so a change may fall between them."""
        return bool(json.loads(site.glass.get(f"/api/v1/{name}").text) == site.node.operator(*command).document)

    same = {"attachments": ("attachments",), "routes": ("routes",), "networks": ("networks",), "status": ("status",)}
    for name, command in same.items():
        until(partial(equal, name, command), f"{name} is the same in both")
    explained = json.loads(site.glass.get("/api/v1/explain?what=shop/web").text)
    assert [each["containerID"] for each in explained["attachments"]] == ["web-id"]
    assert site.glass.get("/api/v1/explain?what=nothing-like-that").code == 404
    page = json.loads(site.glass.get("/api/v1/attachments?limit=1&offset=1").text)
    assert (len(page["attachments"]), page["total"]) == (1, 2)
    assert site.glass.get("/api/v1/drain").code == 404
    assert site.glass.get("/", method="POST").code == 405


def test_the_agent_goes_and_comes_back(site: Site) -> None:
    """The pages say that nobody answers, and show the node again as soon as somebody does."""
    site.browser.open("/attachments")
    site.node.kill_agent()
    site.browser.shows("This cannot be shown", "no agent answers")
    until(lambda: site.glass.get("/api/v1/status").code == 503, "what was kept is forgotten")
    site.node.start_agent()
    site.browser.shows("shop/web")
    until(lambda: site.node.operator("status").code == 0, "all well")


def test_it_needs_no_root(lab: Lab) -> None:
    """The user whose group is bgpcni may ask; another user may not."""
    node = lab.node()
    for name, line in (("passwd", f"bgpcni:x:{USER}:{USER}::/:/usr/sbin/nologin"), ("group", f"bgpcni:x:{USER}:")):
        lines = Path("/etc", name).read_text().splitlines()
        others = [each for each in lines if not each.startswith("bgpcni:")]
        (node.folder / name).write_text("\n".join([*others, line, ""]))
    node.prelude = " && ".join(f"mount --bind {node.folder / name} /etc/{name}" for name in ("passwd", "group"))
    node.agent(bgp=None, default_exporters=[])
    path = node.run_dir / "read.sock"

    def owned() -> bool:
        found = path.stat()
        return (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, USER, USER)

    until(owned, "read.sock for the group")
    until(lambda: node.run_dir.stat().st_mode & 0o777 == 0o710, "the way to it")
    LookingGlass(lab, node, user=f"{USER}:{USER}").start()
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    stranger = node.namespace.run(*become, BGPCNI, "status", "--socket", path, check=False)
    assert stranger.returncode == 1
    assert "may not ask" in stranger.stderr
