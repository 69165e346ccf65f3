"""Disks to start from: programs as zipl writes them, with every field a choice, signed with keys made once.

What is decided here is decided before signing, so that good signatures cover it; fuzz.mutate then changes what lies on
the disk.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fuzz.folder import new_folder
from sipl.author import sclab
from sipl.author.boot_record import DiskWriter, Execute, Load
from sipl.crypto.certificate import Certificate
from sipl.crypto.signing import load_key, sign_detached

ROOT = Path(__file__).resolve().parent.parent
NOW = 1_795_399_200  # 2026-11-23T02:00:00Z, the time of the shared corpus
MEMORY = 16 << 20
LARGE_MEMORY = 3 << 30  # with it the firmware lies at the end of the first 2 GiB, and components may lie behind it
FIRMWARE = MEMORY - (3 << 20)
FORBIDDEN_FROM = FIRMWARE - 7 * 4096
PAGE = 4096
LOADER, KERNEL, PARAMETERS = 0xA000, 0x10000, 0x9000
PSW = 0x0008_0000_8000_0000
OPSW, OLA, NUC, SC = 0x8000, 0x4000, 0x2000, 0x1000
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

SPARE = 6144  # bytes of blocks behind what a disk of the corpus holds, to point to

# Name: key, first year, last year, key usage. What the store has and may use is `rsa` and `ec`.
SIGNERS = {
    "rsa": ("rsa", 2020, 2040, None),
    "ec": ("ec", 2020, 2040, "digital_signature"),
    "rsa-old": ("rsa", 2020, 2025, None),
    "ec-future": ("ec", 2030, 2040, None),
    "expired": ("expired", 2020, 2025, None),
    "usage": ("usage", 2020, 2040, "key_cert_sign"),
    "stranger": ("stranger", 2020, 2040, None),
}
STORES = (
    ("rsa", "ec"),
    ("rsa",),
    ("rsa-old", "ec-future", "usage", "expired", "rsa", "ec"),
    ("ec", "rsa-old", "rsa"),
    ("rsa-old", "ec-future", "expired", "usage"),
)


class Workshop:
    """Keys, certificates and signatures, made when they are first needed; the certificates lie in `folder`."""

    def __init__(self):
        self.folder = new_folder()
        self._keys = {}
        self._certificates = {}
        self._signatures = {}

    def key(self, name):
        """A private key, the same in every run, so that what was found can be found again."""
        if name not in self._keys:
            number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:31], "big")
            self._keys[name] = ec.derive_private_key(number, ec.SECP256R1()) if name != "rsa" else load_key(_rsa_key())
        return self._keys[name]

    def path(self, name):
        """PEM file of a certificate of `SIGNERS`."""
        path = os.path.join(self.folder, f"{name}.pem")
        if name not in self._certificates:
            key_name, first, last, usage = SIGNERS[name]
            pem = _certificate(name, self.key(key_name), first, last, usage)
            Path(path).write_bytes(pem)
            self._certificates[name] = Certificate.from_pem(pem)
        return path

    def sign(self, data, name):
        self.path(name)
        key = (hashlib.sha256(data).digest(), name)
        if key not in self._signatures:
            if len(self._signatures) > 5000:
                self._signatures.clear()
            signer = self._certificates[name]
            self._signatures[key] = sign_detached(data, self.key(SIGNERS[name][0]), signer)
        return self._signatures[key]


def _rsa_key():
    return (ROOT / "tests" / "data" / "crypto" / "rsa2048.key").read_bytes()


def _certificate(name, key, first, last, usage):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fuzz {name}")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(0x51A0 + list(SIGNERS).index(name))
    builder = builder.not_valid_before(datetime(first, 1, 1)).not_valid_after(datetime(last, 1, 1))
    if usage is not None:
        builder = builder.add_extension(x509.KeyUsage(**{u: u == usage for u in USAGES}), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Part:
    """A component before it is signed. `attributes` are the arguments of its SCLAB, None for none."""

    def __init__(self, address, blocks, signer=None, attributes=None, seed=0):
        self.address = address
        self.blocks = blocks
        self.signer = signer
        self.attributes = attributes
        self.seed = seed
        self.signature = {}  # changes to the fields of the signature entry
        self.sign_other = None  # another part, whose bytes are signed instead

    def copy(self):
        other = Part(self.address, self.blocks, self.signer, dict(self.attributes or {}) or None, self.seed)
        other.signature = dict(self.signature)
        return other

    def data(self, block_size):
        size = self.blocks * block_size
        data = random.Random(self.seed).randbytes(size) if self.seed else bytes(size)
        if self.attributes is None:
            return data
        block = sclab.build(**self.attributes)
        return sclab.overwrite(data, block) if len(block) <= size else data

    def end(self, block_size):
        return self.address + self.blocks * block_size


def interesting_address(choices, ranges):
    """An address that something may go wrong at; `ranges` are those of the components (start, end)."""
    start, end = choices.pick(ranges) if ranges else (LOADER, LOADER + PAGE)
    size = end - start
    edges = (
        0,
        0x200,
        0x2000,
        PARAMETERS,
        LOADER,
        KERNEL,
        FORBIDDEN_FROM,
        FIRMWARE,
        FIRMWARE + 0x11000,
        MEMORY,
        1 << 31,
    )
    around = (start, end, end - 1, end - 512, start + size // 2, start - 512, start - 1, start - size, start + 1)
    large = (1 << 31) - (3 << 20)
    other = (
        1 << 31,
        large - 7 * 4096,
        large + 0x11000,
        LARGE_MEMORY - size,
        0x14,
        0xB8,
        0xCC,
        0x1E00,
        0x1FFF,
        FIRMWARE + 0x10000,
        FIRMWARE + 0x40000,
        1 << 32,
        1 << 63,
        (1 << 64) - 512,
    )
    kind = choices.below(8)
    if kind < 4:
        address = choices.pick(around)
    elif kind < 5:
        address = choices.pick(edges) - choices.pick((0, size, 512, 1))
    elif kind < 6:
        address = choices.pick(other)
    elif kind < 7:
        address = 0x20000 + choices.below(0xC0) * 0x10000
    else:
        address = (start + (1 << 32)) if choices.chance(128) else choices.below(1 << 24)
    return address % (1 << 64)


def _layout(choices):
    """Parts and PSW of an untouched program."""
    kind, seed = choices.below(8), 16 * choices.below(16)
    loader = Part(LOADER, 2, "rsa", {"flags": OPSW | OLA, "psw": PSW | LOADER, "address": LOADER}, seed=seed + 1)
    kernel = Part(KERNEL, 4, "rsa", {}, seed=seed + 2)
    heap, parameters, parmline = Part(0x2000, 4), Part(PARAMETERS, 1, seed=3), Part(0x20000, 1, seed=4)
    if kind == 5:
        loader.attributes["flags"] |= NUC
        return [loader, kernel, Part(0x20000, 2, "ec", {}, seed=5)], PSW | LOADER
    if kind == 6:
        loader.attributes["flags"] |= SC
        return [loader], PSW | LOADER
    if kind == 7:
        kernel.signer = choices.pick(("ec", "ec", "usage", "expired", "ec-future", "stranger"))
        return [kernel, heap, Part(0x40000, 40, seed=6), loader, parameters, parmline], PSW | LOADER
    return [heap, loader, parameters, kernel, parmline], PSW | LOADER


class Program:
    """A program whose parts and PSW are changed before it is written."""

    def __init__(self, choices, block_size):
        self.choices = choices
        self.block_size = block_size
        self.parts, self.psw = _layout(choices)
        self.merged = not choices.chance(24)
        for _ in range(choices.pick((0, 0, 0, 1, 1, 1, 2, 4))):
            choices.pick(CHANGES)(self)

    def ranges(self):
        return [(part.address, part.end(self.block_size)) for part in self.parts]

    def part(self):
        return self.choices.pick(self.parts)

    def signed_part(self):
        return self.choices.pick([part for part in self.parts if part.signer] or self.parts)

    def carrier(self):
        """The first part with a global SCLAB, or any."""
        carriers = [p for p in self.parts if p.attributes and p.attributes.get("flags", 0) & OPSW]
        return carriers[0] if carriers else self.part()

    def entries(self, writer, shop):
        """Write all parts, and return the entries of the component table."""
        bs = self.block_size
        entries = []
        for part in self.parts:
            data = part.data(bs)
            signature = None
            if part.signer:
                signature = shop.sign((part.sign_other or part).data(bs), part.signer)
                junk = part.signature.get("junk")
                signature = signature if junk is None else junk
            fields = {k: v for k, v in part.signature.items() if k != "junk"}
            entries += writer.add_component(Load(part.address, data, signature, **fields), self.merged)
        room = (bs - 32) // 32 - 1
        return [*entries[:room], *writer.add_component(Execute(self.psw))]


def _move(program):
    part = program.part()
    part.address = interesting_address(program.choices, program.ranges())
    if program.choices.chance(64):
        program.parts.remove(part)
        program.parts.append(part)


def _move_loader(program):
    """Move the carrier of the global SCLAB, and let SCLAB and PSW follow."""
    part = program.carrier()
    part.address = interesting_address(program.choices, program.ranges())
    part.attributes = {**(part.attributes or {}), "flags": OPSW | OLA, "address": part.address}
    part.attributes["psw"] = program.psw = PSW | part.address & 0x7FFF_FFFF


def _psw(program):
    choices = program.choices
    start, end = choices.pick(program.ranges())
    address = choices.pick((start, start + 2, end - 2, end - 1, end, start - 2, LOADER, 0, MEMORY)) & 0x7FFF_FFFF
    psw = choices.pick((PSW, PSW, PSW, 0, 0x0008_0001_8000_0000, 0x040A_0000_8000_0000)) & ~0x7FFF_FFFF | address
    which = choices.below(8)
    if which < 6:
        carrier = program.carrier()
        if carrier.attributes:
            carrier.attributes["psw"] = psw
    if which != 5:
        program.psw = psw


def _attributes(program):
    choices = program.choices
    part = program.signed_part()
    attributes = dict(part.attributes or {})
    kind = choices.below(8)
    if kind < 3:
        flags = choices.pick((OLA, OPSW | OLA, OPSW | OLA | NUC, OPSW | OLA | SC, 0x0FFF, OPSW, 0, NUC, SC))
        attributes["flags"] = flags
        attributes["address"] = part.address if flags & OLA else 0
        attributes["psw"] = program.psw if flags & OPSW else 0
    elif kind == 3:
        attributes["length"] = choices.pick((32, 40, 48, 512))
    elif kind == 4:
        attributes["stated_length"] = choices.pick((32, 31, 33, 40, 8, 0, 512, 1024, 2048, 0xFFFF))
    elif kind == 5:
        attributes["sclab_format"] = choices.pick((0, 1, 255))
    elif kind == 6:
        attributes["address"] = interesting_address(choices, program.ranges())
    else:
        attributes["magic"] = choices.pick((b"zIPL", b"ZIPL", bytes(4)))
    part.attributes = attributes if choices.chance(240) or kind < 7 else None


def _signer(program):
    program.part().signer = program.choices.pick(("ec", "rsa", None, *SIGNERS))


def _signature(program):
    choices = program.choices
    part = program.signed_part()
    kind = choices.below(6)
    if kind == 0:
        part.sign_other = program.part()
    elif kind == 1:
        part.signature["signature_length"] = choices.pick((0, 1, 411, 4095, 4096, 4097, 0xFFFF_FFFF))
    elif kind == 2:
        part.signature["signature_format"] = choices.pick((1, 0, 2))
    elif kind == 3:
        part.signature["junk"] = bytes(choices.pick((0, 1, 512, 4096, 4097, 9000)))
    elif kind == 4:
        part.signer = "stranger"
    else:
        part.signature["signature_length"] = 400 + choices.below(256)


def _insert(program):
    """One more component, signed or not, aimed at what is there."""
    choices = program.choices
    address = interesting_address(choices, program.ranges())
    part = Part(address, choices.pick((1, 2, 4, 8, 33, 300, 0)), seed=7 + choices.below(3))
    if choices.chance(64):
        part.signer = choices.pick(("rsa", "ec", "stranger"))
        part.attributes = {}
    program.parts.insert(choices.below(len(program.parts) + 1), part)


def _repeat(program):
    choices = program.choices
    part = program.part().copy()
    if choices.chance(192):
        part.address = interesting_address(choices, program.ranges())
    if choices.chance(96):
        part.signer = None
        part.seed += 8
    program.parts.insert(choices.below(len(program.parts) + 1), part)


def _shuffle(program):
    parts = program.parts
    for _ in range(1 + program.choices.below(4)):
        i, j = program.choices.below(len(parts)), program.choices.below(len(parts))
        parts[i], parts[j] = parts[j], parts[i]


def _remove(program):
    if len(program.parts) > 1:
        program.parts.remove(program.part())


def _resize(program):
    program.part().blocks = program.choices.pick((1, 2, 3, 31, 32, 33, 64, 300, 0))


CHANGES = (
    _move,
    _move,
    _insert,
    _insert,
    _insert,
    _repeat,
    _shuffle,
    _remove,
    _resize,
    _move_loader,
    _psw,
    _attributes,
    _signer,
    _signature,
)


def make_disk(choices, shop):
    """A disk of one or two programs; returns (image, block size, number of the program to boot)."""
    block_size = choices.pick((512, 512, 512, 4096, 1024, 2048))
    writer = DiskWriter(block_size)
    tables = [writer.append_component_table(Program(choices, block_size).entries(writer, shop))]
    number = 0
    if choices.chance(32):
        other = Program(choices, block_size).entries(writer, shop)
        tables = [tables[0], None, writer.append_component_table(other)]
        number = 2 if choices.chance(128) else 0
    writer.write_boot_record(writer.append_program_table(tables))
    return writer.finish(len(writer.image) + 8 * block_size), block_size, number


def shared_disks():
    """Disks of the shared corpus and the certificate that most are signed with, or none where it is absent.

    Those that hand over stand there three times, to be chosen more often.
    """
    place = Path(os.environ.get("SIPL_SHARED", ROOT.parent / "shared")) / "corpus"
    if not (place / "cases.json").is_file():
        return [], None
    disks = []
    for case in json.loads((place / "cases.json").read_text()):
        if case["boot_certs"] != ["certs/certA.pem"] or case["cpu"] or case["device"] == "scsi-cd":
            continue
        for name in case["disks"]:
            image = gzip.decompress((place / name).read_bytes()).rstrip(b"\0")
            block_size = case["block_size"]
            size = -(-(len(image) + SPARE) // block_size) * block_size
            entry = (image.ljust(size, b"\0"), block_size)
            if entry not in disks:
                disks += [entry] * (3 if case["expect"]["secure"]["outcome"] == "hands-over" else 1)
    return disks, str(place / "certs" / "certA.pem")
