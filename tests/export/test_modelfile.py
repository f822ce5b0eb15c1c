"""A Modelfile by Ollama's published grammar: its instructions, the names of its parameters, and Go's template language.

Read here by a small parser of that description, because Ollama itself is not run. Sources: docs/modelfile.md and
docs/template.md of ollama/ollama; text/template of Go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp's runtime, is not installed")

import small_tokenizers

from truetune.engines.torch import tiny
from truetune.export import ollama, origin
from truetune.export.gguf.write import Written
from truetune.models import named

INSTRUCTIONS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES")
PARAMETERS = {
    "num_ctx": int, "repeat_last_n": int, "repeat_penalty": float, "temperature": float, "seed": int, "stop": str,
    "num_predict": int, "top_k": int, "top_p": float, "min_p": float,
}  # fmt: skip
VALUES = {"System", "Prompt", "Response", "Suffix", "Messages", "Tools", "Role", "Content", "ToolCalls", "Thinking"}
"""What a template may ask for."""
OPENING, KNOWN = ("if", "range", "with"), ("eq", "ne", "and", "or", "not", "len", "slice", "json", "currentDate")
ACTION = re.compile(r'\{\{-?\s*((?:"(?:[^"\\]|\\.)*"|[^"])*?)\s*-?\}\}', re.DOTALL)
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\$?\.?[A-Za-z][\w.]*|\.|[()]|-?\d+')


@dataclass
class Modelfile:
    """`instructions` in order: name and argument."""

    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, name: str) -> list[str]:
        return [argument for each, argument in self.instructions if each == name]


def parsed(text: str) -> Modelfile:
    """Raises ValueError for what is no Modelfile."""
    found, rest = Modelfile(), text
    while rest := rest.lstrip("\n"):
        if rest.startswith("#"):
            rest = rest.partition("\n")[2]
            continue
        name, _, rest = rest.partition(" ")
        if name.upper() not in INSTRUCTIONS:
            raise ValueError(f"no instruction: {name[:40]!r}")
        if rest.startswith('"""'):
            argument, closed, rest = rest[3:].partition('"""')
            if not closed or not rest.startswith("\n"):
                raise ValueError("a text that does not end, or goes on behind its end")
        else:
            argument, _, rest = rest.partition("\n")
        found.instructions.append((name.upper(), argument))
    if len(found.of("FROM")) != 1 or found.instructions[0][0] != "FROM":
        raise ValueError("it does not begin with the one FROM")
    for each in found.of("PARAMETER"):
        check_parameter(*each.split(" ", 1))
    for each in found.of("TEMPLATE"):
        check_template(each)
    return found


def check_parameter(name: str, value: str) -> None:
    if name not in PARAMETERS:
        raise ValueError(f"no parameter: {name}")
    if PARAMETERS[name] is str:
        quoted = value.startswith('"')
        if quoted != value.endswith('"') or '"' in value.strip('"') or not value.strip('"'):
            raise ValueError(f"{name} is not quoted: {value}")
    else:
        PARAMETERS[name](value)


def check_template(text: str) -> None:
    """Every action is known, asks for known values, and is closed."""
    if "{{" in ACTION.sub("", text) or "}}" in ACTION.sub("", text):
        raise ValueError("braces that do not close")
    depth: list[str] = []
    for action in ACTION.findall(text):
        head, *words = WORD.findall(action) or [""]
        if head == "end":
            if not depth:
                raise ValueError("an end of nothing")
            depth.pop()
            continue
        if head == "else":
            if not depth:
                raise ValueError("an else of nothing")
            words = words[1:] if words[:1] == ["if"] else words
        elif head in OPENING:
            depth.append(head)
        else:
            words = [head, *words]
        check_words(words)
    if depth:
        raise ValueError(f"{depth[-1]} does not end")


def check_words(words: list[str]) -> None:
    for word in words:
        values = word.lstrip("$").strip(".").split(".")
        plain = word.startswith(('"', "(", ")")) or word in KNOWN or word == "." or word.lstrip("-").isdigit()
        if not plain and not (word.startswith((".", "$")) and {*values} <= VALUES):
            raise ValueError(f"not known: {word}")


def written(folder: Path, template: str, **settings: Any) -> str:
    """The Modelfile of a tiny model with this chat template."""
    small_tokenizers.write(tiny.make(folder, "qwen2"), "qwen2")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    (folder / "README.md").write_text('---\nlicense: "apache-2.0"\n---\n', "utf-8")
    (folder / "generation_config.json").write_text(
        '{"temperature": 0.6, "top_k": 20, "top_p": 0.9, "max_new_tokens": 64, "eos_token_id": 1}', "utf-8"
    )
    return ollama.modelfile(origin.find(str(folder)), Written(512, (1, 2), ("a note",)))


ODD = "{% for m in messages %}{{ '{{' }}{{ m.role }}{{ '}}' }}{{ m.content }};{% endfor %}"
QUOTED = '{% for m in messages %}"""{{ m.role }}"""{{ m.content }};{% endfor %}'
TEMPLATES = {
    "chatml": small_tokenizers.TEMPLATES["chatml"], "phi": named.source("phi"), "zephyr": named.source("zephyr"),
    "llama-3": named.source("llama-3"), "mistral": named.source("mistral"), "gemma": named.source("gemma"),
    "braces": ODD, "quotes": QUOTED,
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_written_is_a_modelfile(tmp_path: Path, name: str) -> None:
    found = parsed(written(tmp_path / "model", TEMPLATES[name]))
    assert found.of("FROM") == ["./model.gguf"] and found.of("LICENSE") == ["apache-2.0"]
    given = dict(each.split(" ", 1) for each in found.of("PARAMETER"))
    assert {"num_ctx": "512", "temperature": "0.6", "top_k": "20", "top_p": "0.9", "num_predict": "64"}.items() <= (
        given.items()
    )
    ends = [each.removeprefix("stop ") for each in found.of("PARAMETER") if each.startswith("stop ")]
    assert len(ends) == 2 and all(end.startswith('"') for end in ends)
    assert len(found.of("TEMPLATE")) == (name not in ("mistral", "gemma", "quotes"))


WRONG = {
    "another instruction": "FROM ./a\nRUN x\n",
    "no model": "PARAMETER top_k 1\n",
    "another parameter": "FROM ./a\nPARAMETER top_x 1\n",
    "no number": "FROM ./a\nPARAMETER top_k many\n",
    "an open text": 'FROM ./a\nTEMPLATE """{{ .Prompt }}\n',
    "an open block": 'FROM ./a\nTEMPLATE """{{ if .System }}x"""\n',
    "an end of nothing": 'FROM ./a\nTEMPLATE """{{ end }}"""\n',
    "another value": 'FROM ./a\nTEMPLATE """{{ .Secret }}"""\n',
    "another function": 'FROM ./a\nTEMPLATE """{{ shell .Prompt }}"""\n',
    "open braces": 'FROM ./a\nTEMPLATE """{{ .Prompt"""\n',
}


@pytest.mark.parametrize("name", WRONG)
def test_the_parser_refuses(name: str) -> None:
    with pytest.raises(ValueError):
        parsed(WRONG[name])
