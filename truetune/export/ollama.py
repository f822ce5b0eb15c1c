"""To Ollama: a GGUF file, and a Modelfile that carries template, ends, settings and licence.

The file passes the gate in llama.cpp, on which Ollama stands. Ollama itself runs no Jinja: its template is written in
Go's language, from the turns of the chat template, where that is no more than turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from truetune.errors import InputError
from truetune.export import turns
from truetune.export.gguf import model
from truetune.export.gguf import write as writing
from truetune.export.gguf.model import FILE, QUANTS, parts, plan, reduce, runtime, sampled
from truetune.export.origin import Origin
from truetune.export.runtime import Options
from truetune.export.turns import ASSISTANT, SYSTEM, USER, Turns

MODELFILE = "Modelfile"
QUOTES = '"""'
SETTINGS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_new_tokens": "num_predict"}
"""Our names of settings -> Ollama's."""

__all__ = ["MODELFILE", "QUANTS", "check", "modelfile", "once", "parts", "plan", "reduce", "runtime", "sampled"]
__all__ += ["source", "usage", "write"]


def check(origin: Origin, options: Options) -> None:
    """Raises as the format `gguf`."""
    model.check(origin, options)


def write(origin: Origin, folder: Path, options: Options) -> None:
    """`model.gguf` and `Modelfile` in an existing folder. Raises as the format `gguf`."""
    written = model.create(origin, folder)
    (folder / MODELFILE).write_text(modelfile(origin, written), "utf-8")


def once(origin: Origin, folder: Path, options: Options) -> str | None:
    """As `write` and `reduce` after it, one tensor in memory at a time."""
    written, kind = model.made(origin, folder, options)
    (folder / MODELFILE).write_text(modelfile(origin, written), "utf-8")
    return kind


def modelfile(origin: Origin, written: writing.Written) -> str:
    """What Ollama makes a model from. Source: Ollama's description of the Modelfile."""
    about = model.about(origin)
    lines = [f"# {plain(f'{key}: {text}')}" for key, text in {"model": about.name, **about.texts}.items()]
    lines += [f"# {plain(note)}" for note in written.notes]
    lines += [f"FROM ./{FILE}", *spoken(origin), *parameters(origin, written)]
    licence = about.texts.get("general.license")
    return "\n".join([*lines, *([f"LICENSE {QUOTES}{plain(licence)}{QUOTES}"] if licence else [])]) + "\n"


def spoken(origin: Origin) -> list[str]:
    """The template, or why there is none."""
    if origin.template is None:
        return ["# It was trained to go on with texts: it has no turns.", f"TEMPLATE {QUOTES}{{{{ .Prompt }}}}{QUOTES}"]
    found = of(origin)
    text = source(found) if found else ""
    if not found or QUOTES in text:
        return [
            "# The chat template does more than put messages one behind the other, and is not written here in Go's",
            "# language. It stands in model.gguf as tokenizer.chat_template; Ollama looks there for one that it knows.",
        ]
    note = ["# The trained template drops spaces around messages, and this one does not."] if found.strips else []
    return [*note, f"TEMPLATE {QUOTES}{text}{QUOTES}"]


def of(origin: Origin) -> Turns | None:
    """The turns, less the token that begins a text where llama.cpp puts it."""
    assert origin.template is not None and origin.subject is not None
    encode = origin.subject.tokenizer
    start = encode.bos or "" if writing.begins(encode, origin.template) else ""
    return turns.derive(origin.template, start)


def source(found: Turns) -> str:
    """In Go's language. The text's first token is left to llama.cpp."""
    roles = [
        f'{{{{ {"else " * bool(at)}if eq .Role "{role}" }}}}{literal(before)}{{{{ .Content }}}}{literal(after)}'
        for at, role in enumerate((SYSTEM, USER, ASSISTANT))
        for before, after in [found.pairs[role]]
    ]
    default = f"{{{{ if not .System }}}}{literal(found.default)}{{{{ end }}}}" if found.default else ""
    every = "".join(roles)
    return f"{default}{{{{ range .Messages }}}}{every}{{{{ end }}}}{{{{ end }}}}{literal(found.prompt)}"


def literal(text: str) -> str:
    """Text that Go's language would take for its own is put into quotes."""
    return re.sub(r"\{\{|\}\}", lambda found: f'{{{{ "{found[0]}" }}}}', text)


def parameters(origin: Origin, written: writing.Written) -> Iterator[str]:
    """Ends, the context, and how answers are drawn."""
    subject = origin.subject
    assert subject is not None
    for end in written.ends:
        text = subject.tokenizer.text(end) or ""
        if '"' in text or not text.isprintable():
            raise InputError(
                f"an answer ends with {text[:40]!r}, which a Modelfile cannot hold",
                code="export.ends",
                where="tokenizer.json",
                hint="Export it as a model: --format gguf.",
            )
        yield f'PARAMETER stop "{text}"'
    yield f"PARAMETER num_ctx {written.context}"
    for ours, theirs in SETTINGS.items():
        value = subject.generation.get(ours)
        if value is not None:
            yield f"PARAMETER {theirs} {value:g}"


def plain(text: str) -> str:
    """One line, without what ends it or a quotation."""
    return "".join(letter if letter.isprintable() else " " for letter in text).replace(QUOTES, "")


def usage(origin: Origin, place: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", place.name.lower()).strip("-.") or "model"
    return f"ollama create {name} -f {quote(str(place / MODELFILE))}\nollama run {name}"
