"""Addresses of sockets: from what people write, and as QEMU's monitor shows them."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from sipl.errors import FileError, UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    # Family and address, as `socket.connect` takes them.
    Address: TypeAlias = tuple[int, object]

# The room for a path in a socket's address on Linux.
_MAX_PATH: Final = 108


def tcp_addresses(host: str, port: str, *, family: int = 0, passive: bool = False) -> list[Address]:
    """The addresses of a host and port, names looked up now and never again. Raises FileError."""
    try:
        found = socket.getaddrinfo(
            host or None, port or None, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE if passive else 0
        )
    except OSError as error:
        raise FileError(f"{host}:{port}", f"is no address: {error.strerror}", "check host and port") from error
    return [(kind, address) for kind, _, _, _, address in found]


def unix_address(path: str, *, abstract: bool = False, tight: bool = True) -> bytes:
    """The address of a Unix socket; an abstract name is padded with zeros unless it is `tight`. Raises UsageError."""
    name = os.fsencode(path)
    if abstract:
        name = b"\0" + name
        if not tight:
            name = name.ljust(_MAX_PATH, b"\0")
    if not path or b"\0" in os.fsencode(path) or len(name) > _MAX_PATH - (0 if abstract else 1):
        why = f"is no path of a socket: 1 to {_MAX_PATH - 1} bytes are"
        raise UsageError(path or "''", why, "put it in a folder with a shorter name" if path else "name a path")
    return name


def name_of(end: socket.socket) -> str:
    """Its own address, as the monitor shows it."""
    return shown(end.family, end.getsockname())


def shown(family: int, address: object) -> str:
    """An address as the monitor shows it."""
    if family == socket.AF_UNIX:
        name = address if isinstance(address, bytes) else os.fsencode(str(address))
        if name.startswith(b"\0"):
            return f"unix:{os.fsdecode(name.strip(bytes(1)))},abstract=on"
        return f"unix:{os.fsdecode(name)}"
    if isinstance(address, tuple) and len(address) >= 2:
        return f"tcp:[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"tcp:{address[0]}:{address[1]}"
    return "socket"
