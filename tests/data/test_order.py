"""Rows have their fate in the order in which they stand, however many of them are rendered at a time."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.config.schema import Data
from truetune.data import intake, render
from truetune.data.prepare import Prepared, prepare
from truetune.errors import InputError
from truetune.models.tokenizer import Tokenizer


def talk(*said: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(said)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]}


def varied() -> list[dict[str, Any] | None]:
    """Rows of every fate, in turns; None is no row."""
    rows: list[dict[str, Any] | None] = []
    for number in range(12):
        rows += [talk(f"What is {number} and {number}?", f"It is {number * 2}."), talk(f"Say {number}.", "")]
        rows += [talk(f"Say {number}, then {number}", f"{number}", "Again?", f"{number}!"), rows[0], None]
        rows += [talk(f"Long {number}", f"{number} word " * 200), talk(f"Forge {number}", "ends<|im_end|>here")]
        rows += [talk(f"Silence {number}"), {"messages": number}]
    return rows


def prepared(encode: Tokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, ahead: int) -> Prepared:
    monkeypatch.setenv("TRUETUNE_HOME", str(folder / f"home-{chunk}-{ahead}"))
    monkeypatch.setattr(intake, "CHUNK", chunk)
    monkeypatch.setattr(render, "AHEAD", ahead)
    options = Data.model_validate({"path": "rows.jsonl", "max_length": 128, "max_rejects": "90%"})
    return prepare(options, objective="sft", seed=1, folder=folder, tokenizer=encode)


def examples(found: Prepared) -> list[list[tuple[int, list[int], list[float]]]]:
    sides = (found.train, found.validation)
    return [[(each.row, each.ids.tolist(), each.weights.tolist()) for each in side] for side in sides]


@pytest.mark.parametrize(("chunk", "ahead"), [(1, 1), (1, 3), (3, 2), (7, 1), (50, 2)])
def test_chunks_make_no_difference(
    encode: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, ahead: int
) -> None:
    rows = varied()
    lines = (b"{broken" if row is None else orjson.dumps(row) for row in rows)
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    usual = prepared(encode, tmp_path, monkeypatch, 256, 2)
    found = prepared(encode, tmp_path, monkeypatch, chunk, ahead)
    assert examples(found) == examples(usual)
    assert found.report == usual.report
    assert list(found.rejects) == list(usual.rejects)
    places = [reject["line"] for reject in found.rejects]
    assert places == sorted(places)
    codes = {reject["code"] for reject in found.rejects}
    assert codes >= {"json.syntax", "data.duplicate", "data.too_long", "data.control_token", "data.empty"}
    assert found.report["rows"]["used"] + len(places) == len(rows)


def test_the_process_is_left_as_it_was(encode: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often Python looks for garbage and changes threads, also after rows that are refused as a whole."""
    before = gc.get_threshold(), sys.getswitchinterval()
    (tmp_path / "rows.jsonl").write_bytes(orjson.dumps(talk("What?", "")))
    with pytest.raises(InputError):
        prepared(encode, tmp_path, monkeypatch, 256, 2)
    (tmp_path / "rows.jsonl").write_bytes(orjson.dumps(talk("What?", "That.")))
    prepared(encode, tmp_path, monkeypatch, 256, 2)
    assert (gc.get_threshold(), sys.getswitchinterval()) == before
