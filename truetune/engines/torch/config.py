"""A model's configuration from what the gate has checked: the class is transformers', the file only gives values.

Only fields of the model type's class are taken over. What else stands in the file cannot reach transformers, whose
loaders look for more than sizes in there: code to import, kernels to fetch, other files to open.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from truetune import plugins
from truetune.errors import InputError
from truetune.models import facts, gate, kinds, packed, weights
from truetune.models.kinds import Kind

LEGACY = {
    "attention_head_size", "conv_act", "conv_groups", "conv_kernel_size", "global_attn_every_n_layers",
    "global_rope_theta", "local_rope_theta", "n_embed", "norm_rel_ebd", "num_labels", "partial_rotary_factor",
    "pooler_hidden_size", "position_buckets", "rope_local_base_freq", "rope_scaling", "rope_theta", "rotary_emb_base",
    "rotary_pct", "share_att_key", "sliding_window_pattern",
}  # fmt: skip
"""Names of older files, which the classes still read, and those that DeBERTa's reads beside its fields."""
SPOKEN = {
    "_attn_implementation", "_attn_implementation_internal", "_commit_hash", "_name_or_path", "attn_implementation",
    "auto_map", "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "do_sample", "dtype",
    "early_stopping", "experts_implementation", "finetuning_task", "length_penalty", "max_length", "min_length",
    "model_type", "name_or_path", "num_beams", "output_attentions", "prefix", "pruned_heads", "quantization_config",
    "remove_invalid_values", "repetition_penalty", "sep_token_id", "task_specific_params", "temperature", "top_k",
    "top_p", "torch_dtype", "torchscript", "unsloth_version", "use_bfloat16",
}  # fmt: skip
"""Keys that are left out and not worth a word: habits of older files, and settings of generation, which stand in
generation_config.json. The engine chooses type and attention itself."""


def read(folder: Path) -> PreTrainedConfig:
    """The configuration of a folder. Raises InputError as the gate does; ValueError for a type that transformers lacks
    and for layers beyond the weights; what the class raises for values that it does not take."""
    values = facts.config(folder)
    gate.check(values, folder)
    kept, _ = split(values)
    found = config_class(values)(**bounded(kept, folder))
    if stored := packed.settings(values):
        found.quantization_config = stored
    return found


def ignored(folder: Path) -> list[str]:
    """Keys of config.json that no class reads, and code files: what a note should name."""
    try:
        return [word(name) for name in split(facts.config(folder))[1] + gate.code(folder)]
    except ValueError:  # a type that transformers lacks: loading says so
        return []


def word(name: str) -> str:
    """A stranger's name for a message: short, and without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:60])


def config_class(values: dict[str, Any]) -> type[PreTrainedConfig]:
    """As AutoConfig chooses it: Mistral's files with layers of two kinds are Ministral's. Raises ValueError."""
    kind = values.get("model_type")
    if kind == "mistral" and "layer_types" in values:
        kind = "ministral"
    if kind not in CONFIG_MAPPING and (other := brought(kind)):
        register(other)
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"this version of transformers has no model type {kind!r}")
    return CONFIG_MAPPING[kind]


def brought(model_type: Any) -> Kind | None:
    """What a package brings for a type that transformers does not have itself. Raises InputError `plugin.unusable`."""
    return None if model_type in CONFIG_MAPPING_NAMES else kinds.of(str(model_type))


def register(kind: Kind) -> None:
    """Have a package give its classes to transformers. Raises InputError `plugin.unusable`."""
    try:
        plugins.part(plugins.MODELS, kind.name, kind.register)()
    except InputError:
        raise
    except Exception as error:  # whatever a package of somebody else's does
        raise plugins.unusable(plugins.MODELS, kind.name, f"{type(error).__name__}: {error}") from error
    if kind.name not in CONFIG_MAPPING:
        raise plugins.unusable(plugins.MODELS, kind.name, "it does not register this type with AutoConfig")


def split(values: dict[str, Any], place: str = "", cls: type[PreTrainedConfig] | None = None) -> tuple[dict, list[str]]:
    """(what the class has fields for, the names of the rest), also one level down, where a model has parts."""
    cls = cls or config_class(values)
    fields = {field.name for field in dataclasses.fields(cls)} | {*inspect.signature(cls).parameters} | LEGACY
    fields |= {*cls.attribute_map.keys(), *cls.attribute_map.values()}  # Qwen3-MoE's is written by its other name
    kept: dict[str, Any] = {}
    unknown: list[str] = []
    for name, value in values.items():
        part = cls.sub_configs.get(name)
        if part is not None and isinstance(value, dict):
            inner = config_class(value) if part is AutoConfig else part
            below, left = split(value, f"{place}{name}.", inner)
            # A part of several possible classes is told by its type, which is a class's name and no field.
            kept[name] = below | ({"model_type": value["model_type"]} if part is AutoConfig else {})
            unknown += left
        elif name in fields and name not in SPOKEN:
            kept[name] = value
        elif name not in SPOKEN:
            unknown.append(place + name)
    return kept, sorted(unknown)


def bounded(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values, if the weights can have that many layers: building them takes time and memory before any weight is
    looked at. Raises ValueError."""
    most = len(weights.tensors(folder))
    for key, value in gate.walk(values):
        if key in facts.NAMES["layers"] and isinstance(value, int) and value > most:
            raise ValueError(f"config.json says {value:,} layers, but the weights have {most:,} tensors")
    return values


def part(mapping: Any, settings: PreTrainedConfig) -> tuple[Any, PreTrainedConfig]:
    """A task's class of transformers for a configuration, and the part of the configuration that this class takes."""
    found = mapping[type(settings)]
    kind = found[0] if isinstance(found, tuple) else found
    text = settings.sub_configs.get("text_config")
    return kind, settings.get_text_config() if text and kind.config_class is text else settings
