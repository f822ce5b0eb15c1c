"""The evaluation's formulas, in numpy over sums of log p, give what the engine's losses give."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from compared import referenced, rows, spec
from test_preference import OBJECTIVES, moved, settings

from truetune.engines.torch.engine import TorchEngine
from truetune.evaluate import preference
from truetune.evaluate.material import Item
from truetune.evaluate.metrics import METRICS


def table(engine, items, base):
    """[rows, texts, 2], text by text."""

    def score(examples):
        sums = [engine.scores(engine.prepare([example]), base=base)[0, 0] for example in examples]
        return [np.r_[np.zeros(len(e.ids) - 1), value] for e, value in zip(examples, sums, strict=True)]

    found = preference.table(items, score, 10_000, lambda done: None)
    sizes = [[text.weights.sum() for text in preference.texts(item)] for item in items]
    return np.stack((found[..., 0], np.array(sizes)), axis=-1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_evaluation_equals_the_engine(llama, name):
    engine = TorchEngine(spec(llama, **settings(name)))
    examples = referenced(engine, rows(name.partition("-")[0], 9))
    items = [Item(example.row, "", [example]) for example in examples]
    moved(engine)
    now, base = (table(engine, items, base) for base in (False, True))
    sums = preference.sums(engine.spec.objective, items, now, base)
    values = {metric: float(METRICS[metric].of(each.sum(0))) for metric, each in sums.items()}
    expected = engine.loss(engine.prepare(examples))
    margin = expected.means["reward_chosen"] - expected.means["reward_rejected"]
    assert values["preference_loss"] == pytest.approx(expected.loss / expected.denominator, rel=1e-5)
    assert values["reward_margin"] == pytest.approx(margin, rel=1e-4, abs=1e-6)
    assert values["reward_accuracy"] == pytest.approx(expected.means["reward_accuracy"])
    good = [example for example in examples if example.label != (0,)]
    first = sum(float(example.weights[example.texts[0]].sum()) for example in good)
    assert sums["loss"][:, 1].sum() == first


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_the_base_leads_nowhere(llama, name):
    engine = TorchEngine(spec(llama, **settings(name)))
    items = [Item(example.row, "", [example]) for example in rows(name, 5)]
    base = table(engine, items, True)
    found = preference.sums(engine.spec.objective, items, base, base)
    assert float(METRICS["reward_margin"].of(found["reward_margin"].sum(0))) == 0
    assert float(METRICS["reward_accuracy"].of(found["reward_accuracy"].sum(0))) == 0.5


@pytest.mark.parametrize(("objective", "rows_are", "taken"), [("orpo", "dpo", "orpo"), ("orpo", "kto", "kto"),
                                                              ("sft", "dpo", "dpo"), (None, "kto", "kto")])  # fmt: skip
def test_rows_that_a_run_did_not_learn_from_are_measured_by_their_default(objective, rows_are, taken):
    resolved = {"config": {"training": {"objective": objective}, "preference": {"beta": 0.7}}}
    item = Item(0, "", rows(rows_are, 1))
    found = preference.settings(resolved if objective else None, item)
    assert (found.type, found.beta) == (taken, 0.7 if taken == objective else 0.1)
