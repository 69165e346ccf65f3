"""`sipl-qemu-system-s390x`: a QEMU command line with secure IPL (docs/qemu-command.md)."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Final, NoReturn

from sipl.cli.main import guarded, prepare_output
from sipl.cli.output import complain
from sipl.engine.base import EndKind
from sipl.errors import RefusedToStart, UsageError
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sipl.engine.base import EntryState, GuestEnd
    from sipl.machine.machine import Machine
    from sipl.qemu_command.plan import Guest, Plan
    from sipl.report.model import Report
    from sipl.settings import Disk

PROGRAM: Final = "sipl-qemu-system-s390x"
_EXIT_DONE: Final = 0
_EXIT_NOT: Final = 1
_EXIT_UNDECIDED: Final = 2
_STANDARD_INPUT: Final = 0
_RESETS: Final = frozenset({EndKind.REIPL, EndKind.RESET})
# How often signals are looked for while a connection is waited for, in seconds.
_LOOK: Final = 0.2

_HELP: Final = f"""\
usage: {PROGRAM} [OPTION…] QEMU'S OPTIONS…

QEMU for s390x guests, with secure IPL: takes QEMU's whole command line, verifies what the guest boots from as
  -machine s390-ccw-virtio,secure-boot=on,boot-certs.0.path=cert.pem
asks for, and has the installed QEMU run it. Without secure-boot and boot-certs it is QEMU.

options of its own:
  --native          leave secure IPL to a QEMU that knows it
  --allow-backing   read the backing and data files that an image names
  --allow-unpack    let the guest start a guest of protected virtualization, which nobody here can verify
  --no-has-secure   leave /sys/firmware/ipl/has_secure as QEMU has it
  --at TIME         judge certificates at this time (2026-11-23T02:00:00Z, @SECONDS, now)

example:
  {PROGRAM} -machine s390-ccw-virtio,secure-boot=on,boot-certs.0.path=cert.pem -m 1G -nographic \\
      -drive file=disk.qcow2,if=none,id=d0 -device virtio-blk-ccw,drive=d0,bootindex=1
"""
_QEMU_FOLLOWS: Final = "\nWhat follows is what QEMU says of itself.\n\n"


def entry() -> None:
    """Console script."""
    prepare_output()
    sys.exit(guarded(lambda: run(sys.argv[1:])))


def run(arguments: Sequence[str]) -> int:
    """Do what a command line asks for; the result is the exit code, QEMU's own where QEMU takes over.

    0: the guest ended as it or its user wanted; 1: it does not boot, or it crashed and that is to be a failure; 2:
    undecided, or an option that is not allowed.
    """
    from sipl.engine.qemu.program import QemuUnable, find_qemu
    from sipl.qemu_command.plan import Kind, read_command

    try:
        plan = read_command(arguments)
    except RefusedToStart as refusal:
        complain(str(refusal))
        return _EXIT_NOT
    asks_for_help = plan.kind is Kind.HELP and plan.arguments == ("-help",)
    if asks_for_help:
        sys.stdout.write(_HELP)
    try:
        program = find_qemu(unlike=sys.argv[0])
    except QemuUnable as unable:
        if not asks_for_help:
            raise
        # What was asked for is there, but for QEMU's part.
        sys.stdout.flush()
        complain(str(unable))
        return _EXIT_DONE
    if asks_for_help:
        sys.stdout.write(_QEMU_FOLLOWS)
    if plan.guest is None:
        _become(program, plan)
    guest = plan.guest
    guest.check_descriptors()

    def work(released: Callable[[], None]) -> int:
        from sipl.cli.pid_file import PidFile

        with PidFile(guest.pid_file) if guest.pid_file is not None else nullcontext():
            return _Session(program, plan, guest, released).go()

    if guest.background:
        from sipl.cli.background import in_background

        return in_background(work)
    with _kept_terminal():
        return work(_stay)


def _stay() -> None:
    """In the foreground the guest's start changes nothing."""


def _become(program: str, plan: Plan) -> NoReturn:
    """Be QEMU; does not return."""
    sys.stdout.flush()
    try:
        os.execv(program, [program, *plan.arguments])  # noqa: S606 (no shell; it is what the user typed)
    except OSError as error:
        raise UsageError(program, f"cannot be started: {error.strerror or error}", "is it a program?") from error


@contextmanager
def _kept_terminal() -> Iterator[None]:
    """QEMU sets the terminal for the guest and puts it back when it ends; one that was killed could not."""
    import termios

    try:
        before = termios.tcgetattr(_STANDARD_INPUT)
        blocking = os.get_blocking(_STANDARD_INPUT)
    except (OSError, termios.error):
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError, termios.error):
            os.set_blocking(_STANDARD_INPUT, blocking)
            # From the background this would stop the process.
            in_front = os.tcgetpgrp(_STANDARD_INPUT) == os.getpgrp()
            if in_front and termios.tcgetattr(_STANDARD_INPUT) != before:
                termios.tcsetattr(_STANDARD_INPUT, termios.TCSADRAIN, before)


class _User:
    """Signals that end the run; what is typed is QEMU's.

    `next_look` is called once, when signals are looked for the next time.
    """

    def __init__(self) -> None:
        from sipl.cli.terminal_console import Console, Input

        self.console = Console(Input(), None)
        self.next_look: Callable[[], None] | None = None

    def write(self, data: bytes) -> None:
        """The console is QEMU's."""

    def read(self, timeout: float, room: int) -> bytes:
        """Nothing; raises ConsoleEnds when a signal has come."""
        from sipl.cli.terminal_console import ConsoleEnded
        from sipl.engine.console import ConsoleEnds

        deed, self.next_look = self.next_look, None
        if deed is not None:
            deed()
        try:
            return self.console.read(timeout, room)
        except ConsoleEnded as ended:
            raise ConsoleEnds(str(ended)) from None

    def descriptor(self) -> int | None:
        """Nothing is typed here."""
        return None


class _Session:
    """One guest, from the command line to its end. For the IPL it is the engine: QEMU's, with the user's say.

    `released` is called as soon as the guest runs, or stands where its user starts it.
    """

    def __init__(self, program: str, plan: Plan, guest: Guest, released: Callable[[], None]) -> None:
        from sipl.cli.qemu_complaints import QemuComplaints
        from sipl.engine.qemu.engine import QemuEngine
        from sipl.engine.qemu.loop import Loop
        from sipl.qemu_command.kept_channels import connect
        from sipl.qemu_command.line_setup import LineSetup

        self._loop = Loop()
        self._guest = guest
        self._user = _User()
        self._released = released
        self._relays = connect(guest, self._loop)
        self._complaints = QemuComplaints(sys.stderr)
        self._setup = LineSetup(program, guest, self._relays, self._complaints.take, has_secure=plan.own.has_secure)
        self._qemu = QemuEngine(self._setup, self._user, relays=self._relays, loop=self._loop)
        self._end: GuestEnd | None = None
        self._announced: Report | None = None
        self._told_waiting = False

    def go(self) -> int:
        """Verify, and have the guest run until it ends; the result is the exit code."""
        from sipl.engine.console import ConsoleEnds
        from sipl.ipl import boot

        # The console takes signals until all is closed: one in between would leave something behind.
        with self._user.console:
            try:
                self._wait_for_users()
                settings = self._guest.settings._replace(choose=_choose)
                report = boot(self._numbered(), settings, self, self._announce, self._qemu.open_image)
                self._tell_end()
                if report is not self._announced:
                    _show(report)
                self._relays.finish()
            except ConsoleEnds as ended:
                self._complaints.finish()
                complain(str(ended))
                return _EXIT_UNDECIDED
            finally:
                self._complaints.finish()
                self._qemu.close()
                self._setup.close()
                self._relays.close()
        return self._exit_code(report)

    def run(self, machine: Machine, state: EntryState) -> GuestEnd:
        """See `sipl.engine.base.Engine`; the user may have said that a reset is to end it."""
        end = self._qemu.run(machine, state)
        if end.kind in _RESETS and self._relays.view.actions.get("reboot") == "shutdown":
            end = end._replace(kind=EndKind.DONE)
        self._end = end
        return end

    def _wait_for_users(self) -> None:
        self._relays.start()
        while waiting := self._relays.waiting:
            if not self._told_waiting:
                # A name of sipl's own, as of a -serial, says nothing to who is waited for.
                ends = (self._relays.view.ends[label].filename.removeprefix("disconnected:") for label in waiting)
                complain(f"waiting for a connection to {printable(', '.join(ends))}")
                self._told_waiting = True
            self._loop.turn(_LOOK)
            self._user.read(0, 0)

    def _numbered(self) -> list[Disk]:
        """The boot order with the device numbers that QEMU has assigned."""
        disks = []
        taken: set[tuple[int, int]] = set()
        for device, numbers in zip(self._guest.boot, self._qemu.device_numbers(), strict=True):
            disk = device.disk
            if numbers in taken:
                why = "two disks of the boot order are behind one controller"
                raise UsageError("-device", why, "give each a virtio-scsi-ccw of its own")
            if numbers is not None:
                taken.add(numbers)
                disk = disk._replace(ssid=numbers[0], devno=numbers[1])
            disks.append(disk)
        return disks

    def _announce(self, report: Report) -> None:
        self._tell_end()
        _show(report)
        if self._announced is None:
            complain(f"{self._qemu.name()} runs the guest")
            # The engine looks as soon as the guest is started.
            self._user.next_look = self._released
        self._announced = report

    def _tell_end(self) -> None:
        self._complaints.finish()
        if self._end is not None:
            complain(printable(self._end.message))
            for fault in self._end.host_faults:
                complain(printable(fault))
            self._end = self._end._replace(host_faults=())

    def _exit_code(self, report: Report) -> int:
        if self._end is None or not report.would_boot:
            return report.exit_code
        if self._end.kind is EndKind.ENDED:
            return _EXIT_UNDECIDED
        failed = self._end.kind is EndKind.CRASHED and self._relays.view.actions.get("panic") == "exit-failure"
        return _EXIT_NOT if failed else _EXIT_DONE


def _choose(entries: Sequence[int], _timeout: int) -> int:
    """The boot menu has nobody to ask: what is typed is for QEMU and the guest."""
    from sipl.ipl import MenuChoiceNeeded

    there = ", ".join(map(str, entries))
    why = f"the disk asks which program to boot: {there}"
    raise MenuChoiceNeeded("boot menu", why, "choose with loadparm=N in -machine or -device")


def _show(report: Report) -> None:
    from sipl.cli.show_report import show

    show(report, "boot", Namespace(json=False, quiet=False, verbose=False), sys.stderr)
    sys.stderr.flush()
