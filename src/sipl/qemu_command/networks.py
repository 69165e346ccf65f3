"""The networks of a command line, and the descriptors that they have (docs/qemu-command.md).

A packet is data like any other, so nothing is judged but who carries it. What one process alone can use, a descriptor
of vhost for example, is left out: the guest's next IPL is another process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.qemu_command.allowed import check_id, check_netdev, refuse
from sipl.qemu_command.guest import MAX_DESCRIPTOR
from sipl.qemu_command.values import number, read_json, read_pairs, scalar, write_json, write_pairs

if TYPE_CHECKING:
    from sipl.qemu_command.values import Tree
    from sipl.qemu_command.words import CommandLine

OPTIONS: Final = ("netdev", "nic", "net")
_VHOST_FDS: Final = ("vhostfd", "vhostfds")
# What makes no sense without them.
_VHOST: Final = (*_VHOST_FDS, "vhost", "vhostforce")
_FDS: Final = ("fd", "fds")
_MEMORY_SHARED: Final = "vhost-user"  # a property of passt
_OFF: Final = ("off", "no", "n", "false")
# Both ends of a stream or of datagrams may be a descriptor.
_ADDRESSES: Final = ("addr", "local", "remote")


class Networks(NamedTuple):
    """Words for all networks, descriptors that they need, and notes on what was left out."""

    words: list[str]
    descriptors: list[int]
    notes: list[str]


def read_networks(line: CommandLine) -> Networks:
    """Judge all networks.

    Raises:
        UsageError: one is not allowed, or a descriptor is no number.
    """
    networks = Networks([], [], [])
    for word in line.of(*OPTIONS):
        if word.value.startswith("{"):
            tree = read_json(word.where, word.value)
            left_out = any(key in tree for key in _VHOST_FDS)
            if left_out:
                tree = {key: node for key, node in tree.items() if key not in _VHOST}
            text = write_json(tree)
            pairs = _pairs(word.where, tree)
        else:
            pairs = read_pairs(word.where, word.value, "type")
            left_out = any(key in _VHOST_FDS for key, _ in pairs)
            if left_out:
                pairs = [(key, value) for key, value in pairs if key not in _VHOST]
            text = write_pairs(pairs, "type")
        if left_out:
            networks.notes.append(f"{word.where}: a descriptor of vhost is good for one QEMU process; it is left out")
        _judge(word.where, pairs, networks.descriptors)
        networks.words.extend((word.where, text))
    return networks


def _judge(where: str, pairs: list[tuple[str, str]], descriptors: list[int]) -> None:
    for kind in [value for key, value in pairs if key == "type"] or [""]:
        check_netdev(where, kind)
    ends = {key.removesuffix(".type") for key, value in pairs if key.endswith(".type") and value == "fd"}
    for key, value in pairs:
        if key == "id":
            check_id(where, value)
        elif key == _MEMORY_SHARED and value not in _OFF:
            raise refuse(where, "another process would have the guest's memory")
        elif key in _FDS:
            descriptors.extend(number(where, key, text, MAX_DESCRIPTOR) for text in value.split(":"))
        elif key.endswith(".str") and key.removesuffix(".str") in ends:
            descriptors.append(number(where, key, value, MAX_DESCRIPTOR))


def _pairs(where: str, tree: Tree) -> list[tuple[str, str]]:
    """What is to be judged of a network that is written in JSON."""
    pairs: list[tuple[str, str]] = [
        (key, scalar(where, key, tree[key])) for key in ("type", "id", _MEMORY_SHARED, *_FDS) if key in tree
    ]
    for end in _ADDRESSES:
        address = tree.get(end)
        if isinstance(address, dict):
            pairs += [
                (f"{end}.{key}", scalar(where, key, node)) for key, node in address.items() if key in ("type", "str")
            ]
    return pairs
