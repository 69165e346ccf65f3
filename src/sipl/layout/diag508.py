"""DIAGNOSE 508: signature verification (docs/formats/diag508.md)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from sipl.layout.record import layout


class Subcode(IntEnum):
    """Subcodes of DIAGNOSE 508; "verify" is the bit of the mask that offers it."""

    QUERY = 0
    VERIFY = 0x8000


class ResponseCode(IntEnum):
    """What is left in the odd register after `Subcode.VERIFY`."""

    OK = 0x0001
    NO_CERTIFICATES = 0x0102
    COMPONENT_INVALID = 0x0202
    SIGNATURE_INVALID = 0x0302
    NOT_VERIFIED = 0x0402
    BLOCK_LENGTH = 0x0502


MAX_SUBCODE: Final = 0xFFFF
SVB_SIZE: Final = 64
MAX_COMPONENT_LENGTH: Final = 0x10000000  # 256 MiB, inclusive
MAX_SIGNATURE_LENGTH: Final = 4096  # inclusive


@layout(">I3sB8sB7sQQQQQ")
class Svb(NamedTuple):
    """Signature verification block; reserved bytes are echoed."""

    length: int
    reserved1: bytes
    version: int
    reserved2: bytes
    certificate_index: int  # out, position in the store, origin 0
    reserved3: bytes
    certificate_length: int  # out, bytes of DER
    component_length: int
    component_address: int
    signature_length: int
    signature_address: int
