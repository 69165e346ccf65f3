"""A boot costs what is booted: reads, memory and time do not grow with the disk or with the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_lab import PATIENCE, environment
from ipl_lab import INITRD, MIB, Load, kernel_bytes

from sipl.disk.host_file import HostFile

GIB = 1 << 30
FILL = bytes(range(1, 255)).ljust(512, b"\xff")
# Beyond the loaded components: interpreter, package, cryptography.
MEMORY_TARGET = 60 * MIB


@pytest.fixture
def sparse(demo, tmp_path):
    """The demo disk, grown to 100 GiB of which nothing is there."""
    path = tmp_path / "sparse.raw"
    shutil.copyfile(demo.disk, path)
    try:
        os.truncate(path, 100 * GIB)
    except OSError as error:
        pytest.skip(f"the file system takes no file of 100 GiB: {error.strerror}")
    return str(path)


@pytest.fixture
def reads(monkeypatch):
    """(path, offset, length) of everything that is read from images."""
    done = []
    original = HostFile.read_into

    def read_into(self, offset, buffer):
        done.append((self.path, offset, len(buffer)))
        original(self, offset, buffer)

    monkeypatch.setattr(HostFile, "read_into", read_into)
    return done


@pytest.mark.parametrize(
    "words", [("boot", "--engine", "none", "--secure-boot", "on"), ("verify",), ("inspect",)], ids=lambda w: w[0]
)
def test_a_sparse_image_of_100_gib_costs_the_reads_of_its_boot(sipl, demo, sparse, reads, words):
    options = () if words[0] == "inspect" else demo.trusted

    def cost(path):
        reads.clear()
        assert sipl(*words, *options, path).code == 0
        assert {name for name, *_ in reads} == {path}
        return [(offset, length) for _, offset, length in reads]

    large, small = cost(sparse), cost(demo.disk)
    assert large == small
    # The components have 23 KiB; everything that leads to them is single blocks and the place of an ISO file system.
    assert sum(length for _, length in large) < 48 * 1024
    assert len(large) < 80


def test_a_disk_without_a_boot_record_costs_next_to_nothing(sipl, reads, tmp_path):
    path = tmp_path / "empty.raw"
    path.touch()
    try:
        os.truncate(path, 100 * GIB)
    except OSError as error:
        pytest.skip(f"the file system takes no file of 100 GiB: {error.strerror}")
    assert sipl("verify", path).code == 1
    assert sum(length for *_, length in reads) < 32 * 1024


def test_disks_that_are_not_tried_are_hardly_read(sipl, demo, reads, tmp_path):
    """The second disk is looked at for its format and block size, and not more."""
    second = tmp_path / "second.raw"
    shutil.copyfile(demo.disk, second)
    assert sipl("boot", "--engine", "none", *demo.secure, demo.disk, second).code == 0
    assert sum(length for name, _, length in reads if name == str(second)) < 4096


_PEAK = """
import sys
from sipl.cli.main import run
code = run(sys.argv[1:])
with open("/proc/self/status") as status:
    peak = next(line for line in status if line.startswith("VmHWM:"))
sys.stderr.write(peak.split()[1])
sys.exit(code)
"""


def peak_memory(*words: object) -> int:
    """Bytes that a process held at most."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *map(str, words)],
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
        check=True,
    )
    return int(done.stderr) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
class TestMemory:
    @pytest.mark.parametrize(
        "words", [("boot", "--engine", "none", "--secure-boot", "on"), ("verify",)], ids=lambda w: w[0]
    )
    def test_beyond_the_loaded_components(self, lab, signers, words):
        size = 48 * MIB
        disk = lab.disk(lab.program(initrd=Load(INITRD, FILL * (size // len(FILL))))).path
        options = ("--boot-certs", signers["A"].path, "--at", "@1800000000", "--memory", "512M")
        assert peak_memory(*words, *options, disk) - size <= MEMORY_TARGET

    def test_a_large_signed_component(self, lab, signers):
        size = 32 * MIB
        kernel = FILL * (size // len(FILL)) + kernel_bytes()
        disk = lab.disk(lab.program(kernel=lab.signed(MIB, kernel))).path
        options = ("--boot-certs", signers["A"].path, "--at", "@1800000000")
        assert peak_memory("verify", *options, disk) - size <= MEMORY_TARGET

    def test_the_size_of_the_guest_costs_nothing(self, demo):
        small = peak_memory("verify", "--memory", "64M", *demo.trusted, demo.disk)
        large = peak_memory("verify", "--memory", "64G", *demo.trusted, demo.disk)
        assert large - small < 4 * MIB

    def test_a_large_component_that_is_only_inspected(self, lab):
        disk = lab.disk(lab.program(initrd=Load(INITRD, FILL * (48 * MIB // len(FILL))))).path
        assert peak_memory("inspect", disk) <= MEMORY_TARGET
