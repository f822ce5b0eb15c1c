"""The verbs about data: look at rows as a model will learn them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from truetune.config.schema import Data
from truetune.data.formats import Format
from truetune.data.job import plan
from truetune.data.prepare import find_format, read
from truetune.data.render import Part, Renderer
from truetune.data.rows import Reject, Row, RowError
from truetune.models import source, tokenizer
from truetune.models.tokenizer import Tokenizer


def dataset_show(
    data: str | Sequence[str],
    model: str = "starter",
    *,
    n: int = 3,
    train_on: str = "assistant",
    max_length: int = 2048,
    template: str = "auto",
    format: str = "auto",
    folder: Path | None = None,
) -> dict[str, Any]:
    """The first `n` rows as tokens with their weights, and where `max_length` would cut them.

    JSON-ready: `rows`, each with `where` and either `examples` (`tokens` of {id, text, weight, cut}) or the reason why
    it is refused. Raises InputError as `prepare` does.
    """
    folder = folder or Path()
    encode = tokenizer.load(source.resolve(model, folder=folder).folder)
    options = Data(path=data, train_on=train_on, template=template, format=format, validation=None)  # type: ignore[arg-type]
    job = plan(options, objective="auto", seed=0, folder=folder, tokenizer=encode)
    form = find_format(options, job.train)
    renderer = Renderer(encode, job.template, train_on)
    return {
        "model": model,
        "format": form.report(),
        "template": job.template.origin,
        "train_on": train_on,
        "max_length": max_length,
        "rows": [_row(row, form, renderer, max_length) for row in islice(read(job.train), n)],
    }


def _row(row: Row | Reject, form: Format, renderer: Renderer, max_length: int) -> dict[str, Any]:
    """One row, rendered or refused."""
    if isinstance(row, Reject):
        return {"where": row.where, "refused": {"code": row.code, "reason": row.reason}}
    try:
        rendered = renderer.one(form.read(row.value))
    except RowError as error:
        return {"where": row.where, "refused": {"code": error.code, "reason": error.reason}}
    examples = [_example(part, renderer.tokenizer, max_length) for part in rendered.parts]
    return {"where": row.where, "mode": rendered.mode, "examples": examples}


def _example(part: Part, encode: Tokenizer, max_length: int) -> dict[str, Any]:
    ids, weights = part.ids.tolist(), part.weights.tolist()
    tokens = [
        {"id": token, "text": text, "weight": weight, "cut": place >= max_length}
        for place, (token, text, weight) in enumerate(zip(ids, pieces(encode, ids), weights, strict=True))
    ]
    trained = sum(1 for weight in weights[:max_length] if weight)
    return {"tokens": tokens, "length": len(ids), "trained": trained}


def pieces(encode: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to the one before it. A token that holds a part of a character shows as �."""
    texts = []
    for place, token in enumerate(ids):
        before = encode.decode(ids[place - 1 : place]) if place else ""
        both = encode.decode(ids[max(0, place - 1) : place + 1])
        texts.append(both[len(before) :] if both.startswith(before) else encode.decode([token]))
    return texts
