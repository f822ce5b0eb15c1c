"""Where a row stands, if a line has more than one: the element's number, wherever the place is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.config.schema import Data
from truetune.data import readers
from truetune.data.prepare import prepare
from truetune.data.rows import Place, pack, unpack
from truetune.models.tokenizer import Tokenizer


def shown(path: Path, text: str) -> list[str]:
    path.write_text(text)
    return [f"{line}" for line, _, _ in readers.read(path)]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('[{"a": 1}, {"a": 2}, 3]', ["1#1", "1#2", "1#3"]),
        ('[{"a": 1},\n{"a": 2},\n {"a": 3}]', ["1", "2", "3"]),
        ('[\n{"a": 1}, {"a": 2},\n{"a": 3}\n]', ["2#1", "2#2", "3"]),
        ('[{\n"a": 1\n}, {\n"a": 2\n}]', ["1#1", "3#2"]),
        ('{"version": 1, "data": [{"a": 1}, {"a": 2}]}', ["1#1", "1#2"]),
        ('[{"a": 1}]', ["1"]),
    ],
)
def test_elements_that_share_a_line_have_numbers(tmp_path: Path, text: str, places: list[str]) -> None:
    assert shown(tmp_path / "a.json", text) == places


def test_a_place_is_its_line_and_survives_packing() -> None:
    place = Place(7, 2**20)
    assert place == 7 and orjson.dumps([place]) == b"[7]"
    assert str(unpack(pack(place))) == "7#1048576" and unpack(pack(7)) == 7


def test_findings_name_the_element(encode: Tokenizer, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(30)]
    rows[4] = {"prompt": "q", "completion": ""}
    rows[20] = rows[3]
    (tmp_path / "rows.json").write_bytes(orjson.dumps(rows))
    data = Data(path="rows.json")
    found = prepare(data, objective="auto", seed=1, folder=tmp_path, tokenizer=encode).report["rejects"]
    assert [item["where"] for item in found] == ["rows.json:1#5", "rows.json:1#21"]
    assert "rows.json:1#4" in found[1]["reason"]
