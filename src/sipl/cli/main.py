"""The entry point: finds the command, runs it, turns every end into an exit code and every error into one line."""

from __future__ import annotations

import errno
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final

from sipl.cli.output import complain, discard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Module of the same name in this package (with _ for -), and what stands in the overview.
COMMANDS: Final = {
    "boot": "IPL one guest from disks in boot order",
    "verify": "judge disks: would they boot in secure mode, and what speaks against it",
    "doctor": "say what exactly is to be done until a disk boots in secure mode",
    "inspect": "show the boot map of a disk: programs, components, signatures, SCLABs",
    "certs": "show the certificate store as the guest will see it",
    "keygen": "make a key and its certificate",
    "sign": "sign loaders and kernels, as Linux's sign-file does",
    "strip": "take signatures off files",
    "show-signature": "show the signature that a file carries",
    "mkdisk": "make a disk that boots in secure mode, of a kernel and a RAM disk",
    "seal": "make a disk image secure-bootable in place, without its file systems",
    "unseal": "put the boot record back that seal replaced",
    "demo": "make a key, a certificate and a secure-bootable disk, and IPL it",
}

EXIT_YES: Final = 0
EXIT_UNDECIDED: Final = 2

# What a host has run out of; any step can be the one that notices.
_SHORTAGES: Final = {
    errno.EMFILE: "too many open files (raise the limit: ulimit -n)",
    errno.ENFILE: "too many files are open on this host (end what is not needed)",
    errno.ENOMEM: "out of memory (end what is not needed, or raise the limit: ulimit -v)",
}
# What a write to standard output can end with; on Windows EINVAL is a reader who has left.
_WRITING: Final = frozenset(
    {errno.EAGAIN, errno.EBADF, errno.ECONNRESET, errno.EFBIG, errno.EINVAL, errno.EIO, errno.ENOSPC, errno.ENXIO}
    | {getattr(errno, name) for name in ("EDQUOT", "ESTALE") if hasattr(errno, name)}
)


def entry() -> None:
    """Console script."""
    prepare_output()
    sys.exit(run(sys.argv[1:]))


def prepare_output() -> None:
    """Make standard output and error fit for any text; a shell can have closed either (`>&-`)."""
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()
    # The locale decides about the encoding, not about whether there is an answer.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _nowhere() -> TextIOWrapper:
    import os

    return open(os.devnull, "w", encoding="utf-8")


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the result is the exit code: 0 yes, 1 no, 2 could not decide or wrong usage."""
    words = list(arguments)
    shared = []
    while words and words[0] in ("-q", "--quiet", "-v", "--verbose"):
        shared.append(words.pop(0))
    verbose = any(word in ("-v", "--verbose") for word in (*shared, *words))
    return guarded(lambda: _dispatch(words, shared), verbose=verbose)


def guarded(command: Callable[[], int], *, verbose: bool = False) -> int:
    """The exit code of a command, whatever happens in it; `verbose` shows where an internal error comes from."""
    try:
        code = _code_of(command)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("interrupted: there is no verdict")
    except Exception as error:  # noqa: BLE001 (the last resort of the program: no traceback reaches a person unasked)
        return _explain(error, verbose)
    return code


def _code_of(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit:  # argparse has shown its help
        return EXIT_YES


def _explain(error: Exception, verbose: bool) -> int:
    """One line about an exception; what it takes is imported late, as most commands end without one."""
    shortage = _SHORTAGES.get(error.errno or 0) if isinstance(error, OSError) else None
    if shortage is not None:
        # First of all: without a descriptor nothing can be imported, nor anything opened.
        return _fail(f"this process: {shortage}")
    from sipl.errors import SiplError

    if isinstance(error, SiplError):
        return _fail(str(error))
    if isinstance(error, BrokenPipeError):
        discard(sys.stdout)
        return EXIT_UNDECIDED
    if isinstance(error, OSError) and error.filename is None and error.errno in _WRITING:
        # Only what names no file is left: each file that is read or written has its own error.
        discard(sys.stdout)
        return _fail(f"standard output: cannot be written: {error.strerror}")
    return _unexpected(error, verbose)


def _dispatch(words: list[str], shared: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        return _overview(words)
    if words[0] == "--version":
        from sipl._version import __version__

        sys.stdout.write(f"sipl {__version__}\n")
        return EXIT_YES
    return _command(words[0], [*shared, *words[1:]])


def _overview(words: list[str]) -> int:
    if len(words) > 1:
        return _command(words[1], ["--help"])
    lines = [
        "usage: sipl COMMAND [OPTION…] [DISK…]",
        "",
        "Secure IPL for Linux on IBM Z: verify, inspect and boot s390x disk images from any host.",
        "",
        "commands:",
        *(f"  {name:<15} {what}" for name, what in COMMANDS.items()),
        "",
        "options:",
        "  -h, --help     show this, or with a command its own help",
        "  -q, --quiet    only the verdict",
        "  -v, --verbose  also what is in order",
        "  --version      show the version",
        "",
        "examples:",
        "  sipl verify --boot-certs cert.pem disk.qcow2",
        "  sipl boot --secure-boot on --boot-certs certs/ disk.raw",
        "  sipl doctor disk.qcow2",
        "  sipl inspect disk.qcow2",
        "",
        "exit codes: 0 yes, 1 no, 2 could not decide or wrong usage",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return EXIT_YES


def _command(name: str, arguments: list[str]) -> int:
    from importlib import import_module

    if name not in COMMANDS:
        from sipl.errors import UsageError

        raise UsageError("", f"there is no command '{name}'", f"one of {', '.join(COMMANDS)}")
    module = import_module(f"sipl.cli.{name.replace('-', '_')}")
    code: int = module.run(arguments)
    return code


def _fail(message: str) -> int:
    complain(message)
    return EXIT_UNDECIDED


def _unexpected(error: Exception, verbose: bool) -> int:
    if verbose:
        import traceback

        traceback.print_exc()
    from sipl.text import printable

    text = printable(f"{type(error).__name__}: {error}")
    return _fail(f"internal error, there is no verdict: {text} (a bug in sipl; -v shows where)")
