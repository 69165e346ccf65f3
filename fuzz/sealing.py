"""The promise of `sipl seal`: a disk is sealed, and then boots and is otherwise what it was, or it stays as it is.

Bytes decide on a disk and its changes, on what was sealed before, and on what is asked for. What was written is read
with readers of fuzz alone; that the disk boots is asked of the boot side, and of OpenSSL at its hand-over.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import Counter

import sipl.ipl
from fuzz.choices import Choices
from fuzz.disk_reader import DiskReader
from fuzz.disks import NOW
from fuzz.mutate import mutate
from fuzz.seal_disks import FRAME_MAGIC, RECORD, SIGNED_PARTS, disturb, make_partitioned
from fuzz.secure_boot import Engine
from sipl.author.sealing import SealOptions, seal, unseal
from sipl.author.signer import Signer
from sipl.crypto.certificate import Certificate
from sipl.disk.open import open_image
from sipl.disk.qcow2_create import write_qcow2
from sipl.errors import SealRefused, SiplError
from sipl.machine.options import MachineOptions
from sipl.reasons import Mode, Outcome
from sipl.settings import Disk, Settings

CASE_LENGTH = 128
MEMORY = 2 << 30  # what a seal supposes at most
MEMORY_LOOKED_AT = 256 << 20
SECTOR = 512
POINTER = slice(16, 32)  # bytes of block 0 that a seal may change
MIN_SHARE = 0.1  # of sealed disks among all cases; the property would say nothing without them
ENTRIES = (None,) * 9 + (frozenset({0}), frozenset({1}), frozenset({2, 30}))
TRUSTED = ((),) * 7 + (("ec",), ("rsa", "ec"), ("stranger",))
BEFORE = ((), (), (), ("ec",), ("rsa",), ("ec", "rsa"))  # who sealed the disk before


class BrokenSeal(AssertionError):
    """The promise is broken."""


class Sealing:
    """What all executions have in common; `shop` and `crypto` are those of a SecureBoot."""

    def __init__(self, secure, folder):
        self._secure = secure
        self.shop = secure.shop
        self._raw = os.path.join(folder, "sealed.raw")
        self._qcow2 = os.path.join(folder, "sealed.qcow2")
        self._signers = {}
        self.executions = 0
        self.sealed = Counter()
        self.refused = Counter()
        self.handed_over = 0

    def signer(self, name):
        if name not in self._signers:
            path = self.shop.path(name)
            with open(path, "rb") as file:
                self._signers[name] = Signer(self.shop.key(name), Certificate.from_pem(file.read()), now=NOW)
        return self._signers[name]

    def execute(self, data):
        """Run one case.

        Raises:
            BrokenSeal: a disk was sealed and does not boot, or has lost something; or was refused, and has changed.
            Violation: at the hand-over of a sealed disk.
        """
        self.executions += 1
        choices = Choices(data)
        image, block_size, first = make_partitioned(choices, self.shop)
        records = [bytes(image[:RECORD])]
        for name in choices.pick(BEFORE):
            image = bytearray(self._sealed_before(image, block_size, name))
        image = bytearray(mutate(choices, image, block_size) if choices.chance(96) else image)
        if len(image) >= first * block_size and choices.chance(96):
            disturb(choices, image, block_size, first)
        records.append(bytes(image[:RECORD]))
        path = self._write(image, qcow2=choices.chance(64))
        with open(path, "rb") as file:
            before = file.read()
        options = SealOptions(
            entries=choices.pick(ENTRIES),
            components=frozenset(address for address in SIGNED_PARTS if choices.chance(12)),
            boot_certs=tuple(map(self.shop.path, choices.pick(TRUSTED))),
            at=NOW,
        )
        asked = Disk(path, block_size=None if choices.chance(64) else block_size)
        signer = choices.pick(("ec", "rsa"))
        try:
            report = seal(asked, self.signer(signer), options)
        except SiplError as error:
            if not str(error).isprintable():
                raise BrokenSeal("a message would drive a terminal") from error
            self.refused[getattr(error, "reason", type(error).__name__)] += 1
            with open(path, "rb") as file:
                if file.read() != before:
                    raise BrokenSeal(f"refused ({error}), and the image has changed") from error
            return
        self.sealed[len(report.programs)] += 1
        after = self._content(path)
        block_size = report.block_size
        check_changes(bytes(image), after, block_size)
        certificates = (self.shop.path(signer), *options.boot_certs)
        self._check_boots(path, report, certificates, after)
        self._check_unseal(path, image, after, block_size, records)

    def _sealed_before(self, image, block_size, name):
        path = self._write(image, qcow2=False)
        try:
            seal(Disk(path, block_size=block_size), self.signer(name), SealOptions(at=NOW))
        except SealRefused:
            return image
        return self._content(path)

    def _write(self, image, *, qcow2):
        path = self._qcow2 if qcow2 and image else self._raw
        with open(path, "wb") as file:
            if path == self._qcow2:
                write_qcow2(file, bytes(image), max(512, len(image)))
            else:
                file.write(image)
        return path

    @property
    def share(self):
        """The share of the executions that sealed a disk."""
        return self.sealed.total() / max(1, self.executions)

    def _content(self, path):
        with open_image(path) as image:
            return image.read(0, image.size)

    def _check_boots(self, path, report, certificates, after):
        for program in report.programs:
            if not program.sealed:
                continue
            for number in program.numbers:
                machine = MachineOptions(
                    boot_certs=certificates, loadparm=str(number) if number else "", memory=MEMORY, secure_boot=True
                )
                settings = Settings(machine=machine, at=NOW)
                disk = Disk(path, block_size=report.block_size)
                if not number:
                    judged = sipl.ipl.verify(disk, settings, Mode.SECURE)
                    if judged.would_boot is not True:
                        raise BrokenSeal(f"sealed, and does not boot: {judged.reason}: {judged.findings}")
                end = max(component.address + component.length for component in program.components)
                if end > MEMORY_LOOKED_AT:
                    continue
                machine = machine._replace(memory=MEMORY_LOOKED_AT + (16 << 20))
                engine = Engine(self._secure.checker(certificates), [(after, report.block_size)])
                booted = sipl.ipl.boot([disk], settings._replace(machine=machine), engine)
                if booted.outcome is not Outcome.HANDS_OVER or engine.facts is None:
                    raise BrokenSeal(f"sealed, and does not hand over: {booted.reason}: {booted.findings}")
                self.handed_over += 1

    def _check_unseal(self, path, image, after, block_size, records):
        unseal(Disk(path, block_size=block_size), SealOptions(at=NOW))
        now = self._content(path)
        if now[:RECORD] not in records:
            raise BrokenSeal("unsealed, and the boot record is neither the first one nor the one before")
        if now[RECORD:] != after[RECORD:]:
            raise BrokenSeal("unsealing has changed more than the boot record")
        if contents(now, block_size) != contents(now[:RECORD] + bytes(image[RECORD:]), block_size):
            raise BrokenSeal("unsealed, and the former boot map leads to something else")


def contents(image, block_size):
    """All that the programs of a disk load: (type, value, content) of each entry."""
    reader = DiskReader(image, block_size)
    return [
        [(entry.type, entry.value, reader.content(entry.segment_table)) for entry in reader.entries(table)]
        for table in reader.component_tables()
        if table
    ]


def check_changes(before, after, block_size):
    """Nothing has changed but the pointer in block 0 and what lies between partition table and first partition."""
    if after[: POINTER.start] != before[: POINTER.start] or after[POINTER.stop : block_size] != before[32:block_size]:
        raise BrokenSeal("block 0 has changed besides its pointer")
    if len(after) != -(-len(before) // 512) * 512:
        raise BrokenSeal("the disk has another size")
    start, end = gap(before, block_size)
    not_free = sectors_in_use(before, block_size, start, end)
    start, end = start * block_size, end * block_size
    if any(after[at : at + SECTOR] != before[at : at + SECTOR] for at in not_free):
        raise BrokenSeal("something in the room that was not sipl's has changed")
    if after[block_size:start] != before[block_size:start] or after[end : len(before)] != before[end:]:
        raise BrokenSeal("something outside the room has changed")


def sectors_in_use(image, block_size, start, end):
    """Bytes at which sectors of blocks `start` to `end` - 1 begin that are neither zero nor part of a frame of sipl."""
    digests = {}
    for at in range(start * block_size, end * block_size, block_size):
        header = image[at : at + SECTOR]
        size, own, blocks = struct.unpack_from(">IQI", header.ljust(SECTOR, b"\0"), 12)
        good = hashlib.sha256(header[:480]).digest() == header[480:]
        if good and header.startswith(FRAME_MAGIC) and (size, own) == (block_size, at // block_size):
            digests.setdefault(at, set()).add(hashlib.sha256(header).digest()[:8])
            for number in range(min(blocks * block_size // SECTOR, 55)):
                place = at + block_size + number * SECTOR
                digests.setdefault(place, set()).add(header[40 + 8 * number : 48 + 8 * number])
    found = []
    for at in range(start * block_size, end * block_size, SECTOR):
        sector = image[at : at + SECTOR]
        if any(sector) and hashlib.sha256(sector).digest()[:8] not in digests.get(at, ()):
            found.append(at)
    return found


def gap(image, block_size):
    """First block behind the partition table, and first block of a partition, read as plainly as can be."""
    entries = [struct.unpack_from("<B3xB3xII", image, 446 + 16 * number) for number in range(4)]
    used = [entry for entry in entries if entry[1]]
    if not any(kind == 0xEE for _, kind, _, _ in used):
        return 1, min(first for _, _, first, _ in used)
    at, number, size = struct.unpack_from("<QII", image, block_size + 72)
    array = [image[at * block_size + n * size :][:size] for n in range(number)]
    firsts = [struct.unpack_from("<Q", entry, 32)[0] for entry in array if entry[:16] != bytes(16)]
    return at + -(-number * size // block_size), min(firsts)
