"""What the next link of the chain will say: zipl's stage3 checks the kernel itself (docs/differences.md, H12).

A program is taken for one of stage3 by what cannot be otherwise where stage3 is to run: the entry PSW, the size and
place of the loader and its global SCLAB, and parameters that only say what stage3 knows. Then its own check is made
here, before the guest makes it and ends in a disabled wait that explains nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.layout.lowcore import PSW_ADDRESS_MASK
from sipl.layout.module_signature import MODULE_SIGNATURE_TRAILER_SIZE
from sipl.layout.record import size_of, unpack
from sipl.layout.stage3 import (
    KERNEL_ADDRESS,
    KERNEL_PSW,
    KNOWN_FLAGS,
    STAGE3_ENTRY,
    STAGE3_LENGTH,
    STAGE3_PARAMETERS,
    STAGE3_PSW,
    Stage3Parameters,
)

if TYPE_CHECKING:
    from sipl.firmware.components import Component, ComponentList
    from sipl.firmware.platform import Storage


def find_parameters(
    platform: Storage, psw: int, carrier: Component | None, components: ComponentList
) -> Stage3Parameters | None:
    """The parameters of stage3 if the program is one of stage3; `carrier` has the global SCLAB."""
    if psw != STAGE3_PSW or carrier is None:
        return None
    if (carrier.address, carrier.length) != (STAGE3_ENTRY, STAGE3_LENGTH):
        return None
    size = size_of(Stage3Parameters)
    if not any(c.address == STAGE3_PARAMETERS and c.length >= size for c in components):
        return None
    return known_parameters(platform.load(STAGE3_PARAMETERS, size))


def known_parameters(data: bytes) -> Stage3Parameters | None:
    """The parameters in the first bytes of `data`; None if they say what stage3 does not know."""
    if len(data) < size_of(Stage3Parameters):
        return None
    parameters = unpack(Stage3Parameters, data)
    if parameters.extra_parameters > 1 or parameters.flags & ~KNOWN_FLAGS:
        return None
    return parameters


def why_refused(parameters: Stage3Parameters, components: ComponentList, block_size: int) -> str:
    """Why stage3 will not start the kernel, or will not start what was verified; empty if nothing speaks against it."""
    if parameters.kernel_address != KERNEL_ADDRESS:
        return f"its parameters put the kernel at {parameters.kernel_address:#x}, only {KERNEL_ADDRESS:#x} is accepted"
    if parameters.kernel_psw != KERNEL_PSW:
        psw = parameters.kernel_psw
        return f"its parameters give the kernel the PSW {psw:#018x}, only {KERNEL_PSW:#018x} is accepted"
    address = KERNEL_PSW & PSW_ADDRESS_MASK
    kernel = next((c for c in components if c.address == address and c.verified), None)
    if kernel is None:
        return f"no verified component lies at the kernel's address {address:#x}"
    return _why_not_moved_whole(parameters.kernel_length, kernel, block_size)


def _why_not_moved_whole(length: int, kernel: Component, block_size: int) -> str:
    """Compare the unsigned kernel length, by which stage3 moves the kernel, with what was verified.

    The length is that of the kernel's file, the appended signature included; the component is that file without the
    signature, in whole blocks.
    """
    payload = length - kernel.signature_length - MODULE_SIGNATURE_TRAILER_SIZE
    if kernel.length - block_size < payload <= kernel.length:
        return ""
    return (
        f"its parameters say that the kernel's file has {length} bytes, "
        f"which does not fit the {kernel.length} verified bytes and their signature"
    )
