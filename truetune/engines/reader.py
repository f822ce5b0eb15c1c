"""The protocol of embeddings: token ids in, one vector of each text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from truetune.models.encoders import Pooling


class Reader(Protocol):
    """A model that reads. One thread at a time."""

    def embed(self, texts: Sequence[Sequence[int]], pooling: Pooling) -> NDArray[np.float32]:
        """float32 [texts, H], of texts of at least one token each: a text's embedding does not depend on the others.
        Raises OutOfMemory."""
        ...
