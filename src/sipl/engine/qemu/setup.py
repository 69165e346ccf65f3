"""What a QEMU is started with besides what every hand-over needs: machine, devices, images (docs/qemu-engine.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sipl.disk.shared_image import SharedImage

RAM_ID: Final = "sipl-ram"  # the memory backend, which `-machine` has to name
# Files of one image and what it names, an overlay included, are numbered within so many descriptor sets.
SETS_PER_IMAGE: Final = 32
# Others number theirs from 0 or 1 on.
FIRST_SET: Final = 51000


class Setup(Protocol):
    """A machine for one guest, to be built as often as the guest is IPLed.

    `images` are those of the boot order, None where a device has no blocks; `device_ids` are the names that QEMU has
    for the devices in front of their subchannels, None where it has none. `memory` is the guest's, in bytes.
    """

    program: str
    memory: int
    memory_properties: Mapping[str, bool]  # of QEMU's memory backend
    images: list[SharedImage | None]
    device_ids: list[str | None]
    has_console: bool  # whether sipl is to attach its own console
    own_terminal: bool  # whether QEMU is kept away from sipl's standard streams
    held: bool  # whether somebody else starts the guest once it was placed
    has_secure: bool  # whether the guest is to find a machine that can do secure IPL

    @property
    def stays_after_crash(self) -> bool:
        """Whether a crashed guest is left to whoever has a monitor."""

    def open(self) -> None:
        """Open the images, unless they are open.

        Raises:
            UndecidedError: an image cannot be opened.
            UsageError: an image is in use, or QEMU cannot have such a machine.
        """

    def arguments(self) -> list[str]:
        """QEMU's arguments for the next process, but for memory, firmware, sipl's own monitor and console."""

    def descriptors(self) -> list[int]:
        """What QEMU inherits for them, after `arguments` was called."""

    def complain(self, data: bytes) -> None:
        """Called with what QEMU writes to standard error while the guest runs."""

    def started(self) -> None:
        """QEMU has inherited them."""

    def close(self) -> None:
        """Close the images; no QEMU has them any more."""


def first_set(position: int) -> int:
    """The first descriptor set for the image at a position of the boot order."""
    return FIRST_SET + SETS_PER_IMAGE * position
