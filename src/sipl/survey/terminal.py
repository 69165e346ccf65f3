"""Boot maps and certificate stores for a person at a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from sipl.survey.text import closed_text, program_title, runs_text, sclab_text, signature_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sipl.survey.model import BootMapView, CertificateView, ComponentView


def print_boot_map(view: BootMapView, *, verbose: bool) -> None:
    """Print a boot map as a tree, in colour; nothing in it is taken for markup."""
    console = Console(highlight=False, markup=False, emoji=False)
    tree = Tree(Text(view.path, style="bold"), guide_style="dim")
    tree.add(Text(f"{view.format}, {view.size} bytes in blocks of {view.block_size}"))
    if view.fault is not None:
        tree.add(Text(view.fault, style="bold red"))
    else:
        tree.add(Text(f"boot record version {view.version}, program table in block {view.program_table_block}"))
    for program in view.programs:
        branch = tree.add(Text(program_title(program), style="bold" if program.same_as is None else "dim"))
        for component in program.components:
            _add_component(branch, component, verbose=verbose)
        if program.psw is not None:
            branch.add(Text(f"entry PSW {program.psw}"))
        if closed_text(program):
            branch.add(Text(closed_text(program), style="green" if program.closed else "yellow"))
        if program.fault is not None:
            branch.add(Text(program.fault, style="bold red"))
    console.print(tree)


def _add_component(branch: Tree, component: ComponentView, *, verbose: bool) -> None:
    title = Text(f"{component.address:#x}", style="cyan")
    if component.part is not None:
        title.append(f"  {component.part}", style="bold")
    title.append(f"  {component.length} bytes", style="default")
    title.append(f"  {runs_text(component.runs, verbose=verbose)}", style="dim")
    leaf = branch.add(title)
    if component.digest is not None:
        leaf.add(Text(f"sha256 {component.digest}", style="dim"))
    if component.signature is not None:
        good = component.signature.fault is None
        leaf.add(Text(signature_text(component.signature), style="green" if good else "bold red"))
    if component.sclab is not None:
        leaf.add(Text(sclab_text(component.sclab), style="default" if component.sclab.fault is None else "bold red"))
    if component.fault is not None:
        leaf.add(Text(component.fault, style="bold red"))


def print_certificates(views: Sequence[CertificateView], *, verbose: bool) -> None:
    """Print a certificate store as a table, in colour; nothing in it is taken for markup."""
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("no.", "name", "subject", "key", "valid until", "state"):
        table.add_column(column, overflow="fold")
    if verbose:
        for column in ("sha256", "key id", "entry"):
            table.add_column(column, overflow="fold")
    for view in views:
        state = Text("valid", style="green") if view.valid else Text(view.why_not or "", style="bold red")
        cells = [
            Text(str(view.number)),
            Text(view.name),
            Text(view.subject),
            Text(view.key),
            Text(view.not_after),
            state,
        ]
        if verbose:
            cells += [Text(view.sha256), Text(view.key_id or "none"), Text(f"{view.vce_length} bytes")]
        table.add_row(*cells)
    console.print(table)
