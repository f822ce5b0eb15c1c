"""Sentences that stand in very many answers, found in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from truetune.data.fit import Fitted
from truetune.data.quality import limits
from truetune.data.quality.kinds import KINDS, Finding, Tally
from truetune.data.quality.said import Said, excerpt
from truetune.data.render import Rendered

ENDS = ("! ", "? ", "\n", "。", "！", "？")


def sentences(text: str) -> list[str]:
    """Without their last sign. Good enough to count them, at ten times the speed of a pattern."""
    for end in ENDS:
        text = text.replace(end, ". ")
    return [sentence.strip(" .") for sentence in text.split(". ")]


@dataclass
class Boilerplate:
    """Misra and Gries, "Finding repeated elements" (1982): whatever stands in more than 1 of COUNTERS sentences keeps a
    counter; where all are taken, each loses one. A count is never too high."""

    rows: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)

    def see(self, where: str, said: Said, rendered: Rendered, fitted: Fitted) -> None:
        self.rows += 1
        for answer in said.answers if said.prose else ():
            for sentence in set(sentences(answer)):
                if len(sentence) >= limits.SENTENCE:
                    self._count(sentence[: 4 * limits.EXCERPT], where)

    def _count(self, sentence: str, where: str) -> None:
        tally = self.tallies.get(sentence)
        if tally is None:
            if len(self.tallies) >= limits.COUNTERS:
                self._lower()
            tally = self.tallies[sentence] = Tally()
        if where not in tally.where[-1:]:
            tally.add(where)

    def _lower(self) -> None:
        for tally in self.tallies.values():
            tally.count -= 1
        self.tallies = {sentence: tally for sentence, tally in self.tallies.items() if tally.count > 0}

    def findings(self) -> Iterator[Finding]:
        least = max(limits.COMMON_ROWS, limits.COMMON_SHARE * self.rows)
        common = sorted(
            ((tally.count, sentence) for sentence, tally in self.tallies.items() if tally.count >= least), reverse=True
        )
        if common:
            kind, (count, sentence) = KINDS["data.same_sentence"], common[0]
            more = f", and {len(common) - 1} more" if len(common) > 1 else ""
            message = f"{kind.message}: “{excerpt(sentence)}”{more}"
            examples = [excerpt(text) for _, text in common[: limits.EXAMPLES]]
            yield kind.found(count, count / self.rows, self.tallies[sentence].where, examples, message)

    def figures(self) -> dict[str, Any]:
        return {}
