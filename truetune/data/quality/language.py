"""Which languages a set is written in, found in a sample. py3langid: 139 languages, 5 MB, no network."""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from truetune.data.fit import Fitted
from truetune.data.quality import limits
from truetune.data.quality.kinds import KINDS, Finding, Tally
from truetune.data.quality.said import Said, excerpt
from truetune.data.render import Rendered

try:
    from py3langid import langid
except ImportError:  # the extra `quality`
    langid = None

MISSING = [] if langid else ["py3langid"]
NOISE = re.compile(r"```.*?(?:```|\Z)|`[^`]*`|<[^>]{1,200}>|https?://\S+|[\d_=|{}\[\]<>/\\+*#]+", re.DOTALL)
"""Code, markup, links: of no language, and alike in all."""


@dataclass
class Languages:
    """A reservoir of texts (Vitter, "Random sampling with a reservoir", 1985), looked at when all have been seen."""

    seen: int = 0
    sample: list[tuple[int, str, str]] = field(default_factory=list)
    """Number of the row, place and text."""
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    _found: list[tuple[str, str, str]] | None = None

    def see(self, where: str, said: Said, rendered: Rendered, fitted: Fitted) -> None:
        self.seen += 1
        place = self.seen - 1 if self.seen <= limits.SAMPLE else self.chance.randrange(self.seen)
        if place >= limits.SAMPLE or langid is None:
            return
        text = max(said.answers or said.prompts, key=len, default="")
        self.sample[place : place + 1] = [(self.seen, where, text[: 4 * limits.SAMPLE_TEXT])]

    def findings(self) -> Iterator[Finding]:
        found = self._languages()
        shares = Counter(name for _, name, _ in found)
        if len(shares) < 2:
            return
        main, tally = shares.most_common(1)[0][0], Tally()
        for where, name, text in found:
            if name != main:
                tally.add(where, f"{name}: {text}")
        parts = ", ".join(f"{name} {count / len(found):.1%}" for name, count in shares.most_common(4))
        kind, among = (
            KINDS["data.languages"],
            f" of {len(self.sample):,} sampled rows" if self.seen > limits.SAMPLE else "",
        )
        message = f"{kind.message}: {parts}{among}"
        yield kind.found(tally.count, tally.count / len(found), tally.where, tally.examples, message)

    def figures(self) -> dict[str, Any]:
        """Shares of the texts whose language is sure."""
        found = self._languages()
        shares = Counter(name for _, name, _ in found)
        named = {name: round(count / len(found), 4) for name, count in shares.most_common()}
        return {"languages": {"sampled": len(self.sample), "sure": len(found), "shares": named}} if langid else {}

    def _languages(self) -> list[tuple[str, str, str]]:
        """Place, language and excerpt of every text of the sample that surely has one, in order."""
        if self._found is None:
            self._found = []
            identify = _identifier() if self.sample else None
            for _, where, text in sorted(self.sample):
                words = NOISE.sub(" ", text)[: limits.SAMPLE_TEXT]
                if sum(map(str.isalpha, words)) < limits.LETTERS:
                    continue
                name, sure = identify.classify(words)  # type: ignore[union-attr]
                if sure >= limits.SURE and name != "zxx":
                    self._found.append((where, name, excerpt(text)))
        return self._found


@functools.cache
def _identifier() -> Any:
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
