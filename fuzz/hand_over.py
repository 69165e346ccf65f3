"""The promise of secure mode, checked on the guest's memory in the moment of the hand-over (docs/fuzzing.md).

A hand-over in secure mode implies:
(a) the EXEC PSW lies in a component whose bytes, as they are in memory, a certificate of the store signed;
(b) nothing was written to any verified component after it was verified;
(c) the IPL report states signed and verified truthfully for every component.

Nothing of this is asked of the boot side: the report is read where Linux reads it, the disk by a reader of its own, and
OpenSSL verifies.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from fuzz.disk_reader import EXECUTE, LOAD, SIGNATURE, DiskReader

SIGNED, VERIFIED = 0x80, 0x40
SECURE_FLAGS = 0x60
LOWCORE_END = 0x200
BUFFER = 4096  # of a signature, and of the IPL parameter block
COMPONENTS, CERTIFICATES = 2, 1
EBCDIC_ZERO = 0xF0
LONGEST_REPORT = 16 + 16 + 127 * 32 + 16 + 64 * 16


class Violation(AssertionError):
    """The promise is broken: `promise` is (a), (b) or (c)."""

    def __init__(self, promise, what):
        self.promise = promise
        super().__init__(f"({promise}) {what}")


class ReportEntry(NamedTuple):
    address: int
    length: int
    flags: int
    certificate: int
    error_indicators: int

    @property
    def end(self):
        return self.address + self.length


class Facts(NamedTuple):
    """What a hand-over consisted of, for statistics."""

    components: int
    verified: int
    certificates: int
    device: int


class Checker:
    """`certificates` are those of the store (fuzz.openssl.X509), `now` is the time of the IPL."""

    def __init__(self, crypto, certificates, now):
        self._crypto = crypto
        self._certificates = {certificate.der: certificate for certificate in certificates}
        self._now = now

    def check(self, memory, disks):
        """Check a hand-over; `disks` are (image, block size) in boot order.

        Raises:
            Violation: a promise is broken.
        """
        memory = memoryview(memory)
        iplb = self._number(memory, 0x14, 4)
        report = iplb + BUFFER
        header = self._piece(memory, iplb, BUFFER, "the IPL parameter block")
        if self._number(header, 0, 4) != BUFFER or header[4] & SECURE_FLAGS != SECURE_FLAGS:
            raise Violation("c", "the IPL parameter block does not say secure IPL with a report")
        entries, ders, length = self._read_report(memory, report)
        device = self._number(memory, 0xB8, 4) & 0xFFFF
        if device >= len(disks):
            raise Violation("c", f"the boot device is number {device}")
        reader = DiskReader(*disks[device])
        psw = self._number(memory, 0, 8)
        wanted = self._wanted(reader, bytes(header[16:24]), psw)
        own = [(iplb, iplb + BUFFER + length, "the report"), (0, LOWCORE_END, "the lowcore")]
        own += [(address, address + size, "a certificate of the report") for address, size in ders]
        entries = self._check_entries(entries, wanted, psw, own)
        self._check_truth(memory, entries, wanted, ders)
        address = psw & 0x7FFF_FFFF
        if not any(e.flags & VERIFIED and e.address <= address and address + 2 <= e.end for e in entries):
            raise Violation("a", f"the PSW {psw:#018x} lies in no verified component")
        return Facts(len(entries), sum(bool(e.flags & VERIFIED) for e in entries), len(ders), device)

    def _read_report(self, memory, address):
        length, flags = struct.unpack_from(">IB", self._piece(memory, address, 16, "the report"))
        if not 16 <= length <= LONGEST_REPORT or flags:
            raise Violation("c", f"the report has length {length}")
        body = self._piece(memory, address, length, "the report")
        found = {}
        at = 16
        while at + 8 < length:
            if at + 16 > length:
                raise Violation("c", "a list of the report has no header")
            size, kind, indicators = struct.unpack_from(">IB3xH", body, at)
            if size < 16 or at + size > length or kind in found or indicators:
                raise Violation("c", f"a list of the report has type {kind}, length {size}, indicators {indicators:#x}")
            found[kind] = body[at + 16 : at + size]
            at += size
        if at != length:
            raise Violation("c", "the report goes on behind its lists")
        if set(found) != {COMPONENTS, CERTIFICATES} or len(found[COMPONENTS]) % 32 or len(found[CERTIFICATES]) % 16:
            raise Violation("c", f"the report has the lists {sorted(found)}")
        entries = [ReportEntry(*fields) for fields in struct.iter_unpack(">QQB5xHI4x", found[COMPONENTS])]
        return entries, list(struct.iter_unpack(">QQ", found[CERTIFICATES])), length

    def _wanted(self, reader, loadparm, psw):
        """What the disk says: [(address, bytes, signature or None)] of the program that the loadparm names."""
        digits = []
        for character in loadparm:
            if not EBCDIC_ZERO <= character <= EBCDIC_ZERO + 9:
                break
            digits.append(character - EBCDIC_ZERO)
        number = int("".join(map(str, digits)) or "0")
        tables = reader.component_tables()
        entries = reader.entries(tables[number]) if number < len(tables) else []
        if not entries or entries[-1].type != EXECUTE or entries[-1].number != psw:
            raise Violation("a", f"the PSW {psw:#018x} is not that of the EXEC entry of program {number}")
        wanted = []
        signature = None
        for entry in entries[:-1]:
            content = reader.content(entry.segment_table)
            if entry.type == SIGNATURE:
                signature = content.ljust(BUFFER, b"\0")[: entry.signature_length] or None
            elif entry.type == LOAD:
                wanted.append((entry.number, content, signature))
                signature = None
            else:
                raise Violation("c", f"the program has an entry of type {entry.type}")
        return wanted

    def _check_entries(self, entries, wanted, psw, own):
        """Every component of the disk stands in the report, and none where it must not be; without the PSW entry."""
        if not entries or entries[-1] != ReportEntry(psw, 0, 0, 0, 0):
            raise Violation("c", "the last entry of the report is not that of the PSW")
        entries = entries[:-1]
        if [(e.address, e.length) for e in entries] != [(address, len(content)) for address, content, _ in wanted]:
            raise Violation("c", "the report has other components than the disk")
        for number, entry in enumerate(entries):
            if entry.error_indicators:
                raise Violation("c", f"component {number} has error indicators {entry.error_indicators:#x}")
            if not entry.length:
                continue
            for start, end, name in own:
                if entry.address < end and start < entry.end:
                    raise Violation("b", f"component {number} overlaps {name}")
            for before, (_, _, signature) in zip(entries[:number], wanted, strict=False):
                if signature is not None and entry.address < before.end and before.address < entry.end:
                    raise Violation("b", f"component {number} lies over a verified one")
        return entries

    def _check_truth(self, memory, entries, wanted, ders):
        for number, (entry, (_, content, signature)) in enumerate(zip(entries, wanted, strict=True)):
            if entry.flags not in (0, SIGNED | VERIFIED):
                raise Violation("c", f"component {number} has the flags {entry.flags:#x} in secure mode")
            if bool(entry.flags) != (signature is not None):
                raise Violation("c", f"component {number} is{'' if signature else ' not'} signed, the report lies")
            if not entry.flags:
                if entry.certificate:
                    raise Violation("c", f"component {number} is not verified and names a certificate")
                continue
            if entry.certificate >= len(ders):
                raise Violation("c", f"component {number} names certificate {entry.certificate}, there is none")
            der = bytes(self._piece(memory, *ders[entry.certificate], f"certificate {entry.certificate}"))
            certificate = self._certificates.get(der)
            if certificate is None or not self._crypto.may_sign(certificate, self._now):
                raise Violation("c", f"component {number} names a certificate that is not in the store or not valid")
            there = self._piece(memory, entry.address, entry.length, f"component {number}")
            if not self._crypto.signed_by(there, signature, certificate):
                what = "was written to after its verification" if there != content else "is not signed by what it names"
                raise Violation("b" if there != content else "c", f"component {number} {what}")
            if there != content:
                raise Violation("b", f"component {number} is not what lies on the disk")

    def _piece(self, memory, address, length, name):
        if length < 0 or address < 0 or address + length > len(memory):
            raise Violation("c", f"{name} does not lie in memory")
        return memory[address : address + length]

    def _number(self, memory, address, length):
        return int.from_bytes(memory[address : address + length], "big")
