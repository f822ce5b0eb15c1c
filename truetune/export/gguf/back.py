"""The tensors of a GGUF file in transformers' layout again, beside what should stand there: to find what broke a file.

Written apart from `tensors.py`, which makes the file, so that a mistake there is not made here, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf import MODEL_ARCH
from numpy.typing import NDArray

from truetune.engines.base import EngineSpec
from truetune.engines.torch import folded, model
from truetune.export import merged, peft
from truetune.export.gguf import family
from truetune.export.gguf.family import Model
from truetune.export.origin import Origin
from truetune.export.runtime import Part

Numbers = NDArray[np.float32]
NOTHING = np.zeros(0, np.float32)


def parts(origin: Origin, file: Path) -> Iterator[Part]:
    """Every tensor that the trained model has, by transformers' name; the tensors of what is computed are left out."""
    side, found = origin.side, family.read(origin.side.model)
    if side.adapter is None:
        made, changed = model.load(EngineSpec(model=side.model)), set[str]()
    else:
        made = folded.folded(side.model, side.adapter, bits=side.bits, rows=peft.rows(side.adapter))
        changed = merged.touched(side.adapter)
    stored = {each.name: each for each in gguf.GGUFReader(file).tensors}
    names = gguf.get_tensor_name_map(found.family.arch, found.layers)
    for name, tensor in made.state_dict().items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place not in stored and name == "lm_head.weight":
            continue
        read = layout(found, str(place), stored[place].data) if place in stored else NOTHING
        yield Part(name, tensor.float().numpy(), read, any(one in name for one in changed))


def layout(found: Model, place: str, data: Numbers) -> Numbers:
    """A tensor of a float32 file as transformers holds it."""
    kind = place.split(".")[2] if place.startswith("blk.") else place.split(".")[0]
    if found.family.permuted and kind in ("attn_q", "attn_k"):
        return halves(data, found.heads if kind == "attn_q" else found.kv_heads)
    if found.family.shifted and kind.endswith("norm"):
        return data - np.float32(1)
    if found.family.arch == MODEL_ARCH.GPT2 and data.ndim == 2 and place.startswith("blk."):
        return data.T
    return data


def halves(data: Numbers, heads: int) -> Numbers:
    """Rows of neighbouring pairs as halves of each head: the even ones first, then the odd ones."""
    size = data.shape[0] // heads
    order = np.concatenate([head * size + np.r_[0:size:2, 1:size:2] for head in range(heads)])
    return np.asarray(data[order])
