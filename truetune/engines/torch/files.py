"""Tensors from a safetensors file whose header has been checked first, and back: the one way for a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from truetune.models import header


def load(path: Path, code: str) -> dict[str, torch.Tensor]:
    """Every tensor of a file by name, on the CPU. Raises InputError with this code where it is not whole."""
    try:
        header.read(path)
        return load_file(path)
    except (ValueError, OSError, SafetensorError) as error:
        raise header.damaged(path, error, code) from error


def write(path: Path, tensors: Mapping[str, torch.Tensor], **beside: str) -> None:
    """Every tensor by name, as it stands, and texts beside them."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, {"format": "pt", **beside})
