"""Faults of the kernel itself: at each call by which one save changes the disk, by strace, which injects them.

`python syscalls.py small|torch COUNT [SEED]` tries so many of (call, fault), 0 = all. A program of its own: it forks a
process for each, which saves a first checkpoint, waits until strace holds it, and saves a second one.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_run
from forked import BUDGET, beside, maker, model
from killing import in_memory

from truetune.errors import ResourceError
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.run import Run
from truetune.train.state import State

CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,mkdir,mkdirat,link,linkat"
CALLS += ",unlink,unlinkat,rmdir,chmod,fchmod,fchmodat"
FAULTS = {"killed": "signal=KILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC", "EINTR": "error=EINTR"}
INTERRUPTED = ("openat", "write", "fsync")
"""Calls that a signal may cut short; the others are not asked again by anybody."""
PUTS_UP = ("unlink", "unlinkat", "rmdir")
"""Calls of the clearing up, whose failure is no failure of the save."""
NAMED = {"EIO": "disk.failed", "ENOSPC": "disk.full"}


@dataclass(frozen=True)
class Call:
    """The `number`-th call of its name in a save, and what it is about."""

    name: str
    number: int
    about: str


class Saves:
    """Second saves of one engine, each in a process of its own that strace holds."""

    def __init__(self, engine: str, room: Path) -> None:
        self.room, self.make = room, maker(engine, model(room, engine))

    def __call__(self, folder: Path, inject: str = "") -> tuple[int, str]:
        """(exit code or minus the signal, the kinds of errors that it told)."""
        (go, gone), (ready, told) = os.pipe(), os.pipe()
        process = os.fork()
        if process == 0:
            os.close(gone)
            self.child(folder, go, told)
        os.close(go)
        os.close(told)
        os.read(ready, 1)  # the first save is done
        os.close(ready)
        line = ["strace", "-f", "-q", "-o", str(beside(folder, "calls")), "-e", f"trace={CALLS}", "-p", str(process)]
        strace = subprocess.Popen([*line, *(["-e", f"inject={inject}"] if inject else [])], stderr=subprocess.PIPE)
        held(process)
        os.close(gone)  # the child reads the end of the pipe, and goes on
        _, status = os.waitpid(process, 0)
        strace.communicate()
        text = beside(folder, "txt")
        return os.waitstatus_to_exitcode(status), text.read_text() if text.exists() else ""

    def child(self, folder: Path, go: int, told: int) -> None:
        code = 1
        try:
            run = Run.create(folder, train_yml=b"", resolved={"schema": 1}, env={}, listed=False)
            engine, kept = self.make(), Checkpoints(run)
            kept.save(1, engine.save, State(step=1, token_budget=BUDGET).to_json())
            took_a_step(engine)
            os.write(told, b"1")
            os.read(go, 1)
            kept.save(2, engine.save, State(step=2, token_budget=BUDGET).to_json())
            code = 0
        except ResourceError as error:
            beside(folder, "txt").write_text(error.code)
            code = 4
        except BaseException:
            beside(folder, "txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)

    def calls(self) -> list[Call]:
        """What an undisturbed save asks of the kernel that changes the disk; files that are only read are not."""
        folder = self.room / "calm"
        code, told = self(folder)
        assert code == 0, told
        counts, found = Counter[str](), list[Call]()
        for line in beside(folder, "calls").read_text().splitlines():
            match = re.match(r"\d+\s+(\w+)\((.*)", line)
            if match is None:
                continue
            counts[match[1]] += 1
            if match[1] != "openat" or "O_CREAT" in match[2]:
                found.append(Call(match[1], counts[match[1]], match[2][:100]))
        return found

    def wrong(self, folder: Path, call: Call, fault: str) -> str:
        """Save with this fault; what is wrong then: the exit, or what a resume finds."""
        code, told = self(folder, f"{call.name}:{FAULTS[fault]}:when={call.number}")
        if fault == "killed":
            ended = code == -signal.SIGKILL
        else:
            quiet = fault == "EINTR" or call.name in PUTS_UP
            ended = (code, told) == (4, NAMED.get(fault)) or (quiet and code in (0, 4))
        if not ended:
            return f"exit {code}: {told[-500:]}"
        run, said = Run(folder), list[str]()
        checkpoint = small_run.found(run, said.append)
        saved = 2 if code == 0 else 1
        if checkpoint is None or checkpoint.step < saved or said:
            return f"exit {code}, found {checkpoint and checkpoint.step}, {said}"
        if Checkpoints(run).load_state(checkpoint)["step"] != checkpoint.step:
            return f"{checkpoint.name} holds another step"
        left = [path.name for path in folder.rglob(".*")]
        return f"left behind: {left}" if left else ""


def took_a_step(engine: Any) -> None:
    """So that the second checkpoint is not the first one."""
    plan = engine.prepare(small_run.examples(4))
    engine.step(plan, 0.1)


def held(process: int) -> None:
    """Wait until somebody traces the process."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if "TracerPid:\t0" not in Path(f"/proc/{process}/status").read_text():
            return
        time.sleep(0.002)
    raise TimeoutError("strace does not hold the process")


def hunt(engine: str, count: int, room: Path, seed: int = 0) -> dict[str, Any]:
    saves = Saves(engine, room)
    calls = saves.calls()
    pairs = [(call, fault) for call in calls for fault in FAULTS if fault != "EINTR" or call.name in INTERRUPTED]
    if count:
        pairs = random.Random(seed).sample(pairs, min(count, len(pairs)))
    wrong = list[str]()
    for number, (call, fault) in enumerate(pairs):
        text = saves.wrong(room / str(number), call, fault)
        wrong += [f"{fault} at {call}: {text}"] if text else []
    return {
        "engine": engine,
        "tried": len(pairs),
        "calls": dict(Counter(call.name for call in calls)),
        "faults": dict(Counter(fault for _, fault in pairs)),
        "wrong": wrong,
    }


def missing() -> str:
    """Why there can be no such faults here, or nothing."""
    return "" if shutil.which("strace") else "strace is not installed: faults of the kernel were NOT tried"


def main() -> None:
    if text := missing():
        print(json.dumps({"tried": 0, "skipped": text, "wrong": []}))
        return
    with in_memory() as place:
        found = hunt(sys.argv[1], int(sys.argv[2]), Path(place), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
