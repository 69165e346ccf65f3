"""`sipl demo`: a key, a certificate and a signed disk; its guest runs in secure mode, and not with one byte changed."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from sipl.cli.guest_run import GuestRun, is_there
from sipl.cli.options import Parser
from sipl.cli.output import write_lines
from sipl.cli.terminal_console import Console, Input, Output
from sipl.engine.base import EndKind
from sipl.ipl import boot
from sipl.machine.options import MachineOptions
from sipl.reasons import Outcome
from sipl.settings import Disk, Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sipl.report.model import Report

# The demo guest writes ten lines: on a machine that takes longer something is wrong.
_PATIENCE: Final = 60


def run(arguments: Sequence[str]) -> int:
    """Run the command; exit code 0 if the guest ran to its end and the changed disk was refused."""
    parser = Parser(
        "demo",
        "Make a key, a certificate and a disk with a signed guest, IPL it in secure mode and run it, then change one "
        "byte of its kernel and show how secure mode refuses it.",
        ("sipl demo", "sipl demo --keep demo-files"),
    )
    parser.option("--keep", metavar="DIR", help="write the files into DIR and leave them there")
    given = parser.parse_args(arguments)
    given.json = False
    if given.keep is not None:
        return _demo(given.keep, given)
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="sipl-demo-") as folder:
        return _demo(folder, given)


def _demo(folder: str, given: argparse.Namespace) -> int:
    from sipl.author.demo import flip_byte, make_demo

    guest = _guest(given) if is_there() else None
    files = make_demo(folder, int(time.time()))
    write_lines([f"made {files.key}, {files.certificate} and {files.disk}", ""])
    write_lines(["secure IPL of the disk:"])
    good = _ipl(files.disk, files.certificate, guest, given)
    offset = flip_byte(files.disk)
    write_lines(["", f"the same after byte {offset:#x} of the disk, in its kernel, was changed:"])
    bad = _ipl(files.disk, files.certificate, guest, given)
    if given.keep is not None:
        flip_byte(files.disk)  # what is left behind boots
    done = guest is None or (guest.end is not None and guest.end.kind is EndKind.DONE)
    return 0 if good.outcome is Outcome.HANDS_OVER and done and bad.outcome is Outcome.STOPS else 1


def _guest(given: argparse.Namespace) -> GuestRun:
    return GuestRun(Console(Input(), None if given.quiet else Output(sys.stdout)), _PATIENCE)


def _ipl(disk: str, certificate: str, guest: GuestRun | None, given: argparse.Namespace) -> Report:
    from sipl.cli.show_report import show

    shown: list[Report] = []

    def announce(report: Report) -> None:
        shown.append(report)
        show(report, "boot", given)
        if not given.quiet:
            write_lines(["", "the guest runs; its console:"])
        sys.stdout.flush()

    machine = MachineOptions(secure_boot=True, boot_certs=(certificate,))
    report = boot([Disk(disk)], Settings(machine=machine), guest, announce)
    if report not in shown:
        show(report, "boot", given)
    if report.outcome is Outcome.HANDS_OVER and not given.quiet:
        write_lines([_end(guest)])
    return report


def _end(guest: GuestRun | None) -> str:
    if guest is None:
        return "the guest does not run, as the Python package unicorn is missing (pip install unicorn)"
    return guest.end.message if guest.end is not None else ""
