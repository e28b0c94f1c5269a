"""Takes secrets out of what `bgpcni diags` collects. Pure.

Three rules: values that are known to be secret go wherever they are; the value of a key whose name says so goes; and
what has the form of a secret (a private key, a token, a password in a URL) goes. Rather too much goes than too little.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

GONE = "[taken out]"
SHORTEST = 4
"""A known secret of fewer characters is not looked for: it would be found in innocent words."""
_KEYS = (
    r"passw(?:or)?d|passphrase|secret|token|credential|authorization|cookie|private[-_]?key|api[-_]?key|key[-_]?data"
)
_NAMES = re.compile(rf"(?i)(?:{_KEYS}|^auth$|^psk$|^pass$)")
_INNOCENT = re.compile(r"(?i)(?:_file|file|_path|_dir)$")
"""Keys with a path, which is no secret."""
_FORMS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), GONE),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"), GONE),  # a JSON Web Token
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w+/=.~-]{6,}"), rf"\1 {GONE}"),
    (re.compile(r"(://[^\s/:@\"']*:)[^\s/@\"']+@"), rf"\1{GONE}@"),
    (re.compile(r"(?im)(^[ \t]*neighbor \S+ password(?: \d)? )\S+"), rf"\1{GONE}"),
    # KEY = VALUE, KEY: VALUE, "KEY": "VALUE", KEY "VALUE"; as in TOML, YAML, JSON, shells and speakers' files
    (
        re.compile(
            rf"(?im)((?:^|[\s,;{{(\"'&?])[\w.-]*(?:{_KEYS})[\w-]*(?<!_file)(?<!file)"
            r"[\"']?(?:\s*[:=]\s*|[ \t]+(?=[\"'])))"
            r"(\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|[^\s,;})\]\"'&]+)"
        ),
        rf"\1{GONE}",
    ),
)
_KEPT_VARIABLES = re.compile(r"CNI_(COMMAND|CONTAINERID|NETNS|IFNAME|PATH)|BGPCNI_\w+|PATH|LANG|LC_\w+|NODE_(NAME|IP)")


def text(content: str, secrets: Collection[str] = ()) -> str:
    """A text without secrets. `secrets`: those that are known; they are also found as JSON and base64 write them."""
    forms = {form for secret in secrets if len(secret) >= SHORTEST for form in _forms_of(secret)}
    for form in sorted(forms, key=len, reverse=True):
        content = content.replace(form, GONE)
    for pattern, instead in _FORMS:
        content = pattern.sub(instead, content)
    return content


def _forms_of(secret: str) -> Iterator[str]:
    yield secret
    yield json.dumps(secret)[1:-1]
    yield base64.b64encode(secret.encode()).decode()


def document(value: Any) -> Any:
    """A JSON document without secrets: by the names of keys, in strings that are JSON themselves, and in CNI_ARGS."""
    if isinstance(value, dict):
        return {key: _entry(str(key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [document(item) for item in value]
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.dumps(document(json.loads(value)))
        except (ValueError, RecursionError):
            return value
    return value


def _entry(key: str, value: Any) -> Any:
    if is_secret(key) and value not in (None, "", [], {}) and not isinstance(value, bool):
        return GONE
    if key.lower() in ("env", "environment") and isinstance(value, dict):
        return {
            name: item if _KEPT_VARIABLES.fullmatch(name) else _variable(name, item) for name, item in value.items()
        }
    return document(value)


def _variable(name: str, value: Any) -> Any:
    """CNI_ARGS is a list of KEY=VALUE, in which a runtime may have anything; of a strange variable nothing is kept."""
    if _KEPT_VARIABLES.fullmatch(name):
        return value
    if name != "CNI_ARGS" or not isinstance(value, str):
        return GONE
    pairs = (pair.partition("=") for pair in value.split(";"))
    return ";".join(f"{key}{mark}{GONE if is_secret(key) else item}" for key, mark, item in pairs)


def is_secret(key: str) -> bool:
    """Whether the name of a key says that its value is a secret."""
    return bool(_NAMES.search(key)) and not _INNOCENT.search(key)
