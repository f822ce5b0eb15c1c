"""A server of another make as a process beside this one: started, waited for, ended with all that it has started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from truetune import paths
from truetune.errors import Forced, ResourceError
from truetune.serve import client

PAUSE = 0.1
"""Seconds between two looks at the process."""
DEATH = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(line: Sequence[str], settings: Mapping[str, str], url: str, *, grace: float, ready: Callable[[], None]) -> None:
    """Run a server until a first signal, which it has `grace` seconds to follow. `settings` stand in its environment
    alone. What it says goes to stderr.

    Raises ResourceError `serve.ended` where it ends by itself, Forced after a second signal.
    """
    with heard() as asked:
        process = started(line, settings)
        try:
            told = False
            while not asked and process.poll() is None:
                if not told and client.healthy(url):
                    told = True
                    ready()
                time.sleep(PAUSE)
            if not asked:
                raise ended(line[0], process.returncode, told=told)
            stop(process, grace, asked)
        finally:
            kill(process)
    if len(asked) > 1:
        raise Forced("stopped at once", code="stopped.forced", hint="Answers that were being written are lost.")


def started(line: Sequence[str], settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """As the head of a group of its own, so that all of it can be ended, and Ctrl-C reaches only us."""
    return subprocess.Popen(
        line,
        env=paths.environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(DEATH, signal.SIGTERM)


def stop(process: subprocess.Popen[bytes], grace: float, asked: Sequence[int]) -> None:
    """Ask it to end; a second signal, or the end of the grace, does not wait for it."""
    process.terminate()
    end = time.monotonic() + grace
    while process.poll() is None and time.monotonic() < end and len(asked) < 2:
        time.sleep(PAUSE)


def kill(process: subprocess.Popen[bytes]) -> None:
    """What is left of the group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def heard() -> Iterator[list[int]]:
    """The signals that came meanwhile, in the place of what they would do."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def hear(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ended(program: str, code: int, *, told: bool) -> ResourceError:
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    return ResourceError(
        f"`{program}` ended {how}{'' if told else ' before it took requests'}",
        code="serve.ended",
        where="--engine vllm",
        hint="What it says of it stands above.",
    )
