"""The words of a QEMU command line: which options there are, and which take a value (docs/qemu-command.md).

An option begins with one dash or with two; its value is always the next word, whatever that begins with. A word that is
neither is a disk. sipl's own options have two dashes and stand wherever an option may stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def names(text: str) -> frozenset[str]:
    """A table of names that are separated by blanks."""
    return frozenset(text.split())


# A guest with hundreds of disks has some thousand.
MAX_WORDS: Final = 16 * 1024
# As long as the longest single argument that Linux hands to a program.
MAX_WORD_LENGTH: Final = 128 * 1024
# How much of a foreign word an error shows.
_SHOWN: Final = 80

DISK: Final = ""  # the option of a word that is none: a disk image

# QEMU's options for this machine, 7.2 and later, and those of other machines that the same parser takes.
_WITH_VALUE: Final = names("""
    M L D accel acpitable action add-fd append audio audiodev bios blockdev boot cdrom chardev chroot compat cpu d
    debugcon device dfilter display drive dtb dump-vmstate echr fda fdb fsdev fw_cfg g gdb global hda hdb hdc hdd
    icount igvm incoming initrd iscsi k kernel loadvm m machine mem-path mon monitor msg mtdblock name net netdev
    nic numa object option-rom overcommit parallel pflash pidfile plugin prom-env qmp qmp-pretty qtest qtest-log
    readconfig rotate rtc run-with runas sandbox sd seed semihosting-config serial set shim smbios smp spice
    tb-size tpmdev trace usbdevice uuid vga virtfs vnc watchdog watchdog-action writeconfig xen-domid
""")
_ALONE: Final = names("""
    S async-teardown audio-help daemonize enable-kvm enable-sync-profile full-screen h help jitdump mem-prealloc
    no-acpi no-fd-bootchk no-hpet no-kvm no-reboot no-shutdown no-user-config nodefaults nographic old-param
    one-insn-per-tb only-migratable perfmap portrait preconfig s semihosting singlestep snapshot usb version
    win2k-hack xen-attach xen-domid-restrict
""")
# QEMU answers these when they ask for help; the value of any other may be the name of a file.
_ANSWERING: Final = names("""
    accel action audio audiodev blockdev chardev cpu d device display drive fsdev global icount m machine mon msg net
    netdev nic numa object overcommit plugin rtc run-with sandbox smbios smp spice tpmdev trace vga watchdog
    watchdog-action
""")
_SAME: Final = {"M": "machine", "h": "help"}

# sipl's own options, and whether they take a value.
_OWN: Final = {
    "--native": False,
    "--allow-unpack": False,
    "--allow-backing": False,
    "--no-has-secure": False,
    "--at": True,
}


class Word(NamedTuple):
    """An option without its dashes, and its value; without an option it is a disk image."""

    option: str
    value: str = ""

    @property
    def where(self) -> str:
        """How errors name it."""
        return f"-{self.option}" if self.option else "disk image"


class OwnOptions(NamedTuple):
    """What is said to sipl itself.

    `native` leaves secure IPL to a QEMU that knows it; `allow_unpack` lets the guest become one of protected
    virtualization; `allow_backing` lets an image name other files; `has_secure` shows the guest a machine that can do
    secure IPL; `at` is a point in time as it was written, or empty.
    """

    native: bool = False
    allow_unpack: bool = False
    allow_backing: bool = False
    has_secure: bool = True
    at: str = ""


class CommandLine(NamedTuple):
    """`words` are those of QEMU, `rest` is the line without sipl's own options.

    `fault` is what keeps the words from going on to the end of the line; what stands behind it is in `rest` only.
    """

    words: tuple[Word, ...]
    rest: tuple[str, ...]
    own: OwnOptions
    fault: UsageError | None = None

    def of(self, *options: str) -> Iterator[Word]:
        """The words of some options, in order."""
        return (word for word in self.words if word.option in options)

    def has(self, *options: str) -> bool:
        """Whether one of these options is there."""
        return any(word.option in options for word in self.words)


def split(argv: Sequence[str]) -> CommandLine:
    """Split a line, the program's name not included.

    Raises:
        UsageError: one of sipl's own options has no value.
    """
    words: list[Word] = []
    rest: list[str] = []
    own: dict[str, str] = {}
    fault: UsageError | None = None
    if len(argv) > MAX_WORDS or any(len(word) > MAX_WORD_LENGTH for word in argv):
        why = f"it has more than {MAX_WORDS} words, or one of more than {MAX_WORD_LENGTH} characters"
        raise UsageError("command line", why, "make it shorter")
    position = 0
    while position < len(argv):
        text = argv[position]
        if text in _OWN:
            taken = 2 if _OWN[text] else 1
            if position + taken > len(argv):
                raise _without_value(text)
            own[text] = argv[position + taken - 1]
            position += taken
            continue
        found = _option(text)
        taken = 2 if found in _WITH_VALUE else 1
        if found is None or position + taken > len(argv):
            fault = _unknown(text) if found is None else _without_value(text)
            rest += argv[position:]
            break
        if found == DISK:
            words.append(Word(DISK, text))
        else:
            words.append(Word(_SAME.get(found, found), argv[position + 1] if taken == 2 else ""))
        rest += argv[position : position + taken]
        position += taken
    return CommandLine(tuple(words), tuple(rest), _own(own), fault)


def takes_value(option: str) -> bool:
    """Whether the word behind an option belongs to it."""
    return option in _WITH_VALUE


def answers_help(option: str) -> bool:
    """Whether QEMU says what there is where the value of an option asks for help."""
    return option in _ANSWERING


def known_options() -> frozenset[str]:
    """All options that are told apart."""
    return _WITH_VALUE | _ALONE


def _option(text: str) -> str | None:
    """The name of an option, DISK for a word that is none, None for an option that is not known."""
    if not text.startswith("-"):
        return DISK
    name = text.removeprefix("--") if text.startswith("--") else text[1:]
    return name if name in _WITH_VALUE or name in _ALONE else None


def _unknown(text: str) -> UsageError:
    hint = "the value is a word of its own, behind a blank" if _option(text.partition("=")[0]) else "see -help"
    return UsageError(printable(text, _SHOWN), "there is no such option that sipl knows", hint)


def _without_value(text: str) -> UsageError:
    return UsageError(text, "the value is missing", "write it as the next word")


def _own(found: dict[str, str]) -> OwnOptions:
    return OwnOptions(
        native="--native" in found,
        allow_unpack="--allow-unpack" in found,
        allow_backing="--allow-backing" in found,
        has_secure="--no-has-secure" not in found,
        at=found.get("--at", ""),
    )
