"""Methods of PEFT's whose results are read by other rules than LoRA's: what is known of them without any framework.

What a prompt method trains stands in front of every text, as `method.virtual_tokens` tokens that nobody wrote:

prefix       keys and values for every layer, made by a small network (Li & Liang 2021, arXiv 2101.00190)
ptuning_v2   keys and values for every layer, trained themselves (Liu et al. 2021, arXiv 2110.07602)
ptuning      embeddings, made by a small network (Liu et al. 2021, arXiv 2103.10385)
prompt       embeddings, trained themselves (Lester et al. 2021, arXiv 2104.08691)

ia3 trains factors of keys, values and feed-forward inputs (Liu et al. 2022, arXiv 2205.05638).
"""

from __future__ import annotations

from importlib.util import find_spec

from truetune.errors import ResourceError, UsageError
from truetune.models.facts import Facts
from truetune.models.virtual import LAYERED as LAYERED  # those of them that are keys and values

PROMPTS = {"prefix": "PREFIX_TUNING", "ptuning_v2": "PREFIX_TUNING", "ptuning": "P_TUNING", "prompt": "PROMPT_TUNING"}
"""Method -> PEFT's name."""
ENCODED = {"prefix": "ptuning_v2", "ptuning": "prompt"}
"""Methods with a network -> the one that trains on what the network has made."""
NEEDS_PEFT = (*PROMPTS, "ia3")

TESTED = {
    "apertus", "arcee", "bloom", "codegen", "cohere", "cohere2", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2",
    "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "granite", "granitemoe",
    "helium", "llama", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi",
    "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
}  # fmt: skip
"""Model types that take virtual tokens: the same tokens written out give the same logits, which a test shows. Those
with states in place of keys (Mamba, Jamba, RecurrentGemma) or with compressed ones (DeepSeek) do not."""


HEADED = ("reward", "classification")
"""Objectives with a head of their own, which adapters of PEFT's kinds do not carry here."""

SHORTEST = 8
"""The least that data.max_length may be."""


def refuse(method: str, virtual: int, facts: Facts, longest: int, objective: str = "sft") -> None:
    """Refuse what PEFT's methods cannot do with this model; `longest` is the longest example in tokens.

    Raises ResourceError `method.not_installed`; UsageError `method.not_for_objective`, `method.not_for_model` and
    `method.no_room`.
    """
    if method not in NEEDS_PEFT:
        return
    if find_spec("peft") is None:
        raise ResourceError(
            f"the method {method} needs peft, which is not installed",
            code="method.not_installed",
            where="method.type",
            hint='Install it: pip install "truetune[peft]". Or write `type: lora`, which needs nothing else.',
        )
    if objective in HEADED:
        raise UsageError(
            f"{method} does not train the head that {objective} needs",
            code="method.not_for_objective",
            where="method.type",
            hint="Write `type: lora`.",
        )
    if method in PROMPTS:
        refuse_model(method, facts.model_type)
        refuse_narrow(method, virtual, facts, longest)


def refuse_model(method: str, model_type: str) -> None:
    """Raises UsageError for an architecture whose attention has not been shown to take virtual tokens."""
    if model_type not in TESTED:
        raise UsageError(
            f"{method} is not known to work with {model_type[:40] or 'such'} models",
            code="method.not_for_model",
            where="method.type",
            hint="Write `type: lora`, which works for every model.",
        )


def room(virtual: int, longest: int, positions: int) -> str:
    """What can be done where virtual tokens and the longest example do not fit behind each other."""
    fewer, shorter = positions - longest, positions - virtual
    ways = [f"method.virtual_tokens to {fewer} or less"] if fewer > 0 else []
    ways += [f"data.max_length to {shorter} or less"] if shorter >= SHORTEST else []
    return f"Set {', or '.join(ways) or 'both data.max_length and method.virtual_tokens lower'}."


def refuse_narrow(method: str, virtual: int, facts: Facts, longest: int) -> None:
    """Virtual tokens take places of the context, and a sliding window must be wider than they are."""
    if facts.positions is not None and longest + virtual > facts.positions:
        raise UsageError(
            f"the longest example has {longest} tokens, {virtual} virtual ones come before it, and the model sees "
            f"{facts.positions}",
            code="method.no_room",
            where="method.virtual_tokens",
            hint=room(virtual, longest, facts.positions),
        )
    if facts.sliding_window is not None and virtual >= facts.sliding_window:
        raise UsageError(
            f"{virtual} virtual tokens do not fit into the model's sliding window of {facts.sliding_window}",
            code="method.no_room",
            where="method.virtual_tokens",
            hint=f"Set method.virtual_tokens below {facts.sliding_window}.",
        )
