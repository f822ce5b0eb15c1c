"""What objectives over better and worse answers have in common. Texts of a batch alternate: better, worse, better, …"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from truetune.engines.torch.batch import Batch


def reference(batch: Batch) -> torch.Tensor:
    """log π_ref of each text, float32 [texts]."""
    values = [value for example in batch.examples for value in example.reference]
    return torch.tensor(values, dtype=torch.float32, device=batch.ids.device)


def sides(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the better and of the worse answers, from those of all texts."""
    return values[0::2], values[1::2]


def preferred(margin: torch.Tensor, smoothing: float) -> torch.Tensor:
    """−log σ(margin), where a share `smoothing` of the pairs is taken to be the wrong way round (Mitchell 2023)."""
    return -F.logsigmoid(margin) * (1 - smoothing) - F.logsigmoid(-margin) * smoothing


def rewards(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums over the pairs of what the texts' rewards come to."""
    better, worse = sides(values.detach())
    return {
        "reward_chosen": better.sum(),
        "reward_rejected": worse.sum(),
        "reward_margin": (better - worse).sum(),
        "reward_accuracy": ((better > worse).float() + (better == worse).float() / 2).sum(),  # a tie is a guess
    }
