"""From what the user wrote (`starter`, a folder, a hub id) to a local folder that has been checked.

The order, also in the docs:
1. `starter` is always the model that ships with TrueTune;
2. what begins with `/`, `./`, `../` or `~` is a folder;
3. else a folder of this name beside train.yml or in the working folder;
4. else a hub id, `owner/name` or `name`: the local cache first, then a download.
A bare name that fits two of these without asking the network is an error that lists them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from truetune.errors import InputError, UsageError
from truetune.models import facts, gate, hub, pull, weights

STARTER = Path(__file__).parent / "starter"
PATH = re.compile(r"[/~]|\.\.?(/|$)")
DEFINING = (
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""The files beside the weights that decide what the model reads and writes."""


@dataclass(frozen=True)
class Source:
    """A checked model folder. `name` is what the user wrote, `revision` the hub's commit."""

    folder: Path
    name: str
    kind: Literal["starter", "folder", "hub"]
    revision: str | None = None


def resolve(name: str, *, revision: str | None = None, folder: Path, token: str | None = None) -> Source:
    """Find and check a model. `folder` is train.yml's; relative paths start there.

    Raises InputError: `model.missing`, `model.ambiguous`, what `check` raises, and what `pull.pull` raises;
    UsageError `model.revision_of_folder`.
    """
    source = _find(name, revision, folder, token)
    if revision and source.kind != "hub":
        raise UsageError(
            f"model.revision picks a version of a hub model, and `{name}` is none",
            code="model.revision_of_folder",
            where="model.revision",
            hint="remove model.revision, or name a hub model",
        )
    check(source.folder)
    return source


def described(name: str, *, revision: str | None = None, folder: Path, token: str | None = None) -> Path:
    """The folder of a model's config.json, for what can be told without weights: of a hub model that is not here
    nothing else is downloaded. Raises as `resolve`, but asks for no weights."""
    found = _find(name, revision, folder, token, pull.config).folder
    gate.refuse_files(found)
    gate.check(facts.config(found), found)
    return found


Fetch = Callable[[str, str | None, str | None], Path]
"""(name, revision, token) -> a folder of what the hub has."""


def _find(name: str, revision: str | None, folder: Path, token: str | None, fetch: Fetch = pull.download) -> Source:
    if name == "starter":
        return Source(STARTER, name, "starter")
    if PATH.match(name):
        return Source(_folder(folder / Path(name).expanduser(), name, folder), name, "folder")
    if name.endswith(".gguf"):
        raise weights.unsupported(name)
    places = list(dict.fromkeys(place for base in (folder, Path()) if (place := (base / name).resolve()).exists()))
    snapshot = hub.cached(name, revision)
    if len(places) + (snapshot is not None) > 1:
        raise _ambiguous(name, [*map(str, places), *([f"the hub's {name} ({snapshot})"] if snapshot else [])])
    if places:
        return Source(_folder(places[0], name, folder), name, "folder")
    if not hub.is_name(name):
        raise hub.missing(name, _near(name, folder))
    snapshot = snapshot or _download(name, revision, folder, token, fetch)
    return Source(snapshot, name, "hub", snapshot.name)


def _folder(path: Path, name: str, base: Path) -> Path:
    path = path.resolve()
    if path.suffix == ".gguf":
        raise weights.unsupported(name)
    if path.is_file():
        hint = f"name its folder: {Path(name).parent}"
        raise InputError("the model is a file, not a folder", code="model.is_file", where=name, hint=hint)
    if not path.exists():
        near = _near(path.name, path.parent)
        hint = f"did you mean {near}?" if near else f"the path starts at {base.resolve()}"
        raise InputError(f"there is no model folder `{name}`", code="model.missing", where=name, hint=hint)
    return path


def _download(name: str, revision: str | None, folder: Path, token: str | None, fetch: Fetch) -> Path:
    try:
        return fetch(name, revision, token)
    except InputError as error:
        near = _near(name, folder)
        if near and error.finding.code in {"model.missing", "model.offline", "model.unreachable"}:
            finding = error.finding
            hint = f"did you mean {near}? {finding.hint}"
            raise InputError(finding.message, code=finding.code, where=finding.where, hint=hint) from error
        raise


def _near(name: str, folder: Path) -> str:
    """Up to three known names that look like `name`: the starter, model folders, cached hub models."""
    folders = [entry.parent.name for entry in folder.glob("*/config.json")] if folder.is_dir() else []
    close = difflib.get_close_matches(name, ["starter", *folders, *hub.known()], n=3, cutoff=0.6)
    return " or ".join(f"`{match}`" for match in close if match != name)


def _ambiguous(name: str, candidates: list[str]) -> InputError:
    return InputError(
        f"`{name}` could be {' or '.join(candidates)}",
        code="model.ambiguous",
        where=name,
        hint=f"write a path for a folder (./{name}), or rename it to use the hub's model",
    )


def check(folder: Path) -> None:
    """Refuse a folder that is no usable model: one sentence and a hint each.

    Raises InputError: `model.is_adapter`, `model.no_config`, what `gate.check` raises, `model.pickle_weights`,
    `model.gguf`, `model.no_weights`, `model.damaged`.
    """
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError(
                "this is an adapter, not a model",
                code="model.is_adapter",
                where=str(folder),
                hint="set model.path to the adapter's base model and model.adapter to this folder",
            )
        weights.shards(folder)  # names pickles and GGUF files, where that is all there is
    gate.refuse_files(folder)
    gate.check(facts.config(folder), folder)
    weights.tensors(folder)


def files(folder: Path) -> list[Path]:
    """The files that define the base model, sorted by name: what the receipt hashes."""
    index = folder / weights.INDEX
    beside = [folder / name for name in DEFINING]
    return sorted({*weights.shards(folder), *(path for path in [index, *beside] if path.is_file())})
