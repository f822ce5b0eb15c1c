"""Profiles: sets of defaults for a purpose. What the user writes goes before them."""

from __future__ import annotations

from typing import Any

PROFILES: dict[str, dict[str, Any]] = {
    "chat": {
        "data.max_length": 4096,  # several turns are longer than one answer
        "training.epochs": 2,  # the manner of a conversation is learned early; more passes wear out the model's own
        "generation.max_new_tokens": 512,  # people expect whole answers
    },
    "instruction": {
        "data.max_length": 1024,  # one request and one answer; what is longer is mostly a slip in the data
        "generation.temperature": 0.3,  # a task has few right answers
    },
    "code": {
        "data.max_length": 4096,  # a function comes with the file around it
        "method.r": 32,  # syntax and names of a code base are more to hold than a tone
        "method.alpha": 64,  # keeps alpha / r at 2
        "generation.temperature": 0.2,  # a wrong token breaks a program
        "generation.max_new_tokens": 1024,  # a cut program is worth nothing
    },
    "classification": {
        "data.max_length": 512,  # as far as most encoders read
        "data.too_long": "truncate",  # the beginning of a text mostly tells its class
        "training.epochs": 5,  # a label says less than an answer, and the head begins from nothing
    },
    "small-gpu": {
        "data.max_length": 1024,  # the memory of one example grows with its length
        "training.batch_size": 1,  # one example in memory at a time …
        "training.gradient_accumulation_steps": 16,  # … and the same step of 16 examples
        "method.r": 8,  # half of the adapter's optimizer state
        "method.alpha": 16,  # keeps alpha / r at 2
    },
}
"""Profile -> dotted key -> value."""
