"""What travels with an export: the files of a model, of an adapter, and of the tokenizer and template beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from truetune.data import added
from truetune.data.turns import stop_ids
from truetune.engines import adapter as adapters
from truetune.export.origin import Origin
from truetune.models import settled, source
from truetune.runs import jsonfile
from truetune.train.reading import text_ends

BESIDE = tuple(name for name in source.DEFINING if name != "config.json")
TEMPLATE, TOKENIZER = "chat_template.jinja", "tokenizer.json"
CLASS, SETTINGS = "tokenizer_config.json", "generation_config.json"


def model(folder: Path, target: Path) -> None:
    """All that defines a model, links followed, with its card."""
    copy([*source.files(folder), *card(folder)], target)


def adapter(folder: Path, target: Path) -> None:
    """An adapter in PEFT's layout, with its card. Raises InputError as `adapter.read_config`."""
    adapters.read_config(folder, adapters.KINDS)
    copy([folder / adapters.CONFIG, folder / adapters.WEIGHTS, *card(folder)], target)


def card(folder: Path) -> list[Path]:
    return [path for path in [folder / "README.md"] if path.is_file()]


def spoken(origin: Origin, target: Path) -> None:
    """How it is asked: the base's tokenizer and settings, over them the adapter's own, the template of the training,
    and the tokens at which its answers end, which other programs read in generation_config.json and nowhere else."""
    for folder in (origin.side.model, origin.side.adapter):
        if folder:
            companions(folder, target)
    if origin.subject is None:
        return
    brought = origin.run.resolved.get("new_tokens") if origin.run else ()
    if brought and not (origin.side.adapter and (origin.side.adapter / TOKENIZER).is_file()):
        added.write(target / TOKENIZER, brought)
    encode, template = origin.subject.tokenizer, origin.template
    settled.complete(target, encode)
    if not (target / CLASS).is_file():  # without it a tokenizer is taken for that of the model's architecture
        body = {"tokenizer_class": "PreTrainedTokenizerFast", **encode.tokens}
        (target / CLASS).write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", "utf-8")
    if template:
        (target / TEMPLATE).write_text(template.source, "utf-8")
    path = target / SETTINGS
    settings = jsonfile.load(path) if path.is_file() else {}
    stops = stop_ids(template, encode) if template else text_ends(encode)
    named = settings.get("eos_token_id")
    if stops - set(named if isinstance(named, list) else [named]):
        text = json.dumps(settings | {"eos_token_id": sorted(stops)}, indent=2, sort_keys=True)
        path.write_text(text + "\n", "utf-8")


def companions(folder: Path, target: Path) -> None:
    """Tokenizer, template and settings of generation, where a folder brings them."""
    copy((folder / name for name in BESIDE if (folder / name).is_file()), target)


def copy(paths: Iterable[Path], target: Path) -> None:
    for path in paths:
        shutil.copyfile(path, target / path.name)
