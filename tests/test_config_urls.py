"""URLs of tenants: this node by its address, and nothing else that a parser could make of the text."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.config.urls import loopback_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8082", "http://127.0.0.1:8082"),
        ("http://127.0.0.1:8082/", "http://127.0.0.1:8082"),
        ("http://127.9.9.9/base/", "http://127.9.9.9/base"),
        ("http://[::1]:8082/a/b", "http://[::1]:8082/a/b"),
        ("HTTP://127.0.0.1", "http://127.0.0.1"),
    ],
)
def test_http_to_a_literal_loopback_address_is_taken(text: str, url: str) -> None:
    """IPv4 and IPv6, with port and path."""
    assert loopback_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8082",
        "https://127.0.0.1:8082",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "unix:///run/docker.sock",
        "http://localhost:8082",
        "http://192.0.2.1:8082",
        "http://169.254.169.254/latest",
        "http://0.0.0.0:8082",
        "http://[::]:8082",
        "http://[2001:db8::1]",
        "http://[fe80::1%25lo]",
        "http://[::ffff:127.0.0.1]",
        "http://[::1%25eth0]",
        "http://127.1",
        "http://2130706433",
        "http://0x7f000001",
        "http://0177.0.0.1",
        "http://127.0.0.1.example.org",
        "http://127.0.0.1@192.0.2.1",
        "http://user:secret@127.0.0.1",
        "http://192.0.2.1#@127.0.0.1",
        "http://192.0.2.1\\@127.0.0.1",
        "http://127.0.0.1:8082?a=b",
        "http://127.0.0.1:8082?",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://127.0.0.1:80\r\nHost: x",
        "http://127.0.0.1/ HTTP/1.1",
        " http://127.0.0.1",
        "http://\u2460\u2461\u2466.0.0.1",
        "http://127.0.0.1\u3002example.org",
        "http://[::1",
    ],
)
def test_everything_else_is_refused_in_words(text: str) -> None:
    """Names, other machines, other notations, other schemes, users, queries, control characters."""
    with pytest.raises(ValueError, match=r"is not a URL|: "):
        loopback_url(text)


@given(st.text(max_size=40) | st.from_regex(r"http://[0-9a-f.:\[\]@%/#?]{1,25}", fullmatch=True))
def test_what_is_taken_leads_here(text: str) -> None:
    """Any text: refused, or a URL whose host is a loopback address, and which stays as it is."""
    try:
        url = loopback_url(text)
    except ValueError:
        return
    assert ip_address(urlsplit(url).hostname or "").is_loopback
    assert loopback_url(url) == url
