"""`sipl demo`: a key, a certificate and a signed disk; secure IPL of it, and the refusal after one byte was changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sipl.cli.options import Parser
from sipl.cli.output import write_lines
from sipl.ipl import boot
from sipl.machine.options import MachineOptions
from sipl.reasons import Outcome
from sipl.settings import Disk, Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sipl.report.model import Report


def run(arguments: Sequence[str]) -> int:
    """Run the command; exit code 0 if the disk handed over and the changed one was refused."""
    parser = Parser(
        "demo",
        "Make a key, a certificate and a disk with a signed guest, IPL it in secure mode, then change one byte of its "
        "kernel and show how secure mode refuses it.",
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

    files = make_demo(folder, int(time.time()))
    write_lines([f"made {files.key}, {files.certificate} and {files.disk}", ""])
    write_lines(["secure IPL of the disk:"])
    good = _ipl(files.disk, files.certificate, given)
    offset = flip_byte(files.disk)
    write_lines(["", f"the same after byte {offset:#x} of the disk, in its kernel, was changed:"])
    bad = _ipl(files.disk, files.certificate, given)
    if given.keep is not None:
        flip_byte(files.disk)  # what is left behind boots
    return 0 if good.outcome is Outcome.HANDS_OVER and bad.outcome is Outcome.STOPS else 1


def _ipl(disk: str, certificate: str, given: argparse.Namespace) -> Report:
    from sipl.cli.show_report import show

    machine = MachineOptions(secure_boot=True, boot_certs=(certificate,))
    report = boot([Disk(disk)], Settings(machine=machine))
    show(report, "boot", given)
    return report
