"""`sipl doctor`: each disk by itself, whether it boots in secure mode, and if not what is to be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.cli.options import Parser, add_disk_options, add_machine_options, said_secure_boot, settings
from sipl.cli.output import is_terminal, write_json, write_lines
from sipl.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sipl.doctor.model import Diagnosis


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 all will boot, 1 one will not, 2 one could not be examined."""
    parser = Parser(
        "doctor",
        "Say of each disk whether it will boot in secure mode, and if not what exactly is to be done, in order.",
        (
            "sipl doctor --boot-certs cert.pem disk.qcow2",
            "sipl doctor disk.qcow2",
            "sipl doctor --boot-certs certs/ --json *.qcow2",
        ),
    )
    parser.usage = "sipl doctor [OPTION…] DISK…"
    add_machine_options(parser)
    add_disk_options(parser)
    parser.option("--json", action="store_true", help="print each diagnosis as one line of JSON (sipl.diagnosis/1)")
    given = parser.parse_in_order(arguments)
    if not given.disks:
        raise UsageError("sipl doctor", "no disk is named", "see sipl doctor --help")
    if said_secure_boot(given) is False:
        raise UsageError("--secure-boot", "the doctor examines disks for secure mode", "leave it away, or say on")
    wanted = settings(given)
    from sipl.diagnosis import diagnose

    code = 0
    for disk in given.disks:
        diagnosis = diagnose(disk, wanted)
        _show(diagnosis, given)
        code = max(code, diagnosis.exit_code)
    return code


def _show(diagnosis: Diagnosis, given: argparse.Namespace) -> None:
    if given.json:
        from sipl.doctor.json_form import to_dict

        write_json(to_dict(diagnosis))
    elif is_terminal() and not given.quiet:
        from sipl.doctor.terminal import print_diagnosis

        print_diagnosis(diagnosis, verbose=given.verbose)
    else:
        from sipl.doctor.text import answer, diagnosis_lines

        write_lines([answer(diagnosis)] if given.quiet else diagnosis_lines(diagnosis, verbose=given.verbose))
