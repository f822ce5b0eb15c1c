"""Tensors from a safetensors file whose header has been checked first: the one way into the engine for a file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from truetune.errors import InputError
from truetune.models import header


def load(path: Path, code: str) -> dict[str, torch.Tensor]:
    """Every tensor of a file by name, on the CPU. Raises InputError with this code where it is not whole."""
    try:
        header.read(path)
        return load_file(path)
    except (ValueError, OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise InputError(
            f"the file of tensors cannot be read: {reason}",
            code=code,
            where=str(path),
            hint="It is damaged or cut off: copy it again from where it was made.",
        ) from error
