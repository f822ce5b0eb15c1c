"""To a GGUF adapter: the two factors of each layer, which llama.cpp adds to a base of its own while it runs (`--lora`).

It is compared as it runs: llama.cpp loads the base, written as GGUF in float32 for that, and the adapter over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from truetune.engines import adapter as adapters
from truetune.engines.torch import files as stored
from truetune.errors import InputError, UsageError
from truetune.export import files
from truetune.export.gguf import model, tensors
from truetune.export.gguf import write as writing
from truetune.export.gguf.family import Model
from truetune.export.gguf.runtime import LlamaCpp
from truetune.export.origin import MLX_LM, Origin
from truetune.export.runtime import Options, Part, Runtime

FILE = "adapter.gguf"
BASE = ".base"
"""Folder of the base that the adapter is compared over; it goes when the program is closed."""
QUANTS = ()
PAIR = {"lora_A": "lora_a", "lora_B": "lora_b"}
MERGE = "Export the merged model: --format gguf."

Numbers = NDArray[np.float32]


def check(origin: Origin, options: Options) -> None:
    """Raises UsageError `export.no_adapter`, `export.unmergeable`, `export.packed`, InputError `export.lacks`, and what
    the format `gguf` refuses of the base."""
    side = origin.side
    if side.adapter is None and not origin.planned:
        raise UsageError(
            "this is a whole model, and a GGUF adapter is one",
            code="export.no_adapter",
            where=origin.name,
            hint="Export it as a model: --format gguf.",
        )
    model.check(origin, options)
    if side.bits:
        raise UsageError(
            f"the adapter was trained beside a base packed into {side.bits} bits, which llama.cpp packs otherwise",
            code="export.packed",
            where=origin.name,
            hint=MERGE,
        )
    if side.adapter is not None and side.engine != MLX_LM:
        refuse_more(side.adapter)


def refuse_more(folder: Path) -> None:
    """Refuse what is more than two factors per layer."""
    body = adapters.read_config(folder, adapters.KINDS)
    more = [name for name in ("use_dora", "modules_to_save", "trainable_token_indices") if body.get(name)]
    if body["peft_type"] != "LORA":
        more.append(f"peft_type {body['peft_type']}")
    if more:
        raise InputError(
            f"the adapter uses {more[0]}, which llama.cpp's adapters have not",
            code="export.lacks",
            where=str(folder / adapters.CONFIG),
            hint=MERGE,
        )


def write(origin: Origin, folder: Path, options: Options) -> None:
    """`adapter.gguf` in an existing folder, in float32, and the chat template of the training beside it.

    Raises InputError `adapter.damaged`, `export.lacks`.
    """
    adapter = origin.side.adapter
    assert adapter is not None
    found = writing.checked(origin.side.model)
    body = adapters.read_config(adapter, adapters.KINDS)
    writer = gguf.GGUFWriter(folder / FILE, gguf.MODEL_ARCH_NAMES[found.family.arch])
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(body["lora_alpha"]))
        about = model.about(origin)
        writer.add_name(about.name)
        for key, text in about.texts.items():
            writer.add_string(key, text)
        pour(writer, dict(factors(origin, found, body)))
    finally:
        writer.close()
    if origin.template:
        (folder / files.TEMPLATE).write_text(origin.template.source, "utf-8")


def pour(writer: gguf.GGUFWriter, every: Mapping[str, Numbers]) -> None:
    for name, numbers in every.items():
        tensors.announce(writer, name, numbers.shape, gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for numbers in every.values():
        writer.write_tensor_data(numbers)


def factors(origin: Origin, found: Model, body: Mapping[str, Any]) -> Iterator[tuple[str, Numbers]]:
    """Name in the file and numbers of each factor: A float32 [r, in], B float32 [out, r].

    llama.cpp multiplies B·A by alpha over rank; where PEFT's scale is another one, B holds the difference.
    """
    assert origin.side.adapter is not None
    names = gguf.get_tensor_name_map(found.family.arch, found.layers)
    placed = {entry.name for entry in tensors.entries(found, origin.side.model)}
    every = stored.load(origin.side.adapter / adapters.WEIGHTS, "adapter.damaged")
    for name, tensor in every.items():
        layer, _, kind = name.removeprefix(adapters.PREFIX).removesuffix(".weight").rpartition(".")
        place = names.get_name(f"{layer}.weight", try_suffixes=(".weight",))
        if kind not in PAIR or place not in placed:
            raise InputError(
                f"the tensor {name[:100]} has no place in a GGUF adapter",
                code="export.lacks",
                where=str(origin.side.adapter),
                hint=MERGE,
            )
        numbers = tensor.float().numpy()
        if kind == "lora_B":
            numbers = rows(found, layer, numbers) * np.float32(stretch(body, numbers.shape[1]))
        yield f"{place}.{PAIR[kind]}", np.ascontiguousarray(numbers)


def rows(found: Model, layer: str, numbers: Numbers) -> Numbers:
    """The rows of B in the order of the weight's rows."""
    for part, heads in tensors.HEADS.items():
        if found.family.permuted and f"{layer}.".endswith(part):
            return tensors.permuted(numbers, getattr(found, heads))
    return numbers


def stretch(body: Mapping[str, Any], rank: int) -> float:
    """PEFT's scale over llama.cpp's."""
    return math.sqrt(rank) if body.get("use_rslora") else 1.0


def reduce(origin: Origin, folder: Path, options: Options) -> None:
    """An adapter is stored as it was trained."""


class Over(LlamaCpp):
    """llama.cpp with the base in `room` and an adapter over it; the room goes when it is closed."""

    def __init__(self, origin: Origin, adapter: Path) -> None:
        self.room = adapter.parent / BASE
        self.room.mkdir()
        try:
            model.create(replace(origin, side=replace(origin.side, adapter=None)), self.room)
            super().__init__(self.room / model.FILE, (adapter,), composes=model.composes(origin))
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        for path in self.room.glob("*"):
            path.unlink()
        self.room.rmdir()

    def close(self) -> None:
        super().close()
        if self.room.is_dir():
            self.clear()


def runtime(origin: Origin, folder: Path, exact: bool) -> Runtime:
    return Over(origin, folder / FILE)


def parts(origin: Origin, folder: Path) -> Iterator[Part] | None:
    """Factors are not compared one by one: what they do is."""
    return None


def usage(origin: Origin, place: Path) -> str:
    spoken = f" --chat-template-file {quote(str(place / files.TEMPLATE))}" if origin.template else ""
    return f"llama-server -m BASE.gguf --lora {quote(str(place / FILE))}{spoken}"
