"""Rows of the embedding, and of the head, that are trained while the others stay: those of new tokens.

PEFT calls it `trainable_token_indices`. Where the head is the embedding, both use the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from truetune.engines import adapter
from truetune.engines.family import ROWS
from truetune.engines.torch.whole import tied
from truetune.errors import UsageError


class Rows(nn.Module):
    """An embedding, or a head, some of whose rows are trained: `rows` [n, H] stand for those of `ids`."""

    def __init__(self, base: nn.Module, ids: Sequence[int], rows: nn.Parameter | None = None) -> None:
        super().__init__()
        self.base = base
        self.rows = nn.Parameter(base.weight.detach()[list(ids)].float()) if rows is None else rows
        device, count = base.weight.device, len(base.weight)
        self.register_buffer("ids", torch.tensor(ids, device=device), persistent=False)
        self.register_buffer("places", torch.full((count,), -1, device=device), persistent=False)
        self.places[self.ids] = torch.arange(len(ids), device=device)
        self.enabled = True

    @property
    def weight(self) -> torch.Tensor:
        """[V, H] with the rows in it."""
        weight = self.base.weight
        return weight.index_copy(0, self.ids, self.rows.to(weight.dtype)) if self.enabled else weight

    @property
    def bias(self) -> torch.Tensor | None:
        return getattr(self.base, "bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.enabled:
            return self.base(x)
        if isinstance(self.base, nn.Linear):
            return F.linear(x, self.weight, self.bias)
        found, place = self.base(x), self.places[x]
        rows = F.embedding(place.clamp(min=0), self.rows).to(found.dtype)
        scale = getattr(self.base, "embed_scale", None)  # Gemma's embedding multiplies what it looks up
        rows = rows if scale is None else rows * torch.as_tensor(scale).to(rows)
        return torch.where(place[..., None] >= 0, rows, found)


def places(model: nn.Module, ids: Sequence[int], left_out: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Module -> the ids whose rows train: the embedding, and the head where it is another. `left_out` are modules that
    are trained whole. Raises UsageError `method.head_bias`."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    parts = (embedding,) if head is None or tied(model) else (embedding, head)  # a classifier has no head of tokens
    names = [name_of(model, part) for part in parts] if ids else []
    found = {name: tuple(ids) for name in names if name not in left_out}
    if any(getattr(model.get_submodule(name), "bias", None) is not None for name in found):
        raise UsageError(
            "the head of this model has a bias, which PEFT drops beside trained rows",
            code="method.head_bias",
            where="model.new_tokens",
            hint=f"Train both whole: method.modules_to_save=[{', '.join(names)}].",
        )
    return found


def put(model: nn.Module, wanted: Mapping[str, Sequence[int]]) -> dict[str, Rows]:
    """Train these rows of these modules; module -> what stands there now. A tied head takes the embedding's."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    follows = name_of(model, head) if tied(model) and name_of(model, embedding) in wanted else None
    found = {name: Rows(model.get_submodule(name), ids) for name, ids in wanted.items()}
    for name, layer in found.items():
        model.set_submodule(name, layer)
    if follows:
        layer = found[next(name for name, rows in found.items() if rows.base is embedding)]
        model.set_submodule(follows, Rows(head, layer.ids.tolist(), layer.rows))
    return found


def name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def parameters(found: dict[str, Rows]) -> dict[str, nn.Parameter]:
    """By PEFT's names."""
    return {f"{adapter.PREFIX}{name}{ROWS}": layer.rows for name, layer in found.items()}


def grow(model: nn.Module, size: int) -> None:
    """Make the vocabulary at least so large. New rows are the mean of the others: a new token begins as no token in
    particular (Hewitt 2021), and the same on every machine."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    more = size - len(embedding.weight)
    if more <= 0:
        return
    for part in lookups(model):
        mean = part.data.float().mean(0, keepdim=True).to(part.dtype)
        part.data = torch.cat([part.data, mean.expand(more, *part.shape[1:])])
    embedding.num_embeddings = size
    if head is not None:
        head.out_features = size
    model.config.get_text_config().vocab_size = size


def lookups(model: nn.Module) -> list[nn.Parameter]:
    """The parameters with a row for each token, each once."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    found = [embedding.weight, *([] if head is None else [head.weight, getattr(head, "bias", None)])]
    return list(dict.fromkeys(part for part in found if part is not None))
