"""Disks that the real zipl wrote, sealed: verdicts, and every byte outside block 0 and the gap."""

from __future__ import annotations

import subprocess

import pytest
import seal_lab
from seal_lab import check

from sipl.author.sealing import SealOptions, seal, unseal
from sipl.author.signer import open_signer
from sipl.disk.open import open_image
from sipl.errors import SealRefused
from sipl.ipl import boot, verify
from sipl.machine.options import MachineOptions
from sipl.reasons import Outcome, Reason, SealReason
from sipl.settings import Disk, Settings

CASES = [
    ("unsigned", "A", "sha256"),
    ("unsigned", "B", "sha512"),
    ("unsigned", "EC", "sha384"),
    ("good", "B", "sha256"),
    ("good", "EC", "sha256"),
    ("good4k", "EC", "sha256"),
    ("good4k", "B", "sha256"),
    ("mixed", "A", "sha256"),
    ("ec", "A", "sha256"),
]
MIB = 1 << 20


@pytest.fixture
def signer(shared):
    def open_by_name(name, digest="sha256"):
        keys = shared / "keys"
        return open_signer(str(keys / f"key{name}.pem"), str(keys / f"cert{name}.pem"), digest)

    return open_by_name


def settings(shared, *names):
    certs = tuple(str(shared / "keys" / f"cert{name}.pem") for name in names)
    return Settings(machine=MachineOptions(secure_boot=True, boot_certs=certs))


def differences(one, other):
    """Ranges of 512 bytes in which two images differ."""
    found = []
    with open_image(str(one)) as a, open_image(str(other)) as b:
        assert a.size == b.size
        for start in range(0, a.size, MIB):
            left, right = a.read(start, min(MIB, a.size - start)), b.read(start, min(MIB, a.size - start))
            if left != right:
                found += [start + at for at in range(0, len(left), 512) if left[at : at + 512] != right[at : at + 512]]
    return found


@pytest.mark.parametrize(("name", "key", "digest"), CASES, ids=[f"{n}-{k}-{d}" for n, k, d in CASES])
def test_seal(shared, signer, tmp_path, need_tool, name, key, digest):
    original = shared / "disks" / f"{name}.qcow2"
    path = seal_lab.copy(original, tmp_path, f"{name}.qcow2")
    with signer(key, digest) as who:
        report = seal(Disk(str(path)), who)
    assert report.done
    assert report.unsigned == ("parameters", "command line", "initrd", "environment block", "heap", "stack")
    (kernel,) = [c for c in report.programs[0].components if c.address == 0x10000]
    assert kernel.what.startswith("Linux 7.2.13")
    asked = settings(shared, key)
    assert boot([Disk(str(path))], asked).outcome is Outcome.HANDS_OVER
    verdict = verify(Disk(str(path)), asked)
    assert verdict.would_boot
    assert {c.address for c in verdict.components if c.verified} == {0xA000, 0x10000}
    assert verify(Disk(str(path)), settings(shared, "B" if key != "B" else "A")).would_boot is False
    changed = differences(original, path)
    assert changed[0] == 0
    assert all(report.block_size <= at < MIB for at in changed[1:])
    with open_image(str(original)) as old, open_image(str(path)) as new:
        assert old.read(0x98, report.block_size - 0x98) == new.read(0x98, report.block_size - 0x98)
    assert check(path, need_tool("qemu-img", "qemu-utils")) == 0
    unseal(Disk(str(path)))
    with open_image(str(original)) as old, open_image(str(path)) as new:
        assert old.read(0, report.block_size) == new.read(0, report.block_size)
    assert check(path, need_tool("qemu-img", "qemu-utils")) == 0


def test_qemu_reads_the_same(shared, signer, tmp_path, need_tool):
    """Sealed as qcow2 and as raw, the disks are equal for QEMU."""
    tool = need_tool("qemu-img", "qemu-utils")
    one = seal_lab.copy(shared / "disks" / "good.qcow2", tmp_path, "one.qcow2")
    other = tmp_path / "other.raw"
    subprocess.run([tool, "convert", "-O", "raw", one, other], check=True)
    with signer("A") as who:  # RSA: the same signature each time
        seal(Disk(str(one)), who)
        seal(Disk(str(other)), who)
    command = [tool, "compare", "-f", "qcow2", "-F", "raw", one, other]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_sparse_defect_is_not_signed(shared, signer, tmp_path):
    path = seal_lab.copy(shared / "disks" / "sparse.qcow2", tmp_path, "sparse.qcow2")
    before = path.read_bytes()
    with signer("A") as who, pytest.raises(SealRefused) as caught:
        seal(Disk(str(path)), who)
    assert caught.value.reason is SealReason.SPARSE_DEFECT
    assert path.read_bytes() == before


@pytest.mark.parametrize(("name", "by"), [("good", "A"), ("mixed", "AB"), ("ec", "EC")])
def test_existing_signatures_are_asked_for(shared, signer, tmp_path, name, by):
    names = [by] if by == "EC" else list(by)
    path = seal_lab.copy(shared / "disks" / f"{name}.qcow2", tmp_path, "disk.qcow2")
    trusted = tuple(str(shared / "keys" / f"cert{n}.pem") for n in names)
    wrong = tuple(str(shared / "keys" / f"cert{n}.pem") for n in {"A", "EC", "B"} - set(names))
    with signer("B") as who:
        if wrong:
            with pytest.raises(SealRefused) as caught:
                seal(Disk(str(path)), who, SealOptions(boot_certs=wrong[:1]))
            assert caught.value.reason is SealReason.FOREIGN_SIGNATURE
        assert seal(Disk(str(path)), who, SealOptions(boot_certs=trusted)).done


def test_a_wrong_block_size(shared, signer, tmp_path):
    path = seal_lab.copy(shared / "disks" / "good.qcow2", tmp_path, "disk.qcow2")
    before = path.read_bytes()
    with signer("B") as who, pytest.raises(SealRefused) as caught:
        seal(Disk(str(path), block_size=4096), who)
    assert caught.value.reason in (SealReason.BOOT_MAP_UNUSABLE, SealReason.PARTITION_TABLE_INVALID)
    assert path.read_bytes() == before


def test_an_unsigned_disk_is_what_it_was_afterwards(shared, signer, tmp_path):
    path = seal_lab.copy(shared / "disks" / "unsigned.qcow2", tmp_path, "disk.qcow2")
    with signer("A") as who:
        seal(Disk(str(path)), who)
    unseal(Disk(str(path)))
    report = verify(Disk(str(path)), settings(shared, "A"))
    assert (report.outcome, report.reason) == (Outcome.STOPS, Reason.NO_SIGNED_COMPONENT)
