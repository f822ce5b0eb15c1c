"""The support example: a file of the most common shape, with enough facts to learn."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from ruamel.yaml import YAML

from truetune import demo

FOLDER = Path(__file__).parents[2] / "examples" / "support"
ROWS = [json.loads(line)["messages"] for line in (FOLDER / "support.jsonl").read_text("utf-8").splitlines()]


def test_rows_are_conversations() -> None:
    assert 100 <= len(ROWS) <= 150
    for row in ROWS:
        assert [turn["role"] for turn in row] == ["user", "assistant"] * (len(row) // 2)
        assert all(turn["content"].strip() == turn["content"] != "" for turn in row)


def test_facts_are_asked_for_in_several_ways() -> None:
    answers = Counter(row[1]["content"] for row in ROWS)
    assert len(answers) >= 18
    assert min(answers.values()) >= 8
    questions = Counter(row[0]["content"] for row in ROWS)
    assert max(questions.values()) == 1


def test_train_yml_names_what_stands_here() -> None:
    config = YAML(typ="safe").load((FOLDER / "train.yml").read_text("utf-8"))
    assert config["model"] == "starter"
    assert (FOLDER / config["data"]).is_file()


def test_the_examination_asks_what_the_rows_do_not() -> None:
    asked = demo.paraphrases()
    rows = {turn["content"].casefold() for row in ROWS for turn in row}
    assert len({paraphrase.question for paraphrase in asked}) == len(asked) >= 20
    assert not rows & {paraphrase.question.casefold() for paraphrase in asked}
    assert max(alike(row, paraphrase.question) for row in rows for paraphrase in asked) < 0.4


def alike(one: str, other: str) -> float:
    """Shared words over all words (Jaccard)."""
    left, right = (set(re.findall(r"\w+", text.casefold())) for text in (one, other))
    return len(left & right) / len(left | right)


def test_its_facts_are_those_of_the_rows() -> None:
    answers = {row[0]["content"]: row[1]["content"] for row in ROWS}
    facts = set()
    for paraphrase in demo.paraphrases():
        assert demo.states(answers[paraphrase.row], paraphrase.must)
        others = [answer for answer in answers.values() if answer != answers[paraphrase.row]]
        assert not any(demo.states(answer, paraphrase.must) for answer in others)
        facts.add(answers[paraphrase.row])
    assert facts == set(answers.values())


def test_a_fact_is_stated_in_words_of_its_own() -> None:
    assert demo.states("It is  $15\nin all, sent in Two days.", ["$15", "two days"])
    assert not demo.states("It is $15.", ["$15", "two days"])
    for near in ("$150", "$15.50", "1$15", "A $15k bike"):
        assert not demo.states(near, ["$15"])
    assert demo.score(["It is $24 a year.", "No."], demo.kept_out()[28:]) == 1
