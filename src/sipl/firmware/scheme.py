"""Boot schemes: a zipl disk, one of another scheme, or one that nobody wrote (docs/differences.md, T14)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.firmware.verdict import DeviceGivenUp, FirmwareStop, MachineStops
from sipl.layout.boot_record import ECKD_IPL1, ECKD_LABEL_BLOCK, ECKD_LABELS, ISO_MAGIC, ISO_MAGIC_OFFSET
from sipl.reasons import Mode, Reason

if TYPE_CHECKING:
    from sipl.firmware.blocks import BlockReader


def not_zipl(reader: BlockReader, block0: bytes, mode: Mode) -> FirmwareStop:
    """What to do with a disk whose block 0 has no zIPL magic: it never boots another way.

    A disk of another scheme stops audit and secure mode; any other is given up, as both are in normal mode.
    """
    scheme = _other_scheme(reader, block0)
    if not scheme:
        return DeviceGivenUp(Reason.NOT_A_ZIPL_DISK, "block 0 has no zIPL magic and no other boot scheme is there")
    message = f"the disk is written for {scheme}, which is not supported"
    if mode is Mode.NORMAL:
        return DeviceGivenUp(Reason.SCHEME_NOT_SUPPORTED, message)
    return MachineStops(Reason.SCHEME_NOT_SUPPORTED, message)


def _other_scheme(reader: BlockReader, block0: bytes) -> str:
    if block0.startswith(ECKD_IPL1):
        return "CCW-type IPL (IPL1)"
    if reader.blocks > ECKD_LABEL_BLOCK:
        label = reader.metadata(ECKD_LABEL_BLOCK, "the volume label")[:4]
        for name, magic in ECKD_LABELS.items():
            if label == magic:
                return f"ECKD DASD (volume label {name})"
    block, offset = divmod(ISO_MAGIC_OFFSET, reader.block_size)
    if reader.blocks > block and reader.metadata(block, "the ISO 9660 descriptor").startswith(ISO_MAGIC, offset):
        return "ISO 9660 (El Torito)"
    return ""
