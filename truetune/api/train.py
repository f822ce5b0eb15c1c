"""The verb `train`: start, look at, or go on with a fine-tune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truetune.api import wanted
from truetune.api.adapters import enter
from truetune.api.report import renew
from truetune.errors import UsageError
from truetune.listener import Listener, unheard

if TYPE_CHECKING:
    from truetune.api.handle import TrainedRun


def train(
    config: str | Path | Mapping[str, Any] | None = None,
    *,
    model: str | None = None,
    data: str | Sequence[str] | None = None,
    method: str | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    from_: str | None = None,
    prove_resume: bool = False,
    listener: Listener = unheard,
) -> TrainedRun:
    """Fine-tune as `train.yml` says and return the finished run.

    config     path of a train.yml, or its keys as a mapping; without one (and without `model` and `data`) `./train.yml`
    model, data, method   override the file, or stand alone
    overrides  `["training.learning_rate=1e-4", …]`
    resume     go on with the newest resumable run of this train.yml
    from_      go on with this run (`RUN`) or from this checkpoint (`RUN:step-200`)
    prove_resume  before it begins, prove that a killed run goes on as if nothing had happened (see `run_prove`)
    listener   called with (kind, figures) as the run goes on

    Raises ConfigErrors, InputError, ResourceError, TrainingError, CheckFailed where that proof fails, and Stopped after
    Ctrl-C, SIGTERM or a stop file.
    """
    from truetune.train.stops import Starting

    if (resume or from_) and prove_resume:
        raise UsageError(
            "the proof is made before a run begins",
            code="usage.contradiction",
            where="ft train",
            hint="Of a run that stands: ft runs prove RUN.",
        )
    if resume or from_:
        return _go_on(config, (model, data, method), overrides, from_, listener)
    with Starting():
        from truetune.api.handle import TrainedRun
        from truetune.train import carry, session

        loaded = _load(config, model, data, method, overrides)
        gathered = session.gather(loaded.config, loaded.folder, listener)
        for warning in gathered.warnings:
            listener("warning", {"text": warning})
        folder, state = session.place(gathered), carry.start_state(gathered)
    proven = _proven(session.create(gathered, loaded, folder), listener) if prove_resume else None
    with Starting():
        engine = carry.open_engine(gathered, state)
    asked = "output.log" in loaded.explicit
    with closing(engine), _logging(gathered.config.output.log, listener, asked=asked) as heard:
        run = proven or session.create(gathered, loaded, folder)
        heard("run", {"id": run.id, "folder": str(run.folder)} | _facts(gathered))
        outcome = carry.carry_out(gathered, run, engine, state, heard)
    _ended(run, listener)
    return TrainedRun.of(outcome)


def _proven(run: Any, listener: Listener) -> Any:
    """The run, with the proof in its receipts. The engine is not open yet: the proof's two runs need its memory."""
    from truetune.api.prove import differing
    from truetune.train.prove import prove

    body = prove(run, watch=lambda text: listener("proof", {"text": text}))
    listener("proof", {"text": body["verdict"]})
    if body["verdict"] != "identical":
        raise differing(run.id, body)
    return run


def preview(
    config: str | Path | Mapping[str, Any] | None = None,
    *,
    model: str | None = None,
    data: str | Sequence[str] | None = None,
    method: str | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """What `train` would do: every value with its reason, steps, memory, time, data findings. Nothing is trained or
    written; to measure speed, one step's gradient is computed and thrown away."""
    from truetune.train import preview, session

    loaded = _load(config, model, data, method, overrides)
    return preview.preview(session.gather(loaded.config, loaded.folder)) | {"sources": dict(loaded.sources)}


def _load(
    config: str | Path | Mapping[str, Any] | None, model: Any, data: Any, method: Any, overrides: Sequence[str]
) -> Any:
    from truetune.config import load

    if config is not None and not isinstance(config, str | Path | Mapping):
        raise UsageError(
            f"{config!r} is no configuration",
            code="usage.bad_value",
            where="train",
            hint="Give the path of a train.yml, or its keys as a mapping.",
        )
    values = {key: value for key, value in (("model", model), ("data", data), ("method", method)) if value is not None}
    if isinstance(config, Mapping):
        return named(load(None, overrides, {**config, **values}))
    alone = config is None and "model" in values and "data" in values
    path = None if alone else Path(config or "train.yml")
    half = {"model", "data"} & values.keys()
    if path and config is None and len(half) == 1 and not path.exists():
        other = "data" if "model" in half else "model"
        raise UsageError(
            f"--{other} is missing, and there is no train.yml here that names it",
            code="usage.missing",
            where="ft train",
            hint="Give both --model and --data, or a train.yml (`ft init` writes one).",
        )
    return named(load(path, overrides, values))


def named(loaded: Any) -> Any:
    """With the folder of a registered adapter in the place of its name."""
    model = loaded.config.model
    found = wanted.adapter(model.adapter, loaded.folder)
    if found == model.adapter:
        return loaded
    model = model.model_copy(update={"adapter": found})
    return replace(loaded, config=loaded.config.model_copy(update={"model": model}))


def _go_on(
    config: str | Path | Mapping[str, Any] | None,
    values: Sequence[Any],
    overrides: Sequence[str],
    from_: str | None,
    listener: Listener,
) -> TrainedRun:
    from truetune.train.stops import Starting

    if isinstance(config, Mapping) or any(values):
        raise UsageError(
            "a run goes on with the settings it started with",
            code="resume.settings",
            hint="Leave out --model, --data and --method; to train with others, start a new run. "
            "What may change, such as training.epochs, is changed in train.yml or by --set.",
        )
    with Starting():
        from truetune.api.handle import TrainedRun
        from truetune.train import carry, changes
        from truetune.train.reopen import reopen

        run, chosen, wanted = _resumable(config, from_, overrides)
        gathered = reopen(run)
        checkpoint = _checkpoint(run, chosen, listener)
        state = carry.start_state(gathered, run, checkpoint)
        if wanted.fields:
            with run.lock():
                gathered = changes.apply(gathered, run, state, wanted)
            listener("warning", {"text": changes.told(state.step, wanted.fields, gathered.resolved["plan"])})
        engine = carry.open_engine(gathered, state)
    with closing(engine), _logging(gathered.config.output.log, listener, asked=False) as heard:
        heard("run", {"id": run.id, "folder": str(run.folder)} | _facts(gathered))
        outcome = carry.carry_out(gathered, run, engine, state, heard, checkpoint=checkpoint, resumed=True)
    _ended(run, listener)
    return TrainedRun.of(outcome)


def _ended(run: Any, listener: Listener) -> None:
    """The report and the name of a run that has finished; a run of a proof is gone in a minute, and gets neither."""
    if run.resolved.get("registered", True):
        renew(run, listener)
        enter(run, listener)


def _resumable(config: str | Path | None, from_: str | None, overrides: Sequence[str]) -> tuple[Any, Any, Any]:
    """The run to go on with, the checkpoint that was chosen by name, if one was, and what is wanted otherwise. Changes
    nothing."""
    from truetune.runs.find import parse
    from truetune.train import changes

    path = Path(config or "train.yml")
    run, checkpoint = parse(from_) if from_ else (_newest(path), None)
    wanted = changes.asked(run, path if config is not None or not from_ else None, overrides, named)
    _refuse_ended(run, chosen=checkpoint is not None or wanted.longer)
    return run, checkpoint, wanted


def _checkpoint(run: Any, chosen: Any, listener: Listener) -> Any:
    """Where the run goes on: the checkpoint chosen, with later ones set aside; else the newest whole one, if any."""
    from truetune.runs.checkpoints import Checkpoints

    def warn(text: str) -> None:
        listener("warning", {"text": text})

    with run.lock():
        if chosen is None:
            return Checkpoints(run).newest_good(warn)
        Checkpoints(run).rewind(chosen.step, warn)
        return chosen


@contextmanager
def _logging(logs: Sequence[str], listener: Listener, *, asked: bool) -> Iterator[Listener]:
    """The listener, joined by those of `output.log`. TensorBoard is there by default where it is installed; only who
    asked for it hears that it is not."""
    if "tensorboard" not in logs:
        yield listener
        return
    try:
        from truetune.report.tensorboard import Events
    except ModuleNotFoundError:
        if asked:
            text = 'no TensorBoard events: it is not installed (pip install "truetune[tensorboard]")'
            listener("warning", {"text": text})
        yield listener
        return
    events = Events()

    def both(kind: str, figures: dict[str, Any]) -> None:
        events(kind, figures)
        listener(kind, figures)

    try:
        yield both
    finally:
        events.close()


def _newest(path: Path) -> Any:
    from truetune.runs.find import newest_resumable

    run = newest_resumable(path)
    if run is None:
        raise UsageError(
            f"no run of {path} can be resumed",
            code="resume.nothing",
            where=str(path),
            hint="`ft runs list` shows all runs; a finished one has nothing left to do.",
        )
    return run


def _refuse_ended(run: Any, *, chosen: bool) -> None:
    from truetune.runs.status import Status

    status = Status.read(run)
    if status.state == "running":
        raise UsageError(
            f"process {status.pid} is working on this run", code="run.in_use", where=run.id, hint="Wait for it."
        )
    if status.state == "finished" and not chosen:
        raise UsageError(
            "this run is finished",
            code="resume.finished",
            where=run.id,
            hint=f"To let it go on: --from {run.id} --set training.epochs=N. To begin anew from its adapter: "
            f"model.adapter: {run.folder / 'adapter'}.",
        )


def _facts(gathered: Any) -> dict[str, Any]:
    """What a face shows before the first step."""
    resolved = gathered.resolved
    return {
        "model": resolved["model"]["name"],
        "plan": resolved["plan"],
        "memory": resolved["memory"],
        "reasons": resolved["reasons"],
        "config": resolved["config"],
        "data": gathered.prepared.report,
    }
