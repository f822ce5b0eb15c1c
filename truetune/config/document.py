"""Strict YAML: plain values and the line each stands on, or findings that name the line.

YAML 1.2, so `1e-4` is a number and `no` is text. What a configuration has no use for is refused: anchors and aliases
(a small file can unfold to gigabytes), tags, several documents, files over 256 kB (the parser's time is not linear).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, DocumentStartEvent, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from truetune.errors import Finding

Path = tuple[str, ...]

LARGEST = 256_000
DEEPEST = 16
MOST = 20_000
"""Bytes, levels and values of a file."""

ENOUGH = 20
"""Anchors and tags that are named one by one."""

TYPED = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null")}

SENTENCES = {
    "found character '\\t'": "a tab stands where YAML wants spaces",
    "mapping values are not allowed here": "a `:` too much: a key above may lack its own, or a value wants quotes",
    "could not find expected ':'": "a key without its `:`",
    "expected <block end>": "the indentation of this line fits nothing above it",
    "expected ',' or ']'": "a `[` is not closed",
    "expected ',' or '}'": "a `{` is not closed",
    "found unexpected end of stream": "a quote is not closed",
    "but found another document": "a second document starts here (`---`); a file holds one",
}
"""What the parser says, as a person would say it."""

UNCLOSED = ("expected ','", "found unexpected end of stream")
"""Problems that show at the end of the file and are to be mended where they began."""


@dataclass
class Document:
    """The values of a YAML text, plain; `lines` counts from 1; `findings` is empty where the text is sound."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def read(data: bytes, name: str) -> Document:
    """Parse the bytes of a file called `name`. Raises nothing: what is wrong stands in `findings`."""
    if len(data) > LARGEST:
        message = f"the file has {len(data):,} bytes; a configuration has less than {LARGEST:,}"
        hint = "is it the right file? the rows stand in a file of their own, named by `data`"
        return Document(findings=[Finding(code="config.too_large", message=message, where=name, hint=hint)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message, hint = "the file is not UTF-8 text", "save it as UTF-8"
        return Document(findings=[Finding("config.encoding", message, f"{name}:{line}", hint)])
    return parse(text, name)


def parse(text: str, name: str) -> Document:
    """Parse a text; `name` is what findings call it."""
    document = Document()
    try:
        document.findings += [refusal.at(name) for refusal in islice(refusals(text), ENOUGH)]
        if not document.findings:
            Reader(document, name).read(YAML(typ="safe", pure=True).compose(text))
    except (YAMLError, ValueError) as error:
        document.findings.append(syntax(error, text, name))
    return document


@dataclass(frozen=True)
class Refusal:
    """Sound YAML that a configuration has no use for."""

    line: int
    message: str

    def at(self, name: str) -> Finding:
        hint = "write the value itself, in plain YAML"
        return Finding(code="config.unsafe", message=self.message, where=f"{name}:{self.line}", hint=hint)


def refusals(text: str) -> Iterable[Refusal]:
    """Walk the events, which needs no recursion, before anything is built from them."""
    depth = 0
    for count, event in enumerate(YAML(typ="safe", pure=True).parse(text)):
        line = event.start_mark.line + 1
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST or count > MOST:
            yield Refusal(line, f"more than {DEEPEST} levels or {MOST:,} values")
            return
        if isinstance(event, DocumentStartEvent) and event.version not in (None, (1, 2)):
            yield Refusal(line, "the file asks for another version of YAML; it is read as YAML 1.2")
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
            yield Refusal(line, "anchors and aliases (`&name`, `*name`) are not read here; write the value out")
        elif getattr(event, "tag", None):
            yield Refusal(line, "tags (`!name`) are not read here; write the plain value")


class Reader:
    """Turns nodes into plain values and notes their lines."""

    def __init__(self, document: Document, name: str) -> None:
        self.document = document
        self.name = name
        self.constructor = YAML(typ="safe", pure=True).constructor

    def read(self, node: Node | None) -> None:
        self.document.value = None if node is None else self.build(node, ())

    def build(self, node: Node, path: Path) -> Any:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, str(index))) for index, item in enumerate(node.value)]
        return self.scalar(node)

    def mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                self.note("config.syntax", "a key must be a name", line, "such as `model` or `training`")
            elif key.value in result:
                first = self.document.lines[(*path, key.value)]
                message = f"`{key.value}` stands here a second time, after line {first}"
                self.note("config.duplicate_key", message, line, "keep one of them")
            else:
                self.document.lines[(*path, key.value)] = line
                self.unicode(key)
                result[key.value] = self.build(value, (*path, key.value))
        return result

    def scalar(self, node: Node) -> Any:
        """Numbers, booleans and null as such; dates and everything else as the text that was written."""
        self.unicode(node)
        if node.tag not in TYPED:
            return str(node.value)
        try:
            return self.constructor.construct_object(node)
        except (ValueError, OverflowError):
            return str(node.value)

    def unicode(self, node: Node) -> None:
        """Escapes can write half a character ("\\ud800"), which no file name and no JSON can hold."""
        if any("\ud800" <= letter <= "\udfff" for letter in node.value):
            message = "half a character (a lone surrogate)"
            self.note("config.encoding", message, node.start_mark.line + 1, "write the character itself")

    def note(self, code: str, message: str, line: int, hint: str) -> None:
        self.document.findings.append(Finding(code, message, f"{self.name}:{line}", hint))


def syntax(error: Exception, text: str, name: str) -> Finding:
    """A parser's exception as one sentence with its line."""
    problem, line = str(error), None
    if isinstance(error, MarkedYAMLError):
        problem = error.problem or error.context or "unreadable"
        mark = error.context_mark if problem.startswith(UNCLOSED) else error.problem_mark
        line = mark.line + 1 if mark else None
    elif isinstance(position := getattr(error, "position", None), int):
        problem, line = "a control character stands here", text[:position].count("\n") + 1
    sentence = next((plain for start, plain in SENTENCES.items() if problem.startswith(start)), None)
    message = sentence or f"not YAML: {problem.splitlines()[0]}"
    hint = "look at this line and the one above: indentation by spaces, a space after each `:`, quotes in pairs"
    return Finding(code="config.syntax", message=message, where=f"{name}:{line}" if line else name, hint=hint)
