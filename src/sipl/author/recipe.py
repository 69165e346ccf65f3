"""What a new disk is to hold: its entries, also from a TOML file (docs/making-disks.md, "Several entries")."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.author.environment import parse_variable
from sipl.author.host_files import read_file
from sipl.errors import UsageError
from sipl.layout.boot_record import PROGRAM_TABLE_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Thirty entries with long command lines have some hundred KiB.
MAX_RECIPE_FILE: Final = 1 << 20
# Number 0 is the default once more.
MAX_ENTRIES: Final = PROGRAM_TABLE_ENTRIES - 1

_MOST_BITS: Final = 64
_TOP: Final = frozenset({"entry", "default", "environment"})
_OF_AN_ENTRY: Final = frozenset({"name", "kernel", "initrd", "cmdline"})


class BootEntry(NamedTuple):
    """One entry of the disk: what the machine boots when its number is chosen.

    `kernel` and `initrd` are names of files. Without `cmdline` the kernel uses the one that it was built with; with
    `${NAME}` in it, the loader puts in what the disk's environment says.
    """

    kernel: str
    initrd: str | None = None
    cmdline: str | None = None
    name: str = ""


class Recipe(NamedTuple):
    """Entries in the order of their numbers, from 1 on; `default` is the number of the one that boots by itself."""

    entries: tuple[BootEntry, ...]
    default: int = 1
    environment: Mapping[str, str] | None = None  # None: the disk has no environment block


def make_recipe(
    entries: Sequence[BootEntry], default: str | int | None = None, environment: Mapping[str, str] | None = None
) -> Recipe:
    """A recipe; `default` is the number or the name of an entry, the first one if it is None.

    Raises:
        UsageError: there is no entry, there are too many, two have one name, or none is the default.
    """
    if not entries:
        raise UsageError("disk", "it has no entry", "name a kernel")
    if len(entries) > MAX_ENTRIES:
        raise UsageError("disk", f"{len(entries)} entries are too many", f"{MAX_ENTRIES} is the most")
    names = [entry.name for entry in entries if entry.name]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("disk", f"two entries have the name '{twice}'", "give each its own")
    return Recipe(tuple(entries), _number(entries, default), environment)


def _number(entries: Sequence[BootEntry], default: str | int | None) -> int:
    if default is None:
        return 1
    for number, entry in enumerate(entries, 1):
        if default in (number, str(number)) or (entry.name and default == entry.name):
            return number
    # TOML has hexadecimal numbers that are too large to be shown as decimal ones.
    shown = default if isinstance(default, str) or default.bit_length() <= _MOST_BITS else "of this number"
    raise UsageError("default", f"there is no entry '{shown}'", f"give a name or a number from 1 to {len(entries)}")


def read_recipe(path: str) -> Recipe:
    """The recipe in a TOML file; names of files in it are relative to its folder.

    Raises:
        FileError: the file cannot be read.
        UsageError: it is no TOML, or says what is not known.
    """
    import tomllib

    data = read_file(path, MAX_RECIPE_FILE, "a TOML file")
    try:
        content = tomllib.loads(data.decode("utf-8"))
    # Not only its own error: a number of thousands of digits is one that int() refuses.
    except (ValueError, RecursionError) as error:
        raise UsageError(path, f"it is no TOML: {error}") from None
    _check_keys(path, content, _TOP)
    entries = content.get("entry", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(path, "'entry' is no list of tables", "write each entry below its own [[entry]]")
    default = content.get("default")
    if default is not None and (isinstance(default, bool) or not isinstance(default, str | int)):
        raise UsageError(path, "'default' is neither a name nor a number")
    made = [_entry(path, entry) for entry in entries]
    return make_recipe(made, default, _environment(path, content.get("environment")))


def _entry(path: str, table: dict[str, object]) -> BootEntry:
    _check_keys(path, table, _OF_AN_ENTRY)
    values: dict[str, str] = {}
    for name, value in table.items():
        if not isinstance(value, str):
            raise UsageError(path, f"'{name}' of an entry is no text")
        values[name] = value
    if "kernel" not in values:
        raise UsageError(path, "an entry has no kernel", "name one with kernel = …")
    folder = os.path.dirname(path)
    for name in ("kernel", "initrd"):
        if name in values:
            values[name] = os.path.join(folder, values[name])
    return BootEntry(**values)


def _environment(path: str, table: object) -> dict[str, str] | None:
    if table is None:
        return None
    if not isinstance(table, dict):
        raise UsageError(path, "'environment' is no table", "write [environment]")
    for name, value in table.items():
        if not isinstance(value, str):
            raise UsageError(path, f"'{name}' in the environment is no text", 'write NAME = "value"')
    return dict(parse_variable(f"{name}={value}") for name, value in table.items())


def _check_keys(path: str, table: dict[str, object], known: frozenset[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise UsageError(path, f"'{unknown[0]}' is not known", f"known are {', '.join(sorted(known))}")
