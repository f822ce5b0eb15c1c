"""Tiny models that speak, with adapters that change every answer: an oracle for exports in a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.models.source import STARTER
from truetune.testing import examples

SPOKEN = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
VOCABULARY = 4096
"""Of the starter's tokenizer."""
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen 2's tokenizer cuts a text: transformers has that built into the class which it takes for Qwen 2's folders,
and reads no other from tokenizer.json."""
OVERRIDES = {"gemma2": {"sliding_window": 4096}}
"""Settings without which mlx_lm computes otherwise: its Gemma 2 has no window."""


def make(folder: Path, architecture: str = "llama", method: Method | None = None, *, seeds: int = 2) -> Path:
    """`model/`, and `adapter/` trained on it for `seeds` steps; returns the adapter's folder."""
    overrides = {"vocab_size": VOCABULARY} | OVERRIDES.get(architecture, {})
    model = speaking(tiny.make(folder / "model", architecture, **overrides))
    as_on_the_hub(model / "config.json")
    if architecture == "qwen2":
        cut_as_qwen(model / "tokenizer.json")
    return trained(model, folder / "adapter", method, seeds=seeds)


def speaking(folder: Path) -> Path:
    """With the starter's tokenizer, template and ends."""
    for name in SPOKEN:
        shutil.copyfile(STARTER / name, folder / name)
    return folder


def trained(model: Path, folder: Path, method: Method | None = None, *, seeds: int = 2) -> Path:
    engine = TorchEngine(EngineSpec(model=model, method=method or Method(r=3, alpha=10), base=str(model)))
    for seed in range(seeds):
        engine.step(engine.prepare(examples(seed=seed)), 5e-2)
    folder.mkdir(parents=True)
    engine.export(folder)
    engine.close()
    return folder


def as_on_the_hub(path: Path) -> None:
    """With the rotary base where the hub's files have it and mlx_lm reads it; transformers 5 writes it elsewhere."""
    body = json.loads(path.read_text("utf-8"))
    rope = body.get("rope_parameters") or {}
    if "rope_theta" in rope:
        path.write_text(json.dumps(body | {"rope_theta": rope["rope_theta"]}), "utf-8")


def cut_as_qwen(path: Path) -> None:
    body = json.loads(path.read_text("utf-8"))
    split = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    body["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, plain]}
    body["normalizer"] = {"type": "NFC"}
    path.write_text(json.dumps(body), "utf-8")
