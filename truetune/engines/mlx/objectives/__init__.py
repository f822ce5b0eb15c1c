"""Objectives: what a micro-batch costs. One file each, found by name; the formulas stand with torch's."""

from __future__ import annotations

import mlx.core as mx

from truetune.engines import base
from truetune.engines.mlx.objectives import classification, cpo, dpo, kto, language, orpo, reward, simpo
from truetune.engines.objective import Objective

Figures = dict[str, mx.array]


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
    return TABLE[settings.type](settings)
