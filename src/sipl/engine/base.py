"""What an engine is: it takes over a machine whose boot side has handed over, and says how the guest's run ended."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from typing import TypeAlias

    from sipl.firmware.hand_over import HandOver
    from sipl.machine.machine import Machine

    # What an engine starts from; who only passes it on need not know the boot side.
    EntryState: TypeAlias = HandOver


class EndKind(StrEnum):
    """How the run of a guest ends."""

    NOT_RUN = "not-run"  # the engine runs nothing
    DONE = "done"  # the guest switched itself off
    SEEN = "seen"  # the console showed the text that was waited for
    REIPL = "re-ipl"  # the guest asked for an IPL
    RESET = "reset"  # the machine was reset from outside, as at its start
    CRASHED = "crashed"  # the guest stopped in a state that it does not leave
    TIMEOUT = "timeout"  # its time was up
    BREAKPOINT = "breakpoint"  # the guest came to an address at which its run was to end
    ENDED = "ended"  # a person ended it
    QUIT = "quit"  # whoever has a monitor of QEMU, or its display, ended it


class GuestEnd(NamedTuple):
    """How a run ended, and a sentence about it; `host_faults` are sentences about I/O errors that were the host's."""

    kind: EndKind
    message: str
    host_faults: tuple[str, ...] = ()


class Engine(Protocol):
    """Runs the guest from the hand-over on."""

    def run(self, machine: Machine, state: EntryState) -> GuestEnd | None:
        """Run the guest; guest memory is as the boot side left it and is given up when this returns.

        None is for an engine that runs nothing. After `EndKind.REIPL` and
        `EndKind.RESET` the boot side starts again, on the same machine.
        """
