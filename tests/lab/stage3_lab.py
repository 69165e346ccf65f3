"""A program with the shape of zipl's own loader, stage3, whose next step can be predicted."""

from __future__ import annotations

from ipl_lab import KERNEL, LOADER, PARAMETERS, Lab, Load, code, kernel_bytes, loader_bytes

from sipl.layout.record import pack
from sipl.layout.stage3 import KERNEL_PSW, STAGE3_LENGTH, Stage3Parameters


def program_with_unsigned_kernel(lab: Lab) -> list:
    """Secure IPL hands over to the signed loader; the loader itself will not start the kernel."""
    parameters = Stage3Parameters(
        parmline_address=0,
        initrd_address=0,
        initrd_length=0,
        kernel_psw=KERNEL_PSW,
        extra_parameters=0,
        flags=0,
        kernel_length=2048,
        kernel_address=KERNEL,
        environment_address=0,
        environment_length=0,
    )
    return lab.program(
        loader=lab.signed(LOADER, loader_bytes(STAGE3_LENGTH)),
        parameters=Load(PARAMETERS, pack(parameters) + code(512, 3)),
        kernel=Load(KERNEL, kernel_bytes()),
    )
