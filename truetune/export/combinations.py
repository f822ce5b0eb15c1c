"""The names of what `combine` does, where they are needed without PEFT."""

from __future__ import annotations

from typing import Any

METHODS: dict[str, Any] = {"cat": "cat", "svd": "svd", "linear": "linear", "ties": "ties", "dare": "dare_linear"}
"""Our names -> PEFT's."""
PRUNING = ("ties", "dare")
"""Methods that keep a part of the numbers."""
EQUAL = ("linear", *PRUNING)
"""Methods that add A to A and B to B, so that the ranks must be equal."""
