"""Looks at a model as far as that needs no weights: config, tokenizer, and a chat template that must render."""

from __future__ import annotations

from pathlib import Path

from truetune.models import facts, gate, tokenizer
from truetune.models.tokenizer import Tokenizer

ASKED = ({"role": "user", "content": "What is it?"},)
ANSWERED = (*ASKED, {"role": "assistant", "content": "It is this."})


def look(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder that passes; None where it has none in a file that can be read without an engine.

    Raises InputError: as `gate.check`, `model.bad_tokenizer`, `model.template`, `model.template_name`, `data.template`
    for a template that renders no plain question and answer.
    """
    gate.refuse_files(folder)
    gate.check(facts.config(folder), folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", tokenizer.PIECES)):
        return None
    found = tokenizer.load(folder)
    if found.template:
        found.template.render(ASKED, add_generation_prompt=True)
        found.template.render(ANSWERED)
    return found
