"""What a hostile folder may not make us do, watched by a hook of Python's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

WATCHED = {
    "socket.connect",
    "socket.getaddrinfo",
    "socket.sendto",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "pickle.find_class",
}
UNOPENED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".msgpack", ".h5", ".py", ".gguf", ".metadata")
seen: list[str] = []
watching: list[Path] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """A hook cannot be taken off, so it looks only while a test runs."""
    if not watching:
        return
    if event in WATCHED:
        seen.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[0], str | bytes):
        name = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace")
        if name.startswith(str(watching[0])) and name.endswith(UNOPENED):
            seen.append(f"{event} {name}")


sys.addaudithook(watch)
