"""Files with an appended signature: where the payload ends, and how a signature is put behind it.

The form is that of Linux's sign-file (docs/formats/appended-signature.md): payload, PKCS#7, record, marker. Signing a
signed file once more gives a second layer around the first; a reader of the file then takes the inner layer for
payload.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.errors import SiplError
from sipl.layout.module_signature import (
    MODULE_SIGNATURE_MARKER,
    MODULE_SIGNATURE_PKCS7,
    MODULE_SIGNATURE_SIZE,
    MODULE_SIGNATURE_TRAILER_SIZE,
    ModuleSignature,
)
from sipl.layout.record import pack, unpack

# A file that is signed again with every build may carry a few; each takes 41 bytes at least, so that without a bound
# a large file could hold millions.
MAX_LAYERS: Final = 64

Buffer = bytes | bytearray | memoryview


class TrailerDamaged(SiplError, ValueError):
    """The file ends with the marker of an appended signature, but what stands before it is none."""

    def __init__(self, why: str) -> None:
        super().__init__("", why, "take the unsigned file from its package or its build")


class Layer(NamedTuple):
    """One signature that was appended; it covers the first `payload_length` bytes of the file."""

    payload_length: int
    signature: bytes  # PKCS#7 in DER, as far as it is what it should be
    record: ModuleSignature


def read_layer(data: Buffer) -> Layer | None:
    """The signature that `data` ends with, None if there is none.

    Raises:
        TrailerDamaged: there is a marker, and no record in front of it that names a PKCS#7 signature.
    """
    end = len(data)
    if bytes(data[max(0, end - len(MODULE_SIGNATURE_MARKER)) :]) != MODULE_SIGNATURE_MARKER:
        return None
    room = end - MODULE_SIGNATURE_TRAILER_SIZE
    if room < 0:
        raise TrailerDamaged("it ends with the marker of an appended signature, but is too short for its record")
    record = unpack(ModuleSignature, bytes(data[room : room + MODULE_SIGNATURE_SIZE]))
    if record.id_type != MODULE_SIGNATURE_PKCS7:
        raise TrailerDamaged(f"its appended signature is of type {record.id_type}, only 2 (PKCS#7) is known")
    if not 0 < record.signature_length <= room:
        raise TrailerDamaged(
            f"its appended signature has {record.signature_length} bytes by its record, {room} bytes are there"
        )
    start = room - record.signature_length
    return Layer(start, bytes(data[start:room]), record)


def read_layers(data: Buffer) -> tuple[Layer, ...]:
    """All signatures of a file, the outermost first; the last one's `payload_length` is that of the payload itself.

    Raises:
        TrailerDamaged: as `read_layer`, or there are more than `MAX_LAYERS`.
    """
    layers: list[Layer] = []
    with memoryview(data) as view:
        rest = len(view)
        while (layer := read_layer(view[:rest])) is not None:
            if len(layers) == MAX_LAYERS:
                raise TrailerDamaged(f"it carries more than {MAX_LAYERS} signatures, one around the other")
            layers.append(layer)
            rest = layer.payload_length
    return tuple(layers)


def payload_length(data: Buffer) -> int:
    """How many bytes of a file are left without any appended signature.

    Raises:
        TrailerDamaged: as `read_layers`.
    """
    layers = read_layers(data)
    return layers[-1].payload_length if layers else len(data)


def trailer(signature: bytes) -> bytes:
    """What is appended to the payload: the PKCS#7 `signature`, its record, the marker."""
    record = ModuleSignature(0, 0, MODULE_SIGNATURE_PKCS7, 0, 0, len(signature))
    return signature + pack(record) + MODULE_SIGNATURE_MARKER
