"""The two engines learn the same: base, start, losses, gradients and what they leave behind.

The comparison is itself tested: each way of being subtly wrong must make it fail.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

import mlx.core as mx
from safetensors.numpy import load_file, save_file

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method, NotFinite, Objective, Optimizer, OutOfMemory
from truetune.engines.mlx import batch, family, head
from truetune.engines.mlx.engine import open_engine
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, UsageError
from truetune.testing import examples
from truetune.testing.contract import LORA, pairs, rated, referenced

STEPS = 50
NAMES = ("llama", "mistral-window", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
ROPE = {"rope_theta": 500.0}
LLAMA3 = ROPE | {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = ROPE | {"rope_type": "linear", "factor": 4.0}
SETTINGS = {
    "a base of rotation": ("llama", {"rope_parameters": ROPE | {"rope_type": "default"}}),
    "a base of rotation, gemma": ("gemma2", {"rope_parameters": ROPE | {"rope_type": "default"}}),
    "stretched positions": ("qwen2", {"rope_parameters": LINEAR}),
    "llama 3's positions": ("llama", {"rope_parameters": LLAMA3}),
    "positions by layer": (
        "gemma3",
        {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": ROPE | {"rope_type": "default"}}},
    ),
    "a tied head": ("llama", {"tie_word_embeddings": True}),
    "a head of its own": ("gemma3", {"tie_word_embeddings": False}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "an odd width": ("gemma3", {"hidden_size": 48}),
    "windows in some layers": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "a window": ("phi3", {"sliding_window": 5}),
    "a pattern of windows": ("gemma3", {"layer_types": ["sliding_attention", "full_attention"] * 3}),
}


def spec(folder, **changes):
    return replace(EngineSpec(model=folder, method=LORA, token_budget=128), **changes)


def curve(engine, steps=STEPS, sabotage=""):
    """Losses under a learning rate that changes; the rows come again, so that there is something to learn.

    Not so high that rounding errors double from step to step.
    """
    rate = 1e-2 if engine.spec.method.type == "lora" else 3e-3
    found = []
    for step in range(steps):
        if sabotage == "no bias correction":
            engine.optimizer.steps = 10**6
        found.append(engine.step(engine.prepare(examples(8, seed=step % 5)), rate * (1 - step / steps)))
    return found


def agree(one, other):
    return np.allclose([r.loss for r in one], [r.loss for r in other], rtol=1e-5, atol=0)


def logits_agree(folder):
    """Log-probabilities of a text by both, one token after another, to 1e-5 of the loss."""
    row = np.random.default_rng(0).integers(0, tiny.VOCAB, 40).astype(np.int32)
    singles = [Example(row, (np.arange(40) == at).astype(np.float32), 0) for at in range(1, 40)]
    ours, theirs = open_engine(spec(folder)), TorchEngine(spec(folder))
    found = [[engine.loss(engine.prepare([one])).loss for one in singles] for engine in (ours, theirs)]
    return np.allclose(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [n if n == "gemma2" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_the_base_is_the_same(models, name):
    assert logits_agree(models(name))


@pytest.mark.slow
@pytest.mark.parametrize("case", SETTINGS)
def test_the_base_is_the_same_with(models, case):
    """What mlx_lm's classes read from elsewhere, or not at all."""
    name, settings = SETTINGS[case]
    assert family.lacks(models(name, **settings)) == ""
    assert logits_agree(models(name, **settings))


@pytest.mark.parametrize("method", [LORA, Method(type="full")], ids=["lora", "full"])
@pytest.mark.parametrize("name", [n if n == "llama" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_curves_agree(models, name, method):
    """Fifty steps from the same start, which needs no file: the seed gives it."""
    settings = {"method": method, "optimizer": Optimizer(weight_decay=0.1)}
    ours, theirs = open_engine(spec(models(name), **settings)), TorchEngine(spec(models(name), **settings))
    one, other = curve(ours), curve(theirs)
    assert other[-1].loss < 0.9 * other[0].loss
    worst = max(abs(a.loss - b.loss) / b.loss for a, b in zip(one, other, strict=True))
    assert agree(one, other), f"largest relative difference {worst:.1e}"
    assert np.allclose([r.grad_norm for r in one], [r.grad_norm for r in other], rtol=1e-3)
    assert [r.supervised for r in one] == [r.supervised for r in other]


PREFERENCES = [
    Objective("dpo"),
    Objective("dpo", label_smoothing=0.2),
    Objective("dpo", "ipo"),
    Objective("dpo", "hinge"),
    Objective("orpo"),
    Objective("simpo", beta=2.0),
    Objective("cpo", sft_weight=0.5),
    Objective("kto", desirable_weight=1.5),
]


@pytest.mark.parametrize("method", [LORA, Method(type="full")], ids=["lora", "full"])
@pytest.mark.parametrize("objective", PREFERENCES, ids=lambda each: f"{each.type}-{each.loss}-{each.label_smoothing}")
def test_preferences_agree(models, objective, method):
    """Thirty steps over pairs, in which the loss falls."""
    found = []
    for opened in (open_engine, TorchEngine):
        engine = opened(spec(models("llama"), objective=objective, method=method))
        made = rated if objective.type == "kto" else pairs
        steps = [referenced(engine, made(6, seed=step)) for step in range(3)]
        rate = 2e-3 if method is LORA else 5e-4
        found.append([engine.step(engine.prepare(steps[step % 3]), rate) for step in range(30)])
    one, other = found
    assert other[27].loss < 0.97 * other[0].loss  # the same rows
    assert np.allclose([r.loss for r in one], [r.loss for r in other], rtol=1e-4, atol=1e-6)
    assert one[0].figures.keys() == other[0].figures.keys()
    for name in one[0].figures:
        assert np.allclose([r.figures[name] for r in one], [r.figures[name] for r in other], rtol=1e-3, atol=1e-5)
    assert [r.supervised for r in one] == [r.supervised for r in other]


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", ["no bias correction", "decay on everything", "other alpha"])
def test_the_comparison_notices(models, sabotage, monkeypatch):
    folder, settings = models("qwen2"), {"method": Method(type="full"), "optimizer": Optimizer(weight_decay=0.1)}
    if sabotage == "other alpha":
        settings["method"] = LORA
    ours, theirs = open_engine(spec(folder, **settings)), TorchEngine(spec(folder, **settings))
    if sabotage == "other alpha":
        for layer in ours.layers.values():
            layer._scale *= 1.01
    if sabotage == "decay on everything":
        plain = type(ours.optimizer)._one
        monkeypatch.setattr(
            type(ours.optimizer), "_one",
            lambda self, name, value, gradient, lr: plain(
                self, name, value * (1 - lr * 0.1) if value.ndim < 2 else value, gradient, lr
            ),
        )  # fmt: skip
    assert not agree(curve(ours, sabotage=sabotage), curve(theirs))


def test_the_start_is_the_same_to_the_bit(models, tmp_path):
    for engine, name in ((open_engine(spec(models("gemma2"))), "mlx"), (TorchEngine(spec(models("gemma2"))), "torch")):
        (tmp_path / name).mkdir()
        engine.export(tmp_path / name)
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("mlx", "torch"))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)
    first, second = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("mlx", "torch"))
    assert first == second


@pytest.mark.parametrize("method", [LORA, Method(type="full")], ids=["lora", "full"])
def test_each_goes_on_where_the_other_left_off(models, tmp_path, method):
    """What one exports the other starts from, at the same loss."""
    folder = models("gemma2", layer_types=["full_attention"] * 2)
    for number, (first, second) in enumerate([(open_engine, TorchEngine), (TorchEngine, open_engine)]):
        place = tmp_path / str(number)
        place.mkdir()
        trained = first(spec(folder, method=method))
        curve(trained, 3)
        trained.export(place)
        again = spec(folder, adapter=place) if method is LORA else spec(place)
        rows = examples(seed=9)
        one, other = trained.loss(trained.prepare(rows)), (e := second(again)).loss(e.prepare(rows))
        assert np.isclose(one.loss, other.loss, rtol=1e-5)


def test_gradient_checkpointing_changes_nothing(models):
    method = replace(LORA, dropout=0.3)
    plain, saving = (
        open_engine(spec(models("gemma2"), method=method, gradient_checkpointing=f)) for f in (False, True)
    )
    for one, other in zip(curve(plain, 3), curve(saving, 3), strict=True):
        assert np.isclose(one.loss, other.loss, rtol=1e-6)
        assert np.isclose(one.grad_norm, other.grad_norm, rtol=1e-5)


def test_dropout_is_off_when_measuring_and_on_when_training(models):
    engine = open_engine(spec(models("llama"), method=replace(LORA, dropout=0.5)))
    plan = engine.prepare(examples())
    engine.step(plan, 0.1)
    assert engine.loss(plan).loss == engine.loss(plan).loss
    first, second = engine.step(plan, 0.0), engine.step(plan, 0.0)
    assert first.loss != second.loss


def test_a_loss_that_is_not_a_number_leaves_everything_as_it_was(models):
    engine = open_engine(spec(models("llama"), method=replace(LORA, dropout=0.3)))
    bad = [Example(row.ids, np.where(row.weights > 0, np.float32("nan"), 0), row.row) for row in examples()]
    with pytest.raises(NotFinite):
        engine.step(engine.prepare(bad), 1e-2)
    assert engine.changed()[0] == 0
    calm = open_engine(spec(models("llama"), method=replace(LORA, dropout=0.3)))
    assert curve(engine, 2) == curve(calm, 2)


def test_out_of_memory_leaves_everything_as_it_was(models):
    """The same step, replayed under a smaller budget, draws the same numbers and learns the same."""
    engine, calm = (open_engine(spec(models("llama"))) for _ in range(2))
    allowed, engine.most = engine.most, 1
    with pytest.raises(OutOfMemory):
        engine.step(engine.prepare(examples()), 1e-2)
    engine.most = allowed
    engine.token_budget = 32
    replayed, straight = engine.step(engine.prepare(examples()), 1e-2), calm.step(calm.prepare(examples()), 1e-2)
    assert np.isclose(replayed.loss, straight.loss, rtol=1e-6)
    assert replayed.supervised == straight.supervised


def test_memory_is_told_by_mlx(models):
    engine = open_engine(spec(models("llama")))
    curve(engine, 1)
    usage = engine.usage()
    assert 0 < usage.now <= usage.peak < usage.limit
    assert engine.describe()["engine"] == "mlx"


@pytest.mark.parametrize("budget", [1, 64, 300, 10_000])
def test_the_cut_holds_every_example_once_within_the_budget(budget):
    lengths = [5, 60, 7, 61, 300, 8, 9, 59, 2]
    parts = batch.cut(lengths, budget)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or max(lengths[i] for i in part) * len(part) <= budget for part in parts)
    if budget == 10_000:
        assert sum(max(lengths[i] for i in part) * len(part) for part in parts) < 1.1 * sum(lengths)


def test_bfloat16_learns_too(models):
    for method in (LORA, Method(type="full")):
        engine = open_engine(spec(models("llama"), dtype="bfloat16", method=method))
        plan = engine.prepare(examples())
        losses = [engine.step(plan, 1e-2).loss for _ in range(8)]
        assert losses[-1] < losses[0]


LACKING = {
    "gemma": ("gemma", {}),
    "gpt2": ("gpt2", {}),
    "yarn": ("llama", {"rope_parameters": ROPE | {"rope_type": "yarn", "factor": 2.0}}),
    "activation": ("llama", {"hidden_act": "gelu"}),
    "attention_bias": ("qwen3", {"attention_bias": True}),
    "irregular": ("gemma3", {"layer_types": ["full_attention", "sliding_attention", *["full_attention"] * 4]}),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_mlx_lacks_is_said(models, what):
    name, settings = LACKING[what]
    folder = models(name, **settings)
    assert what in family.lacks(folder)
    with pytest.raises(InputError) as error:
        open_engine(spec(folder))
    assert error.value.finding.code == "model.unloadable"


@pytest.mark.parametrize("config", [{"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"vocab_size": 512}])
def test_weights_that_are_not_those_of_the_config(tmp_path, config):
    folder = tiny.make(tmp_path / "model", "llama")
    body = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(body))
    with pytest.raises(InputError) as error:
        open_engine(spec(folder))
    assert error.value.finding.code == "model.weights"


def test_a_spare_tensor_is_no_error(tmp_path):
    folder = tiny.make(tmp_path / "model", "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.mtp.0.weight"] = tensors["model.norm.weight"].copy()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    open_engine(spec(folder))


def test_an_adapter_of_another_rank_is_refused(models, tmp_path):
    open_engine(spec(models("llama"))).export(tmp_path)
    with pytest.raises(UsageError) as error:
        open_engine(spec(models("llama"), method=replace(LORA, r=8), adapter=tmp_path))
    assert error.value.finding.code == "adapter.other_shape"


def test_an_adapter_of_another_model_is_refused(models, tmp_path):
    open_engine(spec(models("llama", hidden_size=64))).export(tmp_path)
    with pytest.raises(InputError) as error:
        open_engine(spec(models("llama"), adapter=tmp_path))
    assert error.value.finding.code == "adapter.mismatch"


def test_targets(models):
    engine = open_engine(spec(models("llama"), method=replace(LORA, target_modules=("q_proj", "v_proj"))))
    assert engine.describe()["target_modules"] == ["q_proj", "v_proj"]
    assert engine.adapted.config()["target_modules"] == ["q_proj", "v_proj"]
    with pytest.raises(UsageError) as error:
        open_engine(spec(models("llama"), method=replace(LORA, target_modules=("typo_proj",))))
    assert error.value.finding.code == "method.no_target"


def test_the_head_equals_autograd():
    """Values and gradients of the chunked loss against the plain formula."""
    rng = np.random.default_rng(0)
    hidden, weight = (mx.array(rng.standard_normal(shape).astype(np.float32)) for shape in ((50, 16), (97, 16)))
    targets, weights = mx.array(rng.integers(0, 97, 50)), mx.array(rng.random(50).astype(np.float32))
    for softcap in (None, 5.0):

        def plain(hidden, weight, softcap=softcap):
            z = head.logits(hidden, weight, softcap)
            losses = mx.logsumexp(z, -1) - mx.take_along_axis(z, targets[:, None], -1)[:, 0]
            return (losses * weights).sum()

        def chunked(hidden, weight, softcap=softcap):
            return head.loss(softcap)(hidden, weight, targets, weights)

        before, head.CHUNK = head.CHUNK, 97 * 7
        try:
            ours = mx.value_and_grad(chunked, argnums=(0, 1))(hidden, weight)
        finally:
            head.CHUNK = before
        theirs = mx.value_and_grad(plain, argnums=(0, 1))(hidden, weight)
        assert np.isclose(ours[0].item(), theirs[0].item(), rtol=1e-6)
        for one, other in zip(ours[1], theirs[1], strict=True):
            assert np.allclose(np.array(one), np.array(other), rtol=1e-4, atol=1e-6)
