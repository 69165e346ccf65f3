"""Character devices and monitors: what a user is connected to, described one by one (docs/qemu-command.md).

A user stays connected while one QEMU process follows another, so sipl has to know every channel. -serial, -monitor and
-qmp, which describe a channel and use it in one word, become a -chardev and its use.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError
from sipl.qemu_command.allowed import OWN_PREFIX, check_chardev, check_id, check_properties, refuse
from sipl.qemu_command.values import read_opts, write_list
from sipl.qemu_command.words import Word
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sipl.qemu_command.words import CommandLine

_MONITORS: Final = {"monitor": "readline", "qmp": "control", "qmp-pretty": "control"}
OPTIONS: Final = ("chardev", "mon", "serial", "parallel", *_MONITORS)

_ALONE: Final = frozenset({"null", "pty", "stdio", "msmouse", "vc", "ringbuf"})
_TCP: Final = {"tcp": "", "telnet": "telnet", "websocket": "websocket", "tn3270": "tn3270"}
_HOST_PORT: Final = re.compile(r"([^:,]{0,64}):([^,]{1,32})(?:,(.*))?", re.DOTALL)
_VC: Final = re.compile(r"vc:([0-9]{1,5})(C?)x([0-9]{1,5})(C?)", re.ASCII)
_OWN: Final = ("mux", "logfile", "logappend")
_MON: Final = frozenset({"chardev", "id", "mode", "pretty"})
_SHOWN: Final = 80


class Channel(NamedTuple):
    """A character device: its name, what it is connected to, and the rest as -chardev says it, all of it text.

    `backend` is QEMU's word: socket, pty, stdio, file, …; `options` are without `id` and `backend`.
    """

    id: str
    backend: str
    options: Mapping[str, str]


class Monitor(NamedTuple):
    """Who is connected to a channel commands QEMU; `control` is QMP, otherwise people type. `id` may be empty."""

    channel: str
    control: bool
    pretty: bool = False
    id: str = ""


class Channels:
    """All channels of a command line, and the monitors on them.

    Raises:
        UsageError: one is not allowed, or is described in a way that QEMU does not know.
    """

    def __init__(self, line: CommandLine) -> None:
        self.channels: dict[str, Channel] = {}
        self.monitors: list[Monitor] = []
        # The words that use channels, in their order. The channels themselves come first.
        self.uses: list[str] = []
        for word in line.of("chardev"):
            self._define(word)
        for word in line.of("mon"):
            self._use_as_monitor(word)
        for number, word in enumerate(line.of("serial")):
            self._serial(word, f"serial{number}")
        for number, word in enumerate(line.of(*_MONITORS)):
            self._monitor(word, f"monitor{number}")
        for word in line.of("parallel"):
            if word.value != "none":
                raise refuse(word.where, "this machine has no parallel port")
        if not line.has("nodefaults"):
            self._defaults(line)
        for monitor in self.monitors:
            if monitor.channel not in self.channels:
                name = printable(monitor.channel, _SHOWN)
                raise UsageError("-mon", f"there is no -chardev '{name}'", "name one")

    def write(self, relayed: Mapping[str, int], *, again: bool = False) -> list[str]:
        """The words for all channels and their uses.

        `relayed` are channels by their names that sipl keeps itself: each has a descriptor of a connected socket. A
        monitor on one of them speaks QMP there, whatever its user speaks. `again`: files go on where the QEMU process
        before has stopped.
        """
        words: list[str] = []
        for channel in self.channels.values():
            members = {"backend": channel.backend, "id": channel.id, **channel.options}
            if channel.id in relayed:
                kept = {key: text for key, text in channel.options.items() if key in _OWN}
                members = {"backend": "socket", "id": channel.id, "fd": str(relayed[channel.id]), **kept}
            if again:
                members |= {"append": "on"} if channel.backend == "file" else {}
                members |= {"logappend": "on"} if "logfile" in members else {}
            words += ["-chardev", write_list(members, "backend")]
        for monitor in self.monitors:
            control = monitor.control or monitor.channel in relayed
            members = {"chardev": monitor.channel, "mode": "control" if control else "readline"}
            members |= {"id": monitor.id} if monitor.id else {}
            members |= {"pretty": "on"} if monitor.pretty and monitor.channel not in relayed else {}
            words += ["-mon", write_list(members)]
        return words + self.uses

    def _define(self, word: Word) -> None:
        if word.value.startswith("{"):
            raise UsageError(word.where, "it is JSON, which QEMU does not take here", "write key=value")
        value = read_opts(word.where, word.value, "backend")
        options = {key: value.text(key) for key in value.members if key not in ("backend", "id")}
        name = value.text("id")
        if not name:
            raise UsageError(word.where, "it has no id", "add id=NAME")
        for key in (name, *(text for key, text in options.items() if key.startswith("chardev"))):
            check_id(word.where, key)
        self._add(word.where, Channel(name, value.text("backend"), options))

    def _add(self, where: str, channel: Channel) -> None:
        check_chardev(where, channel.backend)
        if channel.id in self.channels:
            raise UsageError(where, f"there are two channels '{printable(channel.id, _SHOWN)}'")
        self.channels[channel.id] = channel

    def _use_as_monitor(self, word: Word) -> None:
        value = read_opts(word.where, word.value, "chardev")
        check_properties(word.where, "a monitor", value.members, _MON)
        mode = value.text("mode", "readline")
        if mode not in ("readline", "control"):
            raise UsageError(word.where, f"there is no mode '{printable(mode, _SHOWN)}'", "control or readline")
        check_id(word.where, value.text("id"))
        control = mode == "control"
        self.monitors.append(Monitor(value.text("chardev"), control, value.flag("pretty"), value.text("id")))

    def _serial(self, word: Word, name: str) -> None:
        if word.value == "none":
            self.uses += ["-serial", "none"]
            return
        channel = self._from_short(word, f"{OWN_PREFIX}{name}")
        self.uses += ["-serial", f"chardev:{channel.id}"]

    def _monitor(self, word: Word, name: str) -> None:
        if word.value == "none":
            self.uses += [f"-{word.option}", "none"]
            return
        channel = self._from_short(word, f"{OWN_PREFIX}{name}")
        self._command(channel.id, _MONITORS.get(word.option, "readline"), pretty=word.option == "qmp-pretty")

    def _command(self, channel: str, mode: str, *, pretty: bool = False) -> None:
        self.monitors.append(Monitor(channel, mode == "control", pretty))

    def _defaults(self, line: CommandLine) -> None:
        """What QEMU connects where nothing was said."""
        with_monitor = any(word.value.startswith("mon:") for word in line.of("serial"))
        monitor = not with_monitor and not line.has("mon", *_MONITORS)
        if line.has("nographic"):
            self._standard_streams(line, monitor=monitor)
        elif monitor:
            # QEMU would have one on the display, which others may reach.
            self.uses += ["-monitor", "none"]

    def _standard_streams(self, line: CommandLine, *, monitor: bool) -> None:
        """What -nographic connects with the terminal where nothing else was said."""
        if not line.has("serial"):
            text = "mon:stdio" if monitor else "stdio"
            self._serial(Word("nographic", text), "serial0")
        elif monitor:
            self._monitor(Word("nographic", "stdio"), "monitor0")

    def _from_short(self, word: Word, name: str) -> Channel:
        """The channel that a -serial, -monitor or -qmp describes, which may be one that is there already."""
        text = word.value
        if text.startswith("chardev:"):
            found = self.channels.get(text.removeprefix("chardev:"))
            if found is None:
                raise UsageError(word.where, f"there is no -{printable(text, _SHOWN).replace(':', ' ', 1)}", "name one")
            return found
        with_monitor = text.startswith("mon:")
        backend, options = _parse_short(word.where, text.removeprefix("mon:"))
        if with_monitor:
            options["mux"] = "on"
            if backend == "stdio":
                options["signal"] = "off"
        channel = Channel(name, backend, options)
        self._add(word.where, channel)
        if with_monitor:
            self._command(name, "readline")
        return channel


def _parse_short(where: str, text: str) -> tuple[str, dict[str, str]]:
    if text in _ALONE:
        return text, {}
    size = _VC.fullmatch(text)
    if size is not None:
        names = ("cols" if size[2] else "width", "rows" if size[4] else "height")
        return "vc", {names[0]: size[1], names[1]: size[3]}
    kind, colon, rest = text.partition(":")
    if colon and kind in ("file", "pipe") and rest:
        return kind, {"path": rest}
    if colon and kind == "unix":
        path, _, more = rest.partition(",")
        return "socket", {"path": path, **_more(where, more)}
    if colon and kind in _TCP:
        found = _HOST_PORT.fullmatch(rest)
        if found is not None:
            options = {"host": found[1], "port": found[2], **_more(where, found[3] or "")}
            return "socket", options | ({_TCP[kind]: "on"} if _TCP[kind] else {})
    if text.startswith("/dev/"):
        return "serial", {"path": text}
    raise UsageError(where, f"'{printable(text, _SHOWN)}' describes no channel that sipl knows", "write a -chardev")


def _more(where: str, text: str) -> dict[str, str]:
    value = read_opts(where, text)
    return {key: value.text(key) for key in value.members}
