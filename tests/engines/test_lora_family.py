"""LoRA's family on our layers: what each computes, how it starts, goes off, and comes back from its files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from truetune.data.example import Example
from truetune.engines import adapter, family
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import DecoderSpec, Sampling
from truetune.engines.torch import dora, files, inits, lora, tiny
from truetune.engines.torch.decode import TorchDecoder
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, UsageError
from truetune.testing import examples
from truetune.testing.contract import LORA, LR

NEW = (tiny.VOCAB, tiny.VOCAB + 1)
CASES = {
    "rslora": (replace(LORA, type="rslora"), ()),
    "dora": (replace(LORA, type="dora"), ()),
    "pissa": (replace(LORA, init="pissa"), ()),
    "dora from olora": (replace(LORA, type="dora", init="olora"), ()),
    "modules": (replace(LORA, modules_to_save=("embed_tokens", "model.norm")), ()),
    "new tokens": (LORA, NEW),
    "all of it": (replace(LORA, type="dora", lora_plus=4.0, modules_to_save=("lm_head",)), NEW),
}
FAST = ("dora from olora", "all of it")
EVERY = [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
"""The others are in the slow suite."""


def engine(folder, case="rslora", **changes):
    method, new = CASES[case]
    return TorchEngine(
        EngineSpec(model=folder, **({"method": method, "new_tokens": new, "token_budget": 64} | changes))
    )


def rows(seed=0, new=True):
    """Examples with new tokens in them, which a model must have."""
    made = examples(seed=seed)
    for one in made:
        one.ids[1::4] = NEW[one.row % 2] if new else 7
    return made


def train(one, steps=range(3)):
    new = bool(one.spec.new_tokens)
    return [one.step(one.prepare(rows(step, new)), LR) for step in steps]


def exported(one, folder):
    folder.mkdir()
    one.export(folder)
    return folder


def layer(kind=dora.DoRALinear, base=None, method=LORA, **settings):
    torch.manual_seed(0)
    found = kind(base or nn.Linear(8, 12), replace(method, **settings))
    found.reset("some.layer", 1)
    nn.init.normal_(found.lora_B, std=0.3)
    return found


@pytest.mark.parametrize("base", [nn.Linear(8, 12), nn.Linear(8, 12, bias=False), Conv1D(12, 8)])
def test_dora_is_the_papers_formula(base):
    """y = x (m V / ‖V‖)ᵀ + bias with V = W + s B A, whose length is a constant for the gradient."""
    one = layer(base=base)
    nn.init.uniform_(one.magnitude, 0.5, 2)
    x = torch.randn(20, 8, requires_grad=True)
    V = one.weight + one.scale * one.lora_B @ one.lora_A
    weight = one.magnitude[:, None] * V / V.norm(dim=1, keepdim=True).detach()
    expected = x @ weight.t() + (0 if base.bias is None else base.bias)
    y, upstream = one(x), torch.randn(20, 12)
    assert torch.allclose(y, expected, atol=1e-5)
    leaves = (x, one.lora_A, one.lora_B, one.magnitude)
    for mine, other in zip(
        torch.autograd.grad(y, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        assert torch.allclose(mine, other, atol=1e-4)


def test_the_length_of_dora_is_a_constant_for_the_gradient():
    """The same with the gradient through the length is something else, so the test above can fail."""
    one = layer()
    V = one.weight + one.scale * one.lora_B @ one.lora_A
    x, upstream = torch.randn(20, 8), torch.randn(20, 12)
    through = x @ (one.magnitude[:, None] * V / V.norm(dim=1, keepdim=True)).t()
    (mine,), (other,) = (torch.autograd.grad(y, one.lora_A, upstream) for y in (one(x), through))
    assert not torch.allclose(mine, other, atol=1e-3)


def test_dropout_of_dora_is_pefts():
    """What dropout takes from the addition's input, the change of length does not see either."""
    one = layer(dropout=0.5)
    nn.init.uniform_(one.magnitude, 0.5, 2)
    x, mask = torch.randn(20, 8), torch.rand(20, 8) > 0.5
    V = one.weight + one.scale * one.lora_B @ one.lora_A
    gain, dropped = one.magnitude / V.norm(dim=1), x * mask / 0.5
    added = (gain - 1) * (dropped @ one.weight.t()) + gain * (one.scale * dropped @ one.lora_A.t() @ one.lora_B.t())
    assert torch.allclose(one.changed(x, mask), one.base(x) + added, atol=1e-5)


def test_a_row_of_zeros_stays_one():
    base = nn.Linear(8, 12)
    base.weight.data[3] = 0
    one = dora.DoRALinear(base, LORA)
    one.reset("some.layer", 1)
    assert torch.isfinite(one(torch.randn(5, 8))).all()


def test_the_scales():
    assert Method(type="lora", r=16, alpha=32).scale == 2
    assert Method(type="dora", r=16, alpha=32).scale == 2
    assert Method(type="rslora", r=16, alpha=32).scale == 8


@pytest.mark.parametrize("init", inits.TABLE)
@pytest.mark.parametrize("base", [nn.Linear(8, 12), Conv1D(12, 8)])
def test_a_start_as_a_part_of_the_weight_changes_nothing(init, base):
    one, x = layer(lora.LoRALinear, base), torch.randn(20, 8)
    one.take(inits.TABLE[init](one.weight.detach(), 4, one.scale))
    assert torch.allclose(one(x), base(x), atol=1e-5)
    assert one.lora_A.abs().max() > 0 and one.lora_B.abs().max() > 0
    one.lora_A.data += 0.1
    A, B = one.change()
    assert A.shape == (8, 8) and B.shape == (12, 8)
    assert torch.allclose(one(x), base(x) + one.scale * x @ A.t() @ B.t(), atol=1e-5)


def test_pissa_takes_the_largest_singular_values():
    weight = torch.randn(12, 8)
    A, B = inits.pissa(weight, 3, 2.0)
    left = torch.linalg.svdvals(weight - 2 * B @ A)
    assert torch.allclose(left[:5], torch.linalg.svdvals(weight)[3:], atol=1e-5) and left[5:].max() < 1e-5
    assert torch.allclose(A.norm(dim=1), B.norm(dim=0), atol=1e-5)


def test_olora_takes_the_first_of_an_orthogonal_basis():
    A, B = inits.olora(torch.randn(12, 8), 3, 2.0)
    assert torch.allclose(B.t() @ B, torch.eye(3), atol=1e-5)
    assert torch.allclose(A.tril(-1), torch.zeros(3, 8), atol=1e-6)


@pytest.mark.parametrize("case", EVERY)
def test_restore_undoes_save(llama, tmp_path, case):
    """Bit-identical steps after a restore in a fresh engine, dropout's draws included; and so is the export."""
    method = replace(CASES[case][0], dropout=0.3)
    first, second = (engine(llama, case, method=method) for _ in range(2))
    train(first)
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    second.restore(tmp_path / "saved")
    assert train(second, range(3, 6)) == train(first, range(3, 6))
    one, other = (exported(each, tmp_path / name) for each, name in ((first, "one"), (second, "other")))
    assert (one / adapter.WEIGHTS).read_bytes() == (other / adapter.WEIGHTS).read_bytes()


@pytest.mark.parametrize("case", EVERY)
def test_off_is_the_model_before_training(llama, case):
    """Bit by bit, however the adapter began; and what was trained is back afterwards."""
    one = engine(llama, case)
    plan = one.prepare(rows(new=bool(one.spec.new_tokens)))
    fresh = engine(llama, case, method=replace(LORA, modules_to_save=one.spec.method.modules_to_save))
    before = fresh.scores(plan)
    train(one)
    after = one.loss(plan).loss
    assert np.array_equal(one.scores(plan, base=True), before)
    assert not np.allclose(one.scores(plan), before)
    assert one.loss(plan).loss == after


@pytest.mark.parametrize("case", EVERY)
def test_everything_is_trained_and_counted(llama, case):
    one = engine(llama, case)
    train(one)
    assert one.changed()[0] == one.changed()[1] > 0
    told = one.describe()
    assert told["modules_to_save"] == sorted(
        {"embed_tokens": "model.embed_tokens"}.get(name, name) for name in one.spec.method.modules_to_save
    )
    assert told["new_tokens"] == len(one.spec.new_tokens)


def test_what_is_tied_stays_tied(models, tmp_path):
    """One matrix is trained; the file has it under both names, for PEFT would part them otherwise."""
    folder = models("gemma2")
    one = engine(folder, method=replace(LORA, modules_to_save=("lm_head",)))
    train(one)
    model = one.model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    tensors = load_file(exported(one, tmp_path / "a") / adapter.WEIGHTS)
    names = [f"{adapter.PREFIX}{name}.weight" for name in ("model.embed_tokens", "lm_head")]
    assert torch.equal(*(tensors[name] for name in names))
    config = json.loads((tmp_path / "a" / adapter.CONFIG).read_text())
    assert config["modules_to_save"] == ["lm_head", "model.embed_tokens"] == one.describe()["modules_to_save"]
    assert sum(p.numel() for p in one.parameters.values()) == one.describe()["trained_parameters"]


def test_only_the_rows_of_new_tokens_move(models):
    """In a model with its head tied to the embedding, and in one where they are two."""
    for name, count in (("gemma2", 1), ("llama", 2)):
        one = engine(models(name), "new tokens")
        table = one.model.get_input_embeddings().base.weight
        before = table.detach().clone()
        assert len(table) == tiny.VOCAB + 2
        assert torch.allclose(before[NEW[0]], before[: tiny.VOCAB].mean(0), atol=1e-6)
        train(one)
        assert torch.equal(table, before)
        held = [key for key in one.parameters if key.endswith(family.ROWS)]
        assert len(held) == count
        assert (one.parameters[held[0]] - before[list(NEW)]).abs().max() > 1e-3


def test_the_base_may_be_bfloat16(llama):
    for case in ("modules", "new tokens", "dora"):
        one = engine(llama, case, dtype="bfloat16")
        plan = one.prepare(rows())
        if case != "new tokens":
            plan = one.prepare(rows(new=False))
        losses = [one.step(plan, 1e-2).loss for _ in range(6)]
        assert losses[-1] < losses[0] and one.answer([[1, 2, 3]], 2, frozenset())
        assert all(parameter.dtype == torch.float32 for parameter in one.parameters.values())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"modules_to_save": ("nothing",)}, "method.no_module"),
        ({"modules_to_save": ("norm", "typo")}, "method.no_module"),
        ({"init": "pissa", "r": 33}, "method.init_rank"),
        ({"target_modules": ("q_proj",), "modules_to_save": ("self_attn",)}, "method.no_target"),
    ],
)
def test_settings_that_fit_no_model(llama, changes, code):
    with pytest.raises(UsageError) as error:
        engine(llama, method=replace(LORA, **changes))
    assert error.value.finding.code == code


def test_a_head_with_a_bias_is_trained_whole_or_not_at_all(models):
    with pytest.raises(UsageError) as error:
        engine(models("gptj"), "new tokens")
    assert error.value.finding.code == "method.head_bias" and "lm_head" in error.value.finding.hint
    engine(models("gptj"), "new tokens", method=replace(LORA, modules_to_save=("wte", "lm_head")))


def test_a_module_that_is_trained_whole_gets_no_adapter(llama):
    one = engine(llama, method=replace(LORA, modules_to_save=("layers.0.mlp", "layers.1.self_attn.q_proj")))
    assert not [name for name in one.adapted.layers if "layers.0.mlp" in name or name.endswith("1.self_attn.q_proj")]
    assert len(one.adapted.layers) == 10 and len(one.describe()["modules_to_save"]) == 4


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"method": LORA}, "method.type to dora"),
        ({"method": replace(LORA, type="dora", alpha=16)}, "method.alpha to 8"),
        ({"new_tokens": ()}, "model.new_tokens"),
        ({"method": replace(LORA, type="dora")}, "method.modules_to_save to [lm_head]"),
    ],
)
def test_an_adapter_is_gone_on_with_as_it_was_made(llama, tmp_path, changes, hint):
    made = exported(engine(llama, "all of it"), tmp_path / "a")
    with pytest.raises(UsageError) as error:
        engine(llama, "all of it", adapter=made, **changes)
    assert error.value.finding.code == "adapter.other_shape" and hint in error.value.finding.hint


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"modules_to_save": ["lm_head", "norm"]}, ""),
        ({"modules_to_save": "lm_head"}, ""),
        ({"trainable_token_indices": [3, 3]}, ""),
        ({"trainable_token_indices": [3, "4"]}, ""),
        ({}, "lora_magnitude_vector"),
        ({}, "token_adapter"),
        ({"modules_to_save": None}, ""),
        ({"use_dora": False}, ""),
    ],
)
def test_a_file_that_is_not_what_its_settings_say(llama, tmp_path, settings, missing):
    folder = exported(engine(llama, "all of it"), tmp_path / "a")
    config = folder / adapter.CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    tensors = files.load(folder / adapter.WEIGHTS, "adapter.damaged")
    save_file(
        {name: one for name, one in tensors.items() if not missing or missing not in name}, folder / adapter.WEIGHTS
    )
    with pytest.raises(InputError) as error:
        TorchDecoder(DecoderSpec(model=llama)).load("mine", folder)
    assert error.value.finding.code in ("adapter.damaged", "adapter.mismatch")


@pytest.mark.parametrize(
    "name", ["gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "gptj"))]
)
def test_the_decoder_says_what_was_trained(models, tmp_path, name):
    """Each adapter beside the others, mixed in one batch and alone; the base among them is the base."""
    folder, made = models(name), {}
    decoder = TorchDecoder(DecoderSpec(model=folder, slots=16))
    for case, (method, new) in CASES.items():
        names = {"embed_tokens": "wte", "model.norm": "ln_f"} if name == "gptj" else {}
        whole = tuple(names.get(one, one) for one in method.modules_to_save)
        if name == "gptj" and new:
            whole, new = (*whole, "wte", "lm_head"), new
        one = engine(folder, case, method=replace(method, modules_to_save=tuple(dict.fromkeys(whole))))
        train(one)
        decoder.load(case, exported(one, tmp_path / case.replace(" ", "-")))
        made[case] = one
    for case, one in made.items():
        examples = rows(9, bool(one.spec.new_tokens))
        told = -sum(
            float((logs * row.weights).sum()) for logs, row in zip(decoder.score(examples, case), examples, strict=True)
        )
        expected = one.loss(one.prepare(examples)).loss
        if one.spec.new_tokens:  # the others know a vocabulary without them, which the decoder has grown
            assert math.isclose(told, expected, rel_tol=1e-6)
        else:
            assert math.isclose(told, expected, rel_tol=1e-2)
    asked = [(place, case) for place, case in enumerate([None, *made])]
    mixed = together(decoder, asked)
    assert mixed == [together(decoder, [one])[0] for one in asked]
    own = [one.answer([prompt(place)], 5, frozenset())[0] for place, one in enumerate(made.values(), 1)]
    assert mixed[1:] == own


def prompt(place):
    return [7, 8, 9, 10 + place]


def together(decoder, asked):
    slots = {
        decoder.admit(prompt(place), case, Sampling(max_new_tokens=5)): at for at, (place, case) in enumerate(asked)
    }
    written = {at: [] for at in slots.values()}
    while slots:
        for token in decoder.decode():
            written[slots[token.slot]].append(token.id)
            if token.reason:
                del slots[token.slot]
    return [written[at] for at in range(len(asked))]


def test_the_base_is_the_base_again_when_an_adapter_has_gone(models, tmp_path):
    folder, examples = models("gemma2"), [Example(np.arange(9, dtype=np.int32), np.ones(9, np.float32), 0)]
    decoder = TorchDecoder(DecoderSpec(model=folder))
    before = decoder.score(examples, None)[0]
    one = engine(folder, "modules")
    train(one)
    decoder.load("mine", exported(one, tmp_path / "a"))
    assert not np.allclose(decoder.score(examples, "mine")[0], before, atol=1e-3)
    decoder.drop("mine")
    assert np.array_equal(decoder.score(examples, None)[0], before)


def test_b_learns_faster_with_lora_plus(llama):
    """A moves as before and B so many times as far: Adam's first step is as long as its learning rate."""
    moved = []
    for ratio in (None, 4.0):
        one = engine(llama, method=replace(LORA, lora_plus=ratio))
        before = {name: parameter.detach().clone() for name, parameter in one.parameters.items()}
        one.step(one.prepare(rows(new=False)), LR)
        far = {name: float((one.parameters[name] - before[name]).abs().max()) for name in before}
        moved.append([max(value for name, value in far.items() if f"lora_{side}" in name) for side in "AB"])
    assert moved[1] == pytest.approx([moved[0][0], 4 * moved[0][1]], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pissa", "modules", "new tokens"])
def test_beside_a_packed_base(models, tmp_path, case):
    """What starts as a part of the weights takes it from what they read back as; the decoder packs the same."""
    pytest.importorskip("bitsandbytes")
    folder = models("llama", hidden_size=64, intermediate_size=128)
    one = engine(folder, case, method=replace(CASES[case][0], type="qlora", bits=4))
    results = train(one, range(5))
    assert results[-1].loss < results[0].loss
    decoder = TorchDecoder(DecoderSpec(model=folder, bits=4))
    decoder.load("mine", exported(one, tmp_path / "a"))
    given = rows(9, bool(one.spec.new_tokens))
    told = sum(float((a * row.weights).sum()) for a, row in zip(decoder.score(given, "mine"), given, strict=True))
    assert math.isclose(-told, one.loss(one.prepare(given)).loss, rel_tol=1e-5)
