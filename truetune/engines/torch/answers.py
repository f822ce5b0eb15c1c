"""Greedy answers of a model as it stands, for samples while it trains. They draw no random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from truetune.engines.torch import attention, cores, fronts, slots

Prompts = Sequence[Sequence[int]]


def greedy(
    model: nn.Module, prompts: Prompts, limit: int, stops: frozenset[int], front: fronts.Front | None
) -> list[list[int]]:
    """Continuations of at most `limit` tokens, each through its first stop token; `front` stands before each prompt,
    which only a model that trains padded takes."""
    if not limit:
        return [[] for _ in prompts]
    with torch.no_grad(), decoding(model):
        if model.config._attn_implementation == slots.NAME:
            return in_slots(model, prompts, limit, stops)
        return padded(model, prompts, limit, stops, front)


@contextmanager
def decoding(model: nn.Module) -> Iterator[None]:
    """Lend a model that trains packed the attention that knows our slots."""
    before = model.config._attn_implementation
    if before != attention.NAME:
        yield
        return
    model.set_attn_implementation(slots.NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def in_slots(model: nn.Module, prompts: Prompts, limit: int, stops: frozenset[int]) -> list[list[int]]:
    """By the decoder's core: rows that have ended leave."""
    core = cores.Batched(model, None)
    rows = [cores.Row(list(prompt)) for prompt in prompts]
    answers: dict[cores.Row, list[int]] = {row: [] for row in rows}
    for row in rows:
        core.join(row)
    while core.places:
        core.forward()
        for row in list(core.places):
            token = int(row.logits.argmax())
            answers[row].append(token)
            row.unread = [token]
            if token in stops or len(answers[row]) == limit:
                core.leave(row)
    return [answers[row] for row in rows]


def padded(
    model: nn.Module, prompts: Prompts, limit: int, stops: frozenset[int], front: fronts.Front | None
) -> list[list[int]]:
    """By one cache of transformers' over prompts that are padded on the left: for models that know no slots. A few
    rows that start together are faster so than one by one."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(one)) + list(one) for one in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=model.device)
    mask = torch.cat([mask.new_ones(len(prompts), fronts.length(front)), mask], dim=1)
    cache, answers = fronts.cache(model, front, len(prompts)), [[] for _ in prompts]
    going = set(range(len(prompts)))
    settings = {"logits_to_keep": 1} if cores.takes(model, "logits_to_keep") else {}
    while going:
        if cores.takes(model, "position_ids"):
            settings["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **settings)
        ids = output.logits[:, -1].argmax(-1, keepdim=True)
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        for row in list(going):
            answers[row].append(int(ids[row]))
            if answers[row][-1] in stops or len(answers[row]) == limit:
                going.remove(row)
    return answers
