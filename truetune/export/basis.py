"""The weights of a base as an adapter stands over them, a tensor at a time: as they are stored, or as they read back
where the base was packed for the training, or is stored packed.

Packing and unpacking are bitsandbytes', as the engine's: the adapter was trained beside exactly these numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from truetune.engines.torch import config, model, quantised
from truetune.engines.torch.quantised import Quantised, library
from truetune.errors import InputError
from truetune.models import facts, header, packed, tensorfile, weights
from truetune.models.tensorfile import Place

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Number types of weights that are folded into, by their names in safetensors."""
BLOCK = 1 << 21
"""Numbers that are in hand at once."""
SHARED = 64
"""Numbers of 4 bits that share a scale."""
STATE = ".quant_state.bitsandbytes__"


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor of a base. `tensor` is its name, number type and shape where nothing packs it; `whole` unpacks it,
    float32, None where its bytes are its numbers."""

    place: Place
    tensor: header.Tensor
    whole: Callable[[], torch.Tensor] | None = None

    @property
    def rows(self) -> int:
        return self.tensor.shape[0] if self.tensor.shape else 1

    def read(self, first: int, last: int) -> torch.Tensor:
        """Rows `first … last − 1`, of a packed one in float32, else in its number type."""
        if self.whole is not None:
            return unpacked(self)[first:last]
        found = torch.frombuffer(self.place.read(first, last), dtype=DTYPES[self.tensor.dtype])
        return found.view(last - first, *self.tensor.shape[1:])

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(first, last) of one part of the rows after another."""
        step = max(1, BLOCK // max(1, self.tensor.size // max(self.rows, 1)))
        for first in range(0, self.rows, step):
            yield first, min(first + step, self.rows)


@lru_cache(maxsize=1)
def unpacked(weight: Weight) -> torch.Tensor:
    """The tensor that was asked for last stays: it is read by rows."""
    assert weight.whole is not None
    return weight.whole()


def read(folder: Path, bits: int) -> dict[Path, list[Weight]]:
    """Every weight by its file, in the order of its data; `bits` is how the training packed the base while it loaded.

    Raises InputError as `weights.shards`, `model.damaged`.
    """
    try:
        every = {path: tensorfile.places(path) for path in weights.shards(folder)}
    except (ValueError, OSError) as error:
        raise InputError(
            f"a weight file is cut off or damaged: {error}",
            code="model.damaged",
            where=str(folder),
            hint="download or copy the model again",
        ) from error
    if facts.read(folder).bits:
        return stored(every, layers(folder))
    if not bits:
        return {path: [Weight(place, place.tensor) for place in found] for path, found in every.items()}
    wanted = layers(folder, left=True)
    return {path: [packing(place, wanted, bits) for place in found] for path, found in every.items()}


def layers(folder: Path, left: bool = False) -> dict[str, bool]:
    """Linear layers by name -> whether they keep their weight transposed, as GPT-2's do; with `left` only those that
    are packed while a model loads."""
    kind, settings = model.causal(config.read(folder))
    with torch.device("meta"):
        made = kind._from_config(settings)
    keys = get_keys_to_not_convert(made) if left else []
    linear = ((name, one) for name, one in made.named_modules() if type(one) is nn.Linear or isinstance(one, Conv1D))
    return {name: isinstance(one, Conv1D) for name, one in linear if should_convert_module(name, keys)}


def find(name: str, wanted: Mapping[str, bool]) -> bool | None:
    """What `wanted` says of the layer of a weight; some files leave out the name of the model around it."""
    module = name.removesuffix(".weight")
    if module == name:
        return None
    found = [value for layer, value in wanted.items() if layer == module or layer.partition(".")[2] == module]
    return found[0] if found else None


def packing(place: Place, wanted: Mapping[str, bool], bits: int) -> Weight:
    """A weight of a plain base that was packed while it loaded."""
    transposed = find(place.tensor.name, wanted)
    if transposed is None or place.tensor.dtype not in DTYPES:
        return Weight(place, place.tensor)

    def whole() -> torch.Tensor:
        dense = torch.frombuffer(place.read(), dtype=DTYPES[place.tensor.dtype]).view(place.tensor.shape)
        found = there_and_back(dense.t().contiguous() if transposed else dense, bits)
        return found.t().contiguous() if transposed else found

    return Weight(place, place.tensor, whole)


@torch.no_grad()
def there_and_back(dense: torch.Tensor, bits: int) -> torch.Tensor:
    """[O, I] packed as the engine's loader does it, and unpacked, float32; some rows at a time, because packing takes
    several times what it packs. Where blocks of 4 bits reach over the end of a row, all at once."""
    if bits == 4 and dense.shape[1] % SHARED:
        made = library().nn.Params4bit(dense.float(), requires_grad=False, quant_type="nf4").to("cpu")
        return dense_of(made.data, made.quant_state, dense.shape, False)
    step = max(1, BLOCK // dense.shape[1])
    return torch.cat((eight_bits if bits == 8 else four_bits)(torch.split(dense, step)))


def eight_bits(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    functional = library().functional
    made = (functional.int8_vectorwise_quant(rows.half()) for rows in parts)
    return [functional.int8_vectorwise_dequant(packed_, scales) for packed_, scales, _ in made]


def four_bits(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """NF4 in blocks of 64 numbers; their scales are rounded together, to 8 bits in blocks of 256."""
    functional = library().functional
    made = [functional.quantize_4bit(rows.float(), blocksize=SHARED, quant_type="nf4") for rows in parts]
    scales = torch.cat([state.absmax for _, state in made])
    mean = scales.mean()
    rounded = functional.dequantize_blockwise(*functional.quantize_blockwise(scales - mean, blocksize=256)) + mean
    for (_, state), own in zip(made, rounded.split([len(state.absmax) for _, state in made]), strict=True):
        state.absmax = own
    return [quantised.unpacked(data, state) for data, state in made]


def dense_of(data: torch.Tensor, scales: Any, shape: tuple[int, ...], transposed: bool) -> torch.Tensor:
    """What is stored packed, unpacked: float32 [O, I], with `transposed` [I, O]."""
    found: torch.Tensor = Quantised(data, scales, (shape[0], shape[1]), torch.float32).weight
    return found.t().contiguous() if transposed else found


def stored(every: Mapping[Path, list[Place]], wanted: Mapping[str, bool]) -> dict[Path, list[Weight]]:
    """The weights of a base that is stored packed; what says how to unpack them is left out."""
    places = {place.tensor.name: place for found in every.values() for place in found}
    return {
        path: [opened(place, places, wanted) for place in found if not packed.STATE.search(place.tensor.name)]
        for path, found in every.items()
    }


def opened(place: Place, places: Mapping[str, Place], wanted: Mapping[str, bool]) -> Weight:
    name, transposed = place.tensor.name, bool(find(place.tensor.name, wanted))
    state = next((other for key, other in places.items() if key.startswith(name + STATE)), None)
    if state is not None:
        shape = tuple(json.loads(bytes(state.read()))["shape"])
        states = {key: other for key, other in places.items() if key.startswith(name + ".")}
        whole = lambda: four(place, states, shape, transposed)  # noqa: E731
    elif place.tensor.dtype == "I8":
        shape, scales = place.tensor.shape, places[name.removesuffix("weight") + "SCB"]
        whole = lambda: dense_of(tensor(place), tensor(scales), shape, transposed)  # noqa: E731
    else:
        return Weight(place, place.tensor)
    return Weight(place, header.Tensor(name, "F32", shape[::-1] if transposed else shape), whole)


def four(place: Place, states: Mapping[str, Place], shape: tuple[int, ...], transposed: bool) -> torch.Tensor:
    stats = {key: tensor(other) for key, other in states.items()}
    made = library().nn.Params4bit.from_prequantized(tensor(place), stats, requires_grad=False, device="cpu")
    return dense_of(made.data, made.quant_state, shape, transposed)


PACKED = {"U8": torch.uint8, "I8": torch.int8, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def tensor(place: Place) -> torch.Tensor:
    return torch.frombuffer(place.read(), dtype=PACKED[place.tensor.dtype]).view(place.tensor.shape)
