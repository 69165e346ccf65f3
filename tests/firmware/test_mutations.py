"""One change to a good disk at a time: the findings and bits of audit mode, the verdict of secure mode."""

from __future__ import annotations

import os
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from ipl_lab import (
    AT,
    GLOBAL,
    HANDS_OVER,
    HEAP,
    INITRD,
    KERNEL,
    LOADER,
    MIB,
    PARAMETERS,
    PSW,
    PSW_MASK,
    YEAR,
    Load,
    code,
    finish,
    kernel_bytes,
    loader_bytes,
    reasons,
    verdict,
)

from sipl.author.boot_record import DiskWriter, Execute
from sipl.crypto import signing
from sipl.layout.boot_record import BlockPointer
from sipl.layout.record import pack
from sipl.layout.sclab import SclabFlags

OPSW, OLA, NUC, SC = SclabFlags.OPSW, SclabFlags.OLA, SclabFlags.NUC, SclabFlags.SC
S3, K = 1, 3  # positions of loader and kernel in the base program
LOADER_END = LOADER + 1024


class Row:
    """What is expected of a program or disk that `build` makes.

    `audit` are the reasons in audit mode in their order, `secure` the one that stops secure mode (None: it hands over).
    `cei` and `flags` map positions of components to what differs from 0 and from a good disk; `psw` is the CEI of the
    PSW entry. `given_up` says that secure and audit mode give the device up.
    """

    def __init__(self, build, audit=(), secure=None, iiei=0, cei=None, flags=None, psw=0, given_up=False):
        self.build = build
        self.audit = list(audit)
        self.secure = secure
        self.iiei = iiei
        self.cei = cei or {}
        self.flags = flags
        self.psw = psw
        self.given_up = given_up


GOOD_FLAGS = {S3: 0xC0, K: 0xC0}


def row(build, *audit, secure=None, **expected):
    """A row whose secure mode stops at the first reason of audit mode, unless it is named."""
    return Row(build, audit, secure or (audit[0] if audit else None), **expected)


def gives_up(build, reason):
    return Row(build, [reason], reason, given_up=True)


def flipped(load: Load, at: int = 100) -> Load:
    data = bytearray(load.data)
    data[at] ^= 1
    return load._replace(data=bytes(data))


def bare(load: Load) -> Load:
    return load._replace(signature=None)


def k(lab, **changes):
    """The program with the kernel's entry changed."""
    return lab.program(kernel=lab.kernel()._replace(**changes))


def s3(lab, psw=PSW, **fields):
    """The program with another SCLAB in the loader."""
    return lab.program(psw=psw, loader=lab.loader(**fields))


def both_psws(lab, psw):
    return s3(lab, psw=psw) if psw == PSW else lab.program(psw=psw, loader=lab.loader(psw=psw))


def swapped(lab):
    loader, kernel = lab.loader(), lab.kernel()
    return lab.program(
        loader=loader._replace(signature=kernel.signature), kernel=kernel._replace(signature=loader.signature)
    )


def signature(lab, change):
    kernel = lab.kernel()
    return lab.program(kernel=kernel._replace(signature=change(kernel.signature)))


def cms(lab, data, *options):
    """A signature by an independent maker: with signed attributes unless told otherwise."""
    signer = lab.signers["A"]
    certificate = x509.load_der_x509_certificate(signer.certificate.der)
    builder = pkcs7.PKCS7SignatureBuilder().set_data(data).add_signer(certificate, signer.key, hashes.SHA256())
    return builder.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary, *options])


DETACHED, NO_ATTRIBUTES = pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.NoAttributes


def sign_with(lab, over, *options):
    return lab.program(kernel=Load(KERNEL, kernel_bytes(), cms(lab, over, *options)))


def entries_changed(change):
    """A disk whose component table `change` edits: it gets and returns the list of entries."""

    def build(lab):
        return lab.disk(lab.program(), change=change)

    return build


def twice_the_signature(entries):
    return [*entries[:1], entries[1], *entries[1:]]


def signature_before_exec(entries):
    return [*entries[:-1], entries[1], entries[-1]]


def of_type(position, new):
    def change(entries):
        entries[position] = entries[position]._replace(type=new)
        return entries

    return change


def loader_table(write):
    """A disk whose loader has the segment table that `write(writer, pointers)` makes of its one-block pointers."""

    def build(lab):
        writer = DiskWriter(512)
        entries = [entry for c in lab.program() for entry in writer.add_component(c)]
        pointers = writer.append(loader_bytes(), merged=False)
        table = write(writer, pointers)
        entries[2] = entries[2]._replace(segment_table=pack(table))
        return lab.disk(finish(writer, entries))

    return build


def slots(*pointers):
    return b"".join(pack(p) for p in pointers)


NONE = BlockPointer(0, 0, 0)


def patched(offset, data, of="boot record"):
    """A disk with bytes overwritten in block 0, the program table or the component table."""

    def build(lab):
        disk = lab.disk(lab.program())
        with open(disk.path, "r+b") as file:
            image = file.read()
            start = 0
            if of != "boot record":
                start = struct.unpack_from(">Q", image, 16)[0] * 512
            if of == "component table":
                start = struct.unpack_from(">Q", image, start + 16)[0] * 512
            file.seek(start + offset)
            file.write(data)
        return disk

    return build


NOT_VERIFIED = "signature-not-verified"
OUTSIDE = "psw-outside-signed-code"
KERNEL_NOT_VERIFIED = {S3: 0xC0, K: 0x80}
LOADER_NOT_VERIFIED = {S3: 0x80, K: 0xC0}
ROWS = {
    "good": row(lambda lab: lab.program()),
    # signatures
    "kernel-flipped": row(
        lambda lab: lab.program(kernel=flipped(lab.kernel())), NOT_VERIFIED, flags=KERNEL_NOT_VERIFIED
    ),
    "loader-flipped": row(
        lambda lab: lab.program(loader=flipped(lab.loader())), NOT_VERIFIED, flags=LOADER_NOT_VERIFIED
    ),
    "initrd-flipped": row(lambda lab: lab.program(initrd=Load(INITRD, b"anything"))),
    "kernel-unsigned": row(lambda lab: lab.program(kernel=bare(lab.kernel())), flags={S3: 0xC0}),
    "loader-unsigned": row(
        lambda lab: lab.program(loader=bare(lab.loader())),
        "no-global-sclab",
        iiei=0x2000,
        flags={K: 0xC0},
        psw=None,
    ),
    "all-unsigned": row(
        lambda lab: lab.program(loader=bare(lab.loader()), kernel=bare(lab.kernel())),
        "no-signed-component",
        "no-sclab",
        iiei=0xC000,
        flags={},
        psw=None,
    ),
    "signatures-swapped": row(swapped, NOT_VERIFIED, NOT_VERIFIED, flags={S3: 0x80, K: 0x80}),
    "kernel-by-unknown-key": row(
        lambda lab: lab.program(kernel=lab.kernel(by="B")), NOT_VERIFIED, flags=KERNEL_NOT_VERIFIED
    ),
    "signature-end-zeroed": row(
        lambda lab: signature(lab, lambda der: der[:-16] + bytes(16)), NOT_VERIFIED, flags=KERNEL_NOT_VERIFIED
    ),
    "signature-16-short": row(
        lambda lab: k(lab, signature_length=len(lab.kernel().signature) - 16), NOT_VERIFIED, flags=KERNEL_NOT_VERIFIED
    ),
    "signature-5-long": row(
        lambda lab: signature(lab, lambda der: der + bytes(5)), NOT_VERIFIED, flags=KERNEL_NOT_VERIFIED
    ),
    "signature-length-0": row(lambda lab: k(lab, signature_length=0), flags={S3: 0xC0}),
    "signature-length-4097": row(lambda lab: k(lab, signature_length=4097), NOT_VERIFIED, flags=KERNEL_NOT_VERIFIED),
    "signature-of-ff": row(
        lambda lab: signature(lab, lambda _: b"\xff" * 400), NOT_VERIFIED, flags=KERNEL_NOT_VERIFIED
    ),
    "signature-format-0": gives_up(lambda lab: k(lab, signature_format=0), "signature-format"),
    "signature-format-2": gives_up(lambda lab: k(lab, signature_format=2), "signature-format"),
    "signature-twice": gives_up(entries_changed(twice_the_signature), "signature-repeated"),
    "signature-before-exec": row(entries_changed(signature_before_exec)),
    "signed-attributes": row(lambda lab: sign_with(lab, kernel_bytes(), DETACHED)),
    "no-attributes": row(lambda lab: sign_with(lab, kernel_bytes(), DETACHED, NO_ATTRIBUTES)),
    "content-embedded": row(lambda lab: sign_with(lab, kernel_bytes())),
    "other-content-embedded": row(lambda lab: sign_with(lab, loader_bytes()), NOT_VERIFIED, flags=KERNEL_NOT_VERIFIED),
    # addresses
    "unsigned-into-kernel-tail": row(
        lambda lab: lab.program(initrd=Load(KERNEL + 2048 - 512, bytes(512))), "address-overlap"
    ),
    "unsigned-into-kernel-head": row(lambda lab: lab.program(initrd=Load(KERNEL - 511, bytes(512))), "address-overlap"),
    "unsigned-around-kernel": row(lambda lab: lab.program(initrd=Load(KERNEL - 512, bytes(8192))), "address-overlap"),
    "unsigned-behind-kernel": row(lambda lab: lab.program(initrd=Load(KERNEL + 2048, bytes(512)))),
    "unsigned-before-kernel": row(lambda lab: lab.program(initrd=Load(KERNEL - 512, bytes(512)))),
    "unsigned-then-signed": row(lambda lab: lab.program(parameters=Load(KERNEL, bytes(4096)))),
    "unsigned-on-unsigned": row(lambda lab: lab.program(initrd=Load(PARAMETERS, bytes(512)))),
    "loader-twice": row(
        lambda lab: lab.program(extra=[lab.loader()]),
        "address-overlap",
        "several-global-sclabs",
        iiei=0x1000,
        flags={S3: 0xC0, K: 0xC0, 5: 0xC0},
    ),
    "unsigned-at-1e00": row(
        lambda lab: lab.program(initrd=Load(0x1E00, bytes(512))), "unsigned-address-too-low", cei={4: 0x00100000}
    ),
    "unsigned-at-1fff": row(
        lambda lab: lab.program(initrd=Load(0x1FFF, bytes(512)), heap=None),
        "unsigned-address-too-low",
        cei={3: 0x00100000},
        flags={0: 0xC0, 2: 0xC0},
    ),
    "unsigned-at-2000": row(lambda lab: lab.program(initrd=Load(HEAP, bytes(512)))),
    "signed-at-1000": row(lambda lab: lab.program(kernel=lab.kernel(at=0x1000))),
    "loader-at-b000": row(
        lambda lab: lab.program(loader=lab.signed(0xB000, loader_bytes())),
        "sclab-address-mismatch",
        OUTSIDE,
        cei={S3: 0x10000000},
        psw=0x04000000,
    ),
    # PSWs
    "exec-psw-a002": row(lambda lab: lab.program(psw=PSW + 2), "psw-mismatch", psw=0x08000000),
    "sclab-psw-a002": row(lambda lab: lab.program(loader=lab.loader(psw=PSW + 2)), "psw-mismatch", psw=0x08000000),
    "psws-at-end": row(lambda lab: both_psws(lab, PSW_MASK | LOADER_END), OUTSIDE, psw=0x04000000),
    "psws-at-end-1": row(lambda lab: both_psws(lab, PSW_MASK | LOADER_END - 1), OUTSIDE, psw=0x04000000),
    "psws-at-end-2": row(lambda lab: both_psws(lab, PSW_MASK | LOADER_END - 2)),
    "psws-at-start-1": row(lambda lab: both_psws(lab, PSW_MASK | LOADER - 1), OUTSIDE, psw=0x04000000),
    "psws-in-kernel": row(lambda lab: both_psws(lab, PSW_MASK | KERNEL)),
    "psws-in-unsigned": row(lambda lab: both_psws(lab, PSW_MASK | INITRD), OUTSIDE, psw=0x04000000),
    "psws-24-bit": row(lambda lab: both_psws(lab, PSW & ~0x80000000)),
    "psws-64-bit": row(lambda lab: both_psws(lab, PSW | 1 << 32)),
    "sclab-psw-0": row(lambda lab: lab.program(loader=lab.loader(psw=0)), OUTSIDE, "psw-mismatch", psw=0x0C000000),
    "sclab-psw-0-exec-unsigned": row(
        lambda lab: lab.program(psw=PSW_MASK | INITRD, loader=lab.loader(psw=0)),
        OUTSIDE,
        "psw-mismatch",
        psw=0x0C000000,
    ),
    # SCLABs
    "loader-no-magic": row(
        lambda lab: s3(lab, magic=b"zIPl"),
        "sclab-missing",
        "no-global-sclab",
        iiei=0x2000,
        cei={S3: 0x80000000},
        psw=None,
    ),
    "kernel-no-sclab": row(
        lambda lab: lab.program(kernel=lab.signed(KERNEL, code(2048, 1))), "sclab-missing", cei={K: 0x80000000}
    ),
    "both-no-sclab": row(
        lambda lab: lab.program(loader=lab.loader(magic=bytes(4)), kernel=lab.kernel(magic=bytes(4))),
        "sclab-missing",
        "sclab-missing",
        "no-sclab",
        iiei=0x4000,
        cei={S3: 0x80000000, K: 0x80000000},
        psw=None,
    ),
    "sclab-length-0": row(
        lambda lab: lab.program(kernel=lab.kernel(stated_length=0)), "sclab-length", cei={K: 0xC0000000}
    ),
    "sclab-length-31": row(
        lambda lab: s3(lab, stated_length=31),
        "sclab-length",
        "no-global-sclab",
        iiei=0x2000,
        cei={S3: 0xC0000000},
        psw=None,
    ),
    "sclab-length-33": row(
        lambda lab: s3(lab, stated_length=33),
        "sclab-format",
        "sclab-psw-not-zero",
        "sclab-address-not-zero",
        "no-global-sclab",
        iiei=0x2000,
        cei={S3: 0x20600000},
        psw=None,
    ),
    "sclab-length-40": row(lambda lab: s3(lab, length=0x28)),
    "sclab-length-ffff": row(
        lambda lab: s3(lab, stated_length=0xFFFF),
        "sclab-length",
        "no-global-sclab",
        iiei=0x2000,
        cei={S3: 0xC0000000},
        psw=None,
    ),
    "sclab-format-1": row(lambda lab: s3(lab, sclab_format=1), "sclab-format", cei={S3: 0x20000000}),
    "opsw-without-ola": row(
        lambda lab: s3(lab, flags=OPSW), "sclab-ola-not-one", "sclab-address-not-zero", cei={S3: 0x01400000}
    ),
    "opsw-without-ola-address-0": row(
        lambda lab: s3(lab, flags=OPSW, address=0), "sclab-ola-not-one", cei={S3: 0x01000000}
    ),
    "ola-address-b000": row(lambda lab: s3(lab, address=0xB000), "sclab-address-mismatch", cei={S3: 0x10000000}),
    "ola-psw-set": row(
        lambda lab: s3(lab, flags=OLA),
        "sclab-psw-not-zero",
        "no-global-sclab",
        iiei=0x2000,
        cei={S3: 0x00200000},
        psw=None,
    ),
    "ola-psw-0": row(
        lambda lab: lab.program(loader=lab.loader(flags=OLA, psw=0)), "no-global-sclab", iiei=0x2000, psw=None
    ),
    "no-flags": row(
        lambda lab: lab.program(loader=lab.loader(flags=0, psw=0, address=0)), "no-global-sclab", iiei=0x2000, psw=None
    ),
    "nuc-and-unsigned": row(lambda lab: s3(lab, flags=GLOBAL | NUC), "unsigned-not-allowed", iiei=0x0800),
    "nuc-all-signed": row(
        lambda lab: lab.program(loader=lab.loader(flags=GLOBAL | NUC), heap=None, parameters=None, initrd=None),
        flags={0: 0xC0, 1: 0xC0},
    ),
    "sc-two-signed": row(lambda lab: s3(lab, flags=GLOBAL | SC), "single-component-violated", iiei=0x0400),
    "sc-one-signed-and-unsigned": row(
        lambda lab: lab.program(loader=lab.loader(flags=GLOBAL | SC), kernel=None),
        "single-component-violated",
        iiei=0x0400,
        flags={S3: 0xC0},
    ),
    "nuc-sc-one-signed": row(
        lambda lab: lab.program(
            loader=lab.loader(flags=GLOBAL | NUC | SC), heap=None, parameters=None, kernel=None, initrd=None
        ),
        flags={0: 0xC0},
    ),
    "kernel-nuc": row(
        lambda lab: lab.program(kernel=lab.kernel(flags=NUC)), "sclab-nuc-not-global", cei={K: 0x02000000}
    ),
    "kernel-sc": row(lambda lab: lab.program(kernel=lab.kernel(flags=SC)), "sclab-sc-not-global", cei={K: 0x00800000}),
    "kernel-psw-1": row(lambda lab: lab.program(kernel=lab.kernel(psw=1)), "sclab-psw-not-zero", cei={K: 0x00200000}),
    "kernel-address": row(
        lambda lab: lab.program(kernel=lab.kernel(address=KERNEL)), "sclab-address-not-zero", cei={K: 0x00400000}
    ),
    "kernel-ola": row(lambda lab: lab.program(kernel=lab.kernel(flags=OLA, address=KERNEL))),
    "kernel-global": row(
        lambda lab: lab.program(kernel=lab.kernel(flags=GLOBAL, psw=PSW, address=KERNEL)),
        "several-global-sclabs",
        iiei=0x1000,
    ),
    "reserved-flags": row(lambda lab: s3(lab, flags=GLOBAL | 0x0FFF)),
    "payload-no-whole-blocks": row(
        lambda lab: lab.program(kernel=lab.signed(KERNEL, kernel_bytes(size=1500))),
        "sclab-missing",
        NOT_VERIFIED,
        cei={K: 0x80000000},
        flags=KERNEL_NOT_VERIFIED,
    ),
    "payload-signed-with-padding": row(
        lambda lab: lab.program(kernel=lab.signed(KERNEL, kernel_bytes(size=1500).ljust(1536, b"\0"))),
        "sclab-missing",
        cei={K: 0x80000000},
    ),
    # boot map
    "boot-record-magic": gives_up(patched(0, b"zIPl"), "not-a-zipl-disk"),
    "boot-record-version": row(patched(4, b"\0\0\0\2"), "boot-record-version", secure="-"),
    "no-program-table": gives_up(patched(16, bytes(8)), "boot-record-invalid"),
    "program-table-magic": gives_up(patched(0, b"ZIPL", "program table"), "boot-record-invalid"),
    "program-table-empty": gives_up(patched(16, bytes(496), "program table"), "boot-record-invalid"),
    "component-table-magic": gives_up(patched(0, b"ZIPL", "component table"), "boot-record-invalid"),
    "component-table-for-dump": gives_up(patched(4, b"\1", "component table"), "boot-record-invalid"),
    "exec-is-type-0": gives_up(entries_changed(of_type(-1, 0)), "unknown-component-type"),
    "type-4-in-the-middle": gives_up(entries_changed(of_type(3, 4)), "unknown-component-type"),
    "only-exec": row(lambda lab: [Execute(PSW)], "no-signed-component", "no-sclab", iiei=0xC000, flags={}, psw=None),
    # segments
    "pointer-of-1024": gives_up(
        loader_table(lambda w, p: w.append_segment_tables([p[0]._replace(size=1024), p[1]])), "segment-unreadable"
    ),
    "pointer-of-0": gives_up(
        loader_table(lambda w, p: w.append_segment_tables([p[0], p[1]._replace(size=0)])), "segment-unreadable"
    ),
    "pointer-beyond-the-disk": gives_up(
        loader_table(lambda w, p: w.append_segment_tables([p[0], p[1]._replace(block=0x100000)])), "block-out-of-range"
    ),
    "pointers-exchanged": row(
        loader_table(lambda w, p: w.append_segment_tables([p[1], p[0]])),
        "sclab-missing",
        NOT_VERIFIED,
        "no-global-sclab",
        iiei=0x2000,
        cei={S3: 0x80000000},
        flags=LOADER_NOT_VERIFIED,
        psw=None,
    ),
    "zero-slot-between": row(
        loader_table(lambda w, p: w.append_block(slots(p[0], NONE, p[1]))),
        "sclab-missing",
        NOT_VERIFIED,
        "no-global-sclab",
        iiei=0x2000,
        cei={S3: 0x80000000},
        flags=LOADER_NOT_VERIFIED,
        psw=None,
    ),
    "zero-slot-before-the-link": row(
        loader_table(lambda w, p: w.append_block(slots(p[0], *[NONE] * 30, w.append_segment_tables([p[1]])))),
        "sclab-missing",
        NOT_VERIFIED,
        "no-global-sclab",
        iiei=0x2000,
        cei={S3: 0x80000000},
        flags=LOADER_NOT_VERIFIED,
        psw=None,
    ),
    "no-slot-at-all": row(
        loader_table(lambda w, p: w.append_segment_tables([])),
        "sclab-missing",
        NOT_VERIFIED,
        "no-global-sclab",
        iiei=0x2000,
        cei={S3: 0x80000000},
        flags=LOADER_NOT_VERIFIED,
        psw=None,
    ),
    "one-block-slots": row(loader_table(lambda w, p: w.append_segment_tables(p))),
    "chained-tables": row(
        lambda lab: lab.disk(lab.program(kernel=lab.kernel(size=33 * 512), initrd=None), merged=False)
    ),
}


def expected_flags(expectation, count):
    flags = GOOD_FLAGS if expectation.flags is None else expectation.flags
    return [flags.get(position, 0) for position in range(count)]


@pytest.mark.parametrize("name", ROWS)
def test_audit(lab, name):
    expected = ROWS[name]
    report = lab.boot(expected.build(lab), mode="audit")
    assert reasons(report) == expected.audit
    if expected.given_up:
        assert verdict(report) == ("no-bootable-device", expected.secure)
        assert report.ipl_report is None
        return
    assert verdict(report) == HANDS_OVER
    assert report.error_indicators == expected.iiei
    assert report.psw_error_indicators == expected.psw
    count = len(report.components)
    assert [c.error_indicators for c in report.components] == [expected.cei.get(n, 0) for n in range(count)]
    assert [c.flags for c in report.components] == expected_flags(expected, count)


@pytest.mark.parametrize("name", ROWS)
def test_secure(lab, name):
    expected = ROWS[name]
    report = lab.boot(expected.build(lab))
    if expected.given_up:
        assert verdict(report) == ("no-bootable-device", expected.secure)
    elif expected.secure in (None, "-"):
        assert verdict(report) == HANDS_OVER
        assert reasons(report) == expected.audit
        assert report.error_indicators == 0
        assert not any(c.error_indicators for c in report.components)
    else:
        assert verdict(report) == ("stops", expected.secure)
        assert reasons(report) == [expected.secure]
        assert report.ipl_report is None


@pytest.mark.parametrize("name", ROWS)
def test_normal(lab, name):
    """Normal mode has no opinion on signatures and attributes: only the boot map can give the device up."""
    expected = ROWS[name]
    report = lab.boot(expected.build(lab), mode="normal")
    if expected.given_up and not expected.secure.startswith("signature"):
        reason = "table-not-terminated" if expected.secure == "unknown-component-type" else expected.secure
        assert verdict(report) == ("no-bootable-device", reason)
    else:
        assert verdict(report) == HANDS_OVER
    assert report.ipl_report is None
    assert not any(c.flags for c in report.components)


@pytest.mark.parametrize("name", ROWS)
def test_verify_finds_what_audit_mode_finds(lab, name):
    expected = ROWS[name]
    report = lab.verify(expected.build(lab))
    assert reasons(report) == expected.audit
    assert report.would_boot is (expected.secure in (None, "-"))
    if not report.would_boot:
        assert report.reason == expected.secure
        assert reasons(report, "error") == expected.audit


# certificates


def test_index_of_the_certificate_that_verified(lab):
    program = lab.program(kernel=lab.kernel(by="B"))
    report = lab.boot(program, certs=["C", "B", "A"])
    assert verdict(report) == HANDS_OVER
    fingerprints = {name: lab.signers[name].certificate.fingerprint.hex() for name in "AB"}
    assert [c.certificate for c in report.components if c.signed] == [fingerprints["A"], fingerprints["B"]]
    assert [(c.report_index, c.store_index) for c in report.certificates] == [(0, 2), (1, 1)]


def test_first_certificate_of_the_store_with_the_right_key_counts(lab):
    """Two certificates for one key: issuer and serial in the signature are not compared."""
    again = lab.signers.make("again", lab.signers["A"].key)
    report = lab.boot(lab.program(), certs=["again", "A"])
    assert verdict(report) == HANDS_OVER
    assert {c.certificate for c in report.components if c.signed} == {again.certificate.fingerprint.hex()}


@pytest.mark.parametrize(
    ("name", "validity", "words"),
    [("expired", (AT - 2 * YEAR, AT - 1), "expired"), ("future", (AT + 1, AT + YEAR), "not valid before")],
)
def test_certificate_outside_its_validity(lab, name, validity, words):
    signer = lab.signers.make(name, signing.generate_key("p256"), *validity)
    kernel = Load(KERNEL, kernel_bytes(), signer.sign(kernel_bytes()))
    program = lab.program(kernel=kernel)
    audit = lab.boot(program, mode="audit", certs=["A", name])
    assert reasons(audit) == [NOT_VERIFIED]
    assert words in next(f.message for f in audit.findings if f.reason == NOT_VERIFIED)
    assert verdict(lab.boot(program, certs=["A", name])) == ("stops", NOT_VERIFIED)
    # In the store it does no harm as long as nothing needs it.
    assert verdict(lab.boot(lab.program(), certs=[name, "A"])) == HANDS_OVER
    # At another time it verifies.
    inside = (validity[0] + validity[1]) // 2
    assert lab.boot(program, mode="audit", certs=["A", name], at=inside).components[K].verified


def test_certificate_on_its_last_second(lab):
    signer = lab.signers.make("edge", signing.generate_key("p256"), AT, AT)
    kernel = Load(KERNEL, kernel_bytes(), signer.sign(kernel_bytes()))
    program = lab.program(kernel=kernel)
    results = [verdict(lab.boot(program, certs=["A", "edge"], at=AT + n)) for n in (-1, 0, 1)]
    assert results == [("stops", NOT_VERIFIED), HANDS_OVER, ("stops", NOT_VERIFIED)]


def test_only_the_first_certificate_of_a_file_counts(lab):
    bundle = lab.folder / "bundle.pem"
    with open(lab.signers["B"].path, "rb") as first, open(lab.signers["A"].path, "rb") as second:
        bundle.write_bytes(first.read() + second.read())
    assert verdict(lab.boot(lab.program(), certs=[str(bundle)])) == ("stops", NOT_VERIFIED)


# large components


def test_component_over_256_mib(lab):
    """One that no verification takes: it stays unverified."""
    run = 65536
    writer = DiskWriter(4096)
    entries = [e for c in lab.program(block_size=4096, kernel=None)[:-1] for e in writer.add_component(c)]
    signed = writer.add_component(Load(KERNEL, b"", b"x" * 100))
    first = writer.next_block + 8
    table = writer.append_segment_tables([BlockPointer(first, 4096, run - 1), BlockPointer(first, 4096, 0)])
    signed[1] = signed[1]._replace(segment_table=pack(table), value=struct.pack(">Q", 32 * MIB))
    entries += [*signed, *writer.add_component(Execute(PSW))]
    disk = lab.disk(finish(writer, entries), 4096)
    os.truncate(disk.path, (first + run + 1) * 4096)
    report = lab.boot(disk, mode="audit", memory=512 * MIB)
    assert verdict(report) == HANDS_OVER
    large = report.components[-1]
    assert (large.length, large.flags) == (256 * MIB + 4096, 0x80)
    assert reasons(report) == ["sclab-missing", NOT_VERIFIED]
    assert verdict(lab.boot(disk, memory=512 * MIB)) == ("stops", "sclab-missing")


# many components


def test_overlap_with_the_sixty_fifth_component_is_seen(lab):
    others = [Load(0x100000 + 0x1000 * n, b"x") for n in range(60)]
    parts = {"block_size": 4096, "heap": None, "parameters": None, "initrd": None}
    kernel = lab.kernel(size=4096)
    early = lab.program(kernel=None, extra=[*others, kernel, Load(KERNEL, bytes(4096))], **parts)
    assert verdict(lab.boot(lab.disk(early, 4096))) == ("stops", "address-overlap")
    late = lab.program(kernel=None, extra=[*others, *others[:5], kernel, Load(KERNEL, bytes(4096))], **parts)
    assert verdict(lab.boot(lab.disk(late, 4096))) == ("stops", "address-overlap")
