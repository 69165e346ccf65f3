"""Sealing: a disk that zipl made bootable becomes secure-bootable, in place (docs/sealing.md).

`plan_seal` looks at everything, signs, and says what is to be written where and in which order; `carry_out` writes it.
The last write is that of block 0, which makes all the others current: before it the disk boots as it did, after it
sealed, and there is nothing between.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from sipl.author.seal_room import (
    Allotment,
    RoomWriter,
    Write,
    allot,
    find_saved,
    frame_writes,
    make_saved,
    wipe_writes,
)
from sipl.author.seal_rules import check_program, mended_parameters
from sipl.author.seal_source import Source, SourceReader, is_kernel
from sipl.disk.block_device import BlockDevice
from sipl.disk.free_room import FreeRoom, find_frames, find_free_room
from sipl.disk.partitions import read_partition_table
from sipl.errors import ImageError, SealRefused, SigningRefused
from sipl.layout.boot_record import (
    BOOT_RECORD_SIZE,
    COMPONENT_ENTRY_SIZE,
    COMPONENT_SIGNATURE,
    COMPONENT_TABLE_HEADER_SIZE,
    SIGNATURE_FORMAT_DER,
    BlockPointer,
    BootRecord,
    ComponentEntry,
    SignatureInfo,
)
from sipl.layout.diag508 import MAX_COMPONENT_LENGTH, MAX_SIGNATURE_LENGTH
from sipl.layout.record import pack, size_of, unpack
from sipl.reasons import SealReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sipl.author.seal_room import Numbers
    from sipl.author.seal_source import FoundComponent, FoundProgram
    from sipl.crypto.certificate import Certificate
    from sipl.disk.image import Image
    from sipl.disk.raw_writer import OrderedImage
    from sipl.disk.seal_frames import Frame

_IN_GUEST: Final = "sign the files in the guest and run zipl --secure 1"


class Signs(Protocol):
    """Who signs: of the package, `sipl.author.signer.Signer`."""

    @property
    def certificate(self) -> Certificate:
        """Whose signatures they are."""

    def sign(self, data: bytearray) -> bytes:
        """PKCS#7 in DER with one detached signature over `data`."""


class SealRequest(NamedTuple):
    """What is to be sealed.

    `entries` are numbers of programs, None for all; `components` are load addresses of what is signed besides loader
    and kernel. `trusted` are certificates of which one must have made each signature that is there already, None if
    nobody asks; `now` is when, in seconds since 1970.
    """

    entries: frozenset[int] | None
    components: frozenset[int]
    trusted: tuple[Certificate, ...] | None
    now: int


class PlannedComponent(NamedTuple):
    """A component of a sealed program. `signature` is the DER that it will have, None without one.

    It is `new` if it was made now. `data` takes the place of what the disk has, where that is changed or has to move.
    """

    found: FoundComponent
    title: str  # of one that carries a SCLAB, else empty
    signature: bytes | None
    new: bool
    data: bytes | None


class PlannedProgram(NamedTuple):
    """A program as it will be."""

    found: FoundProgram
    components: tuple[PlannedComponent, ...]


class Stage(NamedTuple):
    """Writes that may reach the medium in any order, and do so before those of the next stage."""

    what: str
    writes: tuple[Write, ...]


class SealPlan(NamedTuple):
    """All that sealing a disk writes. `former` and `record` are block 0 as it is and as it will be, whole."""

    block_size: int
    programs: tuple[PlannedProgram, ...]
    room: FreeRoom
    stages: tuple[Stage, ...]
    former: bytes
    record: bytes

    @property
    def last(self) -> Write:
        """The write that makes it all current."""
        return Write(0, self.record, "boot record, bytes 0x0 to 0x97 of block 0")


def plan_seal(
    image: Image,
    block_size: int,
    signer: Signs,
    request: SealRequest,
    check: Callable[[FoundComponent], object],
    progress: Callable[[int], object] | None = None,
) -> SealPlan:
    """Find out how to seal a disk, and make the signatures; nothing is written.

    `check` raises if a component must not be signed. `progress` gets how many bytes were read since its last call.

    Raises:
        SealRefused: the disk is not sealed, for one of the reasons in docs/reasons.md.
        UsageError: a named program is not there.
        SigningRefused: a signature would not be accepted.
        SiplError: the key cannot sign.
        UndecidedError: the image cannot be read.
    """
    reader = SourceReader(BlockDevice(image, block_size), image.path, progress)
    room = _find_room(image, block_size, reader)
    source = reader.read(request.entries, range(room.first, room.end))
    kept, stale = _sort_frames(image, block_size, room, source.block0)
    saved = find_saved(image, block_size, kept, source.block0)
    former = source.block0[:BOOT_RECORD_SIZE] if saved is None else saved.former
    records = {source.block0[:BOOT_RECORD_SIZE], former}
    used = [(source.blocks, source.runs), *map(reader.used_blocks, records)]
    _check_not_in_use(image.path, room, kept, used)
    chosen = [(p, _choose(image.path, p, request, reader) if p.wanted else ()) for p in source.programs]
    _check_named(image.path, chosen, request.components)
    for program, signed in chosen:
        for component in signed:
            check(component)
        if program.wanted:
            check_program(image.path, program, signed, reader)
    programs = _sign(image.path, chosen, signer, reader, room, block_size)
    build = _Builder(image.path, block_size, source, programs, room, former)
    stages, record = build.stages(kept, stale)
    return SealPlan(block_size, programs, room, stages, source.block0, record)


def _find_room(image: Image, block_size: int, reader: SourceReader) -> FreeRoom:
    """The free room; where it is not free, see whether the disk's own boot map is what lies there."""
    try:
        return find_free_room(image, block_size)
    except SealRefused as refusal:
        if refusal.reason is SealReason.GAP_NOT_EMPTY:
            table = read_partition_table(image, block_size)
            gap = FreeRoom(table, table.end, table.partitions[0].first, ())
            used = reader.used_blocks(image.read(0, BOOT_RECORD_SIZE))
            _check_not_in_use(image.path, gap, find_frames(image, block_size), [used])
        raise


def _sort_frames(
    image: Image, block_size: int, room: FreeRoom, block0: bytes
) -> tuple[tuple[Frame, ...], tuple[Frame, ...]]:
    """Frames of the seal that is in force, and those of former ones."""
    saved = find_saved(image, block_size, room.frames, block0)
    if saved is None:
        return (), room.frames
    kept = tuple(frame for frame in room.frames if frame.generation == saved.generation)
    stale = tuple(frame for frame in room.frames if frame.generation != saved.generation)
    if any(old.block < frame.end and frame.block < old.end for old in stale for frame in kept):
        raise SealRefused(
            SealReason.GAP_IN_USE, image.path, "what a former seal has left lies over the one in force", _IN_GUEST
        )
    return kept, stale


def _check_not_in_use(
    path: str,
    room: FreeRoom,
    kept: Sequence[Frame],
    used: Iterable[tuple[frozenset[int], frozenset[tuple[int, int]]]],
) -> None:
    """Nothing that the disk boots, or would boot without its seal, may lie where something is written."""
    spans = [(block, 1) for blocks, _ in used for block in blocks]
    spans += [span for _, runs in used for span in runs]
    for block, count in spans:
        start, end = max(block, room.first), min(block + count, room.end)
        if start < end and not any(frame.block < start and end <= frame.end for frame in kept):
            raise SealRefused(
                SealReason.GAP_IN_USE,
                path,
                f"block {start}, in front of the first partition, belongs to what the disk boots",
                "move it into a partition: run zipl with another target",
            )


def _choose(path: str, program: FoundProgram, request: SealRequest, reader: SourceReader) -> tuple[FoundComponent, ...]:
    """Components of a program that are to be signed."""
    chosen = []
    for component in program.components:
        named = component.address in request.components
        if component.sclab is None:
            if named:
                raise SealRefused(
                    SealReason.COMPONENT_NOT_FOUND,
                    path,
                    f"the component at {component.address:#x} has no SCLAB in its last bytes, so that no machine would "
                    "take a signature of it",
                    "only what ends with a SCLAB can be signed",
                )
            continue
        if not (named or program.is_loader(component) or is_kernel(component)):
            if component.signature is not None and request.trusted is not None:
                _check_signature(path, component, request, reader)
                continue
            raise SealRefused(
                SealReason.COMPONENT_NOT_EXPECTED,
                path,
                f"the component at {component.address:#x}, SHA-256 {component.digest}, could be signed, but is neither "
                "the loader nor Linux at its place",
                f"if you know what it is, say --component {component.address:#x}",
            )
        if component.length > MAX_COMPONENT_LENGTH:
            raise SealRefused(
                SealReason.COMPONENT_TOO_LARGE,
                path,
                f"the component at {component.address:#x} has {component.length} bytes, a machine verifies at most "
                f"{MAX_COMPONENT_LENGTH}",
            )
        signed = component.signature is not None and component.signature.der
        if request.trusted is not None and (signed or not named):
            # Without a signature nobody has answered for it: taking one away must not be the way around this.
            _check_signature(path, component, request, reader)
        chosen.append(component)
    if not chosen:
        raise SealRefused(
            SealReason.NOTHING_TO_SIGN,
            path,
            f"nothing in program {program.numbers[0]} ends with a SCLAB, so that nothing of it can be signed",
            "install a stage3 and a kernel that know secure IPL, and run zipl",
        )
    return tuple(chosen)


def _check_signature(path: str, component: FoundComponent, request: SealRequest, reader: SourceReader) -> None:
    """One of the trusted certificates must have made the signature that is there."""
    from sipl.crypto.verify import SignatureCheck, SignatureRejected, find_signer

    found = component.signature
    if found is None or not found.der:
        raise SealRefused(
            SealReason.FOREIGN_SIGNATURE,
            path,
            f"the component at {component.address:#x}, SHA-256 {component.digest}, has no signature that one of the "
            "certificates could verify",
            f"if you know what it is, say --component {component.address:#x}, or leave --boot-certs out",
        )
    try:
        find_signer(SignatureCheck(reader.content(component), found.der), request.trusted or (), request.now)
    except SignatureRejected as error:
        raise SealRefused(
            SealReason.FOREIGN_SIGNATURE,
            path,
            f"the signature that the component at {component.address:#x} has does not verify: {error.why}",
            "name its signer with --boot-certs, or leave --boot-certs out to sign whatever is there",
        ) from None


def _check_named(
    path: str, chosen: Sequence[tuple[FoundProgram, tuple[FoundComponent, ...]]], named: frozenset[int]
) -> None:
    there = {component.address for _, signed in chosen for component in signed}
    for address in sorted(named - there):
        raise SealRefused(
            SealReason.COMPONENT_NOT_FOUND,
            path,
            f"nothing is loaded at {address:#x}",
            "sipl inspect shows what is loaded where",
        )


def _sign(
    path: str,
    chosen: Sequence[tuple[FoundProgram, tuple[FoundComponent, ...]]],
    signer: Signs,
    reader: SourceReader,
    room: FreeRoom,
    block_size: int,
) -> tuple[PlannedProgram, ...]:
    """Make the signatures, one for each content."""
    made: dict[bytes, bytes] = {}

    def sign(data: bytearray) -> bytes:
        digest = hashlib.sha256(data).digest()
        if digest not in made:
            made[digest] = _signature(path, signer, data)
        return made[digest]

    programs = []
    for program, signed in chosen:
        components = []
        for component in program.components:
            new = component in signed
            kept = component.signature.der if component.signature is not None else b""
            signature = sign(reader.content(component)) if new else kept or None
            title = program.title(component) if component.sclab is not None else ""
            # The room that a former seal takes is free again when this one is in force.
            table = unpack(BlockPointer, component.entry.segment_table).block
            moved = _moved(path, component, reader, room, block_size) if room.first <= table < room.end else None
            components.append(PlannedComponent(component, title, signature, new, moved))
        sizes = {c.found.address: len(c.signature) for c in components if c.signature is not None}
        mended = mended_parameters(path, program, sizes, reader, block_size) if program.wanted else None
        if mended is not None:
            which, data = mended
            components = [_with_parameters(path, c, data, sign) if c.found is which else c for c in components]
        programs.append(PlannedProgram(program, tuple(components)))
    return tuple(programs)


def _moved(path: str, component: FoundComponent, reader: SourceReader, room: FreeRoom, block_size: int) -> bytes:
    """What a component holds whose tables lie in the room; only what a seal has put there can be so small."""
    if component.length > room.blocks * block_size:
        raise SealRefused(
            SealReason.NO_GAP,
            path,
            f"the component at {component.address:#x} would have to move, and is larger than the room in front of the "
            "first partition",
            _IN_GUEST,
        )
    return bytes(reader.content(component))


def _signature(path: str, signer: Signs, data: bytearray) -> bytes:
    try:
        signature = signer.sign(data)
    except SigningRefused as error:
        why = f"{error.where}: {error.why}" if error.where else error.why
        raise SealRefused(SealReason.SIGNATURE_UNUSABLE, path, why, error.hint) from error
    if len(signature) > MAX_SIGNATURE_LENGTH:
        raise SealRefused(
            SealReason.SIGNATURE_UNUSABLE,
            path,
            f"the signature has {len(signature)} bytes, {MAX_SIGNATURE_LENGTH} are possible",
            "use a certificate whose issuer has a shorter name",
        )
    return signature


def _with_parameters(
    path: str, component: PlannedComponent, data: bytes, sign: Callable[[bytearray], bytes]
) -> PlannedComponent:
    """The component of the loader's parameters with other content, and with a signature of it where it has one."""
    if component.signature is None:
        return component._replace(data=data)
    if not component.new:
        raise SealRefused(
            SealReason.WOULD_NOT_BOOT,
            path,
            "the loader's parameters would have to be adapted to the signature of the kernel, and are signed",
            f"sign them, too: --component {component.found.address:#x}",
        )
    return component._replace(data=data, signature=sign(bytearray(data)))


class _Builder:
    """Lays the new tables out in the room."""

    def __init__(
        self,
        path: str,
        block_size: int,
        source: Source,
        programs: tuple[PlannedProgram, ...],
        room: FreeRoom,
        former: bytes,
    ) -> None:
        self._path = path
        self._block_size = block_size
        self._source = source
        self._programs = programs
        self._room = room
        self._former = former

    def stages(self, kept: tuple[Frame, ...], stale: tuple[Frame, ...]) -> tuple[tuple[Stage, ...], bytes]:
        """The stages of the writing, and block 0 as it will be."""
        for program in self._programs:
            self._check_table(program)
        # Laid out twice: first to see how many blocks there are, then with their numbers.
        content, _ = self._content(_Endless())
        blocks = len(content) // self._block_size
        allotment = allot(self._path, self._room, kept, blocks, self._block_size)
        content, record = self._content(allotment.numbers)
        taken = {frame.generation for frame in self._room.frames}
        generation = next(number for number in range(1, len(taken) + 2) if number not in taken)
        return self._order(stale, allotment, content, generation), record

    def _order(
        self, stale: tuple[Frame, ...], allotment: Allotment, content: bytes, generation: int
    ) -> tuple[Stage, ...]:
        old_contents, old_headers = wipe_writes(stale, self._block_size)
        headers, contents = frame_writes(allotment, content, self._block_size, generation)
        stages = (
            Stage("clear what former seals have left", tuple(old_contents)),
            Stage("clear their headers", tuple(old_headers)),
            Stage("say which blocks are taken", tuple(headers)),
            Stage("write tables and signatures", tuple(contents)),
        )
        return tuple(stage for stage in stages if stage.writes)

    def _check_table(self, program: PlannedProgram) -> None:
        entries = len(program.components) + sum(c.signature is not None for c in program.components) + 1
        most = (self._block_size - COMPONENT_TABLE_HEADER_SIZE) // COMPONENT_ENTRY_SIZE
        if entries > most:
            raise SealRefused(
                SealReason.TABLE_FULL,
                self._path,
                f"program {program.found.numbers[0]} needs {entries} entries with its signatures, {most} fit into a "
                f"table of {self._block_size} bytes",
                "load less, or use a disk with larger blocks",
            )

    def _content(self, numbers: Numbers) -> tuple[bytes, bytes]:
        """All blocks of the seal, and block 0 that leads to them."""
        writer = RoomWriter(self._block_size, numbers)
        writer.append_block(bytes(self._block_size))  # the saved record, which names what follows
        signatures: dict[bytes, BlockPointer] = {}
        for program in self._programs:
            for component in program.components:
                der = component.signature
                if der is not None and der not in signatures:
                    signatures[der] = writer.append_segment_tables(writer.append(der, False))
        moved: dict[bytes, BlockPointer] = {}
        pointers: list[BlockPointer | None] = [pointer if pointer.block else None for pointer in self._source.pointers]
        for program in self._programs:
            entries: list[ComponentEntry] = []
            for component in program.components:
                if component.signature is not None:
                    info = pack(SignatureInfo(SIGNATURE_FORMAT_DER, len(component.signature)))
                    table = signatures[component.signature]
                    entries.append(ComponentEntry(pack(table), COMPONENT_SIGNATURE, info))
                entry = component.found.entry
                if component.data is not None:
                    if component.data not in moved:
                        moved[component.data] = writer.append_segment_tables(writer.append(component.data, False))
                    entry = entry._replace(segment_table=pack(moved[component.data]))
                entries.append(entry)
            table = writer.append_component_table([*entries, program.found.execute])
            for number in program.found.numbers:
                pointers[number] = table
        block0 = bytearray(self._source.block0)
        record = unpack(BootRecord, block0)._replace(program_table=pack(writer.append_program_table(pointers)))
        # What zipl has in the bytes between, stays.
        pointer_at = size_of(BootRecord) - len(record.program_table)
        block0[pointer_at : size_of(BootRecord)] = record.program_table
        saved = make_saved(self._former, bytes(block0[:BOOT_RECORD_SIZE]))
        writer.image[: len(saved)] = saved
        return bytes(writer.image), bytes(block0)


class _Endless:
    """Numbers of blocks, as many as are asked for, none of which follows another."""

    def __getitem__(self, place: int, /) -> int:
        return 2 + 2 * place


def carry_out(plan: SealPlan, image: OrderedImage, progress: Callable[[str], object] | None = None) -> None:
    """Write what a plan says. `progress` gets what is done next.

    Raises:
        ImageError: the host cannot keep it, or the disk is not the one that the plan was made for; the message says
            whether the disk boots as before.
        UndecidedError: the image cannot be read.
    """
    if image.read(0, plan.block_size) != plan.former:
        raise ImageError(image.path, "block 0 has changed since it was looked at", "who else writes to the image?")
    try:
        for stage in plan.stages:
            if progress is not None:
                progress(stage.what)
            for write in stage.writes:
                image.write_from(write.offset, memoryview(write.data))
            image.flush()
        # The last look before it counts.
        for write in plan.stages[-1].writes:
            if image.read(write.offset, len(write.data)) != write.data:
                raise ImageError(image.path, f"what was written to byte {write.offset:#x} is not there")
        if progress is not None:
            progress("make block 0 ready")
        image.make_private(0, plan.block_size)
        image.flush()
    except ImageError as error:
        raise ImageError(
            error.where, f"{error.why}; block 0 was not touched, the disk boots as before", error.hint
        ) from error
    if progress is not None:
        progress("write block 0")
    swap_record(image, plan.record)


def swap_record(image: OrderedImage, block0: bytes) -> None:
    """Write block 0, which is private by now, in one piece.

    Raises:
        ImageError: the host cannot keep it; the old record is there or the new one.
    """
    try:
        image.write_from(0, memoryview(block0))
        image.flush()
    except ImageError as error:
        why = f"{error.why}; block 0 holds the former boot record or the new one, and the disk boots with either"
        raise ImageError(error.where, why, error.hint) from error
