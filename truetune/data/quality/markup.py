"""HTML that an export left in the answers: tags and entities outside of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from truetune.data.fit import Fitted
from truetune.data.quality import limits
from truetune.data.quality.kinds import KINDS, Finding, Tally
from truetune.data.quality.said import Said, excerpt
from truetune.data.render import Rendered

CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
NAMES = "p|br|hr|div|span|a|b|i|u|em|strong|font|img|h[1-6]|ul|ol|li|table|tbody|tr|td|th|blockquote|sup|sub"
HTML = re.compile(
    rf"</?(?:{NAMES})(?:\s[^<>]{{0,500}})?/?>"
    r"|&(?:amp|lt|gt|quot|apos|nbsp|[mn]dash|hellip|[lr][sd]quo|#\d{2,6}|#x[0-9a-f]{2,6});",
    re.IGNORECASE,
)


def html(said: Said) -> str:
    """An excerpt of the first answer with HTML in it; of a row without answers, of its text."""
    for text in said.answers or said.prompts:
        if ("<" in text or "&" in text) and (found := HTML.search(bare := CODE.sub(" ", text))):
            return excerpt(bare, *found.span())
    return ""


@dataclass
class Markup:
    """An observer: a tag in one answer may be meant, in many it is left over."""

    rows: int = 0
    tally: Tally = field(default_factory=Tally)

    def see(self, where: str, said: Said, rendered: Rendered, fitted: Fitted) -> None:
        self.rows += 1
        if shown := html(said):
            self.tally.add(where, shown)

    def findings(self) -> Iterator[Finding]:
        count = self.tally.count
        if count >= max(limits.HTML_ROWS, limits.COMMON_SHARE * self.rows):
            yield KINDS["data.html"].found(count, count / self.rows, self.tally.where, self.tally.examples)

    def figures(self) -> dict[str, Any]:
        return {}
