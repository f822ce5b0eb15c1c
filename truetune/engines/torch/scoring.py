"""Log-probabilities of given texts, without logits for a whole text at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.engines.base import cut
from truetune.engines.torch import batch
from truetune.engines.torch.cores import CHUNK, Alone, Batched, Row, before
from truetune.engines.torch.head import picked
from truetune.engines.torch.slots import Piece, Reading

BUDGET = 2048
"""Most tokens of one forward; a longer text goes alone."""


def score(core: Batched | Alone, examples: Sequence[Example], adapter: str | None) -> list[NDArray[np.float32]]:
    """Per example, float32 [T]: the log-probability of each token after those before it; 0 for the first."""
    if isinstance(core, Alone):
        return [alone(core, example, adapter) for example in examples]
    if before(core.adapters, adapter):
        return [behind(core, example, adapter) for example in examples]
    found: dict[int, NDArray[np.float32]] = {}
    for part in cut(examples, BUDGET):
        found |= zip(part, packed(core, [examples[i] for i in part], adapter), strict=True)
    return [found[i] for i in range(len(examples))]


def packed(core: Batched, examples: Sequence[Example], adapter: str | None) -> list[NDArray[np.float32]]:
    """All examples in one row of segments, the head in chunks."""
    everything = [Example(e.ids, np.r_[np.float32(0), np.ones(e.tokens - 1, np.float32)], e.row) for e in examples]
    row = batch.pack(everything, str(core.model.device))
    if core.adapters:
        core.adapters.route([adapter], [row.ids.shape[1]], row.ids.shape[1])
    output = core.model.base_model(
        input_ids=row.ids, position_ids=row.positions, segments=row.segments, use_cache=False
    )
    hidden = output.last_hidden_state[0]
    chunks = core.head.chunks(hidden.index_select(0, row.picked))
    logs = [torch.zeros(0, device=hidden.device), *(picked(z, row.targets[part]) for part, z in chunks)]
    parts = torch.cat(logs).cpu().split([example.tokens - 1 for example in examples])
    return [np.r_[np.float32(0), part.numpy()] for part in parts]


def behind(core: Batched, example: Example, adapter: str | None) -> NDArray[np.float32]:
    """One text behind what its adapter puts before it, in chunks through the store."""
    row, logs = Row([], adapter), [torch.zeros(1)]
    ids = torch.tensor(example.ids.astype(np.int64))
    core.join(row)
    try:
        for start in range(0, example.tokens - 1, CHUNK):
            part = ids[start : min(start + CHUNK, example.tokens - 1)]
            piece = Piece(core.places.index(row), row.length, row.length + len(part))
            hidden = core.hidden([part.tolist()], [row.length], [adapter], Reading(core.store, [piece]))
            targets = ids[start + 1 : start + 1 + len(part)].to(hidden.device)
            logs.append(picked(core.head.logits(hidden[: len(part)]), targets).cpu())
            row.length = piece.stop
    finally:
        core.leave(row)
    return torch.cat(logs).numpy()


def alone(core: Alone, example: Example, adapter: str | None) -> NDArray[np.float32]:
    """One text in chunks over a cache of its own, by the model's own logits."""
    logs, cache = [torch.zeros(1)], core.cache(adapter)
    ids = torch.tensor(example.ids.astype(np.int64))
    for start in range(0, example.tokens - 1, CHUNK):
        part = slice(start, min(start + CHUNK, example.tokens - 1))
        logits = core.run(ids[part].tolist(), adapter, cache, last=False)
        logs.append(picked(logits, ids[part.start + 1 : part.stop + 1].to(logits.device)).cpu())
    return torch.cat(logs).numpy()
