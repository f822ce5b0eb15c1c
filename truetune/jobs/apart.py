"""A network of its own for this process and what it starts: nobody else can reach what listens in it.

Ray listens on all addresses of a machine, whatever it is told. In a network namespace that holds the loopback device
alone, that is nobody. Sockets that were opened before stay where they were, so a server goes on hearing its clients.
Linux only; a process with threads, or a system that forbids user namespaces, cannot have one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import socket
import struct
import sys
from pathlib import Path

from truetune import paths

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
"""CLONE_NEWUSER, CLONE_NEWNET of unshare(2)."""
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1
"""SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP of netdevice(7)."""


def settled(*, own: bool) -> None:
    """What Ray reads of the environment when it is imported: it reports to nobody, and a cluster of our own has a key
    that nobody else knows. What the user has set stays."""
    paths.settle("RAY_USAGE_STATS_ENABLED", "0")
    if own:
        paths.settle("RAY_AUTH_MODE", "token")
        paths.settle("RAY_AUTH_TOKEN", secrets.token_hex(32))


def apart() -> None:
    """Raises OSError where it cannot be had; then the process is as it was."""
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, "only Linux has network namespaces")
    user, group = os.getuid(), os.getgid()
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(NEW_USER | NEW_NETWORK):
        number = ctypes.get_errno()
        raise OSError(number, reason(number))
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{user} {user} 1")
    (own / "gid_map").write_text(f"{group} {group} 1")
    raise_loopback()


def reason(number: int) -> str:
    if number == errno.EINVAL:
        return "the process has threads already: start it as `ft serve`"
    if number in (errno.EPERM, errno.ENOSPC):
        return "this system forbids user namespaces"
    return os.strerror(number).lower()


def raise_loopback() -> None:
    """`ip link set lo up`"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh22x", b"lo", 0)
        _, flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, GET_FLAGS, asked))
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh22x", b"lo", flags | UP))
