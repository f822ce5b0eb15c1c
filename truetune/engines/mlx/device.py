"""Which device and number type MLX computes on, and its memory by MLX's own counters."""

from __future__ import annotations

import mlx.core as mx
import psutil

from truetune.engines.base import Choice, OutOfMemory, Usage
from truetune.engines.mlx import blas

UNTESTED = "MLX on Apple's GPU is untested with TrueTune: check the first losses with resources.device cpu"


def choose(device: str = "auto", dtype: str = "auto") -> Choice:
    """Resolve `auto`; a device that is not there falls back to the CPU with a warning."""
    name, reason, warning = pick(device)
    if dtype != "auto":
        return Choice(name, dtype, reason, "as asked", warning)
    return Choice(name, "float32", reason, "float32 is the safe choice with MLX", warning)


def pick(device: str) -> tuple[str, str, str]:
    """(device, reason, warning)."""
    metal = mx.metal.is_available()
    if device == "auto" and metal:
        return "mps", "Apple's GPU found", UNTESTED
    if device == "mps" and metal:
        return "mps", "as asked", UNTESTED
    if device in ("auto", "cpu"):
        reason = "as asked" if device == "cpu" else "MLX finds no Apple GPU"
        return "cpu", reason, f"MLX computes here with a slow BLAS: {blas.HINT}" if blas.name() == "reference" else ""
    return "cpu", "MLX finds no such device", f"{device} was asked for, but MLX has none here: using the CPU"


def use(device: str) -> None:
    """Compute there from now on."""
    mx.set_default_device(mx.gpu if device == "mps" else mx.cpu)
    if device != "mps":
        # On a CPU, compiling means to call a C++ compiler and to load what it left in a folder that all may write to.
        mx.disable_compile()


def free(device: str) -> int | None:
    """Free bytes of a GPU with memory of its own; None here, where all memory is shared and asked for elsewhere."""
    return None


def limit() -> int:
    """The most bytes that MLX may use: what Metal recommends, else the machine's memory."""
    told = mx.device_info().get("max_recommended_working_set_size")
    return int(told or psutil.virtual_memory().total)


def most(device: str, wish: int) -> int:
    """The most bytes that a training may use; a wish (0 = none) bounds it on a GPU, as with torch."""
    return min(limit(), wish) if wish and device == "mps" else limit()


def usage(most: int, before: int) -> Usage:
    """Bytes of MLX's arrays now, at the peak (`before` MLX counted anew, or since), and the most there may be."""
    return Usage(mx.get_active_memory(), max(before, mx.get_peak_memory()), most)


def refuse_overflow(most: int) -> None:
    """MLX itself does not stop at its limit (on Linux it crashes, on a Mac it swaps): said here between two
    micro-batches. Raises OutOfMemory."""
    used = mx.get_peak_memory()
    if used > most:
        raise OutOfMemory(f"{used:,} bytes of arrays, and {most:,} are allowed")
