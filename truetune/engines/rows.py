"""The book of a decoder: which row is in which slot, what may be admitted, and when a row ends. What every engine's
decoder keeps in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.engines.decoder import Full, Sampling, Token
from truetune.errors import UsageError


@dataclass
class Admitted:
    """A row in its slot; `row` is the engine's own (`unread` tokens, `tokens` in all), so is its `generator`."""

    row: Any
    adapter: str | None
    sampling: Sampling
    generator: Any
    made: int = 0


class Rows:
    """The part of a `truetune.engines.decoder.Decoder` that knows no tensors. An engine sets these and calls `place`
    when it admits, `take` when it has chosen a token."""

    adapters: Any
    slots: int
    context: int
    admitted: dict[int, Any]

    def load(self, name: str, folder: Path) -> None:
        self.refuse_used(name)
        self.adapters.load(name, folder)

    def drop(self, name: str) -> None:
        self.refuse_used(name)
        self.adapters.drop(name)

    def refuse_used(self, name: str) -> None:
        if any(one.adapter == name for one in self.admitted.values()):
            raise ValueError(f"a row uses {name}")

    def refuse_unknown(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self.adapters.names:
            raise KeyError(adapter)

    def place(self, ids: Sequence[int], adapter: str | None, virtual: int = 0) -> int:
        """The slot for a prompt, before which so many virtual tokens stand. Raises what `Decoder.admit` raises."""
        if len(self.admitted) == self.slots:
            raise Full
        self.refuse_unknown(adapter)
        if len(ids) + virtual >= self.context:
            raise UsageError(
                f"the prompt has {len(ids)} tokens, and the model sees {self.context - virtual} with its answer",
                code="generation.too_long",
                hint="Shorten the prompt.",
            )
        return next(slot for slot in range(self.slots) if slot not in self.admitted)

    def take(self, slot: int, token: int) -> Token:
        """The row goes on with this token, or takes its leave."""
        one = self.admitted[slot]
        one.row.unread, one.made = [token], one.made + 1
        if token in one.sampling.stops:
            self.release(slot)
            return Token(slot, token, "stop")
        if one.made >= one.sampling.max_new_tokens or one.row.tokens >= self.context:
            self.release(slot)
            return Token(slot, token, "length")
        return Token(slot, token)

    def release(self, slot: int) -> None:
        raise NotImplementedError
