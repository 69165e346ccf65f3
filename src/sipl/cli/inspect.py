"""`sipl inspect`: the boot map of a disk as a person wants to see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.cli.main import EXIT_UNDECIDED, EXIT_YES
from sipl.cli.options import Parser, add_disk_options
from sipl.cli.output import complain, is_terminal, write_json, write_lines
from sipl.errors import UndecidedError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sipl.settings import Disk
    from sipl.survey.model import BootMapView


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 all have a boot map, 1 one has none, 2 one cannot be read."""
    parser = Parser(
        "inspect",
        "Show the boot map of each disk: programs, components with addresses, sizes, digests, signatures, SCLABs, and "
        "where they lie on the disk. Nothing is verified.",
        ("sipl inspect disk.qcow2", "sipl inspect --json disk.qcow2", "sipl inspect --block-size 4096 disk.raw"),
    )
    parser.usage = "sipl inspect [OPTION…] DISK…"
    add_disk_options(parser)
    parser.option("--json", action="store_true", help="print each boot map as one line of JSON (sipl.boot-map/1)")
    given = parser.parse_in_order(arguments)
    if not given.disks:
        raise UsageError("sipl inspect", "no disk is named", "see sipl inspect --help")
    code = EXIT_YES
    for disk in given.disks:
        try:
            view = _inspect(disk, given)
        except UndecidedError as error:
            complain(str(error))
            code = EXIT_UNDECIDED
            continue
        code = max(code, int(view.fault is not None))
        _show(view, given)
    return code


def _inspect(disk: Disk, given: argparse.Namespace) -> BootMapView:
    from sipl.inspection import inspect

    allow = given.allow_backing or given.backing_folder is not None
    return inspect(disk, allow_backing=allow, backing_folder=given.backing_folder)


def _show(view: BootMapView, given: argparse.Namespace) -> None:
    if given.json:
        from sipl.survey.json_form import boot_map_dict

        write_json(boot_map_dict(view))
    elif is_terminal() and not given.quiet:
        from sipl.survey.terminal import print_boot_map

        print_boot_map(view, verbose=given.verbose)
    else:
        from sipl.survey.text import boot_map_lines

        lines = boot_map_lines(view, verbose=given.verbose)
        write_lines(line for number, line in enumerate(lines) if not given.quiet or number == 0)
