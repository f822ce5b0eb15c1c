"""Every example runs as it is and learns: the loss on rows it never saw falls, and the receipt adds up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_ft import Ft

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
SHARE = {"instruction": 0.2, "summarisation": 0.2, "pretraining": 0.85, "preference": 0.2, "classification": 0.5}
"""Example -> the share of the base's held-out loss that is left at most; `support` has its own test, by its answers."""


def test_every_example_is_run() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/train.yml")} == {"support", *SHARE}


ACCURACY = {"preference": 0.9, "classification": 0.75}
"""Example -> the least share of held-out rows that the result has right."""


@pytest.mark.parametrize("name", SHARE)
def test_it_learns(name: str, tmp_path: Path) -> None:
    ft = Ft(tmp_path)
    trained = ft("train", str(EXAMPLES / name / "train.yml"), "--json")
    assert trained.code == 0, trained.err
    figures = trained.document["figures"]
    assert figures["eval_loss"] <= SHARE[name] * figures["base_loss"]
    assert trained.document["receipt"]["verdict"] == "ok"
    assert right(trained.document["folder"]) >= ACCURACY.get(name, 0)
    measured = ft("evaluate", "last", "--limit", "4", "--json")
    assert measured.code == 0, measured.err
    assert ft("receipt", "verify", "last", "--json").document["verdict"] == "ok"


def right(run: str) -> float:
    """The accuracy on held-out rows at the end; 0 where nothing is right or wrong."""
    rows = map(json.loads, (Path(run) / "metrics.jsonl").read_text("utf-8").splitlines())
    *_, last = (row for row in rows if row["kind"] == "eval")
    return float(last.get("reward_accuracy", last.get("accuracy", 0)))
