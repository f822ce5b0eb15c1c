"""The tensors of a model folder as a GGUF file names, orders and stores them, one after another.

One tensor is in memory at a time: shapes come from the headers of the files, numbers when they are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import MODEL_ARCH
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from safetensors import safe_open

from truetune.errors import InputError
from truetune.export.gguf.family import Model
from truetune.models import facts, header, weights

TYPES = {"f32": Type.F32, "f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0}
"""Names of `--quant` -> number types that are written here."""
FILES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}
"""`general.file_type` of each."""
BLOCK = 32
"""Numbers of a row that share a scale in Q8_0."""
LEFT_OUT = re.compile(r"\.rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")
"""Buffers of older files, which are computed."""
CONV = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
"""GPT-2's layers, which are stored the other way round."""
HEADS = {".q_proj.": "heads", ".k_proj.": "kv_heads"}

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """A tensor: `name` in the GGUF file, `source` in `file`, and its shape as it is written."""

    name: str
    source: str
    file: Path
    shape: tuple[int, ...]
    change: Callable[[Numbers], Numbers]

    def read(self) -> Numbers:
        """float32, in the order in which it is written."""
        with safe_open(self.file, framework="pt") as opened:
            found = opened.get_tensor(self.source)
        return np.ascontiguousarray(self.change(found.to(torch.float32).numpy()))


def entries(found: Model, folder: Path) -> list[Entry]:
    """Every tensor of a folder that goes into the file. Raises InputError `export.tensor` for one without a place."""
    names = gguf.get_tensor_name_map(found.family.arch, found.layers)
    tied = bool(facts.language(facts.config(folder)).get("tie_word_embeddings", found.config.tie_word_embeddings))
    return [*entered(found, folder, names, tied)]


def entered(found: Model, folder: Path, names: gguf.TensorNameMap, tied: bool) -> Iterator[Entry]:
    for file in weights.shards(folder):
        for tensor in header.read(file):
            if LEFT_OUT.search(tensor.name) or (tied and tensor.name == "lm_head.weight"):
                continue
            name = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
            if name is None or (found.family.tied and tensor.name == "lm_head.weight"):
                raise unplaced(tensor.name, folder)
            shape = tensor.shape[::-1] if turned(found, tensor.name) else tensor.shape
            yield Entry(name, tensor.name, file, shape, changes(found, tensor.name))


def unplaced(name: str, folder: Path) -> InputError:
    return InputError(
        f"the tensor {name[:100]} has no place in a GGUF file of this architecture",
        code="export.tensor",
        where=str(folder),
        hint="A file without it would be another model. Export with --format merged.",
    )


def changes(found: Model, name: str) -> Callable[[Numbers], Numbers]:
    """What is done to the numbers of a tensor."""
    if turned(found, name):
        return np.transpose
    if found.family.shifted and name.endswith("norm.weight"):
        return lambda numbers: numbers + np.float32(1)
    for part, heads in HEADS.items():
        if found.family.permuted and part in name:
            count = getattr(found, heads)
            return lambda numbers: permuted(numbers, count)
    return lambda numbers: numbers


def turned(found: Model, name: str) -> bool:
    return found.family.arch == MODEL_ARCH.GPT2 and bool(CONV.search(name))


def permuted(numbers: Numbers, heads: int) -> Numbers:
    """Rows [heads · D, …] in the order in which the two elements of a rotary pair are neighbours: of each head the
    first of the lower half, the first of the upper half, the second of the lower half, …"""
    return (
        numbers.reshape(heads, 2, numbers.shape[0] // heads // 2, *numbers.shape[1:])
        .swapaxes(1, 2)
        .reshape(numbers.shape)
    )


def stored(name: str, shape: tuple[int, ...], kind: str) -> Type:
    """The number type of a tensor: vectors and positions stay float32; where the blocks of a type do not divide a row,
    float16."""
    if len(shape) == 1 or name.startswith(("position_embd", "rope_f")):
        return Type.F32
    wanted = TYPES[kind]
    return Type.F16 if wanted == Type.Q8_0 and shape[-1] % BLOCK else wanted


def announce(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: Type) -> None:
    """Name, shape and size of a tensor, before any numbers are written."""
    plain = {Type.F32: np.float32, Type.F16: np.float16}
    if kind in plain:
        dtype = np.dtype(plain[kind])
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
        return
    sizes = gguf.quant_shape_to_byte_shape(shape, kind)
    writer.add_tensor_info(name, sizes, np.dtype(np.uint8), int(np.prod(sizes)), raw_dtype=kind)


def packed(numbers: Numbers, kind: Type) -> NDArray[np.generic]:
    """The numbers in their type. Raises nothing: `stored` has chosen a type that fits."""
    return numbers if kind == Type.F32 else gguf.quants.quantize(numbers, kind)
