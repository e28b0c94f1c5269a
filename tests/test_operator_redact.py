"""What `bgpcni diags` takes out: no canary survives, in whatever form a file has it; innocent text stays."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.operator import redact

CANARY = "Tr0ub4dor"
TEXTS = [
    f'password = "{CANARY}"',
    f"password: {CANARY}",
    f"md5-password '{CANARY}';",
    f'   md5-password "{CANARY}";',
    f'"clientSecret": "{CANARY}"',
    f"token={CANARY}&x=1",
    f"export API_KEY={CANARY}",
    f"client-key-data: {CANARY}",
    f"Authorization: Bearer {CANARY}{CANARY}",
    f"Authorization: Basic {CANARY}{CANARY}==",
    f"https://admin:{CANARY}@etcd.example:2379/",
    f"http_proxy=http://me:{CANARY}@proxy:3128",
    f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}\n-----END EC PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{CANARY} cut in the middle",
    f"eyJhbGciOiJSUzI1NiJ9.{CANARY}.{CANARY}",
    f" neighbor 192.0.2.1 password {CANARY}",
    f'DB_PASSWORD="with \\" quote {CANARY}"',
]


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_by_their_form(text: str) -> None:
    """Alone, and in the middle of other lines."""
    assert CANARY not in redact.text(text)
    assert CANARY not in redact.text(f"before\n{text}\nafter")


@pytest.mark.parametrize("text", [
    'password_file = "/etc/bgpcni/neighbor.password"', "10.1.2.3/24 dev cni0", "a sentence about a password, no more",
    '{"state": "up", "mac": "02:00:00:00:00:01"}', "see https://docs.example:8443/path", "importRT = 64512:90",
])  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact.text(text) == text


@given(st.text(min_size=redact.SHORTEST, max_size=30))
def test_a_known_secret_is_found_wherever_it_is(secret: str) -> None:
    """As it is, in JSON, and in base64."""
    for form in (secret, json.dumps({"x": secret}), base64.b64encode(secret.encode()).decode()):
        assert secret not in redact.text(f"a {form} b", {secret}).replace(redact.GONE, "")


@pytest.mark.parametrize("value", [
    {"password": CANARY}, {"a": [{"apiKey": {"deep": CANARY}}]}, {"spec": {"env": {"HOME": CANARY}}},
    {"environment": {"CNI_ARGS": f"K8S_POD_NAME=web;SECRET={CANARY}"}}, {"stdin": json.dumps({"token": CANARY})},
    {"environment": {"DB": CANARY}}, {"args": {"cni": {"dbPassword": CANARY}}},
])  # fmt: skip
def test_secrets_of_documents(value: Any) -> None:
    assert CANARY not in json.dumps(redact.document(value))


def test_what_documents_keep() -> None:
    """Everything that tells what happened."""
    value = {
        "network": "a", "passwordFile": "/p", "addresses": ["10.1.2.3"], "healthy": True, "token": None,
        "environment": {"CNI_COMMAND": "ADD", "CNI_ARGS": "K8S_POD_NAME=web;IgnoreUnknown=1"},
        "stdin": json.dumps({"name": "a", "mtu": 1450}),
    }  # fmt: skip
    assert redact.document(value) == value
