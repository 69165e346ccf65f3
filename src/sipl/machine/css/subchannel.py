"""A subchannel: its control words, and what the I/O instructions do to it (docs/formats/channel-io.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.layout.css import (
    COMMAND_BASIC_SENSE,
    COMMAND_NOP,
    COMMAND_SENSE_ID,
    DEVICE_CHANNEL_END,
    DEVICE_DEVICE_END,
    DEVICE_UNIT_CHECK,
    ERW_CONCURRENT_SENSE,
    ERW_SENSE_COUNT_SHIFT,
    ESW_PATH_SHIFT,
    EXTENDED_STATUS_SIZE,
    INTERRUPTION_ISC_SHIFT,
    MEASUREMENT_ADDRESS_OFFSET,
    PMCW_CHAR_CONCURRENT_SENSE,
    PMCW_CHAR_MODIFIABLE,
    PMCW_DEVICE_VALID,
    PMCW_ENABLED,
    PMCW_ISC,
    PMCW_ISC_SHIFT,
    PMCW_MODIFIABLE,
    SCHIB_SIZE,
    SCSW_ACTIVITY,
    SCSW_ACTIVITY_SUSPENDED,
    SCSW_FLAG_EXTENDED_CONTROL,
    SCSW_FLAG_EXTENDED_STATUS,
    SCSW_FLAG_ORB,
    SCSW_FUNCTION,
    SCSW_FUNCTION_CLEAR,
    SCSW_FUNCTION_HALT,
    SCSW_FUNCTION_START,
    SCSW_STATUS,
    SCSW_STATUS_ALERT,
    SCSW_STATUS_INTERMEDIATE,
    SCSW_STATUS_PENDING,
    SCSW_STATUS_PRIMARY,
    SCSW_STATUS_SECONDARY,
    SENSE_SIZE,
    SID_ONE,
    SID_SSID_SHIFT,
    SUBCHANNEL_PCI,
    Pmcw,
    Scsw,
)
from sipl.layout.record import pack, unpack
from sipl.machine.css.channel_program import ChannelProgram

if TYPE_CHECKING:
    from sipl.layout.css import Orb
    from sipl.machine.css.channel_program import Ending
    from sipl.machine.css.device import ChannelData, ChannelDevice
    from sipl.machine.css.interruptions import IoInterruptions
    from sipl.machine.css.storage import DeviceStorage

ONLY_PATH: Final = 0x80  # the leftmost of eight
CHPID: Final = 0  # the channel path of all virtual devices
_ALL_PATHS: Final = 0xFF
_FINAL: Final = SCSW_STATUS_PRIMARY | SCSW_STATUS_SECONDARY | SCSW_STATUS_ALERT
_GOOD: Final = DEVICE_CHANNEL_END | DEVICE_DEVICE_END


class Subchannel:
    """A subchannel with a device. The methods that are named after instructions return their condition code.

    A start function ends within `start`: the subchannel is never found active, only idle, status pending or suspended.
    """

    __slots__ = (
        "_ccw_address",
        "_control",
        "_device_status",
        "_flags",
        "_measurement_address",
        "_pmcw",
        "_program",
        "_residual",
        "_sense",
        "_subchannel_status",
        "device",
        "device_number",
        "interruptions",
        "number",
        "ssid",
        "storage",
        "subsystem_id",
    )

    def __init__(
        self,
        device: ChannelDevice,
        ssid: int,
        number: int,
        device_number: int,
        storage: DeviceStorage,
        interruptions: IoInterruptions,
    ) -> None:
        self.device = device
        self.ssid = ssid
        self.number = number
        self.device_number = device_number
        self.subsystem_id = SID_ONE | ssid << SID_SSID_SHIFT | number
        self.storage = storage
        self.interruptions = interruptions
        self._clear_state()

    def _clear_state(self) -> None:
        self._pmcw = Pmcw(
            parameter=0,
            flags=PMCW_DEVICE_VALID,
            device_number=self.device_number,
            logical_path_mask=ONLY_PATH,
            path_not_operational=0,
            last_path_used=0,
            path_installed=ONLY_PATH,
            measurement_index=0,
            path_operational=_ALL_PATHS,
            path_available=ONLY_PATH,
            chpids=bytes([CHPID, 0, 0, 0, 0, 0, 0, 0]),
            characteristics=0,
        )
        self._measurement_address = 0
        self._flags = self._control = self._ccw_address = self._residual = 0
        self._device_status = self._subchannel_status = 0
        self._sense = bytes(SENSE_SIZE)
        self._program: ChannelProgram | None = None

    @property
    def enabled(self) -> bool:
        """Whether the program enabled the subchannel."""
        return bool(self._pmcw.flags & PMCW_ENABLED)

    @property
    def isc(self) -> int:
        """Interruption subclass."""
        return (self._pmcw.flags & PMCW_ISC) >> PMCW_ISC_SHIFT

    @property
    def status_pending(self) -> bool:
        """Whether TEST SUBCHANNEL finds status."""
        return bool(self._control & SCSW_STATUS_PENDING)

    def reset(self) -> None:
        """I/O-system reset."""
        self.interruptions.drop(self.subsystem_id)
        self._clear_state()
        self.device.reset()

    def alert(self) -> None:
        """Make unsolicited status pending, unless there is status already or the subchannel is not enabled.

        The status that the last function left stays but for its errors, which are no news.
        """
        if not self.enabled or self._control & (SCSW_STATUS_PENDING | SCSW_ACTIVITY_SUSPENDED):
            return
        self._control = self._control & ~SCSW_STATUS | SCSW_STATUS_ALERT | SCSW_STATUS_PENDING
        self._device_status &= _GOOD
        self._subchannel_status = 0
        self._interrupt()

    def store(self) -> bytes:
        """STORE SUBCHANNEL: the SCHIB."""
        schib = pack(self._pmcw) + pack(self._scsw(self._flags)) + self._measurement_address.to_bytes(8, "big")
        return schib.ljust(SCHIB_SIZE, b"\0")

    def modify(self, schib: bytes) -> int:
        """MODIFY SUBCHANNEL with a SCHIB whose reserved bits were looked at before."""
        if self._control & SCSW_STATUS_PENDING:
            return 1
        if self._control & SCSW_FUNCTION:
            return 2
        wanted, old = unpack(Pmcw, schib), self._pmcw
        self._pmcw = old._replace(
            parameter=wanted.parameter,
            flags=old.flags & ~PMCW_MODIFIABLE | wanted.flags & PMCW_MODIFIABLE,
            logical_path_mask=wanted.logical_path_mask,
            measurement_index=wanted.measurement_index,
            path_operational=wanted.path_operational,
            characteristics=wanted.characteristics & PMCW_CHAR_MODIFIABLE,
        )
        at = MEASUREMENT_ADDRESS_OFFSET
        self._measurement_address = int.from_bytes(schib[at : at + 8], "big")
        if old.flags & PMCW_ENABLED and not self.enabled:
            self.device.disabled()
        return 0

    def start(self, orb: Orb) -> int:
        """START SUBCHANNEL with an ORB whose reserved bits were looked at before."""
        if not self.enabled:
            return 3
        if self._control & SCSW_STATUS_PENDING:
            return 1
        if self._control & SCSW_FUNCTION:
            return 2
        usable = self._pmcw.path_installed & self._pmcw.path_available & self._pmcw.logical_path_mask
        if not usable & orb.path_mask:
            return 3
        self._pmcw = self._pmcw._replace(parameter=orb.parameter)
        self._flags = orb.control & SCSW_FLAG_ORB
        self._run(ChannelProgram(self.storage, orb))
        return 0

    def resume(self) -> int:
        """RESUME SUBCHANNEL."""
        if not self.enabled:
            return 3
        if self._control & SCSW_STATUS_PENDING:
            return 1
        if self._program is None or not self._control & SCSW_ACTIVITY_SUSPENDED:
            return 2
        self._run(self._program)
        return 0

    def halt(self) -> int:
        """HALT SUBCHANNEL; never busy, because a halt or clear function leaves status at once."""
        if not self.enabled:
            return 3
        status = self._control & SCSW_STATUS
        if status == SCSW_STATUS_PENDING or status & _FINAL:
            return 1
        self._device_status = 0 if self._control & SCSW_ACTIVITY_SUSPENDED else DEVICE_DEVICE_END
        self._subchannel_status = 0
        self._signal(SCSW_FUNCTION_HALT)
        return 0

    def clear(self) -> int:
        """CLEAR SUBCHANNEL."""
        if not self.enabled:
            return 3
        self._flags = self._ccw_address = self._residual = 0
        self._device_status = self._subchannel_status = 0
        self._sense = bytes(SENSE_SIZE)
        self._pmcw = self._pmcw._replace(path_operational=_ALL_PATHS)
        self._signal(SCSW_FUNCTION_CLEAR)
        return 0

    def cancel(self) -> int:
        """CANCEL SUBCHANNEL: only what is suspended has not ended already."""
        if not self.enabled:
            return 3
        if self._control & SCSW_STATUS_PENDING:
            return 1
        if not self._control & SCSW_ACTIVITY_SUSPENDED:
            return 2
        self._control = 0
        self._program = None
        return 0

    def test(self) -> tuple[int, bytes]:
        """TEST SUBCHANNEL: condition code and IRB, which is empty with condition code 3.

        Status that was pending is not pending afterwards, and its interruption is withdrawn. Device and subchannel
        status stay readable: drivers look at them in the IRB of the last TEST SUBCHANNEL, the one with nothing pending.
        """
        if not self.enabled:
            return 3, b""
        if not self._control & SCSW_STATUS_PENDING:
            return 1, self._irb(self._flags, bytes(EXTENDED_STATUS_SIZE), bytes(SENSE_SIZE))
        flags, report, sense = self._flags, 0, bytes(SENSE_SIZE)
        if self._device_status & DEVICE_UNIT_CHECK and self._pmcw.characteristics & PMCW_CHAR_CONCURRENT_SENSE:
            flags |= SCSW_FLAG_EXTENDED_STATUS | SCSW_FLAG_EXTENDED_CONTROL
            report = ERW_CONCURRENT_SENSE | SENSE_SIZE << ERW_SENSE_COUNT_SHIFT
            sense, self._sense = self._sense, sense
        logout = self._pmcw.last_path_used << ESW_PATH_SHIFT
        extended = (logout << 32 | report).to_bytes(8, "big").ljust(EXTENDED_STATUS_SIZE, b"\0")
        irb = self._irb(flags, extended, sense)
        if self._control & SCSW_STATUS == SCSW_STATUS_INTERMEDIATE | SCSW_STATUS_PENDING:
            self._control &= ~SCSW_STATUS
        else:
            self._control &= ~(SCSW_STATUS | SCSW_FUNCTION | SCSW_ACTIVITY)
            self._program = None
        self.interruptions.drop(self.subsystem_id)
        return 0, irb

    def _irb(self, flags: int, extended_status: bytes, extended_control: bytes) -> bytes:
        return pack(self._scsw(flags)) + extended_status + extended_control

    def _scsw(self, flags: int) -> Scsw:
        return Scsw(
            flags=flags,
            control=self._control,
            ccw_address=self._ccw_address,
            device_status=self._device_status,
            subchannel_status=self._subchannel_status,
            residual=self._residual,
        )

    def _signal(self, function: int) -> None:
        """Halt or clear: the device is idle or suspended, so that the signal ends the function at once."""
        self._program = None
        self._control = function | SCSW_STATUS_PENDING
        self._pmcw = self._pmcw._replace(last_path_used=ONLY_PATH)
        self._interrupt()

    def _run(self, program: ChannelProgram) -> None:
        self._pmcw = self._pmcw._replace(last_path_used=ONLY_PATH)
        ending = program.run(self._execute)
        self._ccw_address, self._residual = ending.ccw_address & 0xFFFFFFFF, ending.residual
        self._device_status, self._subchannel_status = ending.device_status, ending.subchannel_status
        if ending.sense is not None:
            self._sense = bytes([ending.sense]).ljust(SENSE_SIZE, b"\0")
        self._control = SCSW_FUNCTION_START | _status(ending)
        self._program = program if ending.suspended else None
        if self._control & SCSW_STATUS_PENDING:
            self._interrupt()

    def _execute(self, code: int, data: ChannelData) -> None:
        if code == COMMAND_NOP:
            return
        if code == COMMAND_SENSE_ID:
            data.store(pack(self.device.sense_id))
        elif code == COMMAND_BASIC_SENSE:
            data.store(self._sense)
            self._sense = bytes(SENSE_SIZE)
        else:
            self.device.command(code, data)

    def _interrupt(self) -> None:
        isc = self.isc
        self.interruptions.add(isc, self.subsystem_id, self._pmcw.parameter, isc << INTERRUPTION_ISC_SHIFT)


def _status(ending: Ending) -> int:
    """Activity and status control at the end of a run."""
    if ending.suspended:
        status = 0 if ending.quiet else SCSW_STATUS_INTERMEDIATE | SCSW_STATUS_PENDING
        return SCSW_ACTIVITY_SUSPENDED | status
    status = SCSW_STATUS_PRIMARY | SCSW_STATUS_SECONDARY | SCSW_STATUS_PENDING
    if ending.device_status & DEVICE_UNIT_CHECK or ending.subchannel_status & ~SUBCHANNEL_PCI:
        status |= SCSW_STATUS_ALERT
    if ending.subchannel_status & SUBCHANNEL_PCI:
        status |= SCSW_STATUS_INTERMEDIATE
    return status
