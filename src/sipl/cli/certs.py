"""`sipl certs`: the certificate store as the guest will see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.cli.main import EXIT_YES
from sipl.cli.options import Parser
from sipl.cli.output import is_terminal, write_json, write_lines
from sipl.errors import UsageError
from sipl.machine.options import parse_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sipl.reasons import Reason
    from sipl.survey.model import CertificateView


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 all are valid, 1 one is not or the store is refused, 2 usage."""
    parser = Parser(
        "certs",
        "Show the certificates that the paths give, as a guest will find them in its certificate store.",
        ("sipl certs cert.pem", "sipl certs --at 2030-01-01T00:00:00Z certs/", "sipl certs --json certs/ more.pem"),
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="certificate (.pem) or directory of certificates")
    parser.option("--at", metavar="TIME", help="judge validity at this time: ISO 8601, @SECONDS or now")
    parser.option("--json", action="store_true", help="print the store as one line of JSON (sipl.certificates/1)")
    given = parser.parse_args(arguments)
    now = None if given.at is None else parse_time(given.at)
    from sipl.errors import RefusedToStart
    from sipl.inspection import certificates

    notes: list[str] = []

    def warn(reason: Reason, where: str, why: str, what_to_do: str) -> None:
        notes.append(f"warning: {reason}: {UsageError(where, why, what_to_do)}")

    refusal = None
    views: tuple[CertificateView, ...] = ()
    try:
        views = certificates(given.paths, now, warn)
    except RefusedToStart as error:
        refusal = error
        notes.append(f"error: {error.reason}: {error}")
    if given.json:
        from sipl.survey.json_form import certificates_dict

        write_json(certificates_dict(views, None if refusal is None else refusal.reason, notes))
    else:
        if is_terminal() and not given.quiet and views:
            from sipl.survey.terminal import print_certificates

            print_certificates(views, verbose=given.verbose)
        else:
            from sipl.survey.text import certificate_lines

            write_lines(certificate_lines(views, quiet=given.quiet, verbose=given.verbose))
        write_lines(notes)
    good = refusal is None and all(view.valid for view in views) and bool(views)
    return EXIT_YES if good else 1
