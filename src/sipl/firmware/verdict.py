"""How the boot side says what it found: a broken rule warns in audit mode and stops the machine in secure mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sipl.errors import SiplError
from sipl.reasons import Level, Mode, Reason

if TYPE_CHECKING:
    from collections.abc import Callable


class Finding(NamedTuple):
    """One thing that was found; `device` and `component` are positions, origin 0, or None."""

    reason: Reason
    level: Level
    message: str
    device: int | None = None
    component: int | None = None


class FirmwareStop(SiplError):
    """Base of the two ways in which an attempt to boot ends; `component` is the one at fault."""

    def __init__(self, reason: Reason, message: str, component: int | None = None) -> None:
        self.reason = reason
        self.component = component
        super().__init__("", message)


class MachineStops(FirmwareStop):
    """The machine stops in a disabled wait; no later device is tried."""


class DeviceGivenUp(FirmwareStop):
    """This device does not boot; the next one of the boot order is tried."""


class FirmwareFault(SiplError):
    """The machine answered the boot side in a way that the architecture does not have."""


class Judge:
    """Applies the mode rule and passes every finding on, at the moment at which it is made."""

    def __init__(self, observe: Callable[[Finding], None]) -> None:
        self.mode = Mode.NORMAL
        self.device: int | None = None
        self._observe = observe

    def broken(self, reason: Reason, message: str, component: int | None = None) -> None:
        """A rule is broken: go on with a warning in audit mode.

        Raises:
            MachineStops: in secure mode.
        """
        if self.mode is Mode.SECURE:
            raise MachineStops(reason, message, component)
        self.add(reason, Level.WARNING, message, component)

    def add(self, reason: Reason, level: Level, message: str, component: int | None = None) -> None:
        """Note a finding of the current device."""
        self._observe(Finding(reason, level, message, self.device, component))

    def note_stop(self, stop: FirmwareStop) -> None:
        """Note why an attempt ended."""
        self.add(stop.reason, Level.ERROR, stop.why, stop.component)
