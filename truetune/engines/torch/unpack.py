"""A packed base on a GPU: the next layer is unpacked while this one computes.

Unpacking waits for memory, a product for arithmetic, so the two go on beside one another: unpacking on a stream of its
own, into one of two kept buffers, while the product reads the other. What comes next is what came next the last time,
told apart by forward, recomputing and backward; a wrong guess costs an unpacking and nothing else, for what is handed
out is checked to be the layer's that asks. The buffers are as large as the largest layer, and go with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from truetune.engines.torch import quantised, trial
from truetune.engines.torch.quantised import Quantised


class Streams(Protocol):
    """Two queues of a device's work: the one that computes, and one beside it."""

    def beside(self) -> AbstractContextManager[Any]:
        """What is asked for inside goes to the queue beside."""

    def mark(self) -> Any:
        """The place that the current queue has come to."""

    def wait(self, mark: Any) -> None:
        """Nothing more of the current queue before that place is reached."""


class Cuda:
    def __init__(self, device: torch.device) -> None:
        self.device, self.side = device, torch.cuda.Stream(device)

    def beside(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self.side)

    def mark(self) -> torch.cuda.Event:
        return torch.cuda.current_stream(self.device).record_event()

    def wait(self, mark: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(mark)


@dataclass
class Slot:
    """A buffer, whose weights stand in it, and when they do."""

    place: torch.Tensor
    layer: Quantised | None = None
    ready: Any = None


Key = tuple[int, bool, bool]
"""A layer, and how it is asked: within a backward pass, for a backward product."""
Unpack = Callable[[Quantised, torch.Tensor], None]


class Ahead:
    """Hands out the weights of layers, each until the next is asked for: what is computed with them must have been
    asked of the device by then."""

    def __init__(self, layers: Sequence[Quantised], places: Sequence[torch.Tensor], streams: Streams, unpack: Unpack):
        self.layers = {id(layer): layer for layer in layers}
        self.slots = [Slot(place) for place in places]
        self.streams, self.unpack = streams, unpack
        self.after: dict[Key, Quantised] = {}
        """What was asked for after each, the last time."""
        self.before: Key | None = None

    def lend(self, layer: Quantised, *, backward: bool = False) -> torch.Tensor:
        """W [O, I] of the layer."""
        key = id(layer), inside(), backward
        if self.before is not None:
            self.after[self.before] = layer
        self.before = key
        slot = self.slots[1] if self.slots[1].layer is layer else self.slots[0]
        if slot.layer is layer:
            self.streams.wait(slot.ready)
        else:
            self.fill(slot, layer)
        follower = self.after.get(key)
        other = self.slots[slot is self.slots[0]]
        if follower is not None and follower is not layer and other.layer is not follower:
            reached = self.streams.mark()  # the products with what stands in the other buffer have been asked for
            with self.streams.beside():
                self.streams.wait(reached)
                self.fill(other, follower)
        self.slots = [other, slot]  # what is lent is written over last
        return seen(slot.place, layer)

    def fill(self, slot: Slot, layer: Quantised) -> None:
        """Unpack a layer into a buffer, behind what was being written there."""
        if slot.ready is not None:
            self.streams.wait(slot.ready)
        slot.layer = None  # until it is done: a failure leaves nothing that looks like weights
        self.unpack(layer, seen(slot.place, layer))
        slot.layer, slot.ready = layer, self.streams.mark()


def inside() -> bool:
    """Whether a backward pass is under way in this thread: a layer that is computed in it is computed again."""
    return torch._C._current_graph_task_id() != -1


def seen(place: torch.Tensor, layer: Quantised) -> torch.Tensor:
    """A buffer's beginning as [O, I]."""
    return place[: layer.size].view(layer.out_features, layer.in_features)


def into(layer: Quantised, place: torch.Tensor) -> None:
    """Unpack a layer into `place` [O, I], to the bit what `layer.weight` is; bitsandbytes writes there itself on CUDA
    alone, and for 4 bits."""
    plain = place.is_cuda and layer.bits == 4 and layer.scales.dtype == place.dtype and layer.packed.shape[0] != 1
    if plain and tuple(layer.scales.shape) == tuple(place.shape):
        quantised.library().functional.dequantize_4bit(layer.packed, layer.scales, out=place)
    else:
        place.copy_(layer.weight)


def install(model: nn.Module) -> str:
    """Have the packed layers of a model on a GPU unpacked ahead. Returns how that went, nothing for a plain model."""
    layers = [layer for _, layer in quantised.layers(model)]
    if not layers:
        return ""
    try:
        why = begin(layers)
    except Exception as error:  # whatever a kernel or its driver says
        why = trial.said(error)
    if why:
        for layer in layers:
            layer.ahead = None
    return f"when a layer is asked for ({why})" if why else "ahead, while the layer before computes"


def begin(layers: Sequence[Quantised]) -> str:
    """Why not; nothing where every layer is lent as it is, forward and backward."""
    device, dtype = layers[0].packed.device, layers[0].dtype
    if any((layer.packed.device, layer.dtype) != (device, dtype) for layer in layers):
        return "layers of several devices or number types"
    streams, size = Cuda(device), max(layer.size for layer in layers)
    places = [torch.empty(size, dtype=dtype, device=device) for _ in range(2)]
    for place in places:
        place.record_stream(streams.side)  # freed, it is nobody's before that stream is done with it
    ahead = Ahead(layers, places, streams, into)
    for layer in [*layers, *reversed(layers), *layers]:
        if not torch.equal(ahead.lend(layer), layer.weight):
            return "a layer reads back otherwise"
    for layer in layers:
        layer.ahead = ahead
    return ""
