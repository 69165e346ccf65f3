"""Building a SCLAB and putting it at the end of a component (docs/formats/sclab.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.errors import UsageError
from sipl.layout.record import pack, size_of
from sipl.layout.sclab import SCLAB_MAGIC, SCLAB_MIN_LENGTH, Sclab, SclabLocator

if TYPE_CHECKING:
    from sipl.layout.record import Buffer


def build(
    flags: int = 0,
    psw: int = 0,
    address: int = 0,
    length: int = SCLAB_MIN_LENGTH,
    *,
    stated_length: int | None = None,
    sclab_format: int = 0,
    magic: bytes = SCLAB_MAGIC,
) -> bytes:
    """Return attributes and locator, together `length` bytes.

    `flags` are `SclabFlags`, `psw` is the load PSW (8-byte short form) and `address` the load address, both as
    numbers. What a correct SCLAB never has can be given too: `stated_length` is the length that the locator states,
    if it differs from the true one, `sclab_format` is 0 and `magic` is `zIPL` otherwise.

    Raises:
        UsageError: `length` is less than 32, or a value does not fit into its field.
    """
    if length < SCLAB_MIN_LENGTH:
        raise UsageError("SCLAB", f"{length} bytes cannot hold it", f"use {SCLAB_MIN_LENGTH} or more")
    stated = length if stated_length is None else stated_length
    if not (
        0 <= flags <= 0xFFFF and 0 <= stated <= 0xFFFF and 0 <= sclab_format <= 0xFF and len(magic) == len(SCLAB_MAGIC)
    ):
        raise UsageError("SCLAB", "flags, length, format or magic do not fit into their fields")
    if not (0 <= psw < 1 << 64 and 0 <= address < 1 << 64):
        raise UsageError("SCLAB", "the load PSW or the load address is no 64-bit number")
    locator = pack(SclabLocator(stated, magic))
    return pack(Sclab(sclab_format, flags, psw, address)).ljust(length - size_of(SclabLocator), b"\0") + locator


def append(payload: Buffer, sclab: bytes, block_size: int) -> bytes:
    """Return `payload`, zeros and `sclab`, together whole blocks: the component ends flush with the locator.

    Raises:
        UsageError: `block_size` is not positive.
    """
    if block_size < 1:
        raise UsageError("SCLAB", f"{block_size} is no block size")
    length = len(payload) + len(sclab)
    return bytes(payload) + bytes(-length % block_size) + sclab


def overwrite(component: Buffer, sclab: bytes) -> bytes:
    """Return `component` with its last bytes replaced by `sclab`; the length stays.

    Raises:
        UsageError: the component is shorter than the SCLAB.
    """
    if len(component) < len(sclab):
        raise UsageError("SCLAB", f"a component of {len(component)} bytes cannot hold {len(sclab)} bytes")
    return bytes(component[: len(component) - len(sclab)]) + sclab
