"""Files at an address, from a real HTTPS server on the loopback: fetched once, and never from inside the machine."""

from __future__ import annotations

import contextlib
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from truetune.data import downloads, remote, sources
from truetune.errors import InputError, ResourceError

PEM = Path(__file__).with_name("loopback.pem")
BODY = b'{"text": "one"}\n{"text": "two"}\n'


class Server(BaseHTTPRequestHandler):
    """What it serves at each path: status, headers, body."""

    protocol_version = "HTTP/1.1"
    pages: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str | None]]
    drips: set[str]

    def drip(self) -> None:
        """A byte at a time, of the head or of a body that is told to be long, until the other side has gone."""
        if self.path.startswith("/body"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x")
                time.sleep(0.01)

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["If-None-Match"]))
        if self.path.removesuffix(".jsonl") in self.drips:
            return self.drip()
        status, headers, body = self.pages.get(self.path, (404, {}, b""))
        if headers.get("ETag") and headers["ETag"] == self.headers["If-None-Match"]:
            status, body = 304, b""
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True
        return None

    def log_message(self, *_: object) -> None:
        pass


class Place:
    """The server, and how a test asks it."""

    def __init__(self, handler: type[Server], port: int) -> None:
        self.pages, self.asked, self.drips, self.port = handler.pages, handler.asked, handler.drips, port
        self.trust = ssl.create_default_context(cafile=str(PEM))

    def address(self, path: str) -> str:
        return f"https://localhost:{self.port}{path}"

    def fetch(self, path: str, allowed: Callable[[Any], bool] = lambda address: True, **more: Any) -> Path:
        return remote.fetch(self.address(path), allowed=allowed, trust=self.trust, **more)

    def code(self, path: str, **more: Any) -> str:
        with pytest.raises(InputError) as caught:
            self.fetch(path, **more)
        assert caught.value.hint and caught.value.exit_code == 3
        return caught.value.code


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    handler = type(
        "Handler", (Server,), {"pages": {"/rows.jsonl": (200, {"ETag": '"1"'}, BODY)}, "asked": [], "drips": set()}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Place(handler, server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once_and_again_when_it_changed(place: Place, home: Path) -> None:
    first = place.fetch("/rows.jsonl")
    assert first.read_bytes() == BODY and first.is_relative_to(home) and first.name.endswith("-rows.jsonl")
    assert place.fetch("/rows.jsonl") == first
    assert place.asked == [("/rows.jsonl", None), ("/rows.jsonl", '"1"')]
    place.pages["/rows.jsonl"] = (200, {"ETag": '"2"'}, BODY * 2)
    second = place.fetch("/rows.jsonl")
    assert second != first and second.read_bytes() == BODY * 2 and first.read_bytes() == BODY
    assert not list(first.parent.glob(".part-*"))


def test_versions_without_a_tag_are_told_by_their_content(place: Place) -> None:
    place.pages["/rows.jsonl"] = (200, {}, BODY)
    first = place.fetch("/rows.jsonl")
    assert place.fetch("/rows.jsonl") == first
    place.pages["/rows.jsonl"] = (200, {}, b"{}")
    assert place.fetch("/rows.jsonl") != first


def test_a_file_that_is_damaged_here_is_fetched_again(place: Place) -> None:
    path = place.fetch("/rows.jsonl")
    path.write_bytes(b"")
    assert place.fetch("/rows.jsonl").read_bytes() == BODY
    for note in path.parent.glob("*.json"):
        note.write_bytes(b"[]")
    assert place.fetch("/rows.jsonl") == path


def test_offline_takes_what_is_here_and_says_what_is_not(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.fetch("/rows.jsonl")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert place.fetch("/rows.jsonl") == path
    assert place.code("/other.jsonl") == "data.offline"
    assert len(place.asked) == 1


@pytest.mark.parametrize("path", ["/moved", "/rows.jsonl?key=a%20b", "/with space.jsonl", "/%C3%A4.jsonl"])
def test_addresses_as_people_copy_them(place: Place, path: str) -> None:
    place.pages["/moved"] = (302, {"Location": "/rows.jsonl"}, b"")
    place.pages["/rows.jsonl?key=a%20b"] = place.pages["/with%20space.jsonl"] = (200, {}, BODY)
    place.pages["/%C3%A4.jsonl"] = (200, {}, BODY)
    assert place.fetch(path).read_bytes() == BODY


def test_the_certificate_must_be_the_names(place: Place) -> None:
    with pytest.raises(InputError) as caught:
        remote.fetch(place.address("/rows.jsonl"), allowed=lambda address: True)
    assert caught.value.code == "data.unreachable" and "certificate" in caught.value.message
    with pytest.raises(InputError) as caught:
        remote.fetch(f"https://127.0.0.1:{place.port}/rows.jsonl", allowed=lambda address: True, trust=place.trust)
    assert caught.value.code == "data.unreachable"
    assert not place.asked


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "[::1]", "0x7f.1", "2130706433", "0.0.0.0", "[::ffff:10.0.0.1]"]
)
def test_nothing_inside_the_machine_is_asked(place: Place, host: str) -> None:
    with pytest.raises(InputError) as caught:
        remote.fetch(f"https://{host}:{place.port}/rows.jsonl", trust=place.trust)
    assert caught.value.code == "data.private_address" and not place.asked


def test_a_redirect_is_held_to_the_same(place: Place) -> None:
    """The name is allowed where it is asked first, and not where it leads to."""
    place.pages["/inside"] = (302, {"Location": f"https://127.0.0.1:{place.port}/rows.jsonl"}, b"")
    seen: list[str] = []

    def once(address: Any) -> bool:
        seen.append(str(address))
        return len(place.asked) == 0

    assert place.code("/inside", allowed=once) == "data.private_address"
    assert [path for path, _ in place.asked] == ["/inside"] and seen[-1] == "127.0.0.1"
    place.pages["/down"] = (302, {"Location": f"http://localhost:{place.port}/rows.jsonl"}, b"")
    assert place.code("/down") == "data.address"
    place.pages["/round"] = (302, {"Location": "/round"}, b"")
    assert place.code("/round") == "data.download"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("10.1.2.3", False),
        ("127.9.9.9", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("192.168.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, expected: bool) -> None:
    assert remote.public(ipaddress.ip_address(address)) is expected


@pytest.mark.parametrize(
    ("page", "code"),
    [
        ((404, {}, b""), "data.download"),
        ((500, {}, b""), "data.download"),
        ((200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"), "data.download"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(BODY)), "data.download"),
        ((200, {"Content-Length": "99"}, BODY), "data.download"),
        ((200, {"Content-Length": "9" * 12}, BODY), "data.download_size"),
        ((200, {"Content-Length": ""}, b"x" * 101), "data.download_size"),
        ((200, {"Content-Length": "", "Transfer-Encoding": "chunked"}, b"5\r\nab"), "data.unreachable"),
        ((200, {"Content-Length": "", "Transfer-Encoding": "chunked"}, b"zz\r\n"), "data.unreachable"),
    ],
)
def test_answers_that_are_no_file(place: Place, home: Path, page: Any, code: str) -> None:
    place.pages["/a.jsonl"] = page
    assert place.code("/a.jsonl", limit=100) == code
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("path", "patience"), [("/head", 0.3), ("/body", 0.3), ("/body", 0.0)])
def test_a_server_that_never_ends(place: Place, monkeypatch: pytest.MonkeyPatch, path: str, patience: float) -> None:
    """It sends a byte now and then, so no single wait is too long. The time may be over before it is connected."""
    monkeypatch.setattr(remote, "PATIENCE", patience)
    place.drips.add(path)
    with pytest.raises(InputError, match="takes longer than") as caught:
        place.fetch(path + ".jsonl")
    assert caught.value.code == "data.download"


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(InputError) as caught:
        remote.fetch("https://127.0.0.1:9/rows.jsonl", allowed=lambda address: True)
    assert caught.value.code == "data.unreachable" and "rows.jsonl" in caught.value.where
    with pytest.raises(InputError) as caught:
        remote.fetch("https://nobody.invalid/rows.jsonl?signature=secret")
    assert caught.value.code == "data.unreachable" and "secret" not in str(caught.value.to_json())


def test_no_place_to_keep_it(place: Place, home: Path) -> None:
    home.write_text("a file where the folder should be")
    with pytest.raises(ResourceError) as caught:
        place.fetch("/rows.jsonl")
    assert caught.value.code == "data.cache"


@pytest.mark.parametrize(
    "address", ["https://", "https:///rows.jsonl", "https://[::1/a.jsonl", "https://a:x/b.jsonl", "https://a b/c.jsonl"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InputError) as caught:
        remote.fetch(address)
    assert caught.value.code == "data.address"


def test_sources_name_the_address_without_its_query(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a server was asked for is found again offline, and its secrets stay out of what is shown."""
    place.pages["/rows.jsonl?signature=secret"] = (200, {}, BODY)
    path = place.fetch("/rows.jsonl?signature=secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = sources.find([place.address("/rows.jsonl?signature=secret")], tmp_path)
    assert (found.path, found.name, found.bytes) == (path, place.address("/rows.jsonl"), len(BODY))
    with pytest.raises(InputError) as caught:
        sources.find([place.address("/rows.xls")], tmp_path)
    assert caught.value.code == "data.unsupported_format"


def test_a_path_is_shown_as_it_is() -> None:
    assert remote.shown("data/part-?.jsonl") == "data/part-?.jsonl"
    assert remote.shown("https://me:word@example.org/a.jsonl?key=1#top") == "https://example.org/a.jsonl"


def test_what_a_broken_download_left_is_cleared(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place.fetch("/rows.jsonl").parent
    (folder / ".part-old").touch()
    place.pages["/rows.jsonl"] = (200, {}, BODY)
    place.fetch("/rows.jsonl")
    assert (folder / ".part-old").exists()
    monkeypatch.setattr(downloads, "ASIDE", -1)
    place.fetch("/rows.jsonl")
    assert not (folder / ".part-old").exists()


def test_a_name_is_resolved_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second answer could be another one than the one that was checked."""
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def counted(host: str, *more: Any, **named: Any) -> Any:
        asked.append(host)
        return resolve(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", counted)
    place.fetch("/rows.jsonl")
    assert asked.count("localhost") == 1
