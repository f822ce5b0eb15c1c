"""Two ways to run rows forward behind one interface: all together over our slots, or each with its own cache.

`Batched` needs a model that hands its attention function everything (those that train packed do, and the contract
suite shows it). `Alone` is slower and right for every model that transformers generates with.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from transformers import Cache

from truetune.engines.decoder import Scored
from truetune.engines.torch import fronts, head, sample, slots
from truetune.engines.torch.prefixes import Prefixes
from truetune.engines.torch.slots import Piece, Reading, Step
from truetune.engines.torch.stacked import Adapters

CHUNK = 512
"""Most tokens of prompts in one forward, where nothing else is asked for."""


@dataclass(eq=False)
class Row:
    """A text that grows: `length` tokens are in the cache, `unread` come next, `logits` [V] follow the last one."""

    unread: list[int]
    adapter: str | None = None
    length: int = 0
    logits: torch.Tensor | None = None
    cache: Cache | None = None
    top: int | None = None
    """How many of the likeliest tokens are wanted for each place of the prompt; None = no scores at all."""
    scored: list[Scored | None] = field(default_factory=list)
    """Of the prompt's tokens, as far as it was read; None for the first."""
    begun: bool = False
    """Whether the prompt has been read: what follows is read token by token, and in another way."""
    turn: int = 0
    """When it was last read from, or joined: who waits longest is next."""
    blocks: list[bytes] = field(default_factory=list)
    """Keys of the prompt's parts in the store of beginnings."""
    start: int = 0
    """Tokens that stand before the prompt."""

    @property
    def tokens(self) -> int:
        return self.length + len(self.unread)

    def read(self, count: int) -> None:
        self.length += count
        del self.unread[:count]

    def twin(self) -> Row:
        """Another row that goes on from here, without its place or cache."""
        assert self.logits is not None
        logits, scored = self.logits.clone(), list(self.scored)
        return replace(self, unread=[*self.unread], logits=logits, scored=scored, cache=None)


def core(
    model: nn.Module, adapters: Adapters | None = None, chunk: int = CHUNK, prefixes: Prefixes | None = None
) -> Batched | Alone:
    """The way for this model."""
    if model.config._attn_implementation == slots.NAME:
        return Batched(model, adapters, chunk, prefixes)
    return Alone(model, adapters, chunk)


class Batched:
    """One forward for all rows that go on; prompts are read packed, in chunks."""

    kind = "batched"

    def __init__(
        self, model: nn.Module, adapters: Adapters | None, chunk: int = CHUNK, prefixes: Prefixes | None = None
    ) -> None:
        self.model, self.adapters, self.chunk, self.prefixes = model, adapters, chunk, prefixes
        self.head = head.of(model)
        self.store = slots.Store()
        self.places: list[Row] = []
        self.turn = 0

    def join(self, row: Row) -> None:
        """Take a row in; what was read of its prompt for an earlier one is not read again."""
        self.store.join()
        self.places.append(row)
        try:
            self.prime(row)
        except BaseException:
            self.leave(row)
            raise

    def prime(self, row: Row) -> None:
        place, front = self.places.index(row), before(self.adapters, row.adapter)
        row.turn = self.turn
        if front:
            self.store.prime(place, front)
            row.length = row.start = fronts.length(front)
        if self.prefixes:
            row.blocks = self.prefixes.keys(row.adapter, row.unread, self.chunk)
            # What is scored must be read, and so must the last token, whose logits are wanted.
            found = [] if row.top is not None else self.prefixes.find(row.blocks[: (len(row.unread) - 1) // self.chunk])
            for block in found:
                self.store.prime(place, block, row.length)
                row.read(self.chunk)

    def copy(self, row: Row) -> Row:
        """A row of its own for another answer to a prompt that was read."""
        twin = row.twin()
        self.store.copy(self.places.index(row))
        self.places.append(twin)
        return twin

    def leave(self, row: Row) -> None:
        place = self.places.index(row)
        self.store.leave(place)
        last = self.places.pop()
        if last is not row:
            self.places[place] = last

    def spare(self) -> None:
        if self.prefixes:
            self.prefixes.clear()
        self.store.shrink()

    def forward(self, most: int = 0) -> None:
        """Give every row its logits; with `most`, rows whose prompts are not yet read to their end go without, and one
        forward reads about so many of their tokens. A row that has logits keeps them, so that a failed forward can be
        repeated."""
        self.go_on()
        self.read_on(most)

    def go_on(self) -> None:
        """The next step of every row whose prompt has been read."""
        steps = [row for row in self.places if row.begun and row.unread]
        for rows in self.groups(steps):
            self.step(rows)

    def read_on(self, most: int = 0) -> bool:
        """All prompts, or with `most` about so many tokens of them; whether there were any."""
        found = False
        while prompts := sorted((row for row in self.places if row.unread and not row.begun), key=order):
            found = True
            self.turn += 1
            self.read(self.groups(prompts)[0], most or max(CHUNK, self.chunk))
            if most:
                break
        return found

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
        for row, logits in zip(rows, self.logits(hidden[: len(rows)]), strict=True):
            row.read(1)
            row.logits = logits

    def read(self, prompts: Sequence[Row], space: int) -> None:
        """Whole prompts as they fit, long ones in chunks: where a prompt is cut does not depend on its neighbours."""
        parts: list[tuple[Row, Piece]] = []
        for row in prompts:
            count = min(len(row.unread), self.chunk)
            if count <= space or not parts:
                parts.append((row, Piece(self.places.index(row), row.length, row.length + count)))
                space -= count
        pieces = [piece for _, piece in parts]
        ids = [row.unread[: piece.tokens] for row, piece in parts]
        adapters = [row.adapter for row, _ in parts]
        hidden = self.hidden(ids, [piece.start for piece in pieces], adapters, Reading(self.store, pieces))
        ends = torch.tensor([piece.tokens for piece in pieces]).cumsum(0)
        ended = [i for i, (row, piece) in enumerate(parts) if piece.tokens == len(row.unread)]
        logits = self.logits(hidden[(ends[ended] - 1).to(hidden.device)]) if ended else []
        scores = [
            self.scores(row, hidden[int(end) - piece.tokens : int(end)])
            for (row, piece), end in zip(parts, ends, strict=True)
        ]
        for (row, piece), scored in zip(parts, scores, strict=True):
            row.scored += scored
            row.turn = self.turn
            row.read(piece.tokens)
            self.keep(row, piece)
        for i, found in zip(ended, logits, strict=True):
            parts[i][0].logits, parts[i][0].begun = found, True

    def scores(self, row: Row, hidden: torch.Tensor) -> list[Scored]:
        """Of the tokens after those whose hidden states [N, H] these are, as far as they belong to the prompt."""
        if row.top is None:
            return []
        targets = torch.tensor(row.unread[1 : len(hidden) + 1], device=hidden.device)
        found: list[Scored] = []
        for part, z in self.head.chunks(hidden[: len(targets)]):
            found += sample.scored(z, targets[part], row.top)
        return found

    def keep(self, row: Row, piece: Piece) -> None:
        """Keep a whole part of a prompt for those that begin in the same way."""
        number, rest = divmod(piece.start - row.start, self.chunk)
        if self.prefixes and piece.tokens == self.chunk and not rest and number < len(row.blocks):
            self.prefixes.keep(row.blocks[number], row.adapter, self.store.block(piece))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [rows, V] from the last hidden states, [rows, H]."""
        count = len(hidden)
        return self.head.logits(torch.nn.functional.pad(hidden, (0, 0, 0, rounded(count) - count)))[:count]

    def hidden(
        self, ids: Sequence[Sequence[int]], starts: Sequence[int], adapters: Sequence[str | None], cells: Reading | Step
    ) -> torch.Tensor:
        """Hidden states [N, H] of parts of rows, one after another; N is padded."""
        counts = [len(part) for part in ids]
        spare = rounded(sum(counts)) - sum(counts)
        tokens = [token for part in ids for token in part] + [0] * spare
        positions = [start + i for start, count in zip(starts, counts, strict=True) for i in range(count)] + [0] * spare
        if self.adapters:
            self.adapters.route(adapters, counts, len(tokens), steps=isinstance(cells, Step))
        put = [torch.tensor([values], device=self.model.device) for values in (tokens, positions)]
        output = self.model.base_model(input_ids=put[0], position_ids=put[1], cells=cells, use_cache=False)
        return output.last_hidden_state[0]


def order(row: Row) -> int:
    """Who waits longest is next."""
    return row.turn


def before(adapters: Adapters | None, name: str | None) -> fronts.Front | None:
    """What stands before the rows of an adapter, if anything."""
    return adapters.front(name) if adapters else None


def rounded(count: int) -> int:
    return -(-count // slots.ROUND) * slots.ROUND


class Alone:
    """Every row with a cache of its own, as transformers makes it, one forward after another."""

    kind = "one by one"

    def __init__(self, model: nn.Module, adapters: Adapters | None, chunk: int = CHUNK) -> None:
        self.model, self.adapters, self.chunk = model, adapters, chunk
        self.rows: list[Row] = []
        self.turn = 0

    def join(self, row: Row) -> None:
        row.cache = self.cache(row.adapter)
        row.length = fronts.length(before(self.adapters, row.adapter))
        row.turn = self.turn
        self.rows.append(row)

    def cache(self, adapter: str | None) -> Cache:
        """A fresh cache, with what the adapter puts before a text."""
        return fronts.cache(self.model, before(self.adapters, adapter))

    def copy(self, row: Row) -> Row:
        """A row of its own for another answer to a prompt that was read."""
        twin = row.twin()
        twin.cache = copy.deepcopy(row.cache)
        self.rows.append(twin)
        return twin

    def leave(self, row: Row) -> None:
        self.rows.remove(row)

    def spare(self) -> None:
        """Nothing is kept but what rows need."""

    def forward(self, most: int = 0) -> None:
        """As `Batched.forward`."""
        self.go_on()
        self.read_on(most)

    def go_on(self) -> None:
        """As `Batched.go_on`."""
        for row in self.rows:
            if row.begun and row.unread:
                self.read(row)

    def read_on(self, most: int = 0) -> bool:
        """As `Batched.read_on`."""
        found = False
        while prompts := [row for row in self.rows if row.unread and not row.begun]:
            found = True
            self.turn += 1
            self.read(min(prompts, key=order))
            if most:
                break
        return found

    def read(self, row: Row) -> None:
        """One more part of a row."""
        ids, rest = row.unread[: self.chunk], row.unread[1 : self.chunk + 1]
        whole, wanted = len(ids) == len(row.unread), row.top is not None and bool(rest)
        logits = self.run(ids, row.adapter, row.cache, last=not wanted)
        if wanted:
            targets = torch.tensor(rest, device=logits.device)
            row.scored += sample.scored(logits[: len(rest)], targets, row.top or 0)
        row.turn = self.turn
        row.read(len(ids))
        if whole:
            row.logits, row.begun = logits[-1], True

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
