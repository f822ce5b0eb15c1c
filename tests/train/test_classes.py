"""Classes as a training settles them: weights, and what cannot be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from truetune.config import Config, load
from truetune.config.schema import Data
from truetune.data.prepare import Prepared, prepare
from truetune.errors import InputError, TrueTuneError, UsageError
from truetune.models import tokenizer
from truetune.models.source import STARTER
from truetune.train import classes


def config(**sections: Any) -> Config:
    return load(None, [], {"model": "starter", "data": "rows.csv", **sections}).config


def prepared(
    folder: Path, rows: list[tuple[str, str]], held: Sequence[tuple[str, str]] = (), column: str = "label"
) -> Prepared:
    def table(some: Sequence[tuple[str, str]]) -> str:
        return "".join([f"text,{column}\n", *(f'"{text}","{label}"\n' for text, label in some)])

    (folder / "rows.csv").write_text(table(rows))
    (folder / "held.csv").write_text(table(held))
    data = Data(path="rows.csv", validation="held.csv" if held else None)
    return prepare(data, objective="auto", seed=1, folder=folder, tokenizer=tokenizer.load(STARTER))


NAMES = ["ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kiwi", "lark"]
ROWS = [(f"the {name} sleeps in house {at}", "big" if at < 2 else "small") for at, name in enumerate(NAMES)]


def test_names_are_in_order_and_rows_are_counted(tmp_path: Path) -> None:
    found = classes.settle(config(), prepared(tmp_path, ROWS))
    assert found == {"names": ["big", "small"], "several": False, "weights": [1.0, 1.0], "rows": [2, 10]}
    numbers = [(text, str(at % 11)) for at, (text, _) in enumerate(ROWS)]
    assert classes.settle(config(), prepared(tmp_path, numbers))["names"] == [str(number) for number in range(11)]


def test_weights(tmp_path: Path) -> None:
    rows = prepared(tmp_path, ROWS)
    balanced = classes.settle(config(classification={"class_weights": "balanced"}), rows)
    assert balanced["weights"] == [12 / (2 * 2), 12 / (2 * 10)]
    total = sum(weight * count for weight, count in zip(balanced["weights"], balanced["rows"], strict=True))
    assert total == 12, "the mean over the rows is 1"
    named = classes.settle(config(classification={"class_weights": {"small": 3}}), rows)
    assert named["weights"] == [1.0, 3.0]
    with pytest.raises(UsageError, match="'tiny'"):
        classes.settle(config(classification={"class_weights": {"tiny": 3}}), rows)


def test_several_classes_for_a_row(tmp_path: Path) -> None:
    rows = [
        (text, "[]" if at % 3 == 0 else "['x', 'y']" if at % 3 == 1 else "['y']") for at, (text, _) in enumerate(ROWS)
    ]
    rows = [(text, label.replace("'", '""')) for text, label in rows]
    settings = config(classification={"class_weights": "balanced", "threshold": 0.3})
    found = classes.settle(settings, prepared(tmp_path, rows, column="labels"))
    assert (found["names"], found["several"], found["rows"]) == (["x", "y"], True, [4, 8])
    assert found["weights"] == [8 / 4, 4 / 8], "rows without the class over rows with it"


@pytest.mark.parametrize(
    ("rows", "held", "code"),
    [
        ([(text, "same") for text, _ in ROWS], [], "data.one_class"),
        (ROWS, [("something else altogether", "tall")], "data.unseen_class"),
    ],
)
def test_what_cannot_be_learned(tmp_path: Path, rows: Any, held: Any, code: str) -> None:
    with pytest.raises(InputError) as caught:
        classes.settle(config(), prepared(tmp_path, rows, held))
    assert caught.value.finding.code == code


def test_lists_that_are_all_empty_hold_no_class(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row has a label") as caught:
        classes.settle(config(), prepared(tmp_path, [(text, "[]") for text, _ in ROWS], column="labels"))
    assert caught.value.finding.code == "data.one_class"


def test_a_threshold_is_for_lists_of_labels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no threshold"):
        classes.settle(config(classification={"threshold": 0.3}), prepared(tmp_path, ROWS))


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"training": {"objective": "sft"}, "classification": {"class_weights": "balanced"}}, "class_weights"),
        ({"training": {"objective": "classification"}, "evaluation": {"samples": 2}}, "evaluation.samples"),
        ({"training": {"objective": "classification"}, "generation": {"top_p": 0.5}}, "generation.top_p"),
        ({"training": {"objective": "classification"}, "data": {"path": "x", "train_on": "all"}}, "data.train_on"),
        ({"training": {"objective": "reward"}, "preference": {"beta": 0.5}}, "preference.beta"),
        ({"classification": {"class_weights": {"a": 0}}}, "classification.class_weights"),
        ({"classification": {"class_weights": "even"}}, "classification.class_weights"),
        ({"classification": {"threshold": 1}}, "classification.threshold"),
    ],
)
def test_keys_that_say_nothing_are_refused(sections: dict[str, Any], key: str) -> None:
    with pytest.raises(TrueTuneError, match=key):
        config(**sections)
