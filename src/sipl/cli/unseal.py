"""`sipl unseal`: put the boot record back that `sipl seal` replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.cli.main import EXIT_YES
from sipl.cli.options import Parser, add_disk_options
from sipl.cli.output import complain, write_json, write_lines
from sipl.errors import SealRefused, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sipl.settings import Disk

EXIT_REFUSED: Final = 1


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 all are unsealed, 1 one is refused, 2 usage, or an I/O error."""
    parser = Parser(
        "unseal",
        "Put back the boot record that sipl seal replaced: the first 152 bytes of block 0, and nothing else. Refused "
        "where the boot record is not the one that sipl seal wrote.",
        ("sipl unseal disk.qcow2", "sipl unseal --dry-run disk.qcow2"),
    )
    parser.usage = "sipl unseal [OPTION…] IMAGE…"
    parser.option("--dry-run", action="store_true", help="only say whether it can be done")
    add_disk_options(parser)
    parser.option("--json", action="store_true", help="print each report as one line of JSON (sipl.unseal/1)")
    given = parser.parse_in_order(arguments)
    if not given.disks:
        raise UsageError("sipl unseal", "no disk is named", "see sipl unseal --help")
    return max(_unseal(disk, given) for disk in given.disks)


def _unseal(disk: Disk, given: argparse.Namespace) -> int:
    from sipl.author.seal_report import UNSEAL_SCHEMA, refusal_dict, unseal_dict, unseal_lines
    from sipl.author.sealing import SealOptions, unseal

    options = SealOptions(
        dry_run=given.dry_run,
        allow_backing=given.allow_backing or given.backing_folder is not None,
        backing_folder=given.backing_folder,
    )
    try:
        report = unseal(disk, options)
    except SealRefused as refusal:
        if given.json:
            write_json(refusal_dict(UNSEAL_SCHEMA, disk, refusal))
        else:
            complain(f"{refusal.reason}: {refusal}")
        return EXIT_REFUSED
    if given.json:
        write_json(unseal_dict(report))
    else:
        write_lines(unseal_lines(report))
    return EXIT_YES
