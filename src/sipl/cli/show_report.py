"""A report on standard output or error, in the form that suits who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.cli.output import is_terminal, write_json, write_lines

if TYPE_CHECKING:
    import argparse
    from typing import TextIO

    from sipl.report.model import Report


def show(report: Report, command: str, given: argparse.Namespace, stream: TextIO | None = None) -> None:
    """Print a report as the options ask: `json`, `quiet`, `verbose`.

    JSON goes to standard output, everything else to `stream` if there is one.
    """
    if given.json:
        from sipl.report.json_form import to_dict

        write_json(to_dict(report))
        return
    if is_terminal(stream) and not given.quiet:
        from sipl.report.terminal import print_report

        print_report(report, command, verbose=given.verbose, stream=stream)
        return
    from sipl.report.text import report_lines, verdict

    if given.quiet:
        write_lines([verdict(report, command)], stream)
    else:
        write_lines(report_lines(report, command, verbose=given.verbose), stream)
