"""The names of what the package does and decides, and what they mean in words."""

from __future__ import annotations

METHODS = ("paraphrase", "backtranslate", "synthetic")
REASONS = {
    "unanswered": "no whole answer",
    "form": "not in the form that was asked for",
    "control": "control characters or tokens in it",
    "length": "much longer or shorter than what it was made from",
    "no_question": "a question has become something else",
    "numbers": "other numbers than what it was made from",
    "same": "the same question again",
    "known": "a question that the rows have already, or nearly",
    "twice": "written twice, or nearly",
}
"""Why a row that a model wrote is not kept."""
