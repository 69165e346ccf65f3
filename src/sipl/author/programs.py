"""From the files of an entry to the components of its program (docs/making-disks.md, "What is written")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.author import loader, sclab
from sipl.author.environment import build_environment, expand
from sipl.author.host_files import read_file
from sipl.author.linux_image import read_linux_image
from sipl.author.placement import COMMAND_LINE_ROOM, HIGHEST_END, INITRD_ALIGNMENT, PAGE, Floating, Span, place
from sipl.author.signed_file import check_payload, naming
from sipl.author.signer import accept
from sipl.crypto.appended_signature import TrailerDamaged, payload_length, read_layer
from sipl.crypto.verify import RejectionKind
from sipl.errors import SigningRefused, UsageError
from sipl.layout.environment import ENVIRONMENT_SIZE
from sipl.layout.module_signature import MODULE_SIGNATURE_TRAILER_SIZE
from sipl.layout.record import pack
from sipl.layout.sclab import SCLAB_MIN_LENGTH, SclabFlags
from sipl.layout.stage3 import (
    FLAG_SCSI,
    KERNEL_ADDRESS,
    KERNEL_PSW,
    STAGE3_ENTRY,
    STAGE3_HEAP,
    STAGE3_HEAP_SIZE,
    STAGE3_LENGTH,
    STAGE3_PARAMETERS,
    STAGE3_PSW,
    STAGE3_STACK,
    STAGE3_STACK_SIZE,
    UNSPECIFIED_ADDRESS,
    Stage3Parameters,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sipl.author.linux_image import LinuxImage
    from sipl.author.recipe import BootEntry
    from sipl.author.signer import Signer
    from sipl.crypto.certificate import Certificate

# Nothing larger can be loaded.
MAX_FILE: Final = HIGHEST_END

_COMMAND_LINE: Final = "command line"
_INITRD: Final = "initrd"
_ENVIRONMENT: Final = "environment block"


class Part(NamedTuple):
    """A component of a program: what it is, where it is loaded, and its bytes as they are signed."""

    title: str
    address: int
    data: bytes
    signature: bytes | None = None
    kept: bool = False  # the signature is the one that the file carried
    note: str = ""  # what it says about itself


class Rules(NamedTuple):
    """What holds for all entries of a disk.

    `signer` makes the signatures; without one nothing is signed. With `keep` the files of loader and kernel keep the
    signatures that they carry, each of which one of the `trusted` certificates must verify at `now` (seconds since
    1970).
    """

    block_size: int
    closed: bool = False
    loader: str | None = None  # file of zipl's stage3; None: sipl's own loader
    signer: Signer | None = None
    keep: bool = False
    trusted: Sequence[Certificate] = ()
    now: int = 0

    @property
    def signed(self) -> bool:
        """Whether the disk is one for secure IPL."""
        return self.keep or self.signer is not None


class _Code(NamedTuple):
    """Loader or kernel: what is loaded of its file, and the signature to go with it."""

    payload: bytes
    signature: bytes | None
    kept: bool

    @property
    def file_length(self) -> int:
        """Bytes of the file with its signature, as zipl counts them."""
        trailer = 0 if self.signature is None else len(self.signature) + MODULE_SIGNATURE_TRAILER_SIZE
        return len(self.payload) + trailer


class _Loose(NamedTuple):
    """A part that is to be placed; `room` is what is kept free for it."""

    title: str
    data: bytes
    room: int
    alignment: int = PAGE
    note: str = ""


class ProgramBuilder:
    """Builds the programs of one disk; what several entries have in common is read and signed once."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._files: dict[str, bytes] = {}
        self._codes: dict[str, _Code] = {}
        self._signatures: dict[bytes, bytes] = {}

    def build(self, entry: BootEntry, environment: Mapping[str, str] | None) -> list[Part]:
        """The components in the order of the table, without the EXEC entry.

        Raises:
            FileError: a file cannot be read.
            UsageError: a file, the command line or the environment cannot be used.
            SigningRefused: no machine would accept a signature.
            SigningError: the key cannot sign.
        """
        rules = self._rules
        loading = self._own_loader() if rules.loader is None else self._foreign_loader(rules.loader)
        kernel = self._code(entry.kernel)
        linux = read_linux_image(kernel.payload, entry.kernel)
        loose = {part.title: part for part in self._loose_parts(entry, environment, linux)}
        floating = [Floating(part.title, part.room, part.alignment) for part in loose.values()]
        addresses = place([Span(KERNEL_ADDRESS, kernel.file_length)], floating)
        where = dict(zip(loose, addresses, strict=True))
        parameters = Stage3Parameters(
            parmline_address=where.get(_COMMAND_LINE, UNSPECIFIED_ADDRESS),
            initrd_address=where.get(_INITRD, 0),
            initrd_length=len(loose[_INITRD].data) if _INITRD in loose else 0,
            kernel_psw=KERNEL_PSW,
            extra_parameters=0,
            flags=FLAG_SCSI,
            kernel_length=kernel.file_length,
            kernel_address=KERNEL_ADDRESS,
            environment_address=where.get(_ENVIRONMENT, UNSPECIFIED_ADDRESS),
            environment_length=len(loose[_ENVIRONMENT].data) if _ENVIRONMENT in loose else 0,
        )
        return [
            *([] if rules.loader is None else _dummies()),
            Part("loader", STAGE3_ENTRY, *loading, "sipl's own" if rules.loader is None else ""),
            self._data("parameters", STAGE3_PARAMETERS, pack(parameters)),
            Part("kernel", KERNEL_ADDRESS, *kernel, f"Linux {linux.version}".rstrip()),
            *(self._data(part.title, where[part.title], part.data, part.note) for part in loose.values()),
        ]

    def _loose_parts(
        self, entry: BootEntry, environment: Mapping[str, str] | None, linux: LinuxImage
    ) -> Iterator[_Loose]:
        """What has no fixed address, in the order in which zipl places it."""
        rules = self._rules
        if entry.cmdline is not None:
            line = command_line(entry.cmdline, environment, linux, entry.kernel)
            yield _Loose(_COMMAND_LINE, line, COMMAND_LINE_ROOM, note=entry.cmdline)
        if entry.initrd is not None:
            initrd = self._initrd(entry.initrd)
            # A closed disk fills it up to whole blocks, with the attributes behind it.
            room = len(initrd) + (rules.block_size + SCLAB_MIN_LENGTH if rules.closed else 0)
            yield _Loose(_INITRD, initrd, room, INITRD_ALIGNMENT)
        if environment is not None or rules.loader is not None:
            # One block of it is always there for zipl's loader.
            size = ENVIRONMENT_SIZE - (SCLAB_MIN_LENGTH if rules.closed else 0)
            names = ", ".join(environment or ())
            yield _Loose(_ENVIRONMENT, build_environment(environment or {}, size), ENVIRONMENT_SIZE, note=names)

    def _read(self, path: str, what: str) -> bytes:
        if path not in self._files:
            self._files[path] = read_file(path, MAX_FILE, what)
        return self._files[path]

    def _data(self, title: str, address: int, data: bytes, note: str = "") -> Part:
        """A part that nobody signs, unless the disk is to be closed."""
        if not self._rules.closed:
            return Part(title, address, data, note=note)
        component = sclab.append(data, sclab.build(), self._rules.block_size)
        return Part(title, address, component, self._sign(component, title), note=note)

    def _sign(self, data: bytes, where: str) -> bytes | None:
        signer = self._rules.signer
        if signer is None:
            return None
        if data not in self._signatures:
            self._signatures[data] = naming(where, lambda: signer.sign(data))
        return self._signatures[data]

    def _own_loader(self) -> _Code:
        component = loader.component(closed=self._rules.closed)
        if self._rules.signed and self._rules.signer is None:
            raise UsageError("loader", "sipl's own loader must be signed, and there is no key", "name one with --key")
        return _Code(component, self._sign(component, "loader"), kept=False)

    def _foreign_loader(self, path: str) -> _Code:
        code = self._code(path)
        own_sclab = sclab.build(SclabFlags.OPSW | SclabFlags.OLA, STAGE3_PSW, STAGE3_ENTRY)
        if len(code.payload) != STAGE3_LENGTH:
            why = f"it is not stage3: {len(code.payload)} bytes instead of {STAGE3_LENGTH}"
            raise UsageError(path, why, "take stage3.bin of s390-tools, or leave --loader away")
        if self._rules.signed and not code.payload.endswith(own_sclab):
            why = "its code loading attributes (SCLAB) are not those of stage3"
            raise UsageError(path, why, "take stage3.bin of s390-tools 2.9 or later, or leave --loader away")
        return code

    def _code(self, path: str) -> _Code:
        """A file that is executed: its payload without signatures, and a new signature or the one to keep."""
        if path not in self._codes:
            self._codes[path] = self._read_code(path)
        return self._codes[path]

    def _read_code(self, path: str) -> _Code:
        rules = self._rules
        data = self._read(path, "a loader or a kernel")
        try:
            layer = read_layer(data) if rules.keep else None
            payload = data[: payload_length(data) if layer is None else layer.payload_length]
        except TrailerDamaged as error:
            raise UsageError(path, error.why, error.hint) from None
        if not rules.signed:
            return _Code(payload, None, kept=False)
        check_payload(path, payload)
        if len(payload) % rules.block_size:
            why = f"{len(payload)} bytes are no whole blocks of {rules.block_size}: more is loaded than was signed"
            raise UsageError(path, why, "use smaller blocks, or a kernel that is filled up to whole ones")
        if layer is not None:
            self._check_kept(path, payload, layer.signature)
            return _Code(payload, layer.signature, kept=True)
        if rules.signer is None:
            raise UsageError(path, "it carries no signature that could be kept", "name a key with --key")
        return _Code(payload, self._sign(payload, path), kept=False)

    def _check_kept(self, path: str, payload: bytes, signature: bytes) -> None:
        """One of the trusted certificates, of which there is at least one, must verify it."""
        refusals = []
        for certificate in self._rules.trusted:
            try:
                accept(payload, signature, certificate, self._rules.now)
            except SigningRefused as error:
                refusals.append(error)
            else:
                return
        # What the certificate of its signer says tells more than that another one has nothing to do with it.
        refusals.sort(key=lambda refusal: refusal.kind == RejectionKind.NO_KEY_MATCH)
        why = refusals[0].why
        hint = "name its signer's certificate, or sign it anew without --keep-signatures"
        raise SigningRefused("not-verified", path, why, hint)

    def _initrd(self, path: str) -> bytes:
        """The file without signatures that it may carry: they are no part of the RAM disk."""
        data = self._read(path, "a RAM disk")
        try:
            payload = data[: payload_length(data)]
        except TrailerDamaged as error:
            raise UsageError(path, error.why, error.hint) from None
        if not payload:
            raise UsageError(path, "the RAM disk is empty", "leave --initrd away if there is none")
        return payload


def command_line(text: str, environment: Mapping[str, str] | None, linux: LinuxImage, kernel: str) -> bytes:
    """The command line as it is loaded, with its zero.

    Raises:
        UsageError: it has characters that cannot be in one, or is longer than the kernel takes.
    """
    if not text.isprintable():
        raise UsageError("command line", "it has control characters", "write it in one line")
    line = text.encode("utf-8") + b"\0"
    full = len(expand(text, environment or {}).encode("utf-8")) + 1
    if full > linux.command_line_size or len(line) > COMMAND_LINE_ROOM - SCLAB_MIN_LENGTH:
        most = min(linux.command_line_size, COMMAND_LINE_ROOM - SCLAB_MIN_LENGTH) - 1
        why = f"it has {max(full, len(line)) - 1} bytes, the kernel {kernel} takes {most}"
        raise UsageError("command line", why, "make it shorter")
    return line


def _dummies() -> list[Part]:
    """What keeps stage3's heap and stack free of other components."""
    return [
        Part("heap", STAGE3_HEAP, bytes(STAGE3_HEAP_SIZE)),
        Part("stack", STAGE3_STACK, bytes(STAGE3_STACK_SIZE)),
    ]
