"""The engine that runs nothing: the IPL ends in the moment in which the loader would be entered."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sipl.engine.base import GuestEnd
    from sipl.firmware.hand_over import HandOver
    from sipl.machine.machine import Machine


class NoEngine:
    """For a verdict no guest code has to run."""

    def run(self, machine: Machine, state: HandOver) -> GuestEnd | None:
        """Leave the machine as it is."""
        return None
