"""The machine's IPL device: which block is current, what flags it must carry, and what lies in memory before an IPL.

The flags are the machine's, never the guest's: they are put into every block, also into one that the guest set, so
that no re-IPL leaves the mode the machine was started in (docs/differences.md, T12).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.layout.iplb import (
    IPLB_CHAIN_SIZE,
    IPLB_DEVNO_OFFSET,
    IPLB_FLAGS_OFFSET,
    IPLB_LOADPARM_OFFSET,
    IPLB_LOADPARM_SIZE,
    IPLB_SIZE,
    LOADPARM_VALID,
    MAX_BOOT_DEVICES,
    QIPL_ADDRESS,
    IplbFlags,
    IplbHeader,
    QiplFlags,
    QiplParameters,
)
from sipl.layout.record import pack, unpack
from sipl.machine.boot_devices import build_iplb, check_eligible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sipl.machine.boot_devices import Subchannel
    from sipl.machine.memory import GuestMemory

# A plain number: the complement of an IntFlag has only the bits up to its highest name.
_MODE_FLAGS: Final = int(IplbFlags.SIPL | IplbFlags.IPLIR)
_MIB: Final = 1 << 20
_FIRMWARE_ROOM: Final = 3 * _MIB
_FIRMWARE_LIMIT: Final = 2048 * _MIB
_FIRMWARE_ALIGNMENT: Final = 0x10000


def firmware_base(memory_size: int) -> int:
    """Where the firmware lies: 3 MiB below the end of memory or of its first 2 GiB, rounded down to 64 KiB."""
    return (min(memory_size, _FIRMWARE_LIMIT) - _FIRMWARE_ROOM) // _FIRMWARE_ALIGNMENT * _FIRMWARE_ALIGNMENT


class IplDevice:
    """The current IPL parameter block and the boot order that it came from.

    `block` is the current block, 4096 bytes, None before the first IPL. `loadparm` is the machine's (EBCDIC), which
    follows the blocks that the guest sets.
    """

    def __init__(
        self, devices: Sequence[Subchannel], flags: IplbFlags, loadparm: bytes, menu_timeout: int | None
    ) -> None:
        """Take the boot order (at most 8 devices) and the machine's flags.

        Raises:
            RefusedToStart: a device cannot take part in secure IPL, although only as a fall-back.
        """
        self.devices = tuple(devices[:MAX_BOOT_DEVICES])
        self.flags = flags
        self.loadparm = loadparm
        self.block: bytes | None = None
        self._menu_timeout = menu_timeout
        self._scsi_position: int | None = None
        if flags:
            for device in self.devices:
                check_eligible(device)

    def prepare_ipl(self, memory: GuestMemory) -> None:
        """First IPL, or one after an external reset: build every block and put the fall-backs into memory."""
        self._scsi_position = None
        blocks = [build_iplb(device, self.flags) for device in self.devices]
        self.block = blocks[0] if blocks else None
        self._store_chain(memory, blocks[1:])

    def prepare_reipl(self, memory: GuestMemory) -> None:
        """IPL that the guest asked for: the block that was set last, and no fall-backs."""
        self._store_chain(memory, [])

    def _store_chain(self, memory: GuestMemory, blocks: list[bytes]) -> None:
        address = firmware_base(memory.size) - IPLB_CHAIN_SIZE
        memory.write(address, b"".join(blocks).ljust(IPLB_CHAIN_SIZE, b"\0"))
        menu = self._menu_timeout is not None
        parameters = QiplParameters(
            flags=QiplFlags.MENU_COMMAND if menu else 0,
            boot_position=0,
            menu_timeout=self._menu_timeout or 0,
            chain_length=len(blocks),
            next_iplb=address if blocks else 0,
        )
        memory.write(QIPL_ADDRESS, pack(parameters))

    def set_block(self, block: bytes) -> None:
        """Make a block current (DIAGNOSE 308 subcode 5), with the machine's flags instead of the guest's."""
        changed = bytearray(block)
        changed[IPLB_FLAGS_OFFSET] = changed[IPLB_FLAGS_OFFSET] & ~_MODE_FLAGS & 0xFF | self.flags
        if self.flags:
            changed[:4] = IPLB_SIZE.to_bytes(4, "big")
        self.block = bytes(changed)
        if unpack(IplbHeader, self.block).block0_flags & LOADPARM_VALID:
            self.loadparm = self.block[IPLB_LOADPARM_OFFSET : IPLB_LOADPARM_OFFSET + IPLB_LOADPARM_SIZE]

    def set_scsi_block(self, block: bytes) -> None:
        """Make the block of a SCSI device current: its device number field holds a boot position.

        The block is built anew for the device at this position; a position that a former call named stays in force. A
        position without a device leaves the block as the guest gave it.
        """
        position = self._scsi_position
        if position is None:
            position = int.from_bytes(block[IPLB_DEVNO_OFFSET : IPLB_DEVNO_OFFSET + 2], "big")
        if position < len(self.devices):
            self._scsi_position = position
            block = build_iplb(self.devices[position], self.flags)
        self.set_block(block)
