"""Debian's kernel from a sealed disk: in secure mode on the embedded engine, by normal IPL on a stock QEMU."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from guest_lab import Console, EndKind

import sipl
from sipl.author.sealing import seal
from sipl.author.signer import open_signer
from sipl.engine.embedded.engine import EmbeddedEngine
from sipl.machine.options import MachineOptions
from sipl.reasons import Outcome
from sipl.settings import Disk, Settings

pytestmark = pytest.mark.slow

SECONDS = 300
DONE = "GUEST-DONE"
LOADER, KERNEL = 0xA000, 0x10000


def sealed(shared, folder, name, key):
    path = folder / name
    shutil.copy(shared / "disks" / name, path)
    path.chmod(0o644)
    keys = shared / "keys"
    with open_signer(str(keys / f"key{key}.pem"), str(keys / f"cert{key}.pem")) as signer:
        assert seal(Disk(str(path)), signer).done
    return path


@pytest.mark.parametrize(
    ("name", "key"),
    [("unsigned.qcow2", "B"), ("good.qcow2", "EC"), ("good4k.qcow2", "B")],
    ids=["unsigned", "good", "4k"],
)
def test_secure_mode(shared, tmp_path, name, key):
    path = sealed(shared, tmp_path, name, key)
    console = Console()
    ends = []
    engine = EmbeddedEngine(console, timeout=SECONDS, until=DONE)
    run = engine.run
    engine.run = lambda machine, state: ends.append(run(machine, state))
    certificate = str(shared / "keys" / f"cert{key}.pem")
    machine = MachineOptions(secure_boot=True, boot_certs=(certificate,), memory=512 << 20)
    report = sipl.boot([Disk(str(path))], Settings(machine=machine), engine)
    text = console.written.decode("ascii", "replace")
    assert report.outcome is Outcome.HANDS_OVER
    assert [end.kind for end in ends] == [EndKind.SEEN], text[-2000:]
    assert "Linux is running with Secure-IPL enabled" in text
    found = re.findall(r"setup: ([0-9a-f]{16}) - [0-9a-f]{16} \(([^)]*)\)", text)
    assert {int(at, 16) for at, what in found if what == "signed, verified"} == {LOADER, KERNEL}
    assert re.search(r"IPL /sys/firmware/ipl/secure: 1", text)


@pytest.mark.parametrize(("name", "block_size"), [("unsigned.qcow2", 512), ("good4k.qcow2", 4096)])
def test_normal_ipl_on_a_stock_qemu(shared, tmp_path, need_tool, name, block_size):
    qemu = need_tool("qemu-system-s390x", "qemu-system-misc")
    path = sealed(shared, tmp_path, name, "B")
    command = [qemu, "-M", "s390-ccw-virtio,accel=tcg", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-chardev", "stdio,id=c", "-device", "sclpconsole,chardev=c"]
    command += ["-drive", f"file={path},format=qcow2,if=none,id=d"]
    sizes = f"logical_block_size={block_size},physical_block_size={block_size}"
    command += ["-device", f"virtio-blk-ccw,drive=d,bootindex=0,{sizes}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    text = done.stdout.decode("ascii", "replace")
    assert DONE in text, (text[-2000:], done.stderr)
    assert re.search(r"IPL /sys/firmware/ipl/secure: 0", text)
