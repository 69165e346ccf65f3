"""Signature entries, and asking the machine to verify a component (DIAGNOSE 508)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.firmware.area import SIGNATURE_ROOM
from sipl.firmware.facilities import DIAGNOSE_508
from sipl.firmware.segments import walk_segment_tables
from sipl.firmware.verdict import DeviceGivenUp
from sipl.layout.boot_record import SIGNATURE_FORMAT_DER, BlockPointer, SignatureInfo
from sipl.layout.diag508 import SVB_SIZE, ResponseCode, Subcode, Svb
from sipl.layout.record import pack, unpack
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from sipl.firmware.area import FirmwareArea
    from sipl.firmware.blocks import BlockReader
    from sipl.firmware.components import Component
    from sipl.firmware.platform import Platform
    from sipl.firmware.verdict import Judge
    from sipl.layout.boot_record import ComponentEntry


class PendingSignature:
    """A signature that waits for the component behind it; `length` in bytes, `loaded` unless it was too large."""

    __slots__ = ("length", "loaded")

    def __init__(self, length: int, loaded: bool) -> None:
        self.length = length
        self.loaded = loaded


def load_signature(
    platform: Platform, reader: BlockReader, area: FirmwareArea, entry: ComponentEntry, judge: Judge
) -> PendingSignature | None:
    """Read a signature into the firmware's buffer; None for one of length 0, which counts as none.

    Raises:
        DeviceGivenUp: signature-format, before anything is read; segment-unreadable, block-out-of-range.
    """
    info = unpack(SignatureInfo, entry.value)
    if info.format != SIGNATURE_FORMAT_DER:
        raise DeviceGivenUp(Reason.SIGNATURE_FORMAT, f"a signature has format {info.format}, only 1 (DER) is known")
    table = unpack(BlockPointer, entry.segment_table).block
    # Walked like a component's, so that a large one is told from a chain that does not end.
    segments = walk_segment_tables(reader, table, area.memory_size)
    if segments.length > SIGNATURE_ROOM:
        message = f"a signature takes {segments.length} bytes on disk, {SIGNATURE_ROOM} are possible: it is not loaded"
        judge.add(Reason.SIGNATURE_TOO_LARGE, Level.WARNING, message)
        return PendingSignature(info.length, loaded=False)
    # What a former signature left behind must not complete this one.
    platform.store(area.signature, bytes(SIGNATURE_ROOM))
    segments.read(reader, area.signature)
    return PendingSignature(info.length, loaded=True) if info.length else None


def verify(platform: Platform, area: FirmwareArea, component: Component, signature: PendingSignature) -> Svb | None:
    """Have the machine verify a component where it lies; None if no certificate does."""
    if not signature.loaded:
        return None
    request = unpack(Svb, bytes(SVB_SIZE))._replace(
        length=SVB_SIZE,
        component_length=component.length,
        component_address=component.address,
        signature_length=signature.length,
        signature_address=area.signature,
    )
    platform.store(area.verification_block, pack(request))
    if platform.diagnose(DIAGNOSE_508, area.verification_block, Subcode.VERIFY) != ResponseCode.OK:
        return None
    return unpack(Svb, platform.load(area.verification_block, SVB_SIZE))
