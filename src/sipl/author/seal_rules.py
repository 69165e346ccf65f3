"""What a sealed program must satisfy, asked before anything is signed: the boot side's rules (docs/formats/sclab.md).

Then the signatures alone are missing for secure mode. What the loader demands of its parameters is asked, too, and
mended where a signature of another length is all that speaks against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.errors import SealRefused
from sipl.firmware.components import ComponentList
from sipl.firmware.global_rules import check_program as check_whole
from sipl.firmware.global_rules import check_psw
from sipl.firmware.sclab import SclabCount, check_sclab
from sipl.firmware.stage3 import find_parameters, why_refused
from sipl.firmware.verdict import Judge
from sipl.layout.iirb import ComponentFlags
from sipl.layout.module_signature import MODULE_SIGNATURE_TRAILER_SIZE
from sipl.layout.record import pack, size_of
from sipl.layout.stage3 import KERNEL_ADDRESS, STAGE3_PARAMETERS, Stage3Parameters
from sipl.reasons import Mode, SealReason

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sipl.author.seal_source import FoundComponent, FoundProgram, SourceReader
    from sipl.firmware.verdict import Finding

_HINT = "take stage3 and kernel as their packages have them, and run zipl"


class _Loaded:
    """A program as it would lie in memory, read from the disk where it is looked at."""

    def __init__(self, program: FoundProgram, reader: SourceReader) -> None:
        self._components = program.components
        self._reader = reader

    def load(self, address: int, length: int) -> bytes:
        """Fetch bytes of the component that was loaded last over them."""
        for component in reversed(self._components):
            if component.address <= address and address + length <= component.address + component.length:
                return self._reader.part(component.segments, address - component.address, length)
        return bytes(length)


def check_program(path: str, program: FoundProgram, signed: Collection[FoundComponent], reader: SourceReader) -> None:
    """Apply the rules on SCLABs, entry PSW and the program as a whole, with all that will be signed as signed.

    Raises:
        SealRefused: would-not-boot.
        UndecidedError: the image cannot be read.
    """
    findings: list[Finding] = []
    judge = Judge(findings.append)
    judge.mode = Mode.AUDIT
    components, count = _as_signed(program, {c.address for c in signed} | _kept(program), reader, judge)
    if count.first_global is not None:
        check_psw(program.psw, count.first_global, components, judge)
    check_whole(count, components, judge)
    if findings:
        more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
        raise SealRefused(
            SealReason.WOULD_NOT_BOOT,
            path,
            f"program {program.numbers[0]} breaks a rule whatever is signed: {findings[0].reason}: "
            f"{findings[0].message}{more}",
            _HINT,
        )


def _kept(program: FoundProgram) -> set[int]:
    return {c.address for c in program.components if c.signature is not None and c.signature.der}


def _as_signed(
    program: FoundProgram, signed: Collection[int], reader: SourceReader, judge: Judge
) -> tuple[ComponentList, SclabCount]:
    components, count = ComponentList(), SclabCount()
    storage = _Loaded(program, reader)
    for found in program.components:
        component = components.add(found.address, found.length)
        if found.address in signed:
            component.flags = ComponentFlags.SIGNED | ComponentFlags.VERIFIED
            check_sclab(storage, component, count, judge)
    return components, count


def mended_parameters(
    path: str, program: FoundProgram, signatures: Mapping[int, int], reader: SourceReader, block_size: int
) -> tuple[FoundComponent, bytes] | None:
    """The parameters of stage3 with a kernel length that fits; None where nothing is to be changed.

    That length is the one of the kernel's file, its signature included, as zipl found it. By it stage3 moves the
    kernel, and a machine that is careful compares it with what was verified. `signatures` are the lengths of the
    signatures by load address.

    Raises:
        SealRefused: would-not-boot; the loader would refuse for another reason.
        UndecidedError: the image cannot be read.
    """
    components, count = _as_signed(program, signatures.keys(), reader, Judge(lambda _: None))
    for component in components:
        component.signature_length = signatures.get(component.address, 0)
    parameters = find_parameters(_Loaded(program, reader), program.psw, count.carrier, components)
    if parameters is None or not why_refused(parameters, components, block_size):
        return None
    kernel = next((c for c in components if c.address == KERNEL_ADDRESS), None)
    length = 0 if kernel is None else kernel.length + kernel.signature_length + MODULE_SIGNATURE_TRAILER_SIZE
    fitting = parameters._replace(kernel_length=length)
    why = why_refused(fitting, components, block_size)
    if why:
        raise SealRefused(
            SealReason.WOULD_NOT_BOOT, path, f"program {program.numbers[0]}: the loader would refuse: {why}", _HINT
        )
    which = _parameters_component(program)
    data = reader.content(which)
    data[: size_of(Stage3Parameters)] = pack(fitting)
    return which, bytes(data)


def _parameters_component(program: FoundProgram) -> FoundComponent:
    """The component that is loaded last to where stage3 looks."""
    size = size_of(Stage3Parameters)
    return next(c for c in reversed(program.components) if c.address == STAGE3_PARAMETERS and c.length >= size)
