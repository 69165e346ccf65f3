"""H9 to H11: every IPL is verified, on the bytes that stay in memory, and a weak signature is never silent."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from pathlib import Path

import pytest
from ipl_lab import HANDS_OVER, KERNEL, LOADER, Load, finish, kernel_bytes, loader_bytes, reasons, verdict

from sipl.author.boot_record import DiskWriter
from sipl.crypto import signing
from sipl.disk.block_device import BlockDevice
from sipl.firmware.flow import Firmware
from sipl.firmware.verdict import FirmwareFault

MODES = ["audit", "secure"]


# H9


def reipl(machine, block=None):
    """What a guest's reboot does: set a block with DIAGNOSE 308 subcode 5 if it likes, then IPL again."""
    if block is not None:
        machine.store(0x30000, block)
        assert machine.diagnose(0x308, 0x30000, 5) == 1
    machine.ipl_device.prepare_reipl(machine.memory)
    findings = []
    firmware = Firmware(machine, None, findings.append)
    firmware.ipl()
    return firmware, [str(f.reason) for f in findings]


def linux_block(devno=1):
    """The block that Linux sets before a reboot: CCW, length 200, no flag of secure IPL."""
    return struct.pack(">IB2xBIBB2x8s85xBH", 200, 0, 0, 192, 2, 0, bytes(8), 0, devno).ljust(4096, b"\0")


@pytest.mark.parametrize("block", [None, linux_block()])
@pytest.mark.parametrize("mode", ["normal", "audit", "secure"])
def test_h09_reboot_keeps_the_mode(lab, mode, block):
    seen = []
    lab.boot(lab.program(), mode=mode, look=lambda machine, state: seen.append(reipl(machine, block)))
    ((firmware, _),) = seen
    assert (firmware.outcome, firmware.reason) == HANDS_OVER
    assert firmware.mode == mode
    assert [c.verified for c in firmware.components if c.signed] == [True, True] * (mode != "normal")


@pytest.mark.parametrize("kind", ["virtio-blk", "virtio-scsi"])
def test_h09_a_disk_changed_in_between_is_refused(lab, kind):
    """The attack: the running guest replaces its kernel and reboots with flags of its own."""
    disk = lab.disk(lab.program(), kind=kind)
    seen = []

    def attack(machine, state):
        image = Path(disk.path)
        data = bytearray(image.read_bytes())
        data[data.index(kernel_bytes()) + 100] ^= 1
        image.write_bytes(data)
        # The guest knows its own block: only the flags and the length are the attack.
        block = bytearray(machine.load(state.iplb_address, 4096))
        block[:5] = struct.pack(">IB", 200, 0)
        seen.append(reipl(machine, bytes(block)))

    assert verdict(lab.boot(disk, look=attack)) == HANDS_OVER
    ((firmware, findings),) = seen
    assert firmware.mode == "secure"
    assert (firmware.outcome, firmware.reason) == ("stops", "signature-not-verified")
    assert firmware.hand_over is None
    assert findings[-1] == "signature-not-verified"


def test_h09_reboot_to_another_disk_is_verified_too(lab):
    unsigned = lab.program(loader=Load(LOADER, loader_bytes()), kernel=Load(KERNEL, kernel_bytes()))
    seen = []
    lab.boot(lab.program(), unsigned, look=lambda machine, state: seen.append(reipl(machine, linux_block(devno=2))))
    ((firmware, _),) = seen
    assert (firmware.outcome, firmware.reason) == ("stops", "no-signed-component")


def test_h09_reboot_to_a_device_that_is_not_there(lab):
    seen = []
    lab.boot(lab.program(), look=lambda machine, state: seen.append(reipl(machine, linux_block(devno=0x4711))))
    ((firmware, _),) = seen
    assert (firmware.outcome, firmware.reason) == ("stops", "device-not-eligible")


def test_h09_an_fcp_block_does_not_boot_another_way(lab):
    block = struct.pack(">IB2xBIB", 4096, 0, 0, 4088, 0).ljust(4096, b"\0")
    seen = []
    lab.boot(lab.program(), look=lambda machine, state: seen.append(reipl(machine, block)))
    ((firmware, _),) = seen
    assert firmware.mode == "secure"
    assert (firmware.outcome, firmware.reason) == ("stops", "device-not-eligible")


def test_h09_a_reboot_has_no_fall_backs(lab):
    """Of the boot order only the block that was set remains, so a failing disk ends in nothing."""
    disk = lab.disk(lab.program())
    seen = []

    def attack(machine, state):
        Path(disk.path).write_bytes(bytes(Path(disk.path).stat().st_size))
        seen.append(reipl(machine))

    lab.boot(disk, lab.program(), look=attack)
    ((firmware, _),) = seen
    assert (firmware.outcome, firmware.reason) == ("no-bootable-device", "not-a-zipl-disk")


def test_h09_a_guest_cannot_shorten_the_block(lab):
    """The length leads Linux to the report: a block that keeps the guest's 200 would put it somewhere else."""
    seen = []

    def look(machine, state):
        try:
            firmware, _ = reipl(machine, linux_block())
        except FirmwareFault as fault:
            seen.append(str(fault))
            return
        seen.append(firmware.hand_over.report_address - firmware.hand_over.iplb_address)

    lab.boot(lab.program(), look=look)
    assert seen == [4096]


# H10


def test_h10_every_block_is_read_once(lab, reads):
    for mode in ("normal", "audit", "secure"):
        reads.clear()
        report = lab.boot(lab.program(), mode=mode)
        assert verdict(report) == HANDS_OVER
        assert Counter(reads).most_common(1)[0][1] == 1


@pytest.mark.parametrize("mode", MODES)
def test_h10_a_disk_that_answers_otherwise_the_second_time(lab, monkeypatch, mode):
    """What was verified is what stays in memory, whatever the disk would say later."""
    asked = set()
    original = BlockDevice.read_blocks

    def read_blocks(self, block, count, buffer):
        original(self, block, count, buffer)
        if (block, count) in asked:
            buffer[:] = b"\xee" * len(buffer)
        asked.add((block, count))

    monkeypatch.setattr(BlockDevice, "read_blocks", read_blocks)
    memory = {}

    def look(machine, state):
        memory.update({LOADER: machine.load(LOADER, 1024), KERNEL: machine.load(KERNEL, 2048)})

    report = lab.boot(lab.program(), mode=mode, look=look)
    assert verdict(report) == HANDS_OVER
    assert memory == {LOADER: loader_bytes(), KERNEL: kernel_bytes()}
    assert {c.address: c.digest for c in report.components if c.verified} == {
        address: hashlib.sha256(data).hexdigest() for address, data in memory.items()
    }


def test_h10_a_disk_that_lies_the_first_time_is_refused(lab, monkeypatch):
    original = BlockDevice.read_blocks

    def read_blocks(self, block, count, buffer):
        original(self, block, count, buffer)
        if bytes(buffer) == kernel_bytes():
            buffer[7] ^= 1

    monkeypatch.setattr(BlockDevice, "read_blocks", read_blocks)
    assert verdict(lab.boot(lab.program())) == ("stops", "signature-not-verified")


def test_h10_nothing_is_written_over_what_was_verified(lab, reads):
    """Secure mode stops at an overlap before the data is asked for, not after it is there."""
    writer = DiskWriter(512)
    parts = lab.program()
    entries = [e for c in parts[:-1] for e in writer.add_component(c)]
    data = writer.next_block
    entries += writer.add_component(Load(KERNEL + 512, b"other code"))
    image = finish(writer, entries + writer.add_component(parts[-1]))
    assert verdict(lab.boot(lab.disk(image))) == ("stops", "address-overlap")
    assert data not in [block for _, block in reads]
    assert verdict(lab.boot(lab.disk(image), mode="audit")) == HANDS_OVER
    assert data in [block for _, block in reads]


# H11


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("key", "digest", "words"), [
    ("rsa1024", "sha256", ["1024"]),
    ("rsa768", "sha256", ["768"]),
    ("dsa2048", "sha256", ["DSA"]),
    ("A", "sha1", ["SHA-1"]),
    ("rsa1024", "sha1", ["SHA-1", "1024"]),
])  # fmt: skip
def test_h11_weak_signatures_verify_and_are_said(lab, data, mode, key, digest, words):
    if key != "A":
        lab.signers.make(key, signing.load_key((data / "crypto" / f"{key}.key").read_bytes()))
    kernel = lab.signed(KERNEL, kernel_bytes(), key, digest)
    report = lab.boot(lab.program(kernel=kernel), mode=mode, certs=sorted({"A", key}))
    assert verdict(report) == HANDS_OVER
    weak = [f for f in report.findings if f.reason == "weak-signature"]
    assert [f.level for f in weak] == ["warning"] * len(words)
    assert {f.component for f in weak} == {3}
    for word, finding in zip(words, weak, strict=True):
        assert word in finding.message
    assert report.components[3].verified


@pytest.mark.parametrize("key", ["A", "B", "C"])
def test_h11_good_signatures_give_no_warning(lab, key):
    report = lab.boot(lab.program(loader=lab.loader(by=key), kernel=lab.kernel(by=key)), certs=[key])
    assert verdict(report) == HANDS_OVER
    assert reasons(report) == []
