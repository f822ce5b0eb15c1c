"""Better and worse answers, measured: how far apart base and tuned model hold them, and the loss of the training.

Everything comes from Σ log p of each answer under base and tuned. Where the objective compares with the model before
training, that is the base, so the base itself leads nowhere: margin 0, and every pair a tie, which counts as half. The
formulas are those of the engines' objectives, written once more in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.data import objectives
from truetune.data.example import Example
from truetune.engines.base import Objective, cut
from truetune.evaluate.material import Item
from truetune.evaluate.metrics import Sums

Floats = NDArray[np.float64]
Score = Callable[[Sequence[Example]], Sequence[NDArray[np.float32]]]
"""The log-probability of every token of these texts."""


def settings(resolved: Mapping[str, Any] | None, item: Item) -> Objective:
    """The objective of the run where it learned from such rows, else DPO or KTO as it is by default."""
    kind = "dpo" if item.examples[0].second else "kto"
    config = (resolved or {}).get("config", {})
    name = config.get("training", {}).get("objective", "")
    if name not in objectives.fitting(kind):
        return Objective(kind)
    return Objective(name, **config["preference"])


def texts(item: Item) -> list[Example]:
    """What is scored of a row: both answers of a pair; a rated answer, and another row's behind the same prompt."""
    (example,) = item.examples
    found = [Example(example.ids[part], example.weights[part], example.row) for part in example.texts]
    return found + ([example.contrast] if example.contrast is not None else [])


def table(items: Sequence[Item], score: Score, budget: int, tell: Callable[[int], None]) -> Floats:
    """[rows, texts, 2]: Σ weight · log p and Σ weight of every text."""
    every = [text for item in items for text in texts(item)]
    each, found = len(every) // max(1, len(items)), np.zeros((len(every), 2))
    done = np.zeros(len(every), bool)
    for part in cut(every, budget):
        for at, logs in zip(part, score([every[at] for at in part]), strict=True):
            weights = every[at].weights.astype(np.float64)
            found[at] = (weights * logs).sum(), weights.sum()
            done[at] = True
        tell(int(done.reshape(len(items), each).all(1).sum()))
    return found.reshape(len(items), each, 2)


def sums(s: Objective, items: Sequence[Item], now: Floats, base: Floats) -> dict[str, Sums]:
    """The sums of every metric, of a side whose texts scored `now`."""
    gains = now[..., 0] - (base[..., 0] if objectives.of(s.type).reference else 0)
    good = np.array([item.examples[0].label != (0,) for item in items])
    learned = np.where(good[:, None], now[:, 0] * (-1, 1), 0)
    if s.type == "kto":
        z = max(0.0, float(gains[:, 1].mean()))
        losses, lead = kto(s, gains[:, 0], good, z)
        sides = [side for keep in (good, ~good) for side in (np.where(keep, s.beta * gains[:, 0], 0), keep)]
        margin = np.column_stack(sides).astype(np.float64)
    else:
        losses, lead = pairs(s, gains, now[..., 1], now[..., 0] / now[..., 1])
        margin = np.column_stack((lead, np.ones(len(lead)), np.zeros(len(lead)), np.ones(len(lead))))
    ones = np.ones(len(items))
    return {
        "preference_loss": np.column_stack((losses, ones)),
        "reward_margin": margin,
        "reward_accuracy": np.column_stack((right(lead), ones)),
        "loss": learned,
        "perplexity": learned,
    }


def right(lead: Floats) -> Floats:
    """1 where the better answer is ahead, 0 where it is behind; a tie counts as half."""
    return np.where(lead == 0, 0.5, lead > 0)


def kto(s: Objective, gains: Floats, good: NDArray[np.bool_], z: float) -> tuple[Floats, Floats]:
    """(losses, how far each answer is on its right side)."""
    ahead = np.where(good, gains - z, z - gains)
    return np.where(good, s.desirable_weight, s.undesirable_weight) * sigmoid(-s.beta * ahead), ahead


def pairs(s: Objective, gains: Floats, sizes: Floats, means: Floats) -> tuple[Floats, Floats]:
    """(losses, margins of the rewards) from the log-probabilities of both answers, less those of the reference."""
    if s.type in ("orpo", "simpo"):
        lead = s.beta * (means[:, 0] - means[:, 1])
    else:
        lead = s.beta * (gains[:, 0] - gains[:, 1])
    if s.type == "orpo":
        odds = means - np.log(-np.expm1(np.minimum(means, -1e-6)))
        return -s.sft_weight * means[:, 0] + s.beta * smoothed(odds[:, 0] - odds[:, 1], 0.0), lead
    if s.type == "simpo":
        return smoothed(lead - s.margin, s.label_smoothing), lead
    if s.type == "cpo":
        return smoothed(lead, s.label_smoothing) - s.sft_weight * means[:, 0], lead
    if s.loss == "ipo":
        mean = gains / sizes
        return (mean[:, 0] - mean[:, 1] - 1 / (2 * s.beta)) ** 2, lead
    return np.maximum(0, 1 - lead) if s.loss == "hinge" else smoothed(lead, s.label_smoothing), lead


def smoothed(margin: Floats, share: float) -> Floats:
    """−log σ(margin), for a share of the pairs the wrong way round."""
    return np.asarray((1 - share) * np.logaddexp(0, -margin) + share * np.logaddexp(0, margin))


def sigmoid(x: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))
