"""Several adapters of one base into one, by PEFT's arithmetic (`add_weighted_adapter`), without the base.

With wᵢ the weights and sᵢ the adapters' scales (alpha / r, of rsLoRA alpha / √r):

    cat     A = [wᵢ sᵢ Aᵢ …] over one another, B = [Bᵢ …] beside one another: Σ wᵢ ΔWᵢ exactly; the ranks add up
    svd     the r largest singular values of Σ wᵢ ΔWᵢ
    linear  A = Σ √(wᵢ sᵢ) Aᵢ, B = Σ √(wᵢ sᵢ) Bᵢ: products of one's A with another's B are in it too
    ties    as linear, of the `density` largest numbers, where most agree on the sign (Yadav et al. 2023, 2306.01708)
    dare    as linear, of a random `density` of the numbers, each ÷ density (Yu et al. 2024, arXiv 2311.03099)

PEFT works on layers of a model; it gets bare ones without weights, with the adapters' names and shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import nn

from truetune.errors import UsageError
from truetune.export import lowrank
from truetune.export.combinations import EQUAL, METHODS
from truetune.export.lowrank import Pair, Part

RESULT = "combined"


@dataclass(frozen=True)
class Combined:
    """What came of it: A and B of each layer with a scale of 1, and how far that lies from Σ wᵢ ΔWᵢ."""

    layers: dict[str, Pair]
    rank: int
    distance: float
    """‖ΔW − Σ wᵢ ΔWᵢ‖ ÷ ‖Σ wᵢ ΔWᵢ‖ over all layers; 0 = the weighted sum itself."""
    length: float
    """‖ΔW‖ over all layers."""


def combine(
    parts: Sequence[Part],
    weights: Sequence[float],
    method: str,
    *,
    density: float | None = None,
    rank: int | None = None,
    seed: int = 42,
) -> Combined:
    """Raises UsageError `merge.ranks`, `merge.rank`, `merge.cancels`, what `refuse_others` raises."""
    refuse_others(parts)
    refuse_ranks(parts, method, rank)
    shapes = {name: (A.shape[1], B.shape[0]) for part in parts for name, (A, B) in part.layers.items()}
    tuner = attached(skeleton(shapes), parts)
    names = [str(number) for number in range(len(parts))]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of densities of 1
        torch.manual_seed(seed)
        tuner.add_weighted_adapter(
            names, list(weights), RESULT, METHODS[method], svd_rank=rank, svd_full_matrices=False, density=density
        )
    layers = {name: taken(tuner.model.get_submodule(name), RESULT) for name in shapes}
    return measured(layers, parts, weights)


def measured(layers: dict[str, Pair], parts: Sequence[Part], weights: Sequence[float]) -> Combined:
    """Against the weighted sum. Raises UsageError `merge.cancels` where nothing is left."""
    wanted = {name: summed(parts, weights, name) for name in layers}
    between, whole = lowrank.apart(layers, wanted)
    length = lowrank.apart(layers, {})[0]
    if not length:
        raise UsageError(
            "with these weights the adapters cancel each other out, and nothing is left",
            code="merge.cancels",
            where="weights",
            hint="Give other weights, or merge other adapters.",
        )
    rank = max(A.shape[0] for A, _ in layers.values())
    return Combined(layers, rank, between / whole if whole else float("inf"), length)


def summed(parts: Sequence[Part], weights: Sequence[float], name: str) -> Pair:
    """Σ wᵢ ΔWᵢ of one layer, over those that change it."""
    mine = [(part.layers[name], weight * part.layout.scale) for part, weight in zip(parts, weights, strict=True)
            if name in part.layers]  # fmt: skip
    return lowrank.joined([pair for pair, _ in mine], [weight for _, weight in mine])


def settings(made: Combined) -> dict[str, Any]:
    """PEFT's, of a result whose scale is 1: alpha is the rank."""
    return {"r": made.rank, "lora_alpha": made.rank, "use_rslora": False, "lora_dropout": 0.0}


def skeleton(shapes: Mapping[str, tuple[int, int]]) -> nn.Module:
    """Linear layers by their full names, (inputs, outputs) each, whose weights take no memory."""
    root = nn.Module()
    for name, (inputs, outputs) in shapes.items():
        *above, last = name.split(".")
        parent = root
        for step in above:
            if not hasattr(parent, step):
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        layer = nn.Linear(inputs, outputs, bias=False, device="meta")
        layer.weight = nn.Parameter(torch.zeros(()).expand(outputs, inputs), requires_grad=False)  # one number
        parent.add_module(last, layer)
    return root


def attached(model: nn.Module, parts: Sequence[Part]) -> LoraModel:
    """PEFT's layers around the bare ones, with the adapters in them as `0`, `1`, …"""
    settings = {str(number): config(part) for number, part in enumerate(parts)}
    tuner = LoraModel(model, settings["0"], "0")
    for number, part in enumerate(parts):
        if number:
            tuner.peft_config[str(number)] = settings[str(number)]
            tuner.inject_adapter(model, str(number))
        for name, (A, B) in part.layers.items():
            layer = model.get_submodule(name)
            assert isinstance(layer, LoraLayer)
            for side, tensor in ((layer.lora_A, A), (layer.lora_B, B)):
                side.get_submodule(str(number)).weight = nn.Parameter(tensor, requires_grad=False)
    return tuner


def config(part: Part) -> LoraConfig:
    return LoraConfig(
        r=part.rank,
        lora_alpha=part.body["lora_alpha"],
        use_rslora=bool(part.body.get("use_rslora")),
        target_modules=sorted(part.layers),
    )


def taken(layer: nn.Module, name: str) -> Pair:
    assert isinstance(layer, LoraLayer)
    A, B = (side.get_submodule(name).weight for side in (layer.lora_A, layer.lora_B))
    assert isinstance(A, torch.Tensor) and isinstance(B, torch.Tensor)
    return A.detach().clone(), B.detach().clone()


def refuse_others(parts: Sequence[Part]) -> None:
    """Adapters that are more than ΔW of some layers. Raises UsageError `merge.unsupported`."""
    for part in parts:
        what = (
            "is DoRA's, whose lengths of rows do not add up" if part.layout.dora else
            "brings rows of new tokens" if part.layout.rows else
            "brings whole modules" if part.layout.whole else ""
        )  # fmt: skip
        if what:
            raise UsageError(
                f"this adapter {what}, and PEFT's arithmetic is one of LoRA's two matrices",
                code="merge.unsupported",
                where=str(part.folder),
                hint="Leave it out; `ft export --format merged` folds it into its base.",
            )


def refuse_ranks(parts: Sequence[Part], method: str, rank: int | None) -> None:
    """Raises UsageError `merge.ranks`, `merge.rank`."""
    ranks = [part.rank for part in parts]
    if method in EQUAL and len(set(ranks)) > 1:
        raise UsageError(
            f"{method} adds matrices of one rank, and these adapters have {', '.join(map(str, ranks))}",
            code="merge.ranks",
            where="method",
            hint="Use --method cat or svd; or `ft adapters compress --rank` the larger ones first.",
        )
    smallest = min(min(A.shape[1], B.shape[0]) for part in parts for A, B in part.layers.values())
    if method == "svd" and (rank or max(ranks)) > smallest:
        raise UsageError(
            f"a layer of {smallest} has no {rank or max(ranks)} singular values",
            code="merge.rank",
            where="rank",
            hint=f"Use --rank {smallest} or less.",
        )
