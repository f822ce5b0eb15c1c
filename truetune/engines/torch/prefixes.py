"""Beginnings of prompts that were read: keys and values of their parts, for prompts that begin in the same way.

A part is known by a digest over the adapter's content and all tokens up to the part's end, so that what stands before
it is the same too. Parts are cut where every prompt is cut, so that a row that finds some has the same bits as one that
reads them. The longest unused go first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from truetune.engines.torch.slots import Layers


@dataclass(frozen=True)
class Part:
    adapter: str | None
    layers: Layers
    size: int
    """Bytes."""


class Prefixes:
    """At most `limit` bytes of parts."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self.parts: OrderedDict[bytes, Part] = OrderedDict()

    def keys(self, adapter: str | None, ids: Sequence[int], chunk: int) -> list[bytes]:
        """The keys of a prompt's whole parts, in order."""
        found, before = [], hashlib.sha256(b"" if adapter is None else b"adapter " + adapter.encode()).digest()
        for start in range(0, len(ids) - chunk + 1, chunk):
            part = np.asarray(ids[start : start + chunk], np.int64).tobytes()
            before = hashlib.sha256(before + part).digest()
            found.append(before)
        return found

    def find(self, keys: Sequence[bytes]) -> list[Layers]:
        """The parts that are here, from the first on until one is missing."""
        here = list(keys)
        for number, key in enumerate(keys):
            if key not in self.parts:
                here = here[:number]
                break
        for key in reversed(here):  # a part without those before it is of no use: it has to go before them
            self.parts.move_to_end(key)
        return [self.parts[key].layers for key in here]

    def keep(self, key: bytes, adapter: str | None, layers: Layers) -> None:
        size = sum(tensor.numel() * tensor.element_size() for pair in layers for tensor in pair)
        if key in self.parts or size > self.limit:
            return
        while self.size + size > self.limit:
            _, gone = self.parts.popitem(last=False)
            self.size -= gone.size
        self.parts[key] = Part(adapter, layers, size)
        self.size += size

    def forget(self, adapter: str) -> None:
        """Drop what was read with an adapter."""
        for key in [key for key, part in self.parts.items() if part.adapter == adapter]:
            self.size -= self.parts.pop(key).size

    def clear(self) -> None:
        self.parts.clear()
        self.size = 0
