"""Keys that are right by themselves and contradict each other.

A rule looks at the values and at what the user wrote (`explicit`): a default never contradicts anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from truetune.config.schema import Config

LORA_ONLY = ("method.r", "method.alpha", "method.dropout", "method.target_modules")
CONVERSATION_ONLY = ("data.train_on", "data.template", "data.too_long")


@dataclass(frozen=True)
class Clash:
    """What is wrong with the value of `key`, and the way out."""

    key: str
    message: str
    hint: str


Rule = Callable[[Config, Collection[str]], Iterator[Clash]]


def contradictions(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    """All contradictions; `explicit` holds the dotted keys that the user wrote."""
    for rule in RULES:
        yield from rule(config, explicit)


def full_has_no_adapter(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if config.method.type != "full":
        return
    for key in LORA_ONLY:
        if key in explicit:
            yield Clash(key, "is for lora, and method.type is full", "leave it out, or write `type: lora`")
    if config.model.adapter:
        yield Clash("model.adapter", "continues an adapter, and method.type is full", "write `type: lora`")


def bits_need_qlora(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if "method.bits" in explicit and config.method.type != "auto":
        yield Clash("method.bits", f"is for qlora, and method.type is {config.method.type}", "leave it out")


def revision_needs_hub(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    path = config.model.path
    if config.model.revision and (path == "starter" or path.startswith((".", "/", "~"))):
        what = "the starter model" if path == "starter" else "a folder"
        yield Clash("model.revision", f"is for models of the hub, and model.path is {what}", "leave it out")


def measuring_needs_rows(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if config.data.validation is not None:
        return
    wanted = {
        "evaluation.every": config.evaluation.every is not None,
        "evaluation.early_stopping": config.evaluation.early_stopping is not None,
        "checkpoints.best": config.checkpoints.best,
    }
    for key in wanted:
        if key in explicit and wanted[key]:
            yield Clash(key, "needs held-out rows, and data.validation is none", "write `validation: auto`")


def stopping_needs_measuring(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if config.evaluation.every is not None:
        return
    wanted = {
        "evaluation.samples": config.evaluation.samples > 0,
        "evaluation.early_stopping": config.evaluation.early_stopping is not None,
        "checkpoints.best": config.checkpoints.best,
    }
    for key in wanted:
        if key in explicit and wanted[key]:
            yield Clash(key, "needs evaluations, and evaluation.every is null", "write `every: 100 steps`")


def whole_texts_have_no_turns(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if config.training.objective != "pretrain":
        return
    for key in CONVERSATION_ONLY:
        if key in explicit:
            hint = "leave it out, or write `objective: sft`"
            yield Clash(key, "is for conversations, and training.objective is pretrain", hint)


def warmup_must_end(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    warmup, steps = config.training.warmup, config.training.max_steps
    if steps and not warmup.percent and warmup.value >= steps:
        message = f"takes {warmup} steps, and training.max_steps is {steps}: the learning rate would never arrive"
        yield Clash("training.warmup", message, "write a share, such as `3%`")


def held_out_is_other_rows(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if isinstance(config.data.validation, str) and config.data.validation in config.data.paths:
        message = "is the file that is trained on: nothing would be held out"
        yield Clash("data.validation", message, "name another file, or write `validation: auto`")


def windows_must_go_on(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    overlap, length = config.data.overlap, config.data.max_length
    if overlap > length // 2:
        message = f"is more than half of data.max_length, which is {length}: most tokens would be read twice"
        yield Clash("data.overlap", message, f"write {length // 2} or less")
    if overlap and config.training.objective == "sft":
        yield Clash("data.overlap", "is for plain texts, and training.objective is sft", "leave it out")


def weights_are_for_paths(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    weights, paths = config.data.weights, config.data.paths
    if weights is not None and len(weights) != len(paths):
        message = f"has {len(weights)} numbers, and data.path has {len(paths)} entries"
        yield Clash("data.weights", message, "write one number for each entry of data.path")


RULES: tuple[Rule, ...] = (
    full_has_no_adapter,
    bits_need_qlora,
    revision_needs_hub,
    measuring_needs_rows,
    stopping_needs_measuring,
    whole_texts_have_no_turns,
    warmup_must_end,
    held_out_is_other_rows,
    weights_are_for_paths,
    windows_must_go_on,
)
