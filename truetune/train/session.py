"""A training from its settings to its receipts, in numbered steps. The api's `train` is a caller of this."""

from __future__ import annotations

import glob
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from truetune import engines, paths
from truetune.config import Config, Loaded
from truetune.config.secrets import secret
from truetune.data.job import choose
from truetune.data.prepare import Prepared, prepare
from truetune.data.turns import Question, stop_ids
from truetune.engines.base import TrainEngine
from truetune.errors import Forced, InputError, Stopped, TrainingError, TrueTuneError, UsageError
from truetune.models import facts, memory, source, tokenizer
from truetune.models.source import Source
from truetune.models.tokenizer import Tokenizer
from truetune.runs import durable, jsonfile, receipt
from truetune.runs.checkpoints import Checkpoint, Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run, new_id, refuse_used
from truetune.runs.status import Status
from truetune.train import card, receipts, result
from truetune.train.loop import Listener, Loop
from truetune.train.resolve import Resolved, engine_spec, plan, promised, resolve, rules
from truetune.train.samples import Texts
from truetune.train.state import State

FULL_RATE = 1e-4
"""Above this learning rate full fine-tuning tends to forget what the base knew."""
OLD = "Put the old file back, or start a new run; to measure on other rows: ft evaluate --data FILE."
LIBRARIES = ("truetune", "torch", "transformers", "mlx", "mlx-lm", "tokenizers", "safetensors", "numpy", "pydantic")


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


def gather(config: Config, folder: Path) -> Session:
    """Find the model, prepare the data, settle every `auto`. `folder` is where train.yml stands."""
    if config.output.dir:
        refuse_used(Path(config.output.dir).expanduser())
    folder = folder.absolute()  # it is recorded, and read from elsewhere
    found = find_model(config, folder)
    known = facts.read(found.folder)
    refuse_other_kinds(known, found)
    encode = tokenizer.load(found.folder)
    refuse_foreign_tokens(encode, known, found)
    prepared = rows(config, folder, encode)
    # Only now: the engine takes seconds to import, and most mistakes are in the model's name and the data.
    chosen = engines.choose(config.resources.engine, found.folder)
    engine = engines.module(chosen.name)
    choice = engine.choose(config.resources.device, config.model.dtype)
    room, packed = free(config, engine, choice.device), engine.packs(known.model_type)
    resolved = resolve(config, folder, found, known, prepared, chosen, choice, room, packed=packed)
    said = tuple(warnings(resolved, (chosen.warning, choice.warning), engine.ignored(found.folder)))
    return Session(config, folder, found, encode, prepared, resolved, said)


def free(config: Config, engine: Any, device: str) -> int:
    """Bytes that training may use on the device."""
    there = memory.available(engine.free(device))
    return there if config.resources.memory == "auto" else min(there, config.resources.memory)


def rows(config: Config, folder: Path, encode: Tokenizer) -> Prepared:
    """The rows of a configuration as examples, from the cache where they are in it."""
    training = config.training
    return prepare(config.data, objective=training.objective, seed=training.seed, folder=folder, tokenizer=encode)


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


def refuse_other_kinds(known: facts.Facts, found: Source) -> None:
    if not known.causal:
        raise InputError(
            f"{known.architecture or known.model_type} does not write text, so it cannot learn answers or texts",
            code="model.not_causal",
            where=found.name,
            hint="Choose a causal language model, such as Llama, Mistral, Qwen, Gemma, Phi or GPT-2.",
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
    parts = (output.name,) if output.name else (session.source.name, Path(session.config.data.paths[0]).stem)
    return paths.runs() / new_id(*parts, now=datetime.now(UTC))


def create(session: Session, loaded: Loaded, folder: Path) -> Run:
    """The run's folder, with all that is known before the first step, and the first receipt."""
    run = Run.create(folder, train_yml=loaded.text, resolved=session.resolved, env=environment(session, loaded))
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
    }


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def reopen(run: Run) -> Session:
    """The session of a run that stands, built from what it recorded, wherever it is opened from.

    Raises UsageError `resume.data_changed`, InputError `data.missing`.
    """
    resolved = run.resolved
    config, folder = anchored(run), Path(resolved["folder"])
    found = Source(**{**resolved["model"], "folder": Path(resolved["model"]["folder"])})
    source.check(found.folder)
    encode = tokenizer.load(found.folder)
    try:
        prepared = rows(config, folder, encode)
    except InputError as error:
        if error.finding.code != "data.missing":
            raise
        raise InputError(error.finding.message, code="data.missing", where=error.finding.where, hint=OLD) from None
    session = Session(config, folder, found, encode, prepared, resolved)
    standing = receipt.read(run).get("data")
    if standing:
        refuse_other_data(run, standing, prepared)
    else:  # the start was cut off before its first receipt
        record(session, run)
    return session


def anchored(run: Run) -> Config:
    """What was written, with every relative path as the start of the run found it: by now you may stand elsewhere."""
    config, here = Config.model_validate(run.resolved["written"]), run.env.get("here")
    if not here:
        return config
    roots = (Path(run.resolved["folder"]), Path(here))
    data: dict[str, Any] = {"path": tuple(found_at(name, roots) for name in config.data.paths)}
    if isinstance(config.data.validation, str) and config.data.validation != "auto":
        data["validation"] = found_at(config.data.validation, roots)
    if config.data.template not in ("auto", "none"):
        data["template"] = found_at(config.data.template, roots)
    model = {"adapter": found_at(config.model.adapter, roots)} if config.model.adapter else {}
    parts = {"data": config.data.model_copy(update=data), "model": config.model.model_copy(update=model)}
    return config.model_copy(update=parts)


def found_at(name: str, roots: Iterable[Path]) -> str:
    """The full path of a file, folder or pattern that was found from one of these folders; as it is where it is not."""
    path = Path(name).expanduser()
    for root in roots:
        if (root / path).exists() or (glob.has_magic(name) and any(glob.iglob(name, root_dir=root, recursive=True))):
            return str(root / path)
    return name


def refuse_other_data(run: Run, standing: dict[str, Any], prepared: Prepared) -> None:
    before = {item["resolved"]: item["sha256"] for item in standing["inputs"]}
    after = {item["resolved"]: item["sha256"] for item in prepared.report["inputs"]}
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        raise UsageError(
            f"the data has changed since the run started: {', '.join(changed)}",
            code="resume.data_changed",
            where=run.id,
            hint=OLD,
        )


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `finished` (or early, which is finished too), with its figures."""

    run: Run
    state: State
    reason: str
    result: Path
    result_step: int
    eval_loss: float | None


def start_state(session: Session, run: Run | None = None, checkpoint: Checkpoint | None = None) -> State:
    """The loop's state of a checkpoint, or of a run that has none yet. Raises InputError `model.changed`."""
    if run:
        receipt.refuse_changed_base(run, session.source.folder)
    if run and checkpoint:
        return State.from_json(Checkpoints(run).load_state(checkpoint))
    return State(token_budget=session.resolved["memory"]["token_budget"])


def open_engine(session: Session, state: State) -> TrainEngine:
    """The engine with the model loaded. Before the run's folder is made: what cannot load leaves nothing behind."""
    spec = engine_spec(session.resolved, adapter_of(session), state.token_budget)
    return engines.open_engine(session.resolved["config"]["resources"]["engine"], spec)


def adapter_of(session: Session) -> Path | None:
    """`model.adapter`: a relative folder is looked for beside train.yml, then from where you stand."""
    if session.config.model.adapter is None:
        return None
    path = Path(session.config.model.adapter).expanduser()
    candidates = [session.folder / path, path]
    return next((candidate for candidate in candidates if candidate.exists()), path)


def carry_out(
    session: Session,
    run: Run,
    engine: TrainEngine,
    state: State,
    listener: Listener,
    *,
    checkpoint: Checkpoint | None = None,
    resumed: bool = False,
) -> Outcome:
    """Train, keep the best, write the result and the receipts. The run's status tells of every way out.

    Raises Stopped (75) after a polite stop, Forced (130) after an impatient one.
    """
    with run.lock():
        run.clear_stop()
        Status.update(run, state="running", steps=session.resolved["plan"]["steps"])
        try:
            if checkpoint:
                engine.restore(checkpoint.folder)
            if resumed:
                take_up(run, state)
            outcome = _train(session, run, engine, state, listener)
        except BaseException as error:
            _record_end(run, error)
            raise
        Status.update(run, state="finished", step=outcome.state.step)
    return outcome


def _record_end(run: Run, error: BaseException) -> None:
    if isinstance(error, Stopped | Forced | KeyboardInterrupt):
        Status.update(run, state="stopped")
        return
    if not isinstance(error, TrueTuneError):
        error = TrainingError(f"{type(error).__name__}: {error}", code="bug", hint="Run again with --debug.")
    Status.update(run, state="failed", error=error.to_json())


def _train(session: Session, run: Run, engine: TrainEngine, state: State, listener: Listener) -> Outcome:
    # 1. The base's files are hashed beside the training.
    with ThreadPoolExecutor(1) as pool:
        base = pool.submit(hash_base, session.source)
        listener("start", {"step": state.step, "steps": session.resolved["plan"]["steps"]} | engine.describe())
        # 2. The loop.
        loop = build(session, run, engine, state, listener)
        reason = loop.fit()
        if reason not in ("done", "early"):
            raise stopped(run, state, reason)
        # 3. The best checkpoint's parameters are the result.
        step, loss = settle(run, engine, state, session.config.checkpoints.best)
        target = result.write(run, engine, session.resolved, template_of(session))
        # 4. Receipts and card.
        finish(session, run, engine, loop, base, target, step, loss)
    return Outcome(run, state, reason, target, step, loss)


def take_up(run: Run, state: State) -> None:
    """Before a resume: the run's files go on from the state's step, and its best checkpoint is marked again."""
    state.resumes.append(state.step)
    for path in (run.folder / "metrics.jsonl", run.folder / "samples.jsonl"):
        if path.exists():
            Metrics(path).resume(state.step)
    checkpoints = Checkpoints(run)
    if any(checkpoint.step == state.best_step for checkpoint in checkpoints.list()):
        checkpoints.mark_best(state.best_step or 0, state.best_loss or 0.0)
    else:
        state.best_step = state.best_loss = None


def template_of(session: Session) -> str | None:
    """The chat template of the training; none where texts were learned."""
    if session.prepared.objective != "sft":
        return None
    return choose(session.config.data.template, session.tokenizer, session.folder).source


def build(session: Session, run: Run, engine: TrainEngine, state: State, listener: Listener) -> Loop:
    prepared = session.prepared
    path = plan(session.config, len(prepared.train))
    return Loop(
        run,
        engine,
        path,
        prepared.train,
        prepared.validation,
        rules(session.config),
        state,
        listener,
        texts(session),
    )


def texts(session: Session) -> Texts:
    """How samples are read: where they end, and what was asked."""
    encode = session.tokenizer
    if session.prepared.objective != "sft":
        return Texts(encode.decode, frozenset(encode.eos_ids))
    template = choose(session.config.data.template, encode, session.folder)
    return Texts(encode.decode, stop_ids(template, encode), Question(template))


def stopped(run: Run, state: State, reason: str) -> Stopped:
    return Stopped(
        f"stopped by {reason} after step {state.step}, saved",
        code="run.stopped",
        where=run.id,
        hint=f"Go on with: ft train --from {run.id}",
    )


def settle(run: Run, engine: TrainEngine, state: State, best: bool) -> tuple[int, float | None]:
    """Which step is the result, and its held-out loss; the engine stands there afterwards."""
    if not best or state.best_step is None or state.best_step == state.step:
        return state.step, state.eval_loss if state.eval_step == state.step else None
    checkpoint = Checkpoints(run).find(f"step-{state.best_step}")
    engine.restore(checkpoint.folder)
    return state.best_step, state.best_loss


def hash_base(found: Source) -> dict[str, Any]:
    """The base by name, revision and the sha256 of every file that defines it."""
    hashes = durable.digests(source.files(found.folder), found.folder)
    return {"name": found.name, "revision": found.revision, "folder": str(found.folder), "files": hashes}


def finish(
    session: Session,
    run: Run,
    engine: TrainEngine,
    loop: Loop,
    base: Future[dict[str, Any]],
    target: Path,
    step: int,
    loss: float | None,
) -> None:
    promise = promised(loop.course, session.prepared, loop.state.step)
    receipts.write_train(run, loop.state, engine, promise, base.result(), target, step)
    if loss is not None:
        receipts.write_eval(run, loop.state, session.prepared, step, loss)
    last = "eval" if loss is not None else "train"
    digest = durable.digest(run.folder / "receipts" / f"{last}.json")
    card.write(run, target, session.resolved, digest, adapter_of(session))
