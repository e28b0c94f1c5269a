"""Passwords that are Secrets: the file that a session's password is read from, and what is said where there is none."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpcni.cluster import secrets as module
from bgpcni.cluster.kubernetes import Api
from bgpcni.cluster.secrets import Secrets
from bgpcni.config.secret import read_secret
from integration.kubernetes.double import Double


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with Double() as double:
        yield double


@pytest.fixture
def api(double: Double, tmp_path: Path) -> Iterator[Api]:
    api = Api(str(double.kubeconfig(tmp_path / "kubeconfig")))
    yield api
    api.close()


def secret(name: str, **data: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def test_a_secret_is_a_file_of_root_alone(
    double: Double, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as it is there, and again when it has changed; the file goes with the last peer that names it."""
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.0)
    found = Secrets(api, tmp_path)
    assert not found.look({"tor"}) or found.of("tor").file is None
    assert "tor" in found.of("tor").reason
    double.create("v1/secrets", secret("tor", other="x"), "default")
    assert found.look({"tor"})
    assert "has no key password" in found.of("tor").reason
    double.merge("v1/secrets", "tor", secret("tor", password="first"), "default")
    assert found.look({"tor"})
    file = found.of("tor").file
    assert file is not None
    assert read_secret(file) == "first"
    assert Path(file).stat().st_mode & 0o777 == 0o600
    assert not found.look({"tor"})
    double.merge("v1/secrets", "tor", secret("tor", password="second"), "default")
    assert found.look({"tor"})
    assert read_secret(file) == "second"
    found.look(set())
    assert not Path(file).exists()


def test_a_server_that_is_away_takes_no_password_away(double: Double, api: Api, tmp_path: Path) -> None:
    """What was read holds, for an agent that starts anew as well."""
    double.create("v1/secrets", secret("kept", password="word"), "default")
    Secrets(api, tmp_path).look({"kept"})
    double.do(lambda: setattr(double.line, "refused", True))
    double.cut()
    again = Secrets(api, tmp_path)
    again.look({"kept", "never"})
    double.do(lambda: setattr(double.line, "refused", False))
    file = again.of("kept").file
    assert file is not None
    assert read_secret(file) == "word"
    assert again.of("never").reason
