"""New disks with Debian's kernel in secure mode: with sipl's own loader, with zipl's, and closed."""

from __future__ import annotations

import re

import pytest
from debian_lab import CMDLINE, DONE, extract, kernel_command_line
from guest_lab import Console, EndKind

import sipl
from sipl.engine.embedded.engine import EmbeddedEngine

pytestmark = pytest.mark.slow

SECONDS = 300  # a busy host is slow


@pytest.mark.parametrize("kind", ["own", "stage3", "closed"])
def test_boots_in_secure_mode(kind, shared, tmp_path):
    extract(shared, tmp_path)
    keys = shared / "keys"
    entry = sipl.BootEntry(str(tmp_path / "vmlinuz"), str(tmp_path / "initrd.img"), f"{CMDLINE} a=${{WHERE}}")
    made = sipl.make_disk(
        str(tmp_path / "disk.img"),
        entry,
        key=str(keys / "keyA.pem"),
        cert=str(keys / "certA.pem"),
        loader=str(tmp_path / "stage3.bin") if kind == "stage3" else None,
        closed=kind == "closed",
        environment={"WHERE": "somewhere"},
    )
    assert (made.secure, made.closed) == (True, kind == "closed")
    console, ends = Console(), []
    engine = EmbeddedEngine(console, timeout=SECONDS, until=DONE)

    class Keeper:
        def run(self, machine, state):
            ends.append(engine.run(machine, state))
            return ends[-1]

    machine = sipl.MachineOptions(secure_boot=True, boot_certs=(str(keys / "certA.pem"),))
    report = sipl.boot([sipl.Disk(str(tmp_path / "disk.img"))], sipl.Settings(machine=machine), Keeper())
    text = console.written.decode("ascii", "replace")
    assert report.outcome is sipl.Outcome.HANDS_OVER
    assert [end.kind for end in ends] == [EndKind.SEEN], (ends, text[-2000:])
    assert "Linux is running with Secure-IPL enabled" in text
    assert re.search(r"IPL /sys/firmware/ipl/secure: 1\b", text)
    assert kernel_command_line(text) == f"{CMDLINE} a=somewhere"
    found = dict(re.findall(r"setup: ([0-9a-f]{16}) - [0-9a-f]{16} \(([^)]*)\)", text))
    signed = {int(start, 16) for start, what in found.items() if what == "signed, verified"}
    if kind == "closed":
        assert len(signed) == 6
        # The entry of the PSW, which is no component.
        assert [start for start, what in found.items() if what == "not signed"] == ["000800008000a000"]
    else:
        assert signed == {0xA000, 0x10000}
