"""The certificate store: the X.509 certificates that the machine shows to its guest (docs/machine-options.md).

The store is built once, before the machine starts, from files and directories. Whatever is wrong with one of them
keeps the machine from starting: nothing that was named is left out in silence.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import RefusedToStart, SiplError
from sipl.layout.diag320 import HASH_SIZE, MAX_CERTIFICATES, VCB_HEADER_SIZE, VCE_HEADER_SIZE
from sipl.machine.ebcdic import certificate_name
from sipl.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sipl.crypto.certificate import Certificate

    Warn = Callable[[Reason, str, str, str], None]

SUFFIX: Final = ".pem"
# The boot side has 8192 bytes for an entry of one certificate; 192 of them are header, key identifier and hash.
MAX_DER_SIZE: Final = 8000
# A folder for certificates has at most 64 of them; this is for the one who names his system's library by mistake.
MAX_DIRECTORY_ENTRIES: Final = 10_000
# Not every system has all of them; O_BINARY is for those that would translate line ends.
_OPEN_FLAGS: Final = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_CHUNK: Final = 64 * 1024  # what is read at once: nearly every file is shorter


def ceil4(size: int) -> int:
    """A size in bytes rounded up to whole words."""
    return (size + 3) & ~3


class StoreEntry(NamedTuple):
    """One certificate of the store."""

    path: str
    name: bytes  # 64 bytes EBCDIC, padded with blanks
    certificate: Certificate

    @property
    def data_length(self) -> int:
        """Bytes that key identifier, hash and certificate take."""
        return 2 * HASH_SIZE + ceil4(len(self.certificate.der))

    @property
    def vce_length(self) -> int:
        """Length of the entry that the guest gets, header included."""
        return VCE_HEADER_SIZE + self.data_length


class CertStore:
    """The certificates in the order in which the guest counts them; `entries[0]` is certificate 1 of DIAGNOSE 320."""

    __slots__ = ("entries", "largest", "total")

    def __init__(self, entries: Iterable[StoreEntry] = ()) -> None:
        self.entries: tuple[StoreEntry, ...] = tuple(entries)
        lengths = [entry.data_length for entry in self.entries]
        self.largest: int = max(lengths, default=0)
        self.total: int = sum(lengths)

    @classmethod
    def load(cls, paths: Sequence[str], warn: Warn) -> CertStore:
        """Build the store from files that end in `.pem` and from directories.

        A directory gives its entries that end in `.pem`, sorted by name; the ones below it are not looked at. `warn`
        gets each warning: reason, where, why, what to do.

        Raises:
            RefusedToStart: a path, a file or a certificate is not acceptable, or there are too many.
        """
        files = [file for path in paths for file in _files_of(path, warn)]
        if len(files) > MAX_CERTIFICATES:
            raise RefusedToStart(
                Reason.TOO_MANY_CERTIFICATES,
                "certificate store",
                f"{len(files)} certificates are given, a machine holds at most {MAX_CERTIFICATES}",
                "name fewer certificates",
            )
        return cls(_read_entry(file) for file in files)

    @property
    def count(self) -> int:
        """How many certificates there are."""
        return len(self.entries)

    @property
    def max_single_vcb_len(self) -> int:
        """Bytes that a guest needs to be given any one certificate."""
        return VCB_HEADER_SIZE + VCE_HEADER_SIZE + self.largest

    @property
    def total_vcb_len(self) -> int:
        """Bytes that a guest needs to be given all certificates at once."""
        return VCB_HEADER_SIZE + VCE_HEADER_SIZE * self.count + self.total


def _files_of(path: str, warn: Warn) -> list[str]:
    """The certificate files that a path of the options stands for; none of them is opened."""
    if not path:
        raise RefusedToStart(
            Reason.CERTIFICATE_PATH, "certificate store", "a certificate path is empty", "name a file or a directory"
        )
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise RefusedToStart(
            Reason.CERTIFICATE_PATH, path, f"cannot be found: {_explain(error)}", "name a file or a directory"
        ) from error
    if stat.S_ISDIR(mode):
        return _files_in(path, warn)
    if not stat.S_ISREG(mode):
        raise RefusedToStart(
            Reason.CERTIFICATE_PATH, path, "is neither a regular file nor a directory", "name a file or a directory"
        )
    if not path.endswith(SUFFIX):
        raise RefusedToStart(
            Reason.CERTIFICATE_NOT_PEM, path, f"the name of a certificate file must end in {SUFFIX}", "rename the file"
        )
    return [path]


def _files_in(path: str, warn: Warn) -> list[str]:
    names = _names_in(path)
    if not names:
        warn(
            Reason.CERTIFICATE_DIRECTORY_EMPTY,
            path,
            "the directory is empty",
            "put a certificate there",
        )
    files = []
    for name in names:
        file = os.path.join(path, name)
        if name.endswith(SUFFIX):
            files.append(file)
        else:
            warn(
                Reason.CERTIFICATE_SKIPPED,
                file,
                f"the name does not end in {SUFFIX}, skipped",
                "rename it or remove it",
            )
    return files


def _names_in(path: str) -> list[str]:
    names: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if len(names) == MAX_DIRECTORY_ENTRIES:
                    raise RefusedToStart(
                        Reason.CERTIFICATE_PATH,
                        path,
                        f"the directory has more than {MAX_DIRECTORY_ENTRIES} entries",
                        "name a directory that holds nothing but certificates",
                    )
                names.append(entry.name)
    except OSError as error:
        raise RefusedToStart(
            Reason.CERTIFICATE_PATH, path, f"the directory cannot be read: {_explain(error)}", "check its permissions"
        ) from error
    return sorted(names, key=os.fsencode)


def _read_entry(path: str) -> StoreEntry:
    from sipl.crypto.certificate import Certificate

    data = _read_file(path)
    try:
        certificate = Certificate.from_pem(data)
    except SiplError as error:
        raise RefusedToStart(
            Reason.CERTIFICATE_UNREADABLE, path, error.why, error.hint or "give an X.509 certificate in PEM form"
        ) from error
    size = len(certificate.der)
    if ceil4(size) > MAX_DER_SIZE:
        raise RefusedToStart(
            Reason.CERTIFICATE_TOO_LARGE,
            path,
            f"the certificate has {size} bytes, the boot side takes at most {MAX_DER_SIZE}",
            "use a certificate with a smaller key or fewer extensions",
        )
    name = os.path.basename(path)
    return StoreEntry(path, certificate_name(os.fsencode(name)), certificate)


def _read_file(path: str) -> bytes:
    """Read a certificate file. A name in a directory may belong to anything, and nothing may keep us waiting."""
    from sipl.crypto.pem import MAX_CERTIFICATE_FILE

    try:
        descriptor = os.open(path, _OPEN_FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _unreadable(path, "is not a regular file")
            data = b""
            while len(data) <= MAX_CERTIFICATE_FILE and (chunk := os.read(descriptor, _CHUNK)):
                data += chunk
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {_explain(error)}") from error
    if len(data) > MAX_CERTIFICATE_FILE:
        raise _unreadable(path, f"is longer than {MAX_CERTIFICATE_FILE} bytes")
    return data


def _unreadable(path: str, why: str) -> RefusedToStart:
    return RefusedToStart(Reason.CERTIFICATE_UNREADABLE, path, why, "give a file with one certificate in PEM form")


def _explain(error: OSError | ValueError) -> str:
    return error.strerror or "unknown error" if isinstance(error, OSError) else "the name is not valid"
