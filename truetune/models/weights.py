"""The weight files of a model folder: safetensors only, headers read, tensors never loaded here."""

from __future__ import annotations

import json
from pathlib import Path

from truetune.errors import InputError
from truetune.models import header
from truetune.models.header import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ENDING = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".msgpack", ".h5", ".joblib", ".dill")
OTHER = ("training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin", "scaler.pt")
"""Pickles that trainers leave beside weights; they are not weights."""


def shards(folder: Path) -> list[Path]:
    """The files that hold the weights, in order.

    Raises InputError: `model.pickle_weights`, `model.gguf`, `model.no_weights`, `model.damaged` (a shard is missing).
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return _indexed(folder)
    raise _without(folder)


def _indexed(folder: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()), key=str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(folder / INDEX, "the index of the weight files cannot be read") from error
    if not all(isinstance(name, str) and Path(name).name == name and name.endswith(ENDING) for name in names):
        raise _damaged(folder / INDEX, f"the index names what is no {ENDING} file of this folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise _damaged(folder, f"{len(missing)} of {len(names)} weight files are missing: {', '.join(missing[:3])}")
    return [folder / name for name in names]


def _without(folder: Path) -> InputError:
    """Why a folder has no weights that can be used."""
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES) and name not in OTHER]
    if pickles:
        return pickled(str(folder), pickles[0])
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return unsupported(str(folder / gguf[0]))
    return InputError(
        "the folder holds no weights",
        code="model.no_weights",
        where=str(folder),
        hint=f"a model folder has config.json, tokenizer.json and {SINGLE} (or {INDEX} with its files)",
    )


def pickled(where: str, file: str) -> InputError:
    """Weights as pickle are refused whatever they hold."""
    return InputError(
        f"the weights are stored as pickle ({file}), which can run code when opened, so they are not loaded",
        code="model.pickle_weights",
        where=where,
        hint="convert them once in a place you trust: load the model with transformers there and call "
        "save_pretrained(folder), which writes model.safetensors; many hub models also have a safetensors revision",
    )


def unsupported(file: str) -> InputError:
    """GGUF files are for running models; they cannot be trained."""
    return InputError(
        "a GGUF file is a compressed copy for running a model and cannot be fine-tuned",
        code="model.gguf",
        where=file,
        hint="name the original model (its hub id or a folder with safetensors); `ft export --format gguf` comes after",
    )


def tensors(folder: Path) -> list[Tensor]:
    """Name, dtype and shape of every tensor, from the headers. Raises InputError as `shards`, or `model.damaged`."""
    found: list[Tensor] = []
    for path in shards(folder):
        try:
            found += header.read(path)
        except (ValueError, OSError) as error:
            reason = str(error) if type(error) is ValueError else "its header cannot be read"
            raise _damaged(path, f"the weight file is cut off or damaged: {reason}") from error
    return found


def _damaged(where: Path, message: str) -> InputError:
    return InputError(message, code="model.damaged", where=str(where), hint="download or copy the model again")
