"""Keys and values of the rows that are being decoded, and attention over them.

Each row has a place in every layer's tensors [places, K, capacity, D]; both grow by need. Places stay dense: when a
row leaves, the last one moves into its place, so that a step reads one slice. Registered with transformers' attention
table, like `attention.packed`: the models' own forward stays as it is, and says window, softcap and scale per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from truetune.engines.torch import attention

NAME = "truetune-slots"
BLOCK = 64
"""Capacity grows in multiples of this many tokens."""
ROUND = 4
"""Products are made over a multiple of this many rows: then a row's bits do not depend on how many there are. Measured
with 1 to 4 threads on one kind of CPU; elsewhere the last bit may differ."""


Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Per layer keys and values of a part of one row, [K, N, D] each."""


class Store:
    """The keys and values of all layers; a row is known by its place, `0 … rows − 1`."""

    def __init__(self) -> None:
        self.rows = 0
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}

    def join(self) -> int:
        """A clean place: what an earlier row left there, a NaN even, must not reach this one."""
        place, self.rows = self.rows, self.rows + 1
        for tensor in (*self.keys.values(), *self.values.values()):
            if place < tensor.shape[0]:
                tensor[place].zero_()
        return place

    def prime(self, place: int, layers: Layers, start: int = 0) -> None:
        """The row has these keys and values from `start` on."""
        for index, (key, value) in enumerate(layers):
            stop = start + key.shape[1]
            keys, values = self.layer(index, key[None], stop)
            keys[place, :, start:stop] = key
            values[place, :, start:stop] = value

    def block(self, piece: Piece) -> Layers:
        """A copy of the keys and values of a part of a row."""
        part = slice(piece.start, piece.stop)
        return tuple(
            (self.keys[index][piece.place, :, part].clone(), self.values[index][piece.place, :, part].clone())
            for index in sorted(self.keys)
        )

    def copy(self, place: int) -> None:
        """Another row, with all that this one has."""
        for index in sorted(self.keys):
            keys, values = self.layer(index, self.keys[index][:1], 0, rows=self.rows + 1)
            for tensor in (keys, values):
                tensor[self.rows] = tensor[place]
        self.rows += 1

    def shrink(self) -> None:
        """Give back the room beyond the rows that are there."""
        for tensors in (self.keys, self.values):
            for index, tensor in tensors.items():
                if tensor.shape[0] > self.rows:
                    tensors[index] = tensor[: self.rows].clone()
        if not self.rows:
            self.keys.clear()
            self.values.clear()

    def leave(self, place: int) -> None:
        """Free a place; the last row moves into it."""
        self.rows -= 1
        if place != self.rows:
            for tensor in (*self.keys.values(), *self.values.values()):
                if self.rows < tensor.shape[0]:
                    tensor[place] = tensor[self.rows]

    def layer(self, index: int, like: torch.Tensor, tokens: int, rows: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's keys and values, with room for every row and for `tokens` tokens. `like` is [1, K, N, D]."""
        rows = rows or self.rows
        for tensors in (self.keys, self.values):
            stands = tensors.get(index)
            if stands is None or stands.shape[0] < rows or stands.shape[2] < tokens:
                tensors[index] = grown(stands, like, rows, tokens)
        return self.keys[index], self.values[index]


def grown(stands: torch.Tensor | None, like: torch.Tensor, rows: int, tokens: int) -> torch.Tensor:
    """A larger tensor with the old content: at least half as large again, so that growing stays rare."""
    if stands is None:
        return like.new_zeros(rows, like.shape[1], blocks(tokens), like.shape[3])
    most_rows, most_tokens = stands.shape[0], stands.shape[2]
    rows = most_rows if rows <= most_rows else max(rows, most_rows * 3 // 2)
    tokens = most_tokens if tokens <= most_tokens else max(blocks(tokens), blocks(most_tokens * 3 // 2))
    larger = stands.new_zeros(rows, stands.shape[1], tokens, stands.shape[3])
    larger[:most_rows, :, :most_tokens] = stands
    return larger


def blocks(tokens: int) -> int:
    return -(-tokens // BLOCK) * BLOCK


@dataclass(frozen=True)
class Piece:
    """Tokens `start … stop − 1` of the row at `place`: a prompt, or a part of a long one."""

    place: int
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Reading:
    """A forward over pieces of prompts, one after another in one row of tokens; padding may follow."""

    store: Store
    pieces: Sequence[Piece]

    def attend(self, index, query, key, value, scaling, window, softcap):  # type: ignore[no-untyped-def]
        longest = max(piece.stop for piece in self.pieces)
        keys, values = self.store.layer(index, key, longest)
        output, at = torch.zeros_like(query), 0
        for piece in self.pieces:
            part = slice(at, at + piece.tokens)
            keys[piece.place, :, piece.start : piece.stop] = key[0, :, part]
            values[piece.place, :, piece.start : piece.stop] = value[0, :, part]
            k, v = (tensor[piece.place, :, : piece.stop][None] for tensor in (keys, values))
            output[:, :, part] = read(query[:, :, part], k, v, scaling, window, softcap)
            at += piece.tokens
        return output


def read(query, key, value, scaling, window, softcap):  # type: ignore[no-untyped-def]
    """Attention of the last N of T tokens over all T: query [1, H, N, D], key and value [1, K, T, D]."""
    key, value = (repeated(x, query.shape[1]) for x in (key, value))
    count, total = query.shape[2], key.shape[2]
    if count == total:
        return attention.segment(query, key, value, scaling, 0.0, window, softcap)
    position = torch.arange(total, device=query.device)
    distance = position[total - count :, None] - position[None, :]
    mask = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return weighted(query, key, value, scaling, mask, softcap)


def repeated(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


class Step:
    """A forward over one token each of the rows at `places`, at these positions; padding may follow."""

    def __init__(self, store: Store, places: Sequence[int], positions: Sequence[int], device: torch.device) -> None:
        self.store = store
        self.dense = list(places) == list(range(len(places)))
        self.seen = blocks(max(positions) + 1)
        # Indices are made once per step, not once per layer: on a GPU each would wait for the host.
        self.places = torch.tensor(places, device=device)
        self.positions = torch.tensor(positions, device=device)
        self.masks: dict[int | None, torch.Tensor] = {}

    def attend(self, index, query, key, value, scaling, window, softcap):  # type: ignore[no-untyped-def]
        count, heads = len(self.places), key.shape[1]
        keys, values = self.store.layer(index, key, self.seen)
        keys[self.places, :, self.positions] = key[0, :, :count].transpose(0, 1)
        values[self.places, :, self.positions] = value[0, :, :count].transpose(0, 1)
        k, v = (self.rows(tensor)[:, :, : self.seen] for tensor in (keys, values))
        # The heads of a group share keys: they stand as the queries of one head, and nothing is repeated. As for all
        # products, their number is a multiple of four, so that with several threads neighbours change no bit.
        queries = query[0, :, :count].transpose(0, 1).reshape(count, heads, -1, query.shape[3])
        group = queries.shape[2]
        queries = F.pad(queries, (0, 0, 0, -group % ROUND))
        found = weighted(queries, k, v, scaling, self.mask(window), softcap)[:, :, :group]
        output = torch.zeros_like(query)
        output[0, :, :count] = found.reshape(count, query.shape[1], -1).transpose(0, 1)
        return output

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[: len(self.places)] if self.dense else tensor[self.places]

    def mask(self, window: int | None) -> torch.Tensor:
        """True where a row sees: bool [rows, 1, 1, seen]."""
        if window not in self.masks:
            distance = self.positions[:, None] - torch.arange(self.seen, device=self.positions.device)[None]
            inside = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            self.masks[window] = inside[:, None, None]
        return self.masks[window]


def weighted(query, key, value, scaling, mask, softcap):  # type: ignore[no-untyped-def]
    """Masked attention: SDPA where it can express the call, else the plain formula with `softcap`."""
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
    return scores.masked_fill(~mask, float("-inf")).float().softmax(-1).to(query.dtype) @ value


def cached(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cells: Reading | Step | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention of new tokens over what the store holds, `cells` saying which token stands where; without `cells`,
    that of training over segments.

    query [1, H, N, D], key and value [1, K, N, D]; returns [1, N, H, D].
    """
    if cells is None:
        return attention.packed(
            module, query, key, value, attention_mask, scaling, 0.0,
            sliding_window=sliding_window, softcap=softcap, **others,
        )  # fmt: skip
    attention.refuse(module, attention_mask, others)
    value = value.to(key.dtype)  # autocast leaves them apart
    output = cells.attend(module.layer_idx, query, key, value, scaling, sliding_window, softcap)
    return output.transpose(1, 2), None


AttentionInterface.register(NAME, cached)
