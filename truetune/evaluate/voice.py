"""A subject that speaks: prompts in, text out, as it is written or many at once. What chat, evaluation and the Python
API share; the tokens come from an engine's `Decoder`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from truetune import engines
from truetune.data.turns import stop_ids
from truetune.engines import family
from truetune.engines.decoder import Decoder, DecoderSpec, Sampling
from truetune.errors import UsageError
from truetune.evaluate import sampling
from truetune.evaluate.subject import Subject
from truetune.models import encoders, facts
from truetune.models.tokenizer import Tokenizer
from truetune.train.reading import PARTIAL, text_ends

ADAPTER = "tuned"
"""What the subject's adapter is called inside the decoder."""


@dataclass(frozen=True)
class Reply:
    """An answer: its text without the token that ended it, all its ids, and why it ended: `stop` (the model ended it),
    `length` (as long as allowed) or `cut` (given up by whoever asked)."""

    text: str
    ids: tuple[int, ...]
    reason: str


class Voice:
    """A subject opened on a device. `tuned=False` asks the model before training, from the same memory for an adapter.

    Raises what `engines.open_decoder` raises, and OutOfMemory as the decoder does.
    """

    def __init__(self, subject: Subject, *, device: str = "auto", slots: int = 8) -> None:
        refuse_scores(subject)
        self.subject, self.device, self.slots = subject, device, slots
        encode, template = subject.tokenizer, subject.template
        self.stops = stop_ids(template, encode) if template else text_ends(encode)
        self.decoders: dict[bool, Decoder] = {}
        self.answer: Answer | None = None

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation up to where the answer begins; of a text-trained subject, of the last message alone.

        Raises TemplateError where the template refuses the conversation, UsageError for one without a token.
        """
        encode, template = self.subject.tokenizer, self.subject.template
        if template is None:
            ids = encode.encode_document(str(messages[-1]["content"]))
        else:
            ids = encode.encode(template.render(messages, add_generation_prompt=True))
        if not ids:
            raise UsageError(
                "there is nothing to go on with", code="generation.empty", hint="Give a prompt of at least one word."
            )
        return ids

    def sampling(self, **chosen: Any) -> Sampling:
        """The subject's own settings with those chosen (temperature, top_p, top_k, seed, max_new_tokens) over them.

        Raises ConfigErrors, `generation.bad_value` for each that cannot be used.
        """
        return Sampling(**{**self.subject.generation, **sampling.checked(chosen)}, stops=self.stops)

    def stream(self, ids: Sequence[int], sampling: Sampling, *, tuned: bool = True) -> Answer:
        """The answer to a prompt, piece by piece as it is written. It ends the one before, if that still goes on."""
        if self.answer:
            self.answer.close()
        decoder, adapter = self.decoder(tuned)
        self.answer = Answer(decoder, decoder.admit(ids, adapter, sampling), Text(self.subject.tokenizer))
        return self.answer

    def replies(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, tuned: bool = True
    ) -> Iterator[tuple[int, Reply]]:
        """(place, answer) for every prompt, as they end. As many as there are slots are written together.

        Each prompt draws from its own seed, so its answer does not depend on the others.
        """
        decoder, adapter = self.decoder(tuned)
        waiting = list(enumerate(prompts))[::-1]
        rows: dict[int, tuple[int, list[int]]] = {}
        try:
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
        finally:
            for slot in rows:
                with suppress(KeyError):  # the decoder failed while it took leave of the row
                    decoder.release(slot)

    def reply(self, ids: list[int], reason: str) -> Reply:
        text = self.subject.tokenizer.decode(ids[:-1] if reason == "stop" else ids)
        return Reply(text, tuple(ids), reason)

    @property
    def context(self) -> int:
        """Most tokens of a prompt with its answer."""
        opened = next(iter(self.decoders.values()), None) or self.decoder(True)[0]
        return opened.context

    def decoder(self, tuned: bool) -> tuple[Decoder, str | None]:
        """The decoder of the tuned or the base model, opened when first asked for, and the adapter to name."""
        subject = self.subject
        whole = tuned and subject.adapter is None and subject.tuned
        if whole not in self.decoders:
            decoder = engines.open_decoder(self.engine, self.whole if whole else self.spec)
            if subject.adapter and not whole:
                decoder.load(ADAPTER, Path(subject.adapter))
            self.decoders[whole] = decoder
        return self.decoders[whole], ADAPTER if tuned and subject.adapter else None

    @cached_property
    def engine(self) -> str:
        """What trained the run, where that is installed here; else what computes on this machine for this model."""
        run = self.subject.run
        trained = run.resolved["config"]["resources"]["engine"] if run else "auto"
        wish = trained if engines.installed(trained) else "auto"
        base, found = self.subject.base.folder, self.subject.adapter
        beyond = family.beyond(found, facts.read(base).vocabulary) if found else []
        method = "qlora" if self.subject.bits else "lora"
        return engines.choose(wish, base, method, settings=beyond).name

    @cached_property
    def choice(self) -> Any:
        """The device and number type; asking for them imports the engine, which takes seconds."""
        return engines.module(self.engine).choose(self.device, self.subject.dtype)

    @property
    def warning(self) -> str:
        """Why the device is not the one that was asked for, where it is another."""
        return str(self.choice.warning)

    @property
    def spec(self) -> DecoderSpec:
        """The base model on this device."""
        folder, bits = self.subject.base.folder, self.subject.bits
        engines.refuse_unpackable(bits or facts.read(folder).bits, self.choice.device)
        return DecoderSpec(folder, device=self.choice.device, dtype=self.choice.dtype, bits=bits, slots=self.slots)

    @property
    def whole(self) -> DecoderSpec:
        """The base, or in its place what full fine-tuning made of it."""
        subject = self.subject
        return replace(self.spec, model=subject.model or subject.base.folder, weights=subject.weights)

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


def refuse_scores(subject: Subject) -> None:
    """Raises UsageError `subject.scores` for a model that does not write."""
    if subject.scores:
        what = "sorts texts into classes" if subject.objective == "classification" else "gives scores for answers"
        raise UsageError(
            f"it {what} and writes nothing",
            code="subject.scores",
            where=subject.name,
            hint=f"Measure it: ft evaluate {subject.run.id if subject.run else subject.name}.",
        )
    if (subject.base.folder / "config.json").is_file() and encoders.reads(subject.base.folder):
        raise UsageError(
            "it is an encoder: it reads texts and writes nothing",
            code="subject.scores",
            where=subject.name,
            hint="Serve it for its embeddings, ft serve, or train it to sort texts into classes.",
        )


class Answer:
    """An answer on its way: iterating gives a piece of text per token, empty where a character is not whole yet.

    `close` gives it up; `reply` is what there is, at any time.
    """

    def __init__(self, decoder: Decoder, slot: int, text: Text) -> None:
        self.decoder, self.text = decoder, text
        self.slot: int | None = slot
        self.ids: list[int] = []
        self.reason = "cut"

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.slot is None:
            raise StopIteration
        try:
            (token,) = self.decoder.decode()
        except BaseException:
            self.close()
            raise
        self.ids.append(token.id)
        piece = "" if token.reason == "stop" else self.text.add(token.id)
        if token.reason:
            self.slot, self.reason = None, token.reason
            piece += self.text.end()
        return piece

    def close(self) -> None:
        """Give the answer up, if it has not ended."""
        if self.slot is not None:
            with suppress(KeyError):  # the decoder failed while it took leave of the row
                self.decoder.release(self.slot)
            self.slot = None

    @property
    def reply(self) -> Reply:
        return Reply(self.text.said, tuple(self.ids), self.reason)


class Text:
    """Token ids to text as they come. A character of several tokens is held back until it is whole.

    Pieces are cut between characters, and each is decoded behind the piece before it, because what a token says can
    depend on the token before (SentencePiece drops the space that begins a text).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.decode = tokenizer.decode
        self.said = ""
        self.before: list[int] = []
        """The tokens of the last piece."""
        self.held: list[int] = []
        """Tokens that are not said yet."""

    def add(self, token: int) -> str:
        """What is certain now that this token is known; often its own text, sometimes nothing yet."""
        self.held.append(token)
        text = self.decode([*self.before, *self.held])
        return "" if text.endswith(PARTIAL) else self.say(text)

    def end(self) -> str:
        """What was held back, where no further token comes: parts of characters too."""
        return self.say(self.decode([*self.before, *self.held])) if self.held else ""

    def say(self, text: str) -> str:
        piece = text[len(self.decode(self.before)) :]
        self.said += piece
        self.before, self.held = self.held, []
        return piece
