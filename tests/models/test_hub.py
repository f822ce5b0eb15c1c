"""Downloads, against a small hub of our own on the loopback: pinned, filtered, refused before they are paid for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_hub
from safetensors.numpy import save
from small_hub import COMMIT

WEIGHTS = save({"model.embed_tokens.weight": np.ones((16, 8), np.float32)})
CONFIG = json.dumps({"model_type": "llama", "hidden_size": 8}).encode()
REPOS = {
    "owner/small": {
        "config.json": CONFIG,
        "model.safetensors": WEIGHTS,
        "tokenizer.json": b"{}",
        "consolidated.safetensors": WEIGHTS,
        "modeling.py": b"raise SystemExit",
        "onnx/model.json": b"{}",
        "pytorch_model.bin": b"pickle",
    },
    "owner/reads": {
        "config.json": CONFIG,
        "model.safetensors": WEIGHTS,
        "modules.json": b"[]",
        "1_Pooling/config.json": b"{}",
        "2_Dense/config.json": b"{}",
    },
    "owner/pickled": {"config.json": CONFIG, "pytorch_model.bin": b"pickle"},
    "owner/ggufs": {"model-q4.gguf": b"GGUF"},
}
ASK = """
import json, sys
from pathlib import Path
from truetune.errors import TrueTuneError
from truetune.models import source
try:
    found = source.resolve(sys.argv[1], folder=Path(sys.argv[2]), revision=sys.argv[3] or None)
    print(json.dumps([found.kind, found.revision, sorted(path.name for path in found.folder.rglob("*"))]))
except TrueTuneError as error:
    print(json.dumps(error.finding.code))
"""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    with small_hub.serving(REPOS) as found:
        yield found


def ask(tmp_path: Path, address: str, name: str, revision: str = "", **extra: str) -> Any:
    return small_hub.run(ASK, tmp_path, address, name, str(tmp_path), revision, **extra)


def test_download_is_pinned_and_takes_only_what_is_needed(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    address, asked = hub
    expected = ["hub", COMMIT, ["config.json", "model.safetensors", "tokenizer.json"]]
    assert ask(tmp_path, address, "owner/small") == expected
    assert not any(word in path for path in asked for word in ("modeling.py", ".bin", "consolidated", "onnx/"))
    del asked[:]
    assert ask(tmp_path, address, "owner/small", HF_HUB_OFFLINE="1") == expected
    assert ask(tmp_path, address, "owner/small", COMMIT) == expected
    assert asked == []


def test_how_embeddings_are_made_comes_along(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    """The pooling of a model for embeddings stands in a folder of its own."""
    found = ask(tmp_path, hub[0], "owner/reads")
    assert found == ["hub", COMMIT, ["1_Pooling", "config.json", "config.json", "model.safetensors", "modules.json"]]
    assert ask(tmp_path, hub[0], "owner/reads", HF_HUB_OFFLINE="1") == found


@pytest.mark.parametrize(
    ("name", "revision", "code"),
    [
        ("owner/pickled", "", "model.pickle_weights"),
        ("owner/ggufs", "", "model.gguf"),
        ("owner/none", "", "model.missing"),
        ("owner/gated", "", "model.gated"),
        ("owner/small", "nope", "model.no_revision"),
    ],
)
def test_refused_before_anything_is_loaded(
    name: str, revision: str, code: str, tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    address, asked = hub
    assert ask(tmp_path, address, name, revision) == code
    assert not any("/resolve/" in path for path in asked)


def test_no_hub_within_reach(tmp_path: Path) -> None:
    assert ask(tmp_path, "http://127.0.0.1:9", "owner/small") == "model.unreachable"


def test_offline_opens_no_socket(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    address, asked = hub
    assert ask(tmp_path, address, "owner/small", HF_HUB_OFFLINE="1") == "model.offline"
    assert asked == []
