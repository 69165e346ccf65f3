"""A diagnosis for a person at a terminal; nothing in it is taken for markup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sipl.doctor.text import answer, closed_text, verified_line
from sipl.reasons import Level
from sipl.text import some_of

if TYPE_CHECKING:
    from sipl.doctor.model import Diagnosis, Problem

_MARKS: Final = {Level.ERROR: ("✗", "bold red"), Level.WARNING: ("!", "bold yellow"), Level.INFO: ("·", "dim")}


def print_diagnosis(diagnosis: Diagnosis, *, verbose: bool) -> None:
    """Print to standard output, in colour."""
    console = Console(highlight=False, markup=False, emoji=False)
    style = {True: "bold green", False: "bold red", None: "bold yellow"}[diagnosis.would_boot]
    mark = {True: "✓", False: "✗", None: "?"}[diagnosis.would_boot]
    console.print(Text(f"{mark} {answer(diagnosis)}", style=style))
    state = _state(diagnosis)
    if state.row_count:
        console.print(Padding(state, (0, 0, 0, 2)))
    for problem in diagnosis.problems:
        console.print(Padding(_problem(problem, verbose=verbose), (1, 0, 0, 2)))
    if diagnosis.steps:
        console.print(Padding(Text("What to do", style="bold"), (1, 0, 0, 2)))
        # Another disk can follow.
        console.print(Padding(_steps(diagnosis), (0, 0, 1, 2)))


def _two_columns(gap: int = 1) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _state(diagnosis: Diagnosis) -> Table:
    table = _two_columns(gap=2)
    verified = verified_line(diagnosis)
    if verified:
        table.add_row(Text("verified", style="green"), Text(verified))
    kind, _, which = closed_text(diagnosis).partition(": ")
    if kind:
        table.add_row(Text(kind, style="green" if diagnosis.closed else "dim"), Text(which, style="dim"))
    return table


def _problem(problem: Problem, *, verbose: bool) -> Table:
    table = _two_columns()
    mark, style = _MARKS[problem.level]
    head = Text(problem.name, style=style)
    if problem.parts:
        head.append(f"  {some_of(problem.parts)}", style="bold default")
    table.add_row(Text(mark, style=style), head)
    table.add_row(Text(""), Text(problem.what))
    for detail in problem.details:
        table.add_row(Text(""), Text(detail, style="dim"))
    if verbose and problem.reasons:
        table.add_row(Text(""), Text(f"findings: {', '.join(problem.reasons)}", style="dim"))
    return table


def _steps(diagnosis: Diagnosis) -> Table:
    table = _two_columns()
    for number, step in enumerate(diagnosis.steps, 1):
        table.add_row(Text(f"{number}.", style="bold cyan"), Text(step.what))
        if step.command:
            table.add_row(Text(""), Text(step.command, style="cyan"))
        if step.instead:
            table.add_row(Text(""), Text(f"or {step.instead}", style="dim"))
    return table
