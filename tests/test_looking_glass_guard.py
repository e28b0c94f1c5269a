"""The looking glass and who means it ill: what a stranger on the network, a web site in the operator's browser, or the
one who chooses a container's name can try. The real server, on loopback, with an agent of ours behind it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from bgpcni.errors import InvalidConfiguration
from bgpcni.looking_glass import entrance, server
from bgpcni.looking_glass.app import create
from bgpcni.looking_glass.asking import Answer, Asker
from bgpcni.looking_glass.guard import HEADERS, is_ours
from bgpcni.looking_glass.server import Server
from bgpcni.testing.patience import SECONDS, until

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e\u0000\u0007{{7*7}}"
PAGES = ("/", "/attachments", "/routes", "/received", "/peers", "/map", "/events", "/attachments/c1", "/nothing")


def documents(name: str) -> dict[str, Any]:
    """An answer of the agent to each command, in which everything that somebody chose is this name."""
    row = {"network": name, "containerID": "c1", "ifname": name, "pod": {"namespace": name, "name": name, "uid": name}}
    state = {"state": "refused", "since": "2026-01-31T12:00:00Z", "reason": name}
    step = {"step": "link", "state": "gone", "since": "", "detail": name, "problem": "link-gone", "remedy": "do it"}
    problem = {"code": "x", "step": "link", "since": "", "text": name, "remedy": name}
    route = {"nlri": name, "nextHop": name, "vni": 7, "communities": [name], "datapath": False}
    return {
        "status": {"healthy": False, "problems": [{"code": name, "text": name}], "exporters": {name: state}},
        "attachments": {"attachments": [{**row, "state": name, "mac": name, "hostVeth": name, "ips": [name],
                                         "since": name}], "total": 60},
        "routes": {"routes": [{**row, **route, "exportRT": [name], "exporters": {name: state}}], "total": 1,
                   "received": [{**route, "peer": name, "routeTargets": [name], "asPath": [1], "stale": True,
                                 "imported": [{"table": name, "state": "refused", "reason": name}]}],
                   "refused": {name: 3}},
        "peers": {"peers": [{"exporter": name, "address": name, "asn": 1, "state": "Idle", "since": name,
                             "families": [name], "sent": 1, "received": 2, "lastError": name}]},
        "networks": {"networks": [{"network": name, "family": "evpn", "bridges": [name], "vni": 7, "vrf": name,
                                   "l3vni": None, "exporters": [name], "attachments": {"up": 1},
                                   "subnets": [{"subnet": name, "used": 1, "size": 2}]}],
                     "devices": [{"kind": "bridge", "name": name, "state": "up", "master": None, "mtu": 1500,
                                  "vni": None}],
                     "routes": {name: {"refused": 1}}},
        "nodes": {"nodes": [{"name": name, "since": name, "lastSeen": name, "labels": {name: name},
                             "blocks": [name], "sessions": 0}]},
        "unreachable": {"unreachable": [{**row, "ips": [name], "problems": [problem]}], "more": True,
                        "failed": [{**row, "problems": [problem]}]},
        "events": {"run": "1", "last": 1, "missed": 0, "events": [
            {"time": name, "kind": name, "level": "warning", "text": name, "exporter": name, "peer": name,
             "network": name, "containerID": "c1", "ifname": name}]},
        "explain": {"attachments": [{**row, "steps": [step, {**step, "step": name, "state": name}]}]},
    }  # fmt: skip


class Agent(Asker):
    """Answers at once; nobody is asked."""

    def __init__(self, name: str = "tenant-a") -> None:
        super().__init__(Path("/nowhere"))
        self.name = name

    async def at_once(self, command: str, **arguments: Any) -> tuple[Answer, float]:
        document = documents(self.name)[command]
        if command == "events" and arguments["after"]:
            document["events"] = []
            if arguments.get("wait"):
                await asyncio.sleep(3600)
        return Answer({"schema": 1, **document}, 0), 0.0


class Site:
    """The looking glass, served by a thread."""

    def __init__(self, agent: Asker, **protection: Any) -> None:
        where = entrance.place("127.0.0.1:0")
        way_in = entrance.entrance(where, **protection)
        self.listener = entrance.listen(where)
        self.port = self.listener.getsockname()[1]
        self.server = Server(create(agent, way_in, "node-1"), way_in.tls)
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.listener]))
        self.thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), SECONDS)

    def raw(self, octets: bytes) -> bytes:
        """All that comes back until the server closes."""
        with self.connect() as sock:
            sock.sendall(octets)
            try:
                return b"".join(iter(lambda: sock.recv(1 << 16), b""))
            except ConnectionResetError:
                return b""

    def ask(self, path: str, *headers: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str]:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
        answer = self.raw("\r\n".join([*lines, "", ""]).encode()).decode()
        return int(answer.split(" ")[1]), answer

    def close(self) -> None:
        self.server.end()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site(Agent())
    yield site
    site.close()


@pytest.fixture(scope="module")
def hostile() -> Iterator[Site]:
    site = Site(Agent(HOSTILE))
    yield site
    site.close()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Open to who knows the word open-sesame."""
    path = tmp_path_factory.mktemp("locked") / "token"
    path.write_text("open-sesame\n")
    path.chmod(0o600)
    site = Site(Agent(), token=path)
    yield site
    site.close()


# ---------------------------------------------------------------- where it listens


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1", "glass.example")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    ca.cert_pem.write_to_path(tmp_path / "ca")
    (tmp_path / "token").write_text("open-sesame\n")
    (tmp_path / "token").chmod(0o600)
    return ca


@pytest.mark.parametrize("where", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "add --certificate and --key, and --token-file or --client-ca"),
        (("token",), "add --certificate and --key"),
        (("certificate", "key"), "add --token-file or --client-ca"),
        (("certificate",), "--certificate and --key go together"),
        (("certificate", "key", "token"), ""),
        (("certificate", "key", "client_ca"), ""),
    ],
)
def test_other_hosts_are_served_only_by_tls_and_if_they_prove_who_they_are(
    where: str, given: tuple[str, ...], words: str, authority: trustme.CA, tmp_path: Path
) -> None:
    """Otherwise it refuses to start, and says what is missing."""
    files = {name: tmp_path / {"client_ca": "ca"}.get(name, name) for name in given}
    if not words:
        entrance.entrance(entrance.place(where), **files)
        return
    with pytest.raises(InvalidConfiguration, match=words):
        entrance.entrance(entrance.place(where), **files)


@pytest.mark.parametrize(
    "where",
    ["", "8179", ":8179", "localhost:8179", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "::1:8179", "unix:a"],
)
def test_what_is_no_place_is_refused(where: str) -> None:
    """A name is none either: who answers for it is up to DNS."""
    with pytest.raises(InvalidConfiguration, match="--listen"):
        entrance.place(where)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("wide", "chmod 0600"),
        ("empty", "does not hold one word"),
        ("two words", "one word"),
        ("missing", "No such file"),
    ],
)
def test_a_token_that_is_none_is_refused(tmp_path: Path, file: str, words: str) -> None:
    path = tmp_path / "token"
    if file != "missing":
        path.write_text({"wide": "secret", "empty": "\n", "two words": "a b"}[file])
        path.chmod(0o644 if file == "wide" else 0o600)
    with pytest.raises(InvalidConfiguration, match=words):
        entrance.entrance(entrance.place("127.0.0.1:1"), token=path)


def test_a_unix_socket_is_for_its_group_and_replaces_a_dead_one(tmp_path: Path) -> None:
    for _ in range(2):
        listener = entrance.listen(entrance.place(f"unix:{tmp_path}/glass"))
        assert (tmp_path / "glass").stat().st_mode & 0o777 == 0o660
        listener.close()


# ---------------------------------------------------------------- who may come in


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Authorization: Bearer open-sesame", 200), ("authorization: bearer  open-sesame ", 200), ("X: y", 401),
        ("Authorization: Bearer open-sesam", 401), ("Authorization: Bearer open-sesame2", 401),
        ("Authorization: Bearer", 401), ("Authorization: open-sesame", 401), ("Authorization: Basic open-sesame", 401),
        ("Authorization: Bearer öpen", 401), ("Cookie: token=open-sesame", 401),
        ("Authorization: Bearer open-sesame\r\nAuthorization: Bearer x", 401),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/live", "/static/style.css", "/nothing"])
def test_without_the_token_nothing_is_shown(locked: Site, header: str, code: int, path: str) -> None:
    """No page, no file, not even whether a page is there."""
    found, text = locked.ask(path, header, method="HEAD" if path == "/live" else "GET")
    assert found == (404 if code == 200 and path == "/nothing" else code)
    if code == 401:
        assert 'WWW-Authenticate: Bearer realm="bgpcni"'.lower() in text.lower()
        assert "tenant-a" not in text


def test_a_client_certificate_of_another_authority_is_refused(tmp_path: Path, authority: trustme.CA) -> None:
    files = {"certificate": tmp_path / "certificate", "key": tmp_path / "key", "client_ca": tmp_path / "ca"}
    site = Site(Agent(), **files)

    def ask(mine: trustme.LeafCert | None) -> bytes:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        if mine is not None:
            mine.configure_cert(context)
        with context.wrap_socket(site.connect(), server_hostname="127.0.0.1") as sock:
            sock.sendall(b"GET /api/v1/peers HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(1 << 16), b""))

    try:
        assert b"200 OK" in ask(authority.issue_cert("operator@example.net"))
        for other in (trustme.CA().issue_cert("operator@example.net"), None):
            with suppress(ssl.SSLError, ConnectionError):  # or the end of the connection is all that it hears
                assert ask(other) == b""
        assert b"tenant" not in site.raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    finally:
        site.close()


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1", True), ("127.0.0.1:8179", True), ("localhost:9", True), ("LOCALHOST.", True),
        ("[::1]:8179", True), ("[::1]", True), ("192.0.2.1", True), ("glass.example", True), ("glass.example:1", True),
        ("evil.example", False), ("localhost.evil.example", False), ("127.0.0.1.evil.example", False), ("", False),
        ("localhost:x", False), ("localhost@evil.example", False), ("[::1", False), ("glass.example:80:80", False),
    ],
)  # fmt: skip
def test_by_which_names_it_is_called(host: str, ours: bool) -> None:
    """A web site could point its own name at 127.0.0.1 (DNS rebinding), never an address."""
    assert is_ours(host, {"localhost", "glass.example"}) is ours


def test_another_web_site_reads_nothing(site: Site) -> None:
    """By a name of its own that leads here, or by several Host headers."""
    for host in ("evil.example", "evil.example:8179", "127.0.0.1\r\nHost: evil.example"):
        code, text = site.ask("/api/v1/status", host=host)
        assert code == 400
        assert "tenant-a" not in text
    _, text = site.ask("/api/v1/status", "Origin: http://evil.example")
    assert "access-control" not in text.lower()


# ---------------------------------------------------------------- what is served


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FROB", "get"])
def test_only_questions_are_served(site: Site, method: str) -> None:
    for path in ("/", "/api/v1/status", "/live"):
        code, text = site.ask(path, method=method)
        assert code == 405
        assert "allow: get, head" in text.lower()


@pytest.mark.parametrize("path", [*PAGES, "/api/v1/status", "/api/v1/frob", "/static/live.js", "/static/nothing"])
def test_every_answer_forbids_what_a_page_does_not_need(site: Site, path: str) -> None:
    """Also an error. No cookie is set, nothing tells what serves it."""
    _, text = site.ask(path)
    head = text.partition("\r\n\r\n")[0].lower()
    for name, value in HEADERS.items():
        if name != "Cache-Control":
            assert f"{name}: {value}".lower() in head
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "set-cookie" not in head
    assert "server:" not in head


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/",
        "/static/..%5capp.py", "/static/style.css%00.js", "//static/style.css", "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd", "/templates/base.html", "/static/style.css/", "/api/v1/../../static/live.js",
        "http://127.0.0.1/static/../app.py", "/attachments/..%2f..%2fetc%2fpasswd",
    ],
)  # fmt: skip
def test_no_path_leads_out(site: Site, path: str) -> None:
    code, text = site.ask(path)
    assert code in (400, 404)
    assert "root:" not in text
    assert "import annotations" not in text


@pytest.mark.parametrize("path", PAGES)
def test_what_a_network_configuration_says_is_never_html(hostile: Site, path: str) -> None:
    """Names with tags, quotes, control characters and such that turn text round; in HTML, in attributes, in SVG."""
    _, text = hostile.ask(path)
    body = text.partition("\r\n\r\n")[2]
    assert "<script>" not in body
    assert "<img" not in body
    assert not {"\u202e", "\0", "\x07"} & set(body)
    if path not in ("/attachments/c1", "/nothing"):
        assert "{{7*7}}" in body, "a name is no template"
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&gt;&lt;img" in body


def test_json_is_served_as_json(hostile: Site) -> None:
    """A browser never takes it for a page, and characters that turn text round are escaped."""
    code, text = hostile.ask("/api/v1/attachments")
    head, _, body = text.partition("\r\n\r\n")
    assert code == 200
    assert "content-type: application/json" in head.lower()
    assert json.loads(body)["attachments"][0]["network"] == HOSTILE
    assert "\0" not in body
    assert "\u202e" not in body


# ---------------------------------------------------------------- too much, too slow


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        ("/?x=" + "a" * 3000, (), 414), ("/" + "a" * 3000, (), 414), ("/", tuple(f"X-{n}: y" for n in range(80)), 431),
        ("/", ("Content-Length: 5",), 413), ("/", ("Transfer-Encoding: chunked",), 413),
        ("/", ("Cookie: " + "a" * 17000,), 431), ("/attachments?search=" + "a" * 300, (), 400),
        ("/attachments?page=0", (), 400), ("/attachments?page=x", (), 400), ("/attachments?page=%D9%A1", (), 400),
        ("/attachments?page=99999999999999999999", (), 400), ("/api/v1/attachments?limit=x", (), 400),
        ("/api/v1/attachments?frob=1", (), 400), ("/api/v1/status?limit=1", (), 400),
        ("/api/v1/explain", (), 400), ("/api/v1/explain?what=", (), 400), ("/api/v1/explain?what=a&x=b", (), 400),
    ],
)  # fmt: skip
def test_what_is_too_much_is_refused(site: Site, path: str, headers: tuple[str, ...], code: int) -> None:
    found, text = site.ask(path, *headers)
    assert found in (code, 400)  # what does not arrive at once is not looked at any further
    assert "tenant-a" not in text


@pytest.mark.parametrize(
    "octets",
    [
        b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_answered_with_an_error_at_most(site: Site, octets: bytes) -> None:
    answer = site.raw(octets + b"\r\n" * 2)
    assert b" 200 " not in answer
    assert b"Traceback" not in answer
    assert site.ask("/api/v1/status")[0] == 200


def test_a_client_that_sends_slowly_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowloris: a header that never ends, on a new connection and on one that was served before; or nothing at all."""
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.2)
    for begin in (
        b"",
        b"GET / HTTP/1.1\r\nHost: 127.0",
        b"GET /api/v1/peers HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET / HT",
    ):
        with site.connect() as sock:
            sock.sendall(begin)
            try:
                while sock.recv(1 << 16):
                    sock.sendall(b"a")  # every octet would keep a deadline between octets alive
            except (ConnectionResetError, BrokenPipeError):
                pass
    assert site.ask("/api/v1/status")[0] == 200


def test_a_client_that_does_not_read_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that asks and asks, and never takes an answer."""
    monkeypatch.setattr(server, "STALL_SECONDS", 0.2)
    with site.connect() as sock:
        sock.settimeout(SECONDS)
        greedy = iter(lambda: sock.sendall(b"GET /static/style.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 50), 1)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            all(each is None for each in greedy)
    assert site.ask("/api/v1/status")[0] == 200


def test_so_many_connections_and_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 5)
    held = [site.connect() for _ in range(5)]
    try:
        until(lambda: len(site.server.server_state.connections) == 5)
        assert site.raw(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") == b""
    finally:
        for sock in held:
            sock.close()
    until(lambda: not site.server.server_state.connections)
    assert site.ask("/api/v1/status")[0] == 200


def test_so_many_browsers_are_told_and_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has gone makes room for the next."""
    monkeypatch.setattr("bgpcni.looking_glass.live.MOST", 2)
    ask = b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    held = [site.connect() for _ in range(2)]
    for sock in held:
        sock.sendall(ask)
        text = b""
        while b"retry:" not in text:
            text += sock.recv(4096)
        assert b"text/event-stream" in text
    assert site.ask("/live")[0] == 503
    held[0].close()
    until(lambda: site.ask("/live", method="HEAD")[0] == 200)
    held[1].close()


def test_an_overview_of_ten_thousand_problems_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows the first ones, and how many there are."""
    many = [{"code": "unreachable", "text": f"the node cannot reach 10.64.0.{n}"} for n in range(10_000)]
    status = {"status": {"problems": many, "exporters": {}}}
    answers = documents
    monkeypatch.setitem(globals(), "documents", lambda name: answers(name) | status)
    busy = Site(Agent())
    try:
        code, text = busy.ask("/")
        assert code == 200
        assert "10,000 things are wrong" in text
        assert "the first 20 of 10,000 problems" in text
        assert len(text) < 20_000
    finally:
        busy.close()


def test_a_list_keeps_its_filters_on_the_next_page(site: Site) -> None:
    """Search, network and state go with each link; what no list has is refused, and says what there is."""
    _, text = site.ask("/attachments?search=web&network=a%26b&state=up")
    assert 'href="/attachments?search=web&amp;network=a%26b&amp;state=up&amp;page=2"' in text
    assert "<option selected>up</option>" in text
    assert "<option selected>a&amp;b</option>" in text
    code, text = site.ask("/routes?state=up")
    assert code == 400
    assert "state: it is none of announced, wanted, withdrawing, refused" in text
    code, _ = site.ask(f"/received?peer={'x' * 201}")
    assert code == 400
