"""Decisions out of bytes: whoever makes the bytes (hypothesis, a fuzzer, a random generator) makes the case.

When the bytes are used up every decision is the first one, which is the harmless one everywhere: an empty byte string
is an untouched disk.
"""

from __future__ import annotations


class Choices:
    def __init__(self, data):
        self._data = bytes(data)
        self._at = 0

    @property
    def left(self):
        """How many bytes are not used yet."""
        return len(self._data) - self._at

    def below(self, limit):
        """A number from 0 to `limit` - 1."""
        if limit <= 1:
            return 0
        size = ((limit - 1).bit_length() + 7) // 8
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return int.from_bytes(taken, "big") % limit

    def pick(self, options):
        """One member of a sequence."""
        return options[self.below(len(options))]

    def chance(self, of_256):
        """True in `of_256` of 256 cases, False when the bytes are used up."""
        return self.below(256) >= 256 - of_256

    def rest(self):
        """All bytes that are left."""
        taken = self._data[self._at :]
        self._at = len(self._data)
        return taken
