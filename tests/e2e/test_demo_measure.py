"""What `ft demo` has to teach: most questions that no row asks are answered with the right fact, with any seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from truetune import demo

SCRIPTS = Path(__file__).parents[2] / "scripts" / "starter"
BEFORE, AFTER, LOSS = 0.1, 0.8, 0.5


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import measure

    yield measure


@pytest.mark.slow
def test_before_training_no_fact_is_known(measure: ModuleType) -> None:
    asked = demo.paraphrases()
    assert demo.score(measure.answers(), asked) <= BEFORE * len(asked)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [42, 1, 2])
def test_facts_are_learned_whatever_the_wording(measure: ModuleType, tmp_path: Path, seed: int) -> None:
    run = measure.trained(seed, tmp_path / "run")
    assert run["eval_loss"] <= LOSS * run["base_loss"]
    assert run["right"] >= AFTER * len(demo.paraphrases()), run["missed"]
