"""DIAGNOSE 508: every response code and interruption, in their order, and the promises of H7 and T18."""

from __future__ import annotations

import hashlib
import struct

import pytest

from sipl.crypto import keys, signing
from sipl.crypto.certificate import Certificate
from sipl.machine.diag508 import diagnose_508
from sipl.machine.interruption import ProgramInterruption
from sipl.machine.machine import MAX_VERIFICATIONS_KEPT
from sipl.machine.memory import GuestMemory

DIAGNOSE, QUERY, VERIFY = 0x508, 0, 0x8000
OK, NO_CERTIFICATES, BAD_COMPONENT, BAD_SIGNATURE = [0x0001], [0x0102], [0x0202], [0x0302]
NOT_VERIFIED, BAD_LENGTH = [0x0402], [0x0502]
BLOCK, COMPONENT, SIGNATURE, LARGE = 0x20000, 0x30000, 0x40000, 0x100000
MEMORY = 16 << 20
MIB_256 = 256 << 20
ECHO = bytes(range(0x80, 0x80 + 28))


@pytest.fixture(scope="module")
def signed(data):
    """Component, and its signature by the key of good.pem."""
    return (data / "crypto" / "component.bin").read_bytes(), (data / "crypto" / "plain.p7s").read_bytes()


@pytest.fixture
def request_block(svb, signed):
    """The block for a correct verification, with parts replaced."""

    def make(component=None, signature=None, length=64):
        of_component, of_signature = (COMPONENT, len(signed[0])), (SIGNATURE, len(signed[1]))
        return svb(component or of_component, signature or of_signature, length, ECHO)

    return make


@pytest.fixture
def loaded(guest_with, signed):
    """Makes a guest with component and signature in memory."""

    def make(store=(), **options):
        guest = guest_with(store, **options)
        guest.put(COMPONENT, signed[0])
        guest.put(SIGNATURE, signed[1])
        return guest

    return make


def result(guest, address=BLOCK):
    """Index and certificate length of the block."""
    data = guest.get(address, 64)
    return data[16], struct.unpack_from(">Q", data, 24)[0]


# What comes before the verification


@pytest.mark.parametrize("subcode", [0, 1, 0x8000, 0x10000])
def test_problem_state_comes_before_everything(guest_with, codes, subcode):
    guest = guest_with()
    guest.cpu.problem_state = True
    assert guest.call(DIAGNOSE, subcode, BLOCK, r1=3) == codes.privileged


@pytest.mark.parametrize("subcode", [0, 1, 0x8000])
def test_an_odd_register_is_a_specification_exception(guest_with, codes, subcode):
    assert guest_with().call(DIAGNOSE, subcode, BLOCK, r1=5) == codes.specification


@pytest.mark.parametrize(
    "subcode", [1, 2, 3, 0x4000, 0x7FFF, 0x8001, 0xFFFF, 0x10000, 0x18000, 1 << 32, (1 << 63) + 0x8000, (1 << 64) - 1]
)
def test_other_subcodes_are_a_specification_exception(loaded, entry, request_block, codes, subcode):
    guest = loaded([entry("good")])
    guest.put(BLOCK, request_block())
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, subcode, BLOCK) == codes.specification
    assert same()


@pytest.mark.parametrize("address", [0, 3, BLOCK, MEMORY, (1 << 64) - 1])
def test_the_query_ignores_the_address(guest_with, address):
    guest = guest_with()
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, QUERY, address) == [0x8000]
    assert same()


@pytest.mark.parametrize("subcode", [QUERY, VERIFY, 1])
@pytest.mark.parametrize("cpu", ["qemu,sipl=off", "z16", "z15"])
def test_t18_without_the_facility_it_is_a_specification_exception(loaded, entry, request_block, codes, cpu, subcode):
    guest = loaded([entry("good")], cpu=cpu)
    guest.put(BLOCK, request_block())
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, subcode, BLOCK) == codes.specification
    assert same()


def test_t18_the_certificate_store_facility_does_not_matter(loaded, entry, request_block):
    guest = loaded([entry("good")], cpu="qemu,cstore=off")
    guest.put(BLOCK, request_block())
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == OK


# The order of the checks


@pytest.mark.parametrize("address", [MEMORY - 63, MEMORY, (1 << 32) + BLOCK, (1 << 64) - 64, (1 << 64) - 1])
@pytest.mark.parametrize("certificates", [0, 1])
def test_the_block_must_be_there_even_for_an_empty_store(loaded, entry, codes, address, certificates):
    guest = loaded([entry("good")] * certificates)
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, VERIFY, address) == codes.addressing
    assert same()


@pytest.mark.parametrize("length", [0, 63, 64])
def test_an_empty_store_comes_before_the_block_is_read(loaded, request_block, length):
    guest = loaded()
    guest.put(BLOCK, request_block(length=length))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == NO_CERTIFICATES
    assert same()


BAD = {
    "component length 0": ((COMPONENT, 0), None, BAD_COMPONENT),
    "component address 0": ((0, 100), None, BAD_COMPONENT),
    "component over 256 MiB": ((COMPONENT, MIB_256 + 1), None, BAD_COMPONENT),
    "component length 64 bits": ((COMPONENT, (1 << 64) - 1), None, BAD_COMPONENT),
    "component before signature": ((COMPONENT, 0), (SIGNATURE, 0), BAD_COMPONENT),
    "signature length 0": (None, (SIGNATURE, 0), BAD_SIGNATURE),
    "signature address 0": (None, (0, 411), BAD_SIGNATURE),
    "signature over 4096": (None, (SIGNATURE, 4097), BAD_SIGNATURE),
    "signature length 64 bits": (None, (SIGNATURE, (1 << 64) - 1), BAD_SIGNATURE),
    "H7: signature length before component in memory": ((MEMORY, 100), (SIGNATURE, 0), BAD_SIGNATURE),
    "H7: component length before signature in memory": ((COMPONENT, 0), (MEMORY, 100), BAD_COMPONENT),
}


@pytest.mark.parametrize("name", BAD)
def test_lengths_and_addresses_in_their_order(loaded, entry, request_block, name):
    component, signature, response = BAD[name]
    guest = loaded([entry("good")])
    guest.put(BLOCK, request_block(component, signature))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == response
    assert same()


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128, 0x40000000, 0xFFFFFFFF])
def test_the_block_length_comes_before_what_is_in_it(loaded, entry, request_block, length):
    guest = loaded([entry("good")])
    guest.put(BLOCK, request_block((0, 0), (0, 0), length))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == BAD_LENGTH
    assert same()


@pytest.mark.parametrize(
    ("component", "signature"),
    [
        ((MEMORY, 1), None),
        ((MEMORY - 99, 100), None),
        ((COMPONENT, MIB_256), None),  # 256 MiB are possible, this machine has 16
        (((1 << 64) - 50, 100), None),
        ((1 << 63, 100), None),
        (None, (MEMORY, 411)),
        (None, (MEMORY - 410, 411)),
        (None, ((1 << 64) - 1, 411)),
    ],
)
def test_h7_component_and_signature_must_lie_in_memory(loaded, entry, request_block, codes, component, signature):
    guest = loaded([entry("good")])
    guest.put(BLOCK, request_block(component, signature))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == codes.addressing
    assert same()
    assert not guest.machine.verifications


class RecordingMemory(GuestMemory):
    """Notes what is looked for."""

    def __init__(self, size):
        super().__init__(size)
        self.checked = []

    def check(self, address, length):
        self.checked.append((address, length))
        super().check(address, length)


@pytest.mark.parametrize(
    ("component", "signature", "checked"),
    [
        ((MEMORY, 100), (MEMORY + 4096, 200), [(BLOCK, 64), (MEMORY, 100)]),
        ((COMPONENT, 100), (MEMORY + 4096, 200), [(BLOCK, 64), (COMPONENT, 100), (MEMORY + 4096, 200)]),
    ],
)
def test_h7_the_component_is_looked_for_before_the_signature(
    guest_with, entry, request_block, codes, component, signature, checked
):
    guest = guest_with([entry("good")])
    memory = RecordingMemory(MEMORY)
    guest.cpu.memory = memory
    memory.view[BLOCK : BLOCK + 64] = request_block(component, signature)
    with pytest.raises(ProgramInterruption) as caught:
        guest.cpu.registers[2], guest.cpu.registers[6] = BLOCK, VERIFY
        diagnose_508(guest.cpu, guest.machine.certificates, True, guest.machine.clock(), 2, 6)
    assert caught.value.code == codes.addressing
    assert list(dict.fromkeys(memory.checked)) == checked
    memory.close()


# The verification


@pytest.mark.parametrize("block", [BLOCK, BLOCK + 1, BLOCK + 5, MEMORY - 64])
def test_a_success_writes_index_and_certificate_length_and_nothing_else(loaded, entry, request_block, block):
    guest = loaded([entry("p521"), entry("good")])
    request = request_block()
    guest.put(block, request)
    expected = bytearray(guest.memory.view)
    expected[block + 16] = 1
    expected[block + 24 : block + 32] = len(entry("good").certificate.der).to_bytes(8, "big")
    assert guest.call(DIAGNOSE, VERIFY, block) == OK
    assert bytes(guest.memory.view) == bytes(expected)


def test_component_and_signature_may_lie_at_the_end_of_memory(loaded, entry, request_block, signed):
    component, signature = signed
    guest = loaded([entry("good")])
    for part in ("component", "signature"):
        data = component if part == "component" else signature
        at = MEMORY - len(data)
        guest.put(at, data)
        guest.put(BLOCK, request_block(**{part: (at, len(data))}))
        assert guest.call(DIAGNOSE, VERIFY, BLOCK) == OK


def test_the_lowest_certificate_with_the_right_key_wins(loaded, entry, request_block):
    guest = loaded([entry("p521"), entry("expired"), entry("good", "a.pem"), entry("good", "b.pem")])
    guest.put(BLOCK, request_block())
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == OK
    assert result(guest) == (2, len(entry("good").certificate.der))


def test_it_wins_although_the_signature_names_another_one(loaded, entry, request_block):
    """The signature names good.pem; usage-signature.pem has the same key. Who is named does not matter."""
    guest = loaded([entry("p521"), entry("usage-signature"), entry("good")])
    guest.put(BLOCK, request_block())
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == OK
    assert result(guest) == (1, len(entry("usage-signature").certificate.der))


def test_the_last_of_64_certificates(loaded, entry, request_block):
    guest = loaded([entry("p521")] * 63 + [entry("good")])
    guest.put(BLOCK, request_block())
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == OK
    assert result(guest) == (63, len(entry("good").certificate.der))


def test_prefixing_is_not_applied(loaded, entry, signed, svb):
    component, signature = signed
    guest = loaded([entry("good")])
    guest.cpu.prefix = 0x100000
    guest.put(0x200, component)
    guest.put(0x1000, signature)
    guest.put(0x1F00, svb((0x200, len(component)), (0x1000, len(signature))))
    assert guest.call(DIAGNOSE, VERIFY, 0x1F00) == OK
    assert result(guest, 0x1F00) == (0, len(entry("good").certificate.der))
    assert guest.get(0x100000, 0x2000) == bytes(0x2000)


WHY_NOT = {
    "another key": (["p521"], "certificate has an EC key"),
    "expired": (["p521", "expired"], "expired at 2026-05-31T23:59:59Z"),
    "not yet valid": (["future", "p521"], "not valid before 2026-06-02T00:00:00Z"),
    "key usage": (["usage-certsign"], "the key usage does not contain digitalSignature"),
    "key usage tells most": (["expired", "future", "usage-certsign"], "the key usage"),
}


@pytest.mark.parametrize("case", WHY_NOT)
def test_certificates_that_may_not_verify(loaded, entry, request_block, case):
    names, why = WHY_NOT[case]
    guest = loaded([entry(name) for name in names])
    guest.put(BLOCK, request_block())
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == NOT_VERIFIED
    assert same()
    (verification,) = guest.machine.verifications
    assert (verification.response, verification.store_index) == (0x0402, None)
    assert why.split()[0] in verification.why
    if case != "another key":
        assert why in verification.why


@pytest.mark.parametrize(
    "change", ["component", "length", "signature", "truncated", "trailing byte", "noise", "4096 zeros"]
)
def test_other_bytes_do_not_verify(loaded, entry, request_block, signed, change):
    component, signature = signed
    guest = loaded([entry("good")])
    lengths = {"length": (COMPONENT, len(component) - 1)}
    signatures = {
        "truncated": (SIGNATURE, len(signature) - 1),
        "trailing byte": (SIGNATURE, len(signature) + 1),
        "4096 zeros": (SIGNATURE + 0x10000, 4096),
    }
    if change == "component":
        guest.put(COMPONENT + 7, bytes([component[7] ^ 1]))
    if change == "signature":
        guest.put(SIGNATURE + len(signature) - 1, bytes([signature[-1] ^ 1]))
    if change == "noise":
        guest.put(SIGNATURE, hashlib.shake_256(b"noise").digest(len(signature)))
    guest.put(BLOCK, request_block(lengths.get(change), signatures.get(change)))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == NOT_VERIFIED
    assert same()
    assert guest.machine.verifications[0].why


def test_validity_includes_its_first_and_last_second(loaded, entry, request_block):
    certificate = entry("good").certificate
    edges = {
        certificate.not_before - 1: NOT_VERIFIED,
        certificate.not_before: OK,
        certificate.not_after: OK,
        certificate.not_after + 1: NOT_VERIFIED,
    }
    for now, response in edges.items():
        guest = loaded([entry("good")], now=now)
        guest.put(BLOCK, request_block())
        assert guest.call(DIAGNOSE, VERIFY, BLOCK) == response


# What the host keeps


def test_the_host_knows_what_was_verified(loaded, entry, request_block, signed):
    guest = loaded([entry("p521"), entry("good")])
    assert guest.call(DIAGNOSE, QUERY) == [0x8000]
    guest.put(BLOCK, request_block())
    guest.call(DIAGNOSE, VERIFY, BLOCK)
    (verification,) = guest.machine.verifications
    assert (verification.address, verification.length) == (COMPONENT, len(signed[0]))
    assert (verification.response, verification.store_index, verification.why) == (1, 1, "")
    assert verification.digests == {"sha256": hashlib.sha256(signed[0]).digest()}
    assert verification.weaknesses == ()


def test_the_host_keeps_only_the_last_verifications(loaded, request_block):
    guest = loaded()
    for _ in range(MAX_VERIFICATIONS_KEPT + 3):
        assert guest.call(DIAGNOSE, VERIFY, BLOCK) == NO_CERTIFICATES
    assert len(guest.machine.verifications) == MAX_VERIFICATIONS_KEPT


def test_a_verification_keeps_no_hold_on_guest_memory(loaded, entry, request_block):
    guest = loaded([entry("p521")])
    guest.put(BLOCK, request_block())
    guest.call(DIAGNOSE, VERIFY, BLOCK)
    guest.machine.close()
    with pytest.raises(ValueError, match="closed"):
        guest.memory._map[0]


@pytest.fixture(scope="module")
def many(entry):
    """64 certificates with as many keys; the last one's key signs."""
    store = []
    for number in range(64):
        key = signing.generate_key("p256")
        pem = signing.self_signed(key, f"number {number}", 1767225600, 2082758400)
        store.append(entry(Certificate.from_pem(pem).der, f"{number}.pem"))
    return store, key


@pytest.mark.parametrize("digest", ["sha256", "sha512"])
@pytest.mark.parametrize("certificates", [1, 64])
@pytest.mark.parametrize("good", [True, False])
def test_h7_each_digest_of_a_component_is_computed_once(guest_with, svb, many, monkeypatch, digest, certificates, good):
    store, key = many
    component = hashlib.shake_256(b"component").digest(100_000)
    # The signer is not in the store under this name, so that each key is tried.
    signer = Certificate.from_pem(signing.self_signed(key, "not in the store", 1767225600, 2082758400))
    signature = signing.sign_detached(component, key, signer, digest)
    guest = guest_with(store[64 - certificates :])
    guest.put(LARGE, component)
    guest.put(SIGNATURE, signature)
    if not good:
        guest.put(LARGE, bytes([component[0] ^ 1]))
    hashed = []
    real_new = hashlib.new

    def new(name, data=b"", **keywords):
        hashed.append((name, len(data)))
        return real_new(name, data, **keywords)

    def by_name(name):
        return lambda data=b"", **keywords: new(name, data, **keywords)

    monkeypatch.setattr(hashlib, "new", new)
    for name in ("sha256", "sha512"):
        monkeypatch.setattr(hashlib, name, by_name(name))
    guest.put(BLOCK, svb((LARGE, len(component)), (SIGNATURE, len(signature))))
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == (OK if good else NOT_VERIFIED)
    assert [call for call in hashed if call[1] == len(component)] == [(digest, len(component))]
    assert list(guest.machine.verifications[0].digests) == [digest]


@pytest.mark.parametrize("named", [True, False])
def test_h7_no_key_ever_sees_the_component(guest_with, svb, many, monkeypatch, named):
    """Verification by key gets the digest: nothing below it can hash the component again."""
    store, key = many
    component = bytes(100_000)
    signer = store[-1].certificate
    if not named:
        signer = Certificate.from_pem(signing.self_signed(key, "not in the store", 1767225600, 2082758400))
    signature = signing.sign_detached(component, key, signer)
    seen = []
    real = keys.EcKey.verify

    def watched(self, name, digest, value):
        seen.append(digest)
        return real(self, name, digest, value)

    monkeypatch.setattr(keys.EcKey, "verify", watched)
    guest = guest_with(store)
    guest.put(LARGE, component)
    guest.put(SIGNATURE, signature)
    guest.put(BLOCK, svb((LARGE, len(component)), (SIGNATURE, len(signature))))
    assert guest.call(DIAGNOSE, VERIFY, BLOCK) == OK
    assert result(guest)[0] == 63
    assert len(seen) == (1 if named else 64)
    assert set(seen) == {hashlib.sha256(component).digest()}
