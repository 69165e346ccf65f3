"""The SCLAB rules: what the attributes of a signed component may say (docs/formats/sclab.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.layout.iirb import Cei
from sipl.layout.record import size_of, unpack
from sipl.layout.sclab import SCLAB_MAGIC, SCLAB_MIN_LENGTH, Sclab, SclabFlags, SclabLocator
from sipl.reasons import Reason

if TYPE_CHECKING:
    from sipl.firmware.components import Component
    from sipl.firmware.platform import Storage
    from sipl.firmware.verdict import Judge
    from sipl.layout.record import Buffer

_LOCATOR_SIZE = size_of(SclabLocator)


class SclabCount:
    """What the global rules need of all SCLABs of a program: how many there are, the first global one, its carrier."""

    def __init__(self) -> None:
        self.recognised = 0
        self.globals = 0
        self.first_global: Sclab | None = None
        self.carrier: Component | None = None

    @property
    def forbids_unsigned(self) -> bool:
        """Whether the first global SCLAB says NUC, no unsigned components."""
        return self.first_global is not None and bool(self.first_global.flags & SclabFlags.NUC)


def located_length(end: Buffer) -> int | None:
    """Length of the SCLAB that a component states in its last bytes, `end`; None where it carries none."""
    if len(end) < _LOCATOR_SIZE:
        return None
    locator = unpack(SclabLocator, end, len(end) - _LOCATOR_SIZE)
    return locator.length if locator.magic == SCLAB_MAGIC else None


def sclab_at_end(end: Buffer, length: int) -> Sclab | None:
    """The SCLAB of a stated length at the end of a component; None where it cannot have this length."""
    return unpack(Sclab, end, len(end) - length) if SCLAB_MIN_LENGTH <= length <= len(end) else None


def check_sclab(platform: Storage, component: Component, count: SclabCount, judge: Judge) -> None:
    """Apply every rule on the SCLAB of one signed component, in the order of the specification.

    Raises:
        MachineStops: a rule is broken, in secure mode.
    """
    sclab = _find(platform, component, judge)
    if sclab is None:
        return
    count.recognised += 1
    _check_format(sclab, component, judge)
    _check_override_psw(sclab, component, count, judge)
    _check_load_address(sclab, component, judge)
    _check_global_only(sclab, component, judge)


def _broken(judge: Judge, component: Component, reason: Reason, indicator: int, message: str) -> None:
    component.error_indicators |= indicator
    judge.broken(reason, f"component at {component.address:#x}: {message}", component.position)


def _find(platform: Storage, component: Component, judge: Judge) -> Sclab | None:
    """Follow the locator; None where there is no SCLAB to check, after saying so."""
    size = min(_LOCATOR_SIZE, component.length)
    length = located_length(platform.load(component.end - size, size))
    if length is None:
        message = "it is signed, but carries no code loading attributes (SCLAB) in its last bytes"
        _broken(judge, component, Reason.SCLAB_MISSING, Cei.INVALID_SCLAB, message)
        return None
    if not SCLAB_MIN_LENGTH <= length <= component.length:
        message = f"its SCLAB has length {length}, at least {SCLAB_MIN_LENGTH} and at most its own length is possible"
        _broken(judge, component, Reason.SCLAB_LENGTH, Cei.INVALID_SCLAB | Cei.SCLAB_LENGTH, message)
        return None
    return unpack(Sclab, platform.load(component.end - length, size_of(Sclab)))


def _check_format(sclab: Sclab, component: Component, judge: Judge) -> None:
    if sclab.format:
        message = f"its SCLAB has format {sclab.format}, only 0 is known"
        _broken(judge, component, Reason.SCLAB_FORMAT, Cei.SCLAB_FORMAT, message)


def _check_override_psw(sclab: Sclab, component: Component, count: SclabCount, judge: Judge) -> None:
    """OPSW marks the global SCLAB; without it the PSW field has no meaning and must be zero."""
    if not sclab.flags & SclabFlags.OPSW:
        if sclab.load_psw:
            message = f"its SCLAB holds a PSW ({sclab.load_psw:#018x}) without the OPSW flag"
            _broken(judge, component, Reason.SCLAB_PSW_NOT_ZERO, Cei.LOAD_PSW_NOT_ZERO, message)
        return
    count.globals += 1
    if count.first_global is None:
        count.first_global = sclab
        count.carrier = component
    if not sclab.flags & SclabFlags.OLA:
        message = "its SCLAB has OPSW without OLA; a global SCLAB must name the load address"
        _broken(judge, component, Reason.SCLAB_OLA_NOT_ONE, Cei.OLA_NOT_ONE, message)


def _check_load_address(sclab: Sclab, component: Component, judge: Judge) -> None:
    if not sclab.flags & SclabFlags.OLA:
        if sclab.load_address:
            message = f"its SCLAB holds a load address ({sclab.load_address:#x}) without the OLA flag"
            _broken(judge, component, Reason.SCLAB_ADDRESS_NOT_ZERO, Cei.LOAD_ADDRESS_NOT_ZERO, message)
    elif sclab.load_address != component.address:
        message = f"its SCLAB says that it belongs at {sclab.load_address:#x}"
        _broken(judge, component, Reason.SCLAB_ADDRESS_MISMATCH, Cei.LOAD_ADDRESS_MISMATCH, message)


def _check_global_only(sclab: Sclab, component: Component, judge: Judge) -> None:
    """NUC and SC speak for the whole program, so only the global SCLAB may have them."""
    if sclab.flags & SclabFlags.OPSW:
        return
    if sclab.flags & SclabFlags.NUC:
        message = "its SCLAB has NUC (no unsigned components) but is not global"
        _broken(judge, component, Reason.SCLAB_NUC_NOT_GLOBAL, Cei.NUC_NOT_GLOBAL, message)
    if sclab.flags & SclabFlags.SC:
        message = "its SCLAB has SC (single component) but is not global"
        _broken(judge, component, Reason.SCLAB_SC_NOT_GLOBAL, Cei.SC_NOT_GLOBAL, message)
