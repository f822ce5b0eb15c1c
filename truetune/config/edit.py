"""Change one value in the text of a train.yml and leave every other byte as it is, comments and order included.

Reading and writing the whole file again would keep comments but not their columns, and would put a new key behind the
comments of the next section. So the parser only says where things stand, and the text is changed there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ruamel.yaml import YAML
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, SequenceNode

from truetune.config.schema import SHORTHANDS
from truetune.config.write import inline

Place = tuple[str, ...]

NOTE = ("", r"\s+")
VALUE = r"(\[[^#]*\]|\{[^#]*\}|[^\s#]+( (steps?|epochs?|min))?)"
"""What a commented default looks like; a sentence that happens to start with a key's name does not."""


def change(text: str, place: Place, value: object) -> str:
    """`text` (sound YAML, keys at the top) with the key at `place` set to `value`.

    A key that only stands there as a comment (`# seed: 42`) takes the place of the comment.
    """
    node: Node | None = YAML(typ="safe", pure=True).compose(text)
    if node is None:
        return text + block(place, value)
    name: Node = node
    for depth, key in enumerate(place):
        if not isinstance(node, MappingNode):
            return widen(text, name, node, place[:depth], place[depth:], value)
        found = next((pair for pair in node.value if pair[0].value == key), None)
        if found is None:
            return add(text, node, place[:depth], place[depth:], value)
        name, node = found
    return splice(text, name, node, value)


def splice(text: str, name: Node, node: Node, value: object) -> str:
    """Another value where a value stands, the comment behind it in its old column if there is room."""
    start, end, new = node.start_mark.index, last(node), inline(value)
    if empty(node):
        start = end = text.index(":", name.end_mark.index) + 1
        new = f" {new}"
    comment = re.match(r"  +(?=#)", text[end:])
    if comment:
        width = max(2, len(comment[0]) + end - start - len(new))
        return f"{text[:start]}{new}{' ' * width}{text[end + len(comment[0]) :]}"
    return f"{text[:start]}{new}{text[end:]}"


def empty(node: Node) -> bool:
    """Whether nothing stands after the colon; the parser's marks are then behind the comments that follow."""
    return bool(node.start_mark.index == node.end_mark.index)


def last(node: Node) -> int:
    """Where a value ends. A group of lines ends with its last value; the parser's mark is behind the comments."""
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        end: int = node.end_mark.index
        return end
    inner = node.value[-1]
    return last(inner[1] if isinstance(inner, tuple) else inner)


def widen(text: str, name: Node, node: Node, above: Place, rest: Place, value: object) -> str:
    """Keys where a plain value stands: a shorthand keeps its value, an empty section gets its first line."""
    inner = nested(rest[1:], value)
    if empty(node):
        return put(text, name.start_mark.line, rest[0], inner, indent=2 * len(above))
    kept: dict[str, object] = {}
    if above[0] in SHORTHANDS and not str(node.tag).endswith(":null"):
        many = isinstance(node, SequenceNode)
        kept[SHORTHANDS[above[0]]] = [item.value for item in node.value] if many else node.value
    return splice(text, name, node, {**kept, rest[0]: inner})


def add(text: str, node: MappingNode, above: Place, rest: Place, value: object) -> str:
    """A new key in a group of keys."""
    if node.flow_style:
        start = node.start_mark.index + 1
        inner = inline(nested(rest, value))[1:-1]
        return f"{text[:start]}{inner}{', ' * bool(node.value)}{text[start:]}"
    if not above:
        note = commented(text, 0, rest[0], indented=False) if len(rest) == 1 else None
        return replaced(text, note, rest[0], value, 0) if note else text.rstrip() + "\n" + block(rest, value)
    first = node.value[0][0].start_mark
    return put(text, first.line - 1, rest[0], nested(rest[1:], value), indent=first.column)


def put(text: str, header: int, key: str, value: object, indent: int) -> str:
    """`key: value` in place of its comment below line `header` (from 0), else right below that line."""
    if note := commented(text, header + 1, key, indented=True):
        return replaced(text, note, key, value, indent)
    lines = text.splitlines(keepends=True)
    lines[header] = lines[header].rstrip("\r\n") + "\n"
    lines.insert(header + 1, f"{' ' * indent}{key}: {inline(value)}\n")
    return "".join(lines)


def commented(text: str, start: int, key: str, indented: bool) -> tuple[int, str] | None:
    """The line from `start` on that holds the key as a comment, and what stands behind it; None without one."""
    note = re.compile(rf"{NOTE[indented]}#\s*{re.escape(key)}:\s*{VALUE}(?P<why>\s+#.*)?\s*")
    for number, line in enumerate(text.splitlines(keepends=True)):
        if number >= start and indented and line[:1] not in " \t\r\n#":
            return None
        if number >= start and (match := note.fullmatch(line)):
            return number, (match["why"] or "").strip()
    return None


def replaced(text: str, note: tuple[int, str], key: str, value: object, indent: int) -> str:
    number, why = note
    lines = text.splitlines(keepends=True)
    lines[number] = f"{' ' * indent}{key}: {inline(value):<{38 - indent - len(key)}}  {why}".rstrip() + "\n"
    return "".join(lines)


def nested(place: Place, value: object) -> object:
    """`(a, b), 1` -> {a: {b: 1}}; an empty place is the value itself."""
    for key in reversed(place):
        value = {key: value}
    return value


def block(place: Sequence[str], value: object) -> str:
    """A new section, or a key at the top."""
    if len(place) == 1:
        return f"{place[0]}: {inline(value)}\n"
    return f"{place[0]}:\n  {place[1]}: {inline(nested(tuple(place[2:]), value))}\n"
