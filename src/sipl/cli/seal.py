"""`sipl seal`: sign loader and kernel of a disk image in place, without its file systems."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from sipl.cli.main import EXIT_YES
from sipl.cli.options import Parser, add_disk_options
from sipl.cli.output import complain, write_json, write_lines
from sipl.cli.passphrase import Passphrase, add_passphrase_option
from sipl.cli.step_progress import StepProgress
from sipl.errors import RefusedToStart, SealRefused, SigningRefused, UsageError
from sipl.machine.options import parse_time

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sipl.author.signer import Signer
    from sipl.settings import Disk

EXIT_REFUSED: Final = 1
# What a load address can be; the field has 64 bits.
_ADDRESS_LIMIT: Final = 1 << 64


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 all are sealed, 1 one is refused, 2 usage, or an I/O error."""
    from sipl.author.signer import DIGESTS

    parser = Parser(
        "seal",
        "Make disk images that zipl made bootable secure-bootable, in place: loader and kernel are signed as they are "
        "loaded, and the signatures go to free room in front of the first partition. No file system is touched, and a "
        "power cut leaves the disk as it was or sealed.",
        (
            "sipl seal --key key.pem --cert cert.pem disk.qcow2",
            "sipl seal --dry-run --key key.pem --cert cert.pem disk.qcow2",
            "sipl seal --entry 2 --key 'pkcs11:token=images;object=signing' --cert cert.pem disk.raw",
        ),
    )
    parser.usage = "sipl seal --key KEY --cert CERT [OPTION…] IMAGE…"
    parser.option("--key", metavar="KEY", help="private key: a PEM file or a PKCS#11 URI")
    parser.option("--cert", metavar="CERT", help="its certificate: a PEM or DER file")
    parser.option("--digest", metavar="NAME", default=DIGESTS[0], help=f"{', '.join(DIGESTS)} (default: {DIGESTS[0]})")
    add_passphrase_option(parser)
    parser.option(
        "--entry",
        metavar="N",
        type=_entry,
        action="append",
        help="seal this program of the boot menu; can be repeated (default: all of them)",
    )
    parser.option(
        "--component",
        metavar="ADDR",
        type=_address,
        action="append",
        default=[],
        help="sign what is loaded at this address, too, if it ends with a SCLAB; can be repeated",
    )
    parser.option(
        "--boot-certs",
        metavar="PATH",
        action="append",
        default=[],
        help="sign only what carries a signature that one of these certificates verifies; can be repeated",
    )
    parser.option("--dry-run", action="store_true", help="show what would be written, and write nothing")
    parser.option("--at", metavar="TIME", help="judge certificates at this time: ISO 8601, @SECONDS or now")
    add_disk_options(parser)
    parser.option("--json", action="store_true", help="print each report as one line of JSON (sipl.seal/1)")
    given = parser.parse_in_order(arguments)
    if not given.disks:
        raise UsageError("sipl seal", "no disk is named", "see sipl seal --help")
    if given.key is None or given.cert is None:
        raise UsageError("sipl seal", "--key and --cert are needed", "see sipl seal --help")
    return _seal_all(given)


def _entry(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 30:
        raise UsageError("--entry", f"'{text}' is no number of a program", "a number from 0 to 30; 0 is the default")
    return int(text)


def _address(text: str) -> int:
    try:
        address = int(text, 0)
    except ValueError:
        address = -1
    if not text.isascii() or not 0 <= address < _ADDRESS_LIMIT:
        raise UsageError("--component", f"'{text}' is no address", "a number such as 0x10000")
    return address


def _seal_all(given: argparse.Namespace) -> int:
    from sipl.author.signer import open_signer

    now = None if given.at is None else parse_time(given.at)
    try:
        signer = open_signer(given.key, given.cert, given.digest, passphrase=Passphrase(given.passphrase_file), now=now)
    except SigningRefused as refusal:
        complain(str(refusal))
        return EXIT_REFUSED
    with signer:
        return max(_seal(disk, signer, given, now) for disk in given.disks)


def _seal(disk: Disk, signer: Signer, given: argparse.Namespace, now: int | None) -> int:
    from sipl.author.seal_report import SEAL_SCHEMA, refusal_dict, seal_dict, seal_lines
    from sipl.author.sealing import SealOptions, seal

    progress = StepProgress(sys.stderr, disk.path, shown=not given.quiet)
    options = SealOptions(
        entries=None if given.entry is None else frozenset(given.entry),
        components=frozenset(given.component),
        boot_certs=tuple(given.boot_certs),
        dry_run=given.dry_run,
        at=now,
        allow_backing=given.allow_backing or given.backing_folder is not None,
        backing_folder=given.backing_folder,
        step=progress.step,
        read=progress.read,
    )
    try:
        report = seal(disk, signer, options)
    except SealRefused as refusal:
        progress.clear()
        if given.json:
            write_json(refusal_dict(SEAL_SCHEMA, disk, refusal))
        else:
            complain(f"{refusal.reason}: {refusal}")
        return EXIT_REFUSED
    except RefusedToStart as refused:
        progress.clear()
        complain(f"{refused.reason}: {refused}")
        return EXIT_REFUSED
    finally:
        progress.clear()
    if given.json:
        write_json(seal_dict(report))
    else:
        write_lines(seal_lines(report, quiet=given.quiet, verbose=given.verbose))
    return EXIT_YES
