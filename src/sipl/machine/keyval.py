"""Comma-separated `key=value` options with dotted keys, as QEMU reads them (docs/machine-options.md).

A key is a name followed by any number of fragments, each after a dot: a further name, or the position in a list. The
fragments of all keys make one tree of dictionaries, in which every dictionary whose keys are positions is a list.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sipl.errors import UsageError
from sipl.text import printable

# As long as the longest single argument that Linux hands to a program.
MAX_OPTION_LENGTH: Final = 128 * 1024
# The longest fragment of a key, as in QEMU.
MAX_FRAGMENT_LENGTH: Final = 127
# The deepest option of a machine has three fragments; the tree is walked by recursion, which must end soon.
MAX_FRAGMENTS: Final = 16
# How much of a foreign key an error shows.
_SHOWN: Final = 80

# A name, or one that a distributor added, which begins with his domain between underscores.
_NAME: Final = re.compile(r"(?:__[A-Za-z0-9.-]*_)?[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
_INDEX: Final = re.compile(r"[0-9]+", re.ASCII)
_KEY_END: Final = re.compile(r"[=,]|\Z")
_VALUE: Final = re.compile(r"(?:[^,]|,,)*", re.DOTALL)

Value = str | list["Value"] | dict[str, "Value"]
Tree = dict[str, Value]


class KeyVal(NamedTuple):
    """A parsed option: its tree, and whether help was asked for (`help` or `?` instead of a parameter)."""

    values: Tree
    help: bool = False


def parse(text: str, option: str, implied_key: str = "", into: Tree | None = None) -> KeyVal:
    """Parse one option and merge it into the tree of the options before it.

    `option` names the option in errors, `implied_key` is the key of a first parameter that has none, `into` is the tree
    of earlier options of the same name; it is left as it is, the result holds the merged tree.

    Raises:
        UsageError: no valid option, or one that contradicts itself or an earlier one.
    """
    if len(text) > MAX_OPTION_LENGTH:
        raise UsageError(option, f"the option is longer than {MAX_OPTION_LENGTH} characters")
    root = _copy(into or {})
    asked = False
    position = 0
    while position < len(text):
        first = position == 0
        end = _key_end(text, position)
        key = text[position:end]
        if key and text[end : end + 1] != "=":
            if key in ("help", "?"):
                asked = True
                position = end + 1
                continue
            if first and implied_key:
                _put(root, [implied_key], key, option, implied_key)
                position = end + 1
                continue
        fragments = _split_key(key, option)
        if text[end : end + 1] != "=":
            raise UsageError(option, f"there is no '=' after parameter '{_shown(key)}'", "write parameter=value")
        value_match = _VALUE.match(text, end + 1)
        value_end = value_match.end() if value_match else end + 1
        _put(root, fragments, text[end + 1 : value_end].replace(",,", ","), option, key)
        position = value_end + 1
    return KeyVal(_listify_members(root, "", option), asked)


def _key_end(text: str, position: int) -> int:
    found = _KEY_END.search(text, position)
    return found.start() if found else len(text)


def _split_key(key: str, option: str) -> list[str]:
    fragments: list[str] = []
    position = 0
    while True:
        found = (_INDEX.match(key, position) if fragments else None) or _NAME.match(key, position)
        if found is None or key[found.end() : found.end() + 1] not in ("", "."):
            raise UsageError(option, f"'{_shown(key)}' is no valid parameter name")
        if found.end() - position > MAX_FRAGMENT_LENGTH:
            raise UsageError(option, f"parameter name '{_shown(found[0])}' has over {MAX_FRAGMENT_LENGTH} characters")
        if len(fragments) == MAX_FRAGMENTS:
            raise UsageError(option, f"parameter '{_shown(key)}' has more than {MAX_FRAGMENTS} dotted parts")
        fragments.append(found[0])
        if found.end() == len(key):
            return fragments
        position = found.end() + 1


def _put(root: Tree, fragments: list[str], value: str, option: str, key: str) -> None:
    """Set a leaf of the tree. A place that is a leaf in one key and a branch in another is a contradiction."""
    branch = root
    for depth, fragment in enumerate(fragments[:-1], 1):
        below = branch.setdefault(fragment, {})
        if not isinstance(below, dict):
            raise _inconsistent(option, ".".join(fragments[:depth]) + ".")
        branch = below
    if not isinstance(branch.get(fragments[-1], ""), str):
        raise _inconsistent(option, key + ".")
    branch[fragments[-1]] = value


def _listify_members(branch: Tree, prefix: str, option: str) -> Tree:
    members: Tree = {}
    for key, value in branch.items():
        members[key] = _listify(value, f"{prefix}{key}.", option) if isinstance(value, dict) else value
    return members


def _listify(branch: Tree, prefix: str, option: str) -> Value:
    members = _listify_members(branch, prefix, option)
    positions = [key for key in members if _INDEX.fullmatch(key)]
    if not positions:
        return members
    if len(positions) != len(members):
        raise _inconsistent(option, prefix)
    # Two spellings of a position (0 and 00) would leave it to chance which value is taken.
    by_position = {key.lstrip("0") or "0": members[key] for key in positions}
    if len(by_position) != len(positions):
        raise _inconsistent(option, prefix)
    for position in range(len(positions)):
        if str(position) not in by_position:
            raise UsageError(option, f"parameter '{_shown(prefix)}{position}' missing", "a list counts from 0 on")
    return [by_position[str(position)] for position in range(len(positions))]


def _copy(tree: Tree) -> Tree:
    """A copy whose dictionaries can be changed; lists are final once the option that they came from is read."""
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _inconsistent(option: str, prefix: str) -> UsageError:
    return UsageError(
        option,
        f"parameters '{_shown(prefix)}*' used inconsistently",
        "give a list in one option only, and either numbers or names below a parameter",
    )


def _shown(text: str) -> str:
    return printable(text, _SHOWN)
