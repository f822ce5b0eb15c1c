"""Two ways to run rows forward behind one interface: all together over our slots, or each with its own cache.

`Batched` needs a model that hands its attention function everything (those that train packed do, and the contract
suite shows it). `Alone` is slower and right for every model that transformers generates with.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Cache

from truetune.engines.torch import fronts, head, slots
from truetune.engines.torch.slots import Piece, Reading, Step
from truetune.engines.torch.stacked import Adapters

CHUNK = 512
"""Most tokens of prompts in one forward."""


@dataclass(eq=False)
class Row:
    """A text that grows: `length` tokens are in the cache, `unread` come next, `logits` [V] follow the last one."""

    unread: list[int]
    adapter: str | None = None
    length: int = 0
    logits: torch.Tensor | None = None
    cache: Cache | None = None

    @property
    def tokens(self) -> int:
        return self.length + len(self.unread)

    def read(self, count: int) -> None:
        self.length += count
        del self.unread[:count]


def core(model: nn.Module, adapters: Adapters | None = None) -> Batched | Alone:
    """The way for this model."""
    return (Batched if model.config._attn_implementation == slots.NAME else Alone)(model, adapters)


class Batched:
    """One forward for all rows that go on; prompts are read packed, in chunks."""

    kind = "batched"

    def __init__(self, model: nn.Module, adapters: Adapters | None) -> None:
        self.model, self.adapters = model, adapters
        self.head = head.of(model)
        self.store = slots.Store()
        self.places: list[Row] = []

    def join(self, row: Row) -> None:
        place, front = self.store.join(), before(self.adapters, row.adapter)
        self.places.append(row)
        if front:
            self.store.prime(place, front)
            row.length = fronts.length(front)

    def leave(self, row: Row) -> None:
        place = self.places.index(row)
        self.store.leave(place)
        last = self.places.pop()
        if last is not row:
            self.places[place] = last

    def forward(self) -> None:
        """Give every row its logits. A row that has them keeps them, so that a failed forward can be repeated."""
        steps = [row for row in self.places if row.length and len(row.unread) == 1]
        for rows in self.groups(steps):
            self.step(rows)
        while prompts := [row for row in self.places if row.unread]:
            self.read(self.groups(prompts)[0])

    def groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows that can be computed together: all, but for those of adapters that replace parts of the model."""
        found: dict[str | None, list[Row]] = {}
        for row in rows:
            apart = self.adapters is not None and self.adapters.alone(row.adapter)
            found.setdefault(row.adapter if apart else None, []).append(row)
        return [*found.values()]

    def step(self, rows: Sequence[Row]) -> None:
        positions = [row.length for row in rows]
        places = [self.places.index(row) for row in rows]
        cells = Step(self.store, places, positions, self.model.device)
        hidden = self.hidden([row.unread for row in rows], positions, [row.adapter for row in rows], cells)
        self.finish(rows, hidden[: len(rows)])

    def read(self, prompts: Sequence[Row]) -> None:
        """Whole prompts as they fit, long ones in chunks: where a prompt is cut does not depend on its neighbours."""
        rows, pieces, space = [], [], CHUNK
        for row in prompts:
            count = min(len(row.unread), CHUNK)
            if count <= space:
                rows.append(row)
                pieces.append(Piece(self.places.index(row), row.length, row.length + count))
                space -= count
        ids = [row.unread[: piece.tokens] for row, piece in zip(rows, pieces, strict=True)]
        starts, adapters = [piece.start for piece in pieces], [row.adapter for row in rows]
        hidden = self.hidden(ids, starts, adapters, Reading(self.store, pieces))
        last = torch.tensor([piece.tokens for piece in pieces]).cumsum(0) - 1
        ended = [i for i, (row, piece) in enumerate(zip(rows, pieces, strict=True)) if piece.tokens == len(row.unread)]
        for i, row in enumerate(rows):
            if i not in ended:
                row.read(pieces[i].tokens)
        self.finish([rows[i] for i in ended], hidden[last[ended].to(hidden.device)])

    def finish(self, rows: Sequence[Row], hidden: torch.Tensor) -> None:
        """Logits from the last hidden states, [rows, H]."""
        if not rows:
            return
        padded = torch.nn.functional.pad(hidden, (0, 0, 0, rounded(len(rows)) - len(rows)))
        for row, logits in zip(rows, self.head.logits(padded), strict=False):
            row.read(len(row.unread))
            row.logits = logits

    def hidden(
        self, ids: Sequence[Sequence[int]], starts: Sequence[int], adapters: Sequence[str | None], cells: Reading | Step
    ) -> torch.Tensor:
        """Hidden states [N, H] of parts of rows, one after another; N is padded."""
        counts = [len(part) for part in ids]
        spare = rounded(sum(counts)) - sum(counts)
        tokens = [token for part in ids for token in part] + [0] * spare
        positions = [start + i for start, count in zip(starts, counts, strict=True) for i in range(count)] + [0] * spare
        if self.adapters:
            self.adapters.route(adapters, counts, len(tokens))
        put = [torch.tensor([values], device=self.model.device) for values in (tokens, positions)]
        output = self.model.base_model(input_ids=put[0], position_ids=put[1], cells=cells, use_cache=False)
        return output.last_hidden_state[0]


def before(adapters: Adapters | None, name: str | None) -> fronts.Front | None:
    """What stands before the rows of an adapter, if anything."""
    return adapters.front(name) if adapters else None


def rounded(count: int) -> int:
    return -(-count // slots.ROUND) * slots.ROUND


class Alone:
    """Every row with a cache of its own, as transformers makes it, one forward after another."""

    kind = "one by one"

    def __init__(self, model: nn.Module, adapters: Adapters | None) -> None:
        self.model, self.adapters = model, adapters
        self.rows: list[Row] = []

    def join(self, row: Row) -> None:
        row.cache = self.cache(row.adapter)
        row.length = fronts.length(before(self.adapters, row.adapter))
        self.rows.append(row)

    def cache(self, adapter: str | None) -> Cache:
        """A fresh cache, with what the adapter puts before a text."""
        return fronts.cache(self.model, before(self.adapters, adapter))

    def leave(self, row: Row) -> None:
        self.rows.remove(row)

    def forward(self) -> None:
        for row in self.rows:
            if row.unread:
                row.logits = self.run(row.unread, row.adapter, row.cache, last=True)[-1]
                row.read(len(row.unread))

    def run(self, ids: Sequence[int], adapter: str | None, cache: Cache, last: bool) -> torch.Tensor:
        """float32 logits of the next tokens of a row, of the last one only where the model can."""
        if self.adapters:
            self.adapters.route([adapter], [len(ids)], len(ids))
        sparing = last and takes(self.model, "logits_to_keep")
        output = self.model(
            input_ids=torch.tensor([list(ids)], device=self.model.device),
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": 1} if sparing else {}),
        )
        return output.logits[0].float()


def takes(model: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters
