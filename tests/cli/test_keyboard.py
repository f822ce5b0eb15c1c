"""Ctrl-C at the prompt of a conversation, in the moment in which readline does not look for it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

readline = pytest.importorskip("readline", reason="this Python reads lines without it")

CODE = """
import ctypes, functools, readline, signal, sys
from truetune.cli.keyboard import heard
# Called behind the prompt, before the waiting for a key: nothing of Python runs in between that would see the signal.
readline.set_pre_input_hook(functools.partial(getattr(ctypes.CDLL(None), "raise"), int(signal.SIGINT)))
try:
    with heard():
        input("you › ")
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.skipif(not hasattr(readline, "set_pre_input_hook"), reason="libedit calls nothing before it waits")
def test_ctrl_c_between_the_prompt_and_the_waiting_is_heard() -> None:
    leader, follower = pty.openpty()
    try:
        with subprocess.Popen([sys.executable, "-c", CODE], stdin=follower, stdout=follower) as process:
            try:
                assert process.wait(timeout=300) == 7
            finally:
                process.kill()
    finally:
        os.close(leader)
        os.close(follower)
