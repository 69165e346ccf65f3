"""`sipl verify`: each disk by itself, all findings, and the verdict of secure mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.cli.options import Parser, add_disk_options, add_machine_options, said_secure_boot, settings
from sipl.errors import UsageError
from sipl.ipl import verify
from sipl.reasons import Mode

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 all would boot, 1 one would not, 2 one could not be decided."""
    parser = Parser(
        "verify",
        "Judge each disk by itself: would it boot in secure mode, and everything that speaks against it.",
        (
            "sipl verify --boot-certs cert.pem disk.qcow2",
            "sipl verify --boot-certs certs/ --at 2027-01-01T00:00:00Z *.qcow2",
            "sipl verify --mode audit --boot-certs cert.pem --json disk.raw",
        ),
    )
    parser.usage = "sipl verify [OPTION…] DISK…"
    parser.option("--mode", choices=("secure", "audit"), help="the mode whose verdict counts (default: secure)")
    add_machine_options(parser)
    add_disk_options(parser)
    parser.option("--json", action="store_true", help="print each report as one line of JSON (sipl.report/1)")
    given = parser.parse_in_order(arguments)
    if not given.disks:
        raise UsageError("sipl verify", "no disk is named", "see sipl verify --help")
    wanted = settings(given)
    mode = _mode(given)
    codes = []
    for disk in given.disks:
        report = verify(disk, wanted, mode)
        from sipl.cli.show_report import show

        show(report, "verify", given)
        codes.append(report.exit_code)
    return max(codes)


def _mode(given: argparse.Namespace) -> Mode:
    """Secure mode, unless audit is asked for in one way or the other."""
    said = said_secure_boot(given)
    if given.mode is None:
        return Mode.AUDIT if said is False else Mode.SECURE
    if said is not None and said != (given.mode == Mode.SECURE):
        switch = "on" if said else "off"
        raise UsageError(
            "--mode", f"{given.mode} mode and secure-boot={switch} contradict each other", "say it in one place"
        )
    return Mode(given.mode)
