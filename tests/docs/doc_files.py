"""The files that the documentation names: disks, certificates, a kernel. Each page's commands run beside them."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

from sipl.author import guest, sclab
from sipl.author.boot_record import Execute, Load, Program, write_disk
from sipl.author.demo import demo_disk, flip_byte
from sipl.crypto import signing
from sipl.crypto.appended_signature import trailer
from sipl.crypto.certificate import Certificate
from sipl.layout.qcow2 import QCOW2_MAGIC
from sipl.layout.record import pack
from sipl.layout.sclab import SclabFlags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

import ipl_lab
import linux_lab
import seal_lab

DISK_SIZE = 2 << 20
CLUSTER = 1 << 16
YEAR_2020, YEAR_2025, YEAR_2050 = 1577836800, 1735689600, 2524608000


class Signer:
    """A key and its certificate."""

    def __init__(self, name: str, start: int = YEAR_2020, end: int = YEAR_2050) -> None:
        self.key = signing.generate_key("p521")
        self.pem = signing.self_signed(self.key, name, start, end)
        self.certificate = Certificate.from_pem(self.pem)

    def load(self, address: int, data: bytes) -> Load:
        return Load(address, data, signing.sign_detached(data, self.key, self.certificate))


def make_files(folder: Path) -> None:
    """Write every file that a page may name into `folder`."""
    mine, other = Signer("Example Signer"), Signer("Another Signer")
    expired = Signer("Example Signer 2024", YEAR_2020, YEAR_2025)
    (folder / "cert.pem").write_bytes(mine.pem)
    (folder / "other.pem").write_bytes(other.pem)
    (folder / "expired.pem").write_bytes(expired.pem)
    (folder / "certs").mkdir()
    (folder / "certs" / "cert.pem").write_bytes(mine.pem)
    (folder / "certs" / "other.pem").write_bytes(other.pem)

    good = padded(good_disk(mine))
    (folder / "disk.raw").write_bytes(good)
    (folder / "disk.qcow2").write_bytes(qcow2(good))
    (folder / "overlay.qcow2").write_bytes(qcow2(bytes(DISK_SIZE), backing=b"disk.raw"))
    (folder / "images").mkdir()
    shutil.copy(folder / "disk.qcow2", folder / "images" / "one.qcow2")
    shutil.copy(folder / "disk.qcow2", folder / "images" / "two.qcow2")
    (folder / "old.raw").write_bytes(padded(good_disk(expired)))
    (folder / "changed.raw").write_bytes(good)
    flip_byte(str(folder / "changed.raw"))
    (folder / "padded.raw").write_bytes(padded(padded_disk(mine)))
    (folder / "twice.raw").write_bytes(padded(twice_signed_disk(mine, other)))
    (folder / "closed.raw").write_bytes(padded(closed_disk(mine)))
    (folder / "blank.raw").write_bytes(bytes(DISK_SIZE))
    (folder / "key.pem").write_bytes(signing.key_pem(mine.key))
    (folder / "vmlinuz").write_bytes(
        sclab.overwrite(b"\0" * 4 + bytes.fromhex("80010000") + bytes(4088), sclab.build())
    )
    (folder / "stage3.bin").write_bytes(guest.loader_component(512))

    make_boot_folder(folder, other)
    cloud = seal_lab.disk([cloud_program(b"quiet\0")], first=2048, order=(0, 0))
    (folder / "cloud.qcow2").write_bytes(qcow2(bytes(cloud)))
    menu_of_clouds = [cloud_program(b"quiet\0"), cloud_program(b"single\0")]
    (folder / "cloud-menu.raw").write_bytes(seal_lab.disk(menu_of_clouds, first=2048, order=(0, 0, 1)))
    (folder / "key.pem").write_bytes(signing.key_pem(mine.key))

    unsigned = [Load(guest.LOADER_ADDRESS, guest.loader_component(512)), kernel(512), Execute(guest.ENTRY_PSW)]
    (folder / "unsigned.raw").write_bytes(padded(bytes(write_disk([Program(unsigned)] * 2, 512))))
    first, second = program(mine, 512), program(mine, 512, b"root=/dev/vdb1\0")
    menu = write_disk([first, first, second], 512)
    (folder / "menu.raw").write_bytes(padded(bytes(menu)))
    (folder / "disk-4k.raw").write_bytes(padded(bytes(write_disk([program(mine, 4096)] * 2, 4096))))


def cloud_program(line: bytes) -> list[Load | Execute]:
    """What zipl writes into the partition of a cloud image, unsigned; its kernel ends in a wait of its own."""
    kernel_data, initrd = linux_lab.tiny_linux(), b"RAM disk, " * 100
    fields = {**linux_lab.NOTHING, "parmline_address": linux_lab.COMMAND_LINE, "initrd_address": linux_lab.INITRD}
    parameters = linux_lab.parameters(len(kernel_data), **(fields | {"initrd_length": len(initrd)}))
    return [
        Load(linux_lab.LOADER, ipl_lab.loader_bytes(0x4000)),
        Load(linux_lab.PARAMETERS, pack(parameters)),
        Load(linux_lab.KERNEL, kernel_data),
        Load(linux_lab.COMMAND_LINE, line),
        Load(linux_lab.INITRD, initrd),
        Execute(linux_lab.PSW),
    ]


def make_boot_folder(folder: Path, distribution: Signer) -> None:
    """What `sipl mkdisk` makes disks of: kernel, RAM disk, stage3, as they lie in /boot; and a file that names them."""
    boot = folder / "boot"
    boot.mkdir()
    kernel = linux_lab.tiny_linux()
    (boot / "vmlinuz").write_bytes(kernel)
    signature = distribution.load(0, kernel).signature
    assert signature is not None
    (boot / "vmlinuz-signed").write_bytes(kernel + trailer(signature))
    (boot / "initrd.img").write_bytes(b"RAM disk, " * 500)
    (boot / "stage3.bin").write_bytes(ipl_lab.loader_bytes(0x4000))
    (folder / "disk.toml").write_text(RECIPE)


RECIPE = """default = "usual"

[environment]
ROOT = "/dev/vda2"

[[entry]]
name = "usual"
kernel = "boot/vmlinuz"
initrd = "boot/initrd.img"
cmdline = "root=${ROOT} quiet"

[[entry]]
name = "rescue"
kernel = "boot/vmlinuz"
initrd = "boot/initrd.img"
cmdline = "root=${ROOT} single"
"""


def good_disk(signer: Signer) -> bytes:
    """The demo's disk, with loader and kernel signed by `signer`."""
    return demo_disk(
        signer.load(guest.LOADER_ADDRESS, guest.loader_component(512)),
        signer.load(guest.KERNEL_ADDRESS, guest.kernel_component(512)),
    )


def padded_disk(signer: Signer) -> bytes:
    """The kernel's file is no whole blocks: it was signed as it is, and is loaded with what fills the last block."""
    file = sclab.overwrite(guest.kernel_component(512)[:1500], sclab.build())
    return demo_disk(
        signer.load(guest.LOADER_ADDRESS, guest.loader_component(512)), signer.load(guest.KERNEL_ADDRESS, file)
    )


def twice_signed_disk(first: Signer, second: Signer) -> bytes:
    """The kernel's file was signed again without taking off the first signature."""
    file = guest.kernel_component(512)
    signature = first.load(0, file).signature
    assert signature is not None
    again = file + trailer(signature)
    return demo_disk(
        second.load(guest.LOADER_ADDRESS, guest.loader_component(512)), second.load(guest.KERNEL_ADDRESS, again)
    )


def closed_disk(signer: Signer) -> bytes:
    """Everything is signed, and the loader forbids anything else."""
    flags = SclabFlags.OPSW | SclabFlags.OLA | SclabFlags.NUC
    loader = guest.loader_component(512)
    loader = sclab.overwrite(loader, sclab.build(flags, guest.ENTRY_PSW, guest.LOADER_ADDRESS))
    parmline = sclab.append(b"root=/dev/vda1\0", sclab.build(), 512)
    components = [
        signer.load(guest.LOADER_ADDRESS, loader),
        signer.load(guest.KERNEL_ADDRESS, guest.kernel_component(512)),
        signer.load(0x12000, parmline),
        Execute(guest.ENTRY_PSW),
    ]
    return bytes(write_disk([Program(components)] * 2, 512))


def kernel(block_size: int) -> Load:
    return Load(guest.KERNEL_ADDRESS, guest.kernel_component(block_size))


def program(signer: Signer, block_size: int, parmline: bytes = b"root=/dev/vda1\0") -> Program:
    return Program(
        [
            signer.load(guest.LOADER_ADDRESS, guest.loader_component(block_size)),
            signer.load(guest.KERNEL_ADDRESS, guest.kernel_component(block_size)),
            Load(0x12000, parmline),
            Execute(guest.ENTRY_PSW),
        ]
    )


def padded(image: bytes) -> bytes:
    return image.ljust(DISK_SIZE, b"\0")


def qcow2(disk: bytes, backing: bytes = b"") -> bytes:
    """A qcow2 image, version 3, of `disk`; clusters that are all zero are left to the backing file or to nobody."""
    full = [disk[at : at + CLUSTER].ljust(CLUSTER, b"\0") for at in range(0, len(disk), CLUSTER)]
    used = [number for number, cluster in enumerate(full) if any(cluster)]
    first = 5  # header, refcount table, refcount block, L1 table, L2 table
    table = [0] * len(full)
    for place, number in enumerate(used, first):
        table[number] = 1 << 63 | place * CLUSTER
    name_at = 128 if backing else 0
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(QCOW2_MAGIC, 3, name_at, len(backing), 16, len(disk), 0, 1, 3 * CLUSTER),
        *(CLUSTER, 1, 0, 0, 0, 0, 0, 4, 104),
    )
    if backing:
        header += struct.pack(">II3s5x", 0xE2792ACA, 3, b"raw") + bytes(8) + backing
    clusters = [
        header,
        struct.pack(">Q", 2 * CLUSTER),
        struct.pack(f">{first + len(used)}H", *[1] * (first + len(used))),
        struct.pack(">Q", 1 << 63 | 4 * CLUSTER),
        struct.pack(f">{len(table)}Q", *table),
        *(full[number] for number in used),
    ]
    return b"".join(cluster.ljust(CLUSTER, b"\0") for cluster in clusters)
