"""Downloads, against a small hub of our own on the loopback: pinned, filtered, refused before they are paid for."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

COMMIT = "c0ffee" + "0" * 34
WEIGHTS = save({"model.embed_tokens.weight": np.ones((16, 8), np.float32)})
CONFIG = json.dumps({"model_type": "llama", "hidden_size": 8}).encode()
REPOS = {
    "owner/small": {
        "config.json": CONFIG,
        "model.safetensors": WEIGHTS,
        "tokenizer.json": b"{}",
        "consolidated.safetensors": WEIGHTS,
        "modeling.py": b"raise SystemExit",
        "onnx/model.json": b"{}",
        "pytorch_model.bin": b"pickle",
    },
    "owner/pickled": {"config.json": CONFIG, "pytorch_model.bin": b"pickle"},
    "owner/ggufs": {"model-q4.gguf": b"GGUF"},
    "owner/gated": {},
}
ASK = """
import json, sys
from pathlib import Path
from truetune.errors import TrueTuneError
from truetune.models import source
try:
    found = source.resolve(sys.argv[1], folder=Path(sys.argv[2]), revision=sys.argv[3] or None)
    print(json.dumps([found.kind, found.revision, sorted(path.name for path in found.folder.rglob("*"))]))
except TrueTuneError as error:
    print(json.dumps(error.finding.code))
"""


class Hub(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        path = self.path.split("?")[0]
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if name not in REPOS:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if name == "owner/gated":
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if "/revision/" in path and path.rpartition("/")[2] not in {"main", COMMIT}:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = REPOS[name]
        if "/resolve/" in path:
            body = files[path.partition(f"/resolve/{COMMIT}/")[2]]
            return self.answer(200, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'})
        if "/tree/" in path:
            listing = [{"type": "file", "path": file, "size": len(body), "oid": "0"} for file, body in files.items()]
            return self.answer(200, json.dumps(listing).encode(), {})
        siblings = [{"rfilename": file} for file in files]
        return self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), {})

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of the hub, and the paths that it has been asked for."""
    handler = type("Handler", (Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


def ask(tmp_path: Path, address: str, name: str, revision: str = "", **extra: str) -> object:
    """Resolve in a process of its own: huggingface_hub reads its settings when it is imported."""
    keep = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    keep.pop("HF_HUB_OFFLINE", None)
    settings = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", ASK, name, str(tmp_path), revision]
    done = subprocess.run(command, env=keep | settings | extra, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_download_is_pinned_and_takes_only_what_is_needed(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    address, asked = hub
    expected = ["hub", COMMIT, ["config.json", "model.safetensors", "tokenizer.json"]]
    assert ask(tmp_path, address, "owner/small") == expected
    assert not any(word in path for path in asked for word in ("modeling.py", ".bin", "consolidated", "onnx/"))
    del asked[:]
    assert ask(tmp_path, address, "owner/small", HF_HUB_OFFLINE="1") == expected
    assert ask(tmp_path, address, "owner/small", COMMIT) == expected
    assert asked == []


@pytest.mark.parametrize(
    ("name", "revision", "code"),
    [
        ("owner/pickled", "", "model.pickle_weights"),
        ("owner/ggufs", "", "model.gguf"),
        ("owner/none", "", "model.missing"),
        ("owner/gated", "", "model.gated"),
        ("owner/small", "nope", "model.no_revision"),
    ],
)
def test_refused_before_anything_is_loaded(
    name: str, revision: str, code: str, tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    address, asked = hub
    assert ask(tmp_path, address, name, revision) == code
    assert not any("/resolve/" in path for path in asked)


def test_no_hub_within_reach(tmp_path: Path) -> None:
    assert ask(tmp_path, "http://127.0.0.1:9", "owner/small") == "model.unreachable"


def test_offline_opens_no_socket(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    address, asked = hub
    assert ask(tmp_path, address, "owner/small", HF_HUB_OFFLINE="1") == "model.offline"
    assert asked == []
