"""To GGUF: what llama.cpp, and all that stands on it, loads as one file.

The adapter is folded into its base in float32 and written as float32: that must be what was trained. Then it is stored
in the number type that was asked for, without `--quant` in that of the base.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from truetune.export import files, merged, peft, streamed
from truetune.export.gguf import back, looked, reduced, tensors, vocabulary
from truetune.export.gguf import write as writing
from truetune.export.gguf.child import missing, need
from truetune.export.gguf.runtime import LlamaCpp
from truetune.export.gguf.write import About
from truetune.export.origin import Origin
from truetune.export.runtime import Options, Part, Runtime
from truetune.export.sampled import Sampled
from truetune.models import facts
from truetune.runs import receipt
from truetune.train.card import licence

FILE = "model.gguf"
MADE, WORDS = ".merged", ".words"
"""Folders that stand beside the file while it is written."""
QUANTS = (*tensors.TYPES, *reduced.KQUANTS)
OWN = {"F16": "f16", "BF16": "bf16"}
"""Number types of a base, by their names in safetensors."""


def check(origin: Origin, options: Options) -> None:
    """Raises ResourceError `export.not_installed`, UsageError `export.unmergeable`, InputError `export.architecture`,
    `export.setting`, `export.tensor`, `export.tokenizer`."""
    need("xllamacpp", "gguf", "the comparison with llama.cpp")
    if options.quant in reduced.KQUANTS and not reduced.installed():
        raise missing("llama-cpp-python", "kquants", f"the number type {options.quant}")
    side = origin.side
    if side.adapter is not None:
        merged.check(origin, options)
    listed = tensors.entries(writing.checked(side.model), side.model)
    grown = peft.rows(side.adapter) if side.adapter else 0
    words = side.adapter if side.adapter and (side.adapter / files.TOKENIZER).is_file() else side.model
    vocabulary.read(words, max(writing.rows(listed), grown))


def write(origin: Origin, folder: Path, options: Options) -> None:
    """`model.gguf` in an existing folder, in float32. Raises what `check`, the folding and `gguf.write` raise."""
    create(origin, folder)


def plan(origin: Origin) -> streamed.Fold | None:
    """How the model is read without loading it; None where it can't be."""
    side = origin.side
    return streamed.plan(side.model, side.adapter, side.bits)


def once(origin: Origin, folder: Path, options: Options) -> str | None:
    """As `write` and `reduce` after it, one tensor in memory at a time."""
    return made(origin, folder, options)[1]


def made(origin: Origin, folder: Path, options: Options) -> tuple[writing.Written, str | None]:
    """What was written, and the number type where it is narrower than float32."""
    kind = options.quant or OWN.get(facts.read(origin.side.model).dtype, "f32")
    written = create(origin, folder, kind if kind in tensors.TYPES else "f32")
    if kind in reduced.KQUANTS:
        reduced.reduce(folder / FILE, kind)
    return written, None if kind == "f32" else kind


def sampled(origin: Origin, folder: Path) -> Sampled:
    """The check that needs no memory for the model."""
    fold = plan(origin)
    assert fold is not None
    return looked.check(fold, folder / FILE)


def create(origin: Origin, folder: Path, kind: str = "f32") -> writing.Written:
    """As `write`; returns what was written. The folded model stands beside the file until that is whole."""
    words = folder / WORDS
    words.mkdir()
    files.spoken(origin, words)
    model = origin.side.model
    try:
        if origin.side.adapter is not None:
            model = folder / MADE
            model.mkdir()
            merged.write(origin, model, Options())
        return writing.write(model, folder / FILE, kind, about(origin), origin.template, words)
    finally:
        for place in (words, folder / MADE):
            shutil.rmtree(place, ignore_errors=True)


def about(origin: Origin) -> About:
    """Where it comes from: name, licence and base, and the receipt's digest that the run's card names, too."""
    texts = {f"general.{key}": text for key, text in licence(origin.base.folder).items() if key == "license"}
    digest = receipt.digest(origin.run, "train") if origin.run else None
    if digest:
        texts["truetune.receipt"] = f"sha256:{digest}"
    name = origin.run.id if origin.run else Path(origin.name).name
    return About(
        name,
        texts,
        (origin.base.name if origin.base.kind != "folder" else origin.base.folder.name, origin.base.revision),
    )


def reduce(origin: Origin, folder: Path, options: Options) -> str | None:
    """Store the number type that was asked for, else that of the base; None where it is float32."""
    kind = options.quant or OWN.get(facts.read(origin.side.model).dtype, "f32")
    if kind == "f32":
        return None
    reduced.reduce(folder / FILE, kind)
    return kind


def runtime(origin: Origin, folder: Path, exact: bool) -> Runtime:
    """llama.cpp, which rounds what it multiplies to the type of the weights: the figures are of both roundings."""
    return LlamaCpp(folder / FILE, composes=composes(origin))


def composes(origin: Origin) -> bool:
    """Whether the tokenizer composes accents, which llama.cpp does not."""
    return origin.subject is not None and vocabulary.composes(origin.subject.tokenizer)


def parts(origin: Origin, folder: Path) -> Iterator[Part]:
    """Every tensor of the file, turned back into transformers' layout, beside what should stand there."""
    return back.parts(origin, folder / FILE)


def usage(origin: Origin, place: Path) -> str:
    told = [*writing.checked(origin.side.model).notes, *([vocabulary.COMPOSES] if composes(origin) else [])]
    notes = [f"# {note}" for note in told]
    return "\n".join([f"llama-server -m {quote(str(place / FILE))}", *notes])
