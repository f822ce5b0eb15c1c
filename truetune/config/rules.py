"""Keys that are right by themselves and contradict each other.

A rule looks at the values and at what the user wrote (`explicit`): a default never contradicts anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from truetune import plugins
from truetune.config.schema import Config

LORA_ONLY = (
    "method.r",
    "method.alpha",
    "method.dropout",
    "method.target_modules",
    "method.init",
    "method.lora_plus",
    "method.modules_to_save",
    "model.new_tokens",
)
VIRTUAL = ("prefix", "ptuning_v2", "ptuning", "prompt")
"""Methods that train tokens before every text."""
ENCODED = ("prefix", "ptuning")
"""Those of them that have a network make these tokens."""
PREFERENCE = {
    "dpo": ("loss", "beta", "label_smoothing"),
    "orpo": ("beta", "sft_weight"),
    "simpo": ("beta", "label_smoothing", "margin"),
    "cpo": ("beta", "label_smoothing", "sft_weight"),
    "kto": ("beta", "desirable_weight", "undesirable_weight"),
}
"""Keys of `preference` that an objective reads; the others read none."""
CLASSIFICATION = ("class_weights", "threshold")
"""Keys of `classification`, which no other objective reads."""
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


def an_adapter_has_started(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if config.model.adapter and config.method.init != "default":
        yield Clash("method.init", "is for a fresh adapter, and model.adapter continues one", "leave one of them out")


def loftq_is_for_a_packed_base(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if config.method.init == "loftq" and config.method.type in ("auto", "lora", "dora", "rslora"):
        message = f"is loftq, which makes up for what packing rounds off, and method.type is {config.method.type}"
        yield Clash("method.init", message, "write `type: qlora`, or `init: pissa`")


def virtual_tokens_have_no_layers(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    kind = config.method.type
    if kind in (*VIRTUAL, "ia3"):
        for key in LORA_ONLY:
            if key in explicit and (kind, key) != ("ia3", "method.target_modules"):
                yield Clash(key, f"is for lora, and method.type is {kind}", "leave it out, or write `type: lora`")
    users = {"method.virtual_tokens": VIRTUAL, "method.encoder_hidden": ENCODED}
    default = type(config.method)()
    for key, kinds in users.items():
        name = key.partition(".")[2]
        if kind not in kinds and getattr(config.method, name) != getattr(default, name):
            yield Clash(key, f"is for {' and '.join(kinds)}, and method.type is {kind}", "leave it out")


def freezing_is_for_full(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if config.method.frozen_layers and config.method.type != "full":
        message = f"is for full, and method.type is {config.method.type}"
        yield Clash("method.frozen_layers", message, "leave it out, or write `type: full`")


def schedules_have_their_ends(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    scheduler = config.training.scheduler
    if scheduler in ("constant", "one_cycle") and "training.min_lr_ratio" in explicit:
        why = "never falls" if scheduler == "constant" else "has an end of its own"
        yield Clash("training.min_lr_ratio", f"is where the rate ends, and {scheduler} {why}", "leave it out")
    if scheduler == "one_cycle" and "training.warmup" in explicit:
        message = "is not for one_cycle, which rises for 30% of the steps"
        yield Clash("training.warmup", message, "leave it out, or write `scheduler: cosine`")


def bits_need_qlora(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    if "method.bits" in explicit and config.method.type not in ("auto", "qlora"):
        message = f"is for qlora, and method.type is {config.method.type}"
        yield Clash("method.bits", message, "leave it out, or write `type: qlora`")


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


def sections_are_read(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    """Keys of `preference` and `classification` that were written and that this objective has no use for."""
    objective = config.training.objective
    if objective == "auto":
        return
    reads = PREFERENCE.get(objective) or brought(objective)
    for key in type(config.preference).model_fields:
        if f"preference.{key}" in explicit and key not in reads:
            users = ", ".join(name for name in PREFERENCE if key in PREFERENCE[name])
            message = f"is for {users}, and what is learned is {objective}"
            yield Clash(f"preference.{key}", message, "leave it out, or choose another training.objective")
    for key in CLASSIFICATION if objective != "classification" else ():
        if f"classification.{key}" in explicit:
            hint = "leave it out, or give rows of texts with labels"
            yield Clash(f"classification.{key}", f"is for classification, and what is learned is {objective}", hint)
    if "preference.label_smoothing" in explicit and objective == "dpo" and config.preference.loss != "sigmoid":
        message = f"is for the loss sigmoid, and preference.loss is {config.preference.loss}"
        yield Clash("preference.label_smoothing", message, "leave it out, or write `loss: sigmoid`")


def brought(objective: str) -> tuple[str, ...]:
    """Keys of `preference` that another package's objective reads. Raises InputError `plugin.unusable`."""
    if objective not in plugins.points(plugins.OBJECTIVES):
        return ()
    return tuple(getattr(plugins.load(plugins.OBJECTIVES, objective), "reads", ()))


def answers_are_chosen_by_the_rows(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    """Keys that say which tokens are trained, where that is what the rows compare."""
    objective = config.training.objective
    if objective not in PREFERENCE:
        return
    if "data.train_on" in explicit and config.data.train_on != "assistant":
        message = f"is for conversations, and with {objective} the answers that are compared are trained"
        yield Clash("data.train_on", message, "leave it out")
    if config.data.too_long == "split":
        message = f"is `split`, and what {objective} compares is not parted"
        yield Clash("data.too_long", message, "write `drop`, `truncate` or `error`")
    if config.data.overlap:
        yield Clash("data.overlap", f"is for plain texts, and training.objective is {objective}", "leave it out")


def scores_are_no_words(config: Config, explicit: Collection[str]) -> Iterator[Clash]:
    """A model with a head for scores writes nothing, and learns no texts or turns."""
    objective = config.training.objective
    if objective not in ("classification", "reward"):
        return
    keys = {"evaluation.samples": config.evaluation.samples > 0}
    keys |= {f"generation.{name}": True for name in type(config.generation).model_fields}
    if objective == "classification":
        keys |= {"data.train_on": True, "data.template": True, "data.overlap": config.data.overlap > 0}
        keys |= {"data.too_long": config.data.too_long == "split"}
    for key, clashes in keys.items():
        if clashes and key in explicit:
            yield Clash(key, f"is for models that write, and training.objective is {objective}", "leave it out")


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


OBJECTIVE_RULES: tuple[Rule, ...] = (
    sections_are_read,
    answers_are_chosen_by_the_rows,
    scores_are_no_words,
    whole_texts_have_no_turns,
)
"""Those that ask again when the rows have decided on the objective."""
RULES: tuple[Rule, ...] = (
    full_has_no_adapter,
    an_adapter_has_started,
    loftq_is_for_a_packed_base,
    virtual_tokens_have_no_layers,
    freezing_is_for_full,
    schedules_have_their_ends,
    bits_need_qlora,
    revision_needs_hub,
    measuring_needs_rows,
    stopping_needs_measuring,
    *OBJECTIVE_RULES,
    warmup_must_end,
    held_out_is_other_rows,
    weights_are_for_paths,
    windows_must_go_on,
)
