"""Which rows are made more of, and that every row is accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.augment.seeds import Seeds, gather, plain
from truetune.config import Amount, load
from truetune.data import sources
from truetune.data.prepare import find_format

TEN = Amount(10, percent=False)
FATES = ("seeds", "spared", "not_chosen", "rejected", "generated", "repeated", "not_conversations", "not_simple")


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)], **more}


ROWS = [
    chat("One?", "1."),
    chat("Two?", "2."),
    chat("Three?", "3.", "And four?", "4."),
    chat("Two?", "2."),
    chat("Five?", ""),
    chat("Six?", "6.", generated={"method": "paraphrase"}),
    chat("Seven?", "7."),
]


def found(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Seeds:
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    config = load(None, (), {"model": "starter", "data.path": str(path)}).config.data
    files = sources.find(config.paths, folder)
    seeds = gather(
        find_format(config, files), files, **({"limit": None, "seed": 42, "simple": False, "spare": None} | options)
    )
    assert seeds.counts["read"] == sum(seeds.counts[fate] for fate in FATES) == len(rows)
    return seeds


def test_every_conversation_once_and_no_generated_one(tmp_path: Path) -> None:
    seeds = found(tmp_path, ROWS)
    assert [one.question for one in seeds.rows] == ["One?", "Two?", "And four?", "Seven?"]
    assert [one.where for one in seeds.rows] == [f"rows.jsonl:{line}" for line in (1, 2, 3, 7)]
    assert {fate: seeds.counts[fate] for fate in ("rejected", "generated", "repeated")} == {
        "rejected": 1, "generated": 1, "repeated": 1,
    }  # fmt: skip


def test_what_generated_rows_ask_is_known_too(tmp_path: Path) -> None:
    assert found(tmp_path, ROWS, limit=1).questions == {"one", "two", "and four", "six", "seven"}


def test_examples_are_single_questions(tmp_path: Path) -> None:
    assert [one.question for one in found(tmp_path, ROWS, simple=True).rows] == ["One?", "Two?", "Seven?"]


def test_a_part_is_drawn_by_content_and_stays_in_order(tmp_path: Path) -> None:
    rows = [chat(f"Q{place}?", f"A{place}.") for place in range(50)]
    drawn = [one.question for one in found(tmp_path, rows, limit=5).rows]
    again = [one.question for one in found(tmp_path, rows[::-1], limit=5).rows]
    assert drawn == again[::-1] and len(drawn) == 5
    assert drawn != [one.question for one in found(tmp_path, rows, limit=5, seed=7).rows]


@pytest.mark.parametrize("limit", [None, 5])
def test_rows_to_measure_on_are_spared_whatever_their_order(tmp_path: Path, limit: int | None) -> None:
    rows = [chat(f"Q{place % 40}?", f"A{place}.") for place in range(80)]
    seeds = found(tmp_path, rows, spare=TEN, limit=limit)
    assert seeds.counts["spared"] == 10
    asked = [one.question for one in found(tmp_path, rows, spare=TEN).rows]
    assert len(asked) == 70 and all(asked.count(one) == 2 for one in asked)
    assert set(asked) == {one.question for one in found(tmp_path, rows[::-1], spare=TEN).rows}
    assert {one.question for one in seeds.rows} <= set(asked)


def test_rows_that_a_method_cannot_use_count_as_spared(tmp_path: Path) -> None:
    rows = [chat(f"Q{place}?", "A.", "And?", "B.") for place in range(8)] + [chat(f"P{n}?", "A.") for n in range(8)]
    assert found(tmp_path, rows, simple=True, spare=Amount(8, percent=False)).counts["seeds"] == 8
    assert found(tmp_path, rows, simple=True, spare=TEN).counts["spared"] == 2


def test_a_column_of_the_same_name_marks_nothing(tmp_path: Path) -> None:
    rows = [
        chat("One?", "1.", generated=True),
        chat("Two?", "2.", generated="text"),
        chat("Three?", "3.", generated={}),
    ]
    assert found(tmp_path, rows).counts["seeds"] == 3


def test_texts_are_no_conversations(tmp_path: Path) -> None:
    assert found(tmp_path, [{"text": "One."}, {"text": "Two."}]).counts["not_conversations"] == 2


@pytest.mark.parametrize(("one", "other"), [("How?", "how"), ("A  b", "a b!"), ("ﬁne", "fine"), ("?!", "?!")])
def test_plain_texts_are_equal_but_for_case_marks_and_spaces(one: str, other: str) -> None:
    assert plain(one) == plain(other) != ""
