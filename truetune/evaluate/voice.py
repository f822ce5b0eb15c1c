"""A subject that speaks: prompts in, text out, as it is written or many at once. What chat, evaluation and the Python
API share; the tokens come from an engine's `Decoder`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tokenizers.decoders import DecodeStream

from truetune import engines
from truetune.data.turns import stop_ids
from truetune.engines.decoder import Decoder, DecoderSpec, Sampling
from truetune.evaluate.subject import Subject
from truetune.models.tokenizer import Tokenizer

ADAPTER = "tuned"
"""What the subject's adapter is called inside the decoder."""


@dataclass(frozen=True)
class Reply:
    """An answer: its text without the token that ended it, all its ids, and why it ended (`stop` or `length`)."""

    text: str
    ids: tuple[int, ...]
    reason: str


class Voice:
    """A subject opened on a device. `tuned=False` asks the model before training, from the same memory for an adapter.

    Raises what `engines.open_decoder` raises, and OutOfMemory as the decoder does.
    """

    def __init__(self, subject: Subject, *, device: str = "auto", slots: int = 8) -> None:
        self.subject = subject
        choice = engines.module("torch").choose(device, subject.dtype)
        self.spec = DecoderSpec(subject.base.folder, device=choice.device, dtype=choice.dtype, slots=slots)
        self.stops = frozenset(subject.tokenizer.eos_ids)
        if subject.template:
            self.stops = stop_ids(subject.template, subject.tokenizer)
        self.decoders: dict[bool, Decoder] = {}

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation up to where the answer begins; of a text-trained subject, of the last message alone.

        Raises TemplateError where the template refuses the conversation.
        """
        encode, template = self.subject.tokenizer, self.subject.template
        if template is None:
            return encode.encode_document(str(messages[-1]["content"]))
        return encode.encode(template.render(messages, add_generation_prompt=True))

    def sampling(self, **chosen: Any) -> Sampling:
        """The subject's own settings with those chosen (temperature, top_p, top_k, seed, max_new_tokens) over them."""
        own = {name: self.subject.generation[name] for name in OWN if name in self.subject.generation}
        given = {name: value for name, value in chosen.items() if value is not None}
        return Sampling(**(own | given), stops=self.stops)

    def stream(self, ids: Sequence[int], sampling: Sampling, *, tuned: bool = True) -> Iterator[str]:
        """The answer to a prompt, piece by piece as it is written."""
        decoder, adapter = self.decoder(tuned)
        slot = decoder.admit(ids, adapter, sampling)
        text = Text(self.subject.tokenizer)
        try:
            while True:
                (token,) = decoder.decode()
                if token.reason != "stop" and (piece := text.add(token.id)):
                    yield piece
                if token.reason:
                    slot = -1
                    return
        finally:
            if slot >= 0:
                decoder.release(slot)

    def replies(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, tuned: bool = True
    ) -> Iterator[tuple[int, Reply]]:
        """(place, answer) for every prompt, as they end. As many as there are slots are written together.

        Each prompt draws from its own seed, so its answer does not depend on the others.
        """
        decoder, adapter = self.decoder(tuned)
        waiting = list(enumerate(prompts))[::-1]
        rows: dict[int, tuple[int, list[int]]] = {}
        while waiting or rows:
            while waiting and len(rows) < decoder.slots:
                place, ids = waiting.pop()
                slot = decoder.admit(ids, adapter, replace(sampling, seed=sampling.seed + place))
                rows[slot] = (place, [])
            for token in decoder.decode():
                place, written = rows[token.slot]
                written.append(token.id)
                if token.reason:
                    del rows[token.slot]
                    yield place, self.reply(written, token.reason)

    def reply(self, ids: list[int], reason: str) -> Reply:
        text = self.subject.tokenizer.decode(ids[:-1] if reason == "stop" else ids)
        return Reply(text, tuple(ids), reason)

    def decoder(self, tuned: bool) -> tuple[Decoder, str | None]:
        """The decoder of the tuned or the base model, opened when first asked for, and the adapter to name."""
        subject = self.subject
        whole = tuned and subject.adapter is None and subject.tuned
        if whole not in self.decoders:
            spec = replace(self.spec, model=subject.model or subject.base.folder, weights=subject.weights)
            self.decoders[whole] = engines.open_decoder("torch", spec if whole else self.spec)
            if subject.adapter and not whole:
                self.decoders[whole].load(ADAPTER, Path(subject.adapter))
        return self.decoders[whole], ADAPTER if tuned and subject.adapter else None

    def close(self) -> None:
        for decoder in self.decoders.values():
            decoder.close()
        self.decoders.clear()

    def __enter__(self) -> Voice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


OWN = ("temperature", "top_p", "max_new_tokens")
"""Sampling that travels with a subject."""


class Text:
    """Token ids to text as they come. A character of several tokens is held back until it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.backend = tokenizer.backend
        self.decoding = DecodeStream(skip_special_tokens=False)

    def add(self, token: int) -> str:
        """What is certain now that this token is known; often its own text, sometimes nothing yet."""
        return self.decoding.step(self.backend, token) or ""
