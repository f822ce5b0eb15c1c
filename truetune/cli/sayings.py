"""What can be typed in `ft shell`: words of its own with the `ft` line that each stands for, and all verbs of `ft`."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from truetune.cli import VERBS
from truetune.errors import UsageError

OWN = {
    "finetune MODEL DATA [TASK] [KEY=VALUE …]": "train, as `ft train`; TASK is sft, classification, dpo, …",
    "load NAME": "bring an adapter, a run or a model into memory, and switch to it",
    "switch NAME": "ask this one from now on; `switch base` the model below it",
    "unload NAME": "forget an adapter",
    "test PROMPT": "ask what is switched on; Ctrl-C stops the answer",
    "list adapters|models|runs|loaded": "what there is",
    "benchmark [NAME]": "how fast and how well it answers",
    "export NAME FORMAT": "for another program: peft, mlx, merged, gguf, …",
    "config create|edit|show": "a train.yml",
    "status": "what is in memory here, and what this machine does",
    "help [VERB]": "this list, or all that a verb takes",
    "clear": "an empty screen",
    "exit": "or Ctrl-D",
}
HERE = ("load", "switch", "unload", "test", "help", "clear", "exit", "quit", "status")
"""First words that are carried out in the shell itself."""
LISTS = {"adapters": ["adapters", "list"], "models": ["models", "list"], "runs": ["runs", "list"]}
NAMED = ("load", "switch", "unload", "benchmark", "export", "chat", "evaluate", "receipt")
"""Words behind which a name stands."""


def split(line: str) -> list[str]:
    """The words of a line, quoted as in a shell. Raises UsageError `usage.invalid`."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(
            f"the line cannot be read ({str(error).lower()})",
            code="usage.invalid",
            where="shell",
            hint="Close the quotes, or write \\' for a quote that is meant.",
        ) from None


def meant(words: Sequence[str], active: str | None) -> list[str]:
    """The arguments of the `ft` line that these words stand for. `active` is the adapter that is switched on.

    Raises UsageError `usage.missing`, `usage.unknown_verb`, `usage.invalid`.
    """
    first, rest = words[0], list(words[1:])
    if rest[:1] == ["adapter"] and first == "export":
        rest = rest[1:]
    if first == "finetune":
        return finetune(rest)
    if first == "list":
        return listed(rest)
    if first == "benchmark":
        return ["benchmark", *(rest or ([active] if active else []))]
    if first == "export" and len(rest) >= 2 and not rest[1].startswith("-"):
        return ["export", rest[0], "--format", *rest[1:]]
    if first == "config" and rest[:1] == ["create"]:
        return ["init", *rest[1:]]
    if first == "shell":
        raise UsageError("this is the shell already", code="usage.invalid", where="shell", hint="`exit` leaves it.")
    if first in VERBS:
        return [first, *rest]
    raise unknown(first)


def finetune(rest: list[str]) -> list[str]:
    names = [word for word in rest if "=" not in word and not word.startswith("-")]
    if not 2 <= len(names) <= 3:
        raise missing("finetune MODEL DATA [TASK] [KEY=VALUE …]")
    others = [word for word in rest if word not in names]
    task = [f"training.objective={names[2]}"] if len(names) == 3 else []
    settings = [*task, *(word for word in others if "=" in word and not word.startswith("-"))]
    options = [word for word in others if word.startswith("-")]
    pairs = [part for setting in settings for part in ("--set", setting)]
    return ["train", "--model", names[0], "--data", names[1], *pairs, *options]


def listed(rest: list[str]) -> list[str]:
    if not rest or rest[0] not in LISTS:
        raise missing("list adapters|models|runs|loaded")
    return [*LISTS[rest[0]], *rest[1:]]


def missing(form: str) -> UsageError:
    return UsageError(f"it goes so: {form}", code="usage.missing", where="shell", hint="`help` lists all words.")


def unknown(word: str) -> UsageError:
    near = difflib.get_close_matches(word, words(), n=1)
    hint = f"did you mean `{near[0]}`?" if near else "`help` lists what can be typed"
    return UsageError(f"there is no word `{word}`", code="usage.unknown_verb", where="shell", hint=hint)


def words() -> list[str]:
    """All first words."""
    own = [form.split()[0] for form in OWN]
    return sorted({*own, *VERBS} - {"shell"})


def completed(line: str, text: str, names: Callable[[], Iterable[str]]) -> list[str]:
    """What may stand where `text` is being typed at the end of `line`; `names` are those of adapters and models."""
    before = line[: len(line) - len(text)].split()
    if not before:
        found: Iterable[str] = words()
    elif before[0] == "list":
        found = (*LISTS, "loaded")
    elif before[0] in NAMED and len(before) == 1:
        found = names()
    elif before[0] == "help":
        found = words()
    else:
        found = [*(names() if before == ["finetune"] else ()), *files(text)]
    return [word if word.endswith("/") else f"{word} " for word in found if word.startswith(text)]


def files(text: str) -> list[str]:
    """Files and folders that begin like this."""
    folder, _, _ = text.rpartition("/")
    place = Path(f"{folder}/").expanduser() if folder or text.startswith("/") else Path()
    try:
        entries = sorted(place.iterdir())
    except OSError:
        return []
    head = f"{folder}/" if folder or text.startswith("/") else ""
    return [f"{head}{entry.name}{'/' if entry.is_dir() else ''}" for entry in entries]
