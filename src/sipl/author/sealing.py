"""Sealing and unsealing a disk image as a whole: open, plan, try, write, verify (docs/sealing.md).

What is to be written is tried on the boot side before a byte of it is written, and the result is verified from the
file. If that fails, the boot record that was there is put back.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.author.seal import SealPlan, SealRequest, carry_out, plan_seal, swap_record
from sipl.author.seal_report import SealReport, UnsealReport, content_digest, make_report
from sipl.author.seal_room import find_saved
from sipl.disk.block_size import find_block_size
from sipl.disk.free_room import find_frames
from sipl.disk.image import Image
from sipl.disk.open import open_image
from sipl.disk.open_writer import open_writer
from sipl.disk.partitions import read_partition_table
from sipl.doctor.sparse_defect import find_sparse_defect
from sipl.errors import SealRefused
from sipl.ipl import verify
from sipl.layout.boot_record import BOOT_RECORD_SIZE, ZIPL_MAGIC
from sipl.machine.cert_store import CertStore
from sipl.machine.options import DEFAULT_MEMORY, MachineOptions
from sipl.reasons import Level, SealReason
from sipl.settings import Disk, Settings
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sipl.author.seal import PlannedProgram
    from sipl.author.seal_source import FoundComponent
    from sipl.author.signer import Signer
    from sipl.disk.raw_writer import OrderedImage
    from sipl.report.model import Report

# The firmware has the last 3 MiB of memory and some room below them.
_ROOM_FOR_FIRMWARE: Final = 16 << 20
_MIB: Final = 1 << 20
# zipl puts nothing above it, and no boot map may ask for a guest of any size.
_MOST_MEMORY: Final = 2 << 30


class SealOptions(NamedTuple):
    """How a disk is sealed.

    `entries` are numbers of programs, None for all; `components` are load addresses of what is signed besides loader
    and kernel; with `boot_certs`, signatures that are there must be of one of these certificates. `at` is when they
    are judged (seconds since 1970, UTC; None is now). `step` gets what is done next, `read` how many bytes were read
    since its last call.
    """

    entries: frozenset[int] | None = None
    components: frozenset[int] = frozenset()
    boot_certs: tuple[str, ...] = ()
    dry_run: bool = False
    at: int | None = None
    allow_backing: bool = False
    backing_folder: str | None = None
    step: Callable[[str], object] = lambda _: None
    read: Callable[[int], object] = lambda _: None


_DEFAULTS: Final = SealOptions()


def seal(disk: Disk, signer: Signer, options: SealOptions = _DEFAULTS) -> SealReport:
    """Make a disk that zipl made bootable secure-bootable, in place.

    Raises:
        SealRefused: the disk stays as it is, for one of the reasons in docs/reasons.md.
        RefusedToStart: a certificate of `boot_certs` is not acceptable.
        UsageError: a program that is named is not there.
        SiplError: the key cannot sign.
        UndecidedError: the image cannot be read or written; if it was written to, it boots as before or sealed.
    """
    now = int(time.time()) if options.at is None else options.at
    trusted = None
    if options.boot_certs:
        store = CertStore.load(options.boot_certs, lambda *_: None)
        trusted = tuple(entry.certificate for entry in store.entries)
    with ExitStack() as stack:
        options.step("look at the disk")
        image: Image
        writer: OrderedImage | None = None
        if options.dry_run:
            image = stack.enter_context(
                open_image(disk.path, allow_backing=options.allow_backing, backing_folder=options.backing_folder)
            )
        else:
            image = writer = stack.enter_context(
                open_writer(disk.path, allow_backing=options.allow_backing, backing_folder=options.backing_folder)
            )
        block_size = disk.block_size or find_block_size(image)
        request = SealRequest(options.entries, options.components, trusted, now)
        plan = plan_seal(image, block_size, signer, request, _refuse_sparse(disk.path, block_size), options.read)
        trial = _Trial(disk, block_size, signer, plan, options, now)
        options.step("try what is to be written")
        reports = trial.verify(_Patched(image, plan))
        if writer is not None:
            carry_out(plan, writer, options.step)
            options.step("verify")
            try:
                reports = trial.verify(None)
            except SealRefused:
                swap_record(writer, plan.former)
                raise
        return make_report(disk.path, image.format, signer.certificate, plan, reports, dry_run=options.dry_run)


def unseal(disk: Disk, options: SealOptions = _DEFAULTS) -> UnsealReport:
    """Put the boot record back that a seal replaced: bytes 0 to 0x97 of block 0, and nothing else.

    Raises:
        SealRefused: not-sealed; a reason of the image or of its partition table.
        UndecidedError: the image cannot be read or written; if it was written to, block 0 is the old or the new one.
    """
    allow, folder = options.allow_backing, options.backing_folder
    if options.dry_run:
        with open_image(disk.path, allow_backing=allow, backing_folder=folder) as image:
            block_size, block0, former = _former(disk, image)
    else:
        with open_writer(disk.path, allow_backing=allow, backing_folder=folder) as image:
            block_size, block0, former = _former(disk, image)
            image.make_private(0, block_size)
            image.flush()
            swap_record(image, former + block0[BOOT_RECORD_SIZE:])
    return UnsealReport(
        printable(disk.path), image.format, block_size, options.dry_run, not options.dry_run, former.hex()
    )


def _former(disk: Disk, image: Image) -> tuple[int, bytes, bytes]:
    """Block size, block 0, and the boot record that a seal replaced."""
    block_size = disk.block_size or find_block_size(image)
    block0 = image.read(0, block_size)
    # What lies in a partition was written by whoever may write a file there, and is no word on block 0.
    first = read_partition_table(image, block_size).partitions[0].first
    frames = [frame for frame in find_frames(image, block_size) if frame.end <= first]
    saved = find_saved(image, block_size, frames, block0)
    if saved is None or not saved.former.startswith(ZIPL_MAGIC):
        raise SealRefused(
            SealReason.NOT_SEALED,
            disk.path,
            "the boot record is not one that sipl seal wrote, or its copy of the former one is gone",
            "run zipl in the guest if the disk is to boot otherwise",
        )
    return block_size, block0, saved.former


def _refuse_sparse(path: str, block_size: int) -> Callable[[FoundComponent], None]:
    def check(component: FoundComponent) -> None:
        defect = find_sparse_defect(component.runs, block_size)
        if defect is not None:
            raise SealRefused(
                SealReason.SPARSE_DEFECT,
                path,
                f"the boot map loads wrong bytes into the component at {component.address:#x}: its file has holes, and "
                f"zipl lost count at them ({defect.twice} blocks are named twice, {defect.early} runs begin too early)",
                "in the guest, copy the file with cp --sparse=never to its place, and run zipl",
            )

    return check


class _Patched(Image):
    """A disk as it will be when a plan is carried out."""

    __slots__ = ("_image", "_writes")

    def __init__(self, image: Image, plan: SealPlan) -> None:
        super().__init__(image.path, image.size, image.format, image.notes)
        self._image = image
        self._writes = [*(write for stage in plan.stages for write in stage.writes), plan.last]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`; see `Image.read_into`."""
        self._image.read_into(offset, buffer)
        for write in self._writes:
            start, end = max(offset, write.offset), min(offset + len(buffer), write.offset + len(write.data))
            if start < end:
                buffer[start - offset : end - offset] = write.data[start - write.offset : end - write.offset]

    def close(self) -> None:
        """Nothing to do: the image belongs to somebody else."""


class _Trial:
    """Boots every sealed program in secure mode, with the signer's certificate in the store."""

    def __init__(
        self, disk: Disk, block_size: int, signer: Signer, plan: SealPlan, options: SealOptions, now: int
    ) -> None:
        self._disk = disk._replace(block_size=block_size)
        self._certificate = signer.certificate
        self._plan = plan
        self._options = options
        self._now = now

    def verify(self, image: Image | None) -> tuple[Report, ...]:
        """The report of each program, of `image` or of the file.

        Raises:
            SealRefused: would-not-boot.
        """
        from tempfile import TemporaryDirectory

        from sipl.crypto.pem import pem_of

        with TemporaryDirectory(prefix="sipl-seal-") as folder:
            path = os.path.join(folder, "signer.pem")
            with open(path, "wb") as file:
                file.write(pem_of(self._certificate.der))
            certificates = (path, *(self._options.boot_certs if self._keeps_signatures() else ()))
            sealed = [program for program in self._plan.programs if program.found.wanted]
            return tuple(self._verify(program, certificates, image) for program in sealed)

    def _keeps_signatures(self) -> bool:
        components = [c for program in self._plan.programs if program.found.wanted for c in program.components]
        return any(component.signature is not None and not component.new for component in components)

    def _verify(self, program: PlannedProgram, certificates: Sequence[str], image: Image | None) -> Report:
        number = program.found.numbers[0]
        end = max(c.found.address + c.found.length for c in program.components)
        memory = min(max(DEFAULT_MEMORY, -(-(end + _ROOM_FOR_FIRMWARE) // _MIB) * _MIB), _MOST_MEMORY)
        machine = MachineOptions(boot_certs=tuple(certificates), loadparm=str(number) if number else "", memory=memory)
        settings = Settings(
            machine=machine,
            at=self._now,
            allow_backing=self._options.allow_backing or self._options.backing_folder is not None,
            backing_folder=self._options.backing_folder,
        )
        report = verify(self._disk, settings, image=image)
        if report.would_boot is not True:
            findings = [f for f in report.findings if f.level is not Level.INFO]
            why = f"{findings[0].reason}: {findings[0].message}" if findings else str(report.outcome)
            raise SealRefused(
                SealReason.WOULD_NOT_BOOT,
                self._disk.path,
                f"program {number} would not boot in secure mode when sealed: {why}",
                findings[0].hint if findings else "",
            )
        self._check_same(program, report)
        return report

    def _check_same(self, program: PlannedProgram, report: Report) -> None:
        """What is said of each component must be true of what was loaded, signed or not."""
        looked_at = [(component.found.address, content_digest(component)) for component in program.components]
        if looked_at != [(component.address, component.digest) for component in report.components]:
            raise SealRefused(
                SealReason.WOULD_NOT_BOOT,
                self._disk.path,
                "what boots is not what was looked at: a part of it lies where a seal writes, or somebody else writes "
                "to the image",
                "run zipl in the guest",
            )
