"""The report for a person at a terminal: a table of components, and each finding as a sentence with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sipl.reasons import Level
from sipl.report.text import closed_line, component_state, finding_message, verdict

if TYPE_CHECKING:
    from typing import TextIO

    from sipl.report.model import FindingReport, Report

_MARKS: Final = {Level.ERROR: ("✗", "bold red"), Level.WARNING: ("!", "bold yellow"), Level.INFO: ("✓", "green")}
_DIGEST_SHOWN: Final = 16  # hex digits that tell digests apart at a glance


def print_report(report: Report, command: str, *, verbose: bool, stream: TextIO | None = None) -> None:
    """Print to standard output or `stream`, in colour; nothing in it is taken for markup."""
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    style = {True: "bold green", False: "bold red", None: "bold yellow"}[report.would_boot]
    mark = {True: "✓", False: "✗", None: "?"}[report.would_boot]
    console.print(Text(f"{mark} {verdict(report, command)}", style=style))
    if report.components:
        console.print(Padding(_components(report, verbose=verbose), (1, 0, 1, 2)))
    closed = closed_line(report) if command == "verify" else ""
    if closed:
        console.print(Padding(Text(closed, style="green" if report.closed else "dim"), (0, 0, 1, 2)))
    for finding in report.findings:
        if verbose or finding.level is not Level.INFO:
            console.print(Padding(_finding(report, finding), (0, 0, 0, 2)))


def _components(report: Report, *, verbose: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column("address", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("part")
    table.add_column("state")
    table.add_column("certificate", overflow="fold")
    table.add_column("sha256", overflow="fold")
    names = {certificate.sha256: certificate.name for certificate in report.certificates}
    for component in report.components:
        style = "green" if component.verified else "red" if component.signed else ""
        digest = component.digest or ""
        table.add_row(
            Text(f"{component.address:#x}"),
            Text(f"{component.length}"),
            Text(component.part or ""),
            Text(component_state(component, report.reason), style=style),
            Text(names.get(component.certificate or "", "")),
            Text(digest if verbose else digest[:_DIGEST_SHOWN], style="dim"),
        )
    return table


def _finding(report: Report, finding: FindingReport) -> Text:
    mark, style = _MARKS[finding.level]
    text = Text()
    text.append(f"{mark} {finding.reason}", style=style)
    text.append(f"  {finding_message(report, finding)}")
    if finding.hint:
        text.append(f"\n  → {finding.hint}", style="dim")
    return text
