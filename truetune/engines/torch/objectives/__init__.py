"""Objectives: what a micro-batch costs. One file each, found by name."""

from __future__ import annotations

from functools import cache

import torch

from truetune import plugins
from truetune.data import objectives
from truetune.engines import base
from truetune.engines.objective import Objective
from truetune.engines.torch.objectives import classification, cpo, dpo, kto, language, orpo, reward, simpo

Figures = dict[str, torch.Tensor]


TABLE: dict[str, type[Objective]] = {
    "sft": language.Language,
    "summarisation": language.Language,
    "pretrain": language.Language,
    "dpo": dpo.Dpo,
    "orpo": orpo.Orpo,
    "simpo": simpo.Simpo,
    "cpo": cpo.Cpo,
    "kto": kto.Kto,
    "reward": reward.Reward,
    "classification": classification.Classification,
}


def of(settings: base.Objective) -> Objective:
    return (TABLE.get(settings.type) or brought(settings.type))(settings)


@cache
def brought(name: str) -> type[Objective]:
    """The class that a package brings. Raises InputError `plugin.unusable`."""
    kind: type[Objective] = plugins.part(plugins.OBJECTIVES, name, objectives.of(name).torch)
    if not (callable(kind) and hasattr(kind, "collect") and hasattr(kind, "loss")):
        raise plugins.unusable(plugins.OBJECTIVES, name, "it must be a class with `collect` and `loss`")
    return kind
