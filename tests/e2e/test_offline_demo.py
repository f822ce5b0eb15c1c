"""The demo where there is no network at all, and a training that is asked at every connection: nothing calls out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_ft import LIMIT, Ft

pytestmark = pytest.mark.slow

ALONE = ["unshare", "-rn"]
"""A network namespace of its own: a loopback device that is down, and nothing else."""
QUICK = ["--set", "training.max_steps=3", "--set", "evaluation.samples=1", "--set", "generation.max_new_tokens=8"]
WATCHED = """
import sys
calls = open(sys.argv.pop(1), "a", buffering=1)
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        host = address[0] if isinstance(address, tuple) else address
        if str(host) not in ("127.0.0.1", "::1", "localhost"):
            calls.write(f"{event} {address}\\n")
sys.addaudithook(watch)
from truetune.cli import main
sys.exit(main())
"""


def alone() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not alone(), reason="the system does not allow a network namespace of one's own (unshare -rn)")
def test_the_demo_without_a_network(ft: Ft) -> None:
    line = [*ALONE, sys.executable, "-m", "truetune", "demo", *QUICK]
    done = subprocess.run(line, cwd=ft.folder, env=ft.env, text=True, capture_output=True, timeout=2 * LIMIT)
    assert done.returncode == 0, done.stderr
    assert (ft.run() / "adapter" / "adapter_model.safetensors").is_file()
    proven = subprocess.run(
        [*ALONE, sys.executable, "-m", "truetune", "receipt", "verify", ft.run().name],
        cwd=ft.folder,
        env=ft.env,
        capture_output=True,
        timeout=LIMIT,
    )
    assert proven.returncode == 0


@pytest.mark.skipif(not alone(), reason="the system does not allow a network namespace of one's own (unshare -rn)")
def test_the_namespace_has_no_network(tmp_path: Path) -> None:
    """The proof above rests on this."""
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    done = subprocess.run([*ALONE, sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1 and "unreachable" in done.stderr


@pytest.mark.parametrize("offline", ["1", "0"])
def test_a_training_connects_to_nothing(ft: Ft, offline: str) -> None:
    """Also where the network is allowed: the model is a folder, and nobody is told."""
    ft.rows(24)
    ft.config(training={"max_steps": 2})
    calls = ft.folder / "calls"
    calls.touch()
    line = [sys.executable, "-c", WATCHED, str(calls), "train"]
    done = subprocess.run(
        line, cwd=ft.folder, env=ft.env | {"HF_HUB_OFFLINE": offline}, text=True, capture_output=True, timeout=2 * LIMIT
    )
    assert done.returncode == 0, done.stderr
    assert calls.read_text() == ""


def test_the_watch_sees_a_connection(ft: Ft) -> None:
    """The test above can fail."""
    calls = ft.folder / "calls"
    call = (
        "import socket, contextlib\nwith contextlib.suppress(OSError): socket.create_connection(('192.0.2.1', 9), 0.1)"
    )
    code = WATCHED.partition("from truetune")[0] + call
    subprocess.run([sys.executable, "-c", code, str(calls)], timeout=LIMIT)
    assert "192.0.2.1" in calls.read_text()
