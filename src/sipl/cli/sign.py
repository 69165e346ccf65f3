"""`sipl sign`: append signatures to files, with a key at hand or in two steps with one that is elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sipl.cli.main import EXIT_YES
from sipl.cli.options import Parser
from sipl.cli.output import complain, write_lines
from sipl.cli.passphrase import Passphrase, add_passphrase_option
from sipl.errors import SigningRefused, SiplError, UsageError
from sipl.machine.options import parse_time

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from sipl.author.signed_file import FileSigned

EXIT_REFUSED: Final = 1


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 all are signed, 1 one is refused, 2 usage, or an I/O error."""
    from sipl.author.signer import DIGESTS
    from sipl.author.two_step import FORMS

    parser = Parser(
        "sign",
        "Append a signature to each file, as Linux's sign-file does, in place of any that it carries. What no machine "
        "would accept later is refused.",
        (
            "sipl sign --key key.pem --cert cert.pem stage3.bin vmlinuz",
            "sipl sign --key 'pkcs11:token=images;object=signing' --cert cert.pem -o signed.bin stage3.bin",
            "sipl sign --prepare stage3.bin -o request",
            "sipl sign --attach signature --cert cert.pem stage3.bin",
        ),
    )
    parser.usage = "sipl sign --key KEY --cert CERT [OPTION…] FILE…"
    parser.add_argument("files", metavar="FILE", nargs="+", help="a loader (stage3.bin) or a kernel image")
    parser.option("--key", metavar="KEY", help="private key: a PEM file or a PKCS#11 URI")
    parser.option("--cert", metavar="CERT", help="its certificate: a PEM or DER file")
    parser.option("--digest", metavar="NAME", help=f"{', '.join(DIGESTS)} (default: {DIGESTS[0]})")
    add_output_options(parser)
    parser.option("--prepare", action="store_true", help="only write what must be signed, to the file of -o")
    parser.option("--form", metavar="FORM", help=f"what --prepare writes: {', '.join(FORMS)} (default: {FORMS[0]})")
    parser.option("--attach", metavar="FILE", help="append the signature in FILE: a PKCS#7, or bare as a key makes it")
    add_passphrase_option(parser)
    parser.option("--at", metavar="TIME", help="the certificate must be valid at this time: ISO 8601, @SECONDS or now")
    parser.option("--force", action="store_true", help="sign what only some machine or some day would accept")
    given = parser.parse_intermixed_args(arguments)
    return _act(given)


def _act(given: argparse.Namespace) -> int:
    outputs = output_names(given)
    now = None if given.at is None else parse_time(given.at)
    if given.form is not None and not given.prepare:
        raise UsageError("--form", "it says what --prepare writes", "say --prepare, too")
    if given.prepare:
        return _prepare(given)
    if given.attach is not None:
        return _attach(given, outputs, now)
    if given.key is None or given.cert is None:
        raise UsageError("sipl sign", "--key and --cert are needed", "see sipl sign --help")
    return _sign(given, outputs, now)


def _sign(given: argparse.Namespace, outputs: Sequence[str | None], now: int | None) -> int:
    from sipl.author.signed_file import sign_file
    from sipl.author.signer import DIGESTS, open_signer

    secrets = (given.key, given.cert, given.passphrase_file)
    try:
        signer = open_signer(
            given.key,
            given.cert,
            given.digest or DIGESTS[0],
            passphrase=Passphrase(given.passphrase_file),
            now=now,
            force=given.force,
        )
    except SigningRefused as refusal:
        complain(str(refusal))
        return EXIT_REFUSED
    with signer:

        def sign(file: str, output: str | None) -> FileSigned:
            protect(output or file, secrets)
            return sign_file(file, signer, output=output, force=given.force)

        return each(given, outputs, sign)


def _prepare(given: argparse.Namespace) -> int:
    from sipl.author.host_files import replace_file
    from sipl.author.signer import DIGESTS
    from sipl.author.two_step import FORMS, prepare_signature

    for option, value in (("--attach", given.attach), ("--key", given.key), ("--output-dir", given.output_dir)):
        if value is not None:
            raise UsageError(option, "it does not go together with --prepare", "say one of them")
    if given.output is None:
        raise UsageError("--prepare", "the file to write is not named", "name it with -o")
    (file,) = given.files
    digest = given.digest or DIGESTS[0]
    form = given.form or FORMS[0]
    protect(given.output, (file, given.cert))
    try:
        request = prepare_signature(file, form, digest, force=given.force)
    except SigningRefused as refusal:
        complain(str(refusal))
        return EXIT_REFUSED
    replace_file(given.output, request)
    if not given.quiet:
        write_lines(
            [f"{given.output}: {_FORM_TITLES[form].format(digest)} of {file}, {len(request)} bytes to be signed"]
        )
    return EXIT_YES


_FORM_TITLES: Final = {"payload": "payload", "digest": "{} digest", "digest-info": "{} digest info"}


def _attach(given: argparse.Namespace, outputs: Sequence[str | None], now: int | None) -> int:
    from sipl.author.two_step import attach_signature

    if given.key is not None:
        raise UsageError("--key", "it does not go together with --attach", "say one of them")
    if given.cert is None:
        raise UsageError("--attach", "the certificate is not named", "name it with --cert")
    if len(given.files) != 1:
        raise UsageError("--attach", "a signature belongs to one file", "name one")

    def attach(file: str, output: str | None) -> FileSigned:
        protect(output or file, (given.cert, given.attach))
        return attach_signature(file, given.attach, given.cert, given.digest, output=output, now=now, force=given.force)

    return each(given, outputs, attach)


def add_output_options(parser: Parser) -> None:
    """Options that say where the result goes."""
    parser.option("-o", "--output", metavar="FILE", help="write to FILE instead of changing the file itself")
    parser.option("--output-dir", metavar="DIR", help="write to files of the same names in DIR")


def output_names(given: argparse.Namespace) -> list[str | None]:
    """Where the result of each file goes; None is the file itself.

    Raises:
        UsageError: the options contradict each other, or two results would go to one place.
    """
    if given.output is not None and given.output_dir is not None:
        raise UsageError("--output-dir", "it does not go together with -o", "say one of them")
    if given.output is not None:
        if len(given.files) != 1:
            raise UsageError("-o", f"{len(given.files)} files cannot become one", "name a directory with --output-dir")
        if os.path.isdir(given.output):
            raise UsageError(given.output, "this is a directory", "name a file, or say --output-dir")
        return [given.output]
    if given.output_dir is None:
        return [None] * len(given.files)
    if not os.path.isdir(given.output_dir):
        raise UsageError(given.output_dir, "this is no directory", "make it first")
    names = [os.path.basename(file) for file in given.files]
    if len(set(names)) != len(names) or "" in names:
        raise UsageError("--output-dir", "two files have the same name", "write them to different directories")
    return [os.path.join(given.output_dir, name) for name in names]


def protect(output: str, others: Sequence[str | None]) -> None:
    """A slip of the hand must not cost a key.

    Raises:
        UsageError: the file to be written is one of those that are read.
    """
    from sipl.author.host_files import same_file

    if any(other is not None and same_file(output, other) for other in others):
        raise UsageError(output, "it would be overwritten, and is needed", "name another file with -o")


def each(given: argparse.Namespace, outputs: Sequence[str | None], do: Callable[[str, str | None], FileSigned]) -> int:
    """Do something with each file and say what came of it; one that fails does not keep the others from it."""
    code = EXIT_YES
    for file, output in zip(given.files, outputs, strict=True):
        try:
            done = do(file, output)
        except SigningRefused as refusal:
            complain(str(refusal))
            code = max(code, EXIT_REFUSED)
            continue
        except SiplError as error:
            if len(given.files) == 1:
                raise
            complain(str(error))
            code = 2
            continue
        write_lines(_lines(done, given))
    return code


def _lines(done: FileSigned, given: argparse.Namespace) -> list[str]:
    from sipl.text import printable

    path = printable(done.path)
    if done.signature is None:
        what = f"{_count(done.removed)} removed" if done.removed else "not signed"
        lines = [f"{path}: {what}, {done.payload_length} bytes"]
    else:
        state = "signed" if done.changed else "signed already"
        old = f", {_count(done.removed)} removed" if done.removed else ""
        lines = [
            f"{path}: {state}, {done.payload_length} bytes of payload, {len(done.signature)} bytes of signature{old}"
        ]
    return lines if given.quiet else [*lines, *(f"  note: {printable(note)}" for note in done.notes)]


def _count(signatures: int) -> str:
    return "1 old signature" if signatures == 1 else f"{signatures} old signatures"
