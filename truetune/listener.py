"""Who hears how the work goes on, while a verb does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Listener = Callable[[str, dict[str, Any]], None]
"""Called with a kind and its figures. Kinds of data: `rows` {stage, done, total}; of a training: `train`, `eval`,
`sample`, `reference`, `checkpoint` and `event`; of an evaluation: `score` and `answer` {side, done, total} in rows; of
all: `note` and `warning` {text}, `saved` {path}. `total` is None where nobody knows it yet."""


def unheard(kind: str, figures: dict[str, Any]) -> None:
    """The listener that hears nothing."""
