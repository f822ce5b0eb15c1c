"""Greedy answers by transformers' own `generate`: left-padded prompts, key-value cache, the model's own attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import GenerationConfig

from truetune.engines.torch import attention


def greedy(model: nn.Module, prompts: Sequence[Sequence[int]], limit: int, stops: frozenset[int]) -> list[list[int]]:
    """Continuations of at most `limit` tokens, each through its first stop token. Draws no random numbers."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=sorted(stops) or None, pad_token_id=0, use_cache=True
    )
    with torch.no_grad(), own_attention(model):
        device = model.device
        grown = model.generate(ids.to(device), attention_mask=mask.to(device), generation_config=settings)
    return [through(answer, stops) for answer in grown[:, width:].tolist()]


def through(answer: list[int], stops: frozenset[int]) -> list[int]:
    """The answer with its first stop token and without what follows."""
    end = next((place for place, token in enumerate(answer) if token in stops), len(answer))
    return answer[: end + 1]


@contextmanager
def own_attention(model: nn.Module) -> Iterator[None]:
    """Our packed attention knows neither caches nor padding: lend the model its plain one."""
    before = model.config._attn_implementation
    if before != attention.NAME:
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
