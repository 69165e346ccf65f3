"""The firmware's own memory: where each of its buffers lies, and what no component may touch (docs/differences.md, H1).

Everything that the firmware writes while components are loaded lies here: IPL parameter blocks and their chain, the
report, certificates and work buffers. A component that could reach this area, or the lowcore that the hand-over
writes, would change what the firmware decides by.
"""

from __future__ import annotations

from typing import Final

from sipl.layout.diag508 import MAX_SIGNATURE_LENGTH
from sipl.layout.iplb import IPLB_CHAIN_SIZE, IPLB_SIZE
from sipl.layout.lowcore import LOWCORE_IPL_END

ADDRESS_LIMIT: Final = 2048 << 20  # the firmware lies below 2 GiB, whatever the size of memory

# Offsets from the firmware's base; the 3 MiB behind it are its own. DIAGNOSE 308 and 320 want 4 KiB alignment.
_IPLB: Final = 0x10000
_REPORT: Final = _IPLB + IPLB_SIZE  # Linux finds the report directly behind the block
_STORAGE_SIZE_BLOCK: Final = 0x14000
_VERIFICATION_BLOCK: Final = 0x14100
_INSTALLED_SUBCODES: Final = 0x14200
_SCCB: Final = 0x15000
_SIGNATURE: Final = 0x16000
_METADATA: Final = 0x18000
_CERTIFICATE_BLOCK: Final = 0x20000
_CERTIFICATES: Final = 0x40000
_CERTIFICATES_END: Final = 0x200000

SIGNATURE_ROOM: Final = MAX_SIGNATURE_LENGTH
CERTIFICATE_BLOCK_ROOM: Final = _CERTIFICATES - _CERTIFICATE_BLOCK


class FirmwareArea:
    """Absolute addresses of the firmware's buffers, for a firmware at `base` in a machine of `memory_size` bytes."""

    def __init__(self, base: int, memory_size: int) -> None:
        self.memory_size = memory_size
        self.start = base - IPLB_CHAIN_SIZE
        self.end = min(memory_size, ADDRESS_LIMIT)
        self.iplb = base + _IPLB
        self.report = base + _REPORT
        self.storage_size_block = base + _STORAGE_SIZE_BLOCK
        self.verification_block = base + _VERIFICATION_BLOCK
        self.installed_subcodes = base + _INSTALLED_SUBCODES
        self.sccb = base + _SCCB
        self.signature = base + _SIGNATURE
        self.metadata = base + _METADATA
        self.certificate_block = base + _CERTIFICATE_BLOCK
        self.certificates = base + _CERTIFICATES
        self.certificates_end = base + _CERTIFICATES_END

    def why_forbidden(self, address: int, length: int) -> str:
        """Say which rule forbids a component to lie at `[address, address + length)`; empty if none does."""
        end = address + length
        if length and address < LOWCORE_IPL_END:
            return f"it would overwrite the lowcore below {LOWCORE_IPL_END:#x}"
        if length and address < self.end and self.start < end:
            return f"it would overwrite the firmware's own memory, {self.start:#x} to {self.end:#x}"
        if end > self.memory_size:
            return f"memory ends at {self.memory_size:#x}"
        return ""
