"""Optimizers: held against the library's own in a plain loop, and what a checkpoint keeps of them.

The comparison is itself tested: each way of being subtly wrong must make it fail.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from transformers.optimization import Adafactor

from truetune.engines.base import EngineSpec, Method, Optimizer
from truetune.engines.optimizers import kept, refuse_optimizer
from truetune.engines.torch import optimizers, state, tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, ResourceError
from truetune.testing import examples

STEPS, LR, DECAY = 20, 1e-2, 0.1
TYPES = tuple(optimizers.TABLE)
PACKED = ("adamw_8bit", "paged_adamw", "paged_adamw_8bit")
LORA = Method(type="lora", r=4, alpha=8, dropout=0.3)


@pytest.fixture(autouse=True)
def quiet():
    """On the processor, bitsandbytes' paged optimizers say that they do not page."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Paged optimizers")
        yield


def weights():
    """Two matrices, one of them large enough for moments in 8 bits, a vector, and rows that are looked up."""
    torch.manual_seed(1)
    shapes = {"wide": (64, 80), "tall": (9, 5), "bias": (7,), "table": (11, 6)}
    return {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


def slopes(parameters, step):
    """A gradient that follows from the weights and the step, on every weight."""
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters.values():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.tanh(parameter.detach()) + 0.5 * noise


def ours(kind, sabotage="", **changes):
    parameters = weights()
    settings = Optimizer(type=kind, weight_decay=0.0 if sabotage == "no decay" else DECAY, **changes)
    optimizer = optimizers.make(parameters, settings, tables={"table"})
    for step in range(STEPS):
        slopes(parameters, step)
        if sabotage == "decay on everything":
            for group in optimizer.param_groups:
                group["decay" if kind == "sgd" else "weight_decay"] = DECAY
        if sabotage == "forgets":
            optimizer.state.clear()
        rate = LR * (1 - (step + (sabotage == "early rate")) / STEPS)
        optimizers.set_rate(optimizer, rate)
        optimizer.step()
    return parameters


def library(kind, parameters):
    """The library's own for these parameters, as one would write it: [(optimizer, decay by hand)]."""
    matrices = [parameters[name] for name in ("wide", "tall", "table")]
    inner, rest = matrices[:2], [parameters["table"]]
    split = [{"params": matrices, "weight_decay": DECAY}, {"params": [parameters["bias"]], "weight_decay": 0.0}]
    if kind == "adamw":
        return [torch.optim.AdamW(split)]
    if kind == "adafactor":
        return [Adafactor(split, scale_parameter=False, relative_step=False, warmup_init=False, lr=0.0)]
    if kind == "muon":
        split[0]["params"] = rest
        adjusted = {"weight_decay": DECAY, "adjust_lr_fn": "match_rms_adamw"}
        return [torch.optim.Muon(inner, **adjusted), torch.optim.AdamW(split)]
    if kind == "sgd":
        return [torch.optim.SGD(parameters.values(), momentum=0.9)]
    bnb = pytest.importorskip("bitsandbytes")
    names = {"adamw_8bit": "AdamW8bit", "paged_adamw": "AdamW32bit", "paged_adamw_8bit": "AdamW8bit", "lion": "Lion"}
    return [getattr(bnb.optim, names[kind])(split)]


def theirs(kind):
    parameters = weights()
    optimizers = library(kind, parameters)
    for step in range(STEPS):
        slopes(parameters, step)
        rate = LR * (1 - step / STEPS)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            if kind == "sgd":
                for parameter in parameters.values():
                    parameter.data *= 1 - rate * DECAY * (parameter.ndim > 1)
            optimizer.step()
    return parameters


def agree(one, other):
    return all(torch.allclose(one[name], other[name], rtol=1e-6, atol=1e-7) for name in one)


@pytest.mark.parametrize("kind", TYPES)
def test_it_equals_the_library(kind):
    assert agree(ours(kind), theirs(kind))


@pytest.mark.parametrize("sabotage", ["no decay", "decay on everything", "forgets", "early rate"])
@pytest.mark.parametrize("kind", TYPES)
def test_the_comparison_notices(kind, sabotage):
    assert not agree(ours(kind, sabotage), theirs(kind))


def test_each_optimizer_goes_its_own_way():
    """All but those that differ only in where their moments lie."""
    found = {kind: ours(kind)["wide"] for kind in TYPES if not kind.startswith("paged")}
    for kind, value in found.items():
        assert not any(torch.allclose(value, found[other], rtol=1e-4) for other in found if other != kind), kind


def test_the_moments_in_8_bits_are_near_those_in_32():
    exact, packed = ours("adamw"), ours("adamw_8bit")
    moved = (exact["wide"] - weights()["wide"]).norm()
    assert 0 < (exact["wide"] - packed["wide"]).norm() < 0.1 * moved
    assert torch.allclose(exact["tall"], packed["tall"], rtol=1e-5)


def test_lion_is_the_formula_of_the_paper():
    """In float64, by numpy."""
    w = weights()["wide"].detach().double().numpy()
    m = np.zeros_like(w)
    for step in range(STEPS):
        parameters = {name: torch.nn.Parameter(value.detach()) for name, value in weights().items()}
        parameters["wide"].data.copy_(torch.from_numpy(w))
        slopes(parameters, step)
        g, rate = parameters["wide"].grad.double().numpy(), LR * (1 - step / STEPS)
        w = w - rate * (np.sign(0.9 * m + 0.1 * g) + DECAY * w)
        m = 0.99 * m + 0.01 * g
    assert np.allclose(ours("lion")["wide"].detach().numpy(), w, atol=1e-5)


def test_muon_orthogonalises_matrices_and_leaves_tables_and_vectors_to_adamw():
    muon, adamw = ours("muon"), ours("adamw")
    assert torch.equal(muon["bias"], adamw["bias"]) and torch.equal(muon["table"], adamw["table"])
    step = weights()
    optimizer = optimizers.make(step, Optimizer(type="muon", weight_decay=0.0), tables={"table"})
    slopes(step, 0)
    optimizers.set_rate(optimizer, 1.0)
    optimizer.step()
    values = torch.linalg.svdvals(weights()["wide"] - step["wide"].detach()) / (0.2 * 80**0.5)
    assert values.min() > 0.4 and values.max() < 1.4


def test_what_is_looked_up_is_found(models):
    engine = TorchEngine(EngineSpec(model=models("llama"), method=Method(type="full")))
    assert optimizers.lookups(engine.model, engine.parameters) == {"model.embed_tokens.weight", "lm_head.weight"}
    tied = TorchEngine(EngineSpec(model=models("gpt2"), method=Method(type="full")))
    names = optimizers.lookups(tied.model, tied.parameters)
    assert names == {"transformer.wte.weight", "transformer.wpe.weight"}


def test_b_learns_faster_by_lora_plus(models):
    """Its first step by AdamW is the rate itself, whatever the gradient: B's is `lora_plus` times A's."""
    engine = TorchEngine(EngineSpec(model=models("llama"), method=replace(LORA, dropout=0.0, lora_plus=16.0)))
    for parameter in engine.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.detach().clone() for name, value in engine.parameters.items()}
    optimizers.set_rate(engine.optimizer, 1e-3)
    engine.optimizer.step()
    for name, value in engine.parameters.items():
        moved = float((before[name] - value.detach()).abs().mean())
        assert moved == pytest.approx(16e-3 if ".lora_B." in name else 1e-3, rel=1e-2)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A tiny model whose adapters have moments in 8 bits: rank 64 of width 64."""
    return tiny.make(tmp_path_factory.mktemp("model"), "llama", hidden_size=64)


def engine(folder, kind, **changes):
    method = changes.pop("method", Method(type="lora", r=64, alpha=8, dropout=0.3, target_modules=("q_proj", "v_proj")))
    optimizer = Optimizer(type=kind, weight_decay=DECAY)
    return TorchEngine(EngineSpec(model=folder, method=method, optimizer=optimizer, token_budget=128, **changes))


def train(engine, steps):
    return [engine.step(engine.prepare(examples(seed=step)), 1e-3) for step in steps]


def saved(engine, folder):
    folder.mkdir()
    engine.save(folder)
    return folder


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("kind", TYPES)
def test_a_restored_optimizer_goes_on_bit_by_bit(wide, tmp_path, kind, method):
    changes = {"method": Method(type="full")} if method == "full" else {}
    first, second = engine(wide, kind, **changes), engine(wide, kind, **changes)
    train(first, range(3))
    second.restore(saved(first, tmp_path / "3"))
    assert train(second, range(3, 6)) == train(first, range(3, 6))
    for name, value in first.parameters.items():
        assert torch.equal(value, second.parameters[name]), name
    again = saved(second, tmp_path / "6") / "optimizer.safetensors"
    assert load_file(again).keys() == load_file(tmp_path / "3" / "optimizer.safetensors").keys()


@pytest.mark.parametrize("kind", [kind for kind in TYPES if not kind.startswith("paged")])
def test_what_is_kept_of_a_number_is_what_the_plan_counts(tmp_path, kind):
    parameter = {"wide": torch.nn.Parameter(torch.randn(1024, 512))}
    optimizer = optimizers.make(parameter, Optimizer(type=kind))
    parameter["wide"].grad = torch.randn(1024, 512)
    optimizer.step()
    found = sum(value.nbytes for value in state.moments(parameter, optimizer).values()) / parameter["wide"].numel()
    assert found == pytest.approx(kept(kind), rel=0.02, abs=0.1)
    assert kept(kind, mean=True) == kept(kind) + 4


def test_moments_in_8_bits_are_kept_in_8_bits(wide, tmp_path):
    first = engine(wide, "adamw_8bit")
    train(first, range(1))
    kept = load_file(saved(first, tmp_path / "1") / "optimizer.safetensors")
    assert all(
        value.dtype == (torch.uint8 if first.parameters[name].numel() >= 4096 else torch.float32)
        for name in first.parameters
        for value in (kept[f"state1.{name}"], kept[f"state2.{name}"])
    )
    assert any(value.dtype == torch.uint8 for value in kept.values())


def test_a_checkpoint_before_the_first_step_has_no_moments(wide, tmp_path):
    for kind in ("adamw", "muon", "adamw_8bit"):
        first, second = engine(wide, kind), engine(wide, kind)
        second.restore(saved(first, tmp_path / kind))
        assert train(second, range(2)) == train(first, range(2))


def drop(tensors):
    tensors.pop(next(key for key in sorted(tensors) if not key.startswith("step.")))


def reshape(tensors):
    key = next(key for key in sorted(tensors) if not key.startswith("step."))
    tensors[key] = tensors[key].flatten()[:1].clone()


def recast(tensors):
    key = next(key for key in sorted(tensors) if not key.startswith("step."))
    tensors[key] = tensors[key].to(torch.float64)


def strange(tensors):
    tensors["exp_avg.nobody"] = torch.zeros(3)


def many_steps(tensors):
    for key in [key for key in tensors if key.startswith("step.")]:
        tensors[key] = torch.zeros(3)
    tensors.setdefault("step.nobody", torch.zeros(3))


DAMAGES = [(kind, damage) for kind in TYPES for damage in (drop, reshape, recast, strange, many_steps)]
ONE_MOMENT = ("lion", "muon", "sgd")
"""A weight of which nothing is kept has not been trained yet: with these, a lost tensor is no damage to be seen."""


@pytest.mark.parametrize(("kind", "damage"), [pair for pair in DAMAGES if pair[1] != drop or pair[0] not in ONE_MOMENT])
def test_moments_that_do_not_fit_are_refused(wide, tmp_path, kind, damage):
    first = engine(wide, kind)
    train(first, range(1))
    path = saved(first, tmp_path / "1") / "optimizer.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError) as error:
        engine(wide, kind).restore(path.parent)
    assert error.value.finding.code == "checkpoint.damaged"


@pytest.mark.parametrize(("kind", "other"), [("adamw", "lion"), ("lion", "adamw"), ("sgd", "muon"), ("muon", "sgd")])
def test_moments_of_another_optimizer_are_refused(wide, tmp_path, kind, other):
    first = engine(wide, kind, method=Method(type="full"))
    train(first, range(1))
    with pytest.raises(InputError) as error:
        engine(wide, other, method=Method(type="full")).restore(saved(first, tmp_path / "1"))
    assert error.value.finding.code == "checkpoint.damaged"


@pytest.mark.parametrize("kind", TYPES)
def test_it_learns(wide, kind):
    rates = {"lion": 3e-3, "sgd": 3.0, "muon": 3e-2}
    trained = engine(wide, kind)
    plan = trained.prepare(examples())
    losses = [trained.step(plan, rates.get(kind, 1e-2)).loss for _ in range(10)]
    assert losses[-1] < 0.97 * losses[0]


REFUSED = [
    ("paged_adamw", "cpu", "optimizer: adamw`"),
    ("paged_adamw_8bit", "cpu", "optimizer: adamw_8bit`"),
    ("adamw_8bit", "mps", "optimizer: adafactor`"),
]


@pytest.mark.parametrize(("kind", "device", "instead"), REFUSED)
def test_what_a_device_cannot_do_is_refused_with_the_alternative(kind, device, instead):
    with pytest.raises(ResourceError) as error:
        refuse_optimizer(kind, device)
    assert error.value.finding.code == "device.optimizer" and instead in error.value.finding.hint


def test_what_a_device_can_do_is_not_refused():
    for kind in TYPES:
        refuse_optimizer(kind, "cuda:0")
    for kind in set(TYPES) - set(PACKED):
        refuse_optimizer(kind, "mps")
    refuse_optimizer("adamw_8bit", "cpu")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("truetune.engines.optimizers.find_spec", lambda name: None)
    with pytest.raises(ResourceError) as error:
        refuse_optimizer("adamw_8bit", "cpu")
    assert error.value.finding.code == "engine.not_installed"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", TYPES)
def test_on_a_gpu_too(wide, tmp_path, kind):
    first, second = (engine(wide, kind, device="cuda", method=Method(type="full")) for _ in range(2))
    train(first, range(3))
    second.restore(saved(first, tmp_path / "3"))
    one, other = train(first, range(3, 6)), train(second, range(3, 6))
    assert np.allclose([r.loss for r in one], [r.loss for r in other], rtol=1e-5)
