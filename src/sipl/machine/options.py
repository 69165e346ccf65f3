"""The machine's options as QEMU writes them, and the time of verification (docs/machine-options.md)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError
from sipl.machine.ebcdic import LOADPARM_LENGTH
from sipl.machine.memory import increment_shift
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sipl.machine.keyval import Tree, Value

_MIB: Final = 1 << 20
# The firmware keeps the last 3 MiB and 28 KiB of the memory or of its first 2 GiB to itself; a kernel wants the rest.
MIN_MEMORY: Final = 16 * _MIB
# SCLP tells the size of a storage increment in one byte, in MiB, and 1020 increments make the memory.
MAX_MEMORY: Final = 64 * 1024 * _MIB
DEFAULT_MEMORY: Final = 512 * _MIB
# The field of the boot menu's time-out is 32 bits wide.
MAX_MENU_TIMEOUT_MS: Final = 0xFFFF_FFFF
# The last second of the year 9999, the last that a certificate can name.
MAX_TIME: Final = 253_402_300_799
# How much of a foreign value an error shows.
_SHOWN: Final = 80

MACHINE: Final = "--machine"
MACHINE_TYPE: Final = "s390-ccw-virtio"
# The patterns are compiled by those who need them: at start, most options are not there.
# QEMU's own versions (s390-ccw-virtio-9.2) and those of distributors (s390-ccw-virtio-noble, -rhel9.6.0).
_MACHINE_TYPE: Final = r"s390-ccw-virtio(?:-[a-z0-9][a-z0-9.]{0,31})?"

_BOOLEANS: Final = {
    **dict.fromkeys(("on", "yes", "true", "y"), True),
    **dict.fromkeys(("off", "no", "false", "n"), False),
}
_LOADPARM: Final = rf"[A-Z0-9. ]{{0,{LOADPARM_LENGTH}}}"
_SIZE: Final = r"([0-9]{1,15})([KMGT]?)"
_UNITS: Final = {"K": 1 << 10, "": _MIB, "M": _MIB, "G": 1 << 30, "T": 1 << 40}
_EPOCH: Final = r"@([0-9]{1,12})"
_MILLISECONDS: Final = r"[0-9]{1,10}"

# Properties of QEMU's machine that change nothing in an IPL, and whether they are switches.
_NO_EFFECT: Final = {
    "accel": False,
    "aes-key-wrap": True,
    "aux-ram-share": True,
    "confidential-guest-support": False,
    "dea-key-wrap": True,
    "dump-guest-core": True,
    "graphics": True,
    "kernel-irqchip": False,
    "mem-merge": True,
    "memory-backend": False,
    "suppress-vmdesc": True,
    "usb": True,
}
# Properties that QEMU has too, and that would change what is booted if they were taken.
_ELSEWHERE: Final = {
    "append": "a kernel command line comes from the disk",
    "boot": "use --boot-menu and the order of the disks",
    "dtb": "this machine has no device tree",
    "firmware": "sipl brings the boot side itself",
    "initrd": "an initial RAM disk comes from the disk",
    "kernel": "use --kernel",
    "memory": "use --memory",
    "smp": "the boot uses one processor",
}


class MachineOptions(NamedTuple):
    """What the machine is built from.

    `boot_menu` is None where neither on nor off was said. `notes` are remarks on options that have no effect here.
    """

    type: str = MACHINE_TYPE
    secure_boot: bool = False
    boot_certs: tuple[str, ...] = ()  # paths of files and directories, in the order of the store
    loadparm: str = ""  # upper case, at most 8 characters
    boot_menu: bool | None = None
    boot_menu_timeout_ms: int = 0  # 0 waits for ever
    memory: int = DEFAULT_MEMORY  # bytes
    cpus: int = 1
    protected: bool = False  # a guest of protected virtualization
    notes: tuple[str, ...] = ()


def parse_machine(options: Sequence[str], base: MachineOptions) -> MachineOptions:
    """Apply the values of all `-machine` options, in their order, to `base`.

    A list of certificates in them takes the place of the one in `base`; all else of `base` stays unless it is named.

    Raises:
        UsageError: an option is not valid, contradicts another, or is not known.
    """
    tree: Tree = {}
    for text in options:
        from sipl.machine import keyval

        tree, asked = keyval.parse(text, MACHINE, "type", tree)
        if asked:
            raise UsageError(MACHINE, "properties: " + ", ".join(sorted(_SETTERS)), "see docs/machine-options.md")
    result = base
    for name, value in tree.items():
        if name in _SETTERS:
            result = _SETTERS[name](result, value)
        elif name in _NO_EFFECT:
            result = _ignore(result, name, value)
        else:
            raise _unknown(name)
    return result


def parse_bool(text: str, option: str) -> bool:
    """A switch: on, yes, true, y, or off, no, false, n.

    Raises:
        UsageError: neither of them.
    """
    if text not in _BOOLEANS:
        raise UsageError(option, f"'{_shown(text)}' is neither on nor off", "write on or off")
    return _BOOLEANS[text]


def parse_loadparm(text: str, option: str = "--loadparm") -> str:
    """A loadparm in upper case: at most 8 of the letters, digits, dot and blank.

    Raises:
        UsageError: too long, or another character.
    """
    loadparm = text.upper() if text.isascii() else text
    if not re.fullmatch(_LOADPARM, loadparm):
        raise UsageError(
            option,
            f"'{_shown(text)}' is no valid loadparm",
            f"at most {LOADPARM_LENGTH} characters: letters, digits, dot and blank",
        )
    return loadparm


def parse_menu_timeout(text: str, option: str = "--boot-menu-timeout") -> int:
    """The time that a boot menu waits for a choice, in milliseconds; 0 waits for ever.

    Raises:
        UsageError: no number, or one that does not fit into the machine's field.
    """
    if not re.fullmatch(_MILLISECONDS, text) or int(text) > MAX_MENU_TIMEOUT_MS:
        raise UsageError(option, f"'{_shown(text)}' is no time-out", f"milliseconds, 0 to {MAX_MENU_TIMEOUT_MS}")
    return int(text)


def parse_size(text: str, option: str = "--memory") -> int:
    """The size of the memory in bytes: a number with K, M, G or T; without, it counts MiB.

    Raises:
        UsageError: no size, too small, too large, or no whole number of storage increments.
    """
    found = re.fullmatch(_SIZE, text.upper() if text.isascii() else text)
    if found is None:
        raise UsageError(option, f"'{_shown(text)}' is no size", "write for example 512M or 4G")
    size = int(found[1]) * _UNITS[found[2]]
    if not MIN_MEMORY <= size <= MAX_MEMORY:
        raise UsageError(
            option,
            f"'{_shown(text)}' is outside what the machine can have",
            f"from {MIN_MEMORY // _MIB}M to {MAX_MEMORY // _MIB}M",
        )
    increment = 1 << increment_shift(size)
    if size % increment:
        raise UsageError(
            option,
            f"'{_shown(text)}' is no multiple of {increment // _MIB} MiB, the storage increment at this size",
            f"use {size // increment * increment // _MIB}M",
        )
    return size


def parse_time(text: str, option: str = "--at") -> int:
    """A point in time as seconds since 1970 (UTC): `now`, `@SECONDS`, or ISO 8601 with `Z` or an offset.

    Raises:
        UsageError: none of these, without an offset, or outside the years 1970 to 9999.
    """
    if text == "now":
        import time

        return int(time.time())
    found = re.fullmatch(_EPOCH, text)
    seconds = int(found[1]) if found else _parse_iso(text, option)
    if not 0 <= seconds <= MAX_TIME:
        raise UsageError(option, f"'{_shown(text)}' is not in the years 1970 to 9999")
    return seconds


def _parse_iso(text: str, option: str) -> int:
    from datetime import UTC, datetime

    hint = "write 2026-11-23T02:00:00Z, @SECONDS or now"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(option, f"'{_shown(text)}' is no point in time", hint) from None
    if moment.tzinfo is None:
        raise UsageError(option, f"'{_shown(text)}' does not say which time zone it is in", f"add Z for UTC; {hint}")
    # A difference of moments, because a year at the edge of the calendar cannot be moved to UTC.
    difference = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return difference.days * 86400 + difference.seconds


def _scalar(name: str, value: Value) -> str:
    if not isinstance(value, str):
        raise UsageError(MACHINE, f"parameter '{name}' takes one value, not members")
    return value


def _set_type(options: MachineOptions, value: Value) -> MachineOptions:
    text = _scalar("type", value)
    if not re.fullmatch(_MACHINE_TYPE, text):
        raise UsageError(MACHINE, f"there is no machine type '{_shown(text)}'", f"use {MACHINE_TYPE}")
    return options._replace(type=text)


def _set_secure_boot(options: MachineOptions, value: Value) -> MachineOptions:
    return options._replace(secure_boot=parse_bool(_scalar("secure-boot", value), f"{MACHINE} secure-boot"))


def _set_loadparm(options: MachineOptions, value: Value) -> MachineOptions:
    return options._replace(loadparm=parse_loadparm(_scalar("loadparm", value), f"{MACHINE} loadparm"))


def _set_boot_certs(options: MachineOptions, value: Value) -> MachineOptions:
    if not isinstance(value, list):
        raise UsageError(MACHINE, "parameter 'boot-certs' is no list", "write boot-certs.0.path=FILE")
    paths = tuple(_certificate_path(position, entry) for position, entry in enumerate(value))
    return options._replace(boot_certs=paths)


def _certificate_path(position: int, entry: Value) -> str:
    where = f"boot-certs.{position}"
    hint = f"write {where}.path=FILE"
    if not isinstance(entry, dict):
        raise UsageError(MACHINE, f"parameter '{where}' takes a path", hint)
    for member in entry:
        if member != "path":
            raise UsageError(MACHINE, f"parameter '{where}.{_shown(member)}' is unexpected", hint)
    path = entry.get("path")
    if path is None:
        raise UsageError(MACHINE, f"parameter '{where}.path' is missing", hint)
    return _scalar(f"{where}.path", path)


def _ignore(options: MachineOptions, name: str, value: Value) -> MachineOptions:
    text = _scalar(name, value)
    if _NO_EFFECT[name]:
        parse_bool(text, f"{MACHINE} {name}")
    note = f"{MACHINE}: '{name}' changes nothing in an IPL and is ignored"
    return options._replace(notes=(*options.notes, note))


def _unknown(name: str) -> UsageError:
    if name in _ELSEWHERE:
        return UsageError(MACHINE, f"parameter '{name}' is not taken here", _ELSEWHERE[name])
    from difflib import get_close_matches

    near = get_close_matches(name[:_SHOWN], [*_SETTERS, *_NO_EFFECT], n=1)
    return UsageError(MACHINE, f"there is no parameter '{_shown(name)}'", f"did you mean {near[0]}?" if near else "")


def _shown(text: str) -> str:
    return printable(text, _SHOWN)


_SETTERS: Final[dict[str, Callable[[MachineOptions, Value], MachineOptions]]] = {
    "type": _set_type,
    "secure-boot": _set_secure_boot,
    "boot-certs": _set_boot_certs,
    "loadparm": _set_loadparm,
}
