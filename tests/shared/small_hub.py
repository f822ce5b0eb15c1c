"""A small hub of our own on the loopback, for models and data sets: what it holds, what it has been asked for, and the
ways in which it can be a bad one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

COMMIT = "c0ffee" + "0" * 34
GATED = "owner/gated"
Repos = Mapping[str, Mapping[str, bytes]]
LARGE = (".safetensors", ".gguf", ".bin")
"""Kept with Git LFS: known by their sha256, and answered from elsewhere where the hub leads there."""


@dataclass
class Hub:
    """The state of one server."""

    repos: dict[str, dict[str, bytes]]
    address: str = ""
    asked: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path, headers in small letters."""
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the search says of a model beside its name."""
    private: dict[str, str] = field(default_factory=dict)
    """Model -> the token that it wants."""
    sent: dict[str, bytes] = field(default_factory=dict)
    """File -> what is sent in place of the content that is announced."""
    cut: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which the connection breaks off; then the file fails until this is cleared."""
    slow: dict[str, float] = field(default_factory=dict)
    """File -> seconds between two pieces of it."""
    endless: set[str] = field(default_factory=set)
    """Files that never end."""
    whole: bool = False
    """Whether it ignores that only a part was asked for."""
    elsewhere: str = ""
    """The address of the server that large files are at."""
    siblings: list[dict[str, Any]] | None = None
    """A list of files in place of the true one."""
    commit: Any = COMMIT
    etag: str = ""
    commits: list[dict[str, Any]] = field(default_factory=list)
    """What was pushed: {repo, message, files: {path: content}}."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    failing: bool = False
    """Whether a push breaks off at its commit."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def entry(name: str, body: bytes) -> dict[str, Any]:
    """A file as the hub's API describes it."""
    found: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": git(body)}
    if name.endswith(LARGE):
        found["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
    return found


def git(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append(self.path)
        self.note()
        path = urlsplit(self.path).path
        if path == "/api/models":
            return self.search(parse_qs(urlsplit(self.path).query))
        name = "/".join([part for part in path.split("/") if part not in ("", "api", "models", "datasets")][:2])
        if name == GATED:
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if name not in hub.repos or hub.private.get(name, self.token()) != self.token():
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if "/revision/" in path and path.rpartition("/")[2] not in {"main", hub.commit}:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = hub.repos[name]
        if "/resolve/" in path:
            return self.file(path.partition("/resolve/")[2].partition("/")[2], files)
        if "/tree/" in path:
            listing = [{"type": "file", "path": file, "size": len(body), "oid": "0"} for file, body in files.items()]
            return self.answer(200, json.dumps(listing).encode(), {})
        siblings = [entry(*pair) for pair in files.items()] if hub.siblings is None else hub.siblings
        body = {"id": name, "sha": hub.commit, "siblings": siblings} | hub.about.get(name, {})
        return self.answer(200, json.dumps(body).encode(), {})

    do_HEAD = do_GET

    def note(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.hub.requests.append((self.command, self.path, headers))

    def token(self) -> str:
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    def file(self, name: str, files: Mapping[str, bytes]) -> None:
        hub, body = self.hub, files.get(name)
        if body is None:
            return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        tag = hashlib.sha256(body).hexdigest() if name.endswith(LARGE) else git(body)
        headers = {"X-Repo-Commit": str(hub.commit), "ETag": f'"{hub.etag or tag}"'}
        if hub.elsewhere and name.endswith(LARGE):
            place = f"{hub.elsewhere}/x/y/resolve/z/{name}"
            linked = {"Location": place, "X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(body))}
            return self.answer(302, b"", headers | linked)
        return self.part(name, hub.sent.get(name, body), headers)

    def part(self, name: str, body: bytes, headers: dict[str, str]) -> None:
        """The file, or what was asked for of it."""
        hub, status = self.hub, 200
        asked = self.headers.get("Range", "")
        if asked and not hub.whole:
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[begin:]
        if self.command == "GET" and name in hub.endless:
            return self.flood(headers)
        if self.command == "GET" and name in hub.cut:
            return self.broken(name, status, body, headers)
        return self.answer(status, body, headers, pause=hub.slow.get(name, 0.0))

    def flood(self, headers: Mapping[str, str]) -> None:
        """Without a length, until whoever asked has gone."""
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while not self.server.stopping.is_set():  # type: ignore[attr-defined]
                self.wfile.write(bytes(2**16))

    def broken(self, name: str, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """The beginning of a file, and at the next request nothing."""
        length, self.hub.cut[name] = self.hub.cut[name], 0
        if not length:
            return self.answer(500, b"", {})
        self.head(status, len(body), headers)
        self.wfile.write(body[:length])
        self.close_connection = True
        return None

    def search(self, query: Mapping[str, list[str]]) -> None:
        """As the hub's: part of the name, task, tags, parameters; most downloads first."""
        first = {key: values[0] for key, values in query.items()}
        found = [{"id": name} | self.hub.about.get(name, {}) for name in self.hub.repos]
        found = [each for each in found if first.get("search", "").lower() in each["id"].lower()]
        found = [each for each in found if first.get("pipeline_tag") in (None, each.get("pipeline_tag"))]
        wanted = set(query.get("filter", ()))
        found = [each for each in found if wanted <= set(each.get("tags", ()))]
        found.sort(key=lambda each: -each.get("downloads", 0))
        self.answer(200, json.dumps(found[: int(first.get("limit", 1000))]).encode(), {})

    def do_POST(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        hub.asked.append(self.path)
        self.note()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.token() or self.token() == "wrong":
            return self.answer(401, b"{}", {})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        name = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2]).removesuffix(".git")
        if path.endswith("/info/lfs/objects/batch"):
            return self.batch(json.loads(body))
        if "/preupload/" in path:
            files = [
                {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular"}
                | {"shouldIgnore": False, "oid": None}
                for each in json.loads(body)["files"]
            ]
            return self.answer(200, json.dumps({"files": files}).encode(), {})
        if "/commit/" in path and not hub.failing:
            return self.take(name, body)
        return self.answer(500 if hub.failing else 404, b"{}", {})

    def create(self, wanted: dict[str, Any]) -> None:
        name = "/".join(filter(None, (wanted.get("organization") or "me", wanted["name"])))
        with self.hub.lock:
            there = name in self.hub.repos
            self.hub.repos.setdefault(name, {})
        if not there:
            self.hub.about[name] = {"private": wanted.get("visibility") == "private"}
        url = json.dumps({"url": f"{self.hub.address}/{name}", "id": name, "name": name}).encode()
        self.answer(409 if there else 200, url, {})

    def validate(self, card: str) -> None:
        """As the hub does before a commit: front matter in YAML, with a licence in small letters."""
        front = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else None
        fine = isinstance(front, dict) and all(isinstance(front.get(key, ""), str) for key in ("license", "base_model"))
        errors = [] if fine else [{"message": "the front matter is not valid"}]
        self.answer(200 if fine else 400, json.dumps({"errors": errors, "warnings": []}).encode(), {})

    def batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            {"oid": each["oid"], "size": each["size"]}
            | {"actions": {"upload": {"href": f"{self.hub.address}/upload/{each['oid']}"}}}
            for each in wanted["objects"]
        ]
        self.answer(200, json.dumps({"transfer": "basic", "objects": objects}).encode(), {})

    def do_PUT(self) -> None:
        self.note()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.uploads[self.path.rpartition("/")[2]] = body
        self.answer(200, b"", {})

    def take(self, name: str, body: bytes) -> None:
        """A commit: lines of JSON, small files in them, large ones by what was uploaded."""
        made: dict[str, Any] = {"repo": name, "files": {}}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                made["message"] = value["summary"]
            elif line["key"] == "file":
                made["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                made["files"][value["path"]] = self.hub.uploads[value["oid"]]
        self.hub.commits.append(made)
        self.hub.repos[name] |= made["files"]
        oid = f"{len(self.hub.commits):040x}"
        answer = {"commitOid": oid, "commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "success": True}
        self.answer(200, json.dumps(answer).encode(), {})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str], pause: float = 0.0) -> None:
        self.head(status, len(body), headers)
        if self.command == "HEAD":
            return
        size = 2**14 if pause else max(1, len(body))
        for begin in range(0, len(body), size):
            self.wfile.write(body[begin : begin + size])
            if pause:
                self.server.stopping.wait(pause)  # type: ignore[attr-defined]

    def head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Whoever asked has gone."""


@contextmanager
def running(repos: Repos, **how: Any) -> Iterator[Hub]:
    """A hub with these repositories (name -> file -> content), and other fields of `Hub`."""
    hub = Hub({name: dict(files) for name, files in repos.items()}, **how)
    server = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    server.stopping = threading.Event()  # type: ignore[attr-defined]
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.stopping.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(repos: Repos) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub with these repositories, and the paths that it is asked for."""
    with running(repos) as hub:
        yield hub.address, hub.asked


def here(hub: Hub, tmp_path: Path, monkeypatch: Any) -> None:
    """From now on this process knows this hub alone, with a cache and a home of its own. What huggingface_hub has read
    from the environment when it was imported is set anew."""
    from huggingface_hub import close_session, constants

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    close_session()
    values = {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "DOWNLOAD_CHUNK_SIZE": 2**14,  # what is written at once: 10 MB, and no file of a test is as large
        "HF_TOKEN_PATH": str(tmp_path / "hf" / "token"),
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def settings(tmp_path: Path, address: str, **environment: str) -> dict[str, str]:
    """The environment of a program that knows this hub alone, with a cache and a home of its own."""
    keep = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        keep.pop(name, None)
    ours = {
        "HF_ENDPOINT": address,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "TRUETUNE_HOME": str(tmp_path / "home"),
    }
    return keep | ours | environment


def run(code: str, tmp_path: Path, address: str, *args: str, **environment: str) -> Any:
    """What a program says as JSON, in a process of its own: huggingface_hub reads its settings when it is imported."""
    command = [sys.executable, "-c", code, *args]
    env = settings(tmp_path, address, **environment)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ft(tmp_path: Path, address: str, *args: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    """The exit code of `ft … --json`, its document, and what stands on stderr."""
    command = [sys.executable, "-m", "truetune", *args, "--json"]
    env = settings(tmp_path, address, **environment)
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr
