"""What an engine is: it takes over a machine whose boot side has handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sipl.firmware.hand_over import HandOver
    from sipl.machine.machine import Machine


class Engine(Protocol):
    """Runs the guest from the hand-over on."""

    def run(self, machine: Machine, state: HandOver) -> None:
        """Run the guest; guest memory is as the boot side left it and is given up when this returns."""
