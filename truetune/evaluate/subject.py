"""Who answers: from what a person types (`last`, `RUN:best`, an adapter's folder, `starter`) to files to open.

Order of resolution, also in the docs:
1. `starter` is the model that ships with TrueTune;
2. a run: `last`, its id, a unique prefix, `RUN:best`, `RUN:step-200`;
3. a folder: of a run, of an adapter (PEFT layout), of a model;
4. a hub id, `owner/name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truetune.config import Config
from truetune.config.secrets import secret
from truetune.data import added, objectives
from truetune.data.job import choose
from truetune.data.ledger import CHATS
from truetune.engines import adapter
from truetune.errors import InputError, UsageError
from truetune.evaluate import sampling
from truetune.models import packed, source, tokenizer
from truetune.models.source import Source
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer
from truetune.runs import checkpoints, find, jsonfile, receipt
from truetune.runs.checkpoints import Checkpoint, Checkpoints
from truetune.runs.run import Run, is_run
from truetune.runs.status import Status
from truetune.train import ancestry, binding

WEIGHTS = "model.safetensors"
"""What a checkpoint of full fine-tuning holds of the model."""


@dataclass(frozen=True)
class Subject:
    """A model that can be asked, with all that decides how it is asked."""

    name: str
    """As it is shown: the run's id with the checkpoint, the folder, the model's name."""
    base: Source
    """The model before training."""
    tokenizer: Tokenizer
    template: Template | None
    """None: it was trained to go on with texts, not to answer."""
    adapter: Path | None = None
    """PEFT layout; None for a base model and after full fine-tuning."""
    model: Path | None = None
    """The whole model that full fine-tuning made."""
    weights: Path | None = None
    """A checkpoint of full fine-tuning: weights for the base's config."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """temperature, top_p, top_k, max_new_tokens: the defaults that travel with the model."""
    dtype: str = "auto"
    bits: int = 0
    """Of the base that the adapter was trained on; 0 = as it is stored."""
    run: Run | None = None
    step: int | None = None

    @property
    def objective(self) -> str:
        """What was learned; of a model that no run of ours has trained, to write."""
        return str(self.run.resolved["config"]["training"]["objective"]) if self.run else "sft"

    @property
    def trained(self) -> bool:
        """Whether a run of ours trained it, on rows that the run names; one merged from others has none."""
        return self.run is not None and not receipt.is_made(self.run)

    @property
    def scores(self) -> bool:
        """Whether it gives scores instead of words."""
        return objectives.of(self.objective).scores

    @property
    def tuned(self) -> bool:
        """Whether there is something trained to compare with the base."""
        return bool(self.adapter or self.model or self.weights)

    @property
    def stands(self) -> bool:
        """Whether what was trained is still where it was found: a run that trains prunes its checkpoints."""
        return all(place.exists() for place in (self.adapter, self.model, self.weights) if place)

    def describe(self) -> dict[str, Any]:
        """JSON-ready: name, base, revision, tuned, run, step, adapter, and whether it answers or goes on with texts."""
        return {
            "name": self.name,
            "base": self.base.name,
            "revision": self.base.revision,
            "tuned": self.tuned,
            "run": self.run.id if self.run else None,
            "step": self.step,
            "adapter": str(self.adapter) if self.adapter else None,
            "speaks": "answers" if self.template else "texts",
        }


def find_subject(address: str = "last", *, checkpoint: str | None = None, folder: Path | None = None) -> Subject:
    """Resolve an address. `checkpoint` is `best`, `last` or `step-N` of a run, `folder` where relative paths start.

    Raises InputError and UsageError: what `runs.find.parse`, `models.source.resolve` and `engines.adapter.read_config`
    raise, `run.missing` where there is nothing of this name, `subject.ambiguous` where there are two, and
    `run.unfinished` for a run without a checkpoint.
    """
    here = folder or Path()
    if checkpoint:
        refuse_two(address, here)
    run, place = found_run(address, checkpoint, here), found_folder(address, here)
    if run and place:
        raise ambiguous(address, run[0], place)
    if run:
        return of_run(*run)
    refuse_checkpoint(address, checkpoint)
    if place and (place / adapter.CONFIG).is_file():
        return of_adapter(place)
    return of_base(resolve(str(place.resolve()) if place else address, here))


def refuse_two(address: str, here: Path) -> None:
    """A checkpoint that was asked for, of an address that names one already."""
    name, colon, named = address.rpartition(":")
    if colon and checkpoints.NAME.fullmatch(named) and not is_run(here / Path(address).expanduser()):
        raise UsageError(
            f"the checkpoint is named twice: `{address}` names {named} already",
            code="subject.two_checkpoints",
            hint=f"Leave one out: `{address}`, or `{name or 'last'}` with --checkpoint.",
        )


def found_run(address: str, checkpoint: str | None, here: Path) -> tuple[Run, Checkpoint | None] | None:
    """The run at an address; None where it may be a model or an adapter. Raises InputError where it can be neither."""
    if address == "starter":
        return None
    try:
        return find.parse(f"{address}:{checkpoint}" if checkpoint else address)
    except InputError as error:
        if error.finding.code != "run.missing" or address == "last":
            raise
        bare = not address.startswith((".", "/", "~"))
        if found_folder(address, here) or (bare and "/" in address and not error.finding.where):
            return None
        hint = error.finding.hint if bare else "Name the folder of a run, of an adapter, or of a model."
        message = f"there is no run, adapter or model `{address}`"
        raise InputError(message, code="run.missing", hint=hint) from None


def found_folder(address: str, here: Path) -> Path | None:
    """The folder of an adapter or a model at an address."""
    path = here / Path(address).expanduser()
    if address == "starter" or is_run(path):
        return None
    return path if any((path / name).is_file() for name in (adapter.CONFIG, "config.json")) else None


def ambiguous(address: str, run: Run, place: Path) -> UsageError:
    return UsageError(
        f"`{address}` is the run {run.id} and a folder with a model or an adapter",
        code="subject.ambiguous",
        where=str(place),
        hint=f"Write ./{address} for the folder, or more of the run's id.",
    )


def refuse_checkpoint(address: str, checkpoint: str | None) -> None:
    if checkpoint:
        raise UsageError(
            f"`{address}` is not a run, so it has no checkpoint `{checkpoint}`",
            code="subject.no_checkpoints",
            hint="Leave the checkpoint out, or name a run: `ft runs list`.",
        )


def resolve(name: str, folder: Path, revision: str | None = None) -> Source:
    token = secret("huggingface.token", folder)
    return source.resolve(name, revision=revision, folder=folder, token=token.reveal() if token else None)


def of_base(found: Source) -> Subject:
    """A model as it is."""
    encode = tokenizer.shared(found.folder)
    template = encode.template or encode.plain()
    return Subject(found.name, found, encode, template, generation=settings(found.folder))


def of_adapter(folder: Path) -> Subject:
    """An adapter's folder, whoever made it: its own tokenizer and template where it brings them, else its base's."""
    if is_run(folder.resolve().parent):
        return of_run(Run(folder.resolve().parent), None)
    body = adapter.read_config(folder, adapter.KINDS)
    revision = body.get("revision")
    name = str(body.get("base_model_name_or_path") or "")
    base = resolve(name, folder, revision if isinstance(revision, str) else None)
    if base.folder == source.STARTER.resolve():  # adapters of it name its folder, for PEFT
        base = source.resolve("starter", folder=folder)
    ancestry.refuse_unfit(folder, base.folder)
    encode = tokenizer.shared(folder if (folder / "tokenizer.json").is_file() else base.folder)
    template = encode.template or encode.plain()
    bits = packed.noted(folder / adapter.WEIGHTS)
    return Subject(str(folder), base, encode, template, adapter=folder, generation=settings(folder), bits=bits)


def of_run(run: Run, checkpoint: Checkpoint | None) -> Subject:
    """A run's result; before it has one, its best checkpoint, else its newest."""
    resolved = run.resolved
    base = Source(**{**resolved["model"], "folder": Path(resolved["model"]["folder"])})
    check_base(run, base)
    if receipt.is_made(run):
        return of_made(run, base)
    config = Config.model_validate(resolved["written"])
    encode = added.extended(tokenizer.shared(base.folder), resolved.get("new_tokens", ()))
    chat = objectives.of(resolved["config"]["training"]["objective"]).rows in CHATS
    method = resolved["config"]["method"]
    full = method["type"] == "full"
    step, place, name = chosen(run, checkpoint)
    return Subject(
        name=name,
        base=base,
        tokenizer=encode,
        template=spoken(place, config, encode, Path(resolved["folder"])) if chat else None,
        adapter=None if full else place,
        model=place if full and place.name == "model" else None,
        weights=place / WEIGHTS if full and place.name != "model" else None,
        generation=resolved["config"]["generation"],
        dtype=resolved["config"]["model"]["dtype"],
        bits=method["bits"] if method["type"] == "qlora" else 0,
        run=run,
        step=step,
    )


def of_made(run: Run, base: Source) -> Subject:
    """An adapter that was merged or compressed from others, with the tokenizer and template that it carries."""
    place, resolved = run.folder / "adapter", run.resolved
    encode = tokenizer.shared(place if (place / "tokenizer.json").is_file() else base.folder)
    carried, config = place / "chat_template.jinja", resolved["config"]
    return Subject(
        name=run.id,
        base=base,
        tokenizer=encode,
        template=encode.custom(carried) if carried.is_file() else None,
        adapter=place,
        generation=config["generation"],
        dtype=config["model"]["dtype"],
        bits=config["method"]["bits"],
        run=run,
    )


def check_base(run: Run, base: Source) -> None:
    if not base.folder.is_dir():
        raise InputError(
            f"the model that this run was trained on is no longer at {base.folder}",
            code="model.missing",
            where=run.id,
            hint="Put the folder back: what was trained is a change to exactly that model.",
        )
    source.check(base.folder)
    receipt.refuse_changed_base(run, base.folder)


def spoken(place: Path, config: Config, encode: Tokenizer, folder: Path) -> Template:
    """The template of the training: from the result, which carries it, else as train.yml names it."""
    carried = place / "chat_template.jinja"
    return encode.custom(carried) if carried.is_file() else choose(config.data.template, encode, folder)


def chosen(run: Run, checkpoint: Checkpoint | None) -> tuple[int | None, Path, str]:
    """(step, folder, name) of what speaks for a run."""
    if checkpoint is None and Status.read(run).state == "finished":
        for result in (run.folder / "adapter", run.folder / "model"):
            if result.is_dir():
                return result_step(run), result, run.id
    checkpoint = checkpoint or newest(run)
    binding.refuse_other(run, checkpoint)
    return checkpoint.step, checkpoint.folder, f"{run.id}:{checkpoint.name}"


def newest(run: Run) -> Checkpoint:
    kept = Checkpoints(run)
    if not kept.list():
        raise InputError(
            "this run has no checkpoint yet, so nothing of it can answer",
            code="run.unfinished",
            where=run.id,
            hint="Wait for its first checkpoint (`ft runs show` lists them), or go on with it: ft train --resume.",
        )
    return kept.find("best" if kept.best() else "last")


def result_step(run: Run) -> int | None:
    """The step whose parameters are the result."""
    path = run.folder / "receipts" / "train.json"
    return jsonfile.load(path).get("result_step") if path.is_file() else None


def settings(folder: Path) -> dict[str, Any]:
    """How answers are drawn, from a folder's generation_config.json."""
    path = folder / "generation_config.json"
    return sampling.own(jsonfile.load(path)) if path.is_file() else {}
