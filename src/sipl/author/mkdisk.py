"""Making a disk that boots, with secure IPL, from a kernel, a RAM disk and a command line (docs/making-disks.md)."""

from __future__ import annotations

import os
import time
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.author.boot_record import DiskWriter, Execute, Load
from sipl.author.host_files import same_file
from sipl.author.new_image import FORMATS, NewImage
from sipl.author.partition_table import (
    PARTITION_TYPE_LINUX,
    PARTITION_TYPE_NO_FILE_SYSTEM,
    Partition,
    write_partition_table,
)
from sipl.author.programs import Part, ProgramBuilder, Rules
from sipl.author.recipe import BootEntry, Recipe, make_recipe
from sipl.author.signer import DIGESTS, load_certificate, open_signer
from sipl.crypto.pem import pem_of
from sipl.errors import SiplError, UsageError
from sipl.ipl import boot, verify
from sipl.layout.stage3 import STAGE3_PSW
from sipl.machine.options import DEFAULT_MEMORY, MachineOptions
from sipl.reasons import Level, Outcome
from sipl.settings import Disk, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sipl.author.signer import AskPassphrase
    from sipl.crypto.certificate import Certificate
    from sipl.layout.boot_record import BlockPointer
    from sipl.layout.record import Buffer
    from sipl.report.model import Report

BLOCK_SIZES: Final = (512, 1024, 2048, 4096)
# Where the first partition starts, and what all partitions and the disk are multiples of.
MIB: Final = 1 << 20
# No file system of a host has files beyond this.
MAX_DISK_SIZE: Final = 1 << 50
# The boot side takes the last MiB of memory; a guest's kernel needs some more for itself.
_MEMORY_STEP: Final = 256 * MIB


class WouldNotBoot(SiplError):
    """The disk that was made does not pass the boot side; it was thrown away. `report` says why. Exit code 1."""

    def __init__(self, where: str, why: str, hint: str, report: Report) -> None:
        self.report = report
        super().__init__(where, why, hint)


class MadeComponent(NamedTuple):
    """A component of the new disk. `part` is what it is, `note` what it says about itself; `sha256` is hex."""

    part: str
    address: int
    length: int  # bytes, whole blocks
    sha256: str
    signed: bool
    signature_kept: bool
    note: str


class MadeEntry(NamedTuple):
    """An entry of the new disk; `number` is what is given as loadparm."""

    number: int
    name: str
    components: tuple[MadeComponent, ...]


class MadeDisk(NamedTuple):
    """A disk that was made, and that the boot side has accepted.

    `secure`: it boots in secure mode with the certificates given; otherwise in normal mode only. `closed`: nothing on
    it is unsigned. `unsigned` names the parts that are. `memory` is the size of the machine that it was tried with.
    """

    path: str
    format: str
    size: int  # bytes of the virtual disk
    block_size: int
    default: int
    entries: tuple[MadeEntry, ...]
    secure: bool
    closed: bool
    unsigned: tuple[str, ...]
    memory: int


def make_disk(
    path: str,
    entries: Recipe | BootEntry | Sequence[BootEntry],
    *,
    key: str | None = None,
    cert: str | None = None,
    passphrase: AskPassphrase | None = None,
    digest: str = DIGESTS[0],
    keep_signatures: bool = False,
    trusted: Sequence[str] = (),
    loader: str | None = None,
    closed: bool = False,
    default: str | int | None = None,
    environment: Mapping[str, str] | None = None,
    block_size: int = 512,
    size: int | None = None,
    image_format: str = "raw",
    at: int | None = None,
    force: bool = False,
) -> MadeDisk:
    """Make a new disk image at `path`, try it on the boot side, and only then put it there.

    With `key` (a PEM file or a PKCS#11 URI, see `passphrase`) and `cert` it is signed; without both it is not. With
    `keep_signatures` loader and kernel keep those that their files carry; `cert` or one of the certificates in
    `trusted` must verify them. `closed` leaves nothing unsigned. `loader` is zipl's stage3.bin; without it sipl's own
    loader is used. `default` and `environment` are for entries that are given as such, not as a `Recipe`. `size` is
    that of the disk in bytes; without it the disk is as large as it has to be. `at` is the time, in seconds since
    1970, that certificates are judged at; None is now. `force` replaces a file that is there.

    Raises:
        UsageError: options, files or an entry cannot be used.
        FileError: a file cannot be read, or the image cannot be written.
        SigningRefused, SigningError: it cannot be signed so that a machine would accept it.
        WouldNotBoot: the boot side does not accept the disk.
    """
    if block_size not in BLOCK_SIZES:
        raise UsageError("block size", f"{block_size} is not possible", "use 512, 1024, 2048 or 4096")
    if image_format not in FORMATS:
        raise UsageError("format", f"'{image_format}' is not known", f"use {' or '.join(FORMATS)}")
    _check_signing(key, cert, keep=keep_signatures, trusted=trusted, closed=closed, loader=loader)
    recipe = _recipe(entries, default, environment)
    _protect(path, [key, cert, loader, *trusted, *(name for e in recipe.entries for name in (e.kernel, e.initrd))])
    now = int(time.time()) if at is None else at
    certificates = [load_certificate(name) for name in (*([] if cert is None else [cert]), *trusted)]
    rules = Rules(block_size, closed, loader, None, keep_signatures, certificates, now)
    with NewImage(path, replace=force) as image:
        if key is None or cert is None:
            programs = _build(recipe, rules)
        else:
            with open_signer(key, cert, digest, passphrase=passphrase, now=now) as signer:
                rules = rules._replace(signer=signer)
                programs = _build(recipe, rules)
        content = _disk_of(programs, recipe.default, block_size)
        whole = _disk_size(size, len(content), block_size)
        _partition(content, whole, block_size)
        image.write(FORMATS[image_format], content, whole)
        memory = _memory(programs)
        reports = _try_out(image, recipe, rules, certificates, memory)
        image.commit()
    unsigned = tuple(dict.fromkeys(part.title for program in programs for part in program if part.signature is None))
    secure = rules.signed
    return MadeDisk(
        path,
        image_format,
        whole,
        block_size,
        recipe.default,
        tuple(_made(number, recipe, programs, reports) for number in range(1, len(programs) + 1)),
        secure,
        secure and not unsigned,
        unsigned,
        memory,
    )


def _check_signing(
    key: str | None, cert: str | None, *, keep: bool, trusted: Sequence[str], closed: bool, loader: str | None
) -> None:
    if key is not None and cert is None:
        raise UsageError("--key", "there is no certificate for it", "name it with --cert")
    if cert is not None and key is None and not keep:
        raise UsageError("--cert", "there is no key to sign with", "name it with --key, or say --keep-signatures")
    if keep and cert is None:
        raise UsageError("--keep-signatures", "there is no certificate to verify them with", "name it with --cert")
    if trusted and not keep:
        raise UsageError("--boot-certs", "no signatures are kept that they could verify", "say --keep-signatures")
    if closed and key is None:
        raise UsageError("--closed", "everything on a closed disk is signed, and there is no key", "name it with --key")
    if closed and loader is not None:
        why = "zipl's loader takes its parameters from anybody"
        raise UsageError("--closed", why, "leave --loader away: sipl's own does not")


def _protect(path: str, others: Sequence[str | None]) -> None:
    """A slip of the hand must not cost a key or a kernel, even where files may be replaced."""
    if any(other is not None and same_file(path, other) for other in others):
        raise UsageError(path, "it would be replaced, and is needed", "name another file")


def _recipe(
    entries: Recipe | BootEntry | Sequence[BootEntry],
    default: str | int | None,
    environment: Mapping[str, str] | None,
) -> Recipe:
    if isinstance(entries, Recipe):
        if default is not None or environment is not None:
            raise UsageError("disk", "default and environment are said twice", "say them in the recipe")
        return entries
    return make_recipe([entries] if isinstance(entries, BootEntry) else entries, default, environment)


def _build(recipe: Recipe, rules: Rules) -> list[list[Part]]:
    builder = ProgramBuilder(rules)
    return [builder.build(entry, recipe.environment) for entry in recipe.entries]


class _SharingWriter(DiskWriter):
    """Writes what several programs have in common once."""

    __slots__ = ("_written",)

    def __init__(self, block_size: int) -> None:
        super().__init__(block_size)
        self._written: dict[bytes, BlockPointer] = {}

    def append_data(self, data: bytes, merged: bool = True) -> BlockPointer:
        """Write it, unless that was done before."""
        if data not in self._written:
            self._written[data] = super().append_data(data, merged)
        return self._written[data]


def _disk_of(programs: list[list[Part]], default: int, block_size: int) -> bytearray:
    """The start of the disk; all of the boot data lies in the first partition, so that nobody takes it for free."""
    writer = _SharingWriter(block_size)
    writer.image += bytes(MIB - len(writer.image))
    tables = []
    for parts in programs:
        entries = [entry for part in parts for entry in writer.add_component(_load(part))]
        tables.append(writer.append_component_table([*entries, *writer.add_component(Execute(STAGE3_PSW))]))
    writer.write_boot_record(writer.append_program_table([tables[default - 1], *tables]))
    return writer.finish()


def _load(part: Part) -> Load:
    return Load(part.address, part.data, part.signature)


def _whole_mib(size: int) -> int:
    return size + -size % MIB


def _disk_size(wanted: int | None, content: int, block_size: int) -> int:
    needed = _whole_mib(content)
    if wanted is None:
        return needed
    if wanted % block_size or not needed <= wanted <= MAX_DISK_SIZE:
        why = f"{wanted} bytes are not possible"
        raise UsageError("--size", why, f"a multiple of {block_size}, at least {needed // MIB}M")
    return wanted


def _partition(image: bytearray, size: int, block_size: int) -> None:
    """One partition for the boot data, and one for what the guest likes where there is room."""
    boot_end = _whole_mib(len(image))
    partitions = [Partition(PARTITION_TYPE_NO_FILE_SYSTEM, MIB // block_size, (boot_end - MIB) // block_size)]
    if size - boot_end >= MIB:
        blocks = (size - boot_end) // block_size
        partitions.append(Partition(PARTITION_TYPE_LINUX, boot_end // block_size, blocks))
    write_partition_table(image, partitions)


def _memory(programs: list[list[Part]]) -> int:
    """A machine that has room for the programs, and as much again for what a kernel does with them."""
    end = max(part.address + len(part.data) for parts in programs for part in parts)
    needed = max(DEFAULT_MEMORY, 2 * end)
    return needed + -needed % _MEMORY_STEP


def _try_out(
    image: NewImage, recipe: Recipe, rules: Rules, certificates: Sequence[Certificate], memory: int
) -> list[Report]:
    """IPL every entry of the new disk, the default one first, as far as the loader; return the reports."""
    with TemporaryDirectory(prefix="sipl-mkdisk-") as folder:
        paths = []
        for number, certificate in enumerate(certificates):
            paths.append(os.path.join(folder, f"{number}.pem"))
            _write(paths[-1], pem_of(certificate.der))
        machine = MachineOptions(boot_certs=tuple(paths) if rules.signed else (), memory=memory)
        settings = Settings(machine=machine, at=rules.now)
        reports = []
        for number in range(len(recipe.entries) + 1):
            disk = Disk(image.temporary, block_size=rules.block_size, loadparm=str(number))
            report = verify(disk, settings) if rules.signed else boot([disk], settings)
            _check(image.path, number, report)
            if rules.closed and any(not component.signed for component in report.components):
                raise WouldNotBoot(image.path, "a component of it is not signed", "", report)
            reports.append(report)
    return reports


def _write(path: str, data: Buffer) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _check(path: str, number: int, report: Report) -> None:
    if report.outcome is Outcome.HANDS_OVER and report.would_boot:
        return
    errors = [finding for finding in report.findings if finding.level is Level.ERROR] or list(report.findings)
    why = f"{errors[0].reason}: {errors[0].message}" if errors else str(report.reason)
    raise WouldNotBoot(
        path, f"entry {number} would not boot, nothing was written: {why}", errors[0].hint if errors else "", report
    )


def _made(number: int, recipe: Recipe, programs: list[list[Part]], reports: list[Report]) -> MadeEntry:
    parts = programs[number - 1]
    components = tuple(
        MadeComponent(
            part.title,
            component.address,
            component.length,
            component.digest or "",
            component.signed,
            part.kept,
            part.note,
        )
        for part, component in zip(parts, reports[number].components, strict=True)
    )
    return MadeEntry(number, recipe.entries[number - 1].name, components)
