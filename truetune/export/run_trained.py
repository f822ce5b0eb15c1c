"""The trained side of an export: the engine that trained it, with the run's own template, tokenizer and ends."""

from __future__ import annotations

from collections.abc import Sequence

from truetune import engines
from truetune.data.turns import end_id
from truetune.engines.decoder import Decoder, DecoderSpec, Sampling
from truetune.evaluate.talk import out_of_memory
from truetune.evaluate.voice import ADAPTER, Voice
from truetune.export.origin import Origin
from truetune.export.runtime import Ids, Logs, Messages, Refused, Runtime
from truetune.models.template import TemplateError


class Trained(Runtime):
    """What was trained.

    Raises what `engines.open_decoder` and `Decoder.load` raise, and ResourceError `memory.generation` from every verb.
    """

    def __init__(self, origin: Origin) -> None:
        assert origin.subject is not None
        side = origin.side
        self.name = side.engine
        self.origin, self.voice = origin, Voice(origin.subject)
        self.tokenizer = origin.subject.tokenizer
        self.adapter = ADAPTER if side.adapter else None
        with out_of_memory():
            self.decoder: Decoder = engines.open_decoder(side.engine, DecoderSpec(side.model, bits=side.bits))
            if self.adapter:
                assert side.adapter is not None
                self.decoder.load(self.adapter, side.adapter)

    def ids(self, messages: Messages) -> list[int] | None:
        if self.origin.template is None:
            return None
        try:
            return self.voice.prompt(messages)
        except TemplateError as error:
            raise Refused(error.message) from error

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def ends(self) -> frozenset[int]:
        return self.voice.stops

    def closing(self) -> frozenset[int]:
        template = self.origin.template
        end = end_id(template, self.tokenizer) if template else self.tokenizer.eos_id
        return self.ends() if end is None else frozenset([end])

    def logs(self, texts: Sequence[Ids]) -> list[Logs]:
        return self.computed(texts, self.adapter)

    def base(self, texts: Sequence[Ids]) -> list[Logs]:
        """As `logs`, of the model without the adapter."""
        return self.computed(texts, None)

    def computed(self, texts: Sequence[Ids], adapter: str | None) -> list[Logs]:
        with out_of_memory():
            found: list[Logs] = engines.module(self.name).distributions(self.decoder, texts, adapter)
        return found

    def answer(self, ids: Ids, limit: int) -> list[int]:
        written: list[int] = []
        with out_of_memory():
            self.decoder.admit(list(ids), self.adapter, Sampling(max_new_tokens=limit))
            while len(written) < limit and (tokens := self.decoder.decode()):
                written += [token.id for token in tokens]
        return written

    def close(self) -> None:
        self.decoder.close()
