"""To the hub: an export, or a whole model as it was trained, as a repository there, with a card for those who find it.

What is sent says nothing of this machine: paths become names. It is one commit, and its id goes into the export's
report and receipt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.errors import InputError, TrueTuneError, UsageError
from truetune.export import card, proof
from truetune.export.origin import Origin
from truetune.models import hub
from truetune.runs import durable, jsonfile, receipt
from truetune.train.card import figures

try:
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub import errors as hub_errors
except ImportError:  # the extra `hub` is not installed
    huggingface_hub = None  # type: ignore[assignment]

WHAT = {"adapter": "peft", "merged": "merged", "gguf": "gguf"}
"""What is published -> the format of the export."""
USES = {"gguf": "llama-server -hf {repo}"}
"""What loads it from the hub, where that is not what loads a folder."""
CARD, REPORT = "README.md", "report.json"
PLACE = re.compile(r'folder = "[^"\n]*"  # the path to it')
"""A line of the card that a training writes."""
DATA = re.compile(r"hf://datasets/([^/@]+/[^/@]+)")
TEXTS = (".json", ".md", ".jinja", ".txt")

Content = Path | bytes
"""A file as it lies here, or what is sent in its place."""


@dataclass(frozen=True)
class Pushed:
    """`commit` is the id of the one commit that was made."""

    repo: str
    commit: str
    url: str
    private: bool

    def to_json(self) -> dict[str, Any]:
        return {"repo": self.repo, "commit": self.commit, "url": self.url, "private": self.private}


def refuse(repo: str | None, what: str | None, token: str | None) -> str:
    """Before anything is written: the repository's name. Raises UsageError `export.repo`, `export.what`, InputError
    `export.no_token`, `model.offline`, `model.hub_missing`."""
    if not repo or "/" not in repo or not hub.is_name(repo):
        raise UsageError(
            "this is no name of a repository" if repo else "no repository is named",
            code="export.repo",
            where=repo or "repo",
            hint="Name it as OWNER/NAME: --repo me/support.",
        )
    if what is not None and what not in WHAT:
        hint = f"Write one of them: {', '.join(WHAT)}."
        raise UsageError(f"{what!r} is nothing to publish", code="export.what", where="what", hint=hint)
    hub.refuse_offline(repo)
    if not token:
        raise InputError(
            "publishing needs a token of the hub that may write",
            code="export.no_token",
            where=repo,
            hint="Put it into passwords.yml as `huggingface: {token: hf_…}`, or into HF_TOKEN.",
        )
    return repo


def files(origin: Origin, folder: Path, report: Mapping[str, Any] | None, repo: str, usage: str) -> dict[str, Content]:
    """{name: content} of what is sent. `report` is None for a whole model that is sent as it was trained, `usage` what
    to type to run what stands at the repository."""
    found: dict[str, Content] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        text = plain(origin, folder, path, repo) if path.suffix in TEXTS else None
        found[name] = path if text is None else text.encode()
    written = found.get(CARD, b"")
    assert isinstance(written, bytes)
    found[CARD] = readme(origin, folder, written.decode("utf-8", "replace"), report, repo, usage).encode()
    return found


def plain(origin: Origin, folder: Path, path: Path, repo: str) -> str | None:
    """A text without the paths of this machine; None where it has none."""
    text = path.read_text("utf-8", "replace")
    clean = unplaced(origin, folder, text, repo)
    return clean if clean != text or path.name == CARD else None


def unplaced(origin: Origin, folder: Path, text: str, repo: str) -> str:
    """Folders by what they are called: the base by its name, the export by its repository."""
    base = origin.base.name if origin.base.kind != "folder" else origin.base.folder.name
    names = {str(folder): repo, str(origin.side.model): base, str(origin.base.folder): base}
    if origin.base.kind == "folder":
        names[origin.base.name] = base
    if origin.run:
        names[str(origin.run.folder)] = origin.run.id
    for place, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
        quoted = json.dumps(place)[1:-1]
        text = text.replace(place, name).replace(quoted, name) if place.startswith(("/", ".", "~")) else text
    return text


def readme(origin: Origin, folder: Path, text: str, report: Mapping[str, Any] | None, repo: str, usage: str) -> str:
    """The card as it is read on the hub: how it is loaded from there, the figures of its run, and its data sets."""
    text = text or "\n\n".join([card.front(origin, {"format": "merged"}), f"# {repo}"])
    text = PLACE.sub(f'folder = "{repo}"', text)
    text = card.OWN.sub("", text).rstrip() if report else text
    if origin.run and "## Figures" not in text and receipt.digest(origin.run, "train"):
        text = text.rstrip() + "\n\n## Figures\n\n" + "\n".join(figures(receipt.read(origin.run)))
    if report:
        told = card.exported(origin, report, usage)
        text = text.rstrip() + "\n\n" + unplaced(origin, folder, told, repo)
    return with_data(text.rstrip() + "\n", sets(origin))


def sets(origin: Origin) -> list[str]:
    """Data sets of the hub that the run has learned from."""
    inputs = receipt.read(origin.run).get("data", {}).get("inputs", ()) if origin.run else ()
    found = (DATA.match(str(entry.get("path", ""))) for entry in inputs)
    return sorted({each[1] for each in found if each})


def with_data(text: str, names: list[str]) -> str:
    """The card with its data sets in the front matter."""
    if not names or not text.startswith("---\n") or "\ndatasets:" in text:
        return text
    head, _, rest = text[4:].partition("\n---")
    return f"---\n{head}\ndatasets: {json.dumps(names)}\n---{rest}"


def push(repo: str, files: Mapping[str, Content], *, private: bool, token: str, message: str) -> Pushed:
    """Make the repository if there is none, and commit the files. Raises InputError `export.denied`,
    `model.unreachable`, UsageError `export.public`, `export.card`."""
    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UsageError(
                "there is such a repository already, and everybody can read it",
                code="export.public",
                where=repo,
                hint="Nothing was sent. Make it private on its page, name another one, or leave out --private.",
            )
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        made = api.create_commit(repo, operations, commit_message=message)
    except hub.NETWORK as error:
        raise denied(repo, error) from error
    except ValueError as error:  # what its library says of a card or a name
        raise UsageError(
            f"the hub does not take this: {' '.join(str(error).split())[:300]}",
            code="export.card",
            where=repo,
            hint="Correct the front matter of README.md in the folder that is published, and try again.",
        ) from error
    return Pushed(repo, str(made.oid), str(made.commit_url), private)


def denied(repo: str, error: Exception) -> TrueTuneError:
    """What the hub said to a push, in our words."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub_errors.RepositoryNotFoundError) or status in (401, 403, 404):
        return InputError(
            "the hub does not let this token write there",
            code="export.denied",
            where=repo,
            hint="Check the name, and that the token of the hub is valid and may write.",
        )
    found = hub.explain(error, repo, None)
    hint = "The export stands, if it was written; push again with the same command."
    return InputError(found.message, code=found.code, where=repo, hint=hint)


def standing(origin: Origin, called: str) -> tuple[Path, dict[str, Any]] | None:
    """The run's own export of that name and its report, where it is whole: as its receipt says."""
    if origin.run is None:
        return None
    folder = origin.run.folder / "exports" / f"{called}{origin.title}"
    if not (folder / REPORT).is_file():
        return None
    stage = receipt.read(origin.run).get(proof.stage_of(origin.run, folder), {})
    whole = stage.get("export", {}).get("files") == proof.digests(folder)
    return (folder, jsonfile.load(folder / REPORT)) if whole else None


def record(folder: Path, report: Mapping[str, Any], pushed: Pushed) -> dict[str, Any]:
    """What was pushed, in the export's report."""
    told = dict(report) | {"hub": pushed.to_json()}
    durable.write_json(folder / REPORT, told)
    return told
