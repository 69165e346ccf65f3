"""`sipl boot`: one guest, the disks in boot order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.cli.options import Parser, add_disk_options, add_machine_options, settings
from sipl.ipl import boot

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 handed over, 1 not, 2 undecided."""
    parser = Parser(
        "boot",
        "IPL one guest from disks in boot order, up to the moment in which the loader would be entered.",
        (
            "sipl boot --secure-boot on --boot-certs cert.pem disk.qcow2",
            "sipl boot -M s390-ccw-virtio,secure-boot=on,boot-certs.0.path=certs/ disk.raw",
            "sipl boot --json first.qcow2 --device virtio-scsi --block-size 4096 second.raw",
        ),
    )
    parser.usage = "sipl boot [OPTION…] [DISK…]"
    add_machine_options(parser)
    add_disk_options(parser)
    parser.option("--engine", choices=("none",), default="none", help="who runs the guest after hand-over (none)")
    parser.option("--kernel", metavar="FILE", help="start this kernel instead of a disk's; it cannot be verified")
    parser.option("--json", action="store_true", help="print the report as JSON (sipl.report/1)")
    given = parser.parse_in_order(arguments)
    report = boot(given.disks, settings(given))
    from sipl.cli.show_report import show

    show(report, "boot", given)
    return report.exit_code
