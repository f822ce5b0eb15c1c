"""The verb `dataset show`: rows as a model will learn them, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from truetune.api.dataset.settings import Names, encoder, settings
from truetune.config import Loaded
from truetune.data.formats import Format
from truetune.data.job import plan
from truetune.data.prepare import find_format, read
from truetune.data.render import Part, Renderer
from truetune.data.rows import Content, Labelled, Preference, Rated, Reject, Row, RowError
from truetune.models.tokenizer import Tokenizer

LOST = "\ufffd"
PARTS = 32
"""Tokens after which what is no character by then becomes none."""


def dataset_show(
    data: Names,
    model: str | None = None,
    *,
    n: int = 3,
    train_on: str | None = None,
    max_length: int | None = None,
    template: str | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """The first `n` rows as tokens with their weights, and where `max_length` would cut them.

    `data` may be a train.yml. JSON-ready: `rows`, each with `where` and either `examples` (`tokens` of {id, text,
    weight, cut}, and what is compared or learned of it: `side` chosen or rejected, `rating` good or bad, `labels`) or
    the reason why it is refused. Raises InputError as `prepare` does.
    """
    values = {
        "train_on": train_on, "max_length": max_length, "template": template, "format": format, "columns": columns,
    }  # fmt: skip
    loaded = settings(data, model, folder, values)
    return shown(loaded, encoder(loaded), n)


def shown(loaded: Loaded, encode: Tokenizer, n: int) -> dict[str, Any]:
    """The first `n` rows of a configuration."""
    options = loaded.config.data
    job = plan(options, objective="auto", seed=0, folder=loaded.folder, tokenizer=encode)
    form = find_format(options, job.train, every=True)
    renderer = Renderer(encode, job.template, options.train_on)
    return {
        "model": loaded.config.model.path,
        "format": form.report(),
        "template": job.template.origin,
        "train_on": options.train_on,
        "max_length": options.max_length,
        "rows": [_row(row, form, renderer, options.max_length) for row in islice(read(job.train), n)],
    }


def _row(row: Row | Reject, form: Format, renderer: Renderer, max_length: int) -> dict[str, Any]:
    """One row, rendered or refused."""
    if isinstance(row, Reject):
        return {"where": row.where, "refused": {"code": row.code, "reason": row.reason}}
    try:
        content = form.of(row.file).read(row.value)
        rendered = renderer.one(content)
    except RowError as error:
        return {"where": row.where, "refused": {"code": error.code, "reason": error.reason}}
    examples = [_example(part, renderer.tokenizer, max_length) for part in rendered.parts]
    for example, more in zip(examples, judged(content), strict=False):
        example.update(more)
    return {"where": row.where, "mode": rendered.mode, "examples": examples}


def judged(content: Content) -> list[dict[str, Any]]:
    """What a row says of its answers or its text, for each of its examples; nothing of conversations and documents."""
    if isinstance(content, Preference):
        return [{"side": "chosen"}, {"side": "rejected"}]
    if isinstance(content, Rated):
        return [{"rating": "good" if content.desirable else "bad"}]
    return [{"labels": list(content.labels)}] if isinstance(content, Labelled) else []


def _example(part: Part, encode: Tokenizer, max_length: int) -> dict[str, Any]:
    ids, weights = part.ids.tolist(), part.weights.tolist()
    tokens = [
        {"id": token, "text": text, "weight": weight, "cut": place >= max_length}
        for place, (token, text, weight) in enumerate(zip(ids, pieces(encode, ids), weights, strict=True))
    ]
    trained = sum(1 for weight in weights[:max_length] if weight)
    return {"tokens": tokens, "length": len(ids), "trained": trained}


def pieces(encode: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it; of a character that several tokens make, the first has the
    text and the others none. Together they are the text. What never becomes a character shows as �."""
    texts = [""] * len(ids)
    before = start = 0  # the tokens of the last text, and of the one that grows
    for place in range(len(ids)):
        text = _added(encode, ids[before:start], ids[start : place + 1])
        if not text.endswith(LOST) or place - start >= PARTS or place == len(ids) - 1:
            texts[start] = text
            before, start = start, place + 1
    return texts


def _added(encode: Tokenizer, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text of tokens behind others: a tokenizer may leave out a space at the beginning of a text."""
    known, both = encode.decode(before) if before else "", encode.decode([*before, *ids])
    return both[len(known) :] if both.startswith(known) else encode.decode(ids)
