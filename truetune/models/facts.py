"""What a model is, from its config.json and the headers of its weights; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.errors import InputError
from truetune.models import gate, packed, weights
from truetune.models.header import Tensor

# One fact, several names: Llama's, GPT-2's and GPT-J's, GPT-NeoX', T5's, DistilBERT's.
NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim"),
    "positions": ("max_position_embeddings", "n_positions", "n_ctx"),
    "vocabulary": ("vocab_size",),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "head": ("head_dim",),
    "window": ("sliding_window",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert": ("moe_intermediate_size",),
    "taken": ("num_experts_per_tok",),
    "shared": ("shared_expert_intermediate_size",),
}
LARGEST = 2**31
"""Sizes above this are of no model."""
TIED = {
    "bert", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neo", "modernbert", "opt", "smollm3",
    "starcoder2",
}  # fmt: skip
"""Model types whose input embedding and head are the same unless their config says otherwise."""
UNGATED = {
    "gpt2",
    "gptj",
    "gpt_neox",
    "gpt_neo",
    "gpt_bigcode",
    "bert",
    "roberta",
    "camembert",
    "xlm-roberta",
    "distilbert",
    "deberta",
    "deberta-v2",
    "electra",
    "phi",
    "opt",
    "bloom",
    "starcoder2",
    "falcon",
}
"""Model types whose feed-forward layer has two matrices; the others have three (gate, up, down)."""
SHIFTED = ("roberta", "camembert", "xlm-roberta")
"""Model types that count positions from 2."""


@dataclass(frozen=True)
class Facts:
    """Sizes are numbers of elements; `head_dim` is the width of one head, `positions` the longest context in tokens."""

    model_type: str
    architecture: str
    causal: bool
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    vocabulary: int
    tied: bool
    positions: int | None
    sliding_window: int | None
    parameters: int
    dtype: str
    bits: int = 0
    """Of weights that are stored packed; 0 = they are plain."""
    experts: int = 0
    """Feed-forward parts of a layer, of which each token takes a few; 0 = one, which all take."""
    passed: int = 0
    """Width of those that a token takes, together; 0 = there are no experts."""

    @property
    def reach(self) -> int | None:
        """Most tokens of a text that the model has positions for."""
        return self.positions - 2 if self.positions and self.model_type in SHIFTED else self.positions

    @property
    def layer_parameters(self) -> int:
        """Elements of the attention and feed-forward matrices of one layer."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        matrices = 3 if self.gated else 2
        return self.hidden * (2 * query + 2 * key) + matrices * self.hidden * self.intermediate


def config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises InputError `model.no_config` or `model.bad_config`."""
    path = folder / "config.json"
    try:
        values = gate.parse(path)
    except FileNotFoundError as error:
        hint = "a model folder has config.json, tokenizer.json and model.safetensors"
        raise InputError(
            "the folder holds no config.json", code="model.no_config", where=str(folder), hint=hint
        ) from error
    except (ValueError, OSError) as error:
        raise _bad(path, f"config.json cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise _bad(path, "config.json is not an object")
    return values


def read(folder: Path) -> Facts:
    """The facts of a model folder. Raises InputError as `config` and `weights.tensors`."""
    values = language(config(folder))
    return of(values, weights.tensors(folder), folder / "config.json")


def language(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration's part for text: models of text and images keep it one level down."""
    text = values.get("text_config")
    return values | text if isinstance(text, dict) else values


def of(values: Mapping[str, Any], tensors: list[Tensor], path: Path) -> Facts:
    """The facts of a configuration and its weights' headers. Raises InputError `model.bad_config`."""
    kind = str(values.get("model_type", ""))
    architecture = str((values.get("architectures") or [""])[0])
    hidden, heads = _number(values, "hidden", path), _number(values, "heads", path)
    # Qwen2 writes a window that it does not use.
    window = _optional(values, "window") if values.get("use_sliding_window", True) else None
    tied = bool(values.get("tie_word_embeddings", kind in TIED))
    inner = _optional(values, "intermediate")
    return Facts(
        model_type=kind,
        architecture=architecture,
        causal=_causal(architecture),
        hidden=hidden,
        layers=_number(values, "layers", path),
        heads=heads,
        kv_heads=_kv_heads(values) or heads,
        head_dim=_optional(values, "head") or max(1, hidden // heads),
        intermediate=inner if inner else 4 * hidden,
        gated=kind not in UNGATED,
        vocabulary=_number(values, "vocabulary", path),
        tied=tied,
        positions=_optional(values, "positions"),
        sliding_window=window,
        parameters=packed.counted(tensor for tensor in tensors if len(tensor.shape) < 4),  # old GPT-2 stores masks
        dtype=max(tensors, key=lambda tensor: tensor.size).dtype if tensors else "F32",
        bits=packed.bits(values),
        experts=_optional(values, "experts") or 0,
        passed=_passed(values, inner or 4 * hidden) if _optional(values, "experts") else 0,
    )


def _passed(values: Mapping[str, Any], inner: int) -> int:
    """Width of the experts that a token takes, and of those that every token does."""
    each = _optional(values, "expert") or inner
    return each * (_optional(values, "taken") or 1) + (_optional(values, "shared") or 0)


def _causal(architecture: str) -> bool:
    return architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))


def _kv_heads(values: Mapping[str, Any]) -> int | None:
    """Heads of keys and values, where the config names them; Falcon's multi-query models say it by a flag."""
    if values.get("multi_query") and not values.get("new_decoder_architecture"):
        return 1
    return _optional(values, "kv_heads")


def _optional(values: Mapping[str, Any], fact: str) -> int | None:
    found = next((values[name] for name in NAMES[fact] if values.get(name) is not None), None)
    return found if isinstance(found, int) and 0 < found <= LARGEST else None


def _number(values: Mapping[str, Any], fact: str, path: Path) -> int:
    found = _optional(values, fact)
    if found is None:
        raise _bad(path, f"config.json does not say {NAMES[fact][0]}")
    return found


def _bad(path: Path, message: str) -> InputError:
    return InputError(message, code="model.bad_config", where=str(path), hint="download or copy the model again")
