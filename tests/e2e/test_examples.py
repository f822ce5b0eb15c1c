"""Every example runs as it is and learns: the loss on rows it never saw falls, and the receipt adds up."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_ft import Ft

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
SHARE = {"instruction": 0.2, "summarisation": 0.2, "pretraining": 0.85}
"""Example -> the share of the base's held-out loss that is left at most; `support` has its own test, by its answers."""


def test_every_example_is_run() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/train.yml")} == {"support", *SHARE}


@pytest.mark.parametrize("name", SHARE)
def test_it_learns(name: str, tmp_path: Path) -> None:
    ft = Ft(tmp_path)
    trained = ft("train", str(EXAMPLES / name / "train.yml"), "--json")
    assert trained.code == 0, trained.err
    figures = trained.document["figures"]
    assert figures["eval_loss"] <= SHARE[name] * figures["base_loss"]
    assert trained.document["receipt"]["verdict"] == "ok"
    measured = ft("evaluate", "last", "--limit", "4", "--json")
    assert measured.code == 0, measured.err
    assert ft("receipt", "verify", "last", "--json").document["verdict"] == "ok"
