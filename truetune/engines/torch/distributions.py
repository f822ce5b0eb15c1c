"""The whole distribution of the next token at every place of given texts: for comparing two programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.engines.torch import batch
from truetune.engines.torch.cores import CHUNK, Alone, Batched, Row, before
from truetune.engines.torch.decode import TorchDecoder, computing
from truetune.engines.torch.slots import Piece, Reading


def distributions(
    decoder: TorchDecoder, texts: Sequence[Sequence[int]], adapter: str | None
) -> list[NDArray[np.float32]]:
    """Per text, float32 [T, V] in nats: the log-probability of every token after each token. Raises OutOfMemory,
    KeyError for an unknown adapter."""
    decoder.refuse_unknown(adapter)
    with computing():
        return [logs(decoder.core, list(map(int, ids)), adapter) for ids in texts]


def logs(core: Batched | Alone, ids: list[int], adapter: str | None) -> NDArray[np.float32]:
    if isinstance(core, Alone):
        cache = core.cache(adapter)
        parts = [core.run(part, adapter, cache, last=False) for part in cut(ids)]
        logits = torch.cat(parts)
    elif before(core.adapters, adapter):
        logits = core.head.logits(behind(core, ids, adapter))
    else:
        logits = core.head.logits(packed(core, ids, adapter))
    return logits.float().log_softmax(-1).cpu().numpy()


def cut(ids: list[int]) -> Iterator[list[int]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def packed(core: Batched, ids: list[int], adapter: str | None) -> torch.Tensor:
    """Hidden states [T, H] of one text, as texts are scored."""
    example = Example(np.asarray(ids, np.int32), np.ones(len(ids), np.float32), 0)
    row = batch.pack([example], str(core.model.device))
    if core.adapters:
        core.adapters.route([adapter], [row.ids.shape[1]], row.ids.shape[1])
    output = core.model.base_model(
        input_ids=row.ids, position_ids=row.positions, segments=row.segments, use_cache=False
    )
    return output.last_hidden_state[0, : len(ids)]


def behind(core: Batched, ids: list[int], adapter: str | None) -> torch.Tensor:
    """Hidden states [T, H] of one text behind what its adapter puts before it."""
    row, found = Row([], adapter), []
    core.join(row)
    try:
        for part in cut(ids):
            piece = Piece(core.places.index(row), row.length, row.length + len(part))
            hidden = core.hidden([part], [row.length], [adapter], Reading(core.store, [piece]))
            found.append(hidden[: len(part)])
            row.length = piece.stop
    finally:
        core.leave(row)
    return torch.cat(found)
