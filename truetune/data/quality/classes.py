"""Whether a set leans to one side: classes, preference pairs, ratings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from truetune.data.quality import limits
from truetune.data.quality.kinds import KINDS, Finding
from truetune.data.rows import Content, Labelled, Preference, Rated


@dataclass
class Classes:
    """Labels and how often each stands; which of two answers is the longer; what was found good."""

    labels: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """Where a label stands first."""
    rows: int = 0
    """With labels."""
    pairs: int = 0
    longer: int = 0
    """Pairs whose better answer is longer."""
    ratings: Counter[bool] = field(default_factory=Counter)

    def see(self, where: str, content: Content) -> None:
        if isinstance(content, Labelled):
            self._label(where, content.labels)
        elif isinstance(content, Preference):
            chosen, rejected = (sum(len(turn.content) for turn in side) for side in (content.chosen, content.rejected))
            self.pairs += 1
            self.longer += chosen > rejected
        elif isinstance(content, Rated):
            self.ratings[content.desirable] += 1

    def _label(self, where: str, labels: tuple[str, ...]) -> None:
        self.rows += 1
        for label in labels:
            if label in self.labels or len(self.labels) < limits.LABELS:
                self.labels[label] += 1
                self.first.setdefault(label, where)

    def findings(self) -> Iterator[Finding]:
        if self.rows:
            yield from self._balance()
            yield from self._alike()
        share = self.longer / self.pairs if self.pairs else 0.0
        if self.pairs >= limits.BIAS_ROWS and share >= limits.BIAS_SHARE:
            kind = KINDS["data.length_bias"]
            yield kind.found(self.longer, share, message=f"{kind.message}: in {share:.0%} of the pairs")
        rated = self.ratings.total()
        good = self.ratings[True] / rated if rated else 0.5
        if limits.ONE_SIDED <= max(good, 1 - good) < 1:  # none of the other side is the ledger's to tell
            kind = KINDS["data.one_sided"]
            yield kind.found(rated, 1.0, message=f"{kind.message}: {good:.0%} are good")

    def _balance(self) -> Iterator[Finding]:
        ordered = self.labels.most_common()
        if not ordered:
            return
        if len(ordered) >= limits.MANY_CLASSES and 2 * len(ordered) > self.labels.total():
            kind, examples = KINDS["data.many_classes"], [repr(label) for label, _ in ordered[: limits.EXAMPLES]]
            message = f"{kind.message}: {len(ordered):,} labels in {self.rows:,} rows"
            yield kind.found(self.rows, 1.0, examples=examples, message=message)
            return
        least_rows = limits.RARE_CLASS if self.rows >= limits.ENOUGH else limits.RARE_ROWS
        rare = [(label, count) for label, count in ordered if count < least_rows]
        if rare:
            names = [f"{label!r} {count}" for label, count in rare]
            share = sum(count for _, count in rare) / self.rows
            where = [self.first[label] for label, _ in rare[: limits.PLACES]]
            message = f"{KINDS['data.rare_class'].message}, fewer than {least_rows}: {_listed(names)}"
            yield KINDS["data.rare_class"].found(
                sum(n for _, n in rare), share, where, names[: limits.EXAMPLES], message
            )
        common = [item for item in ordered if item not in rare] or ordered
        (large, most), (small, least) = common[0], common[-1]
        if len(common) > 1 and most >= limits.IMBALANCE * least:
            message = f"{KINDS['data.class_imbalance'].message}: {large!r} has {most:,} rows, {small!r} {least:,}"
            yield KINDS["data.class_imbalance"].found(least, least / self.rows, [self.first[small]], message=message)

    def _alike(self) -> Iterator[Finding]:
        ways: dict[str, list[str]] = defaultdict(list)
        for label in self.labels:
            ways["".join(label.casefold().split())].append(label)
        twice = [sorted(labels, key=lambda label: -self.labels[label]) for labels in ways.values() if len(labels) > 1]
        if twice:
            count = sum(self.labels[label] for labels in twice for label in labels[1:])
            where = [self.first[label] for labels in twice for label in labels[1:]][: limits.PLACES]
            examples = [" / ".join(map(repr, labels)) for labels in twice[: limits.EXAMPLES]]
            yield KINDS["data.similar_labels"].found(count, count / self.rows, where, examples)

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.rows:
            found["labels"] = dict(self.labels.most_common())
        if self.pairs:
            found["pairs"] = {"pairs": self.pairs, "longer": round(self.longer / self.pairs, 4)}
        if self.ratings:
            found["ratings"] = {"good": self.ratings[True], "bad": self.ratings[False]}
        return found


def _listed(names: list[str]) -> str:
    more = len(names) - limits.EXAMPLES
    return ", ".join(names[: limits.EXAMPLES]) + (f" and {more} more" if more > 0 else "")
