"""Debian's kernel and a small user space, from start to GUEST-DONE."""

from __future__ import annotations

import re

import pytest
from guest_lab import Console, EndKind

import sipl
from sipl.disk.open import open_image
from sipl.engine.console import ConsoleEnds
from sipl.engine.embedded.engine import EmbeddedEngine
from sipl.machine.options import MachineOptions
from sipl.reasons import Outcome, Reason
from sipl.settings import Disk, Settings

pytestmark = pytest.mark.slow

SECONDS = 300  # a busy host is slow
DONE = "GUEST-DONE"
MIB = 1 << 20


def boot(shared, disk, certs=(), secure=False, engine=None):
    """Outcome, how the run ended, console."""
    console = Console()
    ends = []
    engine = engine or EmbeddedEngine(console, timeout=SECONDS, until=DONE)
    run = engine.run

    def keep(machine, state):
        ends.append(run(machine, state))
        return ends[-1]

    engine.run = keep
    machine = MachineOptions(
        secure_boot=secure, boot_certs=tuple(str(shared / "keys" / name) for name in certs), memory=512 << 20
    )
    report = sipl.boot([Disk(str(disk))], Settings(machine=machine), engine)
    return report, ends, console.written.decode("ascii", "replace")


def reaches_the_end(report, ends, text):
    assert report.outcome is Outcome.HANDS_OVER
    assert [end.kind for end in ends] == [EndKind.SEEN], (ends, text[-2000:])
    assert DONE in text


def not_run(shared, disk, certs):
    """Reason of a secure IPL that must not come to the CPU."""

    class NoCpu(EmbeddedEngine):
        def run(self, machine, state):
            pytest.fail("the CPU was started")

    report, ends, text = boot(shared, disk, certs, secure=True, engine=NoCpu(Console()))
    assert (report.outcome, ends, text) == (Outcome.STOPS, [], "")
    return report.reason


def component_lines(text):
    """What the kernel says of each component, by its start address."""
    found = re.findall(r"setup: ([0-9a-f]{16}) - [0-9a-f]{16} \(([^)]*)\)", text)
    return {int(start, 16): what for start, what in found}


def ipl_attribute(text, name):
    return re.search(rf"IPL /sys/firmware/ipl/{name}: (\S*)", text).group(1)


LOADER, KERNEL = 0xA000, 0x10000


def test_secure(shared):
    report, ends, text = boot(shared, shared / "disks" / "good.qcow2", ("certA.pem",), secure=True)
    reaches_the_end(report, ends, text)
    assert "Linux is running with Secure-IPL enabled" in text
    assert "The IPL report contains the following components:" in text
    components = component_lines(text)
    assert {at for at, what in components.items() if what == "signed, verified"} == {LOADER, KERNEL}
    assert set(components.values()) == {"signed, verified", "not signed"}
    assert "integrity: Loading X.509 certificate: IPL:db" in text
    assert re.search(r"integrity: Loaded X.509 cert 'SIPL oracle A", text)
    assert (ipl_attribute(text, "secure"), ipl_attribute(text, "has_secure")) == ("1", "1")


def test_normal_mode(shared):
    report, ends, text = boot(shared, shared / "disks" / "good.qcow2")
    reaches_the_end(report, ends, text)
    assert report.mode == "normal"
    assert "Secure-IPL" not in text
    assert component_lines(text) == {}
    assert ipl_attribute(text, "secure") == "0"


def test_audit_with_the_wrong_certificate(shared):
    report, ends, text = boot(shared, shared / "disks" / "good.qcow2", ("certB.pem",))
    reaches_the_end(report, ends, text)
    assert report.mode == "audit"
    components = component_lines(text)
    assert {at for at, what in components.items() if what == "signed, verification failed"} == {LOADER, KERNEL}
    assert "signed, verified" not in components.values()
    assert ipl_attribute(text, "secure") == "0"


@pytest.mark.parametrize(
    ("disk", "certs"),
    [("mixed.qcow2", ("certA.pem", "certB.pem")), ("ec.qcow2", ("certEC.pem",)), ("good4k.qcow2", ("certA.pem",))],
    ids=["mixed", "ec", "good4k"],
)
def test_other_disks(shared, disk, certs):
    report, ends, text = boot(shared, shared / "disks" / disk, certs, secure=True)
    reaches_the_end(report, ends, text)
    components = component_lines(text)
    assert {at for at, what in components.items() if what == "signed, verified"} == {LOADER, KERNEL}
    assert ipl_attribute(text, "secure") == "1"


@pytest.mark.parametrize(
    ("disk", "certs", "reason"),
    [
        ("good.qcow2", ("certB.pem",), Reason.SIGNATURE_NOT_VERIFIED),
        ("mixed.qcow2", ("certA.pem",), Reason.SIGNATURE_NOT_VERIFIED),
        ("ec.qcow2", ("certA.pem",), Reason.SIGNATURE_NOT_VERIFIED),
        ("unsigned.qcow2", ("certA.pem",), Reason.NO_SIGNED_COMPONENT),
        ("sparse.qcow2", ("certA.pem",), Reason.SIGNATURE_NOT_VERIFIED),
        ("good.qcow2", (), Reason.NO_CERTIFICATE),
    ],
)
def test_what_secure_mode_refuses_never_runs(shared, disk, certs, reason):
    assert not_run(shared, shared / "disks" / disk, certs) == reason


def raw_copy(shared, path):
    """The good disk as a raw image; gives where the block of a component's first byte lies, by its address."""
    with open_image(str(shared / "disks" / "good.qcow2")) as image, path.open("wb") as raw:
        for offset in range(0, image.size, MIB):
            chunk = image.read(offset, min(MIB, image.size - offset))
            if chunk.strip(b"\0"):
                raw.seek(offset)
                raw.write(chunk)
        raw.truncate(image.size)
    layout = (shared / "disks" / "good.layout.txt").read_text()

    def place(address):
        component = layout[layout.index(f"compdat {address:016x}") :]
        block, more = re.search(r"segs \[\((\d+), 512, (\d+)\)", component).groups()
        return int(block) * 512, (int(more) + 1) * 512

    return place


def change_init(archive, script):
    """Replace /init of a RAM disk, an archive that xz has packed; the archive stays as long as it was."""
    lzma = pytest.importorskip("lzma")
    content = lzma.LZMADecompressor().decompress(archive)
    start = content.index(b"#!/bin/sh\n")
    end = content.index(b"poweroff -f\n", start) + len(b"poweroff -f\n")
    assert len(script) <= end - start
    content = content[:start] + script.ljust(end - start, b"\n") + content[end:]
    packed = lzma.compress(content, check=lzma.CHECK_CRC32)
    assert len(packed) <= len(archive)
    return packed.ljust(len(archive), b"\0")


RAM_DISK = 0x9E0000
REBOOTS = b"""#!/bin/sh
/bin/busybox mount -t sysfs s /sys
/bin/busybox echo SECURE $(/bin/busybox cat /sys/firmware/ipl/secure) ROUND
/bin/busybox reboot -f
"""


class Rounds(Console):
    """Ends the run when the guest has said twice that it is up."""

    def read(self, timeout, room):
        if self.written.count(b"ROUND\r") == 2:
            raise ConsoleEnds("two rounds")
        return b""


def test_reboot(shared, tmp_path):
    """Linux's own way, DIAGNOSE 308 subcode 4 with a block without flags: the mode stays, and all is verified again."""
    disk = tmp_path / "reboots.raw"
    start, length = raw_copy(shared, disk)(RAM_DISK)
    with disk.open("r+b") as raw:
        raw.seek(start)
        changed = change_init(raw.read(length), REBOOTS)
        raw.seek(start)
        raw.write(changed)
    console, announced = Rounds(), []
    machine = MachineOptions(secure_boot=True, boot_certs=(str(shared / "keys" / "certA.pem"),), memory=512 << 20)
    engine = EmbeddedEngine(console, timeout=SECONDS)
    sipl.boot([Disk(str(disk))], Settings(machine=machine), engine, announced.append)
    assert console.written.count(b"SECURE 1 ROUND\r") == 2
    assert len(announced) == 2
    for report in announced:
        assert (report.mode, report.outcome) == ("secure", Outcome.HANDS_OVER)
        assert [one.address for one in report.components if one.verified] == [LOADER, KERNEL]


def test_a_flipped_byte_of_the_kernel_never_runs(shared, tmp_path):
    """One bit, a good way into the kernel, on a raw copy of the good disk."""
    copy = tmp_path / "flipped.raw"
    start, _ = raw_copy(shared, copy)(KERNEL)
    with copy.open("r+b") as raw:
        raw.seek(start + 5 * MIB)
        (byte,) = raw.read(1)
        raw.seek(-1, 1)
        raw.write(bytes([byte ^ 0x10]))
    assert not_run(shared, copy, ("certA.pem",)) == Reason.SIGNATURE_NOT_VERIFIED
