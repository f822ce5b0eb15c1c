"""The torch engine under the contract suite, for every architecture that it packs and two that it pads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method, NotFinite, OutOfMemory
from truetune.engines.torch import device, head, lora, tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, UsageError
from truetune.testing import EngineContract, examples
from truetune.testing.contract import LORA

FAST = ("llama", "mistral-window", "gemma2", "gptj")
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in tiny.ARCHITECTURES]


class TestTorch(EngineContract):
    """Every promise for the main architectures; the others are in the slow suite."""

    def open(self, spec):
        return TorchEngine(spec)

    @pytest.fixture(params=EVERY)
    def folder(self, request, models):
        return models(request.param)


def spec(folder, **changes):
    return replace(EngineSpec(model=folder, method=LORA, token_budget=64), **changes)


@pytest.mark.parametrize("name", EVERY)
def test_equal_to_the_model_run_by_transformers_alone(models, name):
    """Our loss = cross-entropy over the logits of transformers' own eager forward, one example at a time."""
    from transformers import AutoModelForCausalLM

    folder = models(name)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    engine = TorchEngine(spec(folder))
    rows, total = examples(), 0.0
    for row in rows:
        with torch.no_grad():
            logits = reference(input_ids=torch.tensor(row.ids[None].astype(np.int64))).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(row.ids[1:]).long(), reduction="none")
        total += float((losses * torch.tensor(row.weights[1:])).sum())
    assert np.isclose(engine.loss(engine.prepare(rows)).loss, total, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("bias", [False, True])
def test_the_head_equals_autograd(monkeypatch, softcap, bias):
    """Values and gradients of the chunked loss against the plain formula."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 16, requires_grad=True), torch.randn(97, 16, requires_grad=True)
    offset = torch.randn(97, requires_grad=True) if bias else None
    targets, weights = torch.randint(0, 97, (50,)), torch.rand(50)
    leaves = [hidden, weight, *([offset] if bias else [])]

    plain = torch.nn.functional.linear(hidden, weight, offset)
    plain = plain if softcap is None else torch.tanh(plain / softcap) * softcap
    expected = (torch.nn.functional.cross_entropy(plain, targets, reduction="none") * weights).sum()
    gradients = torch.autograd.grad(expected, leaves)

    monkeypatch.setattr(head, "CHUNK", 97 * 7)
    monkeypatch.setattr(head, "LEAST", 1)
    loss = head.loss(hidden, head.Head(weight, offset, softcap=softcap), targets, weights)
    ours = torch.autograd.grad(loss, leaves)
    assert torch.isclose(loss.float(), expected, rtol=1e-6)
    for one, other in zip(ours, gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_lora_product_equals_autograd():
    torch.manual_seed(0)
    x, W, b = torch.randn(20, 8, requires_grad=True), torch.randn(12, 8), torch.randn(12)
    A, B = torch.randn(3, 8, requires_grad=True), torch.randn(12, 3, requires_grad=True)
    mask = torch.rand(20, 8) > 0.4
    expected = x @ W.t() + b + 0.7 * ((x * mask / 0.6) @ A.t()) @ B.t()
    ours = lora.Product.apply(x, W, b, A, B, 0.7, mask, 0.6, False)
    assert torch.allclose(ours, expected, atol=1e-5)
    upstream = torch.randn(20, 12)
    for one, other in zip(
        torch.autograd.grad(ours, (x, A, B), upstream), torch.autograd.grad(expected, (x, A, B), upstream), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_dropout_is_off_when_measuring_and_on_when_training(llama):
    engine = TorchEngine(spec(llama, method=replace(LORA, dropout=0.5)))
    for parameter in engine.parameters.values():
        torch.nn.init.normal_(parameter, std=0.3)
    plan = engine.prepare(examples())
    assert engine.loss(plan).loss == engine.loss(plan).loss
    first, second = engine.step(plan, 0.0), engine.step(plan, 0.0)
    assert first.loss != second.loss


def test_gradient_checkpointing_changes_nothing(llama):
    plain, saving = (TorchEngine(spec(llama, gradient_checkpointing=flag)) for flag in (False, True))
    plan = plain.prepare(examples())
    assert [plain.step(plan, 1e-2) for _ in range(3)] == [saving.step(plan, 1e-2) for _ in range(3)]


def test_targets(llama):
    engine = TorchEngine(spec(llama, method=replace(LORA, target_modules=("q_proj", "v_proj"))))
    assert engine.describe()["target_modules"] == ["q_proj", "v_proj"]
    assert engine.describe()["adapted_layers"] == 4
    engine = TorchEngine(spec(llama, method=replace(LORA, target_modules=r"model\.layers\.1\..*q_proj")))
    assert engine.adapted.layers == ["model.layers.1.self_attn.q_proj"]
    assert engine.adapted.config()["target_modules"] == ["model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize("wanted", ["nothing", ("q_proj", "typo_proj")])
def test_a_target_that_matches_nothing_is_refused(llama, wanted):
    with pytest.raises(UsageError) as error:
        TorchEngine(spec(llama, method=replace(LORA, target_modules=wanted)))
    assert error.value.finding.code == "method.no_target"
    assert "q_proj" in error.value.finding.hint


def test_a_loss_that_is_not_a_number_leaves_everything_as_it_was(llama):
    engine = TorchEngine(spec(llama, method=replace(LORA, dropout=0.3)))
    before = engine.changed()
    bad = [Example(row.ids, np.where(row.weights > 0, np.float32("nan"), 0), row.row) for row in examples()]
    with pytest.raises(NotFinite):
        engine.step(engine.prepare(bad), 1e-2)
    assert engine.changed() == before


def test_out_of_memory_leaves_everything_as_it_was(llama, monkeypatch):
    """The same step, replayed under a smaller budget, draws from the same random state and learns the same."""
    engine, calm = (TorchEngine(spec(llama)) for _ in range(2))
    real, calls = engine.forward.loss, []

    def failing(batch):
        calls.append(batch)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("planted")
        return real(batch)

    monkeypatch.setattr(engine.forward, "loss", failing)
    rng = torch.get_rng_state()
    with pytest.raises(OutOfMemory):
        engine.step(engine.prepare(examples()), 1e-2)
    assert torch.equal(rng, torch.get_rng_state())
    engine.token_budget = 32
    replayed, straight = engine.step(engine.prepare(examples()), 1e-2), calm.step(calm.prepare(examples()), 1e-2)
    assert np.isclose(replayed.loss, straight.loss, rtol=1e-6)
    assert replayed.supervised == straight.supervised


def test_an_adapter_of_another_model_is_refused(llama, models, tmp_path):
    other = TorchEngine(spec(models("llama", hidden_size=64)))
    (tmp_path / "adapter").mkdir()
    other.export(tmp_path / "adapter")
    with pytest.raises(InputError) as error:
        TorchEngine(spec(llama, adapter=tmp_path / "adapter"))
    assert error.value.finding.code == "adapter.mismatch"


def test_an_adapter_of_another_rank_is_refused(llama, tmp_path):
    (tmp_path / "adapter").mkdir()
    TorchEngine(spec(llama)).export(tmp_path / "adapter")
    with pytest.raises(UsageError) as error:
        TorchEngine(spec(llama, method=replace(LORA, r=8), adapter=tmp_path / "adapter"))
    assert error.value.finding.code == "adapter.other_shape"


def test_full_fine_tuning_exports_a_model(llama, tmp_path):
    from transformers import AutoModelForCausalLM

    engine = TorchEngine(spec(llama, method=Method(type="full")))
    plan = engine.prepare(examples())
    engine.step(plan, 1e-3)
    engine.export(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ours = dict(engine.model.named_parameters())
    assert all(torch.equal(value, ours[name]) for name, value in again.named_parameters())


def test_bfloat16_learns_too(llama):
    for method in (LORA, Method(type="full")):
        engine = TorchEngine(spec(llama, dtype="bfloat16", method=method))
        plan = engine.prepare(examples())
        losses = [engine.step(plan, 1e-2).loss for _ in range(8)]
        assert losses[-1] < losses[0]


def test_a_missing_gpu_is_said():
    choice = device.choose("cuda", "auto")
    if not torch.cuda.is_available():
        assert choice.device == "cpu"
        assert "no CUDA GPU" in choice.warning and "training" not in choice.warning
    assert device.choose("cpu").dtype == "float32"


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_threads_stay_within_a_containers_quota(tmp_path, files, allowed):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert device.quota(tmp_path) == allowed
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        device.fit_threads(tmp_path)
        assert torch.get_num_threads() == (1 if allowed else 2)
    finally:
        torch.set_num_threads(before)
