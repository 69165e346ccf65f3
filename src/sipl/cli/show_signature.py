"""`sipl show-signature`: the signature that a file carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.cli.main import EXIT_UNDECIDED, EXIT_YES
from sipl.cli.options import Parser
from sipl.cli.output import complain, write_json, write_lines
from sipl.errors import FileError, RefusedToStart
from sipl.machine.options import parse_time

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 all are well signed, 1 one is not, 2 one cannot be read."""
    parser = Parser(
        "show-signature",
        "Show the signature that each file carries, and what would keep a machine from accepting it. With certificates "
        "it is verified.",
        (
            "sipl show-signature vmlinuz",
            "sipl show-signature --boot-certs cert.pem stage3.bin vmlinuz",
            "sipl show-signature --json vmlinuz",
        ),
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a loader (stage3.bin) or a kernel image")
    parser.option(
        "--boot-certs",
        metavar="PATH",
        action="append",
        default=[],
        help="certificate (.pem) or directory of certificates; can be repeated",
    )
    parser.option("--at", metavar="TIME", help="judge certificates at this time: ISO 8601, @SECONDS or now")
    parser.option("--json", action="store_true", help="print each file as one line of JSON (sipl.signature/1)")
    given = parser.parse_intermixed_args(arguments)
    now = None if given.at is None else parse_time(given.at)
    from sipl.author.file_signature import show_signature, signature_dict, signature_lines

    code = EXIT_YES
    for file in given.files:
        try:
            view = show_signature(file, given.boot_certs, now)
        except FileError as error:
            complain(str(error))
            code = EXIT_UNDECIDED
            continue
        except RefusedToStart as refusal:
            complain(f"{refusal.reason}: {refusal}")
            return 1
        code = max(code, int(not view.good))
        if given.json:
            write_json(signature_dict(view))
        else:
            write_lines(signature_lines(view, quiet=given.quiet, verbose=given.verbose))
    return code
