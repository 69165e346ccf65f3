"""`sipl keygen`: a private key and a certificate for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.cli.main import EXIT_YES
from sipl.cli.options import Parser
from sipl.cli.output import write_lines
from sipl.cli.passphrase import Passphrase, add_passphrase_option
from sipl.errors import UsageError
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 made, 2 not made."""
    from sipl.author.key_files import COMMON_NAME, DAYS, KINDS, make_key

    parser = Parser(
        "keygen",
        "Make a private key, readable for its owner only, and a certificate for it, signed by itself, for a machine's "
        "store.",
        (
            "sipl keygen --key key.pem --cert cert.pem",
            "sipl keygen --kind p521 --cn 'Example images' --days 730 --key key.pem --cert cert.pem",
            "sipl keygen --encrypt --key key.pem --cert cert.pem",
        ),
    )
    parser.option("--key", metavar="FILE", required=True, help="write the private key to FILE (PEM, PKCS#8)")
    parser.option("--cert", metavar="FILE", required=True, help="write the certificate to FILE (PEM)")
    parser.option("--kind", metavar="KIND", default=KINDS[0], help=f"{', '.join(KINDS)} (default: {KINDS[0]})")
    parser.option("--cn", metavar="NAME", default=COMMON_NAME, help=f"name in the certificate (default: {COMMON_NAME})")
    parser.option("--days", metavar="N", default=DAYS, type=_days, help=f"how long it is valid (default: {DAYS})")
    parser.option("--encrypt", action="store_true", help="encrypt the private key with a passphrase")
    add_passphrase_option(parser)
    parser.option("--force", action="store_true", help="replace files that are there")
    given = parser.parse_args(arguments)
    wanted = given.encrypt or given.passphrase_file is not None
    passphrase = Passphrase(given.passphrase_file, twice=True)("a passphrase for the new key") if wanted else None
    made = make_key(
        given.key,
        given.cert,
        given.kind,
        common_name=given.cn,
        days=given.days,
        passphrase=passphrase,
        force=given.force,
    )
    how = "encrypted" if made.encrypted else "not encrypted"
    lines = [
        f"made the key {printable(made.key)}: {made.key_name}, {how}",
        f"made the certificate {printable(made.certificate)}: {made.subject}, valid until {made.not_after}",
    ]
    write_lines(() if given.quiet else lines)
    return EXIT_YES


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise UsageError("--days", f"'{text}' is no number of days", "a number such as 730")
    return int(text)
