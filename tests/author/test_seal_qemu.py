"""A sealed disk on a stock QEMU, whose firmware knows nothing of seals, by normal IPL."""

from __future__ import annotations

import subprocess

import pytest
import seal_lab
from seal_lab import disk, seal_file, unseal_file

from sipl.author import guest
from sipl.author.boot_record import Execute, Load
from sipl.crypto import signing


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return seal_lab.SealSigner(tmp_path_factory.mktemp("signer"), "A", signing.generate_key("p521"))


@pytest.fixture
def console(need_tool):
    """What a guest writes until it ends in a disabled wait."""
    qemu = need_tool("qemu-system-s390x", "qemu-system-misc")

    def run(path, block_size, loadparm=""):
        machine = f"s390-ccw-virtio,accel=tcg{loadparm and ',loadparm=' + loadparm}"
        command = [qemu, "-M", machine, "-m", "128", "-nodefaults", "-display", "none", "-no-reboot"]
        command += ["-chardev", "stdio,id=c", "-device", "sclpconsole,chardev=c"]
        command += ["-drive", f"file={path},format={path.suffix[1:]},if=none,id=d"]
        sizes = f"logical_block_size={block_size},physical_block_size={block_size}"
        command += ["-device", f"virtio-blk-ccw,drive=d,bootindex=0,{sizes}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
        return done.stdout.decode("ascii", "replace")

    return run


def entry(block_size, parmline):
    return [
        Load(guest.LOADER_ADDRESS, guest.loader_component(block_size)),
        Load(guest.KERNEL_ADDRESS, guest.kernel_component(block_size)),
        Load(0x12000, parmline),
        Execute(guest.ENTRY_PSW),
    ]


@pytest.mark.parametrize("form", ["raw", "qcow2"])
@pytest.mark.parametrize("block_size", [512, 4096])
def test_normal_ipl(tmp_path, need_tool, signer, console, block_size, form):
    path = tmp_path / "disk.raw"
    image = disk([entry(block_size, b"one\0"), entry(block_size, b"two\0")], block_size, order=(1, 0, 1))
    path.write_bytes(image)
    if form == "qcow2":
        path = seal_lab.convert(path, tmp_path / "disk.qcow2", need_tool("qemu-img", "qemu-utils"))
    before = console(path, block_size)
    assert "sipl" in before.lower()
    seal_file(path, signer, components=frozenset({guest.KERNEL_ADDRESS}))
    assert console(path, block_size) == before
    assert console(path, block_size, "1") == console(path, block_size, "1")
    assert "sipl" in console(path, block_size, "2").lower()
    unseal_file(path)
    assert console(path, block_size) == before
