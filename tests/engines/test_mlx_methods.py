"""LoRA's family on MLX: as torch computes it, from the same start, through the same files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

import mlx.core as mx
from safetensors.numpy import load_file, save_file

from truetune.engines import adapter, family
from truetune.engines.base import EngineSpec, Optimizer
from truetune.engines.decoder import DecoderSpec, Sampling
from truetune.engines.mlx import dora
from truetune.engines.mlx.decode import open_decoder
from truetune.engines.mlx.engine import open_engine
from truetune.engines.torch import tiny
from truetune.engines.torch.decode import TorchDecoder
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, UsageError
from truetune.testing import examples
from truetune.testing.contract import LORA

STEPS = 30
CASES = {
    "rslora": replace(LORA, type="rslora"),
    "dora": replace(LORA, type="dora"),
    "pissa": replace(LORA, init="pissa"),
    "olora": replace(LORA, init="olora"),
    "dora from pissa": replace(LORA, type="dora", init="pissa"),
    "rslora from olora": replace(LORA, type="rslora", init="olora"),
    "lora plus": replace(LORA, lora_plus=4.0),
    "modules": replace(LORA, modules_to_save=("embed_tokens", "model.norm")),
    "head": replace(LORA, modules_to_save=("lm_head",)),
    "norms": replace(LORA, modules_to_save=("input_layernorm", "layers.1.self_attn.q_proj")),
    "all of it": replace(LORA, type="dora", init="olora", lora_plus=4.0, modules_to_save=("lm_head", "norm")),
}
RATES = {
    "rslora": 2e-3,
    "rslora from olora": 1e-3,
    "pissa": 2e-3,
    "olora": 1e-3,
    "dora from pissa": 2e-3,
    "all of it": 1e-3,
}
"""Not so high that rounding errors double from step to step."""
FAST = ("dora", "all of it")
EVERY = [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
"""The others are in the slow suite."""
BOTH = (open_engine, TorchEngine)


def spec(folder, case="dora", **changes):
    return replace(EngineSpec(model=folder, method=CASES[case], token_budget=128), **changes)


def curve(engine, case, steps=range(STEPS)):
    rate = RATES.get(case, 5e-3)
    return [engine.step(engine.prepare(examples(8, seed=step % 4)), rate) for step in steps]


def apart(one, other):
    return max(abs(a.loss - b.loss) / b.loss for a, b in zip(one, other, strict=True))


def exported(engine, folder):
    folder.mkdir()
    engine.export(folder)
    return folder


def settings(folder):
    """PEFT's, whatever the order of names."""
    body = json.loads((folder / adapter.CONFIG).read_text())
    return body | {"target_modules": sorted(body["target_modules"])}


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_curves_agree(models, name, case):
    """In a model whose head is its own, and in one where it is the embedding."""
    decays = Optimizer(weight_decay=0.1)
    one, other = (curve(opened(spec(models(name), case, optimizer=decays)), case) for opened in BOTH)
    assert other[26].loss < 0.97 * other[2].loss  # the same rows
    worst = apart(one, other)
    assert worst <= 1e-5, f"largest relative difference {worst:.1e}"
    assert np.allclose([r.grad_norm for r in one], [r.grad_norm for r in other], rtol=1e-3)


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_adapters_go_both_ways(models, tmp_path, name, case):
    """What one engine exports the other goes on from, and both decoders say it; settings and tensors are the same."""
    folder, rows = models(name), examples(seed=9)
    method = replace(CASES[case], init="default")
    for number, (first, second) in enumerate((BOTH, BOTH[::-1])):
        trained = first(spec(folder, case))
        curve(trained, case, range(3))
        place = exported(trained, tmp_path / f"{number}")
        body = settings(place)
        again = replace(method, r=body["r"], alpha=body["lora_alpha"])
        other = second(spec(folder, adapter=place, method=again))
        expected = trained.loss(trained.prepare(rows)).loss
        assert np.isclose(other.loss(other.prepare(rows)).loss, expected, rtol=2e-6)
        back = exported(other, tmp_path / f"{number}-back")
        one, two = (load_file(each / adapter.WEIGHTS) for each in (place, back))
        assert one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)
        assert settings(back) == body
        for opened in (open_decoder, TorchDecoder):
            decoder = opened(DecoderSpec(folder))
            decoder.load("mine", place)
            scores = decoder.score(rows, "mine")
            told = -sum(float((logs * row.weights).sum()) for logs, row in zip(scores, rows, strict=True))
            assert np.isclose(told, expected, rtol=5e-6)


@pytest.mark.parametrize("case", EVERY)
def test_a_resume_is_exact(llama, tmp_path, case):
    """Bit by bit, dropout's draws included; and so is the export."""
    method = replace(CASES[case], dropout=0.3)
    first, second = (open_engine(spec(llama, case, method=method)) for _ in range(2))
    curve(first, case, range(3))
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    second.restore(tmp_path / "saved")
    assert curve(second, case, range(3, 6)) == curve(first, case, range(3, 6))
    one, other = (exported(each, tmp_path / name) for each, name in ((first, "one"), (second, "other")))
    assert (one / adapter.WEIGHTS).read_bytes() == (other / adapter.WEIGHTS).read_bytes()


@pytest.mark.parametrize("case", EVERY)
def test_the_model_before_training_stays(models, case):
    """Bit by bit, however the adapter began; and what was trained is back afterwards. It is torch's."""
    folder, rows = models("gemma2"), examples(seed=9)
    one = open_engine(spec(folder, case))
    plan = one.prepare(rows)
    before = open_engine(spec(folder, method=LORA)).scores(plan)
    curve(one, case, range(2))
    after = one.loss(plan).loss
    assert np.array_equal(one.scores(plan, base=True), before)
    assert not np.allclose(one.scores(plan), before)
    assert one.loss(plan).loss == after
    assert one.changed()[0] == one.changed()[1] > 0


def test_the_model_before_training_has_the_adapter_that_it_starts_from(llama, tmp_path):
    trained = open_engine(spec(llama))
    curve(trained, "dora", range(3))
    place, rows = exported(trained, tmp_path / "a"), examples(seed=9)
    found = []
    for opened in BOTH:
        engine = opened(spec(llama, adapter=place))
        plan = engine.prepare(rows)
        found.append(engine.scores(plan, base=True))
        assert np.array_equal(found[-1], engine.scores(plan))
        engine.step(plan, 1e-3)
        with pytest.raises(ValueError, match="gone"):
            engine.scores(plan, base=True)
    assert np.allclose(*found, rtol=1e-5)


def test_an_embedding_and_a_head_that_peft_parts(models, tmp_path):
    """Of a model that ties them: training goes on with two, and a decoder says the same, beside the base."""
    folder, rows = models("gemma2"), examples(seed=9)
    whole = replace(LORA, modules_to_save=("lm_head",))
    made = exported(open_engine(spec(folder, method=whole)), tmp_path / "a")
    tensors = load_file(made / adapter.WEIGHTS)
    tensors.pop(f"{adapter.PREFIX}model.embed_tokens.weight")
    tensors[f"{adapter.PREFIX}lm_head.weight"] *= 1.5
    save_file(tensors, made / adapter.WEIGHTS)
    body = json.loads((made / adapter.CONFIG).read_text()) | {"modules_to_save": ["lm_head"]}
    (made / adapter.CONFIG).write_text(json.dumps(body))
    one, other = (opened(spec(folder, method=whole, adapter=made)) for opened in BOTH)
    expected = other.loss(other.prepare(rows)).loss
    assert np.isclose(one.loss(one.prepare(rows)).loss, expected, rtol=2e-6)
    (answer,) = one.answer([[1, 2, 3]], 1, frozenset())
    assert apart(*(curve(each, "head", range(5)) for each in (one, other))) <= 1e-5
    decoder = open_decoder(DecoderSpec(folder))
    before = decoder.score(rows, None)
    decoder.load("mine", made)
    told = -sum(float((logs * row.weights).sum()) for logs, row in zip(decoder.score(rows, "mine"), rows, strict=True))
    assert np.isclose(told, expected, rtol=5e-6)
    assert all(np.array_equal(*pair) for pair in zip(decoder.score(rows, None), before, strict=True))
    decoder.admit([1, 2, 3], "mine", Sampling(max_new_tokens=1))
    assert [token.id for token in decoder.decode()] == answer
    decoder.drop("mine")
    assert decoder.adapters.names == set()


@pytest.mark.parametrize("case", ["dora", "all of it"])
def test_gradient_checkpointing_changes_nothing(models, case):
    """Of lengths, norms and heads neither."""
    method = replace(CASES[case], dropout=0.3)
    for name in ("llama", "gemma2"):
        plain, saving = (open_engine(spec(models(name), method=method, gradient_checkpointing=f)) for f in (0, 1))
        pairs = zip(curve(plain, case, range(3)), curve(saving, case, range(3)), strict=True)
        assert all(np.isclose(a.grad_norm, b.grad_norm, rtol=1e-5) for a, b in pairs)
        assert saving.changed()[0] == saving.changed()[1]


def test_a_base_in_bfloat16_learns_too(llama):
    engine = open_engine(spec(llama, "all of it", dtype="bfloat16"))
    plan = engine.prepare(examples())
    losses = [engine.step(plan, 5e-3).loss for _ in range(8)]
    assert losses[-1] < losses[0]
    assert all(value.dtype == mx.float32 for value in engine.parameters.values())


@pytest.mark.parametrize("sabotage", ["no lengths", "other scale", "nothing taken", "one rate", "frozen"])
def test_the_comparison_notices(llama, sabotage, monkeypatch):
    case = {"no lengths": "dora", "other scale": "rslora", "nothing taken": "pissa", "one rate": "lora plus"}
    case = case.get(sabotage, "norms")
    ours, theirs = (opened(spec(llama, case)) for opened in BOTH)
    if sabotage == "no lengths":
        monkeypatch.setattr(dora, "norms", lambda weight, squares, A, B, scale: mx.sqrt(squares))
    if sabotage == "nothing taken":
        for layer in ours.layers.values():
            layer._taken = None
    if sabotage == "other scale":
        for layer in ours.layers.values():
            layer._scale = ours.spec.method.alpha / ours.spec.method.r
    if sabotage == "one rate":
        ours.optimizer.rates = {}
    if sabotage == "frozen":
        whole, kept = ours.adapted.whole, ours.adapted.whole.trained
        monkeypatch.setattr(whole, "put", lambda values: type(whole).put(whole, kept))
    assert apart(curve(ours, case, range(6)), curve(theirs, case, range(6))) > 1e-4


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"modules_to_save": ("nothing",)}, "method.no_module"),
        ({"init": "pissa", "r": 33}, "method.init_rank"),
        ({"target_modules": ("q_proj",), "modules_to_save": ("self_attn",)}, "method.no_target"),
    ],
)
def test_settings_that_fit_no_model(llama, changes, code):
    for opened in BOTH:
        with pytest.raises(UsageError) as error:
            opened(spec(llama, method=replace(LORA, **changes)))
        assert error.value.finding.code == code


def test_an_adapter_is_gone_on_with_as_it_was_made(llama, tmp_path):
    made = exported(
        open_engine(spec(llama, "all of it", method=replace(CASES["all of it"], init="default"))), tmp_path / "a"
    )
    for method, hint in ((LORA, "method.type to dora"), (replace(LORA, type="dora"), "modules_to_save to [lm_head")):
        with pytest.raises(UsageError) as error:
            open_engine(spec(llama, method=method, adapter=made))
        assert error.value.finding.code == "adapter.other_shape" and hint in error.value.finding.hint


def test_a_checkpoint_of_another_shape_is_refused(llama, tmp_path):
    first = open_engine(spec(llama, "modules"))
    first.save(tmp_path)
    tensors = load_file(tmp_path / adapter.WEIGHTS)
    tensors[f"{adapter.PREFIX}model.norm.weight"] = np.ones(3, np.float32)
    save_file(tensors, tmp_path / adapter.WEIGHTS)
    with pytest.raises(InputError) as error:
        open_engine(spec(llama, "modules")).restore(tmp_path)
    assert error.value.finding.code == "checkpoint.damaged"


def test_rows_of_single_tokens_are_left_to_torch(llama, tmp_path):
    """The decoder says so; whoever chooses an engine sees it before."""
    made = exported(TorchEngine(spec(llama, method=LORA, new_tokens=(5, tiny.VOCAB))), tmp_path / "rows")
    with pytest.raises(InputError) as error:
        open_decoder(DecoderSpec(llama)).load("mine", made)
    assert error.value.finding.code == "adapter.unsupported"
    whole = replace(LORA, modules_to_save=("embed_tokens", "lm_head"))
    grown = exported(TorchEngine(spec(llama, method=whole, new_tokens=(tiny.VOCAB,))), tmp_path / "grown")
    plain = exported(open_engine(spec(llama, "all of it")), tmp_path / "plain")
    assert [family.beyond(place, tiny.VOCAB) for place in (made, grown, plain)] == [["new tokens"]] * 2 + [[]]
