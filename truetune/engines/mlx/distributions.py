"""The whole distribution of the next token at every place of given texts: for comparing two programs."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from truetune.engines.mlx.decode import MlxDecoder


def distributions(
    decoder: MlxDecoder, texts: Sequence[Sequence[int]], adapter: str | None
) -> list[NDArray[np.float32]]:
    """Per text, float32 [T, V] in nats: the log-probability of every token after each token. Raises KeyError for an
    unknown adapter."""
    decoder.refuse_unknown(adapter)
    with decoder.adapters.using(adapter):
        return [logs(decoder, list(map(int, ids))) for ids in texts]


def logs(decoder: MlxDecoder, ids: list[int]) -> NDArray[np.float32]:
    logits = decoder.head.logits(decoder.core.walk(mx.array([ids]))[0])
    return np.array(logits - mx.logsumexp(logits, -1, keepdims=True))
