"""A folder for Ollama: its template, read as Go's language is, writes what the chat template writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp's runtime, is not installed")

import small_tokenizers

import truetune as ft
from truetune.engines.torch import tiny
from truetune.export import ollama, turns
from truetune.export.probes import TALKS
from truetune.export.runtime import Messages
from truetune.models import named
from truetune.models.template import Template
from truetune.testing import field

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
PART = re.compile(r"\{\{ (.*?) \}\}", re.DOTALL)


def rendered(source: str, messages: Messages) -> str:
    """As Go's text/template, of which a Modelfile uses if, else if, else, range, eq, not, fields and texts."""
    pieces = iter(PART.split(source))
    system = "\n\n".join(each["content"] for each in messages if each["role"] == "system")
    return "".join(block(pieces, {"Messages": messages, "System": system}, True)[0])


def block(pieces: Iterator[str], values: dict[str, Any], live: bool) -> tuple[list[str], str]:
    """Text and actions up to `end` or `else`, and which of them it was. `live`: whether anything is written."""
    found = [next(pieces) if live else next(pieces) and ""]
    for action in pieces:
        if action == "end" or action.startswith("else"):
            return found, action
        if action.startswith("if "):
            found += choice(pieces, values, live, action[3:])
        elif action.startswith("range "):
            found += repeated(pieces, values, live, action[7:])
        elif live:
            found.append(action[1:-1] if action.startswith('"') else str(values[action[1:]]))
        text = next(pieces, "")
        found.append(text if live else "")
    return found, "end"


def choice(pieces: Iterator[str], values: dict[str, Any], live: bool, test: str) -> list[str]:
    found: list[str] = []
    open_still = live
    while True:
        take = open_still and holds(test, values)
        some, ended = block(pieces, values, take)
        found += some
        open_still = open_still and not take
        if ended == "end":
            return found
        test = ended.removeprefix("else").strip().removeprefix("if ") or "true"


def holds(test: str, values: dict[str, Any]) -> bool:
    if test == "true":
        return True
    if test.startswith("not "):
        return not holds(test[4:], values)
    if test.startswith("eq "):
        name, _, text = test[3:].partition(" ")
        return bool(values[name[1:]] == text.strip('"'))
    return bool(values[test[1:]])


def repeated(pieces: Iterator[str], values: dict[str, Any], live: bool, name: str) -> list[str]:
    inside: list[str] = []
    depth = 1
    for at, piece in enumerate(pieces):
        if at % 2:
            depth += piece.startswith(("if ", "range ")) - (piece == "end")
            if not depth:
                break
        inside.append(piece if not at % 2 else f"{{{{ {piece} }}}}")
    body = "".join(inside)
    each = [{"Role": one["role"], "Content": one["content"]} for one in values[name]] if live else []
    return ["".join(block(iter(PART.split(body)), values | one, True)[0]) for one in each]


def proven(source: str, text: str) -> turns.Turns:
    """The turns of a template; in Go's language they write what it writes."""
    template = Template(source, TOKENS, "test")
    found = turns.derive(template, text)
    assert found
    for talk in (*TALKS, *turns.LAYOUT):
        bare = [{**each, "content": each["content"].strip()} for each in talk] if found.strips else talk
        assert text + rendered(ollama.source(found), bare) == template.render(bare, add_generation_prompt=True)
    return found


DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + small_tokenizers.TEMPLATES["chatml"]
)
ODD = "{% for m in messages %}{{ '{{' }}{{ m.role }}{{ '}}' }}{{ m.content }};{% endfor %}"


@pytest.mark.parametrize("name", ["chatml", "phi", "zephyr", "llama-3"])
def test_templates_by_name(name: str) -> None:
    proven(named.source(name), "")


def test_templates_of_other_shapes() -> None:
    assert proven(DEFAULT, "").default == "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert proven(small_tokenizers.TEMPLATES["headers"], "<s>").strips
    assert "{{" in proven(ODD, "").pairs["user"][0]


@pytest.mark.parametrize("name", ["llama-2", "mistral", "gemma"])
def test_what_is_more_than_turns_is_left_to_the_file(name: str) -> None:
    """They put the system message into the first question."""
    assert turns.derive(Template(named.source(name), TOKENS, "test"), "") is None


@pytest.mark.slow
@pytest.mark.skipif(not field.templates(), reason=field.ABSENT)
def test_templates_of_real_models() -> None:
    """Whatever can be derived writes what the template writes; what cannot is told by None, never by another text."""
    derived = []
    for path in field.templates():
        template = Template(path.read_text("utf-8"), TOKENS, path.name)
        if template.dated or turns.derive(template, "") is None:
            continue
        proven(path.read_text("utf-8"), "")
        derived.append(path.name)
    assert any("Qwen2.5" in name for name in derived), derived


def test_a_folder_for_ollama(tmp_path: Path) -> None:
    folder = small_tokenizers.write(tiny.make(tmp_path / "model", "qwen2"), "qwen2")
    (folder / "README.md").write_text('---\nlicense: "apache-2.0"\n---\n', "utf-8")
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "eos_token_id": 1}', "utf-8")
    found = ft.export(folder, format="ollama", quant="q8_0", out=tmp_path / "out")
    assert found["parity"]["ok"] and found["stored"]["dtype"] == "q8_0"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "Modelfile",
        "model.gguf",
        "README.md",
        "report.json",
    }
    text = (tmp_path / "out" / "Modelfile").read_text("utf-8")
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("FROM ")] == ["FROM ./model.gguf"]
    assert 'PARAMETER stop "<|im_end|>"' in lines and 'LICENSE """apache-2.0"""' in lines
    assert {"PARAMETER temperature 0.6", "PARAMETER top_k 20", "PARAMETER num_ctx 512"} <= {*lines}
    source = text.split('TEMPLATE """')[1].split('"""')[0]
    template = Template(small_tokenizers.TEMPLATES["chatml"], TOKENS, "test")
    assert rendered(source, TALKS[3]) == template.render(TALKS[3], add_generation_prompt=True)
