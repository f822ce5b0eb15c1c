"""Secrets: the order of places, the file's mode, and that they never show."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

from truetune.config.secrets import Secret, secret
from truetune.errors import UsageError

NAME = "huggingface.token"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and an empty folder, nothing in the environment."""
    for variable in ("HF_TOKEN", "TRUETUNE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    return tmp_path


def put(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "passwords.yml"
    path.write_text(text)
    path.chmod(mode)
    return path


def told(folder: Path, name: str = NAME) -> str | None:
    found = secret(name, folder)
    return found.reveal() if found else None


def test_the_environment_then_beside_the_file_then_home(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = places / "here"
    assert told(here) is None
    put(places / "home", "huggingface: {token: from home}")
    assert told(here) == "from home"
    put(here, "server: {api_key: k}")
    assert told(here) == "from home"
    put(here, "huggingface: {token: from here}")
    assert told(here) == "from here"
    monkeypatch.setenv("HF_TOKEN", "from the environment")
    assert told(here) == "from the environment"


def test_names_of_the_servers_key(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUETUNE_API_KEY", "k")
    assert told(places / "here", "server.api_key") == "k"
    assert told(places / "here", "server.other") is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(places: Path, mode: int) -> None:
    path = put(places / "here", "huggingface: {token: x}", mode)
    with pytest.raises(UsageError) as caught:
        secret(NAME, places / "here")
    assert caught.value.finding.code == "secrets.mode"
    assert f"chmod 600 {path}" in caught.value.finding.hint


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("huggingface: {token: hidden", "secrets.syntax"),
        ("hidden: hidden: hidden", "secrets.syntax"),
        ("hidden: 1\nhidden: 2\n", "secrets.syntax"),
        ("huggingface: {token: 12345678}", "secrets.type"),
    ],
)
def test_errors_never_show_what_stands_in_the_file(places: Path, text: str, code: str) -> None:
    put(places / "here", text)
    with pytest.raises(UsageError) as caught:
        secret(NAME, places / "here")
    assert caught.value.finding.code == code
    shown = json.dumps(caught.value.to_json()) + str(caught.value) + repr(caught.value.__cause__)
    assert "hidden" not in shown
    assert "12345678" not in shown


@pytest.mark.parametrize("text", ["", "- a\n", "huggingface: text\n", "huggingface: {token: null}\n"])
def test_files_without_the_secret(places: Path, text: str) -> None:
    put(places / "here", text)
    assert secret(NAME, places / "here") is None


def test_a_folder_of_that_name(places: Path) -> None:
    (places / "here" / "passwords.yml").mkdir(mode=0o700)
    with pytest.raises(UsageError) as caught:
        secret(NAME, places / "here")
    assert caught.value.finding.code == "secrets.unreadable"


def test_a_secret_does_not_show() -> None:
    token = Secret("hf_abc")
    assert token.reveal() == "hf_abc"
    assert "hf_abc" not in f"{token} {token!r} {[token]} {token!s:>20}"
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            way(token)
    with pytest.raises(TypeError):
        json.dumps(token)
