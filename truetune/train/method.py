"""Which method trains: as asked; or LoRA, and QLoRA where a GPU's memory does not hold LoRA over the whole base."""

from __future__ import annotations

from dataclasses import dataclass, replace

from truetune.config import Config
from truetune.errors import UsageError
from truetune.models import fit
from truetune.models.facts import Facts
from truetune.models.memory import readable

LORA = "LoRA trains a small part of the model, and the base stays as it is"


@dataclass(frozen=True)
class Decided:
    """The method, the bits of its frozen base (0 = as it is stored), and why."""

    type: str
    bits: int
    reason: str = ""


def decide(config: Config, case: fit.Case, device: str) -> Decided:
    """The method of a training. `case` is the training by LoRA where the method is `auto`. Raises UsageError
    `method.packed_base`."""
    wish, stored = config.method.type, case.facts.bits
    refuse_packed(wish, case.facts)
    refuse_unknown_loss(config.method.init, case.facts)
    if wish != "auto":
        return Decided(wish, stored or config.method.bits if wish == "qlora" else 0)
    if stored:
        return Decided("qlora", stored, f"the model is stored in {stored} bits, and an adapter is trained beside it")
    packed = with_bits(case, config.method.bits)
    if device.startswith("cuda") and not fit.sparing(case).fits and packed.needs < case.needs:
        needs, there = readable(fit.sparing(case).needs), readable(case.available)
        return Decided("qlora", config.method.bits, f"LoRA would need about {needs}, and {there} are available")
    return Decided("lora", 0, LORA)


def with_bits(case: fit.Case, bits: int) -> fit.Case:
    """The same training by QLoRA."""
    return replace(case, setup=replace(case.setup, method="qlora", bits=bits))


def refuse_packed(method: str, facts: Facts) -> None:
    if facts.bits and method not in ("auto", "qlora"):
        raise UsageError(
            f"the model is stored in {facts.bits} bits, and method.type is {method}",
            code="method.packed_base",
            where="method.type",
            hint="Write `type: qlora`, or name the original model, with weights in bfloat16, float16 or float32.",
        )


def refuse_unknown_loss(init: str, facts: Facts) -> None:
    """LoftQ makes up for what packing has rounded off, and a base that is stored packed does not tell."""
    if facts.bits and init == "loftq":
        raise UsageError(
            f"the model is stored in {facts.bits} bits, and what that has rounded off is not known",
            code="method.packed_base",
            where="method.init",
            hint="Write `init: default`, or name the original model, with weights in bfloat16, float16 or float32.",
        )
