"""The proof that a run's resume is exact, here and now: n steps straight; n steps killed and resumed; compared.

Both are runs of their own, of the same settings and rows, trained by processes of their own in a folder that is gone
afterwards. The second one is killed by SIGKILL at a random instant between its first checkpoint and its last step.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from truetune.errors import TrainingError
from truetune.runs import alike, durable, jsonfile, receipt
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run

STEPS = 8
"""Of each of the two runs, unless the run itself has fewer."""
ATTEMPTS = 8
"""How often a kill may come too late."""
Watch = Callable[[str], None]


def prove(run: Run, steps: int = STEPS, watch: Watch = lambda text: None) -> dict[str, Any]:
    """Prove the run's resume and write the verdict into its receipts (`prove`); returns that receipt.

    Raises TrainingError `prove.failed` where one of the two runs ends with an error, `prove.not_landed` where every
    kill came too late.
    """
    steps = min(steps, int(run.resolved["plan"]["steps"]))
    draw = random.SystemRandom()
    with run.lock():
        room = run.folder / f".tmp-prove-{secrets.token_hex(4)}"  # a crash leaves a name that the lock sweeps
        try:
            durable.folder(room)
            watch(f"{steps} steps straight")
            straight = copy(run, room / "straight", steps)
            trained(straight)
            broken, killed = interrupted(run, room, steps, pace(straight), draw, watch)
            watch(f"resumed after step {killed['after_step']}")
            trained(broken)
            body = verdict(steps, killed, broken, alike.compare(straight, broken))
        finally:
            durable.disk.discard(room)
        receipt.write(run, receipt.PROVE, body)
    return body


def verdict(steps: int, killed: dict[str, Any], broken: Run, compared: dict[str, str | None]) -> dict[str, Any]:
    differs = next((f"{part}: {name}" for part, name in compared.items() if name is not None), None)
    resumed = [row["from"] for row in Metrics(broken.folder / "metrics.jsonl").read("resume")]
    return {
        "verdict": "differs" if differs else "identical",
        "first_difference": differs,
        "steps": steps,
        "killed": killed | {"resumed_from": resumed[-1]},
        "compared": compared,
    }


def copy(run: Run, folder: Path, steps: int) -> Run:
    """A run of the same settings and rows, of so many steps, saved after each. It writes no samples, no events, no
    report, and becomes no adapter with a name."""
    written, config = (dict(run.resolved[name]) for name in ("written", "config"))
    for values in (written, config):
        values["training"] = values["training"] | {"max_steps": steps}
        values["checkpoints"] = values["checkpoints"] | {"every": "1 steps", "keep": 2}
        values["evaluation"] = values["evaluation"] | {"samples": 0}
        values["output"] = values["output"] | {"log": []}
    plan = run.resolved["plan"] | {"steps": steps}
    resolved = run.resolved | {"written": written, "config": config, "plan": plan, "registered": False}
    return Run.create(folder, train_yml=run.train_yml, resolved=resolved, env=run.env, listed=False)


def interrupted(
    run: Run, room: Path, steps: int, pace: float, draw: random.Random, watch: Watch
) -> tuple[Run, dict[str, Any]]:
    """A run that was killed before its last step was done, and when that was."""
    for attempt in range(ATTEMPTS):
        broken = copy(run, room / f"killed-{attempt}", steps)
        after = draw.randint(1, max(1, steps - 1 - attempt))
        delay = draw.uniform(0, pace)
        watch(f"{steps} steps, killed {delay:.3f} s after step {after}")
        if kill(broken, after, delay) and done(broken) < steps and any(broken.folder.glob("checkpoints/step-*")):
            return broken, {
                "after_step": after,
                "delay": round(delay, 4),
                "attempts": attempt + 1,
                "done": done(broken),
            }
    raise TrainingError(
        f"each of {ATTEMPTS} kills came after the last of {steps} steps",
        code="prove.not_landed",
        where=run.id,
        hint="Let the proof take more steps: ft runs prove RUN --steps 50",
    )


def kill(run: Run, after: int, delay: float) -> bool:
    """Train, and kill so long after a step; whether the process was still at work. Raises TrainingError."""
    with begin(run) as process:
        while process.poll() is None and not (done(run) >= after and any(run.folder.glob("checkpoints/step-*"))):
            time.sleep(0.001)
        time.sleep(delay)
        end(process)
        document = process.communicate()[0]
    if process.returncode != -signal.SIGKILL:
        refuse(run, process.returncode, document)
        return False
    return True


def trained(run: Run) -> None:
    """Train to the end, as `ft train --from RUN` does. Raises TrainingError."""
    with begin(run) as process:
        document = process.communicate()[0]
    refuse(run, process.returncode, document)


@contextmanager
def begin(run: Run) -> Iterator[subprocess.Popen[bytes]]:
    """`ft train --from RUN` as a process group of its own, which does not outlive the block."""
    line = [sys.executable, "-m", "truetune", "train", "--from", str(run.folder), "--json", "--quiet"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        end(process)
        process.wait()


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to all of a process group, if its leader lives."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def refuse(run: Run, code: int, document: bytes) -> None:
    if code == 0:
        return
    error = (jsonfile.parse(document) or {}).get("error") or {}
    raise TrainingError(
        f"the {run.id.partition('-')[0]} run of the proof ended with: {error.get('message', f'exit code {code}')}",
        code="prove.failed",
        where=error.get("where", ""),
        hint=error.get("hint") or "Train without the proof to see more.",
    )


def done(run: Run) -> int:
    """The last step in the log."""
    rows = Metrics(run.folder / "metrics.jsonl").read("train")
    return int(rows[-1]["step"]) if rows else 0


def pace(run: Run) -> float:
    """Seconds between two steps, saving included."""
    times = [float(row["time"]) for row in Metrics(run.folder / "metrics.jsonl").read("train")]
    taken = [after - before for before, after in pairwise(times)]
    return max(median(taken), 0.001) if taken else 0.001  # a clock that is set meanwhile makes one of them wrong
