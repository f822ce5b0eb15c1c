"""Numbers that stay on the disk until somebody asks for a part of them."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from truetune.errors import ResourceError


class Numbers(Protocol):
    """An array of one dimension, or something that gives parts of one."""

    def __getitem__(self, part: slice, /) -> NDArray[Any]: ...


class Stored:
    """The numbers of a file. A part is read when it is asked for and belongs to whoever asked, who may change it: so a
    training over gigabytes of tokens holds those of one step, and a file that is removed can still be read."""

    def __init__(self, path: Path, kind: DTypeLike) -> None:
        self.path, self.kind = path, np.dtype(kind)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._count = os.fstat(self._file).st_size // self.kind.itemsize

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice, /) -> NDArray[Any]:
        """Numbers from `start` to before `stop`; a step is not known. Raises ResourceError `data.cache` where the file
        has become shorter."""
        start, stop, _ = part.indices(self._count)
        size = max(0, stop - start) * self.kind.itemsize
        return np.frombuffer(bytearray(self._read(start * self.kind.itemsize, size)), self.kind)

    def _read(self, start: int, size: int) -> bytes:
        data = os.pread(self._file, size, start) if size else b""
        while len(data) < size and (more := os.pread(self._file, size - len(data), start + len(data))):
            data += more
        if len(data) < size:
            raise ResourceError(
                "tokenised data became shorter while it was read",
                code="data.cache",
                where=str(self.path),
                hint="Start again: what is damaged is made anew.",
            )
        return data
