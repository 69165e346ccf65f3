"""`sipl boot`: one guest, the disks in boot order."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

from sipl.cli.options import Parser, add_disk_options, add_machine_options, settings
from sipl.engine.base import EndKind
from sipl.errors import UsageError
from sipl.ipl import boot
from sipl.reasons import Reason

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sipl.cli.guest_run import GuestRun
    from sipl.engine.qemu.program import QemuUnable
    from sipl.report.model import Report
    from sipl.settings import Settings

_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
_EXIT_DONE: Final = 0
_EXIT_NOT: Final = 1
_EXIT_UNDECIDED: Final = 2


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code.

    0: handed over, and the guest ended by itself or as it was asked to; 1: it did not; 2: undecided.
    """
    parser = Parser(
        "boot",
        "IPL one guest from disks in boot order, and run it with its console here. Ctrl-A x ends it, Ctrl-A h helps.",
        (
            "sipl boot --secure-boot on --boot-certs cert.pem disk.qcow2",
            "sipl boot --engine none -M s390-ccw-virtio,secure-boot=on,boot-certs.0.path=certs/ disk.raw",
            "sipl boot --until login: --timeout 300 disk.qcow2 < /dev/null > console.log",
            "sipl boot --json first.qcow2 --device virtio-scsi --block-size 4096 second.raw",
        ),
    )
    parser.usage = "sipl boot [OPTION…] [DISK…]"
    add_machine_options(parser)
    add_disk_options(parser)
    parser.option(
        "--engine",
        choices=("auto", "qemu", "embedded", "none"),
        default="auto",
        help="who runs the guest after hand-over: auto (default: qemu where one is installed that can, else embedded), "
        "or none for the verdict alone",
    )
    parser.option(
        "--has-secure",
        choices=("on", "off"),
        default="on",
        help="whether a guest in QEMU finds a machine that can do secure IPL (default: on)",
    )
    parser.option("--timeout", metavar="SECONDS", type=_seconds, help="end the guest after so many seconds (exit 1)")
    parser.option("--until", metavar="TEXT", type=_text, help="end the guest when its console shows TEXT (exit 0)")
    parser.option(
        "--write",
        action="store_true",
        help="let the guest write to its images, which changes them (embedded engine: raw ones)",
    )
    parser.option("--raw-console", action="store_true", help="show what the guest writes without escaping anything")
    parser.option("--kernel", metavar="FILE", help="start this kernel instead of a disk's; it cannot be verified")
    parser.option("--firmware", metavar="FILE", help="run this s390-ccw firmware instead of sipl's own boot side")
    parser.option("--trust-firmware", action="store_true", help="use it in audit and secure mode, without any verdict")
    parser.option(
        "--json",
        action="store_true",
        help="print a report for each IPL as JSON (sipl.report/1), and the console on standard error",
    )
    given = parser.parse_in_order(arguments)
    if given.trust_firmware and given.firmware is None:
        raise UsageError("--trust-firmware", "there is no firmware to trust", "name it with --firmware")
    if given.engine == "none":
        return _judge(given)
    return _boot_and_run(given)


def _seconds(text: str) -> float:
    if not _SECONDS.fullmatch(text) or not float(text):
        raise UsageError("--timeout", f"'{text}' is no time", "give seconds, more than 0")
    return float(text)


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("--until", f"'{text}' is no text", "give it in UTF-8") from None
    if not text:
        raise UsageError("--until", "there is no text to wait for", "give one that the console will show")
    return text


def _judge(given: argparse.Namespace) -> int:
    """Go as far as the hand-over."""
    for option in ("timeout", "until", "write", "raw_console", "firmware"):
        if getattr(given, option):
            name = "--" + option.replace("_", "-")
            raise UsageError(name, "there is no guest that runs with --engine none", "leave one of them away")
    report = boot(given.disks, settings(given))
    from sipl.cli.show_report import show

    show(report, "boot", given)
    return report.exit_code


def _boot_and_run(given: argparse.Namespace) -> int:
    asked = settings(given)._replace(write=given.write, firmware=given.firmware, trust_firmware=given.trust_firmware)
    if given.engine == "qemu" and given.firmware is not None:
        hint = "use --engine embedded"
        raise UsageError("--firmware", "QEMU has none of what a firmware needs for secure IPL", hint)
    session = _Session(given)
    try:
        return _with_engine(given, asked, session)
    except KeyboardInterrupt as interrupt:
        if session.announced is None:
            raise
        # Between two runs of the guest: the console itself takes the signals that come in one.
        session.tell(f"ended by {str(interrupt) or 'SIGINT'}")
        return _EXIT_UNDECIDED


def _with_engine(given: argparse.Namespace, asked: Settings, session: _Session) -> int:
    if given.engine in ("auto", "qemu") and given.firmware is None:
        from sipl.cli.terminal_console import interrupted_by_signals
        from sipl.engine.qemu.program import QemuUnable

        try:
            session.guest.use_qemu(given.disks, asked, has_secure=given.has_secure == "on")
            with interrupted_by_signals():
                return _run(given, asked, session)
        except QemuUnable as unable:
            if given.engine == "qemu" or session.announced is not None:
                raise _with_way_out(unable) from unable
            if not given.quiet:
                session.tell(f"{unable}; going on with the embedded engine")
        finally:
            session.guest.close()
    return _run(given, asked, session)


def _with_way_out(unable: QemuUnable) -> QemuUnable:
    """The same error; here there is another engine, too."""
    comma = "" if unable.hint.endswith("?") else ","
    return type(unable)(unable.where, unable.why, f"{unable.hint}{comma} or use --engine embedded")


def _run(given: argparse.Namespace, asked: Settings, session: _Session) -> int:
    from sipl.cli import guest_run

    if session.guest.opener is None and not guest_run.is_there():
        raise guest_run.missing()
    report = boot(given.disks, asked, session.guest, session.announce, session.guest.opener)
    session.finish(report)
    return _exit_code(report, session.guest, given)


def _exit_code(report: Report, guest: GuestRun, given: argparse.Namespace) -> int:
    end = guest.end
    if end is None or not (report.would_boot or report.reason is Reason.FIRMWARE_DECIDES):
        # The last IPL decides, be it the first or one that the guest asked for.
        return _EXIT_NOT if report.would_boot and given.until else report.exit_code
    if end.kind is EndKind.SEEN:
        return _EXIT_DONE
    if end.kind is EndKind.ENDED and not guest.ended_by_key:
        return _EXIT_UNDECIDED
    by_itself = end.kind in (EndKind.DONE, EndKind.ENDED)
    return _EXIT_DONE if by_itself and not given.until else _EXIT_NOT


class _Session:
    """The guest's console and what is said around it.

    The console has standard output and sipl's own words standard error; with JSON the reports have standard output.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        from sipl.cli.guest_run import GuestRun
        from sipl.cli.progress import Progress, has_room
        from sipl.cli.terminal_console import Console, Output, find_input

        shown_on = sys.stderr if given.json else sys.stdout
        self._given = given
        wanted = not given.quiet and has_room(sys.stderr, shown_on)
        self._progress = Progress(sys.stderr) if wanted else None
        self._source = find_input(self.tell)
        console = Console(self._source, Output(shown_on, raw=given.raw_console), self._progress)
        self.guest = GuestRun(console, given.timeout, given.until)
        self.announced: Report | None = None

    def announce(self, report: Report) -> None:
        """Say what an IPL came to, before the guest runs."""
        from sipl.cli.show_report import show
        from sipl.cli.terminal_console import TerminalInput

        self._tell_end()
        who = self.guest.name()
        show(report, "boot", self._given, sys.stderr)
        if self.announced is None and self._given.engine == "auto" and not self._given.quiet:
            self.tell(f"{who} runs the guest")
        if self.announced is None and isinstance(self._source, TerminalInput) and not self._given.quiet:
            self.tell("Ctrl-A x ends the run, Ctrl-A h helps")
        sys.stdout.flush()
        sys.stderr.flush()
        self.announced = report
        if self._progress is not None:
            self._progress.ipl += 1

    def finish(self, report: Report) -> None:
        """Say how the last run ended, and what an IPL after it came to."""
        self._tell_end()
        if report is not self.announced:
            from sipl.cli.show_report import show

            show(report, "boot", self._given, sys.stderr)

    def _tell_end(self) -> None:
        """Say how the last run ended, unless only the verdict is wanted and it is a good one; and what the host did."""
        end = self.guest.end
        if end is None:
            return
        if not (self._given.quiet and end.kind in (EndKind.DONE, EndKind.SEEN, EndKind.REIPL)):
            self.tell(end.message)
        for fault in end.host_faults:
            self.tell(fault)

    def tell(self, line: str) -> None:
        """Say a line of sipl's own."""
        from sipl.cli.output import complain
        from sipl.text import printable

        if self._progress is not None:
            self._progress.clear()
        complain(printable(line))
