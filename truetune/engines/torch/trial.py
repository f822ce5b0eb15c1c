"""Whether a kernel is right: what it gives, and its gradients, beside a formula in the same numbers and in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

FURTHER = 3.0
"""How many times as far from float32 as the formula in its own numbers a kernel may be, rounding apart."""
Way = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]


def refusal(
    ours: Way, formula: Way, shapes: Sequence[tuple[int, ...]], device: torch.device, dtype: torch.dtype
) -> str:
    """Why `ours` does not stand in for `formula` on tensors of these shapes; nothing where it does. Both may write into
    what they are given."""
    try:
        results = [results_of(way, shapes, device, kind) for way, kind in ((ours, dtype), (formula, dtype))]
    except Exception as error:  # whatever a kernel, its compiler or its driver says
        return said(error)
    return further(*results, results_of(formula, shapes, device, torch.float32))


def results_of(
    way: Way, shapes: Sequence[tuple[int, ...]], device: torch.device, dtype: torch.dtype
) -> list[torch.Tensor]:
    """What comes of random numbers, and the gradients; drawn apart, so that training's draws stay as they are."""
    draw = torch.Generator().manual_seed(0)

    def numbers(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(torch.bfloat16).to(device, dtype)

    leaves = [numbers(shape).requires_grad_() for shape in shapes]
    with torch.enable_grad():
        found = way(*(leaf.clone() for leaf in leaves))
        several = found if isinstance(found, tuple) else (found,)
        kept = [one.detach().clone() for one in several]
        upstream = [numbers(tuple(one.shape)) for one in several]
        return kept + [grad.detach() for grad in torch.autograd.grad(several, leaves, upstream)]


def further(ours: Sequence[torch.Tensor], usual: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> str:
    """What is wrong with results and gradients; nothing if nothing is. What is no number is wrong."""
    for place, (one, other, right) in enumerate(zip(ours, usual, exact, strict=True)):
        if one.shape != right.shape:
            return f"result {place} is of another shape"
        size = float(right.abs().max())
        off, common = (float((x.float() - right).abs().max()) for x in (one, other))
        if not off <= FURTHER * common + margin(one.dtype) * size:
            return f"result {place} is {off:.2g} off, where the formula is {common:.2g} off"
    return ""


def margin(dtype: torch.dtype) -> float:
    """Part of the largest number that rounding alone may make of a difference."""
    return 4 * torch.finfo(dtype).eps if dtype != torch.float32 else 1e-5


def said(error: Exception) -> str:
    """An error in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'not usable'}"[:200]
