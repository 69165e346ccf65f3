"""The machine: memory, one CPU's instructions, certificate store, boot order (docs/how-it-works.md)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from sipl.layout.iplb import IplbFlags
from sipl.machine import diag308, diag320, diag508
from sipl.machine.cpu import Cpu
from sipl.machine.interruption import ProgramCode, ProgramInterruption
from sipl.machine.ipl_device import IplDevice, firmware_base
from sipl.machine.memory import GuestMemory
from sipl.machine.sclp import ScpInfo, service_call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sipl.machine.boot_devices import Subchannel
    from sipl.machine.cert_store import CertStore
    from sipl.machine.cpu_model import CpuModel
    from sipl.machine.options import MachineOptions
    from sipl.machine.sclp_events import EventFacility

# A guest can call DIAGNOSE 508 for ever; an IPL makes at most one call per component, which is 126.
MAX_VERIFICATIONS_KEPT: Final = 256

# The register pair that the boot side uses for DIAGNOSE.
_R1: Final = 2
_R3: Final = 6


class Machine:
    """An s390-ccw-virtio machine up to the point at which its CPU starts.

    It offers its instructions twice: `diagnose` and `service` work on the registers of a `Cpu`, as guest code
    needs them; the methods of `sipl.firmware.platform.Platform` do the same for the boot side.
    """

    def __init__(
        self,
        options: MachineOptions,
        model: CpuModel,
        devices: Sequence[Subchannel],
        certificates: CertStore,
        loadparm: bytes,
        clock: Callable[[], int],
    ) -> None:
        """Build the machine; `loadparm` is 8 bytes EBCDIC, `clock` gives seconds since 1970 (UTC).

        Raises:
            RefusedToStart: a device of the boot order cannot take part in secure IPL.
            UsageError: the host has no room for the guest's memory.
        """
        self.options = options
        self._model = model
        self.devices = tuple(devices)
        self.certificates = certificates
        self.clock = clock
        flags = IplbFlags(0)
        if options.secure_boot:
            flags = IplbFlags.SIPL | IplbFlags.IPLIR
        elif certificates.count:
            flags = IplbFlags.IPLIR
        timeout = options.boot_menu_timeout_ms if options.boot_menu else None
        self.ipl_device = IplDevice(devices, flags, loadparm, timeout)
        self.memory = GuestMemory(options.memory)
        self.cpu = Cpu(self.memory)
        self.protected = options.protected
        self.events: EventFacility | None = None  # an engine that runs the guest brings a console
        self.verifications: deque[diag508.Verification] = deque(maxlen=MAX_VERIFICATIONS_KEPT)

    @property
    def model(self) -> CpuModel:
        """What the guest finds of the CPU model; a protected guest finds none of the facilities of secure IPL."""
        return self._model.as_protected() if self.protected else self._model

    def ask_for_report(self) -> None:
        """Be in audit mode at least, also without a certificate, which no option of the reference asks for."""
        self.ipl_device.flags |= IplbFlags.IPLIR

    def close(self) -> None:
        """Give the guest's memory back to the host."""
        self.memory.close()

    def clear_memory(self) -> None:
        """Clear reset: every byte of memory is zero again."""
        self.memory.clear()
        self.verifications.clear()

    def diagnose(self, function: int, address: int, subcode: int) -> int:
        """DIAGNOSE for the boot side: returns what the odd register holds afterwards."""
        registers = self.cpu.registers
        registers[_R1], registers[_R1 + 1], registers[_R3] = address, 0, subcode
        self.execute_diagnose(self.cpu, function, _R1, _R3)
        return registers[_R1 + 1]

    def execute_diagnose(self, cpu: Cpu, function: int, r1: int, r3: int) -> None:
        """Carry out DIAGNOSE with function code `function` (its low 16 bits) for guest code.

        Raises:
            ProgramInterruption: as the function says; specification for a function that does not exist.
            GuestReset: DIAGNOSE 308 subcodes that start or reset the guest.
        """
        match function & 0xFFFF:
            case diag308.FUNCTION_CODE:
                diag308.diagnose_308(cpu, self.ipl_device, r1, r3)
            case diag320.FUNCTION_CODE:
                offered = self.model.cstore
                diag320.diagnose_320(cpu, self.certificates, offered, self.clock(), r1, r3)
            case diag508.FUNCTION_CODE:
                offered = self.model.sipl
                verification = diag508.diagnose_508(cpu, self.certificates, offered, self.clock(), r1, r3)
                if verification is not None:
                    self.verifications.append(verification)
            case _:
                cpu.require_supervisor()
                raise ProgramInterruption(ProgramCode.SPECIFICATION)

    def service_call(self, command: int, address: int) -> None:
        """SERVC for the boot side."""
        self.execute_service_call(self.cpu, command, address)

    def execute_service_call(self, cpu: Cpu, command: int, address: int) -> None:
        """Carry out SERVC for guest code.

        Raises:
            ProgramInterruption: privileged, addressing, specification.
        """
        info = ScpInfo(self.memory.size, self.options.cpus, self.ipl_device.loadparm, self.model)
        service_call(cpu, info, command, address, self.events)

    @property
    def firmware_base(self) -> int:
        """Absolute address that the firmware is loaded at."""
        return firmware_base(self.memory.size)

    def load(self, address: int, length: int) -> bytes:
        """Fetch bytes from absolute storage."""
        return self.memory.read(address, length)

    def store(self, address: int, data: bytes) -> None:
        """Store bytes into absolute storage."""
        self.memory.write(address, data)

    def find_device(self, ssid: int, devno: int) -> Subchannel | None:
        """The boot device with this subchannel-set identifier and device number."""
        for device in self.devices:
            if (device.ssid, device.devno) == (ssid, devno):
                return device
        return None

    def read_blocks(self, subsystem_id: int, block: int, count: int, address: int) -> None:
        """Have the device of a subchannel store blocks into memory."""
        for device in self.devices:
            if device.subsystem_id == subsystem_id:
                device.read_blocks(self.memory, block, count, address)
                return
        raise ProgramInterruption(ProgramCode.OPERAND)
