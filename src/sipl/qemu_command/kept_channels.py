"""Which channels of a command line sipl keeps, and what their users are connected to (docs/qemu-command.md).

A channel that sipl keeps goes on from one QEMU process to the next. All others are QEMU's own, and are made anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.has_secure import GDB_CHANNEL
from sipl.engine.qemu.process import QMP_CHANNEL
from sipl.engine.qemu.relay.addresses import tcp_addresses, unix_address
from sipl.engine.qemu.relay.pty_end import Pty
from sipl.engine.qemu.relay.relays import Relays
from sipl.engine.qemu.relay.socket_ends import Connecting, inherited, listen_tcp, listen_unix
from sipl.errors import UsageError
from sipl.machine.options import parse_bool
from sipl.qemu_command.guest import MAX_DESCRIPTOR
from sipl.qemu_command.values import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sipl.engine.qemu.loop import Loop
    from sipl.engine.qemu.relay.user_end import UserEnd
    from sipl.qemu_command.channels import Channel, Monitor
    from sipl.qemu_command.plan import Guest

# Where nobody is but the person at the terminal, or nobody at all.
_UNJUDGED: Final = ("stdio", "null")
# What stands between the bytes and the user is QEMU's: these end with each process.
_OTHERS_SPEAK: Final = ("telnet", "tn3270", "websocket")
_MAX_RECONNECT: Final = 86_400_000
_IPV4: Final = 2  # AF_INET
_IPV6: Final = 10  # AF_INET6, as Linux numbers it


def connect(guest: Guest, loop: Loop) -> Relays:
    """The relays of a run: the kept channels, with what their users are connected to.

    Raises:
        FileError: the host does not allow a connection.
        UsageError: a channel is not described as QEMU wants it.
    """
    relays = Relays(loop)
    relays.view.own |= {QMP_CHANNEL, GDB_CHANNEL}
    relays.view.actions |= {"reboot": guest.actions.reboot, "panic": guest.actions.panic}
    monitors = {monitor.channel: monitor for monitor in guest.monitors}
    try:
        for channel in guest.channels:
            if not is_kept(channel):
                _check_not_kept(channel, monitors)
                continue
            add = relays.add
            if channel.id in monitors:
                add = relays.add_qmp if monitors[channel.id].control else relays.add_human
            add(channel.id, open_end(channel))
    except BaseException:
        relays.close()
        raise
    return relays


def _check_not_kept(channel: Channel, monitors: Mapping[str, Monitor]) -> None:
    """Refuse a monitor that others than the person at the terminal reach, and whose commands sipl cannot judge."""
    if channel.id in monitors and channel.backend not in _UNJUDGED:
        why = f"the commands on '{channel.id}' cannot be judged, and others might reach it"
        raise UsageError("-mon", why, "take stdio, a pty, or a plain socket, without telnet, websocket, TLS and mux")


def is_kept(channel: Channel) -> bool:
    """Whether sipl holds the user's end of a channel.

    Raises:
        UsageError: a switch of it is neither on nor off.
    """
    if _switch(channel, "mux"):
        return False
    if channel.backend == "pty":
        return True
    if channel.backend != "socket" or "tls-creds" in channel.options:
        return False
    return not any(_switch(channel, name) for name in _OTHERS_SPEAK)


def open_end(channel: Channel) -> UserEnd:
    """The user's end of a channel that is kept.

    Raises:
        FileError: the host does not allow it.
        UsageError: it is not described as QEMU wants it.
    """
    options = channel.options
    if channel.backend == "pty":
        return Pty(options.get("path", ""))
    server, wait = _switch(channel, "server"), _switch(channel, "wait", default=True)
    nodelay = _switch(channel, "nodelay") or not _switch(channel, "delay", default=True)
    if "fd" in options:
        return inherited(number("-chardev", "fd", options["fd"], MAX_DESCRIPTOR), wait=server and wait)
    abstract, tight = _switch(channel, "abstract"), _switch(channel, "tight", default=True)
    if "path" in options:
        if server:
            return listen_unix(options["path"], wait=wait, abstract=abstract, tight=tight)
        address = unix_address(options["path"], abstract=abstract, tight=tight)
        return Connecting([_unix(address)], reconnect=_reconnect(channel))
    if "port" not in options:
        raise UsageError("-chardev", f"'{channel.id}' has neither path nor port nor fd", "name one of them")
    if "to" in options:
        raise UsageError("-chardev", f"'{channel.id}': a range of ports is not taken here", "leave out to=")
    host, port = options.get("host", ""), options["port"]
    if server:
        return listen_tcp(host, port, wait=wait, nodelay=nodelay, family=_family(channel))
    addresses = tcp_addresses(host, port, family=_family(channel))
    return Connecting(addresses, reconnect=_reconnect(channel), nodelay=nodelay)


def _unix(address: bytes) -> tuple[int, bytes]:
    import socket

    return socket.AF_UNIX, address


def _family(channel: Channel) -> int:
    """0 unless one of the two protocols is switched off, or only one is switched on."""
    four, six = (channel.options.get(name) for name in ("ipv4", "ipv6"))
    use_four = parse_bool(four, "-chardev ipv4") if four is not None else six is None or not parse_bool(six, "ipv6")
    use_six = parse_bool(six, "-chardev ipv6") if six is not None else four is None or not parse_bool(four, "ipv4")
    if use_four and use_six:
        return 0
    return _IPV4 if use_four else _IPV6


def _reconnect(channel: Channel) -> float:
    for name, unit in (("reconnect", 1.0), ("reconnect-ms", 0.001)):
        if name in channel.options:
            return number("-chardev", name, channel.options[name], _MAX_RECONNECT) * unit
    return 0.0


def _switch(channel: Channel, name: str, *, default: bool = False) -> bool:
    text = channel.options.get(name)
    return default if text is None else parse_bool(text, f"-chardev {name}")
