"""A laboratory for IPLs: programs built piece by piece, signed with keys of this session, put on disks and booted.

The base program has the shape that zipl gives a disk, only smaller: a heap dummy, the signed loader with the global
SCLAB, unsigned parameters, the signed kernel, an unsigned RAM disk, EXEC. Every test changes the one thing it is about.
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path

from sipl import ipl
from sipl.author import sclab
from sipl.author.boot_record import DiskWriter, Execute, Load
from sipl.crypto import signing
from sipl.crypto.certificate import Certificate
from sipl.layout.sclab import SclabFlags
from sipl.machine.boot_devices import device_kind
from sipl.machine.cert_store import CertStore
from sipl.machine.cpu_model import parse_cpu
from sipl.machine.ebcdic import loadparm_to_ebcdic
from sipl.machine.interruption import ProgramInterruption
from sipl.machine.machine import Machine
from sipl.machine.options import MachineOptions
from sipl.reasons import Mode
from sipl.settings import Disk, Settings

AT = 1_800_000_000  # when everything is verified
YEAR = 365 * 24 * 3600
MIB = 1 << 20
MEMORY = 128 * MIB
FIRMWARE_BASE = 125 * MIB  # of a machine with MEMORY
FORBIDDEN_START = FIRMWARE_BASE - 28672

PSW = 0x000800008000A000
PSW_MASK = 0x0008000080000000
HEAP = 0x2000
PARAMETERS = 0x9000
LOADER = 0xA000
KERNEL = 0x10000
INITRD = 0x20000

GLOBAL = SclabFlags.OPSW | SclabFlags.OLA
KEY_KINDS = {"A": "p256", "B": "p521", "C": "rsa2048"}
ALL_ONES = b"\xff" * 4


def code(size: int, seed: int) -> bytes:
    """Bytes that repeat nowhere within a component and differ between components."""
    return b"".join(struct.pack(">I", (seed << 16) + n) for n in range(size // 4 + 1))[:size]


class Signer:
    """A key, its certificate, and the file in which the certificate lies."""

    def __init__(self, folder: Path, name: str, key, not_before: int = AT - YEAR, not_after: int = AT + YEAR) -> None:
        self.key = key
        pem = signing.self_signed(key, f"sipl test {name}", not_before, not_after)
        self.certificate = Certificate.from_pem(pem)
        self.path = str(folder / f"{name}.pem")
        Path(self.path).write_bytes(pem)

    def sign(self, data: bytes, digest: str = "sha256") -> bytes:
        return signing.sign_detached(data, self.key, self.certificate, digest)


class Signers:
    """The signers of a session by name; each is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, Signer] = {}

    def __getitem__(self, name: str) -> Signer:
        if name not in self._made:
            self._made[name] = Signer(self.folder, name, signing.generate_key(KEY_KINDS[name]))
        return self._made[name]

    def make(self, name: str, key, not_before: int = AT - YEAR, not_after: int = AT + YEAR) -> Signer:
        """A signer with a key or a validity of the test's own."""
        if name not in self._made:
            self._made[name] = Signer(self.folder, name, key, not_before, not_after)
        return self._made[name]


def loader_bytes(size: int = 1024, flags: int = GLOBAL, psw: int = PSW, address: int = LOADER, **fields) -> bytes:
    """The loader as it is signed: code and, as its last bytes, a SCLAB."""
    return sclab.overwrite(code(size, 0xA000), sclab.build(flags, psw, address, **fields))


def kernel_bytes(
    size: int = 2048, flags: int = 0, psw: int = 0, address: int = 0, seed: int = 0x1000, **fields
) -> bytes:
    return sclab.overwrite(code(size, seed), sclab.build(flags, psw, address, **fields))


class Engine:
    """Looks at the machine in the moment in which the loader would be entered."""

    def __init__(self, look) -> None:
        self._look = look

    def run(self, machine, state) -> None:
        self._look(machine, state)


class Lab:
    """What a test needs to make disks and boot them; all files lie in `folder`."""

    def __init__(self, folder: Path, signers: Signers) -> None:
        self.folder = folder
        self.signers = signers
        self._files = 0

    # programs

    def signed(self, address: int, data: bytes, by: str = "A", digest: str = "sha256", **fields) -> Load:
        """A component with its signature."""
        return Load(address, data, self.signers[by].sign(data, digest), **fields)

    def loader(self, at: int = LOADER, by: str = "A", **fields) -> Load:
        return self.signed(at, loader_bytes(**fields), by)

    def kernel(self, at: int = KERNEL, by: str = "A", **fields) -> Load:
        return self.signed(at, kernel_bytes(**fields), by)

    def program(self, psw: int = PSW, extra=(), block_size: int = 512, **parts) -> list[Load | Execute]:
        """The base program; a part is replaced by naming it, or left out by naming it as None.

        Parts are heap, loader, parameters, kernel, initrd; `extra` stands between the RAM disk and EXEC. What is signed
        is whole blocks of the disk that it is for.
        """
        standard = {
            "heap": lambda: Load(HEAP, bytes(4096)),
            "loader": lambda: self.loader(size=max(1024, block_size)),
            "parameters": lambda: Load(PARAMETERS, code(512, 0x9000)),
            "kernel": lambda: self.kernel(size=max(2048, block_size)),
            "initrd": lambda: Load(INITRD, code(512, 0x2000)),
        }
        assert not parts.keys() - standard.keys()
        chosen = [parts[name] if name in parts else make() for name, make in standard.items()]
        return [*(part for part in chosen if part is not None), *extra, Execute(psw)]

    # disks

    def file(self, image: bytes) -> str:
        """A new file with these bytes."""
        self._files += 1
        path = self.folder / f"{self._files}.img"
        path.write_bytes(image)
        return str(path)

    def disk(self, content, block_size: int = 512, kind: str = "virtio-blk", loadparm: str = "", **how) -> Disk:
        """A disk; `content` is the bytes of an image, or the components of a program."""
        image = image_of(content, block_size, **how) if isinstance(content, list) else bytes(content)
        return Disk(self.file(image), device_kind(kind), block_size, loadparm)

    # booting

    def settings(
        self,
        mode: str = "secure",
        certs=("A",),
        memory: int = MEMORY,
        loadparm: str = "",
        menu: bool | None = None,
        timeout: int = 0,
        protected: bool = False,
        **others,
    ) -> Settings:
        """Settings; `certs` are names of signers or paths, none of them in normal mode."""
        paths = [c if c.startswith("/") else self.signers[c].path for c in certs]
        machine = MachineOptions(
            secure_boot=mode == "secure",
            boot_certs=() if mode == "normal" else tuple(paths),
            loadparm=loadparm,
            memory=memory,
            boot_menu=menu,
            boot_menu_timeout_ms=timeout,
            protected=protected,
        )
        return Settings(machine=machine, at=others.pop("at", AT), **others)

    def boot(self, *disks, mode: str = "secure", look=None, **options):
        """Boot disks, or what makes one, and return the report; `look` sees the machine at the hand-over."""
        made = [disk if isinstance(disk, Disk) else self.disk(disk) for disk in disks]
        report = ipl.boot(made, self.settings(mode, **options), Engine(look) if look else None)
        # A machine without certificates is in normal mode, whatever a test believes.
        assert report.mode == mode
        return report

    def verify(self, disk, mode: str = "secure", **options):
        made = disk if isinstance(disk, Disk) else self.disk(disk)
        return ipl.verify(made, self.settings(mode, **options), Mode(mode))


def image_of(
    components: list, block_size: int = 512, merged: bool = True, change=None, size: int | None = None
) -> bytes:
    """A disk with one program, which is both the default and entry 1; `change` gets the entries of its table."""
    writer = DiskWriter(block_size)
    entries = [entry for c in components for entry in writer.add_component(c, merged)]
    if change is not None:
        entries = change(entries)
    return finish(writer, entries, size)


def finish(writer: DiskWriter, entries, size: int | None = None) -> bytes:
    """Write the tables that lead to the entries of a component table, and the boot record."""
    table = writer.append_component_table(entries)
    writer.write_boot_record(writer.append_program_table([table, table]))
    return bytes(writer.finish(size))


def verdict(report) -> tuple[str, str | None]:
    """How it ended, as two plain strings."""
    return str(report.outcome), None if report.reason is None else str(report.reason)


def reasons(report, *levels: str) -> list[str]:
    """Reasons of the findings in order: warnings and errors, or those of the levels named."""
    return [str(f.reason) for f in report.findings if f.level in (levels or ("warning", "error"))]


HANDS_OVER = ("hands-over", None)


@functools.cache
def table_capacity(block_size: int) -> int:
    """Entries that fit into a component table."""
    return (block_size - 32) // 32


class Bare:
    """A machine without disks, as guest code sees it: DIAGNOSE with registers, and memory."""

    def __init__(
        self, certs=(), cpu: str = "qemu", memory: int = 16 * MIB, at: int = AT, protected: bool = False
    ) -> None:
        options = MachineOptions(memory=memory, protected=protected)
        store = CertStore.load([str(path) for path in certs], lambda *warning: None)
        self.machine = Machine(options, parse_cpu(cpu), [], store, loadparm_to_ebcdic(""), lambda: at)

    def diagnose(self, function: int, address: int, subcode: int) -> int:
        return self.machine.diagnose(function, address, subcode)

    def interruption(self, function: int, address: int, subcode: int) -> str:
        """Name of the program interruption that the call ends with; empty if it does not."""
        try:
            self.machine.diagnose(function, address, subcode)
        except ProgramInterruption as interruption:
            return interruption.code.name.lower()
        return ""

    def write(self, address: int, data: bytes) -> None:
        self.machine.store(address, data)

    def read(self, address: int, length: int) -> bytes:
        return self.machine.load(address, length)
