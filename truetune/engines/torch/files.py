"""Tensors from a safetensors file whose header has been checked first, and back: the one way for a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from truetune.engines.base import Part
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
    save_file(plain, path, {"format": "pt"})
    if beside:
        path.write_bytes(annotated(path.read_bytes(), beside))


def part(name: str, tensors: Mapping[str, torch.Tensor], **beside: str) -> Part:
    """What writes these tensors into the file of this name."""
    return partial(_put, name, tensors, beside)


def _put(name: str, tensors: Mapping[str, torch.Tensor], beside: Mapping[str, str], folder: Path) -> None:
    write(folder / name, tensors, **beside)


def held(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in the host's memory, which later steps do not change."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def annotated(data: bytes, beside: Mapping[str, str]) -> bytes:
    """A safetensors file with more texts in its header. safetensors itself writes several in a random order, and the
    same tensors are to be the same bytes."""
    size = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + size])
    entries["__metadata__"] |= beside
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
