"""Pairs and rated rows to learn from: the better answer counts up from the prompt, the worse one counts down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from truetune.data.contrast import contrasted
from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method, Objective, TrainEngine
from truetune.train import reference

LORA = Method(type="lora", r=4, alpha=8, dropout=0.0)


def answer(rng, start, way):
    return (start + way * np.arange(1, int(rng.integers(3, 12)) + 1)) % 300


def text(prompt, said):
    ids = np.concatenate((prompt, said)).astype(np.int32)
    return ids, (np.arange(len(ids)) >= len(prompt)).astype(np.float32)


def prompts(rng):
    return rng.integers(0, 300, int(rng.integers(3, 16)))


def pairs(count=6, *, seed=0):
    rng, made = np.random.default_rng(seed), []
    for row in range(count):
        prompt = prompts(rng)
        (better, first), (worse, second) = (text(prompt, answer(rng, prompt[-1], way)) for way in (1, -1))
        ids, weights = np.concatenate((better, worse)), np.concatenate((first, second))
        made.append(Example(ids, weights, row, second=len(better)))
    return made


def rated(count=6, *, seed=0, batch=None):
    """Rated rows with contrasts: the answer of the row before, within each `batch` of rows as TRL has it."""
    rng, made = np.random.default_rng(seed), []
    for row in range(count):
        prompt, good = prompts(rng), bool(rng.integers(0, 2)) if row > 1 else row == 0
        ids, weights = text(prompt, answer(rng, prompt[-1], 1 if good else -1))
        made.append(Example(ids, weights, row, label=(int(good),)))
    size = batch or count
    before = [row - 1 if row % size else min(row + size, count) - 1 for row in range(count)]
    return [contrasted(example, made[other], 10_000) for example, other in zip(made, before, strict=True)]


def rows(objective, count=6, *, seed=0):
    return rated(count, seed=seed) if objective == "kto" else pairs(count, seed=seed)


def spec(folder, objective="dpo", **changes):
    settings = {name: changes.pop(name) for name in list(changes) if name in Objective.__dataclass_fields__}
    made = EngineSpec(model=folder, method=LORA, objective=Objective(objective, **settings), token_budget=64)
    return replace(made, **changes)


def referenced(engine: TrainEngine, examples):
    """With what the model before training thinks of them, where the objective asks for it."""
    if engine.spec.objective.type not in ("dpo", "kto"):
        return list(examples)
    table = reference.opinions(examples, lambda part: engine.scores(engine.prepare(part), base=True))
    return list(reference.Referenced(examples, table))


def mistaken(pack, mistake, picked):
    """`pack` with one mistake about what stands once: its rests are counted from 0, do not see it, or are read from
    the places that `picked` gives instead."""

    def wrong(some, device):
        row = pack(some, device)
        if mistake == "positions":
            at = [place for a, b, *lead in row.segments if lead for place in range(a, b)]
            row.positions[0, at] = row.positions.new_tensor(range(len(at)))
        if mistake == "picked":
            return replace(row, picked=picked(row))
        if mistake == "lead":
            return replace(row, segments=tuple(each[:2] for each in row.segments))
        return row

    return wrong
