"""Files of a folder that are not read are said, with what one of them is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.config.schema import Data
from truetune.data.prepare import prepare
from truetune.models.tokenizer import Tokenizer


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        rows = [{"prompt": f"what of {name} {number}?", "completion": f"{name} it is"} for number in range(9)]
        (folder / name).write_bytes(b"\n".join(map(orjson.dumps, rows)))


def said(encode: Tokenizer, folder: Path, path: Any = "set", against: tuple[str, ...] = (), **values: Any) -> str:
    data = Data(path=path, **values)
    found = prepare(data, objective="auto", seed=1, folder=folder, tokenizer=encode, against=against)
    told = [each for each in found.report["findings"] if each["code"] == "data.files_left_out"]
    assert all(each["level"] == "note" for each in told) and len(told) < 2
    return told[0]["message"] if told else ""


def test_other_splits_are_named_until_they_are_read(encode: Tokenizer, tmp_path: Path) -> None:
    put(tmp_path / "set", "train.jsonl", "validation.jsonl")
    advice = "to measure on validation.jsonl, write `data.validation: set/validation.jsonl`"
    assert said(encode, tmp_path) == f"set/validation.jsonl is not read; {advice}"
    put(tmp_path / "set", "test.jsonl", "dataset_infos.json", ".hidden.jsonl", "picture.png")
    assert said(encode, tmp_path) == f"set/test.jsonl, set/validation.jsonl are not read; {advice}"
    assert said(encode, tmp_path, validation="set/validation.jsonl") == "set/test.jsonl is not read"
    assert not said(encode, tmp_path, validation="set/validation.jsonl", against=("set/test.jsonl",))


@pytest.mark.parametrize("path", ["set/*.jsonl", "set/train.jsonl", ["set/train.jsonl", "set/test.jsonl"]])
def test_files_that_are_named_leave_none_out(encode: Tokenizer, tmp_path: Path, path: Any) -> None:
    put(tmp_path / "set", "train.jsonl", "test.jsonl")
    assert not said(encode, tmp_path, path)


def test_a_readme_and_too_many_names(encode: Tokenizer, tmp_path: Path) -> None:
    put(tmp_path / "set", "one.jsonl", "values.jsonl")
    (tmp_path / "set" / "README.md").write_text("# What it is")
    assert said(encode, tmp_path) == "set/README.md is not read"
    put(tmp_path / "set", "train.jsonl", *(f"part{number}.jsonl" for number in range(5)))
    message = said(encode, tmp_path)
    assert message.endswith("set/part2.jsonl and 3 more are not read") and "data.validation" not in message
