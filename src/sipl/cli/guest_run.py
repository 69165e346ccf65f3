"""Engines as commands use them: behind a console, with a memory of how the guest ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sipl.cli.terminal_console import Console
    from sipl.engine.base import Engine, EntryState, GuestEnd
    from sipl.engine.qemu.engine import QemuEngine
    from sipl.ipl import Opener
    from sipl.machine.machine import Machine
    from sipl.settings import Disk, Settings

MISSING: Final = "the embedded engine needs the Python package unicorn, which is missing"


def is_there() -> bool:
    """Whether the package that runs guests is installed; it is not imported before a guest runs."""
    from importlib.util import find_spec

    return find_spec("unicorn") is not None


def missing() -> UsageError:
    """What to say where it is not."""
    return UsageError("--engine embedded", MISSING, "pip install unicorn, or --engine none for the verdict alone")


class GuestRun:
    """Engine of one command: `end` is how the last run ended, None if there was none; `ended_by_key` if by Ctrl-A x.

    The embedded engine runs the guest, unless `use_qemu` was called; `opener` is for `sipl.ipl.boot`.
    """

    def __init__(self, console: Console, timeout: float | None = None, until: str | None = None) -> None:
        self.end: GuestEnd | None = None
        self.ended_by_key = False
        self.opener: Opener | None = None
        self._console = console
        self._timeout = timeout
        self._until = until
        self._engine: Engine | None = None
        self._qemu: QemuEngine | None = None

    def use_qemu(self, disks: Sequence[Disk], settings: Settings, *, has_secure: bool) -> None:
        """Have an installed QEMU run the guest, which `close` ends.

        Raises:
            QemuUnable: there is none.
        """
        from sipl.engine.qemu.program import find_qemu

        find_qemu()  # what is imported next is there on Linux only
        from sipl.engine.qemu.engine import QemuEngine
        from sipl.engine.qemu.own_setup import OwnSetup

        setup = OwnSetup(disks, settings, has_secure=has_secure)
        self._engine = self._qemu = QemuEngine(setup, self, self._timeout, self._until)
        self.opener = self._qemu.open_image

    def close(self) -> None:
        """End QEMU, if there is one, and close its images."""
        qemu, self._qemu, self._engine, self.opener = self._qemu, None, None, None
        if qemu is not None:
            qemu.close()
            qemu.setup.close()

    def name(self) -> str:
        """Who runs the guest.

        Raises:
            QemuUnable: the QEMU that was to run it cannot.
        """
        if self._qemu is None:
            return "the embedded engine"
        return self._qemu.name()

    def run(self, machine: Machine, state: EntryState) -> GuestEnd | None:
        """Run the guest on the console; the time limit counts from the first run on.

        Raises:
            UsageError: there is no engine that can.
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
        from sipl.engine.console import ConsoleEnds

        try:
            return self._console.read(timeout, room)
        except ConsoleEnded as ended:
            self.ended_by_key = ended.asked
            raise ConsoleEnds(str(ended)) from None

    def descriptor(self) -> int | None:
        """What becomes readable when something was typed; None if nothing will be."""
        return self._console.descriptor()
