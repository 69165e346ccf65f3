"""Debian's kernel, the small user space and zipl's stage3 that lie on the disks of the reference material."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.disk.block_device import BlockDevice
from sipl.disk.open import open_image
from sipl.survey.boot_map import survey_boot_map

if TYPE_CHECKING:
    from pathlib import Path

CMDLINE = "console=ttysclp0 printk.time=1"
DONE = "GUEST-DONE"
NAMES = {0xA000: "stage3.bin", 0x10000: "vmlinuz"}


def extract(shared: Path, folder: Path) -> None:
    """Write vmlinuz, initrd.img and stage3.bin into `folder`, as they were loaded from the unsigned disk."""
    with open_image(str(shared / "disks" / "unsigned.qcow2")) as image:
        device = BlockDevice(image, 512)
        components = survey_boot_map(image, device).programs[0].components
        parts = {}
        for component in components:
            data = bytearray(component.length)
            with memoryview(data) as view:
                at = 0
                for run in component.runs:
                    device.read_blocks(run.block, run.blocks, view[at : at + run.blocks * 512])
                    at += run.blocks * 512
            parts[component.address] = bytes(data)
    for address, name in NAMES.items():
        (folder / name).write_bytes(parts[address])
    at, length = (int.from_bytes(parts[0x9000][offset : offset + 8], "big") for offset in (8, 16))
    (folder / "initrd.img").write_bytes(parts[at][:length])


def kernel_command_line(text: str) -> str:
    """What the kernel says of its command line on its console."""
    return text.partition("Kernel command line: ")[2].partition("\n")[0].strip()
