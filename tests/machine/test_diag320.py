"""DIAGNOSE 320: every response code and interruption, in their order; blocks are read with formats of this file."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DIAGNOSE = 0x320
OK, NO_SUBCODE, BAD_VCSSB_LENGTH, BAD_VCB_LENGTH, BAD_RANGE = [0x0001], [0x0102], [0x0202], [0x0204], [0x0302]
AT = 0x20000  # where the blocks lie
ECHO = bytes(range(1, 256))
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "made")])
NOW = 1780272000  # 2026-06-01T00:00:00Z, the time of the machines here


def made(key=None, padding=0, start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2036, 1, 1, tzinfo=UTC)):
    """DER of a certificate with `padding` bytes of an extension that nobody knows."""
    key = key or SIGNER
    builder = x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME).public_key(key.public_key())
    builder = builder.serial_number(4711).not_valid_before(start).not_valid_after(end)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), bytes(padding))
    return builder.add_extension(unknown, critical=False).sign(SIGNER, None).public_bytes(serialization.Encoding.DER)


SIGNER = Ed25519PrivateKey.generate()  # its signatures are all of one length


def of_size(size):
    """DER of a certificate of exactly `size` bytes."""
    fixed = size - len(made(padding=size - 300)) + size - 300
    return next(der for der in (made(padding=fixed + n) for n in range(-8, 8)) if len(der) == size)


def ceil4(size):
    return (size + 3) // 4 * 4


def vcssb(length=128):
    return struct.pack(">I", length) + ECHO[:124]


def vcb(length, first, last, echo=ECHO):
    """Header of a request; output fields hold `echo` too."""
    return struct.pack(">I4sHH20s32s", length, echo[:4], first, last, echo[4:24], echo[24:56])


def read_vcb(data):
    names = "length echo1 first last echo2 output echo3 stored remaining echo4"
    return SimpleNamespace(**dict(zip(names.split(), struct.unpack(">I4sHH20sI4sHH20s", data), strict=True)))


def read_vce(data):
    """One entry at the start of `data`, as far as it goes."""
    (length,) = struct.unpack_from(">I", data)
    found = SimpleNamespace(length=length, raw=data[:length])
    found.flags, found.key_type, found.index, found.name = struct.unpack_from(">BBH64s", data, 4)
    if length > 72:
        names = "form reserved1 key_id_length reserved2 hash_type hash_length reserved3 certificate_length reserved4"
        values = struct.unpack_from(">BBHBBH4sI8s", data, 72)
        vars(found).update(zip(names.split(), values, strict=True))
        found.hash_offset, found.certificate_offset, found.reserved5 = struct.unpack_from(">HH28s", data, 96)
        found.key_id = found.raw[128:160]
        found.hash = found.raw[found.hash_offset : found.hash_offset + found.hash_length]
        found.der = found.raw[found.certificate_offset : found.certificate_offset + found.certificate_length]
        found.tail = found.raw[found.certificate_offset + found.certificate_length :]
    return found


def read_vces(guest, header, at=AT):
    position, found = 64, []
    while position < header.output:
        found.append(read_vce(guest.get(at + position, header.output - position)))
        position += found[-1].length
    assert position == header.output
    return found


@pytest.fixture
def store(entry):
    """RSA, P-521, expired, RSA-1024, not yet valid, DSA."""
    return [entry(name) for name in ("good", "p521", "expired", "rsa1024", "future", "dsa2048")]


@pytest.fixture
def guest(guest_with, store):
    return guest_with(store)


# What comes before every subcode


@pytest.mark.parametrize("subcode", [0, 1, 2, 3, 0x100])
def test_problem_state_comes_before_everything(guest, codes, subcode):
    guest.cpu.problem_state = True
    assert guest.call(DIAGNOSE, subcode, AT, r1=3) == codes.privileged


@pytest.mark.parametrize("subcode", [0, 1, 2, 3])
def test_an_odd_register_is_a_specification_exception(guest, codes, subcode):
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, subcode, AT, r1=3) == codes.specification
    assert same()


@pytest.mark.parametrize("subcode", [0x100, 0x101, 0xFFFF, 1 << 32, (1 << 63) + 1, (1 << 64) - 1])
def test_a_subcode_above_255_is_a_specification_exception(guest, codes, subcode):
    assert guest.call(DIAGNOSE, subcode, AT) == codes.specification


@pytest.mark.parametrize("subcode", [0, 1, 2, 3])
def test_without_the_facility_it_is_a_specification_exception(guest_with, store, codes, subcode):
    guest = guest_with(store, cpu="qemu,cstore=off")
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, subcode, AT) == codes.specification
    assert same()


def test_the_facility_does_not_depend_on_the_others(guest_with, store):
    assert guest_with(store, cpu="z16,els=on,cstore=on").call(DIAGNOSE, 0, AT) == OK


@pytest.mark.parametrize("subcode", [3, 4, 0x7F, 0xFF])
def test_another_subcode_gives_0102_and_touches_no_memory(guest, subcode):
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, subcode, (1 << 64) - 1) == NO_SUBCODE
    assert same()


@pytest.mark.parametrize("r3", [2, 3, 6, 7, 15])
def test_any_register_can_hold_the_subcode(guest, r3):
    address = 0 if r3 == 2 else AT  # address and subcode share register 2
    assert guest.call(DIAGNOSE, 0, address, r3=r3) == OK
    assert guest.get(address, 4) == bytes.fromhex("e0000000")


def test_the_last_register_pair(guest):
    assert guest.call(DIAGNOSE, 0, AT, r1=14) == OK


# Subcode 0


@pytest.mark.parametrize("address", [AT, AT + 1, AT + 0xFFE, (16 << 20) - 4])
def test_query_stores_four_bytes_wherever_they_fit(guest, address):
    guest.put(AT - 8, b"\xaa" * 0x1100)
    guest.put((16 << 20) - 32, b"\xaa" * 32)
    assert guest.call(DIAGNOSE, 0, address) == OK
    assert guest.get(address - 4, 8) == b"\xaa" * 4 + bytes.fromhex("e0000000")
    behind = guest.get(address + 4, 28)
    assert behind == b"\xaa" * len(behind)


@pytest.mark.parametrize("address", [(16 << 20) - 3, 16 << 20, (1 << 32) + AT, (1 << 64) - 4, (1 << 64) - 1])
def test_query_outside_memory_stores_nothing(guest, codes, address):
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, 0, address) == codes.addressing
    assert same()


def test_query_goes_through_the_prefix(guest):
    guest.cpu.prefix = 0x40000
    assert guest.call(DIAGNOSE, 0, 0x1FFE) == OK
    assert guest.get(0x41FFE, 2) == b"\xe0\0"
    assert guest.get(0x1FFE, 2) == bytes(2)


# Subcode 1


@pytest.mark.parametrize("address", [AT + 4, AT + 1, AT + 7, (16 << 20) - 4, (16 << 20) + 4, (1 << 64) - 1])
def test_t2_storage_size_block_alignment_comes_before_accessibility(guest, codes, address):
    guest.put(AT, vcssb(1) * 2)
    assert guest.call(DIAGNOSE, 1, address) == codes.specification


@pytest.mark.parametrize("address", [(16 << 20) - 120, 16 << 20, (1 << 32) + AT, (1 << 64) - 128])
def test_t2_storage_size_block_accessibility_comes_before_its_length(guest, codes, address):
    guest.put((16 << 20) - 120, struct.pack(">I", 1))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, 1, address) == codes.addressing
    assert same()


@pytest.mark.parametrize("length", [0, 1, 4, 127, 129, 256, 0x80000080, 0xFFFFFFFF])
@pytest.mark.parametrize("certificates", [0, 6])
def test_t2_storage_size_block_must_say_128(guest_with, store, length, certificates):
    guest = guest_with(store[:certificates])
    guest.put(AT, vcssb(length))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, 1, AT) == BAD_VCSSB_LENGTH
    assert same()


def test_storage_sizes_of_an_empty_store_are_the_length_4_alone(guest_with):
    guest = guest_with()
    guest.put(AT, vcssb())
    assert guest.call(DIAGNOSE, 1, AT) == OK
    assert guest.get(AT, 136) == struct.pack(">I", 4) + ECHO[:124] + bytes(8)


@pytest.mark.parametrize("address", [AT, AT + 8, (16 << 20) - 128])
def test_storage_sizes(guest, store, address):
    guest.put(address, vcssb())
    assert guest.call(DIAGNOSE, 1, address) == OK
    data = guest.get(address, 128)
    sizes = [ceil4(len(one.certificate.der)) for one in store]
    names = "length echo1 version echo2 number most echo3 largest total echo4"
    block = dict(zip(names.split(), struct.unpack(">I3sB24sHH44sII40s", data), strict=True))
    assert block == {
        "length": 128,
        "echo1": ECHO[:3],
        "version": 0,
        "echo2": ECHO[4:28],
        "number": 6,
        "most": 64,
        "echo3": ECHO[32:76],
        "largest": 256 + max(sizes),
        "total": 64 + sum(192 + size for size in sizes),
        "echo4": ECHO[84:124],
    }


def test_t1_storage_sizes_of_64_certificates(guest_with, entry):
    guest = guest_with([entry("p521")] * 64)
    guest.put(AT, vcssb())
    assert guest.call(DIAGNOSE, 1, AT) == OK
    size = ceil4(len(entry("p521").certificate.der))
    assert struct.unpack(">HH", guest.get(AT + 32, 4)) == (64, 64)
    assert struct.unpack(">II", guest.get(AT + 80, 8)) == (256 + size, 64 + 64 * (192 + size))


def test_storage_sizes_go_through_the_prefix(guest):
    guest.cpu.prefix = 0x40000
    guest.put(0x41FC0, vcssb()[:64])  # real 0x1FC0
    guest.put(0x2000, vcssb()[64:])  # real 0x2000
    assert guest.call(DIAGNOSE, 1, 0x1FC0) == OK
    assert guest.get(0x41FC0 + 32, 4) == struct.pack(">HH", 6, 64)
    assert guest.get(0x2000 + 16, 4) != vcssb()[80:84]


# Subcode 2: what is refused


@pytest.mark.parametrize("address", [AT + 8, AT + 0x800, AT + 0xFFF, (16 << 20) + 8, (1 << 64) - 8])
def test_t3_certificate_block_alignment_comes_first(guest, codes, address):
    guest.put(AT + 8, vcb(1, 2, 1))
    assert guest.call(DIAGNOSE, 2, address) == codes.specification


@pytest.mark.parametrize("address", [16 << 20, (1 << 32) + AT, (1 << 64) - 4096])
def test_certificate_block_header_must_be_there(guest, codes, address):
    assert guest.call(DIAGNOSE, 2, address) == codes.addressing


@pytest.mark.parametrize("length", [0, 1, 64, 4095, 4097, 8193, 0xFFFFFFFF])
@pytest.mark.parametrize("span", [(1, 1), (2, 1), (0, 0)])
@pytest.mark.parametrize("certificates", [0, 6])
def test_t3_certificate_block_length_comes_before_the_range(guest_with, store, length, span, certificates):
    guest = guest_with(store[:certificates])
    guest.put(AT, vcb(length, *span))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, 2, AT) == BAD_VCB_LENGTH
    assert same()


@pytest.mark.parametrize("span", [(2, 1), (1, 0), (65535, 1), (7, 6)])
@pytest.mark.parametrize("certificates", [0, 6])
def test_a_range_that_ends_before_it_starts(guest_with, store, span, certificates):
    guest = guest_with(store[:certificates])
    guest.put(AT, vcb(4096, *span))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, 2, AT) == BAD_RANGE
    assert same()


# Subcode 2: what is stored


@pytest.mark.parametrize(
    ("certificates", "span"), [(6, (0, 0)), (6, (1, 7)), (6, (7, 7)), (6, (0, 65535)), (6, (65535, 65535)), (0, (1, 1))]
)
def test_t3_header_only_answers_have_counts_zero(guest_with, store, certificates, span):
    guest = guest_with(store[:certificates])
    guest.put(AT, vcb(8192, *span))
    assert guest.call(DIAGNOSE, 2, AT) == OK
    header = read_vcb(guest.get(AT, 64))
    assert (header.output, header.stored, header.remaining) == (64, 0, 0)
    assert (header.length, header.first, header.last) == (8192, *span)
    assert (header.echo1, header.echo2, header.echo3, header.echo4) == (ECHO[:4], ECHO[4:24], ECHO[28:32], ECHO[36:56])
    assert guest.get(AT + 64, 8192) == bytes(8192)


def test_a_valid_entry(guest, store, data):
    for number, name, key_type in ((1, "good", 0), (2, "p521", 1), (4, "rsa1024", 0), (6, "dsa2048", 0)):
        guest.put(AT, vcb(8192, number, number))
        guest.put(AT + 64, b"\xaa" * 8128)
        assert guest.call(DIAGNOSE, 2, AT) == OK
        header = read_vcb(guest.get(AT, 64))
        (found,) = read_vces(guest, header)
        certificate = x509.load_pem_x509_certificate((data / "crypto" / f"{name}.pem").read_bytes())
        der = certificate.public_bytes(serialization.Encoding.DER)
        key = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert (header.stored, header.remaining, header.output) == (1, 0, 64 + 192 + ceil4(len(der)))
        assert (found.length, found.flags, found.key_type, found.index) == (
            192 + ceil4(len(der)),
            0x80,
            key_type,
            number,
        )
        assert found.name == f"{name}.pem".ljust(64).encode("cp037")
        assert (found.form, found.key_id_length, found.hash_type, found.hash_length) == (1, 32, 1, 32)
        assert (found.hash_offset, found.certificate_offset, found.certificate_length) == (160, 192, len(der))
        assert (found.key_id, found.hash) == (hashlib.sha256(key).digest(), hashlib.sha256(der).digest())
        assert (found.der, found.tail) == (der, bytes(-len(der) % 4))
        assert not any((found.reserved1, found.reserved2))
        assert (found.reserved3, found.reserved4, found.reserved5) == (bytes(4), bytes(8), bytes(28))
        assert guest.get(AT + header.output, 16) == b"\xaa" * 16


@pytest.mark.parametrize(("number", "name"), [(3, "expired"), (5, "future")])
def test_t4_an_entry_outside_its_validity_is_72_bytes_with_key_type_0(guest, number, name):
    guest.put(AT, vcb(4096, number, number))
    guest.put(AT + 64, b"\xaa" * 4032)
    assert guest.call(DIAGNOSE, 2, AT) == OK
    header = read_vcb(guest.get(AT, 64))
    assert (header.output, header.stored, header.remaining) == (136, 1, 0)
    (found,) = read_vces(guest, header)
    assert (found.flags, found.key_type, found.index) == (0, 0, number)
    assert found.name == f"{name}.pem".ljust(64).encode("cp037")
    assert guest.get(AT + 136, 3960) == b"\xaa" * 3960


def test_t4_an_expired_p521_certificate_has_key_type_0(guest_with, entry):
    key = ec.generate_private_key(ec.SECP521R1())
    start, end = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)  # ends now
    store = [entry(made(key, start=start, end=end))]
    for now, length, flags, key_type in (
        (NOW, 192 + ceil4(len(store[0].certificate.der)), 0x80, 1),
        (NOW + 1, 72, 0, 0),
        (int(start.timestamp()) - 1, 72, 0, 0),
        (int(start.timestamp()), 192 + ceil4(len(store[0].certificate.der)), 0x80, 1),
    ):
        guest = guest_with(store, now=now)
        guest.put(AT, vcb(4096, 1, 1))
        assert guest.call(DIAGNOSE, 2, AT) == OK
        found = read_vce(guest.get(AT + 64, 4032))
        assert (found.length, found.flags, found.key_type) == (length, flags, key_type)


@pytest.mark.parametrize("curve", [ec.BrainpoolP256R1, ec.SECP256K1])
def test_an_entry_without_a_key_identifier_is_not_valid(guest_with, entry, curve):
    guest = guest_with([entry(made(ec.generate_private_key(curve()))), entry("good")])
    guest.put(AT, vcb(4096, 1, 2))
    assert guest.call(DIAGNOSE, 2, AT) == OK
    header = read_vcb(guest.get(AT, 64))
    entries = read_vces(guest, header)
    assert [(found.length == 72, found.flags, found.index) for found in entries] == [(True, 0, 1), (False, 0x80, 2)]


def test_names_are_cut_at_64_bytes(guest_with, entry):
    guest = guest_with([entry("good", "x" * 70 + ".pem")])
    guest.put(AT, vcb(4096, 1, 1))
    assert guest.call(DIAGNOSE, 2, AT) == OK
    assert read_vce(guest.get(AT + 64, 4032)).name == b"\xa7" * 64


@pytest.mark.parametrize(("size", "fits"), [(3837, True), (3840, True), (3841, False), (3844, False)])
def test_an_entry_that_fills_the_block_exactly_fits(guest_with, entry, size, fits):
    guest = guest_with([entry(of_size(size))])
    guest.put(AT, vcb(4096, 1, 1))
    guest.put(AT + 4096, b"\xaa" * 16)
    assert guest.call(DIAGNOSE, 2, AT) == OK
    header = read_vcb(guest.get(AT, 64))
    assert (header.output, header.stored, header.remaining) == ((4096, 1, 0) if fits else (64, 0, 1))
    assert guest.get(AT + 4096, 16) == b"\xaa" * 16
    if not fits:
        assert guest.get(AT + 64, 4032) == bytes(4032)


def test_a_smaller_certificate_behind_one_that_does_not_fit_is_not_stored(guest_with, entry):
    guest = guest_with([entry("good"), entry(of_size(4000)), entry("p521")])
    guest.put(AT, vcb(4096, 1, 3))
    assert guest.call(DIAGNOSE, 2, AT) == OK
    header = read_vcb(guest.get(AT, 64))
    assert (header.stored, header.remaining) == (1, 2)
    assert [found.index for found in read_vces(guest, header)] == [1]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pages=st.integers(1, 4),
    first=st.integers(0, 14),
    last=st.integers(0, 14),
    expired=st.sets(st.integers(0, 11)),
    sizes=st.lists(st.integers(0, 2), min_size=12, max_size=12),
)
def test_any_request_gives_what_a_model_says(guest_with, prepared, pages, first, last, expired, sizes):
    """Counts, remaining counts and places of the entries, for any range, any room and any mix of certificates."""
    store = [prepared[2 * size + (number in expired)] for number, size in enumerate(sizes)]
    guest = guest_with(store)
    guest.put(AT, vcb(pages * 4096, first, last))
    answer = guest.call(DIAGNOSE, 2, AT)
    if first > last:
        assert answer == BAD_RANGE
        return
    assert answer == OK
    wanted = list(range(max(first, 1), last + 1))
    if last > len(store):
        wanted = []
    used, stored = 64, []
    for number in wanted:
        der = store[number - 1].certificate.der
        length = 72 if (number - 1) in expired else 192 + ceil4(len(der))
        if used + length > pages * 4096:
            break
        used += length
        stored.append((number, length))
    header = read_vcb(guest.get(AT, 64))
    assert (header.output, header.stored, header.remaining) == (used, len(stored), len(wanted) - len(stored))
    assert [(found.index, found.length) for found in read_vces(guest, header)] == stored
    guest.machine.close()


@pytest.fixture(scope="module")
def prepared(entry):
    """Small, middle and large certificates, each valid and expired."""
    past = datetime(2026, 5, 1, tzinfo=UTC)
    return [
        entry(made(padding=size, end=end))
        for size in (1, 1300, 3000)
        for end in (datetime(2036, 1, 1, tzinfo=UTC), past)
    ]


# Subcode 2: access exceptions


def test_an_access_exception_leaves_entries_and_keeps_the_header(guest_with, entry, codes):
    """The block says 8192 bytes, memory ends after 4096: what fits is stored, then the exception, header as it was."""
    guest = guest_with([entry("good"), entry("good"), entry(of_size(3500)), entry("p521")])
    at = (16 << 20) - 4096
    request = vcb(8192, 1, 4)
    guest.put(at, request)
    assert guest.call(DIAGNOSE, 2, at) == codes.addressing
    assert guest.get(at, 64) == request
    length = 192 + ceil4(len(entry("good").certificate.der))
    for number in (1, 2):
        found = read_vce(guest.get(at + 64 + (number - 1) * length, length))
        assert (found.index, found.flags, found.der) == (number, 0x80, entry("good").certificate.der)
    rest = guest.get(at + 64 + 2 * length, 4096 - 64 - 2 * length)
    assert rest == bytes(len(rest)), "no byte of the entry that does not fit"


def test_a_block_that_reaches_past_the_memory_matters_only_when_it_is_written(guest_with, entry):
    guest = guest_with([entry("good")])
    at = (16 << 20) - 4096
    guest.put(at, vcb(0xFFFFF000, 1, 1))
    assert guest.call(DIAGNOSE, 2, at) == OK
    assert read_vcb(guest.get(at, 64)).stored == 1


def test_certificates_go_through_the_prefix(guest_with, entry):
    """Real 0x1000 to 0x2FFF: the first page lies at the prefix, the second does not."""
    guest = guest_with([entry(of_size(3000)), entry(of_size(3001))])
    guest.cpu.prefix = 0x40000
    guest.put(0x41000, vcb(8192, 1, 2))
    assert guest.call(DIAGNOSE, 2, 0x1000) == OK
    assert guest.get(0x1000, 0x1000) == bytes(0x1000)
    block = guest.get(0x41000, 0x1000) + guest.get(0x2000, 0x1000)
    header = read_vcb(block[:64])
    first = read_vce(block[64:])
    second = read_vce(block[64 + first.length :])
    assert (header.stored, len(first.der), len(second.der)) == (2, 3000, 3001)
    assert hashlib.sha256(second.der).digest() == second.hash
