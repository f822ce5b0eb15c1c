"""A run that goes on with other settings: how long it trains, and what is measured, kept and shown meanwhile.

`changes.json` in the run's folder lists what was changed at each resume, and the settings that hold since. Whatever
decides what a step learns stays as the run was started; another value there is another run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from truetune import engines
from truetune.config import Config
from truetune.config.load import loads, read
from truetune.engines import Chosen
from truetune.engines.base import Choice
from truetune.errors import UsageError
from truetune.models import facts
from truetune.runs.run import Run
from truetune.train.reopen import anchored
from truetune.train.resolve import Resolved, plan, promised, resolve
from truetune.train.session import Session, free
from truetune.train.settings import ALLOWED, LENGTH, flat, listed
from truetune.train.state import State


@dataclass(frozen=True)
class Asked:
    """What a resume wants otherwise: {dotted key: (as it was, as it is wanted)}; and the train.yml that says so."""

    fields: Mapping[str, tuple[Any, Any]]
    text: bytes

    @property
    def longer(self) -> bool:
        """Whether the length is among them."""
        return any(key in self.fields for key in LENGTH)


def asked(run: Run, path: Path | None, overrides: Sequence[str], named: Any = lambda loaded: loaded) -> Asked:
    """What `path`, a train.yml, says otherwise than the run's own did when it last began, and what `--set` says.

    `named` makes folders of registered adapters' names. Raises UsageError `resume.changed` where a key that may not
    change is among them.
    """
    before = run.train_yml_now
    text = read(path) if path else before
    place = path or run.folder / "train.yml"  # both are read as if they stood there: what they name is the same
    then = flat(named(loads(before, place)).config.model_dump(mode="json"))
    loaded = named(loads(text, place, overrides))
    now, written = flat(loaded.config.model_dump(mode="json")), flat(run.resolved["written"])
    wanted = {key for key in now.keys() | then.keys() if now.get(key) != then.get(key)}
    wanted |= {".".join(key.split(".")[:2]) for key, source in loaded.sources.items() if source == "--set"}
    fields = {key: (written.get(key), now.get(key)) for key in sorted(wanted) if written.get(key) != now.get(key)}
    if refused := [key for key in fields if key not in ALLOWED]:
        raise UsageError(
            f"a run does not go on with another {listed({key: fields[key] for key in refused})}",
            code="resume.changed",
            where=str(path or run.id),
            hint=f"Put the old values back (train.yml as it was is in {run.folder}), or start a new run. "
            f"What may change: {', '.join(sorted(ALLOWED))}.",
        )
    return Asked(fields, text)


def apply(session: Session, run: Run, state: State, wanted: Asked) -> Session:
    """The session under the changed settings, which the run's folder keeps. Raises UsageError `resume.over` where its
    new end lies before the step that it has reached."""
    if not wanted.fields:
        return session
    written, settled = (changed(run.resolved[name], wanted) for name in ("written", "config"))
    config = Config.model_validate(settled)
    resolved = run.resolved | {"written": written, "config": settled} | length(session, run.resolved, config, state)
    if "resources.memory" in wanted.fields:
        resolved |= room(session, config, resolved)
        state.token_budget = resolved["memory"]["token_budget"]
    run.change({key: list(pair) for key, pair in wanted.fields.items()}, resolved, wanted.text)
    return replace(session, config=anchored(run), resolved=resolved)


def changed(settings: Mapping[str, Any], wanted: Asked) -> dict[str, Any]:
    made = {name: dict(part) if isinstance(part, dict) else part for name, part in settings.items()}
    for key, (_, value) in wanted.fields.items():
        section, _, name = key.partition(".")
        made[section][name] = value
    return made


def length(session: Session, resolved: Resolved, config: Config, state: State) -> dict[str, Any]:
    """`plan` of resolved.json for the new length."""
    course = plan(config, resolved["plan"]["examples"])
    if course.total <= state.step:
        raise UsageError(
            f"the run would be over at step {course.total}, and it has taken {state.step}",
            code="resume.over",
            where="training.max_steps" if config.training.max_steps else "training.epochs",
            hint="Ask for more, or export a checkpoint as it is.",
        )
    counts = {"steps": course.total, "warmup_steps": course.warmup}
    return {
        "plan": resolved["plan"] | counts | {"promised": promised(course, session.prepared, course.total)},
    }


def room(session: Session, config: Config, resolved: Resolved) -> dict[str, Any]:
    """`memory` of resolved.json for other bounds, and what they come to."""
    resources = config.resources
    engine, known = engines.module(resources.engine), facts.read(session.source.folder)
    device, dtype = resources.device, config.model.dtype
    may = free(config, engine, device)
    again = resolve(
        config,
        session.folder,
        session.source,
        known,
        session.prepared,
        Chosen(resources.engine, "as the run was started", ""),
        Choice(device, dtype, "", ""),
        may,
        packed=engine.packs(known.model_type),
    )
    return {"memory": again["memory"], "config": resolved["config"] | {"resources": again["config"]["resources"]}}


def told(step: int, fields: Mapping[str, Sequence[Any]], plan: Mapping[str, Any]) -> str:
    """One line for people."""
    text = f"from step {step} on: {listed(fields)}"
    if any(key in fields for key in LENGTH):
        text += f"; the run has {plan['steps']} steps now, and the learning rate follows the schedule of these"
    return text


def noted(run: Run, state: State) -> list[dict[str, Any]]:
    """Changes of the run that the state does not know of yet: they hold from its step on, and it knows them now."""
    new = [{"step": state.step, "fields": fields} for fields in run.changes[len(state.changes) :]]
    state.changes += new
    return new
