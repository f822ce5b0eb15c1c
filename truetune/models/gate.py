"""The gate of a model folder: what its files may not ask for. Nothing behind it runs code of a folder.

A folder is data: safetensors, JSON, a tokenizer and a template. Code that it brings (`modeling_x.py`) is never
imported; a config that needs it is refused, and one that has it as a habit of its time is read without it. What the
engine builds a model from is the dictionary that was checked here, not the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truetune.errors import InputError
from truetune.models import packed

NATIVE = frozenset(
    """
    arcee bamba bert bloom cohere cohere2 deepseek_v2 deepseek_v3 dots1 ernie4_5 ernie4_5_moe exaone4 falcon falcon_h1
    falcon_mamba gemma gemma2 gemma3 gemma3_text glm glm4 glm4_moe gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj
    granite granitemoe helium hunyuan_v1_dense jamba lfm2 llama mamba mamba2 minicpm3 minimax ministral mistral mixtral
    modernbert mpt nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe
    qwen3_next recurrent_gemma roberta seed_oss smollm3 stablelm starcoder2 zamba zamba2
    """.split()  # noqa: SIM905
)
"""Model types whose code is in transformers, so that code that a folder offers (`auto_map`) is never needed."""
CODE = ("auto_map", "model_file", "custom_pipelines", "custom_generate", "trust_remote_code")
"""Keys that make a loader run what a folder or a repository brings."""
FILES = ("transformers_weights", "gguf_file", "adapter_path")
"""Keys that make a loader open another file than the one that was checked."""
KERNELS = re.compile(r"(attn|experts)_implementation")
"""These name a way to compute; a value that is no plain word names a repository with code."""
KIND = re.compile(r"[A-Za-z0-9_.-]{1,64}")
SIZES = {"tokenizer.json": 2**27, "model.safetensors.index.json": 2**26}
"""Bytes of the largest text file by name; else `SIZE`."""
SIZE = 2**24
TEXTS = (".json", ".jinja", ".txt", ".model")


def check(config: dict[str, Any], folder: Path) -> None:
    """Raises InputError: `model.custom_code`, `model.other_file`, `model.quantized`, `model.bad_config`, `model.link`,
    `model.too_large`."""
    refuse_names(config, folder)
    refuse_code(config, folder)
    packed.refuse(config, folder)
    refuse_files(folder)


def refuse_code(config: dict[str, Any], folder: Path) -> None:
    """Refuse a config that needs code of its own, or another file, at any depth."""
    native = config.get("model_type") in NATIVE
    for key, value in walk(config):
        if (key in CODE and value not in (None, False) and not (key == "auto_map" and native)) or _kernel(key, value):
            raise InputError(
                f"the model asks to run code of its own (`{key}` in config.json), which TrueTune does not do",
                code="model.custom_code",
                where=str(folder / "config.json"),
                hint="use a model whose architecture is part of transformers, such as Llama, Mistral, Qwen or Gemma",
            )
        if key in FILES and value:
            raise InputError(
                f"config.json names another file to load (`{key}`)",
                code="model.other_file",
                where=str(folder / "config.json"),
                hint="put the weights into model.safetensors and remove the key",
            )


def _kernel(key: str, value: Any) -> bool:
    """Whether a way to compute is code of a repository."""
    plain = value is None or (isinstance(value, str) and value.replace("_", "").isalnum())
    return bool(KERNELS.search(key)) and not plain


def refuse_names(config: dict[str, Any], folder: Path) -> None:
    """A type and an architecture are words; they are shown in messages and looked up in tables."""
    architectures = config.get("architectures") or []
    kinds = [config.get("model_type") or "", *(architectures if isinstance(architectures, list) else [None])]
    if all(isinstance(kind, str) and (not kind or KIND.fullmatch(kind)) for kind in kinds):
        return
    raise InputError(
        "config.json has no usable `model_type` or `architectures`",
        code="model.bad_config",
        where=str(folder / "config.json"),
        hint="download or copy the model again",
    )


def refuse_files(folder: Path) -> None:
    """Refuse text files that are too large to be what they are called, or lead out of the folder.

    Weights may lie elsewhere: they are only ever read as numbers. A text file is copied into results and shown.
    """
    room, blobs = folder.resolve(), folder.resolve().parents[1:2]
    roots = [room, *(base / "blobs" for base in blobs if room.parent.name == "snapshots")]  # the hub's cache
    for path in sorted(folder.iterdir()):
        if path.suffix not in TEXTS or not path.is_file():
            continue
        if not any(path.resolve().is_relative_to(root) for root in roots):
            hint = f"if the file is meant, put a copy of it in place of the link: {path.resolve()}"
            raise InputError(f"{path.name} leads out of the folder", code="model.link", where=str(path), hint=hint)
        if path.stat().st_size > SIZES.get(path.name, SIZE):
            hint = "download or copy the model again"
            raise InputError(f"{path.name} is far too large", code="model.too_large", where=str(path), hint=hint)


def code(folder: Path) -> list[str]:
    """The folder's own code, which is never imported: to be named in a note."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".py", ".so", ".pyc"))


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def parse(path: Path) -> Any:
    """A JSON file's value. Raises ValueError, also for what is nested without end, and OSError."""
    if not path.is_file():  # a device would be read without end
        raise FileNotFoundError(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
