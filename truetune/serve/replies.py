"""What the routes answer, field by field, for the OpenAPI page; the answers themselves are put together in
`openai.py`, and tests hold them to these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Reply):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """Of every refusal, whatever the route."""

    error: ErrorDetail


class Usage(Reply):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprob(Reply):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Logprob):
    top_logprobs: list[Logprob]


class ChatLogprobs(Reply):
    content: list[TokenLogprob]


class ChatMessage(Reply):
    role: Literal["assistant"]
    content: str
    refusal: None


Finish = Literal["stop", "length"]


class ChatChoice(Reply):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatReply(Reply):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(Reply):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Reply):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish


class TextReply(Reply):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class ModelCard(Reply):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    alone: bool
    """Whether its requests cannot share a batch with those of others."""


class ModelList(Reply):
    object: Literal["list"]
    data: list[ModelCard]


class InputUsage(Reply):
    prompt_tokens: int
    total_tokens: int


class Class(Reply):
    index: int
    label: str | None
    """The class; of a text that may have any number of them the likeliest, null where none is likely enough."""
    labels: list[str]
    """All classes that it is taken for."""
    probs: list[float]
    num_classes: int


class ClassReply(Reply):
    id: str
    object: Literal["list"]
    created: int
    model: str
    classes: list[str]
    data: list[Class]
    usage: InputUsage


class Embedding(Reply):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """Numbers; with `encoding_format: base64` the bytes of float32 numbers, little end first."""


class EmbeddingsReply(Reply):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: InputUsage


class Tokens(Reply):
    count: int
    max_model_len: int
    tokens: list[int]


class Generated(Reply):
    model: str
    text: str
    finish_reason: Finish
    seed: int
    usage: Usage


class Health(Reply):
    status: Literal["ok", "draining"]
