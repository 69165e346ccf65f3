"""The rules on the program as a whole: the entry PSW, that something is signed, and what the global SCLAB demands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.layout.iirb import Cei, Iiei, ReportComponent
from sipl.layout.lowcore import PSW_ADDRESS_MASK
from sipl.layout.sclab import SclabFlags
from sipl.reasons import Reason

if TYPE_CHECKING:
    from sipl.firmware.components import ComponentList
    from sipl.firmware.sclab import SclabCount
    from sipl.firmware.verdict import Judge
    from sipl.layout.sclab import Sclab

_SHORTEST_INSTRUCTION: Final = 2


def check_psw(psw: int, sclab: Sclab, components: ComponentList, judge: Judge) -> ReportComponent:
    """Check the PSW of the EXEC entry against the global SCLAB; the result is the PSW entry of the report.

    Raises:
        MachineStops: psw-outside-signed-code, psw-mismatch, in secure mode.
    """
    indicators = 0
    for name, value in (("the SCLAB's PSW", sclab.load_psw), ("the entry PSW", psw)):
        if not _in_signed_code(value, components):
            indicators |= Cei.INVALID_LOAD_PSW
            message = f"{name} {value:#018x} points into no signed component"
            judge.broken(Reason.PSW_OUTSIDE_SIGNED_CODE, message)
            break
    if sclab.load_psw != psw:
        indicators |= Cei.LOAD_PSW_MISMATCH
        judge.broken(Reason.PSW_MISMATCH, f"the entry PSW is {psw:#018x}, the global SCLAB says {sclab.load_psw:#018x}")
    return ReportComponent(psw, 0, 0, 0, indicators)


def _in_signed_code(psw: int, components: ComponentList) -> bool:
    """Whether a whole instruction at the PSW's address can lie in a signed component."""
    address = psw & PSW_ADDRESS_MASK
    return any(c.address <= address <= c.end - _SHORTEST_INSTRUCTION for c in components.signed)


def check_program(count: SclabCount, components: ComponentList, judge: Judge) -> int:
    """Apply the rules on signed components and global SCLABs; the result is the IIEI of the report.

    Raises:
        MachineStops: a rule is broken, in secure mode.
    """
    indicators = 0
    signed = len(components.signed)
    if not signed:
        indicators |= Iiei.NO_SIGNED_COMPONENT
        judge.broken(Reason.NO_SIGNED_COMPONENT, "no component is signed")
    if not count.recognised:
        indicators |= Iiei.NO_SCLAB
        judge.broken(Reason.NO_SCLAB, "no signed component carries code loading attributes (SCLAB)")
        return indicators
    if count.first_global is None:
        judge.broken(Reason.NO_GLOBAL_SCLAB, "no signed component carries a global SCLAB (one with OPSW)")
        return indicators | Iiei.NO_GLOBAL_SCLAB
    if count.globals > 1:
        judge.broken(Reason.SEVERAL_GLOBAL_SCLABS, f"{count.globals} components carry a global SCLAB, only one may")
        return indicators | Iiei.SEVERAL_GLOBAL_SCLABS
    return indicators | _check_demands(count.first_global, signed, len(components) - signed, judge)


def _check_demands(sclab: Sclab, signed: int, unsigned: int, judge: Judge) -> int:
    indicators = 0
    if sclab.flags & SclabFlags.NUC and unsigned:
        indicators |= Iiei.UNSIGNED_COMPONENT
        judge.broken(
            Reason.UNSIGNED_NOT_ALLOWED,
            f"the global SCLAB allows no unsigned component (NUC), there are {unsigned}",
        )
    if sclab.flags & SclabFlags.SC and (signed != 1 or unsigned):
        indicators |= Iiei.NOT_SINGLE_COMPONENT
        judge.broken(
            Reason.SINGLE_COMPONENT_VIOLATED,
            f"the global SCLAB allows one signed component (SC), there are {signed} signed and {unsigned} unsigned",
        )
    return indicators
