"""The architectures that GGUF files are written for, and what of a configuration such a file can say.

What a class of transformers reads and llama.cpp does not is refused by its name: a setting that is dropped in silence
is another model. Sources: the classes of transformers, and what llama.cpp reads for an architecture.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import MODEL_ARCH
from transformers import PreTrainedConfig

from truetune.engines.torch import config as configs
from truetune.errors import InputError
from truetune.models import facts

SMALLEST = 64
"""Tokens of context below which nothing is left to compare."""
NEUTRAL = {
    "attention_dropout", "attn_pdrop", "bos_token_id", "embd_pdrop", "eos_token_id", "initializer_range",
    "max_window_layers", "pad_token_id", "pretraining_tp", "reorder_and_upcast_attn", "resid_pdrop",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "tie_word_embeddings", "use_cache", "use_sliding_window",
}  # fmt: skip
"""Fields that do not change what a trained model computes, or that the tokenizer, the tensors or the window say."""
SIZES = {
    "head_dim", "hidden_size", "intermediate_size", "layer_types", "max_position_embeddings", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "original_max_position_embeddings", "rms_norm_eps", "rope_parameters",
    "sliding_window", "vocab_size",
}  # fmt: skip
"""Fields that are written."""


@dataclass(frozen=True)
class Family:
    """An architecture of llama.cpp, and how its tensors differ from those of transformers."""

    arch: MODEL_ARCH
    ropes: tuple[str, ...]
    """Scalings of rotary positions; none = positions are learned."""
    fields: frozenset[str] = frozenset()
    """What is written besides `SIZES`."""
    permuted: bool = False
    """Rotary pairs are neighbours, and not halves of a head: rows of Q and K change places."""
    shifted: bool = False
    """Norms are stored as what is added to 1."""
    tied: bool = False
    """The head is always the embedding."""
    every: int = 0
    """Every so many-th layer sees all, the others a window; 0 = llama.cpp has no window here."""
    big: int = 0
    """With so many layers, queries are scaled by hidden size over heads."""


SCALED = ("default", "linear", "yarn")
GEMMA2 = frozenset({"query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"})
GPT2 = frozenset({"n_positions", "n_embd", "n_layer", "n_head", "n_inner", "layer_norm_epsilon"})
FAMILIES = {
    "llama": Family(MODEL_ARCH.LLAMA, (*SCALED, "llama3"), frozenset({"attention_bias", "mlp_bias"}), permuted=True),
    "mistral": Family(MODEL_ARCH.LLAMA, SCALED, permuted=True),
    "qwen2": Family(MODEL_ARCH.QWEN2, SCALED),
    "qwen3": Family(MODEL_ARCH.QWEN3, SCALED),
    "gemma2": Family(MODEL_ARCH.GEMMA2, ("default",), GEMMA2, shifted=True, tied=True, every=2, big=46),
    "gemma3_text": Family(
        MODEL_ARCH.GEMMA3,
        ("default", "linear"),
        frozenset({"query_pre_attn_scalar"}),
        shifted=True,
        tied=True,
        every=6,
        big=62,
    ),
    "phi3": Family(MODEL_ARCH.PHI3, ("default", "longrope")),
    "gpt2": Family(MODEL_ARCH.GPT2, (), GPT2),
}
"""`model_type` -> how it is written."""


@dataclass(frozen=True)
class Model:
    """A checked configuration. `context` is the longest text in tokens that both sides compute alike."""

    family: Family
    config: PreTrainedConfig
    context: int
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def heads(self) -> int:
        return int(self.config.num_attention_heads)

    @property
    def kv_heads(self) -> int:
        return int(getattr(self.config, "num_key_value_heads", None) or self.heads)

    @property
    def head_dim(self) -> int:
        return int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.heads)

    @property
    def rope(self) -> dict[str, Any]:
        """Of the layers that see all; empty for learned positions."""
        found = dict(getattr(self.config, "rope_parameters", None) or {})
        return dict(found.get("full_attention", found))

    @property
    def rotary(self) -> int:
        """Elements of a head that are turned."""
        return int(self.head_dim * (self.rope.get("partial_rotary_factor") or 1.0))

    def write(self, writer: gguf.GGUFWriter) -> None:
        """All sizes; the rotary ones are `rope.write`'s."""
        config = self.config
        writer.add_context_length(self.context)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or feed_forward(config))
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        if self.family.arch == MODEL_ARCH.GPT2:
            writer.add_layer_norm_eps(config.layer_norm_epsilon)
            return
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        if self.family.every:
            writer.add_sliding_window(config.sliding_window)
        if self.family.arch == MODEL_ARCH.GEMMA2:
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)


def feed_forward(config: PreTrainedConfig) -> int:
    return int(config.n_inner or 4 * config.hidden_size)


def read(folder: Path) -> Model:
    """What of a model folder is written, checked. Raises InputError `export.architecture`, `export.setting`, and what
    the reading of the configuration raises."""
    kind = str(facts.config(folder).get("model_type", ""))
    family = FAMILIES.get(kind)
    if family is None:
        raise InputError(
            f"GGUF files of the model type {kind or '?'} are not written",
            code="export.architecture",
            where=str(folder / "config.json"),
            hint=f"Model types: {', '.join(FAMILIES)}. Export the others with --format merged.",
        )
    config = configs.read(folder)
    refuse_fields(family, config, folder)
    context, notes = reach(family, config, folder)
    found = Model(family, config, context, notes)
    refuse_gemma(found, folder)
    return found


def setting(
    name: str, value: Any, folder: Path, why: str = "has no place in a GGUF file of this architecture"
) -> InputError:
    return InputError(
        f"{name} = {value!r} {why}",
        code="export.setting",
        where=str(folder / "config.json"),
        hint="A file without it would be another model. Export with --format merged.",
    )


def refuse_fields(family: Family, config: PreTrainedConfig, folder: Path) -> None:
    """Refuse what the class reads and the file cannot say, where it is not what both assume."""
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    usual = type(config)()
    for field in dataclasses.fields(config):
        name = field.name
        if name in common | NEUTRAL | SIZES | family.fields or name.startswith("_"):
            continue
        value = getattr(config, name, None)
        if value != getattr(usual, name, None):
            raise setting(name, value, folder)


def reach(family: Family, config: PreTrainedConfig, folder: Path) -> tuple[int, tuple[str, ...]]:
    """(context, notes): where llama.cpp has no window, texts up to its length are the same with and without it; beyond
    the length of its training a model with LongRoPE turns by other angles, which llama.cpp chooses by the context and
    transformers by the text."""
    most = int(config.max_position_embeddings)
    bounds = {}
    if not family.every and getattr(config, "sliding_window", None) and windowed(config):
        bounds["the sliding window"] = int(config.sliding_window)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        bounds["the short angles of LongRoPE"] = int(rope.get("original_max_position_embeddings") or most)
    why, least = min(bounds.items(), key=lambda item: item[1], default=("", most))
    if least >= most:
        return most, ()
    if least < SMALLEST:
        raise setting("sliding_window", least, folder)
    return least, (f"the context is {least} of {most} tokens: llama.cpp computes the same within {why} only",)


def windowed(config: PreTrainedConfig) -> bool:
    """Whether a layer uses the window."""
    kinds = getattr(config, "layer_types", None)
    return kinds is None or "sliding_attention" in kinds


def refuse_gemma(found: Model, folder: Path) -> None:
    """What llama.cpp takes for granted of Gemma."""
    family, config = found.family, found.config
    if not family.every:
        return
    kinds = [
        "full_attention" if at % family.every == family.every - 1 else "sliding_attention" for at in range(found.layers)
    ]
    if config.layer_types != kinds or not config.sliding_window:
        raise setting("layer_types", config.layer_types, folder)
    scale = config.hidden_size // found.heads if found.layers == family.big else found.head_dim
    if config.query_pre_attn_scalar != scale:
        raise setting(
            "query_pre_attn_scalar", config.query_pre_attn_scalar, folder, f"is not {scale}, as llama.cpp has it"
        )
    if family.arch == MODEL_ARCH.GEMMA2:
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if not getattr(config, name):
                raise setting(name, None, folder, "is not said, and llama.cpp always has one")
