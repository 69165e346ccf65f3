"""What is typed for a guest that does not read stays within bounds, and a person can still end its run."""

from __future__ import annotations

import pytest
from guest_asm import program
from guest_lab import Console, EndKind

import sipl
from sipl.engine.console import TYPED_LIMIT, ConsoleEnds
from sipl.machine.sclp_events import INPUT_LIMIT


class Eager(Console):
    """Types as much as it may, and ends the run when it was asked so often without room."""

    def __init__(self) -> None:
        super().__init__()
        self.given = self.largest = self.without_room = 0

    def read(self, timeout: float, room: int) -> bytes:
        self.largest = max(self.largest, room)
        self.given += room
        self.without_room += not room
        if self.without_room == 2:
            raise ConsoleEnds("enough")
        return b"x" * room


def loop(body):
    asm = program().load(12, 0x100000)
    start = asm.here
    return asm.raw(body).jump(start)


@pytest.mark.parametrize(
    ("body", "kept"), [("", TYPED_LIMIT), ("B205C000", TYPED_LIMIT + INPUT_LIMIT)], ids=["no traps", "traps"]
)
def test_a_guest_that_does_not_read(lab, body, kept):
    console = Eager()
    left = lab.run(loop(body), console=console)
    assert left.end[:2] == (EndKind.ENDED, "enough")
    assert console.largest == TYPED_LIMIT
    assert console.given == kept


def test_from_python_nothing_is_lost(lab):
    """A text that is longer than what fits at once is typed in pieces."""
    disk = lab.disk(lab.components(bytes(loop("B205C000").code)))
    text = "abc" * INPUT_LIMIT
    with sipl.Machine(disk, settings=lab.settings(memory=16 << 20), timeout=1) as machine:
        machine.type(text)
        machine.boot()
        assert machine.end.kind is EndKind.TIMEOUT
        assert bytes(machine._input).decode() == text[INPUT_LIMIT + TYPED_LIMIT :]
