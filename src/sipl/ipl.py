"""A whole IPL: settings and disks become a machine, the boot side runs on it, and a report says what happened."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from sipl.engine.base import EndKind
from sipl.errors import RefusedToStart, UndecidedError, UsageError
from sipl.firmware.flow import Firmware
from sipl.layout.iplb import IPLB_CHAIN_SIZE, MAX_BOOT_DEVICES
from sipl.machine.boot_devices import FIRST_DEVNO, DeviceKind, Subchannel
from sipl.machine.cert_store import CertStore
from sipl.machine.cpu_model import parse_cpu
from sipl.machine.ebcdic import loadparm_to_ebcdic
from sipl.machine.ipl_device import firmware_base
from sipl.machine.machine import Machine
from sipl.reasons import Level, Mode, Outcome, Reason
from sipl.report.build import FindingLog, direct_kernel_report, ipl_report, plain_report
from sipl.report.combine import combine
from sipl.settings import Disk, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from sipl.disk.block_device import BlockDevice
    from sipl.disk.image import Image
    from sipl.engine.base import Engine
    from sipl.report.model import Report

    # Gives the image of the disk at a position of the boot order, as it is then.
    Opener: TypeAlias = Callable[[int], Image]

_HAVE_BLOCKS: Final = frozenset({DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_SCSI, DeviceKind.SCSI_CD})
_CD_BLOCK_SIZE: Final = 2048
_DEFAULTS: Final = Settings()
# Ends of a run after which the boot side starts again.
_AGAIN: Final = frozenset({EndKind.REIPL, EndKind.RESET})


def boot(
    disks: Sequence[Disk],
    settings: Settings = _DEFAULTS,
    engine: Engine | None = None,
    announce: Callable[[Report], object] | None = None,
    opener: Opener | None = None,
) -> Report:
    """IPL one guest from disks in boot order, and let `engine` run it when the boot side hands over.

    `announce` gets the report of every IPL that hands over, before the guest runs; the last of all IPLs is returned.
    A real firmware counts as one that hands over, although its outcome is `undecided`. An engine whose devices write
    to the images themselves brings an `opener`: it gets a position in the boot order and gives the image of that disk,
    as it is then and after every run; who made it closes it.

    What concerns the guest, its disks or its certificates does not raise: the report says it, with the outcome
    `undecided` where an image file or the host is at fault.

    Raises:
        UsageError: the settings are not possible.
    """
    return _prepared(
        disks,
        settings,
        lambda ready: ready.run(settings.machine.secure_boot, engine, announce),
        runs=engine is not None,
        opener=opener,
    )


def verify(disk: Disk, settings: Settings = _DEFAULTS, mode: Mode = Mode.SECURE, image: Image | None = None) -> Report:
    """Judge one disk: the verdict of `mode`, and every finding, also those behind the first that stops secure mode.

    Outcome, reason and mode are those of the asked mode; components and findings those of the pass that goes on. A disk
    whose loader will refuse to go on counts as one that does not boot in secure mode. With `image`, that is looked at
    in place of the disk's file, and stays open.

    Raises:
        UsageError: the settings are not possible.
    """
    secure = Mode(mode) is Mode.SECURE
    asked = settings._replace(machine=settings.machine._replace(secure_boot=secure))

    def both_passes(ready: _Ready) -> Report:
        verdict = ready.run(secure, None)
        if not secure or verdict.outcome in (Outcome.HANDS_OVER, Outcome.UNDECIDED):
            return verdict
        # Without a certificate the machine would be in normal mode, and nobody would look at anything.
        return combine(verdict, ready.run(False, None, audit=verdict.reason is Reason.NO_CERTIFICATE))

    report = _prepared([disk], asked, both_passes, opener=None if image is None else lambda _: image)
    if secure and report.would_boot and any(finding.reason is Reason.LOADER_WILL_REFUSE for finding in report.findings):
        return report._replace(would_boot=False)
    return report


def _prepared(
    disks: Sequence[Disk],
    settings: Settings,
    use: Callable[[_Ready], Report],
    *,
    runs: bool = False,
    opener: Opener | None = None,
) -> Report:
    """Open disks and certificates, and report what keeps the machine from starting."""
    log = FindingLog()
    with ExitStack() as stack:
        try:
            return use(_Ready(disks, settings, log, stack, runs=runs, opener=opener))
        except RefusedToStart as refusal:
            log.refuse(refusal)
            return plain_report(_asked_mode(settings), disks, Outcome.REFUSED_TO_START, refusal.reason, log)
        except UndecidedError as fault:
            log.undecided(fault)
            return plain_report(_asked_mode(settings), disks, Outcome.UNDECIDED, fault.reason, log)


def _asked_mode(settings: Settings) -> Mode:
    """The mode that the options ask for, when there is no machine to say which it is in."""
    if settings.machine.secure_boot:
        return Mode.SECURE
    return Mode.AUDIT if settings.machine.boot_certs else Mode.NORMAL


class _Ready:
    """Disks, certificates and CPU model: what every pass of one call has in common."""

    def __init__(
        self,
        disks: Sequence[Disk],
        settings: Settings,
        log: FindingLog,
        stack: ExitStack,
        *,
        runs: bool,
        opener: Opener | None = None,
    ) -> None:
        """Open everything; with `runs` a guest will run, whose disks it can write to. `opener` is as in `boot`."""
        self._runs = runs
        self._opener = opener
        self._disks = disks
        self._settings = settings
        self._log = log
        self._stack = stack
        self._loadparm = loadparm_to_ebcdic(settings.machine.loadparm)
        self._model = parse_cpu(settings.cpu)
        for warning in self._model.warnings:
            log.host(Reason.CPU_FEATURE_DEPENDENCY, Level.WARNING, "--cpu", warning)
        for note in settings.machine.notes:
            log.host(Reason.OPTION_IGNORED, Level.INFO, "", note)
        # A kernel given directly boots from no disk, but once it runs it can use them.
        self._devices = self._boot_order() if settings.kernel is None or runs else []
        self._certificates = CertStore.load(
            settings.machine.boot_certs,
            lambda reason, where, why, hint: log.host(reason, Level.WARNING, where, why, hint),
        )
        if settings.kernel is None and not disks:
            raise RefusedToStart(Reason.NO_BOOT_DEVICE, "", "there is no boot device", "name a disk image")
        now = int(time.time()) if settings.at is None else settings.at
        self._clock: Callable[[], int] = lambda: now

    def _boot_order(self) -> list[Subchannel]:
        disks = self._disks
        if len(disks) > MAX_BOOT_DEVICES:
            message = f"{len(disks)} boot devices are named, only the first {MAX_BOOT_DEVICES} are used"
            self._log.host(Reason.TOO_MANY_BOOT_DEVICES, Level.WARNING, "", message)
        return [self._subchannel(position, disk) for position, disk in enumerate(disks[:MAX_BOOT_DEVICES])]

    def _subchannel(self, position: int, disk: Disk) -> Subchannel:
        return Subchannel(
            position=position,
            kind=disk.kind,
            disk=self._open(position, disk) if disk.kind in _HAVE_BLOCKS else None,
            label=disk.path,
            loadparm=loadparm_to_ebcdic(disk.loadparm) if disk.loadparm else self._loadparm,
            ssid=disk.ssid,
            devno=FIRST_DEVNO + position if disk.devno is None else disk.devno,
        )

    def _open(self, position: int, disk: Disk) -> BlockDevice:
        from sipl.disk.block_device import BlockDevice
        from sipl.disk.block_size import find_block_size
        from sipl.disk.open import open_image

        settings = self._settings
        if self._opener is not None:
            image = self._opener(position)
        elif self._runs and settings.write:
            from sipl.disk.overlay import DirectRaw

            image = self._stack.enter_context(DirectRaw(disk.path))
        else:
            image = self._stack.enter_context(
                open_image(disk.path, allow_backing=settings.allow_backing, backing_folder=settings.backing_folder)
            )
        for note in image.notes:
            self._log.host(Reason.IMAGE_NOTE, Level.WARNING, disk.path, note)
        default = _CD_BLOCK_SIZE if disk.kind is DeviceKind.SCSI_CD else find_block_size(image)
        block_size = disk.block_size or default
        if not self._runs or self._opener is not None:
            return BlockDevice(image, block_size)
        from sipl.disk.overlay import Overlay, WritableDisk, WritableImage

        writable = image if isinstance(image, WritableImage) else self._stack.enter_context(Overlay(image))
        return WritableDisk(writable, block_size)

    def run(
        self,
        secure_boot: bool,
        engine: Engine | None,
        announce: Callable[[Report], object] | None = None,
        *,
        audit: bool = False,
    ) -> Report:
        """One IPL of a fresh machine; `engine` runs the guest when the boot side hands over.

        With `audit` the machine asks for a report also where it has no certificate.

        Raises:
            RefusedToStart: a device or a kernel is not acceptable in this mode.
            UndecidedError: the kernel file, or that of a real firmware, cannot be read.
            UsageError: a real firmware is named, and nobody runs it or a kernel is named, too.
        """
        options = self._settings.machine._replace(secure_boot=secure_boot)
        machine = Machine(options, self._model, self._devices, self._certificates, self._loadparm, self._clock)
        if audit:
            machine.ask_for_report()
        try:
            if self._settings.firmware is not None:
                return self._run_real_firmware(machine, self._settings.firmware, engine, announce)
            if self._settings.kernel is not None:
                return self._run_kernel(machine, self._settings.kernel, engine, announce)
            return self._run_firmware(machine, engine, announce)
        finally:
            machine.close()

    def _run_kernel(
        self, machine: Machine, kernel: str, engine: Engine | None, announce: Callable[[Report], object] | None
    ) -> Report:
        """Start a kernel without a boot side; every IPL that the guest asks for reads, checks and starts it again."""
        from sipl.firmware.hand_over import HandOver
        from sipl.machine.direct_kernel import check_direct_kernel, load_kernel

        while True:
            log = self._log.copy()
            check_direct_kernel(kernel, machine.ipl_device.flags, log.host)
            loaded = load_kernel(kernel, machine.memory, firmware_base(machine.memory.size) - IPLB_CHAIN_SIZE)
            report = direct_kernel_report(_asked_mode(self._settings), loaded.psw, log)
            if engine is None:
                return report
            if announce is not None:
                announce(report)
            end = engine.run(machine, HandOver(loaded.psw, 0, 0, 0, spans=((0, loaded.size),)))
            if end is None or end.kind not in _AGAIN:
                return report
            machine.clear_memory()

    def _run_firmware(
        self, machine: Machine, engine: Engine | None, announce: Callable[[Report], object] | None
    ) -> Report:
        """IPL, and let the guest run; every IPL that the guest asks for is the same again, over what it sees."""
        machine.ipl_device.prepare_ipl(machine.memory)
        while True:
            log = self._log.copy()
            firmware = Firmware(machine, _Chooser(self._settings.choose), log.observe)
            log.watch(machine, firmware)
            try:
                firmware.ipl()
            except UndecidedError as fault:
                log.undecided(fault)
                firmware.give_no_verdict(fault.reason)
            report = ipl_report(machine, firmware, self._disks, log)
            if engine is None or firmware.hand_over is None:
                return report
            if announce is not None:
                announce(report)
            end = engine.run(machine, firmware.hand_over)
            if end is None or end.kind not in _AGAIN:
                return report
            _start_again(machine, end.kind)

    def _run_real_firmware(
        self, machine: Machine, path: str, engine: Engine | None, announce: Callable[[Report], object] | None
    ) -> Report:
        """Let a real firmware run as guest code, at every IPL; it decides what it boots, so there is no verdict."""
        from sipl.firmware.hand_over import HandOver
        from sipl.machine.firmware_image import check_trust, read_firmware

        if engine is None:
            raise UsageError("firmware", "nobody runs it, and without a run there is nothing to say", "name an engine")
        if self._settings.kernel is not None:
            raise UsageError("firmware", "a kernel is named, too, and is started without one", "name one of them")
        log = self._log.copy()
        check_trust(path, machine.ipl_device.flags, log.host, trusted=self._settings.trust_firmware)
        image = read_firmware(path)
        report = plain_report(_asked_mode(self._settings), self._disks, Outcome.UNDECIDED, Reason.FIRMWARE_DECIDES, log)
        machine.ipl_device.prepare_ipl(machine.memory)
        while True:
            state = HandOver(image.place(machine.memory, machine.firmware_base), 0, 0, 0)
            if announce is not None:
                announce(report)
            end = engine.run(machine, state)
            if end is None or end.kind not in _AGAIN:
                return report
            _start_again(machine, end.kind)


def _start_again(machine: Machine, why: EndKind) -> None:
    """Clear the memory and make ready for the IPL that the guest asked for, or for one as the first."""
    machine.clear_memory()
    if why is EndKind.RESET:
        machine.ipl_device.prepare_ipl(machine.memory)
    else:
        machine.ipl_device.prepare_reipl(machine.memory)


class _Chooser:
    """The console of the boot side: asks the caller for a menu entry."""

    def __init__(self, choose: Callable[[Sequence[int], int], int] | None) -> None:
        self._choose = choose

    def choose(self, entries: Sequence[int], timeout: int) -> int:
        """Ask; without anybody to ask there is no verdict."""
        if self._choose is None:
            there = ", ".join(map(str, entries))
            raise MenuChoiceNeeded(
                "boot menu", f"the disk asks which program to boot: {there}", "choose with --choose N"
            )
        return self._choose(entries, timeout)


class MenuChoiceNeeded(UndecidedError):
    """A boot menu is shown and nobody is there to choose."""

    reason = Reason.MENU_CHOICE_NEEDED
