"""`ft shell` in a real terminal: typed, completed, stopped, left."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from real_terminal import Terminal

pytestmark = pytest.mark.slow


def test_a_session(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"It is {n}."}]}
            for n in range(24)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = {**os.environ, "TRUETUNE_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with Terminal(tmp_path, env, "shell", "--device", "cpu", columns=100) as screen:
        screen.wait("ft ›")
        screen.type("finetune starter rows.js\tsft training.max_steps=2 output.name=support evaluation.samples=0\n")
        screen.wait("2 steps")
        screen.wait("ft ›")
        screen.type("loa\tsup\t\n")
        screen.wait("support answers from now on")
        screen.wait("support ›")
        screen.type("test Say 3.\n")
        screen.wait("support ›")
        screen.type("switch nobody\n")
        screen.wait("error: ")
        screen.wait("support ›")
        screen.type("half a line\x03")
        screen.wait("support ›")
        screen.type("switch base\n")
        screen.wait("starter answers from now on")
        screen.wait("starter ›")
        screen.type("list adapters\n")
        screen.wait("support@1")
        screen.wait("starter ›")
        screen.type("\x04")
        assert screen.process.wait(60) == 0
    assert "finetune starter" in (tmp_path / "home" / "shell_history").read_text()
    assert (tmp_path / "home" / "shell_history").stat().st_mode & 0o077 == 0
