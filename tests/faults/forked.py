"""Real kills of real training processes: a server that has imported the libraries forks one process for each attempt.

`python forked.py kills|edges|stops torch|mlx|small COUNT [SEED]` prints a JSON document: how many kills landed and
where, and what was wrong. It is a program of its own, because a process that has computed with threads cannot be
forked.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import small_run
from killing import KINDS, Announcing, Board, Moment, Striker, in_memory, watched

from truetune.engines.base import EngineSpec, Method
from truetune.runs import alike, durable
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train.carry import take_up
from truetune.train.state import State

BUDGET = 8
"""Tokens of a micro-batch: a step has two of them."""
GRACE = 25.0
Make = Callable[[], Any]


@dataclass
class Told:
    """What became of the attempts."""

    landed: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    in_recovery: int = 0
    wrong: list[str] = field(default_factory=list)


def maker(engine: str, model: Path) -> Make:
    """What opens an engine in the forked process; the imports are done here."""
    if engine == "small":
        return lambda: small_run.Small(BUDGET)
    spec = EngineSpec(model=model, method=Method(r=4, alpha=8, dropout=0.1), token_budget=BUDGET)
    if engine == "torch":
        from truetune.engines.torch.engine import TorchEngine

        return lambda: TorchEngine(spec)
    from truetune.engines import mlx

    return lambda: mlx.open_engine(spec)


def work(folder: Path, make: Make, strike: Striker) -> int:
    """Start the run in the folder, or go on with it; the exit code of `ft`."""
    run = Run(folder)
    if not (folder / "resolved.json").exists():
        run = Run.create(folder, train_yml=b"", resolved={"schema": 1}, env={"schema": 1}, listed=False)
    engine = make()
    with run.lock():
        checkpoint = Checkpoints(run).newest_good(lambda text: print("warned:", text, flush=True))
        state = State(token_budget=BUDGET)
        if checkpoint:
            state = State.from_json(Checkpoints(run).load_state(checkpoint))
            engine.restore(checkpoint.folder)
        durable.disk = Announcing(strike)
        take_up(run, state, lambda text: print("warned:", text, flush=True))
        watched(engine, state, strike, beside(folder, "rows"))

        def heard(kind: str, figures: dict[str, Any]) -> None:
            if kind == "train":
                strike("step", f"step {figures['step']}")

        loop = small_run.build(run, engine, state, heard)
        return 75 if loop.fit() == "SIGTERM" else 0


def beside(folder: Path, kind: str) -> Path:
    """A file about a run that is no part of it."""
    return folder.parent / f"{folder.name}.{kind}"


class Forks:
    """Runs of one engine in one room, each in a process of its own."""

    def __init__(self, engine: str, room: Path) -> None:
        self.room, self.make, self.board = room, maker(engine, model(room, engine)), Board()
        self.straight = Run(room / "straight")
        self.seconds = self.start(room / "again") and self.start(self.straight.folder)
        assert not any(alike.compare(self.straight, Run(room / "again")).values()), "two straight runs differ"
        self.rows = self.seen(self.straight.folder)
        self.events: list[tuple[str, str]] = json.loads(beside(self.straight.folder, "events").read_text())
        self.limits = Counter(kind for kind, _ in self.events)

    def start(self, folder: Path) -> float:
        """A run that nobody disturbs; how long it takes."""
        code, seconds = self(folder, Moment())
        assert code == 0, beside(folder, "txt").read_text()
        return seconds

    def __call__(self, folder: Path, moment: Moment) -> tuple[int, float]:
        """Run `work` in a forked process; (its exit code or minus its signal, seconds)."""
        began = time.monotonic()
        process = os.fork()
        if process == 0:
            self.child(folder, moment)
        if moment.kind == "clock":
            time.sleep(moment.at)
            os.kill(process, moment.sign)
        _, status = os.waitpid(process, 0)
        return os.waitstatus_to_exitcode(status), time.monotonic() - began

    def child(self, folder: Path, moment: Moment) -> None:
        code, strike = 1, Striker(moment, self.board)
        strike.board.put("opening the engine")
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with beside(folder, "txt").open("a") as text:
                os.dup2(text.fileno(), 1)
                os.dup2(text.fileno(), 2)
                code = work(folder, self.make, strike)
                beside(folder, "events").write_text(json.dumps(strike.events))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def seen(self, folder: Path) -> dict[str, str]:
        """The rows of each step as it was last taken."""
        return dict(line.split(" ", 1) for line in beside(folder, "rows").read_text().splitlines())

    def wrong(self, folder: Path) -> str:
        """Go on to the end; what the run does not share with the straight one."""
        code, _ = self(folder, Moment())
        text = beside(folder, "txt").read_text()
        if code != 0 or "warned:" in text:
            return f"exit {code}: {text[-600:]}"
        differs = {part: name for part, name in alike.compare(self.straight, Run(folder)).items() if name}
        if self.seen(folder) != self.rows:
            differs["rows"] = "other rows"
        return str(differs) if differs else "something is left behind" if list(folder.rglob(".*")) else ""

    def drawn(self, draw: random.Random, saving: bool) -> Moment:
        """A moment in a save; or any instant, or in an evaluation, a micro-batch, between steps, in other writing."""
        kind = "saving" if saving else draw.choice(["clock", "clock", *(kind for kind in KINDS if self.limits[kind])])
        if kind == "clock":
            return Moment(kind, at=draw.uniform(0, self.seconds))
        return Moment(kind, draw.randint(1, self.limits[kind]))


def hunt(engine: str, count: int, room: Path, seed: int = 0) -> dict[str, Any]:
    """`count` runs, each killed until a kill has landed, resumed, and compared with the straight one. Every other kill
    strikes in a save."""
    forks, draw, told = Forks(engine, room), random.Random(seed), Told()
    while (landed := told.landed.total()) < count and told.missed < 3 * count + 10:
        folder, moment = room / f"{landed}-{told.missed}", forks.drawn(draw, saving=landed % 2 == 0)
        if forks(folder, moment)[0] != -signal.SIGKILL:
            told.missed += 1
            continue
        told.landed[moment.kind] += 1
        told.phases[phase(forks.board.text())] += 1
        for _ in range(draw.choice([0, 0, 1, 3])):  # the resume is killed as well
            again = forks.drawn(draw, saving=draw.random() < 0.5)
            told.in_recovery += forks(folder, again)[0] == -signal.SIGKILL
        if text := forks.wrong(folder):
            told.wrong.append(f"{folder.name}: {moment}: {text}")
    return {
        "engine": engine,
        "landed": told.landed.total(),
        "in_a_save": told.landed["saving"],
        "by_kind": dict(told.landed),
        "by_phase": dict(told.phases),
        "during_recovery": told.in_recovery,
        "missed": told.missed,
        "identical": told.landed.total() - len(told.wrong),
        "wrong": told.wrong,
        "seconds_of_a_run": round(forks.seconds, 3),
    }


def phase(text: str) -> str:
    """Where a process was killed, without step numbers and names of files: `rename checkpoint`."""
    kind, _, name = text.partition(": ")
    if kind == "saving":
        words = name.split()
        return " ".join(words[:3] if "old" in words else words[:2])
    return kind if kind in KINDS else text


EDGES = {
    "before the first step": r"computing 1\.1",
    "mid-accumulation in the first step": r"computing 1\.2",
    "after the first step": r"step 1",
    "mid-accumulation in an epoch": r"computing 3\.2",
    "before an epoch's last step": r"computing 4\.1",
    "after an epoch's last step": r"step 4",
    "before an epoch's first step": r"computing 5\.1",
    "mid-accumulation in an epoch's first step": r"computing 5\.2",
    "before the last step": r"computing 6\.1",
    "mid-accumulation in the last step": r"computing 6\.2",
    "after the last step": r"step 6",
    "in the evaluation before training": r"evaluating 0\.\d",
    "in an evaluation": r"evaluating 2\.\d",
    "in the evaluation after an epoch": r"evaluating 4\.\d",
    "in the last evaluation": r"evaluating 6\.\d",
    "at the rename of a checkpoint": r"rename checkpoint \d+",
    "after the rename, before it is synced": r"sync checkpoints",
    "while the best is marked": r"(create|write|rename) best\.json",
    "as an old checkpoint is taken away": r"rename old checkpoint \d+",
    "as an old checkpoint is collected": r"discard old checkpoint \d+",
    "as the log is synced before a save": r"sync metrics\.jsonl",
}
"""Name of a boundary -> the events of a straight run that are on it."""


def edges(engine: str, count: int, room: Path, seed: int = 0) -> dict[str, Any]:
    """A kill at the boundaries by name; of those with several events at as many of each as `count`, 0 = at all."""
    forks, wrong, told = Forks(engine, room), list[str](), dict[str, int]()
    for name, found in boundaries(forks.events).items():
        chosen = found if not count else random.Random(seed).sample(found, min(count, len(found)))
        for place, (event, number) in enumerate(sorted(chosen)):
            folder = room / f"{list(EDGES).index(name)}-{place}"
            code, _ = forks(folder, Moment("named", number, name=event))
            text = forks.wrong(folder) if code == -signal.SIGKILL else f"exit {code}: nobody was killed"
            wrong += [f"{name}: {event}: {text}"] if text else []
        told[name] = len(chosen)
    wrong += [f"{name}: there is no such event" for name, number in told.items() if not number]
    return {"engine": engine, "tried": sum(told.values()), "at": told, "wrong": wrong}


def boundaries(events: list[tuple[str, str]]) -> dict[str, list[tuple[str, int]]]:
    """Boundary -> (name, how often it had been there) of each of its events."""
    seen: Counter[str] = Counter()
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in EDGES}
    for _, event in events:
        seen[event] += 1
        for name, pattern in EDGES.items():
            if re.fullmatch(pattern, event):
                found[name].append((event, seen[event]))
    return found


def polite(engine: str, count: int, room: Path, seed: int = 0) -> dict[str, Any]:
    """SIGTERM at random instants: out with 75 in time, no step lost, the resume identical. Before the first step there
    is nothing to save: such attempts do not count."""
    forks, draw, wrong = Forks(engine, room), random.Random(seed), list[str]()
    landed, longest, kinds = 0, 0.0, Counter[str]()
    for number in range(4 * count + 10):
        if landed == count:
            break
        folder, moment = room / f"term-{number}", replace(forks.drawn(draw, draw.random() < 0.3), sign=signal.SIGTERM)
        code, took = forks(folder, moment)
        if code in (0, -signal.SIGTERM):  # it came in the last step: the run is finished; or before the loop
            continue
        landed, longest = landed + 1, max(longest, took - moment.at)
        kinds[moment.kind] += 1
        done = [row["step"] for row in Metrics(folder / "metrics.jsonl").read("train")]
        kept = [each.step for each in Checkpoints(Run(folder)).list()]
        differs = forks.wrong(folder)
        if code != 75 or (done and kept[-1] != done[-1]) or differs or took > GRACE:
            wrong.append(f"{number}: {moment}: exit {code}, {done} done, {kept} kept, {differs}, {took:.1f} s")
    return {
        "engine": engine,
        "stopped": landed,
        "by_kind": dict(kinds),
        "wrong": wrong,
        "longest_seconds": round(longest, 3),
    }


def model(room: Path, engine: str) -> Path:
    """A tiny model, made by a process of its own: this one is to stay without threads."""
    if engine == "small":
        return room
    process = os.fork()
    if process == 0:
        from truetune.engines.torch import tiny

        tiny.make(room / "model", "llama")
        os._exit(0)
    os.waitpid(process, 0)
    return next(path.parent for path in (room / "model").rglob("config.json"))


HUNTS = {"kills": hunt, "edges": edges, "stops": polite}


def main() -> None:
    what, engine, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    with in_memory() as place:
        found = HUNTS[what](engine, count, Path(place), seed)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
