"""Classification and reward held against others, step by step: a plain loop over transformers' own model or PEFT's, and
TRL's RewardTrainer. Each way of being subtly wrong must make the comparison fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import oracles
import torch
from labelled import LORA, ONE, SEVERAL, pairs, rows, spec
from transformers import AutoModelForSequenceClassification

from truetune.engines.base import Method, Objective, Optimizer
from truetune.engines.torch.engine import TorchEngine

pytestmark = pytest.mark.slow

STEPS, DECAY = 24, 0.1
LR = {"bert-lora": 6e-3}
"""A fresh BERT with a fresh head learns slowly; the others take 3e-3."""
FULL = Method(type="full")
DATA = {name: rows(48, seed=3, **kind) for name, kind in {"one": {}, "pair": {"pair": True}}.items()}
DATA["several"] = rows(48, seed=3, several=True)
CASES = {
    "llama-lora": ("llama", LORA, "one"),
    "llama-full": ("llama", FULL, "one"),
    "bert-lora": ("bert", LORA, "one"),
    "bert-full-pairs": ("bert", FULL, "pair"),
    "modernbert-lora": ("modernbert", LORA, "one"),
    "gpt2-several": ("gpt2", LORA, "several"),
}


def steps(kind):
    """Eight rows for each step."""
    for step in range(STEPS):
        yield [DATA[kind][(step * 8 + place) % 48] for place in range(8)]


def objective(kind):
    return SEVERAL if kind == "several" else ONE


def settings(folder, method, kind):
    return spec(folder, objective(kind), method, optimizer=Optimizer(weight_decay=DECAY), token_budget=60)


def ours(folder, method, kind, lr, sabotage=""):
    engine = TorchEngine(settings(folder, method, kind))
    if sabotage == "head stays":
        for name, parameter in engine.parameters.items():
            if "score" in name or "classifier" in name:
                parameter.requires_grad_(False)
    return [engine.step(engine.prepare([spoiled(one, sabotage) for one in some]), lr).loss for some in steps(kind)]


def spoiled(example, sabotage):
    if sabotage == "pooled one token early":
        return replace(example, ids=example.ids[:-1], weights=example.weights[:-1])
    if sabotage == "labels permuted":
        return replace(example, label=tuple((number + 1) % 3 for number in example.label))
    if sabotage == "one text for two":
        return replace(example, second=0)
    return example


def padded(some):
    """ids, mask and kinds [rows, length] as transformers' collators make them; the padding is at the end."""
    longest = max(example.tokens for example in some)
    ids, mask, kinds = (torch.zeros(len(some), longest, dtype=torch.int64) for _ in range(3))
    for row, example in enumerate(some):
        ids[row, : example.tokens] = torch.tensor(example.ids.astype(np.int64))
        mask[row, : example.tokens] = 1
        kinds[row, example.second or example.tokens : example.tokens] = 1
    return ids, mask, kinds


def targets(some, kind):
    if kind != "several":
        return torch.tensor([example.label[0] for example in some])
    return torch.tensor([[float(number in example.label) for number in range(3)] for example in some])


def theirs(folder, method, kind, lr, start):
    """The losses of transformers' model by its own loss, from the same start."""
    TorchEngine(settings(folder, method, kind)).export(start)
    if method.type == "full":
        model = AutoModelForSequenceClassification.from_pretrained(start)
    else:
        from peft import PeftModel

        several = {"problem_type": "multi_label_classification"} if kind == "several" else {}
        base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **several)
        model = PeftModel.from_pretrained(base, start, is_trainable=True)
    model.config.pad_token_id = 0  # no text has this token
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [[p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]]
    decays = (DECAY, 0.0)
    optimizer = torch.optim.AdamW(
        [{"params": part, "weight_decay": decay} for part, decay in zip(groups, decays, strict=True)], lr=lr
    )
    model.train()
    losses = []
    for some in steps(kind):
        ids, mask, kinds = padded(some)
        typed = {"token_type_ids": kinds} if kind == "pair" else {}
        loss = model(input_ids=ids, attention_mask=mask, labels=targets(some, kind), **typed).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture(scope="module")
def reference(models, tmp_path_factory):
    made = {}

    def get(case):
        if case not in made:
            name, method, kind = CASES[case]
            made[case] = theirs(models(name), method, kind, LR.get(case, 3e-3), tmp_path_factory.mktemp("start"))
        return made[case]

    return get


def apart(one, other):
    return max(abs(a - b) / b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_losses_equal_a_plain_loop(models, reference, case):
    name, method, kind = CASES[case]
    losses = ours(models(name), method, kind, LR.get(case, 3e-3))
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6]), "nothing is learned: this would say nothing"
    assert apart(losses, reference(case)) < 1e-5


@pytest.mark.parametrize(
    ("case", "sabotage"),
    [
        ("llama-lora", "pooled one token early"),
        ("llama-lora", "labels permuted"),
        ("llama-lora", "head stays"),
        ("bert-lora", "labels permuted"),
        ("bert-full-pairs", "one text for two"),
    ],
)
def test_the_comparison_notices(models, reference, case, sabotage):
    name, method, kind = CASES[case]
    assert apart(ours(models(name), method, kind, LR.get(case, 3e-3), sabotage), reference(case)) > 1e-4


def rewarded(folder, sabotage=""):
    engine = TorchEngine(
        spec(folder, Objective("reward"), FULL, optimizer=Optimizer(weight_decay=DECAY), token_budget=90)
    )
    losses = []
    for step in range(STEPS):
        some = [PAIRS[(step * 8 + place) % 48] for place in range(8)]
        if sabotage == "sides swapped":
            some = [
                replace(
                    one,
                    ids=np.concatenate((one.ids[one.second :], one.ids[: one.second])),
                    second=one.tokens - one.second,
                )
                for one in some
            ]
        if sabotage == "pooled one token early":
            kept = [np.r_[0 : one.second - 1, one.second : one.tokens - 1] for one in some]
            some = [
                replace(one, ids=one.ids[places], weights=one.weights[places], second=one.second - 1)
                for one, places in zip(some, kept, strict=True)
            ]
        losses.append(engine.step(engine.prepare(some), 3e-3).loss)
    return losses


PAIRS = pairs()


@pytest.fixture(scope="module")
def trl(models, tmp_path_factory):
    """TRL's losses on the same pairs in the same order, from the same start."""
    pytest.importorskip("trl")
    from trl import RewardConfig, RewardTrainer

    out = tmp_path_factory.mktemp("trl")
    (out / "start").mkdir()
    TorchEngine(spec(models("llama"), Objective("reward"), FULL)).export(out / "start")
    model = AutoModelForSequenceClassification.from_pretrained(out / "start")
    used = [PAIRS[(step * 8 + place) % 48] for step in range(STEPS) for place in range(8)]
    columns = [
        {"chosen_ids": one.ids[: one.second].tolist(), "rejected_ids": one.ids[one.second :].tolist()} for one in used
    ]
    settings = {
        "per_device_train_batch_size": 8,
        "max_steps": STEPS,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "weight_decay": DECAY,
    }
    return oracles.losses(RewardTrainer, RewardConfig, model, columns, out, **settings)


def test_reward_equals_trl(models, trl):
    losses = rewarded(models("llama"))
    assert len(trl) == STEPS and losses[-1] < 0.7 * losses[0]
    assert apart(losses, trl) < 1e-4


@pytest.mark.parametrize("sabotage", ["sides swapped", "pooled one token early"])
def test_the_comparison_of_rewards_notices(models, trl, sabotage):
    assert apart(rewarded(models("llama"), sabotage), trl) > 1e-3
