"""Writes the generated parts of the docs from the sources, so that they cannot lie: `make docs`.

- the map of files in README.md: the first sentence of every file, in reading order
- docs/errors.md: every error code, from the places where it is raised
- docs/cli.md: the help of every verb
- docs/reference/train-yml.md: every key

`build()` gives path -> text; tests/unit/test_docs.py compares that with what is in the tree.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from truetune import cli, errors
from truetune.config.write import reference

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "truetune"
READING_ORDER = [
    "errors",
    "paths",
    "listener",
    "plugins",
    "config",
    "models",
    "data",
    "engines",
    "runs",
    "train",
    "evaluate",
]
READING_ORDER += [
    "augment",
    "report",
    "registry",
    "tune",
    "export",
    "serve",
    "jobs",
    "demo",
    "api",
    "cli",
    "dashboard",
    "testing",
]
GENERATED = "<!-- Written by `make docs` from the sources; changes here are lost. -->"
MARKS = "<!-- map: written by `make docs` -->", "<!-- end of map -->"
CODE = re.compile(r"[a-z]+\.[a-z_]+|bug")
NEAR = 9
"""Lines above an error in which its message may have been put into a variable."""
RAISES = {name for name, kind in vars(errors).items() if inspect.isclass(kind)} | {"RowError", "Reject"}
"""Classes that carry a code; those of `errors.py` and what refuses a single row."""
ANSWERS = "Refusal"
"""What a server answers instead of what was asked: its first argument is the status."""
ANSWER = re.compile(r"[A-Za-z_.]+")
"""Its codes, which are OpenAI's and vLLM's."""


def build() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    readme = (ROOT / "README.md").read_text("utf-8")
    before, after = readme.split(MARKS[0])[0], readme.split(MARKS[1])[1]
    return {
        ROOT / "README.md": f"{before}{MARKS[0]}\n{tree()}\n{MARKS[1]}{after}",
        ROOT / "docs" / "errors.md": error_table(),
        ROOT / "docs" / "cli.md": helps(),
        ROOT / "docs" / "reference" / "train-yml.md": reference(),
    }


def tree() -> str:
    """The map: a line per package and per file."""
    lines = []
    for name in READING_ORDER:
        package, module = PACKAGE / name, PACKAGE / f"{name}.py"
        if module.exists():
            lines.append(f"- [`{name}.py`](truetune/{name}.py) {sentence(module)}")
        elif (package / "__init__.py").exists():
            lines += branch(package, 0)
    return "\n".join(lines)


def branch(package: Path, depth: int) -> Iterator[str]:
    indent, where = "  " * depth, package.relative_to(ROOT)
    yield f"{indent}- **[`{package.name}/`]({where})** {sentence(package / '__init__.py')}"
    for path in sorted(package.iterdir()):
        if path.suffix == ".py" and path.name != "__init__.py":
            yield f"{indent}  - [`{path.name}`]({path.relative_to(ROOT)}) {sentence(path)}"
        elif (path / "__init__.py").exists():
            yield from branch(path, depth + 1)


def sentence(path: Path) -> str:
    """The first sentence of a file's docstring: what the file is for."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s(?=[A-Z`])", first)[0].rstrip(".")


@dataclass(frozen=True)
class Raise:
    code: str
    kind: str
    message: str

    @property
    def exit(self) -> str:
        """The exit code, or what carries the code instead."""
        if self.kind in {"RowError", "Reject"}:
            return "row refused"
        if self.kind.startswith(ANSWERS):
            return self.kind.replace(ANSWERS, "HTTP")
        return "a finding" if self.kind == "Finding" else str(getattr(errors, self.kind).exit_code)


def raises(path: Path) -> Iterator[Raise]:
    """Every error, finding and refused row that a file can make."""
    module = ast.parse(path.read_text("utf-8"))
    texts = assigned(module)
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        given = [word.value for word in node.keywords if word.arg == "code"]
        if name == ANSWERS and node.args:
            status = ast.unparse(node.args[0])
            for code in codes(given, ANSWER):
                yield Raise(code, f"{name} {status}" if status.isdigit() else name, message(node, texts))
        elif given or name in RAISES:
            for code in codes(given or node.args):
                yield Raise(code, name if name in RAISES else "Finding", message(node, texts))


def assigned(module: ast.Module) -> list[tuple[int, str, ast.expr]]:
    """Line, name and value of what is put into a variable first, as long messages are."""
    found = [node for node in ast.walk(module) if isinstance(node, ast.Assign)]
    return [(node.lineno, to.id, node.value) for node in found for to in node.targets if isinstance(to, ast.Name)]


def codes(values: list[ast.expr], kind: re.Pattern[str] = CODE) -> Iterator[str]:
    """The codes among some arguments, those of `a if b else c` too."""
    for value in values:
        choices = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
        for choice in choices:
            if isinstance(choice, ast.Constant) and isinstance(choice.value, str) and kind.fullmatch(choice.value):
                yield choice.value


def message(call: ast.Call, texts: list[tuple[int, str, ast.expr]]) -> str:
    """The sentence of an error, with `…` where it names something; the hint where it is put together elsewhere."""
    given = [word.value for word in call.keywords if word.arg in {"message", "reason"}]
    for value in given or call.args:
        if isinstance(value, ast.Name):
            earlier = [text for line, name, text in texts if name == value.id and 0 < call.lineno - line < NEAR]
            value = earlier[-1] if earlier else value
        text = template(value)
        if text and not CODE.fullmatch(text):
            return text
    return next((template(word.value) for word in call.keywords if word.arg == "hint"), "")


def template(value: ast.expr) -> str:
    if isinstance(value, ast.JoinedStr):
        return "".join(template(part) if isinstance(part, ast.Constant) else "…" for part in value.values)
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def error_table() -> str:
    found: dict[str, list[Raise]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for item in raises(path):
            found.setdefault(item.code, []).append(item)
    lines = ["# Error codes", "", GENERATED, "", INTRODUCTION, "", "| code | exit | what it says |", "|---|---|---|"]
    for code, items in sorted(found.items()):
        exits = sorted({item.exit for item in items})
        texts = dict.fromkeys(item.message for item in items if item.message)
        said = "<br>".join(text.replace("|", "\\|").replace("\n", " ") for text in texts)
        lines.append(f"| `{code}` | {', '.join(exits)} | {said} |")
    return "\n".join(lines) + "\n"


INTRODUCTION = """Every error says what is wrong, where, and what to do; with `--json` it is
`{"schema": 1, "error": {"code", "where", "message", "hint"}}`. The codes below do not change. Several findings of one
check come together, in `error.findings`; a refused row is named, counted and kept in the run's `rejects.jsonl`.

Exit codes: 0 ok · 1 checked and found wrong · 2 usage or configuration · 3 input missing or unreadable ·
4 memory, disk or device · 5 training failed, or a bug · 75 stopped, resumable · 130 forced.
HTTP: what a server (`ft serve`) answers, in OpenAI's form."""


def helps() -> str:
    """The help of every verb, as `ft VERB --help` prints it."""
    lines = ["# The verbs", "", GENERATED, ""]
    root = click.Context(cli.group, info_name="ft", terminal_width=100, help_option_names=["-h", "--help"])
    for name in cli.VERBS:
        command = cli.group.get_command(root, name)
        assert command is not None
        for ctx in contexts(command, click.Context(command, info_name=name, parent=root, terminal_width=100)):
            lines += [f"## `{ctx.command_path}`", "", "```text", ctx.command.get_help(ctx).rstrip(), "```", ""]
    return "\n".join(lines)


def contexts(command: click.Command, ctx: click.Context) -> Iterator[click.Context]:
    yield ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            yield from contexts(child, click.Context(child, info_name=name, parent=ctx, terminal_width=100))


if __name__ == "__main__":
    stale = {path: text for path, text in build().items() if path.read_text("utf-8") != text}
    if "--check" in sys.argv:
        sys.exit(f"run `make docs`: {', '.join(map(str, stale))}" if stale else 0)
    for path, text in stale.items():
        path.write_text(text, "utf-8")
