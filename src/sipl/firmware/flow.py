"""The flow of an IPL: parameter block, mode, support checks, then one boot device after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.firmware.area import FirmwareArea
from sipl.firmware.blocks import BlockReader
from sipl.firmware.boot_map import component_entries, read_program_table
from sipl.firmware.certificates import CertificateList
from sipl.firmware.components import ComponentList
from sipl.firmware.facilities import check_facilities, query_store
from sipl.firmware.hand_over import DIAGNOSE_308, HandOver, hand_over
from sipl.firmware.loadparm import choose_program, effective_loadparm
from sipl.firmware.normal_ipl import load_program
from sipl.firmware.scp_info import MachineInfo, read_scp_info
from sipl.firmware.secure_ipl import SecureIpl
from sipl.firmware.stage3 import find_parameters, why_refused
from sipl.firmware.verdict import DeviceGivenUp, FirmwareFault, FirmwareStop, Judge, MachineStops
from sipl.layout import diag308
from sipl.layout.iplb import (
    IPLB_DEVICE_OFFSET,
    IPLB_SIZE,
    QIPL_ADDRESS,
    SSID_MASK,
    CcwBlock,
    IplbFlags,
    IplbHeader,
    IplbType,
    QemuScsiBlock,
    QiplParameters,
)
from sipl.layout.record import size_of, unpack
from sipl.reasons import Level, Mode, Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.firmware.platform import Console, Device, Platform
    from sipl.firmware.verdict import Finding
    from sipl.layout.diag320 import Vcssb
    from sipl.layout.iirb import ReportComponent

_FIRMWARE_ROOM: Final = 3 << 20  # the firmware lies at least this far below the end of memory


class Attempt:
    """What happened to one boot device; `program` is the number of the program that was tried, None if none was."""

    __slots__ = ("label", "outcome", "position", "program", "reason")

    def __init__(self, label: str, position: int) -> None:
        self.label = label
        self.position = position
        self.outcome = ""
        self.reason: Reason | None = None
        self.program: int | None = None


class Firmware:
    """The boot side of one machine, for one IPL. The attributes hold what was found, however the IPL ends."""

    def __init__(self, platform: Platform, console: Console, observe: Callable[[Finding], None]) -> None:
        self._platform = platform
        self._console = console
        self.judge = Judge(observe)
        self.attempts: list[Attempt] = []
        self.components = ComponentList()
        self.certificates: CertificateList | None = None
        self.psw_entry: ReportComponent | None = None
        self.error_indicators: int | None = None
        self.psw: int | None = None
        self.forbids_unsigned = False  # whether the global SCLAB says NUC
        self.outcome = Outcome.UNDECIDED
        self.reason: Reason | None = None
        self.hand_over: HandOver | None = None

    @property
    def mode(self) -> Mode:
        """The mode that the first IPL parameter block asks for."""
        return self.judge.mode

    def ipl(self) -> Outcome:
        """Run the IPL to its end: the outcome is hands-over, stops or no-bootable-device.

        Raises:
            UndecidedError: the image or the host is at fault.
            FirmwareFault: the machine behaves in a way that the architecture does not have.
        """
        try:
            self.outcome = self._boot()
        except MachineStops as stop:
            self.judge.note_stop(stop)
            self.outcome = Outcome.STOPS
            self.reason = stop.reason
        return self.outcome

    def give_no_verdict(self, reason: Reason) -> None:
        """The image or the host failed: whatever was found so far, there is no verdict."""
        self.outcome = Outcome.UNDECIDED
        self.reason = reason
        self.hand_over = None
        if self.attempts:
            self.attempts[-1].outcome = Outcome.UNDECIDED
            self.attempts[-1].reason = reason

    def _boot(self) -> Outcome:
        platform = self._platform
        base = platform.firmware_base
        scratch = FirmwareArea(base, base + _FIRMWARE_ROOM)
        info = read_scp_info(platform, scratch.sccb)
        area = FirmwareArea(base, max(info.memory_size, base + _FIRMWARE_ROOM))
        qipl = unpack(QiplParameters, platform.load(QIPL_ADDRESS, size_of(QiplParameters)))
        iplb = self._first_iplb(area)
        self.judge.mode = boot_mode(unpack(IplbHeader, iplb).flags)
        storage: Vcssb | None = None
        if self.mode is not Mode.NORMAL:
            check_facilities(platform, area, info)
            storage = query_store(platform, area, self.mode)
        for number in range(qipl.chain_length + 1):
            if number:
                iplb = platform.load(qipl.next_iplb + (number - 1) * IPLB_SIZE, IPLB_SIZE)
            attempt = Attempt("", number)
            self.attempts.append(attempt)
            self.judge.device = number
            try:
                self._try_device(area, iplb, info, qipl, storage, attempt)
            except FirmwareStop as stop:
                attempt.reason = stop.reason
                attempt.outcome = "given-up" if isinstance(stop, DeviceGivenUp) else Outcome.STOPS
                if not isinstance(stop, DeviceGivenUp):
                    raise
                self.judge.note_stop(stop)
                self.reason = stop.reason
                continue
            attempt.outcome = Outcome.HANDS_OVER
            self.reason = None
            return Outcome.HANDS_OVER
        return Outcome.NO_BOOTABLE_DEVICE

    def _first_iplb(self, area: FirmwareArea) -> bytes:
        self._platform.store(area.iplb, bytes(IPLB_SIZE))
        if self._platform.diagnose(DIAGNOSE_308, area.iplb, diag308.Subcode.STORE) != diag308.ResponseCode.OK:
            raise FirmwareFault("DIAGNOSE 308", "the machine has no IPL parameter block")
        return self._platform.load(area.iplb, IPLB_SIZE)

    def _find(self, iplb: bytes) -> Device:
        header = unpack(IplbHeader, iplb)
        if header.type == IplbType.CCW:
            ccw = unpack(CcwBlock, iplb, IPLB_DEVICE_OFFSET)
            ssid, devno = ccw.ssid & SSID_MASK, ccw.devno
        elif header.type == IplbType.QEMU_SCSI:
            scsi = unpack(QemuScsiBlock, iplb, IPLB_DEVICE_OFFSET)
            ssid, devno = scsi.ssid & SSID_MASK, scsi.devno
        else:
            raise self._not_eligible(f"an IPL parameter block of type {header.type:#04x} does not boot")
        device = self._platform.find_device(ssid, devno)
        if device is None:
            raise self._not_eligible(f"there is no device 0.{ssid}.{devno:04x}")
        return device

    def _not_eligible(self, message: str) -> FirmwareStop:
        kind = DeviceGivenUp if self.mode is Mode.NORMAL else MachineStops
        return kind(Reason.DEVICE_NOT_ELIGIBLE, message)

    def _try_device(
        self,
        area: FirmwareArea,
        iplb: bytes,
        info: MachineInfo,
        qipl: QiplParameters,
        storage: Vcssb | None,
        attempt: Attempt,
    ) -> None:
        """Boot one device, or raise why not."""
        self.components = ComponentList()
        self.certificates = None
        self.psw = None
        self.psw_entry = None
        self.error_indicators = None
        self.forbids_unsigned = False
        device = self._find(iplb)
        attempt.label = device.label
        attempt.position = device.position
        self.judge.device = device.position
        self._check_kind(device)
        reader = BlockReader(self._platform, device, area.metadata)
        table = read_program_table(reader, self.judge)
        loadparm = effective_loadparm(unpack(IplbHeader, iplb).loadparm, info.loadparm)
        number = choose_program(loadparm, qipl, table.programs, self._console)
        attempt.program = number
        entries = component_entries(reader, table.component_table(number))
        report = None
        if storage is None:
            psw = load_program(reader, area, entries, self.components)
        else:
            secure = SecureIpl(
                self._platform,
                reader,
                area,
                CertificateList(self._platform, area, storage.max_single_vcb_length),
                self.components,
                self.judge,
            )
            self.certificates = secure.certificates
            try:
                psw = secure.load_program(entries)
            finally:
                self.psw = secure.psw
                self.psw_entry = secure.psw_entry
                self.error_indicators = secure.error_indicators
                self.forbids_unsigned = secure.sclabs.forbids_unsigned
            report = secure.report()
            self._predict_loader(psw, secure, reader.block_size)
        self.psw = psw
        self.hand_over = hand_over(self._platform, area, device, iplb, report, psw, self.components)

    def _check_kind(self, device: Device) -> None:
        if device.kind == "scsi-cd":
            message = f"{device.label} is a CD-ROM, which cannot boot"
            if self.mode is Mode.NORMAL:
                raise DeviceGivenUp(Reason.SCHEME_NOT_SUPPORTED, message)
            raise MachineStops(Reason.CDROM_NOT_ELIGIBLE, message)
        if device.kind not in ("virtio-blk", "virtio-scsi"):
            raise self._not_eligible(f"{device.label} is a {device.kind} device, only virtio disks boot")

    def _predict_loader(self, psw: int, secure: SecureIpl, block_size: int) -> None:
        parameters = find_parameters(self._platform, psw, secure.sclabs.carrier, self.components)
        if parameters is None:
            return
        why = why_refused(parameters, self.components, block_size)
        if why:
            level = Level.WARNING if self.mode is Mode.SECURE else Level.INFO
            self.judge.add(Reason.LOADER_WILL_REFUSE, level, f"the loader (stage3) will not start the kernel: {why}")


def boot_mode(flags: int) -> Mode:
    """Decode the header flags of the first IPL parameter block; secure IPL without a report is normal mode."""
    if not flags & IplbFlags.IPLIR:
        return Mode.NORMAL
    return Mode.SECURE if flags & IplbFlags.SIPL else Mode.AUDIT
