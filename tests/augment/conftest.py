"""A real server on this machine that speaks OpenAI's protocol, as well or as badly as a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.augment.methods import Draft
from truetune.augment.seeds import Seed
from truetune.data.rows import Conversation, Turn

Say = Callable[[str], str]


@dataclass
class Reply:
    """One answer of the server; `drip` are the seconds between its bytes, `wait` those before it says anything."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    drip: float = 0.0
    torn: bool = False


def completion(text: str | None, reason: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return orjson.dumps({"object": "chat.completion", "choices": [choice]})


class Server:
    """`say` makes answers of the last message; the replies in `first` are given before."""

    def __init__(self) -> None:
        self.say: Say = lambda prompt: "in other words: " + prompt.split("\n\n")[-1]
        self.first: list[Reply] = []
        self.seen: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def reply(self, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        with self.lock:
            self.seen.append((headers, body))
            if self.first:
                return self.first.pop(0)
        return Reply(body=completion(self.say(body["messages"][-1]["content"])))


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found = server.reply({key.lower(): value for key, value in self.headers.items()}, orjson.loads(body))
            with suppress(OSError):  # whoever asked has gone
                self.answer(found)

        def answer(self, reply: Reply) -> None:
            time.sleep(reply.wait)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body) + (100 if reply.torn else 0)))
            self.end_headers()
            for piece in [reply.body] if not reply.drip else [reply.body[at : at + 1] for at in range(len(reply.body))]:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(reply.drip)
            if reply.torn:
                self.close_connection = True

        def log_message(self, format: str, *values: Any) -> None:
            """Nothing on stderr."""

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def other(server: Server) -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "support.jsonl"
    found = [
        ("How do I return a bike?", "Within 45 days."),
        ("When does the shop open?", "At 9."),
        ("Do you repair brakes?", "Yes, while you wait."),
        ("Where is my order 1234?", "Look under Orders."),
    ]
    path.write_bytes(b"".join(orjson.dumps({"prompt": one, "completion": two}) + b"\n" for one, two in found))
    return path


@pytest.fixture
def seed() -> Callable[..., Seed]:
    def make(question: str = "How do I return a bike?", answer: str = "Within 45 days.", *before: Turn) -> Seed:
        turns = (*before, Turn("user", question), Turn("assistant", answer))
        return Seed("support.jsonl:1", 0, Conversation(turns))

    return make


@pytest.fixture
def draft(seed: Callable[..., Seed]) -> Callable[..., Draft]:
    def make(new: str, question: str = "How do I return a bike?") -> Draft:
        one = seed(question)
        return Draft((one,), one.asked(new), new)

    return make


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def done() -> Callable[..., bytes]:
    return completion
