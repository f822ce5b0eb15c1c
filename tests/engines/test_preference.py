"""Objectives over better and worse answers: their formulas, and that nothing of how a step is cut shows in them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from compared import LORA, pairs, rated, referenced, rows, spec

from truetune.engines.base import Method, OutOfMemory
from truetune.engines.torch import forward
from truetune.engines.torch.engine import TorchEngine
from truetune.engines.torch.objectives.orpo import odds

OBJECTIVES = {
    "dpo": {"label_smoothing": 0.1},
    "dpo-ipo": {"loss": "ipo"},
    "dpo-hinge": {"loss": "hinge", "beta": 0.5},
    "orpo": {"sft_weight": 0.7},
    "simpo": {"beta": 2.0, "margin": 0.3},
    "cpo": {"label_smoothing": 0.1},
    "kto": {"desirable_weight": 1.3, "undesirable_weight": 0.8},
}
EVERY = pytest.mark.parametrize("name", OBJECTIVES)


def settings(name, **changes):
    return {"objective": name.partition("-")[0], **OBJECTIVES[name], **changes}


def opened(folder, name, **changes):
    return TorchEngine(spec(folder, **settings(name, **changes)))


def moved(engine, scale=0.2):
    """As if it had trained: an adapter that does something."""
    generator = torch.Generator().manual_seed(7)
    for parameter in engine.parameters.values():
        parameter.data.normal_(std=scale, generator=generator)
    return engine


def steps(engine, name, count=3, lr=1e-2):
    parts = [referenced(engine, rows(name.partition("-")[0], seed=step)) for step in range(count)]
    return [engine.step(engine.prepare(part), lr) for part in parts]


def texts(example):
    return [(example.ids[part].astype(np.int64), example.weights[part]) for part in example.texts]


def sum_of(model, ids, weights):
    """Σ weight · log p of a text in float64, by transformers alone, and how many tokens that are."""
    with torch.no_grad():
        logs = model(input_ids=torch.tensor(ids[None])).logits[0].double().log_softmax(-1)
    found = logs[:-1].gather(-1, torch.tensor(ids[1:, None]))[:, 0].numpy()
    return float((found * weights[1:]).sum()), float(weights.sum())


def sigma(x):
    return 1 / (1 + math.exp(-x))


def smoothed(margin, epsilon):
    return -(1 - epsilon) * math.log(sigma(margin)) - epsilon * math.log(sigma(-margin))


def plain_pair(kind, s, now, before, sizes):
    """The papers' formulas, number by number."""
    gains = [a - b for a, b in zip(now, before, strict=True)]
    means = [a / size for a, size in zip(now, sizes, strict=True)]
    if kind == "dpo" and s.loss == "ipo":
        return (gains[0] / sizes[0] - gains[1] / sizes[1] - 1 / (2 * s.beta)) ** 2
    if kind == "dpo" and s.loss == "hinge":
        return max(0.0, 1 - s.beta * (gains[0] - gains[1]))
    if kind == "dpo":
        return smoothed(s.beta * (gains[0] - gains[1]), s.label_smoothing)
    if kind == "simpo":
        return smoothed(s.beta * (means[0] - means[1]) - s.margin, s.label_smoothing)
    if kind == "cpo":
        return smoothed(s.beta * (now[0] - now[1]), s.label_smoothing) - s.sft_weight * means[0]
    ratio = [math.exp(m) / (1 - math.exp(m)) for m in means]
    return -s.sft_weight * means[0] - s.beta * math.log(sigma(math.log(ratio[0] / ratio[1])))


def plain(engine, tuned, base, examples):
    """The mean loss of a step by those formulas."""
    s = engine.spec.objective
    if s.type == "kto":
        return plain_kto(s, tuned, base, examples)
    losses = []
    for example in examples:
        now, sizes = zip(*(sum_of(tuned, *text) for text in texts(example)), strict=True)
        before = [sum_of(base, *text)[0] for text in texts(example)]
        losses.append(plain_pair(s.type, s, now, before, sizes))
    return sum(losses) / len(losses)


def plain_kto(s, tuned, base, examples):
    def gain(example):
        return sum_of(tuned, *texts(example)[0])[0] - sum_of(base, *texts(example)[0])[0]

    z = max(0.0, sum(gain(example.contrast) for example in examples) / len(examples))
    losses = []
    for example in examples:
        good = example.label == (1,)
        ahead = s.beta * (gain(example) - z) * (1 if good else -1)
        losses.append((s.desirable_weight if good else s.undesirable_weight) * (1 - sigma(ahead)))
    return sum(losses) / len(losses)


@pytest.fixture(scope="module")
def merged(models, tmp_path_factory):
    """The base + adapter, and the base, of an architecture, as transformers' own models."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made = {}

    def get(name):
        if name not in made:
            out = tmp_path_factory.mktemp("adapter")
            moved(TorchEngine(spec(models(name)))).export(out)
            load = AutoModelForCausalLM.from_pretrained
            base, other = (load(models(name), dtype=torch.float32, attn_implementation="eager") for _ in range(2))
            made[name] = PeftModel.from_pretrained(other, out).eval(), base.eval()
        return made[name]

    return get


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        *(("llama", name) for name in OBJECTIVES),
        *(pytest.param(kind, name, marks=pytest.mark.slow) for kind in ("gemma2", "gptj") for name in OBJECTIVES),
    ],
)
def test_the_loss_is_the_papers(models, merged, architecture, name):
    """Against full logits in float64; the adapter has moved, so reference and sides matter."""
    engine = opened(models(architecture), name)
    examples = referenced(engine, rows(name.partition("-")[0]))
    moved(engine)
    found = engine.loss(engine.prepare(examples))
    assert found.loss / found.denominator == pytest.approx(plain(engine, *merged(architecture), examples), rel=1e-5)
    assert found.supervised == sum(example.supervised for example in examples)
    assert found.denominator == len(examples)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dpo", {"beta": 0.2}),
        ("dpo", {"label_smoothing": 0.0}),
        ("dpo", {"loss": "ipo"}),
        ("dpo", {"loss": "hinge"}),
        ("orpo", {"beta": 0.3}),
        ("orpo", {"sft_weight": 0.2}),
        ("simpo", {"beta": 1.0}),
        ("simpo", {"margin": 0.0}),
        ("simpo", {"label_smoothing": 0.2}),
        ("cpo", {"beta": 0.3}),
        ("cpo", {"sft_weight": 0.2}),
        ("cpo", {"label_smoothing": 0.0}),
        ("kto", {"beta": 0.5}),
        ("kto", {"desirable_weight": 2.0}),
        ("kto", {"undesirable_weight": 2.0}),
    ],
)
def test_every_setting_changes_the_loss_and_the_gradient(llama, name, changes):
    losses, norms = [], []
    for more in ({}, changes):
        engine = opened(llama, name, **more)
        plan = engine.prepare(referenced(engine, rows(name)))
        result = moved(engine).rehearse(plan)
        losses.append(result.loss)
        norms.append(result.grad_norm)
    assert not math.isclose(*losses, rel_tol=1e-3)
    assert not math.isclose(*norms, rel_tol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        *(("llama", name) for name in OBJECTIVES),
        ("gemma2", "dpo"),
        ("gptj", "kto"),
        *(pytest.param("gemma2", name, marks=pytest.mark.slow) for name in OBJECTIVES),
        *(pytest.param("gptj", name, marks=pytest.mark.slow) for name in OBJECTIVES),
    ],
)
def test_the_cut_changes_nothing(models, architecture, name):
    """One by one = together, packed (llama; gemma2 with windows and softcap) and padded (gptj)."""
    results = [steps(opened(models(architecture), name, token_budget=size), name) for size in (1, 10_000)]
    for one, other in zip(*results, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
        assert (one.tokens, one.supervised) == (other.tokens, other.supervised)
        assert one.figures == pytest.approx(other.figures, rel=1e-4, abs=1e-5)


@EVERY
def test_restore_undoes_save(llama, tmp_path, name):
    """Bit-identical steps in a fresh engine, dropout's draws and the figures included."""
    method = replace(LORA, dropout=0.3)
    first, second = (opened(llama, name, method=method) for _ in range(2))
    steps(first, name)
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    later = referenced(second, rows(name.partition("-")[0], seed=50))
    second.restore(tmp_path / "saved")
    one, other = (engine.step(engine.prepare(later), 1e-2) for engine in (first, second))
    assert one == other and one.figures


@EVERY
def test_it_learns_to_tell_them_apart(llama, name):
    engine = opened(llama, name)
    plan = engine.prepare(referenced(engine, rows(name.partition("-")[0])))
    results = [engine.step(plan, 2e-2) for _ in range(14)]
    assert results[-1].loss < results[0].loss
    first, last = results[0].figures, results[-1].figures
    assert last["reward_chosen"] - last["reward_rejected"] > first["reward_chosen"] - first["reward_rejected"]
    assert last["reward_accuracy"] == 1.0


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_the_reference_is_the_model_before_training_without_dropout(llama, name):
    engine = opened(llama, name, method=replace(LORA, dropout=0.5))
    examples = rows(name)
    before = engine.scores(engine.prepare(examples))
    assert np.array_equal(before, engine.scores(engine.prepare(examples), base=True))
    moved(engine)
    again = engine.scores(engine.prepare(examples), base=True)
    assert np.array_equal(before, again)
    assert not np.allclose(before, engine.scores(engine.prepare(examples)), rtol=1e-3)


def test_an_adapter_that_is_trained_on_is_its_own_reference(llama, tmp_path):
    """At its first step nothing has moved, so every margin is 0 and the loss log 2."""
    moved(opened(llama, "dpo")).export(tmp_path)
    engine = opened(llama, "dpo", adapter=tmp_path)
    examples = referenced(engine, pairs())
    result = engine.step(engine.prepare(examples), 1e-2)
    assert result.loss == pytest.approx(math.log(2), abs=1e-5)
    with pytest.raises(ValueError, match="gone"):
        engine.scores(engine.prepare(examples), base=True)


def test_full_fine_tuning_has_its_reference_before_the_first_step_only(llama):
    engine = opened(llama, "dpo", method=Method(type="full"))
    plan = engine.prepare(referenced(engine, pairs()))
    assert engine.step(plan, 1e-3).loss == pytest.approx(math.log(2), abs=1e-5)
    assert engine.step(plan, 1e-3).loss < math.log(2) - 1e-3
    with pytest.raises(ValueError, match="gone"):
        engine.scores(plan, base=True)


def test_the_divergence_of_kto_is_of_the_whole_step(llama):
    """Contrasts alone decide it; it is never below 0, and their tokens do not count as trained."""
    engine = opened(llama, "kto")
    examples = referenced(engine, rated())
    moved(engine)
    plan = engine.prepare(examples)
    beside = [example.contrast for example in examples]
    gains = engine.scores(engine.prepare(beside))[:, 0] - [each.reference[0] for each in beside]
    assert gains.std() > 1e-3
    found = engine.loss(plan)
    assert found.means["kl"] == pytest.approx(max(0.0, gains.mean()), rel=1e-5, abs=1e-6)
    far = [replace(e, contrast=replace(e.contrast, reference=(e.contrast.reference[0] - 9,))) for e in examples]
    near = [replace(e, contrast=replace(e.contrast, reference=(e.contrast.reference[0] + 9,))) for e in examples]
    assert engine.loss(engine.prepare(far)).means["kl"] == pytest.approx(gains.mean() + 9, rel=1e-4)
    assert engine.loss(engine.prepare(near)).means["kl"] == 0
    assert found.supervised == sum(example.supervised for example in examples)


def test_each_side_of_kto_has_a_mean_of_its_own(llama):
    engine = opened(llama, "kto")
    examples = referenced(engine, rated())
    moved(engine)
    values = 0.1 * (engine.scores(engine.prepare(examples))[:, 0] - [e.reference[0] for e in examples])
    good = np.array([e.label == (1,) for e in examples])
    halves = [engine.loss(engine.prepare(part)) for part in (examples[:2], examples[2:])]
    found = (halves[0] + halves[1]).means
    assert found["reward_chosen"] == pytest.approx(values[good].mean(), rel=1e-4)
    assert found["reward_rejected"] == pytest.approx(values[~good].mean(), rel=1e-4)
    bad = [example for example, right in zip(examples, good, strict=True) if not right]
    assert "reward_chosen" not in engine.loss(engine.prepare(bad)).means


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_out_of_memory_leaves_everything_as_it_was(llama, monkeypatch, name):
    """The step is replayed under a smaller budget and learns the same; with KTO also out of its estimate."""
    for failing_call in (1, 2):
        engine, calm = (opened(llama, name) for _ in range(2))
        examples = referenced(engine, rows(name))
        real, calls = forward.Forward.sums, []

        def failing(self, batch, real=real, calls=calls, failing_call=failing_call):
            calls.append(batch)
            if len(calls) == failing_call:
                raise torch.OutOfMemoryError("planted")
            return real(self, batch)

        with monkeypatch.context() as planted:
            planted.setattr(forward.Forward, "sums", failing)
            with pytest.raises(OutOfMemory):
                engine.step(engine.prepare(examples), 1e-2)
        engine.token_budget = 32
        replayed, straight = (each.step(each.prepare(examples), 1e-2) for each in (engine, calm))
        assert replayed.loss == pytest.approx(straight.loss, rel=1e-6)
        assert replayed.grad_norm == pytest.approx(straight.grad_norm, rel=1e-4)
        assert replayed.supervised == straight.supervised


def test_odds_are_exact_at_both_ends():
    logs = torch.tensor([-30.0, -1.0, -0.693, -0.01, -1e-5], dtype=torch.float64)
    assert torch.allclose(odds(logs), logs - torch.log1p(-logs.exp()), rtol=1e-6)
    certain = torch.tensor([0.0, -1e-9], requires_grad=True)
    odds(certain).sum().backward()
    assert torch.isfinite(odds(certain)).all() and torch.isfinite(certain.grad).all()
