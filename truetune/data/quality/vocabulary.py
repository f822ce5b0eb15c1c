"""What the tokens of a set are: how many different ones, how rare, and how many the tokenizer had to put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.data.fit import Fitted
from truetune.data.quality import limits
from truetune.data.quality.kinds import KINDS, Finding, Tally
from truetune.data.quality.said import Said
from truetune.data.render import Rendered
from truetune.models.tokenizer import Tokenizer


@dataclass
class Vocabulary:
    """Counts every token. Control tokens are left out: the template writes them."""

    tokenizer: Tokenizer
    counts: NDArray[np.int64] = field(init=False)
    unknown: Tally = field(default_factory=Tally)
    rows: int = 0
    _buffer: list[NDArray[np.int32]] = field(default_factory=list)
    _waiting: int = 0

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.tokenizer.vocabulary, np.int64)

    def see(self, where: str, said: Said, rendered: Rendered, fitted: Fitted) -> None:
        self.rows += 1
        for part in rendered.parts:
            self._buffer.append(part.ids)
            self._waiting += len(part.ids)
        unknown = self.tokenizer.unk_id
        if unknown is not None and any((part.ids == unknown).any() for part in rendered.parts):
            self.unknown.add(where)
        if self._waiting >= limits.BUFFER:
            self._empty()

    def _empty(self) -> None:
        if self._buffer:
            found = np.bincount(np.concatenate(self._buffer), minlength=len(self.counts))
            self.counts += found[: len(self.counts)]
            self._buffer, self._waiting = [], 0

    def findings(self) -> Iterator[Finding]:
        if self.unknown.count:
            tally = self.unknown
            yield KINDS["data.unknown_tokens"].found(tally.count, tally.count / self.rows, tally.where)
        pieces = self.figures().get("complexity", {}).get("pieces", 0)
        if pieces >= limits.PIECES:
            kind = KINDS["data.small_pieces"]
            yield kind.found(self.rows, 1.0, message=f"{kind.message}: {pieces:.0%} of the tokens are such parts")

    def figures(self) -> dict[str, Any]:
        """`ratio`: different tokens per token; `rare`: share of tokens that occur fewer than RARE_TOKEN times;
        `pieces`: share that is only a part of a character; `unknown`: share that stands for unknown characters."""
        self._empty()
        counts = self.counts.copy()
        counts[[self.tokenizer.id(token) or 0 for token in self.tokenizer.special_tokens]] = 0
        total, unknown = int(counts.sum()), self.tokenizer.unk_id
        if not total:
            return {}
        used = np.flatnonzero(counts)
        pieces = [token for token in used.tolist() if "\ufffd" in self.tokenizer.decode([token])]
        return {
            "complexity": {
                "tokens": total,
                "distinct": len(used),
                "vocabulary": len(counts),
                "ratio": round(len(used) / total, 5),
                "rare": round(float(counts[counts < limits.RARE_TOKEN].sum()) / total, 5),
                "pieces": round(float(counts[pieces].sum()) / total, 5) if pieces else 0.0,
                "unknown": round(float(self.counts[unknown]) / total, 5) if unknown is not None else 0.0,
            }
        }
