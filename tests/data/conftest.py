"""A tokenizer with a chat template, and the cache in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from truetune.models.tokenizer import Tokenizer, load
from truetune.testing import tokens
from truetune.testing.templates import CHATML


@pytest.fixture(scope="session")
def encode(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load(tokens.byte_level(tmp_path_factory.mktemp("tokenizer"), template=CHATML))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
