"""From a request to what the scheduler takes: ids rendered as `ft chat` renders them, and how answers are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from truetune.engines.decoder import Sampling
from truetune.evaluate import sampling, talk
from truetune.serve.bodies import (
    ChatBody,
    CompletionBody,
    Drawing,
    Message,
    ObjectFormat,
    SchemaFormat,
)
from truetune.serve.names import Served
from truetune.serve.refusals import Refusal

ANY_OBJECT: dict[str, Any] = {"type": "object"}
SEEDS = 2**62
"""Seeds beyond, and below 0, are taken around: a request's answers are drawn from its seed and those after it."""


@dataclass(frozen=True)
class Prompt:
    """What is answered: ids, and the text that `echo` puts before the answer."""

    ids: list[int]
    text: str = ""


def conversation(served: Served, messages: Sequence[Message]) -> list[int]:
    """The ids of a conversation up to where the answer begins. Raises what `talk.checked` and `Voice.prompt` raise."""
    voice = served.voice
    if voice.subject.template is None and len(messages) != 1:
        message = "This model was trained on texts and goes on with one: send one message, or use /v1/completions."
        raise Refusal(400, message, code="no_template", param="messages")
    return voice.prompt(talk.checked(voice.subject, [{"role": each.role, "content": each.text} for each in messages]))


def completion(served: Served, asked: str | Sequence[int], begins: bool | None) -> Prompt:
    """A text, after the token that begins texts unless `begins` is False; or ids as they stand."""
    encode = served.subject.tokenizer
    if not isinstance(asked, str):
        if max(asked) >= encode.vocabulary:
            message = f"The model has {encode.vocabulary:,} tokens: there is no token {max(asked):,}."
            raise Refusal(400, message, code="no_such_token", param="prompt")
        return Prompt(list(asked), encode.decode(asked))
    ids = encode.encode(asked) if begins is False else encode.encode_document(asked)
    if not ids:
        raise Refusal(400, "The prompt is empty.", code="generation.empty", param="prompt")
    return Prompt(ids, asked)


def drawing(served: Served, body: Drawing) -> Sampling:
    """How answers are drawn: the model's own settings where the request says nothing. Raises ConfigErrors, Refusal."""
    voice, limit = served.voice, body.max_tokens
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        limit = body.max_completion_tokens
    drawn = voice.sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        max_new_tokens=None if limit is None else max(limit, 1),
        seed=sampling.fresh_seed() if body.seed is None else body.seed % SEEDS,
    )
    stops = frozenset() if body.ignore_eos else drawn.stops
    return replace(
        drawn,
        min_p=body.min_p or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        bias=biases(served, body.logit_bias or {}),
        min_new_tokens=min(body.min_tokens or 0, drawn.max_new_tokens),
        stops=stops | frozenset(body.stop_token_ids or ()),
        logprobs=logprobs(body),
    )


def scoring(body: CompletionBody, drawn: Sampling) -> Sampling:
    """With `echo` the prompt is scored too. The one token that harnesses ask for behind it is told even where it ends
    the text: they drop the last token of what comes back."""
    if not body.echo or body.logprobs is None:
        return drawn
    stops = frozenset[int]() if drawn.max_new_tokens == 1 else drawn.stops
    return replace(drawn, prompt_logprobs=body.logprobs, stops=stops)


def logprobs(body: Drawing) -> int | None:
    """How many of the likeliest tokens are told with each; None = not even its own."""
    if isinstance(body, ChatBody):
        if body.top_logprobs and not body.logprobs:
            raise Refusal(400, "`top_logprobs` needs `logprobs: true`.", code="invalid_value", param="top_logprobs")
        return (body.top_logprobs or 0) if body.logprobs else None
    return body.logprobs if isinstance(body, CompletionBody) else None


def biases(served: Served, asked: dict[str, float]) -> tuple[tuple[int, float], ...]:
    size = served.subject.tokenizer.vocabulary
    for key in asked:
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < size):
            message = f"`{key[:20]}` is no token's number: the model has tokens 0 to {size - 1:,}."
            raise Refusal(400, message, code="no_such_token", param="logit_bias")
    return tuple((int(key), value) for key, value in asked.items())


def schema(body: Drawing) -> dict[str, Any] | None:
    """The JSON schema that the answer must follow, if there is one. Raises Refusal."""
    wanted = body.response_format
    if isinstance(wanted, ObjectFormat):
        return ANY_OBJECT if wanted.value is None else wanted.value
    if not isinstance(wanted, SchemaFormat):
        return None
    found = wanted.json_schema.schema_
    if found is None:
        raise Refusal(400, "`json_schema` holds no `schema`.", code="invalid_value", param="response_format")
    return found
