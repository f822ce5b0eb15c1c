"""What a run leaves behind: the adapter in PEFT's layout (or the whole model), its tokenizer and settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from truetune.data import added, objectives
from truetune.engines.base import TrainEngine
from truetune.models import settled, tokenizer
from truetune.runs import durable
from truetune.runs.run import Run

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""Files of the base that go with the result, so that it is prompted as it was trained."""


def folder(run: Run, method: str) -> Path:
    """`adapter/`, or `model/` where all weights were trained."""
    return run.folder / ("model" if method == "full" else "adapter")


def write(run: Run, engine: TrainEngine, resolved: dict[str, Any], template: str | None, stops: Iterable[int]) -> Path:
    """Put the trained result into the run, whole or not at all; returns its folder.

    `template` is the chat template that the rows were rendered with; it goes before the base's own.
    `stops` are the tokens at which an answer ends: other programs read them here and nowhere else.
    """
    target, base = folder(run, resolved["config"]["method"]["type"]), Path(resolved["model"]["folder"])

    def fill(aside: Path) -> None:
        engine.export(aside)
        for name in TOKENIZER:
            if (base / name).is_file():
                shutil.copyfile(base / name, aside / name)
        if (base / tokenizer.PIECES).is_file():
            settled.complete(aside, tokenizer.shared(base))
        if resolved.get("new_tokens"):
            added.write(aside / "tokenizer.json", resolved["new_tokens"])
        if template is not None:
            (aside / "chat_template.jinja").write_text(template, encoding="utf-8")
        if objectives.of(resolved["config"]["training"]["objective"]).scores:
            return  # it writes nothing
        settings = resolved["config"]["generation"]
        ends = {"do_sample": settings["temperature"] > 0, "eos_token_id": sorted(stops)}
        text = json.dumps(settings | ends, indent=2, sort_keys=True)
        (aside / "generation_config.json").write_text(text + "\n", encoding="utf-8")

    durable.place(target, fill, replace=True)
    return target
