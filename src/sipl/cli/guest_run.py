"""The embedded engine as commands use it: behind a console, and with a memory of how the guest ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.errors import UsageError

if TYPE_CHECKING:
    from sipl.cli.terminal_console import Console
    from sipl.engine.base import EntryState, GuestEnd
    from sipl.engine.embedded.engine import EmbeddedEngine
    from sipl.machine.machine import Machine

MISSING: Final = "the embedded engine needs the Python package unicorn, which is missing"


def is_there() -> bool:
    """Whether the package that runs guests is installed; it is not imported before a guest runs."""
    from importlib.util import find_spec

    return find_spec("unicorn") is not None


def missing() -> UsageError:
    """What to say where it is not."""
    return UsageError("--engine embedded", MISSING, "pip install unicorn, or --engine none for the verdict alone")


class GuestRun:
    """Engine of one command: `end` is how the last run ended, None if there was none; `ended_by_key` if by Ctrl-A x."""

    def __init__(self, console: Console, timeout: float | None = None, until: str | None = None) -> None:
        self.end: GuestEnd | None = None
        self.ended_by_key = False
        self._console = console
        self._timeout = timeout
        self._until = until
        self._engine: EmbeddedEngine | None = None

    def run(self, machine: Machine, state: EntryState) -> GuestEnd:
        """Run the guest on the console; the time limit counts from the first run on.

        Raises:
            UsageError: Unicorn cannot be loaded.
        """
        if self._engine is None:
            try:
                from sipl.engine.embedded.engine import EmbeddedEngine
            except ImportError as error:
                raise missing() from error
            self._engine = EmbeddedEngine(self, self._timeout, self._until)
        with self._console:
            self.end = self._engine.run(machine, state)
        return self.end

    def write(self, data: bytes) -> None:
        """The guest writes."""
        self._console.write(data)

    def read(self, timeout: float, room: int) -> bytes:
        """What was typed, at most `room` bytes.

        Raises:
            ConsoleEnds: a person ends the run.
        """
        from sipl.cli.terminal_console import ConsoleEnded
        from sipl.engine.embedded.engine import ConsoleEnds

        try:
            return self._console.read(timeout, room)
        except ConsoleEnded as ended:
            self.ended_by_key = ended.asked
            raise ConsoleEnds(str(ended)) from None
