"""Preference objectives held against others, step by step: DPO and KTO against TRL's trainers, ORPO, SimPO and CPO
against a plain loop over PEFT's model with full logits in float64. Every way of being subtly wrong must be noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

import oracles
import torch
import torch.nn.functional as F
from compared import pairs, rated, referenced, spec

from truetune.engines.base import Optimizer
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine

pytestmark = pytest.mark.slow

STEPS, BATCH, MICRO, ROWS = 24, 8, 4, 48
LR, DECAY, SMOOTHING = 5e-3, 0.1, 0.2
TRL = {
    "sigmoid": ({"loss": "sigmoid", "beta": 0.3}, {"loss_type": "sigmoid"}),
    "smoothed": ({"loss": "sigmoid", "beta": 0.3, "label_smoothing": SMOOTHING}, {"loss_type": "aot"}),
    "ipo": ({"loss": "ipo", "beta": 0.4}, {"loss_type": "ipo"}),
    "hinge": ({"loss": "hinge", "beta": 0.02}, {"loss_type": "hinge"}),
}
"""Our settings and TRL's. Its `sigmoid` takes no notice of label_smoothing; `aot`, which sorts the margins of a batch,
is the smoothed loss where each batch has one pair."""
PLAIN = {
    "orpo": {"beta": 0.5, "sft_weight": 0.7},
    "simpo": {"beta": 2.0, "margin": 0.4, "label_smoothing": SMOOTHING},
    "cpo": {"beta": 0.2, "sft_weight": 1.3, "label_smoothing": SMOOTHING},
}
KTO = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("model"), "llama", hidden_size=64, num_hidden_layers=2)


@pytest.fixture(scope="module")
def path():
    return oracles.cosine(ROWS, BATCH, STEPS, LR)


def opened(folder, objective, **settings):
    return TorchEngine(
        spec(folder, objective, token_budget=settings.pop("budget", 200), optimizer=Optimizer(weight_decay=DECAY),
             **settings)
    )  # fmt: skip


def examples_of(objective):
    return rated(ROWS, batch=BATCH) if objective == "kto" else pairs(ROWS)


def taken(objective, path, step):
    """TRL's KTO goes through the rows in order, because the contrasts of a batch are its own answers."""
    if objective != "kto":
        return [int(place) for place in path.order.indices(step)]
    return [place % ROWS for place in range(step * BATCH, (step + 1) * BATCH)]


def ours(folder, path, objective, settings, sabotage="", budget=200):
    engine = opened(folder, objective, budget=budget, **(settings | SETTINGS.get(sabotage, {})))
    examples = referenced(engine, examples_of(objective))
    if sabotage in FORWARDS:
        real = engine.forward.sums
        engine.forward.sums = lambda batch: FORWARDS[sabotage](real(batch), batch)
    examples = [EXAMPLES.get(sabotage, lambda example: example)(example) for example in examples]
    losses = []
    for step in range(path.total):
        plan = engine.prepare([examples[place] for place in taken(objective, path, step)])
        losses.append(engine.step(plan, path.lr(step)).loss)
    return losses


def swapped(example):
    if not example.second:
        return replace(example, label=(1 - example.label[0],))
    first, second = example.texts
    ids, weights = (np.concatenate((kind[second], kind[first])) for kind in (example.ids, example.weights))
    return replace(example, ids=ids, weights=weights, second=len(example.ids) - example.second,
                   reference=example.reference[::-1])  # fmt: skip


def shifted(example):
    weights = np.concatenate([np.r_[np.float32(0), example.weights[part][:-1]] for part in example.texts])
    return replace(example, weights=weights.astype(np.float32))


def mean(sums, batch):
    size = torch.zeros_like(sums).index_add(0, batch.owners, batch.weights)
    return sums / size


def total(sums, batch):
    size = torch.zeros_like(sums).index_add(0, batch.owners, batch.weights)
    return sums * size


SETTINGS = {
    "beta ignored": {"beta": 1.0},
    "smoothing ignored": {"label_smoothing": 0.0},
    "margin ignored": {"margin": 0.0},
    "answer not learned": {"sft_weight": 0.0},
    "weights ignored": {"desirable_weight": 1.0, "undesirable_weight": 1.0},
}
EXAMPLES = {
    "swapped sides": swapped,
    "mask off by one": shifted,
    "reference forgotten": lambda example: replace(example, reference=tuple(0.0 for _ in example.texts)),
    "contrast forgotten": lambda example: replace(
        example, contrast=replace(example.contrast, reference=(example.contrast.reference[0] + 1e3,))
    ),
}
FORWARDS = {"means for sums": mean, "sums for means": total}


def start(folder, out):
    """PEFT's model with the adapter that our engine starts from."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out.mkdir()
    opened(folder, "dpo").export(out)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return PeftModel.from_pretrained(base, out, is_trainable=True)


def parted(ids, weights):
    begin = int(weights.argmax())
    return ids[:begin].tolist(), ids[begin:].tolist()


def columns(example):
    if example.contrast is not None:
        prompt, said = parted(example.ids, example.weights)
        beside = parted(example.contrast.ids, example.contrast.weights)[1]
        return {"prompt_ids": prompt, "completion_ids": said, "KL_completion_ids": beside,
                "label": example.label == (1,)}  # fmt: skip
    (prompt, better), (_, worse) = (parted(example.ids[part], example.weights[part]) for part in example.texts)
    return {"prompt_ids": prompt, "chosen_ids": better, "rejected_ids": worse}


def trl(folder, path, out, trainer, config, objective, micro, settings):
    """TRL's losses on the same rows in the same order, from the same adapter."""
    examples = examples_of(objective)
    used = [examples[place] for step in range(path.total) for place in taken(objective, path, step)]
    rows = [columns(example) for example in used]
    settings = settings | oracles.settings(path, LR, BATCH, micro) | {"weight_decay": DECAY}
    return oracles.losses(trainer, config, start(folder, out / "start"), rows, out, **settings)


@pytest.fixture(scope="module")
def dpo(folder, path, tmp_path_factory):
    """Our settings, and the losses of TRL's DPOTrainer under its own."""
    from trl import DPOConfig, DPOTrainer

    made = {}

    def get(name):
        if name not in made:
            settings, others = TRL[name]
            others = others | {"beta": settings["beta"], "label_smoothing": settings.get("label_smoothing", 0.0)}
            micro = 1 if name == "smoothed" else MICRO
            out = tmp_path_factory.mktemp("trl")
            made[name] = settings, trl(folder, path, out, DPOTrainer, DPOConfig, "dpo", micro, others)
        return made[name]

    return get


@pytest.fixture(scope="module")
def kto(folder, path, tmp_path_factory):
    from trl import KTOConfig, KTOTrainer

    out = tmp_path_factory.mktemp("trl")
    return trl(folder, path, out, KTOTrainer, KTOConfig, "kto", BATCH, KTO)


def agree(one, other, rtol=1e-4):
    return len(one) == len(other) and np.allclose(one, other, rtol=rtol, atol=0)


def compare(ours, theirs, fall=0.95):
    """The loss must fall for this to say anything."""
    assert np.mean(ours[-4:]) < fall * ours[0]
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    assert agree(ours, theirs), f"largest relative difference {worst:.2e}"
    print(f"largest relative difference {worst:.1e}, loss {ours[0]:.3f} -> {ours[-1]:.3f}")


@pytest.mark.parametrize("name", TRL)
@pytest.mark.parametrize("budget", [1, 10_000])
def test_dpo_equals_trl(folder, path, dpo, name, budget):
    settings, theirs = dpo(name)
    compare(ours(folder, path, "dpo", settings, budget=budget), theirs)


@pytest.mark.parametrize("budget", [1, 10_000])
def test_kto_equals_trl(folder, path, kto, budget):
    """At equal batch without accumulation: TRL estimates the divergence over a batch, we over the step."""
    compare(ours(folder, path, "kto", KTO, budget=budget), kto)


@pytest.mark.parametrize(
    ("name", "sabotage"),
    [
        *(("sigmoid", each) for each in ("swapped sides", "reference forgotten", "beta ignored", "means for sums")),
        ("sigmoid", "mask off by one"),
        ("smoothed", "smoothing ignored"),
        *(("ipo", each) for each in ("swapped sides", "sums for means", "beta ignored")),
        *(("hinge", each) for each in ("swapped sides", "reference forgotten", "beta ignored")),
    ],
)
def test_the_comparison_with_dpo_notices(folder, path, dpo, name, sabotage):
    settings, theirs = dpo(name)
    assert not agree(ours(folder, path, "dpo", settings, sabotage), theirs)


@pytest.mark.parametrize(
    "sabotage",
    ["swapped sides", "reference forgotten", "contrast forgotten", "beta ignored", "weights ignored",
     "means for sums", "mask off by one"],
)  # fmt: skip
def test_the_comparison_with_kto_notices(folder, path, kto, sabotage):
    assert not agree(ours(folder, path, "kto", KTO, sabotage), kto)


def logs(model, ids, weights):
    """Σ log p of the trained tokens from full logits in float64, and how many they are."""
    ids = torch.tensor(ids.astype(np.int64))
    found = model(input_ids=ids[None], use_cache=False).logits[0, :-1].double().log_softmax(-1)
    found = found.gather(-1, ids[1:, None])[:, 0][torch.tensor(weights[1:] > 0)]
    return found.sum(), len(found)


def formula(objective, s, model, example):
    """The loss of one pair as its paper writes it."""
    (better, n), (worse, m) = (logs(model, example.ids[part], example.weights[part]) for part in example.texts)
    if objective == "orpo":
        p, q = (better / n).exp(), (worse / m).exp()
        return -s["sft_weight"] * p.log() - s["beta"] * torch.sigmoid(torch.log(p / (1 - p) * (1 - q) / q)).log()
    if objective == "simpo":
        lead = s["beta"] / n * better - s["beta"] / m * worse - s["margin"]
    else:
        lead = s["beta"] * better - s["beta"] * worse
    smooth = s["label_smoothing"]
    loss = -(1 - smooth) * torch.sigmoid(lead).log() - smooth * torch.sigmoid(-lead).log()
    return loss - (s["sft_weight"] * better / n if objective == "cpo" else 0)


@pytest.fixture(scope="module")
def plain(folder, path, tmp_path_factory):
    """The losses of a plain loop: one pair at a time, torch's own AdamW over PEFT's model."""
    made = {}

    def get(objective):
        if objective not in made:
            model, examples = start(folder, tmp_path_factory.mktemp("plain") / "start"), pairs(ROWS)
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
            losses = []
            for step in range(path.total):
                rows = [examples[place] for place in taken(objective, path, step)]
                loss = sum(formula(objective, PLAIN[objective], model, row) for row in rows) / len(rows)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.param_groups[0]["lr"] = path.lr(step)
                optimizer.step()
                losses.append(float(loss.detach()))
            made[objective] = losses
        return made[objective]

    return get


@pytest.mark.parametrize("objective", PLAIN)
@pytest.mark.parametrize("budget", [1, 10_000])
def test_the_formula_of_the_paper(folder, path, plain, objective, budget):
    compare(ours(folder, path, objective, PLAIN[objective], budget=budget), plain(objective))


@pytest.mark.parametrize(
    ("objective", "sabotage"),
    [
        *(("orpo", each) for each in ("beta ignored", "answer not learned", "sums for means", "mask off by one")),
        *(("simpo", each) for each in ("beta ignored", "margin ignored", "smoothing ignored", "sums for means")),
        *(("cpo", each) for each in ("beta ignored", "answer not learned", "smoothing ignored", "means for sums")),
        *((each, "swapped sides") for each in PLAIN),
        *((each, "mask off by one") for each in ("simpo", "cpo")),
    ],
)
def test_the_comparison_with_the_formula_notices(folder, path, plain, objective, sabotage):
    assert not agree(ours(folder, path, objective, PLAIN[objective], sabotage), plain(objective))


def test_the_plain_loop_is_a_loop_over_cross_entropies():
    """The comparison's own sum of log p is what torch calls a cross-entropy."""

    class Model:
        def __call__(self, input_ids, use_cache):
            torch.manual_seed(0)
            return type("Output", (), {"logits": torch.randn(1, input_ids.shape[1], 30)})

    ids, weights = np.arange(8), np.array([0, 0, 0, 1, 1, 1, 0, 1], np.float32)
    torch.manual_seed(0)
    losses = F.cross_entropy(torch.randn(1, 8, 30)[0, :-1], torch.arange(1, 8), reduction="none")
    found, size = logs(Model(), ids, weights)
    assert size == 4 and torch.isclose(found.float(), -losses[[2, 3, 4, 6]].sum())
