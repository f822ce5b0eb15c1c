"""Files at an `https://` address that the user wrote: fetched once, kept, and asked for again only if they changed.

An address must not lead into the machine or the network it stands in (server-side request forgery, CWE-918): the name
is resolved here, every address it resolves to must be a public one, and the connection is made to the address that was
checked, not to the name, which could resolve to another one a moment later. Every redirect is held to the same.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from truetune import paths
from truetune.data.downloads import Store
from truetune.errors import InputError, ResourceError, TrueTuneError

LIMIT = 2**30
"""Most bytes of a file; a larger one is for the user to download."""
REDIRECTS = 5
SILENCE = 30.0
"""Seconds without a byte after which a server is given up."""
PATIENCE = 3600.0
"""Seconds that a whole download may take."""
BLOCK = 2**18
MOVED = (301, 302, 303, 307, 308)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG, errno.ENOTDIR}
"""What can go wrong on this side only."""
SAFE = "/%:@!$&'()*+,;=~-._"
"""What stands in an address as it is."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Check = Callable[[Address], bool]


def public(address: Address) -> bool:
    """Whether an address belongs to the internet, and so do those that it stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def fetch(
    address: str, *, allowed: Check = public, trust: ssl.SSLContext | None = None, limit: int | None = None
) -> Path:
    """The file at the address, in the cache under home; its name ends as the address does.

    `allowed` and `trust` are for tests. `limit` is in bytes, `LIMIT` unless told. Raises InputError: `data.address`,
    `data.private_address`, `data.offline`, `data.unreachable`, `data.download`, `data.download_size`; ResourceError
    `data.cache`.
    """
    parts = _checked(address)
    store = Store(address, Path(parts.path).name)
    if paths.offline():
        return store.latest() or _raise(_offline(address))
    with _explained(address), _answered(parts, store.etag, allowed, trust or ssl.create_default_context()) as answer:
        if answer.status == 304:
            return store.latest() or _raise(_bad(address, "the server says that it is unchanged, and it is not here"))
        blocks = _body(answer, address, LIMIT if limit is None else limit)
        return store.keep(blocks, shown(address), answer.getheader("ETag", ""))


def shown(address: str) -> str:
    """The address as messages and receipts have it: without its query, which may hold a signature. A path as it is."""
    if "://" not in address:
        return address
    scheme, mark, rest = address.partition("?")[0].partition("#")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


class _Connection(http.client.HTTPSConnection):
    """Connects to addresses that were checked; the certificate must still be the name's."""

    def __init__(self, host: str, port: int, addresses: list[str], trust: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=SILENCE, context=trust)
        self._addresses, self._trust = addresses, trust
        self.late = False

    def connect(self) -> None:
        failed: OSError | None = None
        for address in self._addresses:
            try:
                plain = socket.create_connection((address, self.port), SILENCE)
                self.sock = self._trust.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
                self.sock.do_handshake()
                if self.late:  # `abort` may have come before there was anything to end
                    raise TimeoutError("connected too late")
                return
            except OSError as error:
                failed = error
        raise failed or OSError("the name has no address")

    def abort(self) -> None:
        """End it from another thread, whatever it waits for."""
        self.late = True
        if self.sock is not None:
            with contextlib.suppress(OSError):  # it is not connected any more
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


def _checked(address: str) -> SplitResult:
    """The parts of an address that may be fetched. Raises InputError (`data.address`)."""
    try:
        parts = urlsplit(address.partition("#")[0])
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong(address, f"this is no address: {error}") from error
    if parts.scheme.lower() != "https":
        raise _wrong(address, "only https:// addresses are fetched")
    if not host or " " in parts.netloc or any(ord(sign) < 32 for sign in address):
        raise _wrong(address, "this is no address")
    if parts.username is not None or parts.password is not None:
        raise _wrong(address, "an address with a name and password is not fetched: it would stand in every receipt")
    return parts


@contextmanager
def _answered(
    parts: SplitResult, etag: str, allowed: Check, trust: ssl.SSLContext
) -> Iterator[http.client.HTTPResponse]:
    """The server's answer, after redirects."""
    for _ in range(REDIRECTS + 1):
        address = parts.geturl()
        host, port = str(parts.hostname), parts.port or 443
        connection = _Connection(host, port, _resolved(address, host, port, allowed), trust)
        with contextlib.closing(connection), _hurried(connection, address):
            connection.request("GET", _target(parts), headers=_headers(etag))
            answer = connection.getresponse()
            if answer.status not in MOVED:
                _check_status(answer, address)
                yield answer
                return
            parts = _checked(urljoin(address, answer.getheader("Location", "")))
    raise _bad(address, f"it leads from one address to the next more than {REDIRECTS} times")


@contextmanager
def _hurried(connection: _Connection, address: str) -> Iterator[None]:
    """Ends a connection that takes longer than `PATIENCE`: a server may send a byte now and then, for ever."""
    timer = threading.Timer(PATIENCE, connection.abort)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException, InputError) as error:
        if connection.late:
            raise _bad(address, f"the download takes longer than {PATIENCE / 60:.0f} minutes") from error
        raise
    finally:
        timer.cancel()


def _resolved(address: str, host: str, port: int, allowed: Check) -> list[str]:
    """What a name resolves to. Raises InputError (`data.private_address`) if one of these is not allowed."""
    found = list(dict.fromkeys(entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    for entry in map(str, found):
        if not allowed(ipaddress.ip_address(entry.partition("%")[0])):
            raise InputError(
                f"{host} is {entry}, an address inside a machine or a private network",
                code="data.private_address",
                where=shown(address),
                hint="Only public addresses are fetched. Download the file and write its path.",
            )
    return list(map(str, found))


def _target(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=SAFE)
    return f"{path}?{quote(parts.query, safe=SAFE + '?')}" if parts.query else path


def _headers(etag: str) -> dict[str, str]:
    asked = {"If-None-Match": etag} if etag else {}
    return {"User-Agent": "truetune", "Accept": "*/*", "Accept-Encoding": "identity", **asked}


def _check_status(answer: http.client.HTTPResponse, address: str) -> None:
    if answer.status not in (200, 304):
        raise _bad(address, f"the server answers {answer.status} {answer.reason}".rstrip())
    if answer.getheader("Content-Encoding", "identity") != "identity":
        raise _bad(address, "the server packs the file in a way that was not asked for")
    page = answer.getheader("Content-Type", "").startswith("text/html")
    if page and not urlsplit(address).path.lower().endswith((".html", ".htm")):
        raise _bad(address, "the server sends a web page instead of a file")


def _body(answer: http.client.HTTPResponse, address: str, limit: int) -> Iterator[bytes]:
    """The file block by block, held to its limits."""
    told = int(length) if (length := answer.getheader("Content-Length", "")).isdecimal() else None
    size = 0
    if told is not None and told > limit:
        raise _too_big(address, limit)
    while block := answer.read1(BLOCK):
        size += len(block)
        if size > limit:
            raise _too_big(address, limit)
        yield block
    if told is not None and size < told:
        raise _bad(address, f"the download broke off after {size:,} of {told:,} bytes")


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """What the network, the server or the disk said, in our words."""
    try:
        yield
    except (ssl.SSLError, socket.gaierror, http.client.HTTPException, TimeoutError, ConnectionError, UnicodeError) as e:
        reason = str(e) or type(e).__name__
        raise _unreachable(address, reason) from e
    except OSError as error:
        if error.errno not in DISK:
            raise _unreachable(address, error.strerror or str(error)) from error
        hint = "Make room, or point TRUETUNE_HOME at a folder that can be written."
        message = f"the download can't be kept: {error.strerror}"
        raise ResourceError(message, code="data.cache", where=str(paths.cache()), hint=hint) from error


def _unreachable(address: str, reason: str) -> InputError:
    hint = "Check the address and the connection, or download the file and write its path."
    message = f"the server could not be reached or broke off: {reason}"
    return InputError(message, code="data.unreachable", where=shown(address), hint=hint)


def _wrong(address: str, reason: str) -> InputError:
    hint = "Write an https:// address, or download the file and write its path."
    return InputError(reason, code="data.address", where=shown(address), hint=hint)


def _bad(address: str, reason: str) -> InputError:
    hint = "Open the address in a browser, or download the file and write its path."
    return InputError(reason, code="data.download", where=shown(address), hint=hint)


def _too_big(address: str, limit: int) -> InputError:
    hint = "Download it and write its path."
    message = f"the file has more than {limit / 2**20:,.0f} MiB"
    return InputError(message, code="data.download_size", where=shown(address), hint=hint)


def _offline(address: str) -> InputError:
    message = "the file has not been fetched yet, and HF_HUB_OFFLINE forbids the network"
    hint = "Fetch it once with the network on, or download it and write its path."
    return InputError(message, code="data.offline", where=shown(address), hint=hint)


def _raise(error: TrueTuneError) -> Path:
    raise error
