"""New disks with Debian's kernel, booted by a stock QEMU in the normal way: it knows nothing of signatures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from debian_lab import CMDLINE, DONE, extract, kernel_command_line
from ipl_lab import AT

from sipl.author.mkdisk import make_disk
from sipl.author.recipe import BootEntry

SECONDS = 120
CASES = {
    "own loader": {"key": True, "environment": {"WHERE": "somewhere"}},
    "closed, 4096": {"key": True, "closed": True, "environment": {"WHERE": "somewhere"}, "block_size": 4096},
    "stage3, qcow2": {"loader": True, "environment": {"WHERE": "somewhere"}, "image_format": "qcow2", "size": 4 << 30},
}


@pytest.fixture(scope="module")
def files(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("debian")
    extract(shared, folder)
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_boots(case, files, shared, need_tool, tmp_path):
    qemu = need_tool("qemu-system-s390x", "qemu-system-misc")
    options = dict(case)
    if options.pop("key", False):
        options |= {"key": str(shared / "keys" / "keyA.pem"), "cert": str(shared / "keys" / "certA.pem")}
    if options.pop("loader", False):
        options["loader"] = str(files / "stage3.bin")
    disk = tmp_path / "disk.img"
    entry = BootEntry(str(files / "vmlinuz"), str(files / "initrd.img"), f"{CMDLINE} a=${{WHERE}} ${{NOTHING}}b=c")
    made = make_disk(str(disk), entry, at=AT, **options)
    block = options.get("block_size", 512)
    command = [qemu, "-M", "s390-ccw-virtio,accel=tcg", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-drive", f"file={disk},format={made.format},if=none,id=d,readonly=on"]
    command += ["-device", f"virtio-blk-ccw,drive=d,bootindex=0,logical_block_size={block},physical_block_size=4096"]
    command += ["-chardev", "stdio,id=c", "-device", "sclpconsole,chardev=c"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    text = done.stdout.decode("utf-8", "replace")
    assert DONE in text, text[-2000:]
    assert kernel_command_line(text) == f"{CMDLINE} a=somewhere b=c"
    assert "IPL /sys/firmware/ipl/secure: 0" in text
