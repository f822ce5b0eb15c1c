"""`ft models` as a person types it: in the background, killed on the way, gone on with, and with a secret in a file."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_hub
from safetensors.numpy import save
from small_hub import COMMIT, Hub

from truetune.models import source

pytestmark = pytest.mark.slow
STARTER = {path.name: path.read_bytes() for path in source.STARTER.iterdir() if path.suffix not in (".py", "")}
NAME, PRIVATE, TOKEN = "owner/starter", "owner/private", "hf_canary_of_a_file"
LARGE = STARTER | {"model.safetensors": save({"weight": np.arange(6_000_000, dtype=np.float32)})}
TEN = 10 * 2**20
"""Bytes that are written at once."""


def until(done: Callable[[], Any], seconds: float = 120) -> Any:
    """What `done` says when it says something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(0.1)
    raise AssertionError("it takes too long")


def state(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "home" / "models" / NAME.replace("/", "--") / "pull.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def received(hub: Hub) -> list[str]:
    """The parts of the weights that were asked for."""
    return [
        headers.get("range", "") for method, path, headers in hub.requests if "safetensors" in path if method == "GET"
    ]


def test_in_the_background_killed_and_gone_on_with(tmp_path: Path) -> None:
    with small_hub.running({NAME: LARGE}, slow={"model.safetensors": 0.005}) as hub:
        status, found, _ = small_hub.ft(tmp_path, hub.address, "models", "pull", NAME, "--background")
        assert status == 0 and found["commit"] == COMMIT and found["state"] == "running"
        assert small_hub.ft(tmp_path, hub.address, "models", "pull", NAME)[1]["error"]["code"] == "model.busy"
        seen = small_hub.ft(tmp_path, hub.address, "status")[1]["pulls"]
        assert [(each["name"], each["pid"]) for each in seen] == [(NAME, found["pid"])]
        until(lambda: state(tmp_path).get("bytes", 0) > TEN)
        os.kill(found["pid"], signal.SIGKILL)
        until(lambda: listed(tmp_path, hub)["pull"]["state"] == "interrupted")
        assert listed(tmp_path, hub)["partial"] == TEN
        hub.slow.clear()
        del hub.requests[:]
        status, found, _ = small_hub.ft(tmp_path, hub.address, "models", "pull", NAME)
        assert status == 0 and found["files"].keys() == STARTER.keys()
        assert received(hub) == [f"bytes={TEN}-"]
        assert (Path(found["folder"]) / "model.safetensors").read_bytes() == LARGE["model.safetensors"]
        assert listed(tmp_path, hub)["pull"]["state"] == "finished"


def listed(tmp_path: Path, hub: Hub) -> dict[str, Any]:
    (found,) = small_hub.ft(tmp_path, hub.address, "models", "list")[1]["models"]
    assert isinstance(found, dict)
    return found


def test_a_secret_of_a_file_opens_a_private_model_and_is_told_nowhere(tmp_path: Path) -> None:
    with small_hub.running({PRIVATE: STARTER}, private={PRIVATE: TOKEN}) as hub:
        status, found, _ = small_hub.ft(tmp_path, hub.address, "models", "pull", PRIVATE)
        assert (status, found["error"]["code"]) == (3, "model.missing")
        secrets = tmp_path / "home" / "passwords.yml"
        secrets.parent.mkdir(exist_ok=True)
        secrets.write_text(f"huggingface: {{token: {TOKEN}}}\n")
        secrets.chmod(0o600)
        status, found, told = small_hub.ft(tmp_path, hub.address, "models", "pull", PRIVATE, "-v")
        assert status == 0 and TOKEN not in json.dumps(found) + told
        kept = [path for path in tmp_path.rglob("*") if path.is_file() and path != secrets]
        assert kept and not [path for path in kept if TOKEN.encode() in path.read_bytes()]
