"""OpenAI's wire format as pure functions: what was written becomes an answer, or the chunks of a stream.

A stream always ends with a chunk that says why it ended, or with an error event, and with `[DONE]`: a client cannot
tell otherwise whether it was cut.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"

Json = dict[str, Any]


@dataclass(frozen=True)
class Spelled:
    """A token with its log-probability in the model's own distribution, and the likeliest ones at its place."""

    text: str
    logprob: float | None
    """None for the first token of a text, which nothing stands before."""
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What one token adds to the answer of one choice. With a `reason` (`stop`, `length`) it is the last one."""

    index: int
    text: str = ""
    spelled: tuple[Spelled, ...] = ()
    reason: str = ""


@dataclass
class Choice:
    """An answer as it grows."""

    index: int
    text: str = ""
    spelled: list[Spelled] = field(default_factory=list)
    reason: str = ""

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.spelled += piece.spelled
        self.reason = piece.reason or self.reason


@dataclass(frozen=True)
class Head:
    """What all chunks of an answer begin with."""

    id: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def fresh(cls, kind: str, model: str, fingerprint: str) -> Head:
        """`kind`: `chatcmpl` or `cmpl`."""
        return cls(f"{kind}-{secrets.token_hex(12)}", int(time.time()), model, fingerprint)

    def body(self, kind: str, choices: Sequence[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": list(choices),
        }


def usage(prompt: int, written: int) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def chat(head: Head, choices: Iterable[Choice], counts: Json, *, logprobs: bool) -> Json:
    """The whole answer of `/v1/chat/completions`."""
    found = [
        {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": chat_logprobs(choice.spelled) if logprobs else None,
            "finish_reason": choice.reason,
        }
        for choice in choices
    ]
    return head.body("chat.completion", found) | {"usage": counts}


def chat_opening(head: Head, index: int) -> Json:
    """The first chunk of a choice."""
    delta = {"role": "assistant", "content": ""}
    return head.body("chat.completion.chunk", [chunk(index, {"delta": delta}, None, "")])


def chat_chunk(head: Head, piece: Piece, *, logprobs: bool) -> Json:
    delta = {"content": piece.text} if piece.text or not piece.reason else {}
    told = chat_logprobs(piece.spelled) if logprobs and piece.spelled else None
    return head.body("chat.completion.chunk", [chunk(piece.index, {"delta": delta}, told, piece.reason)])


def text(head: Head, choices: Iterable[Choice], counts: Json, *, logprobs: bool) -> Json:
    """The whole answer of `/v1/completions`."""
    found = [
        {
            "index": choice.index,
            "text": choice.text,
            "logprobs": text_logprobs(choice.spelled, 0) if logprobs else None,
            "finish_reason": choice.reason,
        }
        for choice in choices
    ]
    return head.body("text_completion", found) | {"usage": counts}


def text_chunk(head: Head, piece: Piece, offset: int, *, logprobs: bool) -> Json:
    """`offset`: characters of the choice before this piece."""
    told = text_logprobs(piece.spelled, offset) if logprobs and piece.spelled else None
    return head.body("text_completion", [chunk(piece.index, {"text": piece.text}, told, piece.reason)])


def chunk(index: int, said: Json, logprobs: Json | None, reason: str) -> Json:
    return {"index": index, **said, "logprobs": logprobs, "finish_reason": reason or None}


def usage_chunk(head: Head, kind: str, counts: Json) -> Json:
    """What `stream_options.include_usage` adds behind the last choice."""
    return head.body(kind, []) | {"usage": counts}


def chat_logprobs(spelled: Iterable[Spelled]) -> Json:
    return {
        "content": [
            one_logprob(each.text, each.logprob) | {"top_logprobs": [one_logprob(*other) for other in each.top]}
            for each in spelled
        ]
    }


def one_logprob(text: str, logprob: float | None) -> Json:
    """JSON knows no infinity: a token that cannot be has the lowest number that OpenAI gives."""
    value = -9999.0 if logprob is None or logprob < -9999.0 else logprob
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


def text_logprobs(spelled: Sequence[Spelled], start: int) -> Json:
    """The older form; `top_logprobs` holds the token itself too, as evaluation harnesses compare the two."""
    offsets, at = [], start
    for each in spelled:
        offsets.append(at)
        at += len(each.text)
    return {
        "tokens": [each.text for each in spelled],
        "token_logprobs": [each.logprob for each in spelled],
        "top_logprobs": [None if each.logprob is None else together(each) for each in spelled],
        "text_offset": offsets,
    }


def together(each: Spelled) -> dict[str, float]:
    """Text -> log-probability. Of two tokens that read the same the likelier one counts."""
    found: dict[str, float] = {}
    for text, logprob in (*each.top, (each.text, each.logprob)):
        if logprob is not None:
            found[text] = max(logprob, found.get(text, logprob))
    return found


def event(body: Json) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


def error(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> Json:
    """The one shape of everything that is refused or goes wrong."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
