"""`sipl mkdisk`: a new disk that boots, with secure IPL, from a kernel, a RAM disk and a command line."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Final

from sipl.cli.main import EXIT_YES
from sipl.cli.options import Parser
from sipl.cli.output import complain, write_lines
from sipl.cli.passphrase import Passphrase, add_passphrase_option
from sipl.errors import SigningRefused, UsageError
from sipl.machine.options import parse_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sipl.author.mkdisk import MadeDisk, MadeEntry
    from sipl.author.recipe import Recipe

EXIT_REFUSED: Final = 1
_SIZE: Final = re.compile(r"([0-9]{1,15})([KMGT]?)", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_OF_AN_ENTRY: Final = ("initrd", "cmdline", "name")


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 made and tried, 1 it would not boot, 2 usage, or an I/O error."""
    parser = _parser()
    given = parser.parse_args(arguments)
    from sipl.author.mkdisk import WouldNotBoot, make_disk

    try:
        made = make_disk(
            given.output,
            _recipe(given),
            key=given.key,
            cert=given.cert,
            passphrase=Passphrase(given.passphrase_file),
            digest=given.digest,
            keep_signatures=given.keep_signatures,
            trusted=given.boot_certs,
            loader=given.loader,
            closed=given.closed,
            block_size=given.block_size,
            size=given.size,
            image_format=given.format,
            at=None if given.at is None else parse_time(given.at),
            force=given.force,
        )
    except (SigningRefused, WouldNotBoot) as refusal:
        complain(str(refusal))
        return EXIT_REFUSED
    write_lines([_headline(made)] if given.quiet else _lines(made))
    return EXIT_YES


def _parser() -> Parser:
    from sipl.author.mkdisk import BLOCK_SIZES
    from sipl.author.new_image import FORMATS
    from sipl.author.signer import DIGESTS

    parser = Parser(
        "mkdisk",
        "Make a new disk image that boots, with secure IPL, from a kernel, a RAM disk and a command line. It is tried "
        "on the boot side before it is put to its place.",
        (
            "sipl mkdisk -o disk.raw --kernel vmlinuz --initrd initrd.img --key key.pem --cert cert.pem",
            "sipl mkdisk -o disk.raw --closed --kernel vmlinuz --initrd initrd.img --key key.pem --cert cert.pem",
            "sipl mkdisk -o disk.raw --config disk.toml --size 8G --key key.pem --cert cert.pem",
        ),
    )
    parser.usage = "sipl mkdisk -o IMAGE --kernel FILE [OPTION…]"
    parser.option("-o", "--output", metavar="IMAGE", required=True, help="write the disk image to this file")
    parser.option("--format", choices=tuple(FORMATS), default="raw", help="format of the image (default: raw)")
    parser.option("--size", metavar="SIZE", type=_size, help="size of the disk, such as 8G (default: as needed)")
    parser.option(
        "--block-size", metavar="BYTES", type=int, choices=BLOCK_SIZES, default=512, help="512 (default) to 4096"
    )
    parser.option("--force", action="store_true", help="replace the image if it is there")
    parser.option(
        "--kernel",
        metavar="FILE",
        action=_NewEntry,
        default=[],
        dest="entries",
        help="kernel (bzImage) of a boot entry; each one named begins an entry, and what follows belongs to it",
    )
    parser.option("--initrd", metavar="FILE", action=_ToEntry, help="its RAM disk")
    parser.option("--cmdline", metavar="TEXT", action=_ToEntry, help="its command line (default: the kernel's own)")
    parser.option("--name", metavar="NAME", action=_ToEntry, help="its name, for --default")
    parser.option("--default", metavar="ENTRY", help="number or name of the entry that boots by itself (default: 1)")
    parser.option("--config", metavar="FILE", help="take the entries from this TOML file instead")
    parser.option(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="what ${NAME} in a command line stands for"
    )
    parser.option("--envblk", metavar="FILE", help="take lines NAME=VALUE from this file, too")
    parser.option("--key", metavar="KEY", help="private key: a PEM file or a PKCS#11 URI (default: nothing is signed)")
    parser.option("--cert", metavar="CERT", help="its certificate: a PEM or DER file")
    parser.option("--digest", metavar="NAME", default=DIGESTS[0], help=f"{', '.join(DIGESTS)} (default: {DIGESTS[0]})")
    add_passphrase_option(parser)
    parser.option("--keep-signatures", action="store_true", help="keep those that loader and kernel carry")
    parser.option(
        "--boot-certs", metavar="CERT", action="append", default=[], help="one more certificate that may verify those"
    )
    parser.option("--loader", metavar="FILE", help="stage3.bin of s390-tools (default: sipl's own loader)")
    parser.option("--closed", action="store_true", help="leave nothing unsigned, and let nothing unsigned be added")
    parser.option("--at", metavar="TIME", help="judge certificates at this time: ISO 8601, @SECONDS or now")
    return parser


class _NewEntry(argparse.Action):
    """Begins an entry."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse for each kernel."""
        namespace.entries = [*namespace.entries, {"kernel": values}]


class _ToEntry(argparse.Action):
    """Says something about the entry that was begun last."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse for each option of an entry."""
        if not namespace.entries:
            raise UsageError(f"--{self.dest}", "there is no entry that it belongs to", "name the kernel before it")
        if self.dest in namespace.entries[-1]:
            raise UsageError(f"--{self.dest}", "it is said twice of one entry", "say it once behind each --kernel")
        namespace.entries[-1][self.dest] = values


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError("--size", f"'{text}' is no size", "write for example 8G, or a number of bytes")
    return int(found[1]) << _UNITS[found[2].upper()]


def _recipe(given: argparse.Namespace) -> Recipe:
    from sipl.author.environment import parse_variable, read_environment
    from sipl.author.recipe import BootEntry, make_recipe, read_recipe

    variables = {} if given.envblk is None else read_environment(given.envblk)
    variables |= dict(map(parse_variable, given.env))
    if given.config is None:
        wanted = variables if given.env or given.envblk is not None else None
        return make_recipe([BootEntry(**entry) for entry in given.entries], given.default, wanted)
    if given.entries:
        raise UsageError("--config", "entries are named with --kernel, too", "name them in one place")
    recipe = read_recipe(given.config)
    environment = recipe.environment
    if variables:
        environment = {**(environment or {}), **variables}
    default = recipe.default if given.default is None else given.default
    return make_recipe(recipe.entries, default, environment)


def _headline(made: MadeDisk) -> str:
    from sipl.text import printable

    if not made.secure:
        how = "not signed, boots in normal mode only"
    else:
        how = "closed, boots in secure mode" if made.closed else "boots in secure mode"
    size = f"{made.size >> 20} MiB" if not made.size & 0xFFFFF else f"{made.size} bytes"
    return f"{printable(made.path)}: {made.format}, {size} in blocks of {made.block_size}; {how}"


def _lines(made: MadeDisk) -> list[str]:
    lines = [_headline(made)]
    for entry in made.entries:
        lines += _entry_lines(entry, made)
    if made.secure:
        lines.append(f"  not signed: {', '.join(made.unsigned)}" if made.unsigned else "  not signed: nothing")
    return lines


def _entry_lines(entry: MadeEntry, made: MadeDisk) -> list[str]:
    from sipl.text import printable

    name = f" {printable(entry.name)}" if entry.name else ""
    lines = [f"  entry {entry.number}{name}{' (default)' if entry.number == made.default else ''}"]
    for part in entry.components:
        state = "not signed" if not part.signed else "signature kept" if part.signature_kept else "signed"
        note = f" ({printable(part.note, 60)})" if part.note else ""
        lines.append(
            f"    {part.part} at {part.address:#x}: {part.length} bytes, sha256 {part.sha256[:16]}…, {state}{note}"
        )
    return lines
