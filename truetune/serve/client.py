"""Tells a running server something: one request to an address that the user named, and to no other."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any

from truetune.config.secrets import Secret
from truetune.errors import InputError, UsageError

SERVER = re.compile(r"(?:(https?)://)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(?::(\d{1,5}))?/?")
PATIENCE = 60.0
"""Seconds for an answer."""
LARGEST = 2**20
"""Bytes of an answer."""
OURS = ("127.0.0.1", "localhost", "[::1]")


def post(server: str, path: str, body: dict[str, Any], key: Secret | None) -> str:
    """What the server says. Raises UsageError `serve.server`, InputError `serve.unreachable`, `serve.refused`."""
    connection = connected(server, key)
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key.reveal()}"
    try:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        status, text = response.status, response.read(LARGEST).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"the server can't be reached: {reason}",
            code="serve.unreachable",
            where=server,
            hint="Is it running? `ft serve` prints its address.",
        ) from None
    finally:
        connection.close()
    if status != 200:
        raise refused(server, status, text)
    return text


def healthy(server: str) -> bool:
    """Whether a server on this machine takes requests."""
    connection = connected(server, None)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def connected(server: str, key: Secret | None) -> http.client.HTTPConnection:
    """A key goes to this machine, or by https."""
    found = SERVER.fullmatch(server)
    if not found:
        raise UsageError(
            f"`{server[:80]}` is no address of a server",
            code="serve.server",
            where="--server",
            hint="Such as http://127.0.0.1:8000.",
        )
    scheme, host, port = found.groups()
    if key and scheme != "https" and host not in OURS:
        raise UsageError(
            "the key would go over the network in the clear",
            code="serve.server",
            where=server,
            hint="Name an https address, or ask on the server's own machine.",
        )
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    return kind(host.strip("[]"), int(port) if port else None, timeout=PATIENCE)


def refused(server: str, status: int, text: str) -> InputError:
    try:
        said = str(json.loads(text)["error"]["message"])[:500]
    except (ValueError, LookupError, TypeError):
        said = f"it answers with status {status}"
    hint = "Give the server's key: --key, or TRUETUNE_API_KEY." if status == 401 else "Change that, and ask again."
    return InputError(f"the server refuses: {said}", code="serve.refused", where=server, hint=hint)
