"""Data sets of the hub, against a small hub of our own on the loopback: pinned, rows only, known offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_hub

from truetune.data.hub import chosen
from truetune.errors import InputError

ROWS = b'{"text": "one"}\n'
REPOS = {
    "owner/small": {"train.jsonl": ROWS, "test.jsonl": ROWS * 2, "small.py": b"raise SystemExit", "README.md": b"#"},
}
ASK = """
import json, sys
from pathlib import Path
from truetune.data import sources
from truetune.errors import TrueTuneError
try:
    found = sources.find([sys.argv[1]], Path(sys.argv[2]), sys.argv[3])
    print(json.dumps([[source.name, source.path.read_text().count("\\n")] for source in found]))
except TrueTuneError as error:
    assert error.hint
    print(json.dumps(error.code))
"""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    with small_hub.serving(REPOS) as found:
        yield found


def ask(tmp_path: Path, address: str, name: str, split: str = "train", **extra: str) -> Any:
    return small_hub.run(ASK, tmp_path, address, name, str(tmp_path), split, **extra)


@pytest.mark.slow
def test_files_of_a_split_are_fetched_and_known_offline(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    endpoint, asked = hub
    expected = [["hf://datasets/owner/small/train.jsonl", 1]]
    assert ask(tmp_path, endpoint, "hf://datasets/owner/small") == expected
    assert not any(word in path for path in asked for word in (".py", "README", "test.jsonl"))
    assert ask(tmp_path, endpoint, "hf://datasets/owner/small@main/test.jsonl") == [
        ["hf://datasets/owner/small/test.jsonl", 2]
    ]
    del asked[:]
    assert ask(tmp_path, endpoint, "hf://datasets/owner/small", HF_HUB_OFFLINE="1") == expected
    assert ask(tmp_path, endpoint, "hf://datasets/owner/small", "test", HF_HUB_OFFLINE="1") == "data.offline"
    assert asked == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("hf://datasets/owner/none", "data.missing"),
        ("hf://datasets/owner/gated", "data.gated"),
        ("hf://datasets/owner/small@nope", "data.missing"),
        ("hf://datasets/owner/small/small.py", "data.unsupported_format"),
        ("hf://owner/small", "data.address"),
    ],
)
def test_what_cannot_be_fetched(tmp_path: Path, hub: tuple[str, list[str]], address: str, code: str) -> None:
    endpoint, asked = hub
    assert ask(tmp_path, endpoint, address) == code
    assert not any("/resolve/" in path for path in asked)


@pytest.mark.slow
def test_no_hub_within_reach(tmp_path: Path) -> None:
    assert ask(tmp_path, "http://127.0.0.1:9", "hf://datasets/owner/small") == "data.unreachable"


PARTS = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


@pytest.mark.parametrize(
    ("files", "place", "split", "expected"),
    [
        ([*PARTS, "data/test-00000-of-00001.parquet", "README.md"], "", "train", PARTS),
        ([*PARTS, "data/train-00000-of-00001-0123456789abcdef.csv"], "", "train", PARTS),
        (["train_1.jsonl", "train_2.jsonl", "train.py"], "", "train", ["train_1.jsonl", "train_2.jsonl"]),
        (["rows.jsonl", "dataset_infos.json", ".hidden.jsonl"], "", "train", ["rows.jsonl"]),
        (["rows.json", "config.json"], "", "train", ["rows.json"]),
        (["en/train.jsonl", "de/train.jsonl"], "de", "train", ["de/train.jsonl"]),
        (["train/0000.parquet", "test/0000.parquet"], "", "train", ["train/0000.parquet"]),
        (["train.jsonl", "train_gen.jsonl"], "", "train", ["train.jsonl"]),
        (["train_sft.jsonl", "train_gen.jsonl"], "", "train_sft", ["train_sft.jsonl"]),
        (["train.jsonl.gz"], "", "train", ["train.jsonl.gz"]),
        (["train.jsonl", "odd.txt"], "odd.jsonl", "train", "data.missing"),
        (["train.jsonl", "test.jsonl"], "", "validation", "data.missing"),
        (["train.jsonl"], "", "validation", "data.missing"),
        (["test.jsonl"], "", "train", "data.missing"),
        (["en/train.jsonl", "de/train.jsonl"], "", "train", "data.ambiguous"),
        (["train_sft.jsonl", "train_gen.jsonl"], "", "train", "data.ambiguous"),
        (["script.py", "README.md"], "", "train", "data.missing"),
    ],
)
def test_which_files_hold_the_rows(files: list[str], place: str, split: str, expected: Any) -> None:
    if isinstance(expected, list):
        assert chosen(files, place, split) == expected
        return
    with pytest.raises(InputError) as caught:
        chosen(files, place, split)
    assert caught.value.code == expected and caught.value.hint
