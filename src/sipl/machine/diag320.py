"""DIAGNOSE 320, the certificate store (docs/formats/diag320.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.errors import SiplError
from sipl.layout.diag320 import (
    FORMAT_X509_DER,
    HASH_SIZE,
    HASH_TYPE_SHA256,
    INSTALLED_SUBCODES_SIZE,
    MAX_CERTIFICATES,
    MAX_SUBCODE,
    VCB_ALIGNMENT,
    VCB_HEADER_SIZE,
    VCE_HEADER_SIZE,
    VCE_INVALID_LENGTH,
    VCE_VALID,
    VCSSB_ALIGNMENT,
    VCSSB_NO_CERTIFICATES,
    VCSSB_SIZE,
    InstalledSubcodes,
    ResponseCode,
    Subcode,
    VcbHeader,
    VceHeader,
    Vcssb,
)
from sipl.layout.record import pack, unpack
from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from sipl.machine.cert_store import CertStore, StoreEntry
    from sipl.machine.cpu import Cpu

FUNCTION_CODE: Final = 0x320
_INSTALLED: Final = InstalledSubcodes.ISM_QUERY | InstalledSubcodes.VCSI | InstalledSubcodes.STORE


def diagnose_320(cpu: Cpu, store: CertStore, offered: bool, now: int, r1: int, r3: int) -> None:
    """Carry out DIAGNOSE 320: address in GR `r1`, subcode in GR `r3`, response code to GR `r1` + 1.

    `offered` says whether the guest has the certificate-store facility, `now` is the time that the validity of
    certificates is checked at (seconds since 1970, UTC).

    Raises:
        ProgramInterruption: privileged, specification, or an access exception of the operand.
    """
    cpu.require_supervisor()
    subcode = cpu.registers[r3]
    result = cpu.result_register(r1)
    if not offered or subcode > MAX_SUBCODE:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    address = cpu.registers[r1]
    match subcode:
        case Subcode.QUERY_SUBCODES:
            cpu.logical_write(address, int(_INSTALLED).to_bytes(INSTALLED_SUBCODES_SIZE, "big"))
            response = ResponseCode.OK
        case Subcode.QUERY_STORAGE:
            response = _query_storage(cpu, store, address)
        case Subcode.STORE_CERTIFICATES:
            response = _store_certificates(cpu, store, now, address)
        case _:
            response = ResponseCode.SUBCODE_NOT_SUPPORTED
    cpu.registers[result] = int(response)


def _query_storage(cpu: Cpu, store: CertStore, address: int) -> ResponseCode:
    if address % VCSSB_ALIGNMENT:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    block = unpack(Vcssb, cpu.logical_read(address, VCSSB_SIZE))
    if block.length != VCSSB_SIZE:
        return ResponseCode.BAD_VCSSB_LENGTH
    if not store.count:
        cpu.logical_write(address, VCSSB_NO_CERTIFICATES.to_bytes(4, "big"))
        return ResponseCode.OK
    block = block._replace(
        version=0,
        total_certificates=store.count,
        max_certificates=MAX_CERTIFICATES,
        max_single_vcb_length=store.max_single_vcb_len,
        total_vcb_length=store.total_vcb_len,
    )
    cpu.logical_write(address, pack(block))
    return ResponseCode.OK


def _store_certificates(cpu: Cpu, store: CertStore, now: int, address: int) -> ResponseCode:
    if address % VCB_ALIGNMENT:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    header = unpack(VcbHeader, cpu.logical_read(address, VCB_HEADER_SIZE))
    if not header.input_length or header.input_length % VCB_ALIGNMENT:
        return ResponseCode.BAD_VCB_LENGTH
    if header.first_index > header.last_index:
        return ResponseCode.BAD_RANGE
    stored = remaining = 0
    output_length = VCB_HEADER_SIZE
    for index in _positions(header, store.count):
        entry = _certificate_entry(store.entries[index], index, now)
        if header.input_length - output_length < len(entry):
            remaining = header.last_index - index
            break
        cpu.logical_write(address + output_length, entry)
        output_length += len(entry)
        stored += 1
    header = header._replace(output_length=output_length, stored=stored, remaining=remaining)
    cpu.logical_write(address, pack(header))
    return ResponseCode.OK


def _positions(header: VcbHeader, count: int) -> range:
    """Store positions that a request names; one that reaches outside the store names none."""
    if not header.last_index:
        return range(0)
    first = max(header.first_index, 1)
    return range(first - 1, header.last_index) if header.last_index <= count else range(0)


def _certificate_entry(entry: StoreEntry, index: int, now: int) -> bytes:
    """The VCE of a certificate; one that is not valid now ends with its name and has key type 0."""
    certificate = entry.certificate
    try:
        certificate.check_time(now)
        key_type = certificate.key_type()
        key_id = certificate.key_id()
    except SiplError:
        invalid = VceHeader(VCE_INVALID_LENGTH, 0, 0, index + 1, entry.name, 0, 0, 0, 0, 0, 0, 0)
        return pack(invalid)[:VCE_INVALID_LENGTH]
    der = certificate.der
    hash_offset = VCE_HEADER_SIZE + HASH_SIZE
    certificate_offset = hash_offset + HASH_SIZE
    header = VceHeader(
        length=entry.vce_length,
        flags=VCE_VALID,
        key_type=key_type,
        certificate_index=index + 1,
        name=entry.name,
        format=FORMAT_X509_DER,
        key_id_length=HASH_SIZE,
        hash_type=HASH_TYPE_SHA256,
        hash_length=HASH_SIZE,
        certificate_length=len(der),
        hash_offset=hash_offset,
        certificate_offset=certificate_offset,
    )
    body = pack(header) + key_id + certificate.fingerprint + der
    return body.ljust(entry.vce_length, b"\0")
