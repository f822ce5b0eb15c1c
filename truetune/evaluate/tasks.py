"""What rows ask for, told by their shape, and which figures come first there. That order is all that differs."""

from __future__ import annotations

from collections.abc import Sequence

from truetune.data.shapes.table import PAIRS

TASKS = {
    "messages": "chat",
    "sharegpt": "chat",
    "text_summary": "summarisation",
    "document_summary": "summarisation",
    "dialogue_summary": "summarisation",
    "article_highlights": "summarisation",
    "text": "text",
    "text_label": "classification",
    "text_labels": "classification",
    "sentence_label": "classification",
    **{f"{one}_{other}_label": "classification" for one, other in PAIRS},
}
"""Shape of the rows (`truetune.data.formats`) -> task; every other shape is an instruction with its answer."""

FIRST = {
    "chat": ("loss", "perplexity", "exact_match", "chrf", "rougeL"),
    "instruction": ("loss", "perplexity", "exact_match", "chrf", "rougeL"),
    "summarisation": ("rouge1", "rouge2", "rougeL", "loss", "perplexity"),
    "text": ("loss", "perplexity", "bits_per_byte"),
    "preference": ("preference_loss", "reward_margin", "reward_accuracy", "loss", "perplexity"),
    "classification": ("accuracy", "macro_f1", "micro_f1", "loss"),
}
"""Task -> its headline figures."""


SILENT = ("text", "classification", "reward")
"""Tasks in which nothing is answered."""


def task_of(shape: str, kind: str = "", objective: str = "") -> str:
    """`kind` is the default objective of rows of this shape, `objective` what was learned."""
    if objective == "summarisation" and kind == "sft":
        return objective
    return "preference" if kind in ("dpo", "kto") else TASKS.get(shape, "instruction")


def order(task: str, measured: Sequence[str]) -> list[str]:
    """The metrics that were measured, the task's headline figures before the others."""
    headline = [name for name in FIRST[task] if name in measured]
    return headline + [name for name in measured if name not in headline]
