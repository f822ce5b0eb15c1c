"""A fast BLAS under MLX on Linux, loaded before MLX is: its Linux wheel brings the reference one, on one thread, which
was measured 15 to 60 times slower than OpenBLAS. macOS has Accelerate and needs none of this.

The library is looked for by its name, as the system's package manager installs it (Debian: libopenblas0-pthread).
Where torch is in the process already nothing is loaded, since torch would compute with it too.
"""

from __future__ import annotations

import ctypes
import sys

LIBRARY = "libopenblas.so.0"
HINT = "apt install libopenblas0-pthread makes it many times faster"


def load() -> ctypes.CDLL | None:
    """OpenBLAS, in front of what MLX brings; None where it is not there, not needed or not wanted."""
    if not sys.platform.startswith("linux") or "torch" in sys.modules or "mlx.core" in sys.modules:
        return None
    try:
        return ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None


FOUND = load()


def name() -> str:
    """What multiplies matrices on the CPU."""
    if not sys.platform.startswith("linux"):
        return "accelerate"
    return "reference" if FOUND is None else "openblas"


def threads() -> int:
    """Threads of a matrix product; the reference BLAS has one, Accelerate does not tell (0)."""
    if FOUND is not None:
        return int(FOUND.openblas_get_num_threads())
    return 1 if sys.platform.startswith("linux") else 0
