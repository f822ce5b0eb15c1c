"""The inspector of a check: looks at every row as it is prepared, and says at the end what it found.

Memory does not grow with the rows: counters, the first places of each code, a sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from truetune.data.fit import Fitted
from truetune.data.quality import answers, characters, kinds, language, limits, private
from truetune.data.quality.boilerplate import Boilerplate
from truetune.data.quality.classes import Classes
from truetune.data.quality.kinds import KINDS, Finding, Tally
from truetune.data.quality.language import Languages
from truetune.data.quality.markup import Markup
from truetune.data.quality.said import Said, said
from truetune.data.quality.spread import Lengths
from truetune.data.quality.vocabulary import Vocabulary
from truetune.data.render import Rendered
from truetune.data.rows import Content, Document, Reject, Row
from truetune.models.tokenizer import Tokenizer

Check = Callable[[Said], str]
"""An excerpt that shows what is wrong with a row; empty where nothing is."""

CHECKS: dict[str, Check] = {
    "data.control_characters": characters.control,
    "data.invisible_characters": characters.invisible,
    "data.replacement_character": characters.replacement,
    "data.mojibake": characters.mojibake,
    "data.not_normalized": characters.decomposed,
    "data.trailing_space": characters.trailing,
    "data.placeholder": answers.placeholder,
    "data.disclaimer": answers.disclaimer,
    "data.echo": answers.echo,
    "data.repeated_text": answers.repeated,
    "data.open_fence": answers.fence,
    "data.cut_off": answers.cut,
    "data.private_key": private.private_key,
    "data.api_key": private.api_key,
    "data.card": private.card,
    "data.iban": private.iban,
    "data.email": private.email,
    "data.phone": private.phone,
}
"""What is looked for in every row."""


class Observer(Protocol):
    """Looks at what only the whole set can tell."""

    def see(self, where: str, said: Said, rendered: Rendered, fitted: Fitted) -> None: ...
    def findings(self) -> Iterator[Finding]: ...
    def figures(self) -> dict[str, Any]: ...


class Quality:
    """An `Inspector`. With a tokenizer it says what the tokens are, too."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self.rows = self.documents = self.unusable = 0
        self.tallies: dict[str, Tally] = defaultdict(Tally)
        self.reasons: dict[str, Tally] = defaultdict(Tally)
        self.classes = Classes()
        self.observers: list[Observer] = [Lengths(), Boilerplate(), Markup(), Languages()]
        if tokenizer is not None:
            self.observers.append(Vocabulary(tokenizer))

    def used(self, row: Row, content: Content, rendered: Rendered, fitted: Fitted, train: bool) -> None:
        self.rows += 1
        self.documents += isinstance(content, Document)
        where, text = row.where, said(content)
        for code, check in CHECKS.items():
            if shown := check(text):
                self.tallies[code].add(where, shown)
        self.classes.see(where, content)
        for observer in self.observers:
            observer.see(where, text, rendered, fitted)

    def unused(self, reject: Reject) -> None:
        self.unusable += 1
        self.reasons[reject.code].add(reject.where, reject.reason)

    def findings(self) -> list[Finding]:
        """The gravest first, of those the commonest."""
        return sorted(self._findings(), key=lambda found: found.weight)

    def _findings(self) -> Iterator[Finding]:
        total = self.rows + self.unusable
        for code, tally in self.reasons.items():
            yield kinds.unused(code, tally, total)
        for code, tally in self.tallies.items():
            yield KINDS[code].found(tally.count, tally.count / self.rows, tally.where, tally.examples)
        for observer in self.observers:
            yield from observer.findings()
        yield from self.classes.findings()
        if 0 < self.rows < limits.FEW_ROWS and not self.documents:
            yield KINDS["data.few_rows"].found(
                self.rows, 1.0, message="1 row is little" if self.rows == 1 else f"{self.rows} rows are few"
            )
        for names, what in ((characters.MISSING, "mojibake"), (language.MISSING, "languages")):
            if names:
                message = f"{what}: {names[0]} is not installed"
                yield KINDS["data.not_looked"].found(0, 0.0, message=f"not looked for {message}")

    def figures(self) -> dict[str, Any]:
        """JSON-ready: `lengths`, `languages`, `complexity`, and `labels`, `pairs` or `ratings` where rows have them."""
        found: dict[str, Any] = {}
        for observer in self.observers:
            found |= observer.figures()
        return found | self.classes.figures()
