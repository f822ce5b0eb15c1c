"""vLLM's own server with the names of ours: what it is told, and what it cannot do.

It is a program of its own, in an environment of its own (it wants other versions of torch and transformers), and is
spoken to by HTTP only. One chat template holds for all its models, and an adapter is LoRA as vLLM knows it: what is
neither is refused here, by name, instead of being answered otherwise than it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.engines import adapter
from truetune.errors import UsageError
from truetune.evaluate.subject import Subject
from truetune.serve.names import check_rendering, checked
from truetune.serve.opening import Wanted, called
from truetune.serve.service import check_base

PROGRAM = "vllm"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""
UNKNOWN = ("use_dora", "modules_to_save", "trainable_token_indices")
"""Settings of an adapter that we serve and vLLM does not."""
SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
"""It tells nobody of its use, and fetches nothing: what it serves is here."""


@dataclass(frozen=True)
class Plan:
    """What vLLM is to serve."""

    model: Path
    base: str
    """The name of the base."""
    adapters: tuple[tuple[str, Path], ...]
    rank: int
    template: str | None
    """Jinja source, where it is not the one of the model's folder."""

    @property
    def names(self) -> list[str]:
        return [self.base, *(name for name, _ in self.adapters)]


def planned(wanted: Sequence[Wanted]) -> Plan:
    """Raises UsageError `serve.not_vllm`, and what `check_base` and `check_rendering` raise."""
    first = wanted[0].subject
    for one in wanted:
        check_fit(one.subject)
        if one is not wanted[0] and (one.subject.adapter or one.subject.base != first.base):
            check_base(one.subject, first)
        check_rendering(one.subject)
    adapters = [
        (checked(name), one.subject.adapter.resolve()) for one in wanted for name in one.names if one.subject.adapter
    ]
    base = called(first.base.name)
    if first.model:
        base = checked(first.run.id if first.run else first.name)
    ranks = [rank(place) for _, place in adapters]
    model = first.model or first.base.folder
    return Plan(model.resolve(), checked(base), tuple(adapters), max(ranks, default=0), template(wanted))


def template(wanted: Sequence[Wanted]) -> str | None:
    """The one chat template of all. Raises UsageError `serve.not_vllm` where there are several."""
    found = {one.subject.template.digest: one.subject.template for one in wanted if one.subject.template}
    if len(found) > 1:
        raise unfit("models with different chat templates", wanted[-1].subject.name, "one server for each")
    return next((one.source for one in found.values()), None)


def check_fit(subject: Subject) -> None:
    """Raises UsageError `serve.not_vllm`."""
    if subject.scores:
        raise unfit("a model that gives classes or scores", subject.name, "the engine of TrueTune")
    if subject.weights:
        raise unfit("a checkpoint of full fine-tuning", subject.name, "the finished run, or an export of it")
    if subject.bits:
        raise unfit(f"an adapter over a base in {subject.bits} bits", subject.name, "an export that is merged")
    if subject.adapter:
        body = adapter.read_config(subject.adapter, adapter.KINDS)
        odd = [name for name in UNKNOWN if body.get(name)]
        if body.get("peft_type") != "LORA" or odd:
            what = f"an adapter with {', '.join(odd)}" if odd else f"an adapter of the kind {body.get('peft_type')}"
            raise unfit(what, subject.name, "an export that is merged")


def unfit(what: str, where: str, instead: str) -> UsageError:
    return UsageError(
        f"vLLM does not serve {what} as it was trained",
        code="serve.not_vllm",
        where=where,
        hint=f"Serve {instead}: `ft serve` without --engine, or `ft export`.",
    )


def rank(folder: Path) -> int:
    """The smallest of vLLM's ranks that holds an adapter's. Raises UsageError `serve.not_vllm`."""
    own = int(adapter.read_config(folder, adapter.KINDS)["r"])
    fits = next((each for each in RANKS if each >= own), None)
    if fits is None:
        raise unfit(f"an adapter of rank {own}", str(folder), "an export that is merged")
    return fits


def line(program: str, plan: Plan, host: str, port: int, slots: int, template: Path | None) -> list[str]:
    """The command line; a key never stands in it, because everybody on the machine can read it."""
    told: list[Any] = [program, "serve", plan.model, "--host", host, "--port", port, "--served-model-name", plan.base]
    told += ["--max-num-seqs", slots]
    if plan.adapters:
        told += ["--enable-lora", "--max-loras", len(plan.adapters), "--max-lora-rank", plan.rank]
        told += ["--lora-modules", *(f"{name}={place}" for name, place in plan.adapters)]
    if template:
        told += ["--chat-template", template]
    return [str(word) for word in told]
