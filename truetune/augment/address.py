"""Where an endpoint may be, and what is said to it before the first question."""

from __future__ import annotations

import ipaddress
import re

import httpx2

from truetune import paths
from truetune.config.secrets import Secret
from truetune.errors import InputError, UsageError

TAIL = "/chat/completions"
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
HOST = re.compile(rf"{LABEL}(?:\.{LABEL})*\.?|[0-9a-f]*:[0-9a-f:.]*", re.IGNORECASE)
"""A name that can be looked up, or an address of either kind."""
MOST_PORT = 2**16 - 1
PRINTABLE = re.compile(r"[\x21-\x7e]+")


def checked(address: str) -> tuple[httpx2.URL, bool]:
    """The whole address that is asked, and whether it is this machine. Raises UsageError, InputError."""
    try:
        base = httpx2.URL(address)
    except (httpx2.InvalidURL, ValueError):
        raise bad("this is no address") from None
    if not HOST.fullmatch(base.raw_host.decode("ascii")) or (base.port or 1) > MOST_PORT:
        raise bad("this names no host to ask")
    local = loopback(base.host)
    if base.scheme != "https" and not (base.scheme == "http" and local):
        raise bad("an endpoint is asked by https, so that nobody reads along; by http only on this machine")
    if base.userinfo or base.query or base.fragment:
        raise bad("an address is https://HOST/PATH, without a name, a password or a question in it")
    if paths.offline() and not local:
        raise InputError(
            "HF_HUB_OFFLINE forbids the network, and this endpoint is not on this machine",
            code="augment.offline",
            where=base.host,
            hint="Name a model of this machine instead, or unset HF_HUB_OFFLINE.",
        )
    path = base.path.rstrip("/")
    return base.copy_with(path=path if path.endswith(TAIL) else path + TAIL), local


def loopback(host: str) -> bool:
    """Whether a host is this very machine; names other than `localhost` are not believed."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bad(message: str) -> UsageError:
    """Without the address: somebody may have written a password into it."""
    hint = "Such as https://api.example.com/v1, or http://127.0.0.1:8000/v1."
    return UsageError(message, code="augment.endpoint", where="endpoint", hint=hint)


def headers(key: Secret | None) -> dict[str, str]:
    """`identity`: what is not packed cannot grow while it is unpacked."""
    found = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
    if key is None:
        return found
    if not PRINTABLE.fullmatch(key.reveal()):
        raise UsageError(
            "the key has characters that no key has, such as spaces",
            code="augment.key",
            where="passwords.yml",
            hint="Copy it again, on one line.",
        )
    return found | {"authorization": f"Bearer {key.reveal()}"}
