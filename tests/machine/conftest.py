"""What the tests of `sipl.machine` share: a machine of any kind, certificates by name, a disk that is a byte string."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sipl.crypto.certificate import Certificate
from sipl.disk.block_device import BlockDevice
from sipl.disk.image import Image
from sipl.machine.boot_devices import DeviceKind, Subchannel
from sipl.machine.cert_store import CertStore, StoreEntry
from sipl.machine.cpu_model import parse_cpu
from sipl.machine.ebcdic import certificate_name, loadparm_to_ebcdic
from sipl.machine.interruption import ProgramCode, ProgramInterruption
from sipl.machine.machine import Machine
from sipl.machine.options import MachineOptions

NOW = 1780272000  # 2026-06-01T00:00:00Z
MEMORY = 16 << 20
R1, R3 = 2, 6
REGISTER = 0xFFFF_FFFF_DEAD_0000  # what register n holds before a call: this and n


class MemoryImage(Image):
    """A disk image in memory."""

    __slots__ = ("data",)

    def __init__(self, data: bytes, path: str = "disk") -> None:
        super().__init__(path, len(data), "raw")
        self.data = data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check_range(offset, len(buffer))
        buffer[:] = self.data[offset : offset + len(buffer)]

    def close(self) -> None:
        pass


def subchannel(position=0, kind="virtio-blk", data=None, block_size=512, loadparm=b"\x40" * 8, ssid=0, devno=None):
    kind = DeviceKind(kind)
    disk = None if data is None else BlockDevice(MemoryImage(data), block_size)
    return Subchannel(position, kind, disk, f"disk{position}", loadparm, ssid, position + 1 if devno is None else devno)


class Guest:
    """A machine with calls as guest code makes them, and what came of the last one."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.memory = machine.memory
        self.cpu = machine.cpu
        self.before: list[int] = []

    def call(self, function, subcode, address=0, r1=R1, r3=R3):
        """DIAGNOSE: the program-interruption code, or the content of the odd register in a list."""
        registers = self.cpu.registers
        registers[:] = [REGISTER + number for number in range(16)]
        registers[r1] = address
        registers[r3] = subcode
        self.before = list(registers)
        try:
            self.machine.execute_diagnose(self.cpu, function, r1, r3)
        except ProgramInterruption as interruption:
            assert registers == self.before, "an interruption leaves the registers alone"
            return interruption.code
        expected = list(self.before)
        expected[r1 + 1] = registers[r1 + 1]
        assert registers == expected, "only the odd register changes"
        return [registers[r1 + 1]]

    def put(self, address, data):
        self.memory.view[address : address + len(data)] = data

    def get(self, address, length):
        return bytes(self.memory.view[address : address + length])

    def unchanged(self):
        """Remember all of the memory: the result says whether it is still the same."""
        before = bytes(self.memory.view)
        return lambda: bytes(self.memory.view) == before


@pytest.fixture
def guest_with():
    """Makes a `Guest`; the machine is closed at the end of the test."""
    machines = []

    def make(store=(), cpu="qemu", devices=(), now=NOW, loadparm="", **options):
        options = MachineOptions(**{"memory": MEMORY, **options})
        store = store if isinstance(store, CertStore) else CertStore(store)
        machine = Machine(options, parse_cpu(cpu), devices, store, loadparm_to_ebcdic(loadparm), lambda: now)
        machines.append(machine)
        return Guest(machine)

    yield make
    for machine in machines:
        machine.close()


@pytest.fixture(scope="session")
def entry(data):
    """Makes a store entry of a PEM file of tests/data/crypto by name, or of DER."""

    def make(source, name=None):
        if isinstance(source, bytes):
            certificate = Certificate.from_der(source)
            name = name or "made.pem"
        else:
            name = name or f"{source}.pem"
            certificate = Certificate.from_pem((data / "crypto" / f"{source}.pem").read_bytes())
        return StoreEntry(name, certificate_name(name.encode()), certificate)

    return make


@pytest.fixture(scope="session")
def make_subchannel():
    return subchannel


@pytest.fixture(scope="session")
def codes():
    """Program-interruption codes of the architecture, by number; `ProgramCode` must agree."""
    known = SimpleNamespace(
        operation=1,
        privileged=2,
        protection=4,
        addressing=5,
        specification=6,
        segment_translation=0x10,
        page_translation=0x11,
        operand=0x15,
        asce_type=0x38,
        region_first_translation=0x39,
        region_second_translation=0x3A,
        region_third_translation=0x3B,
    )
    assert {code.name.lower(): int(code) for code in ProgramCode} == vars(known)
    return known


@pytest.fixture(scope="session")
def svb():
    """Packs a signature verification block: component and signature as (address, length); `echo` is what stays."""

    def make(component, signature, length=64, echo=b"\0" * 28):
        head = struct.pack(">I12sB7s8s", length, echo[:12], 0, echo[12:19], echo[19:27])
        return head + struct.pack(">QQQQ", component[1], component[0], signature[1], signature[0])

    return make


@pytest.fixture(scope="session")
def tiny_boot_side():
    """The module beside this file; pytest imports no helpers by itself."""
    name = "sipl_tests_tiny_boot_side"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("tiny_boot_side.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
