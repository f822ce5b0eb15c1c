"""Rows that a model wrote: never measured on, and never trained on in place of a row that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from truetune.config.schema import Data
from truetune.data.prepare import Prepared, prepare
from truetune.data.rows import Conversation, Turn
from truetune.models.tokenizer import Tokenizer

ASKED = [f"Where do I find thing {number}, and what is it for?" for number in range(60)]


def chat(question: str, answer: str = "Here.", **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": said, **more}


def made(question: str, *origins: str) -> dict[str, Any]:
    """A row that says the same in other words."""
    sources = [Conversation((Turn("user", text), Turn("assistant", "Here."))).digest.hex() for text in origins]
    return chat(question, generated={"method": "paraphrase", "model": "m", "seed": 1, "from": sources})


def prepared(folder: Path, encode: Tokenizer, rows: list[Any], seed: int = 1, **values: Any) -> Prepared:
    (folder / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    data = Data(path="rows.jsonl", **values)
    found = prepare(data, objective="auto", seed=seed, folder=folder, tokenizer=encode)
    counts = found.report["rows"]
    fates = ("used", "rejected", "deduplicated", "contaminated", "too_long", "unsupervised")
    assert counts["read"] == sum(counts[fate] for fate in fates)
    return found


def held(found: Prepared) -> set[int]:
    return {example.row for example in found.validation}


def test_neither_they_nor_what_they_are_made_from_is_held_out(encode: Tokenizer, tmp_path: Path) -> None:
    new = [made(f"Say what {number} is about", ASKED[number]) for number in range(40)]
    for seed in range(5):
        rows = held(prepared(tmp_path, encode, [*map(chat, ASKED), *new], seed))
        assert len(rows) == 8 and rows <= set(range(40, 60))


def test_an_amount_is_a_part_of_what_people_wrote(encode: Tokenizer, tmp_path: Path) -> None:
    new = [made(f"Say what {number} is about", ASKED[number % 30]) for number in range(300)]
    assert len(held(prepared(tmp_path, encode, [*map(chat, ASKED), *new], validation="20%"))) == 12


def test_what_begins_as_one_of_them_is_not_held_out(encode: Tokenizer, tmp_path: Path) -> None:
    twins = [chat(ASKED[0], f"Another answer, number {number}.") for number in range(10)]
    rows = [*map(chat, ASKED[:10]), *twins, made("Say what it is about", ASKED[0])]
    assert held(prepared(tmp_path, encode, rows)) <= set(range(1, 10))


def test_where_more_is_made_of_all_nothing_is_held_out(encode: Tokenizer, tmp_path: Path) -> None:
    new = [made(f"Say what {number} is about", *ASKED[number : number + 3]) for number in range(0, 60, 3)]
    found = prepared(tmp_path, encode, [*map(chat, ASKED), *new])
    assert not len(found.validation) and len(found.train) == 80
    assert "data.no_validation" in {finding["code"] for finding in found.report["findings"]}


def test_a_part_of_no_row_of_people_is_none(encode: Tokenizer, tmp_path: Path) -> None:
    found = prepared(tmp_path, encode, [made(text) for text in ASKED], validation="20%")
    assert not len(found.validation) and len(found.train) == 60


def test_a_validation_file_is_of_people_and_unknown_in_other_words(encode: Tokenizer, tmp_path: Path) -> None:
    measured = [*map(chat, ASKED[:5]), made("Say what 7 is about", ASKED[7])]
    (tmp_path / "test.jsonl").write_bytes(b"\n".join(map(orjson.dumps, measured)))
    new = [made("Say what 2 is about", ASKED[2]), made("Say what 30 is about", ASKED[30])]
    found = prepared(tmp_path, encode, [*map(chat, ASKED[20:]), *new], validation="test.jsonl")
    fates = {(item["file"], item["line"]): item["code"] for item in found.rejects}
    assert fates == {("test.jsonl", 6): "data.generated", ("rows.jsonl", 41): "data.contaminated"}
    assert found.report["rows"]["contaminated"] == 2 and len(found.validation) == 5


def test_a_column_of_the_same_name_means_nothing(encode: Tokenizer, tmp_path: Path) -> None:
    odd: list[Any] = [True, "text", {}, {"method": "x", "from": "y"}, {"method": "x", "from": [1, "zz", None]}]
    rows = [*map(chat, ASKED), *(chat(f"Odd {place}?", generated=value) for place, value in enumerate(odd))]
    assert len(held(prepared(tmp_path, encode, rows))) == 8
