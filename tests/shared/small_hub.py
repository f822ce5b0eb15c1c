"""A small hub of our own on the loopback, for models and data sets: what it holds, and what it has been asked for."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" + "0" * 34
GATED = "owner/gated"
Repos = Mapping[str, Mapping[str, bytes]]


class Handler(BaseHTTPRequestHandler):
    repos: Repos
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.split("?")[0]
        name = "/".join([part for part in path.split("/") if part not in ("", "api", "models", "datasets")][:2])
        if name == GATED:
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if name not in self.repos:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if "/revision/" in path and path.rpartition("/")[2] not in {"main", COMMIT}:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = self.repos[name]
        if "/resolve/" in path:
            body = files[path.partition(f"/resolve/{COMMIT}/")[2]]
            return self.answer(200, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'})
        if "/tree/" in path:
            listing = [{"type": "file", "path": file, "size": len(body), "oid": "0"} for file, body in files.items()]
            return self.answer(200, json.dumps(listing).encode(), {})
        siblings = [{"rfilename": file, "size": len(body)} for file, body in files.items()]
        return self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), {})

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(repos: Repos) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub with these repositories (name -> file -> content), and the paths that it is asked for."""
    handler = type("Handler", (Handler,), {"repos": repos, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(code: str, tmp_path: Path, address: str, *args: str, **environment: str) -> Any:
    """What a program says as JSON, in a process of its own: huggingface_hub reads its settings when it is imported."""
    keep = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    keep.pop("HF_HUB_OFFLINE", None)
    settings = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, env=keep | settings | environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
