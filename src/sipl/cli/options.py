"""The options that boot, verify and inspect share, and how they become disks and settings."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from sipl.errors import UsageError
from sipl.machine.boot_devices import DeviceKind, device_kind
from sipl.machine.options import (
    DEFAULT_MEMORY,
    MachineOptions,
    parse_bool,
    parse_loadparm,
    parse_machine,
    parse_menu_timeout,
    parse_size,
    parse_time,
)
from sipl.settings import Disk, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class _Writable(Protocol):
        def write(self, text: str, /) -> object: ...


_DISK_OPTION: Final = "--disk-image"
_HELP_WIDTH: Final = 100


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help of a fixed width: argparse makes a formatter for every option, and would look at the terminal each time."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_HELP_WIDTH)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError`, and keeps positional words in order with the options around them."""

    def __init__(self, command: str, what: str, examples: Sequence[str]) -> None:
        self._takes_value: dict[str, bool] = {}
        epilog = "examples:\n" + "\n".join(f"  {example}" for example in examples)
        super().__init__(
            prog=f"sipl {command}",
            description=what,
            epilog=epilog,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.option("-q", "--quiet", action="store_true", help="only the verdict")
        self.option("-v", "--verbose", action="store_true", help="also what is in order")

    def option(self, *names: str, **keywords: object) -> None:
        """Add an option."""
        action = self.add_argument(*names, **keywords)  # type: ignore[arg-type] # passed on as they are
        for name in action.option_strings:
            self._takes_value[name] = action.nargs != 0

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a usage text and leaving."""
        raise UsageError(self.prog, message, f"see {self.prog} --help")

    def _print_message(self, message: str, file: _Writable | None = None) -> None:
        """Show the help; argparse would keep silent where it cannot be written."""
        (file or sys.stderr).write(message)

    def parse_in_order(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse options and disks so that a disk sees the options that stand before it."""
        return self.parse_args(self._name_disks(arguments))

    def _name_disks(self, arguments: Sequence[str]) -> list[str]:
        """Write every positional word as an option, which argparse handles in the order of the command line."""
        named: list[str] = []
        words = iter(arguments)
        for word in words:
            if word == "--":
                named.extend(f"{_DISK_OPTION}={disk}" for disk in words)
            elif not word.startswith("-") or word == "-":
                named.append(f"{_DISK_OPTION}={word}")
            else:
                named.append(word)
                if self._takes_value.get(word):
                    named.extend(value for value in [next(words, None)] if value is not None)
        return named


class _AddDisk(argparse.Action):
    """Collects a disk with the kind and the block size that hold at its place."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse for each disk."""
        if not values:
            raise UsageError(parser.prog, "the name of a disk is empty", "name an image file")
        disk = Disk(os.fspath(str(values)), namespace.device, namespace.block_size)
        namespace.disks = [*namespace.disks, disk]


def add_disk_options(parser: Parser) -> None:
    """Options that say what a disk image is."""
    parser.option(_DISK_OPTION, dest="disks", action=_AddDisk, default=[], help=argparse.SUPPRESS)
    parser.option(
        "--device",
        metavar="KIND",
        type=device_kind,
        default=DeviceKind.VIRTIO_BLK,
        help="kind of the disks that follow: virtio-blk (default), virtio-scsi, scsi-cd",
    )
    parser.option(
        "--block-size",
        metavar="BYTES",
        type=_block_size,
        default=None,
        help="logical block size of the disks that follow, 512 to 4096 (default: found out)",
    )
    parser.option(
        "--allow-backing",
        action="store_true",
        help="let a qcow2 image name a backing or data file in its own folder",
    )
    parser.option(
        "--backing-folder",
        metavar="DIR",
        help="let it lie in DIR instead (implies --allow-backing)",
    )


def add_machine_options(parser: Parser) -> None:
    """Options that say what the machine is."""
    parser.option(
        "-M", "--machine", metavar="OPTS", action="append", default=[], help="machine options as QEMU writes them"
    )
    parser.option("--secure-boot", metavar="on|off", help="secure mode (default: off for boot, on for verify)")
    parser.option(
        "--boot-certs",
        metavar="PATH",
        action="append",
        default=[],
        help="certificate (.pem) or directory of certificates; can be repeated",
    )
    parser.option("--loadparm", metavar="X", default="", help="number of the program to boot, or PROMPT for a menu")
    parser.option("--memory", metavar="SIZE", help="size of guest memory (default: 512M)")
    parser.option("--cpu", metavar="SPEC", default="qemu", help="CPU model with features (default: qemu)")
    parser.option("--boot-menu", metavar="on|off", help="show the boot menu of a disk")
    parser.option(
        "--boot-menu-timeout", metavar="MS", help="how long the boot menu waits, in milliseconds (default: for ever)"
    )
    parser.option("--choose", metavar="N", type=_number, help="answer of the boot menu")
    parser.option("--at", metavar="TIME", help="judge certificates at this time: ISO 8601, @SECONDS or now")


def _block_size(text: str) -> int:
    if text not in ("512", "1024", "2048", "4096"):
        raise UsageError("--block-size", f"'{text}' is not possible", "one of 512, 1024, 2048, 4096")
    return int(text)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4:
        raise UsageError("--choose", f"'{text}' is no entry of a menu", "a number from 0 to 30")
    return int(text)


def machine_options(arguments: argparse.Namespace) -> MachineOptions:
    """The machine's options from the plain ones and from those in QEMU's syntax.

    Raises:
        UsageError: a value is not possible, or the two ways contradict each other.
    """
    plain = MachineOptions(
        secure_boot=arguments.secure_boot is not None and parse_bool(arguments.secure_boot, "--secure-boot"),
        boot_certs=tuple(arguments.boot_certs),
        loadparm=parse_loadparm(arguments.loadparm),
        boot_menu=None if arguments.boot_menu is None else parse_bool(arguments.boot_menu, "--boot-menu"),
        boot_menu_timeout_ms=0
        if arguments.boot_menu_timeout is None
        else parse_menu_timeout(arguments.boot_menu_timeout),
        memory=DEFAULT_MEMORY if arguments.memory is None else parse_size(arguments.memory),
    )
    if not arguments.machine:
        return plain
    both = parse_machine(arguments.machine, plain)
    if plain.boot_certs and both.boot_certs != plain.boot_certs:
        raise UsageError("--boot-certs", "certificates are named here and in --machine", "name them in one place")
    if arguments.secure_boot is not None and both.secure_boot != plain.secure_boot:
        raise UsageError("--secure-boot", "it says otherwise than --machine", "say it in one place")
    if arguments.loadparm and both.loadparm != plain.loadparm:
        raise UsageError("--loadparm", "it says otherwise than --machine", "say it in one place")
    return both


def said_secure_boot(arguments: argparse.Namespace) -> bool | None:
    """What the options say about secure-boot; None if neither the plain one nor QEMU's says anything.

    Raises:
        UsageError: a value is not possible.
    """
    if arguments.secure_boot is not None:
        return parse_bool(arguments.secure_boot, "--secure-boot")
    # A switch that is named decides, whatever was set before.
    off, on = (parse_machine(arguments.machine, MachineOptions(secure_boot=base)).secure_boot for base in (False, True))
    return on if on == off else None


def settings(arguments: argparse.Namespace) -> Settings:
    """All settings of a command line.

    Raises:
        UsageError: as `machine_options`.
    """
    return Settings(
        machine=machine_options(arguments),
        cpu=arguments.cpu,
        kernel=getattr(arguments, "kernel", None),
        at=None if arguments.at is None else parse_time(arguments.at),
        choose=_chooser(arguments.choose),
        allow_backing=arguments.allow_backing or arguments.backing_folder is not None,
        backing_folder=arguments.backing_folder,
    )


def _chooser(chosen: int | None) -> _Chooser | None:
    if chosen is not None:
        return _Chooser(chosen)
    return _Chooser(None) if os.isatty(0) and os.isatty(2) else None


class _Chooser:
    """Answers the boot menu: with the number of the command line, or by asking on the terminal."""

    def __init__(self, chosen: int | None) -> None:
        self._chosen = chosen

    def __call__(self, entries: Sequence[int], timeout: int) -> int:
        """Return the number of the chosen entry."""
        if self._chosen is not None:
            return self._chosen
        from sipl.cli.menu import ask

        return ask(entries, timeout)
