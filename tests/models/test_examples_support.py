"""The support example: a file of the most common shape, with enough facts to learn."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from ruamel.yaml import YAML

FOLDER = Path(__file__).parents[2] / "examples" / "support"
ROWS = [json.loads(line)["messages"] for line in (FOLDER / "support.jsonl").read_text("utf-8").splitlines()]


def test_rows_are_conversations() -> None:
    assert 100 <= len(ROWS) <= 120
    for row in ROWS:
        assert [turn["role"] for turn in row] == ["user", "assistant"] * (len(row) // 2)
        assert all(turn["content"].strip() == turn["content"] != "" for turn in row)


def test_facts_are_asked_for_in_several_ways() -> None:
    answers = Counter(row[1]["content"] for row in ROWS)
    assert len(answers) >= 25
    assert min(answers.values()) >= 3
    questions = Counter(row[0]["content"] for row in ROWS)
    assert max(questions.values()) == 1


def test_train_yml_names_what_stands_here() -> None:
    config = YAML(typ="safe").load((FOLDER / "train.yml").read_text("utf-8"))
    assert config["model"] == "starter"
    assert (FOLDER / config["data"]).is_file()
