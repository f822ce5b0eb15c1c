"""Two replicas on a real Ray: the whole of `every_replica.py`, where Ray is there: `pip install "truetune[ray]"`."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("every_replica.py")
LIMIT = 580
ISOLATED = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="RAY IS NOT INSTALLED: --engine ray is not tested here"
)
@pytest.mark.skipif(
    not ISOLATED, reason="NO NETWORK NAMESPACES: Ray would listen on all addresses, and is not tested here"
)
def test_two_replicas_are_as_one_server(tmp_path: Path) -> None:
    env = os.environ | {"HOME": str(tmp_path), "TMPDIR": "/tmp"}
    line = [sys.executable, str(SCRIPT)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err[-5000:]
    found = json.loads(out)
    assert found["answers_equal"]
    assert len(found["ray"]["answers_of_replicas"]) == 2
    assert min(found["ray"]["answers_of_replicas"]) > 0
    assert len(found["listening"]) == 1
    assert found["killed"]["answers"]["right"] > 0
    assert not (tmp_path / ".ray").exists()
