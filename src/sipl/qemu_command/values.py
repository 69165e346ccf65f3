"""The values of QEMU's options: lists of `key=value`, lists with dotted keys, and JSON (docs/qemu-command.md).

What was read is written anew for QEMU, so that it gets what was judged and nothing that could be read in two ways.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError
from sipl.machine import keyval
from sipl.machine.options import parse_bool
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import NoReturn

    from sipl.machine.keyval import Value as KeyValue

# What JSON is made of, and the other forms with it; those have texts where JSON has numbers and switches.
Node = str | int | float | bool | None | list["Node"] | dict[str, "Node"]
Tree = dict[str, Node]

# Images that name images, each two levels, and a command line that names them all: deeper than any that is used. Trees
# are walked by recursion, which must end soon.
MAX_DEPTH: Final = 64
# A number that QEMU takes has 64 bits.
_MAX_NUMBER: Final = 1 << 64
_SHOWN: Final = 80
# What asks what there is, and behind which keys it does.
_HELP: Final = ("help", "?")
_KINDS: Final = ("", "accel", "backend", "driver", "format", "qom-type", "type")
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_KEY_END: Final = re.compile(r"[=,]|\Z")
_VALUE: Final = re.compile(r"(?:[^,]|,,)*", re.DOTALL)
_BARE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]*", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,20}", re.ASCII)


class Syntax(Enum):
    """How a value is written."""

    OPTS = "key=value"
    DOTTED = "dotted keys"
    JSON = "JSON"


class OptionValue(NamedTuple):
    """A value: its members, and how it was written. `implied` is the key of the first member, which may be left out."""

    where: str
    syntax: Syntax
    implied: str
    members: Tree

    def text(self, key: str, default: str = "") -> str:
        """A member that is one value, as QEMU's lists write it: a switch is on or off.

        Raises:
            UsageError: it has members of its own, or is null.
        """
        return scalar(self.where, key, self.members[key]) if key in self.members else default

    def flag(self, key: str, default: bool = False) -> bool:
        """A member that is a switch.

        Raises:
            UsageError: it is none.
        """
        return switch(self.where, key, self.members[key]) if key in self.members else default

    def without(self, *keys: str) -> OptionValue:
        """The same without some members."""
        return self._replace(members={key: node for key, node in self.members.items() if key not in keys})

    def having(self, **members: Node) -> OptionValue:
        """The same with some members added or changed; an underscore in a name stands for a hyphen."""
        return self._replace(members=self.members | {key.replace("_", "-"): node for key, node in members.items()})

    def write(self) -> str:
        """The value as QEMU reads it."""
        if self.syntax is Syntax.JSON:
            return write_json(self.members)
        return write_list(_flat(self.members), self.implied)


def asks_for_help(text: str) -> bool:
    """Whether a value asks what there is, in place of saying something: `help`, `?`, `scsi-hd,help`, `format=help`."""
    # A doubled comma is a comma in a value.
    parts = [] if text.startswith("{") else text.replace(",,", "\0").split(",")
    keys_and_values = (part.rpartition("=") for part in parts)
    return any(value in _HELP and key in _KINDS for key, _, value in keys_and_values)


def help_asked(where: str) -> UsageError:
    """The error for such a question: who answers it runs no guest."""
    return UsageError(where, "help is asked for", "ask QEMU, without secure-boot and boot-certs")


def read_pairs(where: str, text: str, implied: str = "") -> list[tuple[str, str]]:
    """Read a flat list in which keys may repeat. A key alone is on; with `no` in front it is off.

    Raises:
        UsageError: it is none.
    """
    pairs: list[tuple[str, str]] = []
    for position, (key, value) in enumerate(_pairs(where, text)):
        if value is None and position == 0 and implied:
            pairs.append((implied, key.replace(",,", ",")))
        elif value is None:
            pairs.append((key[2:], "off") if key.startswith("no") else (key, "on"))
        else:
            pairs.append((key, value))
        if not _KEY.fullmatch(pairs[-1][0]):
            raise UsageError(where, f"'{_shown(pairs[-1][0])}' is no name of a parameter", "write key=value")
    return pairs


def read_opts(where: str, text: str, implied: str = "") -> OptionValue:
    """Read a flat list; see `read_pairs`.

    Raises:
        UsageError: it is none, or has a key twice.
    """
    members: Tree = {}
    for key, value in read_pairs(where, text, implied):
        if key in members:
            raise _twice(where, key)
        members[key] = value
    return OptionValue(where, Syntax.OPTS, implied, members)


def _pairs(where: str, text: str) -> list[tuple[str, str | None]]:
    """Keys and values; None where there is no `=`. A first part without one may be a value, with doubled commas."""
    _check_text(where, text)
    found: list[tuple[str, str | None]] = []
    position = 0
    while position < len(text):
        end = _key_end(text, position)
        if text[end : end + 1] == "=":
            value = _value(text, end + 1)
            found.append((text[position:end], value.replace(",,", ",")))
            position = end + 1 + len(value) + 1
            continue
        part = _value(text, position) if not found else text[position:end]
        found.append((part, None))
        position += len(part) + 1
    return found


def _key_end(text: str, position: int) -> int:
    found = _KEY_END.search(text, position)
    return found.start() if found else len(text)


def _value(text: str, position: int) -> str:
    found = _VALUE.match(text, position)
    return found[0] if found else ""


def read_dotted(where: str, text: str, implied: str = "") -> OptionValue:
    """Read a list with dotted keys, or JSON where it begins with a brace.

    Raises:
        UsageError: it is neither, or contradicts itself.
    """
    if text.startswith("{"):
        return OptionValue(where, Syntax.JSON, implied, read_json(where, text))
    _check_text(where, text)
    found = keyval.parse(text, where, implied)
    if found.help:
        raise help_asked(where)
    return OptionValue(where, Syntax.DOTTED, implied, _from_keyval(found.values))


def read_opts_or_json(where: str, text: str, implied: str = "") -> OptionValue:
    """Read a flat list, or JSON where it begins with a brace.

    Raises:
        UsageError: it is neither, or has a key twice.
    """
    if text.startswith("{"):
        return OptionValue(where, Syntax.JSON, implied, read_json(where, text))
    return read_opts(where, text, implied)


def _from_keyval(values: dict[str, KeyValue]) -> Tree:
    """The same, as the type that all forms share; `keyval` limits the depth."""
    return {key: _node_from_keyval(value) for key, value in values.items()}


def _node_from_keyval(value: KeyValue) -> Node:
    if isinstance(value, dict):
        return _from_keyval(value)
    return [_node_from_keyval(member) for member in value] if isinstance(value, list) else value


def read_json(where: str, text: str) -> Tree:
    """Read a JSON object.

    Raises:
        UsageError: it is none, has a key twice, or goes deeper than `MAX_DEPTH`.
    """
    _check_text(where, text)
    try:
        text.encode()
        tree: Node = json.loads(
            text, object_pairs_hook=_object_reader(where), parse_constant=_no_number(where), parse_int=_number(where)
        )
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        raise UsageError(where, f"this is no JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UsageError(where, "this is no JSON object")
    _check_tree(where, tree, 0)
    return tree


def _object_reader(where: str) -> Callable[[list[tuple[str, Node]]], Tree]:
    def read(pairs: list[tuple[str, Node]]) -> Tree:
        tree = dict(pairs)
        if len(tree) != len(pairs):
            names = [name for name, _ in pairs]
            raise _twice(where, next(name for name in names if names.count(name) > 1))
        return tree

    return read


def _no_number(where: str) -> Callable[[str], NoReturn]:
    def refuse(text: str) -> NoReturn:
        raise UsageError(where, f"{text} is no number in JSON")

    return refuse


def _number(where: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        # Reading digits takes longer the more there are.
        if len(text) > 20 or abs(int(text)) >= _MAX_NUMBER:
            raise UsageError(where, f"the number {_shown(text)} is too large")
        return int(text)

    return read


def _check_tree(where: str, node: Node, depth: int) -> None:
    """Refuse what QEMU's own reader would: NUL characters, and halves of characters, which have no bytes."""
    if depth > MAX_DEPTH:
        raise _too_deep(where)
    if isinstance(node, str):
        _check_text(where, node)
        try:
            node.encode()
        except UnicodeEncodeError:
            raise UsageError(where, f"'{_shown(node)}' is no text") from None
    elif isinstance(node, dict):
        for key, member in node.items():
            _check_tree(where, key, depth + 1)
            _check_tree(where, member, depth + 1)
    elif isinstance(node, list):
        for member in node:
            _check_tree(where, member, depth + 1)


def write_json(tree: Node) -> str:
    """JSON without blanks."""
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


def write_list(members: Mapping[str, str], implied: str = "") -> str:
    """A list of `key=value`, with commas in values doubled."""
    return write_pairs(members.items(), implied)


def write_pairs(pairs: Iterable[tuple[str, str]], implied: str = "") -> str:
    """The same for keys that may repeat."""
    parts = []
    for position, (key, text) in enumerate(pairs):
        bare = position == 0 and key == implied and _BARE.fullmatch(text)
        parts.append(text if bare else f"{key}={text.replace(',', ',,')}")
    return ",".join(parts)


def _flat(tree: Tree) -> dict[str, str]:
    """Dotted keys for everything."""
    found: dict[str, str] = {}

    def walk(prefix: str, node: Node) -> None:
        if isinstance(node, dict):
            for key, member in node.items():
                walk(f"{prefix}{key}.", member)
        elif isinstance(node, list):
            for position, member in enumerate(node):
                walk(f"{prefix}{position}.", member)
        else:
            found[prefix[:-1]] = scalar("", prefix[:-1], node)

    walk("", tree)
    return found


def scalar(where: str, key: str, node: Node) -> str:
    """One value as QEMU's lists write it.

    Raises:
        UsageError: it has members, or is null.
    """
    if isinstance(node, bool):
        return "on" if node else "off"
    if isinstance(node, str):
        return node
    if isinstance(node, int | float):
        return str(node)
    raise UsageError(where, f"parameter '{_shown(key)}' takes one value")


def switch(where: str, key: str, node: Node) -> bool:
    """A switch.

    Raises:
        UsageError: it is none.
    """
    return node if isinstance(node, bool) else parse_bool(scalar(where, key, node), f"{where} {key}")


def number(where: str, key: str, text: str, limit: int) -> int:
    """A decimal number from 0 to `limit`.

    Raises:
        UsageError: it is none.
    """
    if not _NUMBER.fullmatch(text) or int(text) > limit:
        raise UsageError(where, f"'{_shown(text)}' is no number for '{_shown(key)}'", f"from 0 to {limit}")
    return int(text)


def _check_text(where: str, text: str) -> None:
    if "\0" in text:
        raise UsageError(where, "it has a NUL character")


def _twice(where: str, key: str) -> UsageError:
    return UsageError(where, f"parameter '{_shown(key)}' is given twice", "give it once")


def _too_deep(where: str) -> UsageError:
    return UsageError(where, f"it goes more than {MAX_DEPTH} levels deep")


def _shown(text: str) -> str:
    return printable(text, _SHOWN)
