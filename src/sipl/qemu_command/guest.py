"""The guest of a command line: machine, memory, processors, what happens at its end (docs/qemu-command.md)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError
from sipl.machine import keyval
from sipl.machine.cpu_model import FACILITIES, parse_cpu
from sipl.machine.options import MachineOptions, parse_bool, parse_machine, parse_menu_timeout, parse_size
from sipl.qemu_command.allowed import (
    ACTIONS,
    BOOT,
    ICOUNT,
    MACHINE,
    MACHINE_REFUSED,
    RAM_BACKENDS,
    RAM_DROPPED,
    RAM_KEPT,
    check_accelerator,
    check_global,
    check_id,
    check_object,
    check_properties,
    refuse,
)
from sipl.qemu_command.values import (
    OptionValue,
    Syntax,
    help_asked,
    number,
    read_dotted,
    read_opts,
    read_pairs,
    write_list,
)
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sipl.machine.keyval import Tree as KeyTree
    from sipl.qemu_command.values import Node, Tree
    from sipl.qemu_command.words import CommandLine

OPTIONS: Final = (
    *("machine", "accel", "m", "mem-prealloc", "smp", "cpu", "boot", "object", "global", "icount"),
    *("action", "no-reboot", "no-shutdown", "watchdog-action", "S", "kernel", "initrd", "append"),
    *("daemonize", "pidfile"),
)

# The words of -machine that make a line one for sipl; QEMU takes an underscore for a hyphen.
_ASKS: Final = re.compile(r"secure[-_]boot|boot[-_]certs")
# Those of sipl's own that no QEMU gets.
SECURE: Final = ("secure-boot", "boot-certs")
_MACHINE: Final = "-machine"
DEFAULT_MEMORY: Final = 128 << 20
# More than a process can have.
MAX_DESCRIPTOR: Final = (1 << 20) - 1
# As many as the machine can have.
MAX_CPUS: Final = 248
_TOPOLOGY: Final = ("drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads")
_SMP: Final = frozenset({"cpus", "maxcpus", *_TOPOLOGY})
_UNPACK: Final = "unpack"
# Where QEMU's models are named otherwise, or are known to the accelerator only.
_HOST: Final = frozenset({"host", "max", "qemu"})
_SHOWN: Final = 80


class Machine(NamedTuple):
    """-machine in two parts: what sipl takes from it, and what QEMU gets."""

    options: MachineOptions
    passed: Tree
    memory_backend: str


class Memory(NamedTuple):
    """The guest's memory: bytes, properties of the backend that sipl's own should have, and notes on the others."""

    size: int
    properties: dict[str, bool]
    notes: tuple[str, ...]


class Actions(NamedTuple):
    """What the user wants to happen; the words are QEMU's own."""

    reboot: str = "reset"
    shutdown: str = "poweroff"
    panic: str = "shutdown"


class Boot(NamedTuple):
    """The boot menu, as `MachineOptions` has it."""

    menu: bool | None
    timeout_ms: int


def asks_for_verification(line: CommandLine) -> bool:
    """Whether -machine names secure-boot or boot-certs at all, whatever it says about them."""
    return any(_ASKS.search(word.value) for word in line.of("machine"))


def may_ask(argv: Sequence[str]) -> bool:
    """Whether a line whose words cannot be told apart could ask for it."""
    return any(_ASKS.search(text) for text in argv)


def merge_machine(line: CommandLine) -> KeyTree:
    """All -machine options together, with hyphens in the names of properties.

    Raises:
        UsageError: they contradict each other.
    """
    tree: KeyTree = {}
    keys: list[str] = []
    for word in line.of("machine"):
        tree, asked = keyval.parse(word.value, _MACHINE, "type", tree)
        if asked:
            raise help_asked(_MACHINE)
        keys += [key for key, _ in read_pairs(word.where, word.value, "type") if _ASKS.match(key)]
    # QEMU takes the last one; here nobody is to lose the verification that he has asked for a moment before.
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UsageError(_MACHINE, f"parameter '{printable(twice, _SHOWN)}' is given twice", "give it once")
    named = {key.replace("_", "-"): value for key, value in tree.items()}
    if len(named) != len(tree):
        raise UsageError(_MACHINE, "a property is given with a hyphen and with an underscore", "give it once")
    return named


def is_verified(tree: KeyTree) -> bool:
    """Whether a machine is to verify anything.

    Raises:
        UsageError: what it says about that is not possible.
    """
    options = _machine_options({key: node for key, node in tree.items() if key in SECURE})
    return options.secure_boot or bool(options.boot_certs)


def read_machine(tree: KeyTree) -> Machine:
    """A machine that is to verify something.

    Raises:
        UsageError: it has a property that is not allowed.
    """
    for key, why in MACHINE_REFUSED.items():
        if key in tree:
            raise UsageError(_MACHINE, f"'{key}' is not taken here: {why}")
    value = OptionValue(_MACHINE, Syntax.DOTTED, "type", {key: _node(node) for key, node in tree.items()})
    check_properties(_MACHINE, "the machine", tree, MACHINE | {*SECURE, "memory-backend"})
    for name in value.text("accel").split(":") if "accel" in tree else ():
        check_accelerator(f"{_MACHINE} accel", name)
    mine = {key: node for key, node in tree.items() if key in ("type", "loadparm", *SECURE)}
    passed = value.without(*SECURE, "memory-backend").members
    return Machine(_machine_options(mine), passed, value.text("memory-backend"))


def _machine_options(tree: KeyTree) -> MachineOptions:
    flat = OptionValue(_MACHINE, Syntax.DOTTED, "type", {key: _node(node) for key, node in tree.items()}).write()
    try:
        return parse_machine([flat], MachineOptions())
    except UsageError as error:
        raise UsageError(error.where.replace("--machine", _MACHINE), error.why, error.hint) from None


def _node(value: keyval.Value) -> Node:
    if isinstance(value, dict):
        return {key: _node(member) for key, member in value.items()}
    return [_node(member) for member in value] if isinstance(value, list) else value


def without_secure_boot(line: CommandLine) -> tuple[str, ...]:
    """The line for a QEMU that does not know secure IPL: secure-boot, which is off, is taken out of it.

    Raises:
        UsageError: as `merge_machine`.
    """
    from sipl.qemu_command.words import takes_value

    rest: list[str] = []
    words = iter(line.rest)
    for text in words:
        rest.append(text)
        option = text.lstrip("-") if text.startswith("-") else ""
        if option in ("machine", "M"):
            tree = {
                key: _node(node)
                for key, node in keyval.parse(next(words), _MACHINE, "type").values.items()
                if key.replace("_", "-") not in SECURE
            }
            if tree:
                rest.append(OptionValue(_MACHINE, Syntax.DOTTED, "type", tree).write())
            else:
                rest.pop()
        elif takes_value(option):
            rest.append(next(words))
    return tuple(rest)


def read_memory(line: CommandLine, backend: str) -> tuple[Memory, list[str]]:
    """The memory, and the words for all other objects.

    Raises:
        UsageError: it is none that the machine can have, there is more than one, or an object is not allowed.
    """
    size = _stated_size(line)
    properties: dict[str, bool] = {"prealloc": True} if line.has("mem-prealloc") else {}
    notes: list[str] = []
    words: list[str] = []
    found = False
    for value in (read_dotted(word.where, word.value, "qom-type") for word in line.of("object")):
        name = value.text("id")
        check_id(value.where, name)
        kind = value.text("qom-type")
        if kind in RAM_BACKENDS and name == backend and backend and not found:
            found = True
            size = _backend_size(value, size)
            check_properties(value.where, kind, value.members, RAM_KEPT | RAM_DROPPED | {"id", "qom-type", "size"})
            properties |= {key: value.flag(key) for key in value.members if key in RAM_KEPT}
            dropped = sorted(RAM_DROPPED.intersection(value.members))
            if dropped:
                notes.append(f"-object {kind}: sipl's own memory takes its place, without {', '.join(dropped)}")
            continue
        if kind in RAM_BACKENDS:
            raise refuse(f"-object {kind}", "the guest has its main memory only, which -machine memory-backend= names")
        check_object(value.where, kind, value.members)
        words += ["-object", value.write()]
    if backend and not found:
        name = printable(backend, _SHOWN)
        raise UsageError(_MACHINE, f"there is no memory '{name}'", "name it with -object memory-backend-ram,id=")
    return Memory(DEFAULT_MEMORY if size is None else size, properties, tuple(notes)), words


def _stated_size(line: CommandLine) -> int | None:
    text = ""
    for word in line.of("m"):
        value = read_opts(word.where, word.value, "size")
        check_properties(word.where, "memory", value.members, frozenset({"size", "maxmem", "slots"}))
        if "maxmem" in value.members or "slots" in value.members:
            raise refuse(word.where, "memory that comes later, with maxmem or slots, is not sipl's")
        text = value.text("size", text)
    return parse_size(text, "-m") if text else None


def _backend_size(value: OptionValue, stated: int | None) -> int:
    """The size of a backend is in bytes, unlike that of -m."""
    text = value.text("size")
    if text.isascii() and text.isdecimal():
        if len(text) > 18 or int(text) % 1024:
            raise UsageError(value.where, "the size of the memory is no whole number of KiB")
        text = f"{int(text) // 1024}K"
    size = parse_size(text, f"{value.where} size")
    if stated is not None and stated != size:
        raise UsageError("-m", "the size is another one than that of the memory backend", "say it in one place")
    return size


def read_cpus(line: CommandLine) -> tuple[int, list[str]]:
    """Number of CPUs at the start, and the words for it.

    Raises:
        UsageError: it is none.
    """
    members: Tree = {}
    for word in line.of("smp"):
        value = read_opts(word.where, word.value, "cpus")
        check_properties(word.where, "processors", value.members, _SMP)
        members |= value.members
    if not members:
        return 1, []
    value = OptionValue("-smp", Syntax.OPTS, "cpus", members)
    counts = {key: number(value.where, key, value.text(key), MAX_CPUS) for key in members}
    cpus = counts.get("cpus") or counts.get("maxcpus") or 1
    if "cpus" not in counts and "maxcpus" not in counts:
        for name in _TOPOLOGY:
            cpus *= counts.get(name) or 1
    if cpus > MAX_CPUS:
        raise UsageError(value.where, f"{cpus} processors are more than the machine can have", f"at most {MAX_CPUS}")
    return cpus, ["-smp", value.write()]


def read_cpu(line: CommandLine, *, unpack: bool) -> tuple[str, list[str]]:
    """The model for sipl's own boot side, and the words for QEMU's.

    sipl brings the facilities of secure IPL itself, whatever model QEMU has; the line can only switch them off. Without
    `unpack` the guest cannot become one of protected virtualization, whose image sipl cannot verify.

    Raises:
        UsageError: there is no such model or feature, or it is `unpack`, which was not allowed.
    """
    texts = [word.value for word in line.of("cpu")]
    if not texts:
        # The model is that of the accelerator, which may be chosen late.
        return "qemu", [] if unpack else ["-global", f"s390x-cpu.{_UNPACK}=off"]
    name, *switches = texts[-1].split(",")
    features = [text for text in switches if text.partition("=")[0] != "migratable"]
    model = parse_cpu(",".join(["qemu" if name == "host" else name, *features]), "-cpu")
    said = dict(_switch(text) for text in features)
    if said.get(_UNPACK) and not unpack:
        raise UsageError(
            "-cpu", "with 'unpack' the guest starts an image that sipl cannot verify", "add --allow-unpack"
        )
    off = [f"{facility}=off" for facility in FACILITIES if said.get(facility) is False]
    # With a named model `els` is one of QEMU's own features, as it has been for long.
    mine = FACILITIES if model.name in _HOST else FACILITIES[1:]
    kept = [text for text in switches if text.lstrip("+-").partition("=")[0] not in mine]
    if not unpack:
        kept = [*(text for text in kept if text.lstrip("+-").partition("=")[0] != _UNPACK), f"{_UNPACK}=off"]
    return ",".join(["qemu", *off]), ["-cpu", ",".join([name, *kept])]


def _switch(text: str) -> tuple[str, bool]:
    """A feature and whether it is on; `parse_cpu` has looked at it."""
    if text.startswith(("+", "-")):
        return text[1:], text.startswith("+")
    name, _, value = text.partition("=")
    return name, parse_bool(value, "-cpu")


def read_boot(line: CommandLine) -> tuple[Boot, list[str]]:
    """The boot menu, and the words of -boot.

    Raises:
        UsageError: it says something that is not known.
    """
    members: Tree = {}
    for word in line.of("boot"):
        value = read_opts(word.where, word.value, "order")
        check_properties(word.where, "-boot", value.members, BOOT)
        members |= value.members
    value = OptionValue("-boot", Syntax.OPTS, "", members)
    menu = value.flag("menu") if "menu" in members else None
    timeout = value.text("splash-time")
    boot = Boot(menu, parse_menu_timeout(timeout, "-boot splash-time") if timeout else 0)
    return boot, ["-boot", value.write()] if members else []


def read_actions(line: CommandLine) -> tuple[Actions, list[str]]:
    """What the user wants to happen, and the words for that which is none of sipl's business.

    Raises:
        UsageError: it is nothing that QEMU knows.
    """
    found = {"reboot": "reset", "shutdown": "poweroff", "panic": "shutdown"}
    known = {
        "reboot": ("reset", "shutdown"),
        "shutdown": ("poweroff", "pause"),
        "panic": ("pause", "shutdown", "exit-failure", "none"),
    }
    words: list[str] = []
    for word in line.of("action", "no-reboot", "no-shutdown", "watchdog-action"):
        if word.option == "watchdog-action":
            words += ["-action", write_list({"watchdog": word.value})]
            continue
        text = {"no-reboot": "reboot=shutdown", "no-shutdown": "shutdown=pause"}.get(word.option, word.value)
        value = read_opts(word.where, text)
        check_properties(word.where, "-action", value.members, ACTIONS)
        for event in value.members:
            wish = value.text(event)
            if event == "watchdog":
                words += ["-action", write_list({event: wish})]
            elif wish in known[event]:
                found[event] = wish
            else:
                options = " or ".join(known[event])
                raise UsageError(word.where, f"'{printable(wish, _SHOWN)}' is nothing to do at {event}", options)
    return Actions(**found), words


def read_others(line: CommandLine) -> list[str]:
    """The words of -accel, -global and -icount.

    Raises:
        UsageError: one is not allowed.
    """
    words: list[str] = []
    for word in line.of("accel"):
        value = read_dotted(word.where, word.value, "accel")
        check_accelerator(word.where, value.text("accel"), value.without("accel").members)
        words += ["-accel", value.write()]
    for word in line.of("icount"):
        value = read_opts(word.where, word.value, "shift")
        check_properties(word.where, "-icount", value.members, ICOUNT)
        words += ["-icount", value.write()]
    for word in line.of("global"):
        words += ["-global", write_list(_global(word.where, word.value))]
    return words


def _global(where: str, text: str) -> dict[str, str]:
    """A default, in one of the two ways that there are."""
    found = re.fullmatch(r"([A-Za-z0-9-]{1,64})\.([A-Za-z0-9_-]{1,64})=(.*)", text, re.DOTALL)
    if found is not None:
        members = {"driver": found[1], "property": found[2], "value": found[3]}
    else:
        value = read_opts(where, text)
        check_properties(where, "-global", value.members, frozenset({"driver", "property", "value"}))
        members = {key: value.text(key) for key in ("driver", "property", "value")}
    check_global(where, members["driver"], members["property"])
    return members


def read_pid_file(line: CommandLine) -> str | None:
    """Where the number of the process goes: sipl's, as that of a QEMU process changes with each IPL."""
    return next((word.value for word in reversed(list(line.of("pidfile")))), None)


def read_kernel(line: CommandLine) -> str | None:
    """A kernel given directly, which sipl refuses or loads itself.

    Raises:
        UsageError: something comes with it that sipl does not load.
    """
    kernels = [word.value for word in line.of("kernel")]
    for word in line.of("initrd", "append"):
        raise refuse(word.where, "a kernel that is given directly is loaded alone")
    return kernels[-1] if kernels else None


def descriptor_sets(line: CommandLine) -> tuple[dict[int, list[int]], list[str]]:
    """Descriptors that the line puts into sets, and the words for them.

    Raises:
        UsageError: one is no number.
    """
    sets: dict[int, list[int]] = {}
    words: list[str] = []
    for word in line.of("add-fd"):
        value = read_opts(word.where, word.value)
        check_properties(word.where, "-add-fd", value.members, frozenset({"fd", "set", "opaque"}))
        fd, group = (number(word.where, key, value.text(key), MAX_DESCRIPTOR) for key in ("fd", "set"))
        sets.setdefault(group, []).append(fd)
        words += ["-add-fd", value.write()]
    return sets, words
