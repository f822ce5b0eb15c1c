"""What `ft demo` has to teach: questions that no row asks are answered with the right fact, with any seed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from truetune import demo

SCRIPTS = Path(__file__).parents[2] / "scripts" / "starter"
BEFORE, BAR, LOSS = 0.1, 0.8, 0.5
ASKED = len(demo.paraphrases())


@pytest.fixture(scope="module")
def measure() -> Iterator[ModuleType]:
    """scripts/starter/measure.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import measure as module

        yield module
    sys.modules.pop("measure")


@pytest.fixture(scope="module")
def runs(measure: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The demo's training with each seed."""
    return [measure.trained(seed, tmp_path_factory.mktemp("demo") / "run") for seed in measure.SEEDS]


@pytest.mark.slow
def test_before_training_no_fact_is_known(measure: ModuleType) -> None:
    assert demo.score(measure.answers(), demo.paraphrases()) <= BEFORE * ASKED


@pytest.mark.slow
def test_held_out_loss_is_halved_with_each_seed(runs: list[dict[str, Any]]) -> None:
    assert all(run["eval_loss"] <= LOSS * run["base_loss"] for run in runs)


@pytest.mark.slow
def test_most_facts_are_learned_whatever_the_wording(runs: list[dict[str, Any]]) -> None:
    """Four of five answers with each seed."""
    assert min(run["right"] for run in runs) >= BAR * ASKED, [run["missed"] for run in runs]
