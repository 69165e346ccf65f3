"""What QEMU writes to standard error, told by sipl, line by line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sipl.cli.output import complain

if TYPE_CHECKING:
    from typing import TextIO

# QEMU says so for each page, as nobody can make holes in sealed memory; there may be millions of them.
_NO_HOLE: Final = re.compile(rb"^.*ram_block_discard_\w+: Failed to fallocate.*\n", re.MULTILINE)
# Words that sipl has added to the line are none of the user's: QEMU 11 warns of every -mon.
_OF_SIPL: Final = re.compile(rb"^.*chardev=sipl-.*: warning: .*\n", re.MULTILINE)
_NO_HOLE_SAID: Final = "what a balloon takes from the guest is not given back to the host: its memory is sealed"
# A line that has no end is told in parts.
_LONGEST: Final = 1 << 16


class QemuComplaints:
    """Passes lines on to `stream`; one that comes for each page of memory is told once, in other words.

    Warnings of what sipl itself has asked for are left out.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = bytearray()
        self._no_hole_said = False

    def take(self, data: bytes) -> None:
        """More of it."""
        self._begun += data
        end = self._begun.rfind(b"\n") + 1
        if not end and len(self._begun) > _LONGEST:
            end = len(self._begun)
        lines = bytes(self._begun[:end])
        del self._begun[:end]
        self._tell(lines)

    def finish(self) -> None:
        """What has no end comes to its end."""
        rest, self._begun = bytes(self._begun), bytearray()
        if rest:
            self._tell(rest + b"\n")

    def _tell(self, lines: bytes) -> None:
        lines, no_holes = _NO_HOLE.subn(b"", _OF_SIPL.sub(b"", lines))
        if no_holes and not self._no_hole_said:
            self._no_hole_said = True
            complain(_NO_HOLE_SAID)
        if lines:
            self._stream.write(lines.decode("utf-8", "backslashreplace"))
            self._stream.flush()
