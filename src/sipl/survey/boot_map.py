"""Reading the boot map of a disk without a machine: every program, however broken another one is."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from sipl.errors import SiplError
from sipl.firmware.blocks import BlockReader
from sipl.firmware.boot_map import component_entries, read_program_table
from sipl.firmware.offline import OfflineDisk
from sipl.firmware.parts import in_order_of_weight, name_parts
from sipl.firmware.sclab import located_length, sclab_at_end
from sipl.firmware.segments import Segments, walk_segment_tables
from sipl.firmware.verdict import FirmwareStop, Judge
from sipl.layout.boot_record import (
    COMPONENT_EXECUTE,
    COMPONENT_LOAD,
    COMPONENT_SIGNATURE,
    BlockPointer,
    BootRecord,
    SignatureInfo,
)
from sipl.layout.diag508 import MAX_SIGNATURE_LENGTH
from sipl.layout.record import size_of, unpack
from sipl.layout.sclab import SclabFlags
from sipl.layout.stage3 import STAGE3_PARAMETERS, Stage3Parameters
from sipl.survey.model import BootMapView, ComponentView, ProgramView, Run, SclabView, SignatureView
from sipl.text import printable

if TYPE_CHECKING:
    from sipl.disk.block_device import BlockDevice
    from sipl.disk.image import Image
    from sipl.layout.boot_record import ComponentEntry

# No more can be loaded below the firmware. Nor has a program more bytes than its disk: tables can name the same blocks
# again and again, and a small image would keep the reader busy for hours.
MAX_PROGRAM_SIZE: Final = 2 << 30
# How much is read of one disk: programs share most of their components, and no disk that boots comes near it.
MAX_TOTAL_SIZE: Final = 8 << 30
# The locator's length field has 16 bits: a SCLAB lies in the last bytes, not further from the end than this.
_LARGEST_SCLAB: Final = 0xFFFF
# What a key computes, by its kind.
_SCHEMES: Final = {"RSA": "RSA", "EC": "ECDSA", "DSA": "DSA"}
_RUNS_SHOWN: Final = 1000  # a table of one-block pointers would fill the screen, and the memory


class _Disk(OfflineDisk):
    """A disk that remembers the digests of its components."""

    def __init__(self, device: BlockDevice, label: str) -> None:
        super().__init__(device, label)
        self.left = MAX_TOTAL_SIZE
        self.digests: dict[tuple[tuple[int, int], ...], tuple[str, bytes, bytes]] = {}

    def digest(self, segments: Segments) -> tuple[str, bytes, bytes] | None:
        """SHA-256 of a component, its first and last bytes; None if too much of the disk would have to be read."""
        runs = tuple(segments.runs())
        if runs not in self.digests:
            self.left -= segments.length
            if self.left < 0:
                return None
            digest = hashlib.sha256()
            head = tail = b""
            for chunk in self.chunks(segments):
                digest.update(chunk)
                head = head or bytes(chunk[: size_of(Stage3Parameters)])
                tail = (tail + bytes(chunk[-_LARGEST_SCLAB:]))[-_LARGEST_SCLAB:]
            self.digests[runs] = digest.hexdigest(), head, tail
        return self.digests[runs]


def survey_boot_map(image: Image, device: BlockDevice) -> BootMapView:
    """Read everything that block 0 leads to.

    Raises:
        UndecidedError: the image cannot be read.
    """
    disk = _Disk(device, image.path)
    view = BootMapView(printable(image.path), image.format, image.size, device.block_size, None, None, (), None)
    try:
        reader = BlockReader(disk, disk, 0)
        programs = read_program_table(reader, Judge(lambda _: None))
    except FirmwareStop as stop:
        return view._replace(fault=_fault(stop))
    record = unpack(BootRecord, reader.metadata(0, "the boot record"))
    table = unpack(BlockPointer, record.program_table).block
    seen: dict[int, int] = {}
    views = []
    for number in programs.programs:
        block = programs.tables[number]
        if block in seen:
            views.append(ProgramView(number, block, seen[block], (), None, None))
        else:
            views.append(_program(disk, reader, number, block))
            seen[block] = number
    return view._replace(version=record.version, program_table_block=table, programs=tuple(views))


def _fault(error: SiplError) -> str:
    reason = getattr(error, "reason", None)
    return f"{reason}: {error.why}" if reason is not None else error.why


def _program(disk: _Disk, reader: BlockReader, number: int, block: int) -> ProgramView:
    components: list[ComponentView] = []
    psw = fault = None
    room = min(MAX_PROGRAM_SIZE, disk.blocks * disk.block_size)
    signature: SignatureView | None = None
    parameters = b""
    try:
        for entry in component_entries(reader, block):
            if entry.type == COMPONENT_EXECUTE:
                psw = entry.value.hex()
            elif entry.type == COMPONENT_SIGNATURE:
                signature = _signature(disk, reader, entry)
            elif entry.type == COMPONENT_LOAD:
                component, head = _component(disk, reader, entry, signature, room)
                if component.address == STAGE3_PARAMETERS:
                    parameters = head
                # What cannot be read has no size, and yet took time: there is half as much for all behind it.
                room = room // 2 if component.digest is None else room - component.length
                components.append(component)
                signature = None
            else:
                fault = f"an entry has the unknown type {entry.type}"
    except FirmwareStop as stop:
        fault = _fault(stop)
    return _with_parts(ProgramView(number, block, None, tuple(components), psw, fault), parameters)


def _with_parts(program: ProgramView, parameters: bytes) -> ProgramView:
    """The program with its components named, and what that says of it."""
    components = program.components
    psw = None if program.psw is None else int(program.psw, 16)
    parts = name_parts(psw, [(c.address, c.length) for c in components], parameters)
    unsigned = in_order_of_weight(
        (part, component.address)
        for component, part in zip(components, parts, strict=True)
        if not component.signature or not component.signature.length
    )
    closed = None
    if psw is not None:
        flags = next((c.sclab.flags for c in components if c.signature and c.sclab and "OPSW" in c.sclab.flags), ())
        closed = not unsigned and "NUC" in flags
    named = tuple(c._replace(part=part and part.value) for c, part in zip(components, parts, strict=True))
    return program._replace(components=named, closed=closed, unsigned=unsigned)


def _runs(segments: Segments) -> tuple[Run, ...]:
    runs = (Run(block, count) for block, count in segments.runs())
    return tuple(run for run, _ in zip(runs, range(_RUNS_SHOWN), strict=False))


def _signature(disk: _Disk, reader: BlockReader, entry: ComponentEntry) -> SignatureView:
    info = unpack(SignatureInfo, entry.value)
    view = SignatureView(info.format, info.length, (), None, None, None, None, False, 0, None)
    try:
        segments = walk_segment_tables(reader, unpack(BlockPointer, entry.segment_table).block, MAX_SIGNATURE_LENGTH)
    except FirmwareStop as stop:
        return view._replace(fault=_fault(stop))
    view = view._replace(runs=_runs(segments))
    if max(segments.length, info.length) > MAX_SIGNATURE_LENGTH:
        return view._replace(fault=f"larger than the {MAX_SIGNATURE_LENGTH} bytes that a signature can have")
    content = b"".join(bytes(chunk) for chunk in disk.chunks(segments))
    return read_signature(view, content[: info.length])


def read_signature(view: SignatureView, der: bytes) -> SignatureView:
    """The view of a signature, with what its PKCS#7 says."""
    from sipl.crypto.algorithms import SIGNATURES, name_of
    from sipl.crypto.der import dotted
    from sipl.crypto.pkcs7 import SignedData

    try:
        signed = SignedData.parse(der)
    except SiplError as error:
        return view._replace(fault=error.why)
    signer = signed.signer
    algorithm = dotted(signer.algorithm.identifier)
    return view._replace(
        signer=signer.text(),
        digest=name_of(dotted(signer.digest.identifier)),
        signature_algorithm=_SCHEMES[SIGNATURES[algorithm][0]] if algorithm in SIGNATURES else name_of(algorithm),
        key_identifier=None if signer.key_identifier is None else signer.key_identifier.hex(),
        signed_attributes=signer.attributes is not None,
        embedded_certificates=signed.certificates,
    )


def _component(
    disk: _Disk, reader: BlockReader, entry: ComponentEntry, signature: SignatureView | None, room: int
) -> tuple[ComponentView, bytes]:
    """A component, and its first bytes."""
    address = int.from_bytes(entry.value, "big")
    view = ComponentView(address, 0, (), None, signature, None, None)
    try:
        table = unpack(BlockPointer, entry.segment_table).block
        segments = walk_segment_tables(reader, table, room)
    except FirmwareStop as stop:
        return view._replace(fault=_fault(stop)), b""
    view = view._replace(length=segments.length, runs=_runs(segments))
    if segments.length > room:
        why = "with it the program is larger than its disk, or than a guest's memory for it"
        return view._replace(fault=why), b""
    found = disk.digest(segments)
    if found is None:
        why = f"not read: the components of this disk have more than {MAX_TOTAL_SIZE >> 30} GiB"
        return view._replace(fault=why), b""
    digest, head, tail = found
    return view._replace(digest=digest, sclab=read_sclab(tail)), head


def read_sclab(tail: bytes) -> SclabView | None:
    """The SCLAB at the end of a component, of which `tail` is the last part; None where there is none."""
    length = located_length(tail)
    if length is None:
        return None
    sclab = sclab_at_end(tail, length)
    if sclab is None:
        return SclabView(length, 0, (), "", 0, "its length is not possible")
    names = tuple(flag.name or "" for flag in SclabFlags if sclab.flags & flag)
    return SclabView(length, sclab.format, names, f"{sclab.load_psw:016x}", sclab.load_address, None)
