"""H6 to H8: a kernel without a disk, the cost and the reach of a verification, and a report that Linux reads."""

from __future__ import annotations

import hashlib
import shutil
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from ipl_lab import HANDS_OVER, KERNEL, LOADER, MIB, PSW, Bare, Load, kernel_bytes, loader_bytes, reasons, verdict

from sipl.author.boot_record import Execute
from sipl.crypto import verify as crypto_verify

# H6


@pytest.fixture
def kernel_file(lab):
    image = bytearray(0x11000)
    image[4:8] = struct.pack(">I", 0x80000000 | KERNEL)
    image[0x10008:0x1000E] = b"S390EP"
    return lab.file(bytes(image))


@pytest.mark.parametrize("certs", [["A"], []])
def test_h06_direct_kernel_is_refused_in_secure_mode(lab, kernel_file, certs):
    report = lab.boot(kernel=kernel_file, certs=certs)
    assert verdict(report) == ("refused-to-start", "direct-kernel-not-verified")
    assert report.would_boot is False
    assert report.psw is None


def test_h06_direct_kernel_is_warned_about_in_audit_mode(lab, kernel_file):
    report = lab.boot(kernel=kernel_file, mode="audit")
    assert verdict(report) == HANDS_OVER
    assert reasons(report) == ["direct-kernel-not-verified"]
    assert reasons(report, "warning") == ["direct-kernel-not-verified"]


def test_h06_direct_kernel_is_nobodys_business_in_normal_mode(lab, kernel_file):
    report = lab.boot(kernel=kernel_file, mode="normal")
    assert verdict(report) == HANDS_OVER
    assert reasons(report) == []


def test_h06_a_good_disk_beside_it_does_not_help(lab, kernel_file):
    report = lab.boot(lab.program(), kernel=kernel_file)
    assert verdict(report) == ("refused-to-start", "direct-kernel-not-verified")


def test_h06_refused_before_the_file_is_opened(lab):
    report = lab.boot(kernel=str(lab.folder / "there-is-none"))
    assert verdict(report) == ("refused-to-start", "direct-kernel-not-verified")


# H7


@pytest.fixture
def hashed(monkeypatch):
    """Lengths of what verification computes digests of."""
    lengths = []

    class Counting:
        def __getattr__(self, name):
            return getattr(hashlib, name)

        def new(self, name, data=b"", **options):
            lengths.append(len(data))
            return hashlib.new(name, data, **options)

    monkeypatch.setattr(crypto_verify, "hashlib", Counting())
    return lengths


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("match", [True, False])
def test_h07_each_digest_is_computed_once(lab, tmp_path, hashed, count, match):
    """The signer's certificate is the last of the store, or is not there at all."""
    store = tmp_path / "store"
    store.mkdir()
    for number in range(count):
        shutil.copy(lab.signers["C" if number % 2 else "B"].path, store / f"{number:02}.pem")
    if match:
        shutil.copy(lab.signers["A"].path, store / f"{count - 1:02}.pem")
    report = lab.boot(lab.program(), mode="audit", certs=[str(store)])
    assert [c.verified for c in report.components if c.signed] == [match, match]
    assert hashed == [1024, 2048]


def test_h07_once_also_where_signed_attributes_belong_to_other_bytes(lab, tmp_path, hashed):
    """Every certificate is refused by the digest of the component, which must not be computed for each."""
    signer = lab.signers["A"]
    certificate = x509.load_der_x509_certificate(signer.certificate.der)
    other = pkcs7.PKCS7SignatureBuilder().set_data(b"other bytes")
    made = other.add_signer(certificate, signer.key, hashes.SHA256())
    signature = made.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.DetachedSignature])
    store = tmp_path / "store"
    store.mkdir()
    for number in range(64):
        shutil.copy(signer.path, store / f"{number:02}.pem")
    kernel = Load(KERNEL, kernel_bytes(), signature)
    report = lab.boot(lab.program(loader=None, kernel=kernel), mode="audit", certs=[str(store)])
    assert "signature-not-verified" in reasons(report)
    assert hashed.count(2048) == 1


def svb(component_length, component, signature_length, signature):
    return struct.pack(">I28xQQQQ", 64, component_length, component, signature_length, signature)


END = 16 * MIB


@pytest.mark.parametrize(
    ("component", "signature", "expected"),
    [
        ((512, 0x20000), (100, 0x30000), ""),
        ((512, END - 512), (100, END - 100), ""),
        ((512, END - 511), (100, 0x30000), "addressing"),
        ((512, 0x20000), (100, END - 99), "addressing"),
        ((256 * MIB, 0x20000), (100, 0x30000), "addressing"),
        ((512, (1 << 64) - 256), (100, 0x30000), "addressing"),
        ((512, 0x20000), (100, (1 << 64) - 50), "addressing"),
    ],
)
def test_h07_component_and_signature_lie_in_memory(signers, component, signature, expected):
    bare = Bare([signers["A"].path])
    bare.write(0x10000, svb(*component, *signature))
    assert bare.interruption(0x508, 0x10000, 0x8000) == expected


def test_h07_needs_the_facility(signers):
    assert Bare([signers["A"].path], cpu="z16").interruption(0x508, 0x10000, 0x8000) == "specification"
    assert Bare([signers["A"].path], protected=True).interruption(0x508, 0x10000, 0x8000) == "specification"


# H8


def linux_reads(memory):
    """What Linux's early boot code makes of the report: ([component], [certificate]), None if it ignores the report.

    `memory` maps (address, length) to bytes. The pointer to the block lies at absolute 0x14, the report directly
    behind the block, on the next doubleword. Blocks are looked at while more than a block header is left.
    """
    iplb = int.from_bytes(memory(0x14, 4), "big")
    length, flags, version = struct.unpack(">IB2xb", memory(iplb, 8))
    if version > 0 or not flags & 0x20:
        return None
    report = (iplb + length + 7) & ~7
    end = report + int.from_bytes(memory(report, 4), "big")
    found = {}
    block = report + 16
    while block + 16 < end:
        size, kind = struct.unpack(">IB", memory(block, 5))
        if not size:
            raise AssertionError("Linux would loop for ever")
        if block + size > end:
            break
        width, form = {1: (16, ">QQ"), 2: (32, ">QQB5xHI4x")}[kind]
        found[kind] = [struct.unpack(form, memory(at, width)) for at in range(block + 16, block + size, width)]
        block += size
    if found.keys() != {1, 2}:
        return None
    return found[2], [memory(*entry) for entry in found[1]]


def boot_and_read(lab, program, **options):
    """(report, what Linux reads, the report's bytes)."""
    seen = []

    def look(machine, state):
        seen.append(linux_reads(machine.load))
        seen.append(machine.load(state.report_address, state.report_length))

    report = lab.boot(program, look=look, **options)
    return report, *seen


def test_h08_linux_reads_a_report_without_certificate(lab):
    program = lab.program(loader=Load(LOADER, loader_bytes()), kernel=Load(KERNEL, kernel_bytes()))
    report, linux, data = boot_and_read(lab, program, mode="audit")
    assert verdict(report) == HANDS_OVER
    assert linux is not None
    components, certificates = linux
    assert [entry[:3] for entry in components] == [(c.address, c.length, 0) for c in report.components]
    assert certificates == []
    # The empty certificate block, and 8 zero bytes which the length counts.
    assert data[-24:] == struct.pack(">IB11x8x", 16, 1)
    assert int.from_bytes(data[:4], "big") == len(data)
    assert len(data) % 8 == 0


def test_h08_without_the_padding_linux_ignores_the_report(lab):
    """This is what the reference writes; it shows that the reader above tells the difference."""
    program = lab.program(loader=None, kernel=None)
    seen = []

    def look(machine, state):
        machine.store(state.report_address, struct.pack(">I", state.report_length - 8))
        seen.append(linux_reads(machine.load))

    lab.boot(program, mode="audit", look=look)
    assert seen == [None]


def test_h08_no_component_at_all(lab):
    """EXEC alone: a component block without entry is not the last one and needs no padding of its own."""
    report, linux, data = boot_and_read(lab, [Execute(PSW)], mode="audit")
    assert verdict(report) == HANDS_OVER
    assert linux == ([], [])
    assert len(data) == 16 + 16 + 16 + 8


@pytest.mark.parametrize("mode", ["audit", "secure"])
def test_h08_with_certificates_there_is_no_padding(lab, mode):
    program = lab.program(kernel=lab.kernel(by="B"))
    report, (components, certificates), data = boot_and_read(lab, program, mode=mode, certs=["B", "C", "A"])
    assert verdict(report) == HANDS_OVER
    assert certificates == [lab.signers["A"].certificate.der, lab.signers["B"].certificate.der]
    assert [(entry[0], entry[2], entry[3]) for entry in components if entry[2]] == [
        (LOADER, 0xC0, 0),
        (KERNEL, 0xC0, 1),
    ]
    assert len(data) == 16 + 16 + 32 * 6 + 16 + 16 * 2
