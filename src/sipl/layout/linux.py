"""What a Linux kernel leaves in memory that tells it from other guests (docs/embedded-engine.md, "Disabled waits")."""

from __future__ import annotations

from typing import Final

# In every kernel image, eight bytes behind the address that it starts at; its boot part leaves it there.
IMAGE_MAGIC: Final = b"S390EP"
IMAGE_MAGIC_ADDRESS: Final = 0x10008

# A kernel that runs keeps the address of a block about itself, u64, in the prefix area of absolute storage.
OS_INFO_POINTER: Final = 0xE18
OS_INFO_MAGIC: Final = b"OSINFOSZ"
