"""DIAGNOSE 320: the certificate store (docs/formats/diag320.md)."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from sipl.layout.record import layout


class Subcode(IntEnum):
    """Subcodes of DIAGNOSE 320."""

    QUERY_SUBCODES = 0
    QUERY_STORAGE = 1
    STORE_CERTIFICATES = 2


class ResponseCode(IntEnum):
    """What is left in the odd register."""

    OK = 0x0001
    SUBCODE_NOT_SUPPORTED = 0x0102
    BAD_VCSSB_LENGTH = 0x0202
    BAD_VCB_LENGTH = 0x0204
    BAD_RANGE = 0x0302


class InstalledSubcodes(IntFlag):
    """First word of the installed subcodes block: bit n stands for subcode n."""

    ISM_QUERY = 0x80000000
    VCSI = 0x40000000
    STORE = 0x20000000


MAX_CERTIFICATES: Final = 64
MAX_SUBCODE: Final = 0xFF
INSTALLED_SUBCODES_SIZE: Final = 4  # what is stored of the 32 bytes of the block
VCSSB_SIZE: Final = 128
VCSSB_NO_CERTIFICATES: Final = 4  # length stored where the store is empty
VCSSB_ALIGNMENT: Final = 8
VCB_HEADER_SIZE: Final = 64
VCB_ALIGNMENT: Final = 4096
VCE_HEADER_SIZE: Final = 128
VCE_INVALID_LENGTH: Final = 72  # an invalid entry ends with the name
VCE_VALID: Final = 0x80
HASH_SIZE: Final = 32  # SHA-256: key id and hash
FORMAT_X509_DER: Final = 1
HASH_TYPE_SHA256: Final = 1


@layout(">I3sB24sHH44sII40s")
class Vcssb(NamedTuple):
    """Verification certificate storage size block; reserved bytes are echoed."""

    length: int
    reserved1: bytes
    version: int
    reserved2: bytes
    total_certificates: int
    max_certificates: int
    reserved3: bytes
    max_single_vcb_length: int
    total_vcb_length: int
    reserved4: bytes


@layout(">I4sHH20sI4sHH20s")
class VcbHeader(NamedTuple):
    """Verification certificate block, its header; reserved bytes are echoed."""

    input_length: int
    reserved1: bytes
    first_index: int
    last_index: int
    reserved2: bytes
    output_length: int
    reserved3: bytes
    stored: int
    remaining: int
    reserved4: bytes


@layout(">IBBH64sBxHxBH4xI8xHH28x")
class VceHeader(NamedTuple):
    """Verification certificate entry, its header of 128 bytes."""

    length: int
    flags: int
    key_type: int
    certificate_index: int  # origin 1
    name: bytes  # EBCDIC, padded with blanks
    format: int
    key_id_length: int
    hash_type: int
    hash_length: int
    certificate_length: int
    hash_offset: int  # from the start of the entry
    certificate_offset: int
