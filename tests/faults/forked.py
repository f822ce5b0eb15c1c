"""Real kills of real training processes: a server that has imported the libraries forks one process for each attempt.

`python forked.py ENGINE COUNT` (torch, mlx or small) prints a JSON document: how many kills landed and where, and what
was wrong. It is a program of its own, because a process that has computed with threads cannot be forked.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import small_run

from truetune.engines.base import EngineSpec, Method
from truetune.runs import alike, durable
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.disk import Disk
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train.carry import take_up
from truetune.train.state import State

BUDGET, GRACE = 64, 25.0
Make = Callable[[], Any]


@dataclass(frozen=True)
class Moment:
    """When a process is to be killed: `at` seconds after its start, or at the n-th of these events."""

    kind: str
    """clock, saving (an operation of the disk), evaluating, computing (a micro-batch), step, or nothing."""
    number: int = 0
    at: float = 0.0
    sign: int = signal.SIGKILL


@dataclass
class Told:
    """What became of the attempts."""

    landed: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    in_recovery: int = 0
    wrong: list[str] = field(default_factory=list)


class Announcing(Disk):
    """Tells of every operation below a folder of checkpoints before it is done."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell

    def __getattribute__(self, name: str) -> Any:
        if name in ("create", "write", "sync", "rename", "link", "mkdir", "chmod", "unlink", "discard"):
            super().__getattribute__("tell")()
        return super().__getattribute__(name)


def maker(engine: str, model: Path) -> Make:
    """What opens an engine in the forked process; the imports are done here."""
    if engine == "small":
        return small_run.Small
    spec = EngineSpec(model=model, method=Method(r=4, alpha=8, dropout=0.1), token_budget=BUDGET)
    if engine == "torch":
        from truetune.engines.torch.engine import TorchEngine

        return lambda: TorchEngine(spec)
    from truetune.engines import mlx

    return lambda: mlx.open_engine(spec)


def work(folder: Path, make: Make, moment: Moment) -> int:
    """Start the run in the folder, or go on with it; the exit code of `ft`."""
    strike = striking(moment)
    run = Run(folder)
    if not (folder / "resolved.json").exists():
        run = Run.create(folder, train_yml=b"", resolved={"schema": 1}, env={"schema": 1}, listed=False)
    engine = make()
    with run.lock():
        checkpoint = Checkpoints(run).newest_good(lambda text: print("warned:", text))
        state = State(token_budget=BUDGET)
        if checkpoint:
            state = State.from_json(Checkpoints(run).load_state(checkpoint))
            engine.restore(checkpoint.folder)
        take_up(run, state)
        durable.disk = Announcing(lambda: strike("saving"))
        watched(engine, strike)
        loop = small_run.build(run, engine, state, lambda kind, figures: strike("step") if kind == "train" else None)
        loop.rules = replace(loop.rules, save=small_run.RULES.save)
        return 75 if loop.fit() == "SIGTERM" else 0


def striking(moment: Moment) -> Callable[[str], None]:
    """Called with an event; at the moment the process kills itself."""
    count: Counter[str] = Counter()

    def strike(kind: str) -> None:
        count[kind] += 1
        if (kind, count[kind]) == (moment.kind, moment.number):
            os.kill(os.getpid(), moment.sign)

    return strike


def watched(engine: Any, strike: Callable[[str], None]) -> None:
    """Have the engine tell when it evaluates, and of every micro-batch where it has them."""
    for name, kind in (("loss", "evaluating"), ("_loss", "computing")):
        real = getattr(engine, name, None)
        if real:
            setattr(engine, name, told(real, kind, strike))


def told(real: Callable[..., Any], kind: str, strike: Callable[[str], None]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        strike(kind)
        return real(*args)

    return call


def forked(folder: Path, make: Make, moment: Moment) -> tuple[int, float]:
    """Run `work` in a forked process; (its exit code or minus its signal, seconds)."""
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with (folder.parent / f"{folder.name}.txt").open("a") as text:
                os.dup2(text.fileno(), 1)
                os.dup2(text.fileno(), 2)
                code = work(folder, make, moment)
        finally:
            os._exit(code)
    if moment.kind == "clock":
        time.sleep(moment.at)
        os.kill(process, moment.sign)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - began


def drawn(draw: random.Random, seconds: float, limits: dict[str, int]) -> Moment:
    """Half of the kills in a save, the others at any instant, in evaluations, in micro-batches, after steps."""
    kind = draw.choice(
        ["saving", "saving", "saving", "saving", "clock", *(name for name in limits if name != "saving")]
    )
    if kind == "clock":
        return Moment(kind, at=draw.uniform(0, seconds))
    return Moment(kind, number=draw.randint(1, limits[kind]))


def hunt(engine: str, count: int, room: Path, seed: int = 0) -> dict[str, Any]:
    """`count` runs, each killed until a kill has landed, resumed, and compared with the straight one."""
    make, draw, told = maker(engine, model(room, engine)), random.Random(seed), Told()
    straight, seconds = [room / "straight", room / "again"], 0.0
    for folder in straight:
        code, seconds = forked(folder, make, Moment("nothing"))
        assert code == 0, (room / f"{folder.name}.txt").read_text()
    assert not any(alike.compare(*map(Run, straight)).values()), "two straight runs differ: nothing can be proven"
    limits = {"saving": 150, "evaluating": 4, "step": small_run.STEPS} | (
        {"computing": 20} if engine != "small" else {}
    )
    while sum(told.landed.values()) < count and told.missed < 3 * count + 10:
        cycle(room / str(sum(told.landed.values()) + told.missed), make, draw, seconds, limits, Run(straight[0]), told)
    return {
        "engine": engine,
        "landed": sum(told.landed.values()),
        "by_phase": dict(told.landed),
        "during_recovery": told.in_recovery,
        "missed": told.missed,
        "identical": sum(told.landed.values()) - len({text.partition(":")[0] for text in told.wrong}),
        "wrong": told.wrong,
        "seconds_of_a_run": round(seconds, 3),
    }


def cycle(
    folder: Path, make: Make, draw: random.Random, seconds: float, limits: dict[str, int], straight: Run, told: Told
) -> None:
    moment = drawn(draw, seconds, limits)
    if forked(folder, make, moment)[0] != -signal.SIGKILL:
        told.missed += 1
        return
    told.landed[moment.kind] += 1
    for _ in range(draw.choice([0, 0, 1, 3])):  # the resume is killed as well
        told.in_recovery += forked(folder, make, drawn(draw, seconds / 2, limits))[0] == -signal.SIGKILL
    code, _ = forked(folder, make, Moment("nothing"))
    text = (folder.parent / f"{folder.name}.txt").read_text()
    if code != 0 or "warned:" in text:
        told.wrong.append(f"{folder.name}: {moment}: exit {code}: {text[-600:]}")
        return
    differs = {part: name for part, name in alike.compare(straight, Run(folder)).items() if name}
    if differs or list(folder.rglob(".*")):
        told.wrong.append(f"{folder.name}: {moment}: {differs or 'something is left behind'}")


def polite(engine: str, count: int, room: Path, seed: int = 0) -> dict[str, Any]:
    """SIGTERM at random instants: out with 75 in time, no step lost, the resume identical."""
    make, draw, wrong = maker(engine, model(room, engine)), random.Random(seed), list[str]()
    straight, landed, longest = room / "straight", 0, 0.0
    forked(straight, make, Moment("nothing"))
    for number in range(4 * count + 10):
        if landed == count:
            break
        folder = room / f"term-{number}"
        kind = draw.choice(["step", "evaluating", "saving"])
        moment = Moment(kind, draw.randint(1, {"step": 5, "evaluating": 3, "saving": 120}[kind]), sign=signal.SIGTERM)
        code, took = forked(folder, make, moment)
        if code == 0:  # it came in the last step: the run is finished
            continue
        landed, longest = landed + 1, max(longest, took)
        run = Run(folder)
        done = [row["step"] for row in Metrics(folder / "metrics.jsonl").read("train")]
        kept = [each.step for each in Checkpoints(run).list()]
        forked(folder, make, Moment("nothing"))
        differs = {part: name for part, name in alike.compare(Run(straight), run).items() if name}
        if code != 75 or (done and kept[-1] != done[-1]) or differs or took > GRACE:
            wrong.append(f"{number}: {moment}: exit {code}, {done} done, {kept} kept, {differs}, {took:.1f} s")
    return {"engine": engine, "stopped": landed, "wrong": wrong, "longest_seconds": round(longest, 3)}


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


def main() -> None:
    what, engine, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    with tempfile.TemporaryDirectory() as room:
        found = {"kills": hunt, "stops": polite}[what](engine, count, Path(room), seed)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
