"""What a training is made of, from its settings: model, rows, every value; and the folder it is recorded in."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from truetune import engines, paths
from truetune.config import Config, Loaded
from truetune.config.profiles import PROFILES
from truetune.config.rules import OBJECTIVE_RULES, PREFERENCE
from truetune.config.secrets import secret
from truetune.data import added, objectives, remote
from truetune.data.job import choose
from truetune.data.ledger import CHATS
from truetune.data.prepare import Prepared, prepare
from truetune.engines import prompts
from truetune.engines.optimizers import MLX, refuse_optimizer
from truetune.errors import ConfigErrors, Finding, InputError, UsageError
from truetune.listener import Listener, unheard
from truetune.models import facts, memory, source, tokenizer
from truetune.models.source import Source
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer
from truetune.runs import durable, jsonfile, known
from truetune.runs.run import Run, new_id, refuse_used
from truetune.train import receipts
from truetune.train.classes import settle
from truetune.train.resolve import Resolved, engine_spec, longest, method, resolve, several

PREFERENCE_RATE = 1e-4
"""Above this learning rate models that compare answers tend to forget how to write them."""
FULL_RATE = 1e-4
"""Above this learning rate full fine-tuning tends to forget what the base knew."""
PROMPT_RATE = 1e-3
"""Below this learning rate virtual tokens and factors hardly move in a run of the usual length."""
LIBRARIES = (
    "truetune",
    "torch",
    "transformers",
    "peft",
    "mlx",
    "mlx-lm",
    "tokenizers",
    "safetensors",
    "numpy",
    "pydantic",
)


@dataclass(frozen=True)
class Session:
    """What a training is made of before it starts: nothing in it has been trained or written."""

    config: Config
    folder: Path
    source: Source
    tokenizer: Tokenizer
    prepared: Prepared
    resolved: Resolved
    warnings: tuple[str, ...] = ()

    @cached_property
    def template(self) -> Template | None:
        """The chat template of the training; None where texts are learned."""
        if self.prepared.report["objective"] not in CHATS:
            return None
        return choose(self.config.data.template, self.tokenizer, self.folder)


def gather(config: Config, folder: Path, listener: Listener = unheard) -> Session:
    """Find the model, prepare the data, settle every `auto`. `folder` is where train.yml stands."""
    if config.output.dir:
        refuse_used(Path(config.output.dir).expanduser())
    folder = folder.absolute()  # it is recorded, and read from elsewhere
    found = find_model(config, folder)
    known = facts.read(found.folder)
    refuse_other_kinds(known, found, config.training.objective)
    own = vocabulary(known, found, config.training.objective)
    refuse_foreign_tokens(own, known, found)
    new = added.entries(several(config.model.new_tokens), own, config.data.template, folder)
    encode = added.extended(own, new)
    prepared = labelled_rows(config, folder, encode, known, found, listener)
    classes = settle(config, prepared)
    refuse_beyond(known, longest(prepared))
    refuse_unread(config, prepared.objective)
    prompts.refuse(method(config), config.method.virtual_tokens, known, longest(prepared), prepared.objective)
    # Only now: the engine takes seconds to import, and most mistakes are in the model's name and the data.
    chosen = engines.choose(
        config.resources.engine, found.folder, method(config), prepared.objective, [*torch_only(config)]
    )
    engine = engines.module(chosen.name)
    choice = engine.choose(config.resources.device, config.model.dtype)
    room, packed = free(config, engine, choice.device), engine.packs(known.model_type)
    resolved = resolve(config, folder, found, known, prepared, chosen, choice, room, packed=packed)
    resolved |= ({"new_tokens": new} if new else {}) | ({"classes": classes} if classes else {})
    refuse_optimizer(config.training.optimizer, choice.device)
    engines.refuse_unpackable(engine_spec(resolved).method.bits or known.bits, choice.device)
    said = tuple(warnings(resolved, (chosen.warning, choice.warning), engine.ignored(found.folder)))
    return Session(config, folder, found, encode, prepared, resolved, said)


def torch_only(config: Config) -> Iterator[str]:
    """Settings in use that only torch has."""
    used: dict[str, Any] = {f"method.init {config.method.init}": config.method.init == "loftq"}
    used |= {"model.new_tokens": config.model.new_tokens, "method.frozen_layers": config.method.frozen_layers}
    used |= {f"training.{name}": getattr(config.training, name) for name in ("neftune_alpha", "ema")}
    used |= {f"optimizer {config.training.optimizer}": config.training.optimizer not in MLX}
    yield from (name for name, value in used.items() if value)


def encoder(config: Config, model: Path, folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder with the new tokens; `folder` is where train.yml stands."""
    own = tokenizer.load(model)
    return added.extended(own, added.entries(several(config.model.new_tokens), own, config.data.template, folder))


def refuse_unread(config: Config, objective: str) -> None:
    """Keys that the objective which the rows decided on does not read. Raises ConfigErrors."""
    sections = ("preference", "classification", "data", "evaluation", "generation")
    written = {f"{section}.{key}" for section in sections for key in getattr(config, section).model_fields_set}
    written -= PROFILES.get(config.profile or "", {}).keys()
    training = config.training.model_copy(update={"objective": objective})
    config = config.model_copy(update={"training": training})
    clashes = (clash for rule in OBJECTIVE_RULES for clash in rule(config, written))
    found = [Finding("config.contradiction", clash.message, clash.key, clash.hint) for clash in clashes]
    if found:
        raise ConfigErrors(found)


def free(config: Config, engine: Any, device: str) -> int:
    """Bytes that training may use on the device."""
    there = memory.available(engine.free(device))
    return there if config.resources.memory == "auto" else min(there, config.resources.memory)


def rows(config: Config, folder: Path, encode: Tokenizer, listener: Listener = unheard) -> Prepared:
    """The rows of a configuration as examples, from the cache where they are in it."""
    training = config.training
    return prepare(
        config.data,
        objective=training.objective,
        seed=training.seed,
        folder=folder,
        tokenizer=encode,
        listener=listener,
    )


def warnings(resolved: Resolved, machine: Iterable[str], ignored: list[str]) -> Iterator[str]:
    """What is allowed and yet seldom meant. `machine` is what engine and device have to say, `ignored` what the engine
    takes no notice of in the model's folder."""
    training, course = resolved["config"]["training"], resolved["plan"]
    yield from filter(None, machine)
    if ignored:
        more = f" and {len(ignored) - 6} more" if len(ignored) > 6 else ""
        yield f"parts of the model's folder that are not used: {', '.join(ignored[:6])}{more}"
    if course["warmup_steps"] >= course["steps"]:
        yield (
            f"the warm-up takes {course['warmup_steps']} steps and the run {course['steps']}: "
            "training.learning_rate is never reached"
        )
    if resolved["config"]["method"]["type"] == "full" and training["learning_rate"] > FULL_RATE:
        yield f"training.learning_rate {training['learning_rate']:g} is high for full fine-tuning; 1e-5 is customary"
    kind = resolved["config"]["method"]["type"]
    held = "sft_weight" in PREFERENCE.get(training["objective"], ())  # the better answer is learned as well
    compares = objectives.of(training["objective"]).compares and kind not in ("full", *prompts.NEEDS_PEFT)
    if compares and not held and training["learning_rate"] > PREFERENCE_RATE:
        told = f"training.learning_rate {training['learning_rate']:g} is high for {training['objective']}"
        yield f"{told}; 5e-6 to 1e-4 is customary"
    if kind in prompts.NEEDS_PEFT and training["learning_rate"] < PROMPT_RATE:
        yield f"training.learning_rate {training['learning_rate']:g} is low for {kind}; 1e-3 to 3e-2 is customary"


def find_model(config: Config, folder: Path) -> Source:
    token = secret("huggingface.token", folder)
    found = source.resolve(
        config.model.path,
        revision=config.model.revision,
        folder=folder,
        token=token.reveal() if token else None,
    )
    source.check(found.folder)
    return found


def labelled_rows(
    config: Config, folder: Path, encode: Tokenizer, known: facts.Facts, found: Source, listener: Listener
) -> Prepared:
    """As `rows`; of a model that reads and does not write, `auto` is classification. Raises as `refuse_other_kinds`."""
    if known.causal or config.training.objective != "auto":
        return rows(config, folder, encode, listener)
    training = config.training.model_copy(update={"objective": "classification"})
    try:
        return rows(config.model_copy(update={"training": training}), folder, encode, listener)
    except UsageError as error:
        if error.finding.code == "data.objective":
            refuse_other_kinds(known, found, "sft")
        raise


def vocabulary(known: facts.Facts, found: Source, objective: str) -> Tokenizer:
    """The model's tokenizer. Of one that does not write, unless classes were asked for, that is said first."""
    try:
        return tokenizer.load(found.folder)
    except InputError:
        refuse_other_kinds(known, found, "sft" if objective == "auto" else objective)
        raise


def refuse_other_kinds(known: facts.Facts, found: Source, objective: str) -> None:
    """A model that does not write, for an objective that wants words."""
    if not known.causal and objective not in ("auto", "classification"):
        raise InputError(
            f"{known.architecture or known.model_type} does not write text, so it cannot learn answers or texts",
            code="model.not_causal",
            where=found.name,
            hint="Choose a causal language model, such as Llama, Mistral, Qwen, Gemma, Phi or GPT-2, "
            "or give it texts with labels: it learns classes.",
        )


def refuse_beyond(known: facts.Facts, longest: int) -> None:
    """A text longer than an encoder has positions for."""
    if not known.causal and known.reach is not None and longest > known.reach:
        raise InputError(
            f"the longest text has {longest} tokens, and the model reads {known.reach}",
            code="data.beyond_context",
            where="data.max_length",
            hint=f"Set data.max_length to {known.reach}; `too_long: truncate` keeps the beginning of longer texts.",
        )


def refuse_foreign_tokens(encode: Tokenizer, known: facts.Facts, found: Source) -> None:
    if encode.vocabulary > known.vocabulary:
        raise InputError(
            f"the tokenizer has {encode.vocabulary} tokens, but the model's embedding only {known.vocabulary}",
            code="model.vocabulary",
            where=found.name,
            hint="The tokenizer belongs to another model, or its added tokens were never added to the weights.",
        )


def place(session: Session) -> Path:
    """Where the run will go: `output.dir`, else a new folder under ./runs."""
    output = session.config.output
    if output.dir:
        return Path(output.dir).expanduser()
    data = Path(remote.shown(session.config.data.paths[0])).stem
    parts = (output.name,) if output.name else (session.source.name, data)
    return paths.runs() / new_id(*parts, now=datetime.now(UTC))


def create(session: Session, loaded: Loaded, folder: Path) -> Run:
    """The run's folder, with all that is known before the first step, and the first receipt."""
    env = environment(session, loaded) | {"folder": str(folder.absolute())}
    run = Run.create(folder, train_yml=loaded.text, resolved=session.resolved, env=env)
    record(session, run)
    return run


def record(session: Session, run: Run) -> None:
    """The rows that are not used, and the first receipt."""
    rejects = b"".join(jsonfile.line(row) for row in session.prepared.rejects)
    if rejects:
        durable.write(run.folder / "rejects.jsonl", rejects)
    receipts.write_data(run, session.prepared)


def environment(session: Session, loaded: Loaded) -> dict[str, Any]:
    """env.json: what the numbers may depend on."""
    versions = {name: version(name) for name in LIBRARIES}
    origin = {"path": str(loaded.path.resolve()), "sha256": durable.digest(loaded.path)} if loaded.path else None
    return {
        "schema": 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "versions": {name: value for name, value in versions.items() if value},
        "device": session.resolved["config"]["resources"]["device"],
        "seed": session.config.training.seed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "here": str(Path.cwd()),
        "source": origin,
        "base": described(session.source),
    }


def described(found: Source) -> dict[str, Any]:
    """The base by name, revision and the sha256 of every file that defines it (about 1 s per GB)."""
    files = source.files(found.folder)
    hashes = known.digests(files, trust=False)
    named = {path.relative_to(found.folder).as_posix(): hashes[path] or durable.digest(path) for path in files}
    return {"name": found.name, "revision": found.revision, "folder": str(found.folder), "files": named}


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
