"""Settings by their dotted keys: which may change when a run goes on, and how a sentence names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LENGTH = ("training.epochs", "training.max_steps")
ALLOWED = {
    *LENGTH,
    "evaluation.every",
    "evaluation.samples",
    "evaluation.early_stopping",
    "checkpoints.every",
    "checkpoints.keep",
    "checkpoints.best",
    "training.not_finite",
    "output.log",
    "resources.memory",
}
"""What may change. The schedule of the learning rate belongs to the length, and follows it from there on."""


def listed(fields: Mapping[str, Sequence[Any]]) -> str:
    return ", ".join(f"{key} ({shown(before)} → {shown(after)})" for key, (before, after) in fields.items())


def shown(value: Any) -> str:
    return "null" if value is None else str(value)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`, one level deep, as train.yml is."""
    return {
        f"{section}.{key}" if isinstance(part, dict) else section: value
        for section, part in values.items()
        for key, value in (part.items() if isinstance(part, dict) else [(section, part)])
    }
