"""Is a GGUF file the model that it should be? Rows of every tensor, for models that no memory here holds.

A row is computed again in float64 from the base's files and the adapter's, and looked for where llama.cpp's layout has
it: by formulas of its own, so that a mistake in `tensors.py`, which writes the file, is not made here, too.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import MODEL_ARCH
from gguf import GGMLQuantizationType as Type

from truetune.export import sampled
from truetune.export.gguf import family
from truetune.export.gguf.family import Model
from truetune.export.sampled import Numbers, Sampled
from truetune.export.streamed import Fold

ROUNDING = {
    Type.F32: 1e-5, Type.F16: 2.0**-10, Type.BF16: 2.0**-7, Type.Q8_0: 0.01, Type.Q6_K: 0.05, Type.Q5_K: 0.1,
    Type.Q5_0: 0.1, Type.Q5_1: 0.1, Type.Q4_K: 0.2, Type.Q4_0: 0.2, Type.IQ4_NL: 0.3, Type.Q3_K: 0.4, Type.Q2_K: 0.6,
}  # fmt: skip
"""What a number type rounds away, as a share of a row's largest number."""


def check(fold: Fold, file: Path) -> Sampled:
    """Every weight of the model that the file is of. Raises ValueError, OSError for a damaged file."""
    found, base = family.read(fold.model), fold.weights
    stored = {each.name: each for each in gguf.GGUFReader(file).tensors}
    names = gguf.get_tensor_name_map(found.family.arch, found.layers)
    largest, rows, changed = 0.0, 0, len(fold.changed)
    for name in sorted(base):
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place not in stored:
            if name == "lm_head.weight" or place is None:
                continue  # the embedding's other name, or a buffer: `tensors.entries` refuses what has no place
            return Sampled(len(stored), changed, rows, largest, f"{name} is not in the file")
        each = stored[place]
        wanted = base[name]
        for row in sampled.chosen(wanted):
            expected = np.atleast_1d(sampled.expected(wanted, fold.changed.get(name), row))
            there = np.atleast_1d(row_of(found, place, each, row))
            if expected.shape != there.shape:
                return Sampled(len(stored), changed, rows, largest, f"{name} has another shape")
            largest = max(largest, sampled.beside(expected, there, ROUNDING[each.tensor_type]))
            rows += 1
            if not largest <= 1:
                return Sampled(len(stored), changed, rows, largest, f"{name} is not what base and adapter make")
    return Sampled(len(stored), changed, rows, largest, rest="not looked at")


def row_of(found: Model, place: str, each: gguf.ReaderTensor, row: int) -> Numbers:
    """A row of transformers' layout, float64, out of the file's."""
    kind = place.split(".")[2] if place.startswith("blk.") else place.split(".")[0]
    if found.family.arch == MODEL_ARCH.GPT2 and len(each.shape) == 2 and place.startswith("blk."):
        return np.asarray(plain(each, slice(None))[:, row], np.float64)
    if found.family.permuted and kind in ("attn_q", "attn_k"):
        row = neighbour(row, each.data.shape[0] // (found.heads if kind == "attn_q" else found.kv_heads))
    values = np.asarray(plain(each, slice(row, row + 1))[0], np.float64)
    return values - 1 if found.family.shifted and kind.endswith("norm") else values


def neighbour(row: int, size: int) -> int:
    """Where a row of a head of `size` rows stands once rotary pairs are neighbours and not halves."""
    head, within = divmod(row, size)
    half, first = divmod(within, size // 2)
    return head * size + 2 * first + half


def plain(each: gguf.ReaderTensor, rows: slice) -> Numbers:
    """float32 numbers of some rows."""
    found: Numbers = gguf.quants.dequantize(each.data[rows], each.tensor_type)
    return found
