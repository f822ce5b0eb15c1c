"""Kills of whole trainings (`ft.train` on the starter) after their last step: while the last checkpoint, the result,
the receipts, the card, the report and the adapter's name are written.

`python endings.py COUNT [SEED]` strikes at so many of the operations, 0 = at each. A program of its own as forked.py.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import whole_runs
from forked import beside
from killing import Announcing, Board, Moment, Striker, in_memory

import truetune as ft
from truetune.engines.torch import engine as engine  # what is imported here, no forked process imports
from truetune.runs import durable
from truetune.runs.run import Run
from truetune.runs.status import Status
from truetune.train import carry as carry
from truetune.train import reopen as reopen

STEPS = 3


def settings(folder: Path) -> dict[str, Any]:
    found = whole_runs.settings(folder, STEPS)
    found["training"] |= {"batch_size": 2, "gradient_accumulation_steps": 1}
    found["data"] |= {"validation": 8}
    found["checkpoints"] = {"every": "1 steps", "keep": 2, "best": True}
    found["evaluation"] = {"every": "1 steps", "samples": 0}
    found["resources"] |= {"memory": "3GB"}
    found["output"] |= {"name": "ending"}
    return found


def work(folder: Path, strike: Striker) -> None:
    """Train, or go on; at the end what is there is written beside the folder."""
    os.environ["TRUETUNE_HOME"] = str(folder / "home")
    run = folder / "run"
    durable.disk = Announcing(strike)
    if not (run / "resolved.json").exists():
        ft.train(settings(folder))
    elif Status.read(Run(run)).state != "finished":
        ft.train(from_=str(run))
    else:  # it is safe; what comes after its end, a kill leaves to these
        ft.report(str(run))
        ft.adapter_add(str(run))
    durable.disk = durable.Disk()
    beside(folder, "result").write_text(json.dumps(result(run)))


def result(run: Path) -> dict[str, Any]:
    """What a disturbed training must share with the straight one."""
    verdict = ft.receipt_verify(str(run))
    counted = json.loads((run / "receipts" / "train.json").read_text())
    return {
        "adapter": durable.digest(run / "adapter" / "adapter_model.safetensors"),
        "verified": verdict["verdict"],
        "counts": [counted[name] for name in ("steps", "examples", "supervised", "loss")],
        "eval": json.loads((run / "receipts" / "eval.json").read_text())["tuned"],
        "report": (run / "finetune_report.md").is_file(),
        "named": [adapter["version"] for adapter in ft.adapters_list("ending")],
        "left": sorted(path.name for path in run.rglob(".*")),
    }


def attempt(folder: Path, moment: Moment, board: Board) -> int:
    """`work` in a forked process; its exit code, or minus its signal."""
    process = os.fork()
    if process == 0:
        code, strike = 1, Striker(moment, board)
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            folder.mkdir(exist_ok=True)
            with beside(folder, "txt").open("a") as text:
                os.dup2(text.fileno(), 1)
                os.dup2(text.fileno(), 2)
                work(folder, strike)
                beside(folder, "events").write_text(json.dumps(strike.events))
                code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def endings(count: int, room: Path, seed: int = 0) -> dict[str, Any]:
    board, straight = Board(), [room / "straight", room / "again"]
    for folder in straight:
        assert attempt(folder, Moment(), board) == 0, beside(folder, "txt").read_text()
    expected, again = (json.loads(beside(folder, "result").read_text()) for folder in straight)
    assert expected == again, "two straight runs differ: nothing can be proven"
    moments = after_the_last_step(json.loads(beside(straight[0], "events").read_text()))
    chosen = sorted(random.Random(seed).sample(moments, min(count, len(moments))) if count else moments)
    wrong, at = list[str](), Counter[str]()
    for number, (event, nth) in enumerate(chosen):
        folder = room / str(number)
        text = struck(folder, Moment("named", nth, name=event), board, expected)
        wrong += [f"{event} ({nth}): {text}"] if text else []
        at[event.split()[1]] += 1
    return {"tried": len(chosen), "of": len(moments), "at": dict(at), "wrong": wrong}


def after_the_last_step(events: list[tuple[str, str]]) -> list[tuple[str, int]]:
    """(name, how often it had been there) of every operation since the last checkpoint began."""
    names = [name for _, name in events]
    begin = max(place for place, name in enumerate(names) if re.fullmatch(rf"mkdir checkpoint {STEPS}", name))
    return [(name, names[: place + 1].count(name)) for place, name in enumerate(names) if place >= begin]


def struck(folder: Path, moment: Moment, board: Board, expected: dict[str, Any]) -> str:
    """What is wrong after a kill at this moment and a resume; nothing where all is as in the straight run."""
    code = attempt(folder, moment, board)
    if code != -signal.SIGKILL:
        return f"exit {code}: nobody was killed"
    if attempt(folder, Moment(), board):
        return beside(folder, "txt").read_text()[-800:]
    found = json.loads(beside(folder, "result").read_text())
    return "" if found == expected else f"{found} instead of {expected}"


def main() -> None:
    with in_memory() as place:
        found = endings(int(sys.argv[1]), Path(place), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
