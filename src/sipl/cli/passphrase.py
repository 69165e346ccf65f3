"""Where a passphrase comes from: a file, the environment, a person at the terminal; never the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sipl.author.signer import check_passphrase, read_passphrase
from sipl.errors import UsageError

if TYPE_CHECKING:
    from sipl.cli.options import Parser

VARIABLE: Final = "SIPL_PASSPHRASE"
_HINT: Final = f"give it with --passphrase-file or in ${VARIABLE}"


def add_passphrase_option(parser: Parser) -> None:
    """The option that names a file."""
    parser.option(
        "--passphrase-file",
        metavar="FILE",
        help=f"passphrase of the key or PIN of the token: first line of FILE (default: ${VARIABLE}, else a prompt)",
    )


class Passphrase:
    """Finds a passphrase when it is needed, and asks for each at most once."""

    def __init__(self, file: str | None, *, twice: bool = False) -> None:
        self._file = file
        self._twice = twice  # a new one, in which nobody would notice a typing error

    def __call__(self, what: str) -> bytes:
        """The passphrase; `what` it is for is shown at the prompt.

        Raises:
            UsageError: there is none, or nobody to ask.
        """
        if self._file is not None:
            return read_passphrase(self._file)
        given = os.environ.get(VARIABLE)
        if given is not None:
            return check_passphrase(os.fsencode(given), f"${VARIABLE}")
        return self._ask(what)

    def _ask(self, what: str) -> bytes:
        from getpass import getpass

        from sipl.text import printable

        if not _has_terminal():
            raise UsageError("", f"{what} is needed, and there is no terminal to ask at", _HINT)
        try:
            answer = getpass(f"{printable(what)}: ")
            if self._twice and getpass("once more: ") != answer:
                raise UsageError("", "the two passphrases differ", "try again")
        except EOFError:
            raise UsageError("", f"{what} is needed", _HINT) from None
        return check_passphrase(answer.encode("utf-8", "surrogateescape"), what)


def _has_terminal() -> bool:
    """Whether there is somebody to ask: at standard input, or at the terminal wherever that comes from."""
    if os.isatty(0):
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True
