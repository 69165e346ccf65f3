"""The QEMU engine: places what was verified into a stock QEMU, has it run, and takes it back for every IPL.

docs/qemu-engine.md tells what happens in which order, and why no way leads around the verification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.engine.base import EndKind, GuestEnd
from sipl.engine.qemu.guest_process import GuestProcess
from sipl.engine.qemu.placing import device_number
from sipl.engine.qemu.program import QemuUnable, check_version
from sipl.engine.qemu.qmp import QemuEnded, QmpError
from sipl.engine.qemu.run import Run, RunEnd
from sipl.engine.qemu.session import Session

if TYPE_CHECKING:
    from sipl.disk.image import Image
    from sipl.engine.console import WatchedConsole
    from sipl.engine.qemu.loop import Loop
    from sipl.engine.qemu.relay.relays import Relays
    from sipl.engine.qemu.setup import Setup
    from sipl.firmware.hand_over import HandOver
    from sipl.machine.machine import Machine

# How long a QEMU that has hung up may take to end, in seconds.
_END_TIME: Final = 1.0


class QemuEngine:
    """Runs guests in QEMU processes, one for each IPL.

    `console` is what the guest writes to and reads from; `timeout` ends a run after so many seconds, `until` as soon as
    the console has shown this text. `start` may be called before the first `run`, so that QEMU starts while sipl
    verifies; `open_image` is the `opener` for `sipl.ipl.boot`. `version` is QEMU's, as soon as it has said it.
    """

    def __init__(
        self,
        setup: Setup,
        console: WatchedConsole | None = None,
        timeout: float | None = None,
        until: str | None = None,
        relays: Relays | None = None,
        loop: Loop | None = None,
    ) -> None:
        self.setup = setup
        self.session = Session(console, timeout, until, relays, loop, held=setup.held)
        self.version: tuple[int, int, int] | None = None
        self._process: GuestProcess | None = None

    def open_image(self, position: int) -> Image:
        """The image of a disk of the boot order; with the first one, QEMU is started.

        Raises:
            UndecidedError: an image cannot be opened.
            UsageError: an image is in use.
            QemuUnable: QEMU cannot be started.
        """
        self.start()
        image = self.setup.images[position]
        if image is None:
            raise AssertionError("unreachable: devices without blocks are not opened")
        return image

    def start(self) -> None:
        """Start a QEMU that stands before its first instruction, unless there is one already; does not wait for it.

        Raises:
            QemuUnable: it cannot be started.
            UndecidedError: an image cannot be opened.
            UsageError: an image is in use, or the host has no room for the guest's memory.
        """
        if self._process is None:
            self.setup.open()
            self._process = GuestProcess(self.setup)

    def wait_until_ready(self) -> None:
        """Wait until QEMU has made its machine.

        Raises:
            QemuUnable: it has not, it is too old, or it cannot be started.
            ConsoleEnds: it was ended by a signal that is for sipl as well.
        """
        self._ready()

    def device_numbers(self) -> list[tuple[int, int] | None]:
        """Subchannel set and number of each device of the boot order, as QEMU has assigned them.

        Raises:
            QemuUnable: QEMU does not run, or does not know the device.
            UsageError: a device is no channel device.
            ConsoleEnds: QEMU was ended by a signal that is for sipl as well.
        """
        qmp = self._ready().qemu.qmp
        try:
            return [None if name is None else device_number(qmp, name) for name in self.setup.device_ids]
        except (QemuEnded, QmpError) as error:
            self._check_signals()
            raise QemuUnable("QEMU", str(error), "does it run by itself?") from error

    def name(self) -> str:
        """QEMU's version, and how it runs the guest; raises as `wait_until_ready`."""
        qemu = self._ready().qemu
        numbers = ".".join(map(str, self.version or ()))
        try:
            kvm = qemu.qmp.execute("query-kvm")
        except QmpError:  # one that does not know the question any more
            return f"QEMU {numbers}"
        except QemuEnded as error:
            self._check_signals()
            if not self.setup.own_terminal and qemu.wait(_END_TIME) == 0:
                return f"QEMU {numbers}"  # its user has ended it, as the run will tell
            raise QemuUnable("QEMU", str(error), "does it run by itself?") from error
        return f"QEMU {numbers} ({'KVM' if isinstance(kvm, dict) and kvm.get('enabled') else 'TCG'})"

    def _ready(self) -> GuestProcess:
        self.start()
        process = self._process
        if process is None:
            raise AssertionError("unreachable: it was started")
        if not process.greeted:
            try:
                self.version = process.qemu.greet()
            except QemuUnable:
                self._check_signals()
                raise
            check_version(self.version)
            process.greeted = True
        return process

    def _check_signals(self) -> None:
        """QEMU has ended before a guest was placed. Raises ConsoleEnds if by a signal that it shares with sipl."""
        if not self.setup.own_terminal:
            self.session.check_signals()

    def close(self) -> None:
        """End QEMU, if it still runs; one that has a user's image to write to closes that in order."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if any(image is not None and image.direct for image in self.setup.images):
                process.quit()
        finally:
            process.close()

    def run(self, machine: Machine, state: HandOver) -> GuestEnd:
        """Place the guest into a QEMU and have it run.

        Raises:
            QemuUnable: QEMU cannot be started, is too old, or refuses what it is asked for.
            UsageError: QEMU's machine is not the one that was verified, or somebody started it before.
            UndecidedError: an image cannot be read any more after the run.
            ConsoleEnds: QEMU was ended by a signal that is for sipl as well, before it was ready.
        """
        process = self._ready()
        self.session.start_clock()
        relays = self.session.relays
        images = [image for image in self.setup.images if image is not None]
        try:
            for image in images:
                image.lend()
            try:
                end = self._run_in(process, machine, state)
            finally:
                if relays is not None:
                    relays.ending()
                process.quit()
                self.close()
                if relays is not None:
                    relays.ended(None)
        except (QemuEnded, QmpError) as error:
            raise QemuUnable("QEMU", str(error), "does it run by itself?") from error
        for image in images:
            image.renew()
        if end.kind in (EndKind.REIPL, EndKind.RESET):
            if relays is not None and relays.view.quit_asked:
                return GuestEnd(EndKind.QUIT, "a monitor ended QEMU")
            self.session.held = False
            self.start()
        return end

    def _run_in(self, process: GuestProcess, machine: Machine, state: HandOver) -> GuestEnd:
        run = Run(self.session, self.setup, process, machine)
        try:
            run.go(state)
        except RunEnd as end:
            if end.end.kind in (EndKind.REIPL, EndKind.RESET) and self.session.relays is not None:
                self.session.relays.ended(run.reset or "guest-reset")
            return end.end._replace(host_faults=tuple(run.host_faults))
        finally:
            run.forget()
        raise AssertionError("unreachable: a run ends with an exception")
