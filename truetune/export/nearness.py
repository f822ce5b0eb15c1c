"""How near one adapter is to another over the same base: what both say after the same probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truetune import engines
from truetune.engines.decoder import DecoderSpec
from truetune.evaluate.talk import out_of_memory
from truetune.export import probes, stages
from truetune.export.origin import loader
from truetune.models import facts


def measured(base: Path, original: Path, other: Path, bits: int = 0) -> dict[str, Any]:
    """{kl, top1, largest} of `stages.Distance`, from whole distributions in float32 on the CPU; `bits` of the base as
    it was packed for training. Raises what `engines.open_decoder` and `Decoder.load` raise, ResourceError."""
    name, texts = loader(), probes.ids(facts.read(base).vocabulary)
    with out_of_memory():
        decoder = engines.open_decoder(name, DecoderSpec(base, bits=bits))
        try:
            for title, folder in (("original", original), ("other", other)):
                decoder.load(title, folder)
            told = engines.module(name).distributions
            found = stages.apart(told(decoder, texts, "original"), told(decoder, texts, "other"))
        finally:
            decoder.close()
    return {"kl": found.kl, "top1": found.top1, "largest": found.largest}
