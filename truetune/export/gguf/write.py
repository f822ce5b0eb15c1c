"""A model folder as one GGUF file: sizes, tokenizer, chat template, where it comes from, and its tensors one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf

from truetune.data.turns import stop_ids
from truetune.errors import InputError
from truetune.export.gguf import family, rope, tensors, vocabulary
from truetune.export.gguf.family import Model
from truetune.export.gguf.tensors import Entry
from truetune.export.gguf.vocabulary import PHI, Vocabulary
from truetune.models import tokenizer
from truetune.models.template import Template, TemplateError
from truetune.models.tokenizer import Tokenizer

ENDS = ("eos", "eot", "eom")
"""Keys for tokens that end an answer, in the order in which they are taken."""
HELLO = ({"role": "user", "content": "Hello"},)


@dataclass(frozen=True)
class About:
    """What a file says of where it comes from. `texts` are keys as they stand, such as `general.license`; `base` is
    the name of the model that was trained, and its revision."""

    name: str
    texts: Mapping[str, str] = field(default_factory=dict)
    base: tuple[str, str | None] | None = None


@dataclass(frozen=True)
class Written:
    """What was written. `ends` are the ids at which an answer ends."""

    context: int
    ends: tuple[int, ...]
    notes: tuple[str, ...]


def write(
    folder: Path, file: Path, kind: str, about: About, template: Template | None, words_of: Path | None = None
) -> Written:
    """Write a model folder with a tokenizer and `template` into a new file; `kind` is one of `tensors.TYPES`.

    `words_of` is the tokenizer's folder, where it is another one. `template` None: the model goes on with texts.
    Raises InputError `export.architecture`, `export.setting`, `export.tensor`, `export.tokenizer`, `export.ends`, and
    what reading the folder raises.
    """
    found = checked(folder)
    listed = tensors.entries(found, folder)
    words = vocabulary.read(words_of or folder, rows(listed))
    encode = tokenizer.load(words_of or folder)
    ends = endings(encode, template)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[found.family.arch])
    try:
        describe(writer, about, kind, words)
        found.write(writer)
        writer.add_vocab_size(rows(listed))
        factors = rope.write(found, writer)
        words.write(writer)
        speak(writer, encode, template, ends)
        pour(writer, listed, factors, kind)
    finally:
        writer.close()
    return Written(found.context, ends, (*found.notes, *words.notes))


def checked(folder: Path) -> Model:
    """The configuration of a folder, if a GGUF file can say all of it. Raises as `write`."""
    found = family.read(folder)
    rope.check(found, folder)
    return found


def rows(listed: list[Entry]) -> int:
    """Of the embedding."""
    return next(entry.shape[0] for entry in listed if entry.name == "token_embd.weight")


def describe(writer: gguf.GGUFWriter, about: About, kind: str, words: Vocabulary) -> None:
    """General keys. llama.cpp drops spaces behind special tokens by the name alone, so the name says it or does not."""
    name = about.name
    if any(mark in name.lower() for mark in PHI) != words.stripped:
        name = f"{name} (phi-3)" if words.stripped else name.lower().replace("phi-3", "phi_3").replace("phi3", "phi_3")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    for key, text in about.texts.items():
        writer.add_string(key, text)
    if about.base:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, about.base[0])
        if about.base[1]:
            writer.add_base_model_version(0, about.base[1])
    writer.add_file_type(tensors.FILES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def endings(encode: Tokenizer, template: Template | None) -> tuple[int, ...]:
    """Ids at which an answer ends; the one that the template puts behind answers comes first.

    Raises InputError `export.ends` where there is none, or more than a file has keys for.
    """
    own = encode.eos_ids
    every = tuple(stop_ids(template, encode)) if template else own
    found = tuple(dict.fromkeys([*(at for at in every if at not in own), *own]))
    if not 1 <= len(found) <= len(ENDS):
        raise InputError(
            f"answers end at {len(found)} tokens, and a GGUF file has keys for one to {len(ENDS)}",
            code="export.ends",
            where="tokenizer_config.json",
            hint="Set eos_token there, or eos_token_id in generation_config.json.",
        )
    return found


def speak(writer: gguf.GGUFWriter, encode: Tokenizer, template: Template | None, ends: tuple[int, ...]) -> None:
    """Special tokens, and the chat template. A text begins with its BOS where the tokenizer, and the template if there
    is one, begin it so; llama.cpp takes the template's away where it puts its own."""
    for name, at in zip(ENDS, ends, strict=False):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", at)
    for name, text in (("bos", encode.bos), ("padding", encode.pad), ("unknown", encode.tokens.get("unk_token"))):
        number = encode.id(text) if text else None
        if number is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_add_bos_token(begins(encode, template))
    writer.add_add_eos_token(False)
    if template:
        writer.add_chat_template(template.source)


def begins(encode: Tokenizer, template: Template | None) -> bool:
    if not encode.adds_bos or not encode.bos:
        return False
    if template is None:
        return True
    try:
        return template.render(HELLO, add_generation_prompt=True).startswith(encode.bos)
    except TemplateError:  # it wants another first turn
        return "bos_token" in template.source


def pour(writer: gguf.GGUFWriter, listed: list[Entry], factors: rope.Factors, kind: str) -> None:
    """The tensors: first where each will lie, then their numbers, one in memory at a time."""
    for name, numbers in factors.items():
        tensors.announce(writer, name, numbers.shape, gguf.GGMLQuantizationType.F32)
    for entry in listed:
        tensors.announce(writer, entry.name, entry.shape, tensors.stored(entry.name, entry.shape, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for numbers in factors.values():
        writer.write_tensor_data(numbers)
    for entry in listed:
        writer.write_tensor_data(tensors.packed(entry.read(), tensors.stored(entry.name, entry.shape, kind)))
