"""Sources with weights: rows are seen as often as is said, the account of them is exact, and held-out rows stay out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from truetune.config import load
from truetune.config.schema import Data
from truetune.data import sources
from truetune.data.prepare import Prepared, prepare
from truetune.errors import ConfigErrors
from truetune.models.tokenizer import Tokenizer


def write(path: Path, numbers: range) -> None:
    rows = [{"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in numbers]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "a.jsonl", range(20))
    write(tmp_path / "b.jsonl", range(100, 140))
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "train-1.jsonl", range(200, 205))
    write(tmp_path / "more" / "train-2.jsonl", range(300, 305))
    return tmp_path


def run(encode: Tokenizer, folder: Path, weights: Any, seed: int = 0, **options: Any) -> Prepared:
    paths = ("a.jsonl", "b.jsonl", "more")
    data = Data(path=paths, weights=weights, **{"validation": None, "dedupe": "none", **options})
    return prepare(data, objective="auto", seed=seed, folder=folder, tokenizer=encode)


def seen(found: Prepared, start: int, stop: int) -> Counter[int]:
    """How often the rows from `start` to `stop` are seen: counts by how often."""
    times = Counter(example.row for example in found.train)
    return Counter(times[row] for row in range(start, stop))


def test_rows_are_seen_as_often_as_is_said(encode: Tokenizer, folder: Path) -> None:
    found = run(encode, folder, [2, 0.5, 1.2])
    assert seen(found, 0, 20) == {2: 20}
    assert seen(found, 20, 60) == {0: 20, 1: 20}
    assert seen(found, 60, 65) == seen(found, 65, 70) == {1: 4, 2: 1}
    rows = found.report["rows"]
    assert (rows["read"], rows["used"], rows["sampled_out"], rows["train"]) == (70, 50, 20, 50)
    assert found.report["examples"]["train"] == len(found.train) == 40 + 20 + 12
    assert found.report["tokens"]["train"] == found.train.tokens == sum(len(one.ids) for one in found.train)
    assert found.report["end_of_turn_supervised"] == 1.0
    assert [entry.get("weight") for entry in found.report["inputs"]] == [2.0, 0.5, 1.2, 1.2]


def test_without_weights_nothing_changes(encode: Tokenizer, folder: Path) -> None:
    for weights in (None, [1, 1, 1]):
        found = run(encode, folder, weights)
        assert seen(found, 0, 70) == {1: 70} and found.report["rows"]["sampled_out"] == 0
        assert not any("weight" in entry for entry in found.report["inputs"])


def test_the_seed_decides_which_rows_a_half_holds(encode: Tokenizer, folder: Path) -> None:
    halves = [{example.row for example in run(encode, folder, [1, 0.5, 1], seed).train} for seed in (0, 0, 1)]
    assert halves[0] == halves[1] != halves[2]


def test_held_out_rows_are_neither_repeated_nor_left_out(encode: Tokenizer, folder: Path) -> None:
    found = run(encode, folder, [3, 0.01, 1], validation="auto", dedupe="exact")
    held = [example.row for example in found.validation]
    assert len(held) == len(set(held)) == 8 and not set(held) & {example.row for example in found.train}
    plain = run(encode, folder, None, validation="auto", dedupe="exact")
    assert held == [example.row for example in plain.validation]
    assert sum(20 <= example.row < 60 for example in found.train) == 1  # of every source at least one
    rows = found.report["rows"]
    assert rows["used"] + rows["sampled_out"] == rows["read"] and rows["train"] + 8 == rows["used"]


def test_a_file_that_two_names_mean_has_the_first_weight(folder: Path) -> None:
    found = sources.find(["more", "more/train-1.jsonl", "a.jsonl"], folder, weights=[2, 3, 4])
    assert [(source.path.name, source.weight) for source in found] == [
        ("train-1.jsonl", 2),
        ("train-2.jsonl", 2),
        ("a.jsonl", 4),
    ]


@pytest.mark.parametrize("weights", [[], [0], [-1], [True], ["2"], 2, [float("nan")], [float("inf")], [101], {"a": 1}])
def test_what_is_no_weight(weights: Any) -> None:
    with pytest.raises(ValidationError, match="numbers above 0"):
        Data(path="a", weights=weights)


def test_one_weight_for_each_path() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(None, (), {"model": "starter", "data.path": ["a.jsonl", "b.jsonl"], "data.weights": [1]})
    assert "data.path has 2 entries" in caught.value.message and "data.weights" in caught.value.where
