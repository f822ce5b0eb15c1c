"""Which models MLX computes as transformers does, read from config.json alone.

mlx_lm's model classes read fewer settings than transformers': its Llama, Qwen2 and Gemma-2 ignore `rope_parameters`,
Mistral and Gemma-2 lose their sliding windows, and what a config leaves out has other defaults. So the settings are
completed and translated here, the walk over the layers is ours (`walk.py`), and what would not be the same is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truetune.engines.base import EngineSpec
from truetune.engines.optimizers import MLX
from truetune.errors import UsageError
from truetune.models import facts, gate

ROPES = {"default", "linear", "llama3"}
"""Rotary embeddings that are the same in both libraries."""
DEEPEST = 4096
"""Layers of a model; more are a mistake, or meant to fill the memory."""


@dataclass(frozen=True)
class Family:
    """A model type. `defaults` are transformers' for what config.json leaves out."""

    module: str
    """Of mlx_lm.models."""
    activation: str = "silu"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    scaled: bool = False
    """Embeddings are multiplied by √hidden."""
    arrays: bool = False
    """Its attention wants every mask as an array."""
    ropes: frozenset[str] = frozenset(ROPES)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that mlx_lm has built in."""


FULL, SLIDING = "full_attention", "sliding_attention"
LLAMA = {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": False}
GEMMA = {
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "pad_token_id": 0,
}
PLAIN = frozenset({"default"})

FAMILIES = {
    "llama": Family("llama", defaults=LLAMA | {"attention_bias": False, "mlp_bias": False}),
    "mistral": Family("llama", defaults=LLAMA | {"num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": Family("qwen2", defaults=LLAMA | {"num_key_value_heads": 32}),
    "qwen3": Family(
        "qwen3",
        defaults=LLAMA | {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768},
        fixed={"attention_bias": False},
    ),
    "gemma2": Family(
        "gemma2",
        "gelu_pytorch_tanh",
        GEMMA
        | {
            "rope_theta": 10_000.0,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        scaled=True,
        arrays=True,
        ropes=PLAIN,
        fixed={"attention_bias": False, "tie_word_embeddings": True},
    ),
    "gemma3_text": Family(
        "gemma3_text",
        "gelu_pytorch_tanh",
        GEMMA
        | {
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
        },
        scaled=True,
        fixed={"attention_bias": False, "final_logit_softcapping": None, "attn_logit_softcapping": None},
    ),
    "phi3": Family("phi3", defaults=LLAMA | {"rms_norm_eps": 1e-5, "pad_token_id": 32000}, ropes=PLAIN),
}


@dataclass(frozen=True)
class Layout:
    """A model's settings: `settings` for mlx_lm's class, the others for our walk over its layers."""

    family: Family
    settings: Mapping[str, Any]
    windows: tuple[int | None, ...]
    """Per layer, how many tokens it sees (itself included); None = all before it."""
    scale: float
    """Of the embeddings."""
    softcap: float | None
    """Of the logits."""

    @property
    def tied(self) -> bool:
        """The head is the embedding."""
        return bool(self.settings["tie_word_embeddings"])


METHODS = {"lora", "dora", "rslora", "full"}
OBJECTIVES = {"sft", "summarisation", "pretrain", "dpo", "orpo", "simpo", "cpo", "kto", "reward", "classification"}


INITS = {"default", "pissa", "olora"}


def unserved(spec: EngineSpec) -> list[str]:
    """What of a training MLX does not have, as train.yml calls it. Whoever asks for an engine is told before; see
    `truetune.engines.choose` and `truetune.train.session.torch_only`."""
    method, optimizer = spec.method, spec.optimizer.type
    used = {
        f"method {method.type}": method.type not in METHODS,
        f"objective {spec.objective.type}": spec.objective.type not in OBJECTIVES,
        f"optimizer {optimizer}": optimizer not in MLX,
        f"method.init {method.init}": method.init not in INITS,
        "method.bits": method.bits,
        "method.frozen_layers": method.frozen_layers,
        "model.new_tokens": spec.new_tokens,
        "training.neftune_alpha": spec.neftune_alpha,
        "training.ema": spec.ema,
        "offloaded activations": spec.offload,
        "compiled layers": spec.compiled,
    }
    return [name for name, value in used.items() if value]


def refuse_unserved(spec: EngineSpec) -> None:
    """Raises UsageError `engine.lacks`."""
    if lacking := unserved(spec):
        raise UsageError(
            f"MLX lacks {', '.join(lacking)}",
            code="engine.lacks",
            where="resources.engine",
            hint="Write `engine: torch`.",
        )


def lacks(folder: Path, method: str = "lora", objective: str = "sft") -> str:
    """What of this MLX does not compute as torch does (`gemma models`), or nothing where it does all."""
    if method not in METHODS or objective not in OBJECTIVES:
        return f"method {method}" if method not in METHODS else f"objective {objective}"
    config = facts.config(folder)
    kind = str(config.get("model_type", ""))
    if kind not in FAMILIES:
        return f"{kind[:40] or 'such'} models"
    try:
        what = _lacks(complete(config), config)
    except (TypeError, ValueError, KeyError, AttributeError):  # transformers will say what is wrong with it
        what = "such a config.json"
    return f"{kind} models with {what}" if what else ""


def _lacks(values: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if not 0 < values["num_hidden_layers"] <= DEEPEST:  # before anything is made for each of them
        return "such a number of layers"
    family = FAMILIES[config["model_type"]]
    ropes = {rope["rope_type"] for rope in rotations(config).values()} - family.ropes
    activation = values.get("hidden_activation") or values.get("hidden_act") or family.activation
    fixed = [name for name, value in family.fixed.items() if values.get(name, value) != value]
    partial = [rope for rope in rotations(config).values() if rope.get("partial_rotary_factor", 1.0) != 1.0]
    if ropes:
        return f"{', '.join(sorted(ropes))} positions"
    if partial or values.get("partial_rotary_factor", 1.0) != 1.0:
        return "partly rotated heads"
    if "quantization_config" in config or "quantization" in config:
        return "quantised weights"
    if activation != family.activation:
        return f"the activation {activation}"
    if values.get("use_bidirectional_attention"):
        return "attention in both directions"
    kinds = layer_types(values)
    if config["model_type"] == "mistral" and "layer_types" in config:
        return "layers of two kinds"
    if config["model_type"] == "gemma3_text" and kinds != regular(len(kinds), pattern(kinds)):
        return "an irregular order of layers"
    return f"{fixed[0]} set" if fixed else ""


def read(folder: Path) -> Layout:
    """The layout of a model that MLX does not lack."""
    config = facts.config(folder)
    family, values = FAMILIES[config["model_type"]], complete(config)
    kinds = layer_types(values)
    return Layout(
        family,
        # mlx_lm's own idea of windows is switched off: the walk brings its masks.
        values | rotary(config, values) | {"layer_types": None, "sliding_window_pattern": pattern(kinds)},
        tuple(values["sliding_window"] if kind == "sliding_attention" else None for kind in kinds),
        values["hidden_size"] ** 0.5 if family.scaled else 1.0,
        values.get("final_logit_softcapping"),
    )


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings, with transformers' defaults for what is left out."""
    values = dict(FAMILIES[config["model_type"]].defaults) | dict(config)
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    return values


def layer_types(values: Mapping[str, Any]) -> list[str]:
    """Per layer `sliding_attention` or `full_attention`, as transformers derives it where it is not written."""
    kind, count = values["model_type"], values["num_hidden_layers"]
    if kind == "llama" or not values.get("sliding_window"):
        return [FULL] * count
    if kind in ("mistral", "phi3"):
        return [SLIDING] * count
    if values.get("layer_types"):
        return list(values["layer_types"])
    if kind == "gemma2":
        return regular(count, 2)
    if kind == "gemma3_text":
        return regular(count, values.get("sliding_window_pattern") or values.get("_sliding_window_pattern") or 6)
    first = values.get("max_window_layers", 28) if values.get("use_sliding_window") else count
    return [SLIDING if layer >= first else FULL for layer in range(count)]


def regular(count: int, every: int) -> list[str]:
    """Every so many layers a full one."""
    return [SLIDING if (layer + 1) % every else FULL for layer in range(count)]


def pattern(kinds: list[str]) -> int:
    """The number of the first full layer, beyond them all where there is none."""
    return 1 + (kinds.index(FULL) if FULL in kinds else len(kinds))


def rotations(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of the rotary embedding by kind of layer (`full_attention` for all, unless told apart)."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = found if FULL in found or SLIDING in found else {FULL: found}
    return {
        kind: {**rope, "rope_type": rope.get("rope_type") or rope.get("type") or "default"}
        for kind, rope in nested.items()
    }


def rotary(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the words of mlx_lm."""
    ropes = rotations(config)
    full = ropes.get(FULL, {"rope_type": "default"})
    return {
        "rope_parameters": None,
        "rope_theta": full.get("rope_theta", values["rope_theta"]),
        "rope_scaling": None if full["rope_type"] == "default" else full,
        "rope_local_base_freq": ropes.get(SLIDING, {}).get("rope_theta", values.get("rope_local_base_freq")),
    }


def packs(model_type: str) -> bool:
    """Whether logits stay few, as where a model packs: the head runs in chunks for every model that MLX has."""
    return model_type in FAMILIES


def ignored(folder: Path) -> list[str]:
    """Code files of a folder, which nobody runs: what a note should name."""
    return gate.code(folder)
