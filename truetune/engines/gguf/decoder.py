"""The decoder of GGUF files: every row is an answer that llama.cpp writes, and its tokens are taken as they come.

llama.cpp draws the tokens itself and batches its rows itself. It tells a token when its text is whole: of a character
of several tokens it tells the last one only, and how many there were.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.engines.decoder import Constraint, Full, Prepared, Sampling, Token
from truetune.engines.gguf import vocabulary
from truetune.engines.gguf.process import Event, Process
from truetune.engines.gguf.vocabulary import NOTHING, PART
from truetune.errors import InputError, TrueTuneError, UsageError
from truetune.models import gguf_header

WAIT = 0.05
"""Seconds in which a token is waited for, before others are looked after again."""
ROOM = 2**31
"""Bytes of keys and values of all rows; the context is cut to that."""
SHORTEST = 512
SMALL = 2**28
"""Bytes of a file below which one thread is faster than several that wait for each other."""
FLOAT32 = 0
"""`general.file_type` of files that are not reduced."""
ADAPTER = "adapter"
"""`general.type` of files that hold a LoRA adapter."""


@dataclass
class Row:
    """An answer on its way, of `limit` tokens at most. `told` have come, `pending` were not handed on yet."""

    prompt: tuple[int, ...]
    adapter: str | None
    sampling: Sampling
    number: int
    limit: int
    told: int = 0
    pending: deque[Token] = field(default_factory=deque)
    held: int | None = None
    """A token without a text, of which the next event says whether it is an end."""


class GgufDecoder:
    """One file, with the adapters that it was opened with. See `truetune.engines.decoder.Decoder`.

    Raises InputError `model.bad_gguf`, `model.unloadable`, `model.tokenizer`, `adapter.mismatch`, ResourceError
    `engine.not_installed`.
    """

    def __init__(self, path: Path, adapters: Sequence[Path] = (), *, slots: int = 8, context: int = 0) -> None:
        """`context`: most tokens of a row; 0 = as many as the model has and `ROOM` holds."""
        values = vocabulary.keys(path)
        architecture = str(values.get("general.architecture"))
        for each in adapters:
            check_adapter(each, architecture)
        self.path, self.slots = path, slots
        self.opened = {str(each.resolve()): at for at, each in enumerate(adapters)}
        exact = values.get("general.file_type") == FLOAT32
        self.context = context or longest(values, architecture, slots, 4 if exact else 2)
        self.settings = {
            "model": str(path.resolve()),
            "context": -(-self.context // 256) * 256,
            "slots": slots,
            "threads": 1 if path.stat().st_size < SMALL else processors(),
            "exact": exact,
            "adapters": [*self.opened],
        }
        self.process = Process(self.settings)
        try:
            self.backend = vocabulary.backend(values, self.ask, path)
            self.tokenizer = vocabulary.tokenizer(self.backend, values, path)
        except BaseException:
            self.process.close()
            raise
        self.vocabulary = len(self.backend.tokens)
        self.names: dict[str, int] = {}
        self.rows: dict[int, Row] = {}

    def ask(self, path: str, body: Any) -> Any:
        found = self.alive().ask(path, body)
        if "error" in found:
            raise refused(found)
        return found

    def alive(self) -> Process:
        """llama.cpp, started anew where it has ended."""
        if not self.process.runs:
            self.process.close()
            self.process = Process(self.settings)
        return self.process

    def load(self, name: str, folder: Path) -> None:
        self.put(name, self.read(folder))

    def read(self, folder: Path) -> Prepared:
        """Raises UsageError `serve.fixed`: llama.cpp reads adapters when it starts, and then no more."""
        place = self.opened.get(str(Path(folder).resolve()))
        if place is None:
            raise fixed()
        return Prepared(mixed=False, parts=place)

    def put(self, name: str, found: Prepared) -> None:
        self.names[name] = found.parts

    def drop(self, name: str) -> None:
        del self.names[name]

    def admit(
        self, ids: Sequence[int], adapter: str | None, sampling: Sampling, constraint: Constraint | None = None
    ) -> int:
        if len(self.rows) == self.slots:
            raise Full
        if adapter is not None and adapter not in self.names:
            raise KeyError(adapter)
        check(sampling)
        prompt = tuple(int(token) for token in ids)
        body = self.body(prompt, adapter, sampling)
        number = self.alive().stream(body)
        slot = next(slot for slot in range(self.slots) if slot not in self.rows)
        self.rows[slot] = Row(prompt, adapter, sampling, number, body["n_predict"])
        return slot

    def body(self, prompt: Sequence[int], adapter: str | None, drawn: Sampling) -> dict[str, Any]:
        """The settings in llama.cpp's words, in the order in which the other engines apply them."""
        body = {
            "prompt": list(prompt),
            "n_predict": min(drawn.max_new_tokens, self.context - len(prompt)),
            "temperature": drawn.temperature,
            "top_k": drawn.top_k if drawn.temperature else 1,
            "top_p": drawn.top_p,
            "min_p": drawn.min_p,
            "repeat_penalty": drawn.repetition_penalty,
            "repeat_last_n": self.context,
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
            "min_keep": 1,
            "seed": drawn.seed % (2**32 - 1),
            "logit_bias": [[token, bias] for token, bias in drawn.bias],
            "return_tokens": True,
            "cache_prompt": True,
        }
        # Every adapter is named, those that are off too: a request that leaves them out is given keys and values that
        # an adapter has computed for an earlier one.
        on = None if adapter is None else self.names[adapter]
        lora = [{"id": at, "scale": float(at == on)} for at in self.opened.values()]
        return body | ({"lora": lora} if lora else {})

    def fork(self, slot: int, sampling: Sampling, constraint: Constraint | None = None) -> int:
        first = self.rows[slot]
        if first.told:
            raise ValueError(f"the answer in slot {slot} has begun")
        return self.admit(first.prompt, first.adapter, sampling)

    def begin(self, most: int) -> list[Token]:
        """All is read in `decode`."""
        return []

    def decode(self, most: int = 0) -> list[Token]:
        """What has come: at most one token of each row, none where `WAIT` has gone by without any."""
        self.take_in(wait=not any(row.pending for row in self.rows.values()))
        told = [row.pending.popleft() for _, row in sorted(self.rows.items()) if row.pending]
        for token in told:
            if token.reason:
                self.release(token.slot)
        return told

    def take_in(self, *, wait: bool) -> None:
        while self.rows:
            try:
                number, event = self.process.events.get(wait, WAIT)
            except Empty:
                return
            wait = False
            if number == 0:
                for each in self.rows:
                    self.fail(each, event)
                return
            slot = next((slot for slot, row in self.rows.items() if row.number == number), None)
            if slot is not None:
                self.hear(slot, event)

    def hear(self, slot: int, event: Event) -> None:
        """An event of a row: the tokens that it tells."""
        row = self.rows[slot]
        if "error" in event:
            self.fail(slot, event)
            return
        if row.pending and row.pending[-1].reason:
            return  # it went on after a stop of ours
        count = int(event.get("tokens_predicted", row.told)) - row.told
        row.told += count
        if event.get("stop"):
            self.finish(slot, row, count, str(event.get("stop_type")))
            return
        if row.held is not None:
            row.pending.append(Token(slot, row.held))
            row.held = None
        *before, last = self.ids(event, count)
        row.pending += [Token(slot, token) for token in before]
        if last in row.sampling.stops:
            row.pending.append(Token(slot, last, "stop"))
        elif not event["content"] or self.backend.marks(last):
            row.held = last
        else:
            row.pending.append(Token(slot, last, "length" if row.told >= row.limit else ""))

    def fail(self, slot: int, event: Event) -> None:
        """Its text cannot be told any more, which ends this answer by an error, and no other one."""
        logging.getLogger(__name__).error("llama.cpp gave an answer up: %s", refused(event).message)
        self.rows[slot].pending.append(Token(slot, vocabulary.BROKEN))

    def finish(self, slot: int, row: Row, count: int, reason: str) -> None:
        """The end. What llama.cpp has not told of a character in parts is told as one that is not whole."""
        ids = [] if row.held is None else [row.held]
        ids += [NOTHING] * (count - 1) + [PART] if count > 0 else []
        told = [Token(slot, token) for token in ids or [NOTHING]]
        told[-1] = replace(told[-1], reason="stop" if reason == "eos" else "length")
        row.pending += told

    def ids(self, event: Event, count: int) -> list[int]:
        """The `count` tokens of an event. Of several only the last one is told: the text stands for it then."""
        if count <= 1:
            return [int(event["tokens"][-1])]
        return [*[NOTHING] * (count - 1), self.backend.spelled(str(event["content"]))]

    def cached(self, slot: int) -> int:
        """llama.cpp keeps beginnings itself, and tells of it at the end only."""
        return 0

    def spare(self) -> None:
        """Nothing is kept here."""

    def release(self, slot: int) -> None:
        row = self.rows.pop(slot)
        self.process.give_up(row.number)

    def score(self, examples: Sequence[Example], adapter: str | None) -> list[NDArray[np.float32]]:
        raise unserved("log-probabilities")

    def describe(self) -> dict[str, Any]:
        about = {"engine": "llama.cpp", "device": "cpu", "rows": "batched"}
        return about | {name: self.settings[name] for name in ("threads", "slots", "context")}

    def close(self) -> None:
        self.rows.clear()
        self.process.close()


def longest(values: dict[str, Any], architecture: str, slots: int, size: int) -> int:
    """Most tokens of a row: those of the model, as far as `ROOM` holds keys and values of so many bytes a number."""

    def told(name: str, default: Any = None) -> Any:
        found = values.get(f"{architecture}.{name}", default)
        return max(found) if isinstance(found, list) else found

    most, layers, heads = told("context_length"), told("block_count"), told("attention.head_count")
    if not all(isinstance(each, int) and each > 0 for each in (most, layers, heads)):
        raise InputError(
            "the file does not say how large its model is",
            code="model.bad_gguf",
            where=architecture[:40],
            hint="Export it again.",
        )
    width = told("attention.key_length", told("embedding_length", 0) // heads)
    each = 2 * layers * told("attention.head_count_kv", heads) * max(1, width) * size
    return int(min(most, max(SHORTEST, ROOM // (each * slots))))


def processors() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def check_adapter(path: Path, architecture: str) -> None:
    """Raises InputError `adapter.mismatch`, `model.bad_gguf`."""
    head = gguf_header.check(path)
    if head.keys.get("general.type") == ADAPTER and head.keys.get("general.architecture") == architecture:
        return
    raise InputError(
        f"this is no adapter of a model of the kind {architecture[:40]}",
        code="adapter.mismatch",
        where=str(path),
        hint="Name the file that `ft export --format gguf-lora` has made for this model.",
    )


def check(sampling: Sampling) -> None:
    """Raises UsageError `generation.engine` for what llama.cpp does not do, or does otherwise."""
    for wrong, name in (
        (sampling.prompt_logprobs is not None, "log-probabilities of the prompt (`echo` with `logprobs`)"),
        (sampling.logprobs is not None, "`logprobs`"),
        (sampling.presence_penalty or sampling.frequency_penalty, "`presence_penalty` and `frequency_penalty`"),
        (sampling.min_new_tokens, "`min_tokens`"),
    ):
        if wrong:
            raise unserved(name)


def unserved(name: str) -> UsageError:
    return UsageError(
        f"what runs this file, llama.cpp, does not do this as it is meant: {name}",
        code="generation.engine",
        hint="Leave it out, or serve the model that the file was made from.",
    )


def fixed() -> UsageError:
    return UsageError(
        "llama.cpp reads adapters when it starts, and then no more",
        code="serve.fixed",
        where="lora_path",
        hint="Start the server with both: ft serve model.gguf adapter.gguf; or serve the model itself.",
    )


def refused(event: Event) -> TrueTuneError:
    error = event["error"]
    said = str(error.get("message", error) if isinstance(error, dict) else error)
    plain = "".join(letter if letter.isprintable() else " " for letter in said[:300])
    return UsageError(f"llama.cpp refuses this: {plain}", code="generation.engine", hint="Change the request.")
