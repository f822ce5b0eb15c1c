"""Arrays from a safetensors file whose header has been checked first: the one way into the engine for a file."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from truetune.models import header


def load(path: Path, code: str) -> dict[str, mx.array]:
    """Every array of a file by name, read. Raises InputError with this code where it is not whole."""
    try:
        header.read(path)
        found: dict[str, mx.array] = mx.load(str(path))
        mx.eval(found)
    except (ValueError, OSError, RuntimeError) as error:
        raise header.damaged(path, error, code) from error
    return found
