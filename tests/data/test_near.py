"""Near duplicates: planted ones are all found, others are left alone, and the row that goes is the right one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truetune.config.schema import Data
from truetune.data.dedupe import TRAIN, Surveyor
from truetune.data.near import ALIKE, Sides, Sketches, Union, resemblance, shingles, sides
from truetune.data.prepare import Prepared, prepare
from truetune.data.rows import Content, Conversation, Document, Labelled, Preference, Rated, Row, Turn
from truetune.models.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "truetune" / "demo" / "support.jsonl"
SHARED = Path(__file__).parents[3] / "shared" / "data"
NAMES = """
amber anchor basket birch bottle bridge candle canyon carbon castle cedar cherry circle cobalt copper cotton crater
desert dragon echo ember falcon feather fiddle forest garden garlic glacier granite harbor hazel helmet honey island
ivory jacket jasmine kettle ladder lantern lemon lizard magnet maple marble meadow mirror needle nickel nutmeg oasis
olive orchid oyster paddle parrot pebble pepper pickle planet pocket pumpkin quartz rabbit ribbon river rocket saddle
salmon shadow silver spider spruce stable sunset tablet thistle timber tunnel turtle valley velvet violin walnut yellow
"""
WORDS = NAMES.split()


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def row(rng: random.Random) -> dict[str, Any]:
    return {"prompt": f"What of {text(rng, 12)}?", "completion": f"It is {text(rng, 40)}."}


def typo(rng: random.Random, value: str) -> str:
    place = rng.randrange(len(value) - 1)
    return value[:place] + value[place + 1] + value[place] + value[place + 2 :]


def copy(rng: random.Random, given: dict[str, Any]) -> dict[str, Any]:
    """The row with a small change that makes it no other row."""
    prompt, completion = given["prompt"], given["completion"]
    return rng.choice(
        [
            {"prompt": typo(rng, prompt), "completion": completion},
            {"prompt": prompt, "completion": typo(rng, completion)},
            {"prompt": prompt.upper(), "completion": completion},
            {"prompt": prompt, "completion": f"{completion} Indeed."},
            {"prompt": f"  {prompt.replace(' ', '  ')}", "completion": completion},
        ]
    )


def write(path: Path, rows: list[Any]) -> None:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))


def run(encode: Tokenizer, folder: Path, against: tuple[str, ...] = (), **values: Any) -> Prepared:
    data = Data(**{"path": "rows.jsonl", "dedupe": "near", "max_length": 4096} | values)
    return prepare(data, objective="auto", seed=1, folder=folder, tokenizer=encode, against=against)


def codes(found: Prepared) -> dict[int, str]:
    return {reject["line"]: reject["code"] for reject in found.rejects}


def test_planted_copies_are_all_found_and_nothing_else(encode: Tokenizer, tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [row(rng) for _ in range(400)]
    planted = [copy(rng, given) for given in rng.sample(rows, 100)]
    write(tmp_path / "rows.jsonl", rows + planted)
    found = codes(run(encode, tmp_path))
    assert set(found) == set(range(401, 501)) and set(found.values()) <= {"data.near_duplicate", "data.duplicate"}


def test_the_reason_names_the_row_and_the_similarity(encode: Tokenizer, tmp_path: Path) -> None:
    rng = random.Random(2)
    rows = [row(rng) for _ in range(5)]
    write(tmp_path / "rows.jsonl", [*rows, {**rows[2], "completion": rows[2]["completion"] + " Well."}])
    found = run(encode, tmp_path, validation=None)
    (reject,) = found.rejects
    assert "rows.jsonl:3 (" in reject["reason"] and "%)" in reject["reason"]
    assert found.report["rows"]["deduplicated"] == 1


def test_other_rows_stay(encode: Tokenizer, tmp_path: Path) -> None:
    """One answer to differently worded questions, sums that differ in a digit, one passage asked two things."""
    passage = text(random.Random(3), 200)
    rows = [
        {
            "prompt": "How do I return a bicycle that I bought in the shop?",
            "completion": "Within 30 days, in the shop.",
        },
        {"prompt": "What must I do to give back a bike?", "completion": "Within 30 days, in the shop."},
        *({"prompt": f"{passage} What is 4 + {n}?", "completion": f"{passage} It is {4 + n}."} for n in range(5)),
        {"prompt": f"{passage} Who wrote this?", "completion": "An anchor did."},
        {"prompt": f"{passage} Where is it?", "completion": "In a valley behind the canyon."},
        {"prompt": "What is c?", "completion": "A letter."},
        {"prompt": "What is c++?", "completion": "A language."},
    ]
    write(tmp_path / "rows.jsonl", rows)
    assert run(encode, tmp_path, validation=None).report["rows"]["used"] == len(rows)


def test_the_demo_keeps_all_its_wordings(encode: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(DEMO.read_bytes())
    rows = run(encode, tmp_path).report["rows"]
    assert rows["used"] == rows["read"]


def test_without_near_copies_are_kept_and_told(encode: Tokenizer, tmp_path: Path) -> None:
    rng = random.Random(4)
    rows = [row(rng) for _ in range(30)]
    near = [{**given, "completion": f"{given['completion']} Indeed."} for given in rows[:7]]
    write(tmp_path / "rows.jsonl", rows + near)
    found = run(encode, tmp_path, dedupe="exact")
    assert found.report["rows"]["used"] == 37
    (finding,) = [each for each in found.report["findings"] if each["code"] == "data.near_duplicate"]
    assert finding["level"] == "warning" and finding["message"].startswith("7 rows")
    assert "rows.jsonl:31 and rows.jsonl:1 (" in finding["message"]


@pytest.mark.parametrize("dedupe", ["near", "exact", "none"])
def test_training_rows_give_way_to_validation_and_to_files_kept_apart(
    encode: Tokenizer, tmp_path: Path, dedupe: str
) -> None:
    rng = random.Random(5)
    rows = [row(rng) for _ in range(20)]
    nearly = [{**given, "completion": f"{given['completion']} Indeed."} for given in rows]
    write(tmp_path / "rows.jsonl", rows)
    write(tmp_path / "held.jsonl", [rows[0], nearly[1], row(rng)])
    asked = [{"question": each["prompt"], "answer": each["completion"]} for each in (rows[2], nearly[3], row(rng))]
    write(tmp_path / "test.jsonl", asked)
    found = run(encode, tmp_path, ("test.jsonl",), validation="held.jsonl", dedupe=dedupe)
    rejects = {reject["line"]: reject for reject in found.rejects}
    assert set(rejects) == {1, 2, 3, 4} and {each["code"] for each in rejects.values()} == {"data.contaminated"}
    places = ("held.jsonl:1", "held.jsonl:2", "test.jsonl:1", "test.jsonl:2")
    assert all(place in rejects[line]["reason"] for line, place in enumerate(places, 1))
    count = found.report["rows"]
    assert (count["read"], count["contaminated"], count["train"], count["validation"]) == (23, 4, 16, 3)


def test_files_kept_apart_are_part_of_the_key(encode: Tokenizer, tmp_path: Path) -> None:
    rows = [row(random.Random(n)) for n in range(9)]
    write(tmp_path / "rows.jsonl", rows)
    write(tmp_path / "test.jsonl", rows[:1])
    assert run(encode, tmp_path).report["rows"]["used"] == 9
    assert run(encode, tmp_path, ("test.jsonl",)).report["rows"]["used"] == 8


def test_a_copy_of_a_row_that_is_refused_is_used(encode: Tokenizer, tmp_path: Path) -> None:
    given = row(random.Random(6))
    write(tmp_path / "rows.jsonl", [{**given, "completion": f"{given['completion']} </s>"}, given])
    found = run(encode, tmp_path, validation=None, max_rejects="100%")
    assert (found.report["rows"]["used"], codes(found)) == (1, {1: "data.control_token"})


def test_contradictions_are_told(encode: Tokenizer, tmp_path: Path) -> None:
    rng = random.Random(7)
    rows = [row(rng) for _ in range(9)]
    write(tmp_path / "rows.jsonl", [*rows, {**rows[3], "completion": "No, not at all."}])
    findings = run(encode, tmp_path).report["findings"]
    (finding,) = [each for each in findings if each["code"] == "data.conflicting_answers"]
    assert finding["level"] == "warning" and finding["message"].startswith("2 rows")
    assert "rows.jsonl:4 and rows.jsonl:10" in finding["message"]


@pytest.mark.parametrize(("dedupe", "used", "rows"), [("exact", 7, 4), ("near", 5, 4), ("none", 9, 4)])
def test_only_rows_that_are_used_contradict_each_other(
    encode: Tokenizer, tmp_path: Path, dedupe: str, used: int, rows: int
) -> None:
    rng = random.Random(8)
    one, other, third = (row(rng) for _ in range(3))
    against = [{**each, "completion": "No, not at all."} for each in (one, other)]
    nearly = [{**each, "completion": f"{each['completion']} Indeed."} for each in (third, other)]
    bad = {**third, "completion": "</s>"}
    write(tmp_path / "rows.jsonl", [one, other, third, *against, *nearly, bad, one, against[0]])
    found = run(encode, tmp_path, dedupe=dedupe, max_rejects="100%", validation=None)
    assert found.report["rows"]["used"] == used
    (finding,) = [each for each in found.report["findings"] if each["code"] == "data.conflicting_answers"]
    assert finding["message"].startswith(f"{rows} rows")
    assert "such as rows.jsonl:1 and rows.jsonl:4; " in finding["message"]


def talk(*texts: str) -> Conversation:
    return Conversation(tuple(Turn("assistant" if n % 2 else "user", each) for n, each in enumerate(texts)))


def alike(one: Content, other: Content) -> float:
    return resemblance(sides(one).sets(), sides(other).sets())


def test_labels_and_ratings_tell_rows_apart() -> None:
    long = text(random.Random(8), 30)
    assert alike(Labelled(long, ("a",)), Labelled(long, ("b",))) == 0
    assert alike(Rated(talk(long, "x"), True), Rated(talk(long, "x"), False)) == 0
    pair = Preference((Turn("user", long),), (Turn("assistant", "a"),), (Turn("assistant", "b"),))
    assert alike(pair, pair) == 1
    assert alike(Document(long), Document(long.title())) == 1


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_shingles_are_the_runs_of_bytes(one: bytes, other: bytes) -> None:
    tokens, stops = shingles([one, other])
    assert stops.tolist() == [0, max(1, len(one) - 4), len(tokens)]
    padded = [each.ljust(5) for each in (one, other)]
    runs = [each[place : place + 5] for each in padded for place in range(len(each) - 4)]
    assert len(runs) == len(tokens)
    assert len(set(zip(runs, tokens.tolist(), strict=True))) == len(set(runs)) == len(set(tokens.tolist()))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_unions_are_the_connected_rows(pairs: list[tuple[int, int]]) -> None:
    union = Union(31)
    union.join(np.array(pairs, np.int64).reshape(-1, 2))
    roots = union.roots()
    sets = {place: {place} for place in range(31)}
    for one, other in pairs:
        joined = sets[one] | sets[other]
        for place in joined:
            sets[place] = joined
    assert all(roots[place] == min(sets[place]) for place in range(31))


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 60))
def test_what_is_near_is_in_one_group(tmp_path_factory: pytest.TempPathFactory, rng: random.Random, count: int) -> None:
    rows = [row(rng) for _ in range(count)]
    rows += [copy(rng, given) for given in rows[: count // 2]]
    found = [sides(talk(each["prompt"], each["completion"])) for each in rows]
    sketches = Sketches(tmp_path_factory.mktemp("sketches"))
    for place, each in enumerate(found):
        sketches.add(place, each)
    groups = sketches.groups(len(rows))
    for place in range(count, len(rows)):
        if resemblance(found[place].sets(), found[place - count].sets()) >= ALIKE:
            assert groups[place] == groups[place - count]


def test_an_endless_text_is_looked_at_in_part() -> None:
    assert len(sides(Document("abc " * 2**20)).answer) <= 2**16


def test_a_survey_keeps_numbers_of_each_row(tmp_path: Path) -> None:
    surveyor = Surveyor(tmp_path)
    for index, content in enumerate([talk("a", "b"), None, talk("a", "b"), talk("a", "c")]):
        surveyor.add(Row(index, f"{index // 3}.jsonl", index + 1, {}), content, TRAIN)
    found = surveyor.finish()
    assert found.first.tolist() == [0, 1, 0, 3] and found.where(2) == "0.jsonl:3" and found.where(3) == "1.jsonl:4"
    assert found.groups().tolist() == [0, 1, 0, 0]
    assert isinstance(sides(talk("a", "b")), Sides)
