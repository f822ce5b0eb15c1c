"""The book of a decoder: which row is in which slot, what may be admitted, and when a row ends. What every engine's
decoder keeps in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truetune.engines.adjust import Said
from truetune.engines.decoder import Constraint, Full, Prepared, Sampling, Scored, Token
from truetune.errors import UsageError


@dataclass
class Admitted:
    """A row in its slot; `row` is the engine's own (`unread` tokens, `tokens` in all), so is its `generator`. Answers
    to one prompt have one row in common until it is read."""

    row: Any
    adapter: str | None
    sampling: Sampling
    generator: Any
    constraint: Constraint | None = None
    said: Said = field(default_factory=Said)
    cached: int = 0
    """Tokens of the prompt that were read for an earlier one."""

    @property
    def made(self) -> int:
        return self.said.made


class Rows:
    """The part of a `truetune.engines.decoder.Decoder` that knows no tensors. An engine sets these and calls `place`
    when it admits, `take` when it has chosen a token."""

    adapters: Any
    slots: int
    context: int
    admitted: dict[int, Any]

    def load(self, name: str, folder: Path) -> None:
        self.refuse_used(name)
        self.put(name, self.read(folder))

    def read(self, folder: Path) -> Prepared:
        found: Prepared = self.adapters.read(folder)
        return found

    def put(self, name: str, found: Prepared) -> None:
        self.refuse_used(name)
        self.adapters.put(name, found)

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
        slot = self.free()
        self.refuse_unknown(adapter)
        if len(ids) + virtual >= self.context:
            raise UsageError(
                f"the prompt has {len(ids)} tokens, and the model sees {self.context - virtual} with its answer",
                code="generation.too_long",
                hint="Shorten the prompt.",
            )
        return slot

    def free(self) -> int:
        """A slot that nobody has. Raises Full."""
        if len(self.admitted) == self.slots:
            raise Full
        return next(slot for slot in range(self.slots) if slot not in self.admitted)

    def fork(self, slot: int, sampling: Sampling, constraint: Constraint | None = None) -> int:
        first = self.admitted[slot]
        if first.made:
            raise ValueError(f"the answer in slot {slot} has begun")
        other = self.free()
        self.admitted[other] = self.admission(
            first.row, first.adapter, sampling, constraint, first.said.prompt, first.cached
        )
        return other

    def admission(
        self,
        row: Any,
        adapter: str | None,
        sampling: Sampling,
        constraint: Constraint | None,
        prompt: Sequence[int],
        cached: int = 0,
    ) -> Any:
        raise NotImplementedError

    def owners(self, row: Any) -> list[int]:
        """The slots whose row this is."""
        return [slot for slot, one in self.admitted.items() if one.row is row]

    def shared(self) -> list[int]:
        """Slots whose row is another's too, though it has been read: each but the first needs one of its own."""
        found, seen = [], set()
        for slot, one in sorted(self.admitted.items()):
            if not one.row.unread and id(one.row) in seen:
                found.append(slot)
            seen.add(id(one.row))
        return found

    def cached(self, slot: int) -> int:
        return int(self.admitted[slot].cached)

    def take(self, slot: int, token: int, scored: Scored | None = None) -> Token:
        """The row goes on with this token, or takes its leave."""
        one = self.admitted[slot]
        prompt = one.row.scored if one.made == 0 and one.sampling.prompt_logprobs is not None else ()
        one.row.unread = [token]
        one.said.add(token)
        if one.constraint:
            one.constraint.take(token)
        reason: Any = ""
        if token in one.sampling.stops:
            reason = "stop"
        elif one.made >= one.sampling.max_new_tokens or one.row.tokens >= self.context:
            reason = "length"
        if reason:
            self.release(slot)
        return Token(slot, token, reason, scored, tuple(prompt))

    def release(self, slot: int) -> None:
        raise NotImplementedError

    def begin(self, most: int) -> list[Token]:
        """All is read in `decode`."""
        return []

    def spare(self) -> None:
        """Nothing is kept that is not needed."""
