"""Verbs for train.yml: write one, show it, change it, describe it to an editor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truetune.errors import ConfigErrors, UsageError

if TYPE_CHECKING:
    from truetune.config import Loaded


def init(
    model: str = "starter",
    data: str = "data.jsonl",
    out: str | Path = "train.yml",
    *,
    profile: str | None = None,
    force: bool = False,
) -> Path:
    """Write a commented train.yml and return its path.

    Raises UsageError where the file is there already (unless `force`), ConfigErrors for a value that is not valid.
    """
    from truetune.config.load import loads
    from truetune.config.write import template
    from truetune.runs import durable

    path = Path(out)
    if path.exists() and not force:
        hint = "`ft config edit` changes it; --force replaces it"
        raise UsageError("the file is there already", code="config.exists", where=str(path), hint=hint)
    values = {"model": model, "data": data, "profile": profile}
    loads(b"{}", None, values=values)
    chosen = {"profile": profile} if profile else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write(path, template(str(model), str(data), chosen).encode())
    return path


config_create = init


def config_schema() -> dict[str, Any]:
    """The JSON Schema of train.yml."""
    from truetune.config import schema

    return schema()


def config_show(path: str | Path = "train.yml", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Every value that a run would start from, and where it was written.

    `values` is the configuration as JSON; `sources` names for each dotted key that has not its default the place it
    comes from (`train.yml:12`, `--set`, `profile chat`).
    """
    from truetune.config import load

    loaded = load(Path(path), overrides)
    return {
        "path": str(path),
        "values": loaded.config.model_dump(mode="json"),
        "sources": dict(loaded.sources),
        "explicit": sorted(loaded.explicit),
    }


def config_edit(
    path: str | Path = "train.yml",
    sets: Sequence[str] = (),
    *,
    again: Callable[[ConfigErrors], bool] | None = None,
) -> Loaded:
    """Change a train.yml; it is replaced only by one that is valid.

    sets   `key=value` texts; comments and everything else in the file stay as they are. Without any, $VISUAL or
           $EDITOR opens a copy
    again  asked when that copy is not valid: true opens the editor again, false (or no `again`) keeps the old file
    """
    from truetune.config.load import loads, read
    from truetune.runs import durable

    path = Path(path)
    before = read(path)
    after = _changed(path, before, sets) if sets else _by_hand(path, before, again)
    loaded = loads(after, path)
    if after != before:
        durable.write(path, after)
    return loaded


def _changed(path: Path, before: bytes, sets: Sequence[str]) -> bytes:
    """The text with the values set, checked against the meaning of `--set`."""
    from truetune.config.edit import change
    from truetune.config.load import from_overrides, loads

    wanted = loads(before, path, sets).config
    text = before.decode("utf-8-sig")
    for setting in from_overrides(sets, []):
        text = change(text, setting.place, setting.value)
    if loads(text.encode(), path).config != wanted:
        hint = "run `ft config edit` without --set and change it there"
        raise UsageError("the file is laid out too unusually", code="config.layout", where=str(path), hint=hint)
    return text.encode()


def _by_hand(path: Path, before: bytes, again: Callable[[ConfigErrors], bool] | None) -> bytes:
    """What the user makes of a copy in the editor."""
    import tempfile

    from truetune.config.load import loads, read

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(before)
        while True:
            _open_editor(copy)
            after = read(copy)
            try:
                loads(after, path)
                return after
            except ConfigErrors as errors:
                if again is None or not again(errors):
                    raise


def _open_editor(path: Path) -> None:
    import shlex
    import subprocess

    from truetune import paths

    editor = paths.variable("VISUAL") or paths.variable("EDITOR")
    if not editor:
        hint = "set EDITOR, or give the change: `ft config edit --set training.epochs=2`"
        raise UsageError("no editor is known", code="config.no_editor", hint=hint)
    try:
        done = subprocess.run([*shlex.split(editor), str(path)], check=False)
    except (OSError, ValueError) as error:
        hint = "set EDITOR to an editor that is installed"
        raise UsageError(f"the editor `{editor}` cannot be run: {error}", code="config.editor", hint=hint) from None
    if done.returncode:
        message = f"the editor ended with exit code {done.returncode}; nothing changed"
        raise UsageError(message, code="config.editor", hint="try again, or use `ft config edit --set key=value`")
