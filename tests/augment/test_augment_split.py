"""A training on old and new rows together measures on rows of people that it has not seen in other words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

import truetune as ft
from truetune.config.schema import Data
from truetune.data.prepare import prepare
from truetune.models import source, tokenizer


def test_nothing_generated_and_nothing_made_more_of_is_held_out(server: Any, tmp_path: Path) -> None:
    asked = [{"question": f"Where do I find thing {place}?", "answer": "Here."} for place in range(200)]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, asked)))
    server.say = lambda prompt: f"In which place is number {prompt.split()[-1]}"
    chosen = {"endpoint": server.address, "folder": tmp_path, "per_row": 1}
    result = ft.dataset_augment("rows.jsonl", "paraphrase", "large", tmp_path / "more.jsonl", **chosen)
    assert (result["written"], result["rows"]["spared"]) == (190, 10)
    new = [orjson.loads(line) for line in (tmp_path / "more.jsonl").read_bytes().splitlines()]
    sources = {int(row["origin"].rpartition(":")[2]) - 1 for row in new}
    data = Data(path=["rows.jsonl", "more.jsonl"])
    encode = tokenizer.load(source.STARTER)
    found = prepare(data, objective="auto", seed=1, folder=tmp_path, tokenizer=encode)
    held = {example.row for example in found.validation}
    assert held == set(range(200)) - sources and len(found.train) == 380
