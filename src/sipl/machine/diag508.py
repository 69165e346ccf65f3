"""DIAGNOSE 508, signature verification (docs/formats/diag508.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.layout.diag508 import (
    MAX_COMPONENT_LENGTH,
    MAX_SIGNATURE_LENGTH,
    MAX_SUBCODE,
    SVB_SIZE,
    ResponseCode,
    Subcode,
    Svb,
)
from sipl.layout.record import pack, unpack
from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from sipl.machine.cert_store import CertStore
    from sipl.machine.cpu import Cpu

FUNCTION_CODE: Final = 0x508


class Verification:
    """What the host knows of one verification: the guest sees the response code, people want to know why.

    `digests` maps names of hash functions to digests of the component, as far as they were needed.
    """

    __slots__ = ("address", "digests", "length", "response", "store_index", "weaknesses", "why")

    def __init__(self, address: int, length: int) -> None:
        self.address = address
        self.length = length
        self.response = ResponseCode.NOT_VERIFIED
        self.store_index: int | None = None
        self.why = ""
        self.weaknesses: tuple[str, ...] = ()
        self.digests: dict[str, bytes] = {}


def diagnose_508(cpu: Cpu, store: CertStore, offered: bool, now: int, r1: int, r3: int) -> Verification | None:
    """Carry out DIAGNOSE 508: address in GR `r1`, subcode in GR `r3`, result to GR `r1` + 1.

    `offered` says whether the guest has the secure-IPL facility: without it the function does not exist. Returns the
    host's view of a verification, None for the query and for a verification of an empty store.

    Raises:
        ProgramInterruption: privileged, specification (a subcode that is neither, too), addressing where the block, the
            component or the signature does not lie in memory.
    """
    cpu.require_supervisor()
    subcode = cpu.registers[r3]
    result = cpu.result_register(r1)
    if not offered or subcode > MAX_SUBCODE:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    if subcode == Subcode.QUERY:
        cpu.registers[result] = int(Subcode.VERIFY)
        return None
    if subcode != Subcode.VERIFY:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    verification = _verify(cpu, store, now, cpu.registers[r1])
    cpu.registers[result] = int(verification.response)
    return verification


def _verify(cpu: Cpu, store: CertStore, now: int, address: int) -> Verification:
    cpu.memory.check(address, SVB_SIZE)
    if not store.count:
        return _refused(Verification(0, 0), ResponseCode.NO_CERTIFICATES, "the certificate store is empty")
    block = unpack(Svb, cpu.memory.read(address, SVB_SIZE))
    verification = Verification(block.component_address, block.component_length)
    if block.length != SVB_SIZE:
        return _refused(verification, ResponseCode.BLOCK_LENGTH, f"the block says {block.length} bytes, not {SVB_SIZE}")
    if not block.component_length or not block.component_address or block.component_length > MAX_COMPONENT_LENGTH:
        why = f"a component of {block.component_length} bytes cannot be verified (1 to {MAX_COMPONENT_LENGTH})"
        return _refused(verification, ResponseCode.COMPONENT_INVALID, why)
    if not block.signature_length or not block.signature_address or block.signature_length > MAX_SIGNATURE_LENGTH:
        why = f"a signature of {block.signature_length} bytes cannot be verified (1 to {MAX_SIGNATURE_LENGTH})"
        return _refused(verification, ResponseCode.SIGNATURE_INVALID, why)
    with cpu.memory.span(block.component_address, block.component_length) as component:
        signature = cpu.memory.read(block.signature_address, block.signature_length)
        _try_certificates(verification, store, now, component, signature)
    if verification.store_index is not None:
        der_length = len(store.entries[verification.store_index].certificate.der)
        block = block._replace(certificate_index=verification.store_index, certificate_length=der_length)
        cpu.memory.write(address, pack(block))
    return verification


def _refused(verification: Verification, response: ResponseCode, why: str) -> Verification:
    verification.response = response
    verification.why = why
    return verification


def _try_certificates(
    verification: Verification, store: CertStore, now: int, component: memoryview, signature: bytes
) -> None:
    """Take the first certificate, in store order, with which the signature verifies; else say why none does."""
    from sipl.crypto.verify import SignatureCheck, SignatureRejected, find_signer

    certificates = [entry.certificate for entry in store.entries]
    try:
        check = SignatureCheck(component, signature)
        verification.digests = check.digests
        index = find_signer(check, certificates, now)
    except SignatureRejected as error:
        verification.why = error.why
        return
    verification.response = ResponseCode.OK
    verification.store_index = index
    verification.weaknesses = tuple(check.weaknesses(certificates[index]))
