"""GGUF files behind the same routes: llama.cpp in the decoder's place, with prompts that are rendered and encoded here.

A file brings its tokenizer and its chat template, which the export has compared with those of the training. The
template is rendered by us, and llama.cpp is given ids: it never puts a conversation together itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from truetune.engines.gguf import decoder
from truetune.engines.gguf.decoder import ADAPTER, GgufDecoder
from truetune.errors import InputError, UsageError
from truetune.evaluate.subject import Subject
from truetune.models import gguf_header
from truetune.models.source import Source
from truetune.serve.grammar import Schema
from truetune.serve.names import Served, checked
from truetune.serve.opening import Room
from truetune.serve.requests import Limits, Request
from truetune.serve.scheduler import Scheduler
from truetune.serve.service import Service

ENDING = ".gguf"
SIGNS = re.compile(r"[^A-Za-z0-9._@:-]+")


@dataclass(frozen=True)
class File:
    """A GGUF file: a model, or an adapter of one."""

    path: Path
    name: str
    adapter: bool


class Files(Scheduler):
    """A scheduler that refuses what llama.cpp does not do before a request takes a place."""

    def check(self, request: Request) -> None:
        super().check(request)
        decoder.check(request.sampling)
        if self.tokenizer.eos_ids and not request.sampling.stops & {*self.tokenizer.eos_ids}:
            raise decoder.unserved("`ignore_eos`")

    def grammar(self, schema: Mapping[str, Any]) -> Schema:
        raise decoder.unserved("`response_format` with a schema")


def place(address: str) -> Path | None:
    """The GGUF file at an address: itself, or the one of a folder that holds no other model; None where there is none.

    Raises InputError `model.missing`, UsageError `serve.several_files`.
    """
    path = Path(address).expanduser()
    if path.suffix == ENDING:
        if not path.is_file():
            raise InputError(
                f"there is no file `{address}`", code="model.missing", where=address, hint="Name one that is there."
            )
        return path
    if not path.is_dir() or any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return None
    found = sorted(path.glob(f"*{ENDING}"))
    if len(found) > 1:
        raise UsageError(
            f"the folder holds {len(found)} GGUF files",
            code="serve.several_files",
            where=address,
            hint=f"Name one, such as {found[0]}.",
        )
    return found[0] if found else None


def of(path: Path) -> File:
    """A file and the name that it gives itself, else its own or its folder's. Raises InputError `model.bad_gguf`."""
    keys = gguf_header.check(path).keys
    own = path.stem if path.stem not in ("model", "adapter") else path.resolve().parent.name
    given = keys.get("general.name")
    name = SIGNS.sub("-", str(given or own)).strip("-.")[:64] or "model"
    return File(path, name, keys.get("general.type") == ADAPTER)


def opened(paths: Sequence[Path], *, room: Room) -> Service:
    """The service of one model's file, and of adapters' files over it.

    Raises what `GgufDecoder` raises, UsageError `serve.one_model`, `serve.name`.
    """
    files = [of(path) for path in paths]
    models = [file for file in files if not file.adapter]
    if len(models) != 1:
        raise UsageError(
            f"a server has one model, and these files hold {len(models)}",
            code="serve.one_model",
            where=", ".join(str(path) for path in paths),
            hint="Name one model's file, and after it those of adapters that belong to it.",
        )
    (model,), adapters = models, [file for file in files if file.adapter]
    opening = GgufDecoder(model.path, [file.path for file in adapters], slots=room.slots)
    scheduler = Files(lambda: opening, opening.tokenizer, Limits(queue=room.queue))
    try:
        base = Served(checked(model.name), subject(model, opening), None, str(model.path))
        service = Service(scheduler, base, refuse, timeout=room.timeout)
        for number, file in enumerate(adapters):
            name = file.name if service.names.find(file.name) is None else f"{file.name}-{number + 1}"
            key = f"{checked(name)}#{number}"
            loaded = scheduler.load(key, file.path)
            own = replace(base.subject, name=str(file.path), adapter=file.path)
            service.names.point(Served(name, own, key, str(file.path), base.id, loaded.mixed))
    except BaseException:
        scheduler.close()
        raise
    return service


def subject(file: File, opening: GgufDecoder) -> Subject:
    source = Source(file.path.resolve(), file.name, "folder")
    encode = opening.tokenizer
    return Subject(file.name, source, encode, encode.template or encode.plain())


def refuse(address: str) -> NoReturn:
    """What a request names to be loaded. Raises UsageError `serve.fixed`."""
    raise decoder.fixed()
