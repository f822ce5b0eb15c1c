"""Every `auto` of a `train.yml` becomes a value with a reason, once. The result is `resolved.json`, from which alone
a run (and its resume) is built."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.config import Amount, Config
from truetune.data import objectives
from truetune.data.prepare import Prepared
from truetune.data.steps import Steps
from truetune.engines import Chosen, optimizers, prompts
from truetune.engines.base import Choice, EngineSpec, Method, Objective, Optimizer
from truetune.models import fit, memory
from truetune.models.facts import Facts
from truetune.models.fit import Lengths
from truetune.models.memory import Setup
from truetune.models.source import Source
from truetune.train.method import Decided, decide
from truetune.train.plan import Course, Rules, course

Resolved = dict[str, Any]

SAMPLE_TOKENS = 64
"""Samples are for reading along: no longer than this, whatever `generation.max_new_tokens` allows."""
FOUND = {"model.revision", "method.bits", "resources.device", "resources.engine"}
"""Values that can differ from what was asked for: a branch becomes its commit, a missing GPU the CPU, and torch steps
in for a model that MLX lacks."""
TEMPLATES = {"plain": "the model brings no chat template", "none": "texts need no chat template"}


def resolve(
    config: Config,
    folder: Path,
    source: Source,
    facts: Facts,
    prepared: Prepared,
    engine: Chosen,
    choice: Choice,
    free: int,
    *,
    packed: bool,
) -> Resolved:
    """The body of resolved.json.

    `choice` is what the engine says of device and number type, `free` the bytes that training may use, `packed`
    whether the engine packs this architecture.
    """
    lengths = prepared.train.lengths
    need = case(config, facts, choice, free, longest(prepared), lengths, packed=packed)
    if objectives.of(prepared.objective).scores:
        need = replace(need, setup=replace(need.setup, scores=True))
    decided = decide(config, need, choice.device)
    budget = fit.budget(replace(need, setup=replace(need.setup, method=decided.type, bits=decided.bits)))
    path = plan(config, len(prepared.train))
    settled = settle(config, source, prepared, engine, choice, free, decided)
    return {
        "schema": 1,
        "written": config.model_dump(mode="json"),
        **settled,
        "folder": str(folder),
        "model": {"folder": str(source.folder), "name": source.name, "kind": source.kind, "revision": source.revision},
        "plan": {
            "examples": len(prepared.train),
            "step": config.training.batch_size * config.training.gradient_accumulation_steps,
            "steps_per_epoch": path.order.per_epoch,
            "steps": path.total,
            "warmup_steps": path.warmup,
            "promised": promised(path, prepared, path.total),
        },
        "memory": {"free": free, "token_budget": budget.tokens, "gradient_checkpointing": budget.checkpointing}
        | {"offload": budget.offload, "reason": budget.reason, "estimate": asdict(budget.estimate)},
    }


def method(config: Config) -> str:
    """The method by which a case is looked at: LoRA for `auto`, until `decide` knows what fits."""
    return "lora" if config.method.type == "auto" else config.method.type


def case(
    config: Config, facts: Facts, choice: Choice, free: int, longest: int, lengths: Lengths = (), *, packed: bool
) -> fit.Case:
    """What must fit: `free` in bytes, `longest` and the `lengths` of the examples in tokens. A GPU's memory that was
    named can be used up: `EngineSpec.memory` holds it."""
    modules = config.method.target_modules
    targets = None if isinstance(modules, str) else modules
    kind = method(config)
    bits = facts.bits or (config.method.bits if kind == "qlora" else 0)
    virtual = config.method.virtual_tokens if kind in prompts.PROMPTS else 0
    packed = packed and not virtual
    setup = Setup(
        kind, config.method.r, targets, choice.dtype, packed, False, bits, virtual, config.method.encoder_hidden
    )
    gpu = choice.device.startswith("cuda")
    setup = replace(
        setup, gpu=gpu, whole=several(config.method.modules_to_save), rows=len(several(config.model.new_tokens))
    )
    moments = optimizers.kept(config.training.optimizer, mean=config.training.ema is not None)
    setup = replace(setup, moments=moments, frozen=config.method.frozen_layers)
    setup = replace(setup, original=config.method.init == "loftq")
    share = fit.PROMISED if gpu and config.resources.memory != "auto" else fit.SHARE
    sizes = np.asarray(lengths, np.int64) + virtual
    return fit.Case(
        facts, setup, longest + virtual, free, config.method.alpha, sizes, share, memory.available() if gpu else None
    )


def settle(
    config: Config, source: Source, prepared: Prepared, engine: Chosen, choice: Choice, free: int, decided: Decided
) -> dict[str, Any]:
    """`config`: every value, each `auto` replaced; `reasons`: dotted key -> why, for those that were."""
    values, reasons = config.model_dump(mode="json"), {}
    report, held_out = prepared.report, prepared.validation.rows
    template = report["rendering"]["template"]
    few = "as many as so few rows allow" if held_out < 8 else "5% of the rows, at least 8, at most 500"
    found = {
        "model.revision": (source.revision, "the commit found, pinned"),
        "model.dtype": (choice.dtype, choice.dtype_reason),
        "method.type": (decided.type, decided.reason),
        "method.bits": (decided.bits or values["method"]["bits"], "as the model is stored"),
        "data.format": (report["format"]["name"], f"{report['format']['share']:.0%} of the rows looked at"),
        "data.template": (template, TEMPLATES.get(template, "the model's own")),
        "data.validation": (held_out, few),
        "training.objective": (prepared.objective, "from the shape of the rows"),
        "resources.engine": (engine.name, engine.reason),
        "resources.device": (choice.device, choice.reason),
        "resources.memory": (memory.readable(free), "free now; training plans with four fifths of it"),
    }
    for key, (value, reason) in found.items():
        section, name = key.split(".")
        wish = values[section][name]
        if wish == "auto" or (key in FOUND and wish != value):
            values[section][name], reasons[key] = value, reason
    if objectives.of(prepared.objective).scores and values["evaluation"]["samples"]:
        values["evaluation"]["samples"], reasons["evaluation.samples"] = 0, "a model that gives scores writes nothing"
    values["preference"], why = scaled(values["preference"], prepared.objective)
    return {"config": values, "reasons": reasons | why}


def scaled(preference: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The section `preference` with a number for beta, and the reason where the objective reads it."""
    if preference["beta"] != "auto":
        return preference, {}
    objective = objectives.of(name)
    reasons = {"preference.beta": f"customary for {name}"} if objective.compares and not objective.scores else {}
    return preference | {"beta": objective.beta}, reasons


def longest(prepared: Prepared) -> int:
    """Tokens of the longest example of the run."""
    return max(int(part.lengths.max()) for part in (prepared.train, prepared.validation) if len(part))


def plan(config: Config, examples: int) -> Course:
    """The course of a run over `examples` examples."""
    training = config.training
    return course(
        Steps(examples, training.batch_size * training.gradient_accumulation_steps, training.seed),
        epochs=training.epochs,
        max_steps=training.max_steps,
        learning_rate=training.learning_rate,
        scheduler=training.scheduler,
        floor=training.min_lr_ratio,
        warmup=training.warmup if isinstance(training.warmup, Amount) else Amount.parse(training.warmup),
    )


def promised(path: Course, prepared: Prepared, steps: int, without: Collection[int] = ()) -> dict[str, int]:
    """What reaches the loss in the first `steps` steps, by the data: examples, tokens and supervised tokens. `without`
    are steps (1, 2, …) that were skipped."""
    left_out = [path.order.indices(step - 1) for step in without if step <= steps]
    epochs, rest = path.order.first(steps)

    def count(values: NDArray[np.int64]) -> int:
        taken = epochs * int(values.sum()) + int(values[rest].sum())
        return taken - sum(int(values[some].sum()) for some in left_out)

    lengths, supervised = prepared.train.lengths, prepared.train.supervised_counts
    return {"examples": count(np.ones_like(lengths)), "tokens": count(lengths), "supervised": count(supervised)}


def engine_spec(resolved: Resolved, adapter: Path | None = None, token_budget: int = 0) -> EngineSpec:
    """What the engine needs. A resume brings the token budget that its checkpoint had come down to."""
    values = resolved["config"]
    method, training = values["method"], values["training"]
    modules = method["target_modules"]
    return EngineSpec(
        model=Path(resolved["model"]["folder"]),
        method=Method(
            type=method["type"],
            r=method["r"],
            alpha=method["alpha"],
            dropout=method["dropout"],
            target_modules=modules if isinstance(modules, str) else tuple(modules),
            bits=method["bits"] if method["type"] == "qlora" else 0,
            frozen_layers=method["frozen_layers"],
            virtual_tokens=method["virtual_tokens"],
            encoder_hidden=method["encoder_hidden"],
            init=method["init"],
            lora_plus=method["lora_plus"],
            modules_to_save=several(method["modules_to_save"]),
        ),
        optimizer=Optimizer(
            type=training["optimizer"],
            weight_decay=training["weight_decay"],
            max_grad_norm=training["max_grad_norm"],
        ),
        objective=Objective(type=training["objective"], **values["preference"], **classes(resolved)),
        adapter=adapter,
        new_tokens=tuple(entry["id"] for entry in resolved.get("new_tokens", ())),
        device=values["resources"]["device"],
        dtype=values["model"]["dtype"],
        seed=training["seed"],
        token_budget=token_budget or resolved["memory"]["token_budget"],
        gradient_checkpointing=resolved["memory"]["gradient_checkpointing"],
        offload=resolved["memory"].get("offload", False),
        neftune_alpha=training["neftune_alpha"],
        ema=training["ema"],
        base=resolved["model"]["name" if resolved["model"]["kind"] == "hub" else "folder"],
        revision=resolved["model"]["revision"],
        memory=0 if resolved["written"]["resources"]["memory"] == "auto" else resolved["memory"]["free"],
    )


def classes(resolved: Resolved) -> dict[str, Any]:
    """What an engine must know of the classes; nothing for other objectives."""
    if not (found := resolved.get("classes")):
        return {}
    return {
        "classes": tuple(found["names"]),
        "several": found["several"],
        "class_weights": tuple(found["weights"]),
        "threshold": resolved["config"]["classification"]["threshold"],
    }


def several(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """A text, a list of texts or none as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value or ())


def rules(config: Config) -> Rules:
    """Cadences, best checkpoint and early stopping."""
    early = config.evaluation.early_stopping
    return Rules(
        evaluate=config.evaluation.every,
        save=config.checkpoints.every,
        keep=config.checkpoints.keep,
        best=config.checkpoints.best,
        samples=config.evaluation.samples,
        sample_tokens=min(config.generation.max_new_tokens, SAMPLE_TOKENS),
        patience=early.patience if early else None,
        min_delta=early.min_delta if early else 0.0,
        skip=config.training.not_finite == "skip",
    )
