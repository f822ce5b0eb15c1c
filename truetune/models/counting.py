"""How many parameters a model has, from its config.json alone: before anything is downloaded.

Exact for the model types in `BUILDS` (a test builds each and counts); for others the same sum without what is theirs
alone, which is within a few per cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from truetune.models import facts
from truetune.models.facts import Facts


@dataclass(frozen=True)
class Build:
    """What a model type has beside its matrices. Biases that its config.json can switch are read from there."""

    norms: int = 2
    """Norms of one layer."""
    norm_bias: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norms: Literal["", "head", "whole"] = ""
    """Norms of queries and keys: over a head, or over all of them."""
    places: int | None = None
    """Learned positions beyond the longest context; None = positions are not learned."""


LLAMA = Build()
GPT = Build(norm_bias=True, qkv_bias=True, out_bias=True, mlp_bias=True)
BUILDS = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "ministral": LLAMA,
    "mixtral": LLAMA,
    "granite": LLAMA,
    "smollm3": LLAMA,
    "gemma": LLAMA,
    "phi3": LLAMA,
    "qwen2": Build(qkv_bias=True),
    "qwen2_moe": Build(qkv_bias=True),
    "qwen3": Build(qk_norms="head"),
    "qwen3_moe": Build(qk_norms="head"),
    "olmo2": Build(qk_norms="whole"),
    "gemma2": Build(norms=4),
    "gemma3_text": Build(norms=4, qk_norms="head"),
    "phi": replace(GPT, norms=1, head_bias=True),
    "gpt2": replace(GPT, places=0),
    "gpt_neo": replace(GPT, qkv_bias=False, places=0),
    "gpt_neox": GPT,
    "gptj": Build(norms=1, norm_bias=True, mlp_bias=True, head_bias=True),
    "falcon": Build(norms=1, norm_bias=True),
    "opt": replace(GPT, places=2),
    "starcoder2": GPT,
    "stablelm": Build(norm_bias=True),
}
"""Model type -> its build."""


DTYPES = {"bfloat16": "BF16", "float16": "F16"}
"""In the words of config.json and of safetensors."""


def sketch(folder: Path) -> Facts:
    """The facts of a folder that need not hold weights. Raises InputError as `facts.config`."""
    values = facts.language(facts.config(folder))
    found = facts.of(values, [], folder / "config.json")
    dtype = DTYPES.get(str(values.get("dtype") or values.get("torch_dtype")), "F32")
    return replace(found, parameters=count(found, values), dtype=dtype)


def known(model_type: str) -> bool:
    """Whether the count is exact."""
    return model_type in BUILDS


def count(found: Facts, values: Mapping[str, Any]) -> int:
    """Parameters of a model; `values` is its config.json, `found` what was read from it, but their number."""
    build = switched(BUILDS.get(found.model_type, LLAMA), values)
    norm = found.hidden * (2 if build.norm_bias else 1)
    head = 0 if found.tied else found.vocabulary * found.hidden
    head += found.vocabulary if build.head_bias else 0
    places = 0 if build.places is None else ((found.positions or 0) + build.places) * found.hidden
    layers = found.layers * (attention(found, build) + build.norms * norm)
    return found.vocabulary * found.hidden + places + head + norm + layers + feed_forward(found, build, values)


def switched(build: Build, values: Mapping[str, Any]) -> Build:
    """The build with what config.json switches."""
    every = values.get("attention_bias", values.get("use_bias"))
    if values.get("model_type") == "falcon" and values.get("bias"):
        build = replace(build, qkv_bias=True, out_bias=True, mlp_bias=True)
    if isinstance(every, bool):
        build = replace(build, qkv_bias=every or (build.qkv_bias and "use_bias" not in values), out_bias=every)
    if isinstance(mlp := values.get("mlp_bias", values.get("use_bias")), bool):
        build = replace(build, mlp_bias=mlp)
    if values.get("new_decoder_architecture"):  # of Falcon: a norm for each half of a layer
        build = replace(build, norms=2)
    if isinstance(qkv := values.get("use_qkv_bias"), bool):
        build = replace(build, qkv_bias=qkv)
    return build


def attention(found: Facts, build: Build) -> int:
    """One layer's, with the norms of queries and keys."""
    hidden, query, key = found.hidden, found.heads * found.head_dim, found.kv_heads * found.head_dim
    biases = (query + 2 * key if build.qkv_bias else 0) + (hidden if build.out_bias else 0)
    norms = {"": 0, "head": 2 * found.head_dim, "whole": query + key}[build.qk_norms]
    return hidden * (2 * query + 2 * key) + biases + norms


def feed_forward(found: Facts, build: Build, values: Mapping[str, Any]) -> int:
    """Of all layers, experts and their router included."""
    dense = mlp(found.hidden, found.intermediate, found.gated, build.mlp_bias)
    if not found.experts:
        return found.layers * dense
    inner = values.get("moe_intermediate_size") or found.intermediate
    sparse = found.experts * (mlp(found.hidden, inner, found.gated, False) + found.hidden)
    shared = values.get("shared_expert_intermediate_size")
    if shared:
        sparse += mlp(found.hidden, shared, found.gated, False) + found.hidden
    plain = values.get("mlp_only_layers") or []
    every = values.get("decoder_sparse_step") or 1
    count = sum(layer not in plain and (layer + 1) % every == 0 for layer in range(found.layers))
    return count * sparse + (found.layers - count) * dense


def mlp(hidden: int, inner: int, gated: bool, bias: bool) -> int:
    return (3 if gated else 2) * hidden * inner + (hidden + (2 if gated else 1) * inner if bias else 0)
