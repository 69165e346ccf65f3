"""What the targets start from: small fixtures of the project, things made here, and the shared corpus where it is."""

from __future__ import annotations

import os
import random
import struct
import zlib
from pathlib import Path

from fuzz.choices import Choices
from fuzz.disks import OLA, OPSW, PSW, Workshop, make_disk, shared_disks
from fuzz.seal_disks import BIOS_BOOT, LINUX_FILESYSTEM, linux, write_frame, write_gpt, write_mbr
from sipl.author import sclab
from sipl.crypto.appended_signature import trailer

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
SHARED = Path(os.environ.get("SIPL_SHARED", ROOT.parent / "shared"))
MAX_SEED = 40_000

OPTIONS = (
    "s390-ccw-virtio,secure-boot=on,boot-certs.0.path=a.pem,boot-certs.1.path=/etc/b,,c,loadparm=3",
    "type=s390-ccw-virtio-9.2,accel=kvm,usb=off,loadparm=PROMPT",
    "boot-certs.0.path=x,boot-certs.2.path=y",
    "help",
    "qemu,sipl=on,sclaf=off,cstore=on",
    "z16,+sipl,-vx",
    "512M",
    "2026-11-23T02:00:00+01:00",
    "@1795399200",
)

RECIPES = (
    (
        'default = "new"\n[[entry]]\nname = "new"\nkernel = "vmlinuz"\ninitrd = "initrd"\ncmdline = "root=${ROOT}"\n'
        '[[entry]]\nname = "old"\nkernel = "/boot/vmlinuz.old"\n[environment]\nROOT = "/dev/vda1"\n_A9 = ""\n'
    ),
    "default = 2\n[[entry]]\nkernel = 'a'\n[[entry]]\nkernel = '''b\nc'''\n",
    "entry = [{kernel = 'a', cmdline = \"\\u0041\"}]\n",
    "default = 0x1\n# nothing\n",
    "default = " + "1" * 5000,
    "default = 0x" + "f" * 5000 + "\n[[entry]]\nkernel = 'a'\n",
    "environment.A = 1979-05-27T07:32:00Z\n[[entry]]\nkernel = ['a', 1e9]\n",
)
ENVIRONMENTS = (
    "# comment\n\nROOT=/dev/vda1\nQUIET=quiet splash\n_A9=\n",
    "ROOT=1\nROOT=2\n",
    "A=${B}\nB=${A}",
    "no sign\n",
    "9A=1\n",
)
PKCS11_URIS = (
    (
        "pkcs11:token=My%20token;manufacturer=m;serial=1;model=v2;slot-id=3;object=k%C3%A9y;id=%01%fe;type=private"
        "?module-path=/usr/lib/x.so&pin-source=file:/run/pin"
    ),
    "pkcs11:object=key?pin-source=file://localhost/run/pin",
    "pkcs11:token=t?pin-value=48151623&module-path=/x",
    "token=t;pin-value=48151623",
    "slot-id=4294967296;id=%",
)


def disks():
    """Boot records: image behind two bytes that say mode and block size (fuzz.targets.boot_map)."""
    shop = Workshop()
    found = []
    for data in (b"", bytes([0, 5]), bytes([0, 6]), bytes([0, 7]), bytes([3]), bytes([4]), bytes([5])):
        image, block_size, _ = make_disk(Choices(data), shop)
        found.append((image, block_size))
    shared, _ = shared_disks()
    found += shared[::3]
    return [
        bytes([mode, (512, 1024, 2048, 4096).index(block_size)]) + bytes(image)
        for number, (image, block_size) in enumerate(found)
        for mode in (number % 4,)
        if len(image) < MAX_SEED
    ]


def signatures():
    """PKCS#7 in DER: RSA, elliptic curve, with attributes, whatever tests/data has, and those of the corpus."""
    shop = Workshop()
    made = [shop.sign(b"component", name) for name in ("rsa", "ec", "expired")]
    there = [path.read_bytes() for path in sorted((DATA / "crypto").glob("*.p7s"))]
    for image, _ in shared_disks()[0]:
        at = image.find(bytes.fromhex("06092a864886f70d010702")) - 4
        if at > 0 and image[at : at + 2] == b"\x30\x82":
            der = image[at : at + 4 + int.from_bytes(image[at + 2 : at + 4], "big")]
            if der not in there:
                there.append(der)
    return made + there


def pem_files():
    there = [path.read_bytes() for path in sorted((DATA / "crypto").glob("*.pem"))]
    there += [path.read_bytes() for path in sorted((SHARED / "corpus" / "certs").glob("*.pem"))]
    shop = Workshop()
    return there + [Path(shop.path(name)).read_bytes() for name in ("rsa", "ec", "usage")]


def certificates():
    from sipl.crypto.pem import PemError, certificate_der

    found = []
    for pem in pem_files():
        try:
            found.append(certificate_der(pem))
        except PemError:
            continue
    return found


def components():
    """Components with a SCLAB, behind eight bytes of load address (fuzz.targets.sclab_rules)."""
    variants = [
        {},
        {"flags": OPSW | OLA, "psw": PSW | 0xA000, "address": 0xA000},
        {"flags": OLA, "address": 0xA000, "length": 48},
        {"flags": 0xF000, "stated_length": 0xFFFF},
        {"magic": b"none"},
    ]
    return [struct.pack(">Q", 0xA000) + sclab.overwrite(bytes(96), sclab.build(**variant)) for variant in variants]


def signed_files():
    """A loader that is not signed, signed once and twice, and with a record that says more than there is."""
    payload = sclab.overwrite(bytes(512), sclab.build(OPSW | OLA, PSW | 0xA000, 0xA000))
    signature = Workshop().sign(payload, "rsa")
    once = payload + trailer(signature)
    return [payload, once, once + trailer(signature), payload + trailer(bytes(600))[550:]]


def qcow2_images():
    """Images of version 2 and 3: data, a compressed cluster, a hole, a cluster of zeros, extended L2."""
    return [_qcow2(2), _qcow2(3), _qcow2(3, extended=True)]


def _qcow2(version, extended=False):
    cluster_bits = 14 if extended else 9
    cluster = 1 << cluster_bits
    width = 16 if extended else 8
    data = random.Random(version).randbytes(cluster)
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = packer.compress(bytes(range(256)) * (cluster // 256)) + packer.flush()
    fields = (b"QFI\xfb", version, 0, 0, cluster_bits, 4 * cluster, 0, 1, 3 * cluster, cluster, 1, 0, 0)
    header = struct.pack(">4sIQIIQIIQQIIQ", *fields)
    if version == 3:
        header += struct.pack(">QQQIIQ", 16 if extended else 0, 0, 0, 4, 112, 0)
    at = 6 * cluster
    sectors = (at + len(packed) - 1) // 512 - at // 512
    compressed = 1 << 62 | sectors << (70 - cluster_bits) | at
    zero = 0 if version == 2 else 1
    entries = ((5 * cluster | 1 << 63, 0xFFFF_FFFF), (compressed, 0), (0, 0), (0 if extended else zero, 0xFF << 32))
    table = b"".join(struct.pack(">QQ", *entry)[:width] for entry in entries)
    parts = (header, struct.pack(">Q", 2 * cluster), b"\0\1" * 7, struct.pack(">Q", 4 * cluster | 1 << 63), table, data)
    return b"".join(part.ljust(cluster, b"\0") for part in parts) + packed


def options():
    return [text.encode() for text in OPTIONS]


def choices():
    """Decisions: none, and some at random, always the same."""
    generator = random.Random(2)
    return [b"", *(generator.randbytes(generator.randrange(16, 64)) for _ in range(255))]


def partitioned():
    """Partition tables, with frames behind some, behind a byte that says how they are read (fuzz.author_targets)."""
    found = []
    for number, block_size in enumerate((512, 512, 512, 1024, 4096)):
        for gpt in (False, True):
            image = bytearray(random.Random(number).randbytes(152).ljust(14 * max(block_size, 2048), b"\0"))
            total, first = len(image) // block_size, 9 if block_size == 4096 else 20
            if gpt:
                kinds = (LINUX_FILESYSTEM, BIOS_BOOT if number == 2 else LINUX_FILESYSTEM)
                last = total - 2 - -(-512 // block_size)
                write_gpt(image, block_size, [(kinds[0], first, last - 1), (kinds[1], last, last)])
            else:
                write_mbr(image, [(0, 0x83, first, 2), (0x80, 0x05, first + 2, total - first - 2)])
            if number:
                write_frame(image, block_size, 4, 2, 1)
                write_frame(image, block_size, first - 2, 1, 2)
            found.append(bytes([0x80 | (512, 1024, 2048, 4096).index(block_size)]) + bytes(image))
    return found


def examined():
    """Choices and disks behind a byte that says which they are (fuzz.author_targets.doctor)."""
    return [b"\1" + seed for seed in choices()[:64]] + [bytes([(seed[1] & 3) << 2]) + seed[2:] for seed in disks()]


def kernels():
    """What lies from the entry of a kernel on, behind the length of what lies at its start, and that."""
    data = linux()
    return [
        struct.pack(">H", length) + data[:length] + data[0x10000:end]
        for length, end in ((0x220, 0x10900), (0, 0x10900), (0x220, 0x10430), (0x20, 0x10000))
    ]


def recipes():
    return [text.encode() for text in RECIPES]


def environments():
    return [text.encode() for text in ENVIRONMENTS]


def pkcs11_uris():
    return [text.encode() for text in PKCS11_URIS]
