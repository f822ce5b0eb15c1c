"""Engines: what holds tensors. Found by name through a table, imported when opened."""

from __future__ import annotations

import gc
import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from truetune import paths
from truetune.engines.base import EngineSpec, TrainEngine
from truetune.engines.decoder import Decoder, DecoderSpec
from truetune.engines.reader import Reader
from truetune.errors import ResourceError, UsageError

TABLE = {"torch": "truetune.engines.torch", "mlx": "truetune.engines.mlx"}
LIBRARIES = {"torch": "torch", "mlx": "mlx_lm"}
"""What each engine cannot do without."""
PACKING = ("bitsandbytes", "accelerate")
"""What computes with packed weights, and what loads them."""


@dataclass(frozen=True)
class Chosen:
    """An engine with the reason, and a warning where it is not the one that was asked for."""

    name: str
    reason: str
    warning: str = ""


def choose(
    wish: str, model: Path, method: str = "lora", objective: str = "sft", settings: Sequence[str] = ()
) -> Chosen:
    """Resolve `auto` for a model folder: MLX on Apple silicon where it is installed, torch elsewhere. Torch steps in
    for a model, a method or an objective that MLX lacks, asked for or not; and for the settings, which only it has."""
    apple = sys.platform == "darwin" and platform.machine() == "arm64" and installed("mlx")
    if wish == "torch" or (wish == "auto" and not apple):
        return Chosen("torch", "as asked" if wish == "torch" else "the engine of this machine")
    lacking = ", ".join(settings) or module("mlx").lacks(model, method, objective)
    if lacking:
        return Chosen("torch", f"MLX lacks {lacking}", f"MLX lacks {lacking}, so torch computes")
    return Chosen("mlx", "as asked" if wish == "mlx" else "MLX is the fast way on Apple silicon")


def installed(name: str) -> bool:
    """Whether an engine's libraries are here; False for a name that is no engine's. Nothing is imported."""
    return name in LIBRARIES and find_spec(LIBRARIES[name]) is not None


def refuse_unpackable(bits: int, device: str) -> None:
    """A packed base (`bits` of 4 or 8) on a device, or without a library, that does not compute with it. Asked before
    anything is loaded. Raises ResourceError `device.packed`, `engine.not_installed`."""
    if not bits:
        return
    if device == "mps":
        raise ResourceError(
            f"a base in {bits} bits is computed on CUDA and on the processor, not on mps",
            code="device.packed",
            where="resources.device",
            hint="Write `device: cpu`, or train with `method: lora` on the original model.",
        )
    missing = next((name for name in PACKING if find_spec(name) is None), None)
    if missing:
        raise ResourceError(
            f"a base in {bits} bits needs {missing}, which is not installed",
            code="engine.not_installed",
            where="method.type",
            hint='Install it: pip install "truetune[qlora]"; or train with `method: lora`.',
        )


def module(name: str) -> Any:
    """The engine's package: `choose`, `free`, `packs`, `ignored`, `open_engine`, `open_decoder`.

    Raises where its libraries are not installed.
    """
    if name not in TABLE:
        raise UsageError(f"there is no engine {name}", code="engine.unknown", hint=f"Engines: {', '.join(TABLE)}.")
    # oneDNN keeps code for each shape it multiplies, 1,024 unless told: a training would grow by hundreds of megabytes.
    paths.settle("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    keep_out_kernels()
    try:
        with undisturbed():
            return import_module(TABLE[name])
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"the {name} engine needs {error.name}, which is not installed",
            code="engine.not_installed",
            where="resources.engine",
            hint=f'Install it: pip install "truetune[{name}]".',
        ) from None


def keep_out_kernels() -> None:
    """bitsandbytes and transformers fetch code from a hub where the package `kernels` is installed: not here."""
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it would warn that there is none


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without looking for garbage: the libraries make a million objects that stay, in a sixth less time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def open_engine(name: str, spec: EngineSpec) -> TrainEngine:
    """Load the model onto its device, ready to take steps."""
    engine: TrainEngine = module(name).open_engine(spec)
    return engine


def open_decoder(name: str, spec: DecoderSpec) -> Decoder:
    """Load the model onto its device, ready to take prompts."""
    decoder: Decoder = module(name).open_decoder(spec)
    return decoder


def open_reader(spec: DecoderSpec) -> Reader:
    """Load an encoder onto its device, ready to take texts. Torch has them alone."""
    reader: Reader = module("torch").open_reader(spec)
    return reader
