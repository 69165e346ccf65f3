"""DER, read strictly and without recursion (docs/formats/signatures.md).

Lengths are definite and minimal, tags are one byte, an element never reaches beyond the one around it. A string in
constructed form has another tag byte than in primitive form, so comparing tag bytes refuses it. Offsets in errors
count from the start of the whole input, however deep the element lies.
"""

from __future__ import annotations

from typing import Final

from sipl.errors import SiplError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
SEQUENCE: Final = 0x30
SET: Final = 0x31
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
CONTEXT: Final = 0x80  # + number: IMPLICIT, primitive
CONTEXT_CONSTRUCTED: Final = 0xA0  # + number: EXPLICIT, or IMPLICIT of something constructed

# Lengths of 4 GiB and more cannot occur: inputs are certificate files and signatures of a few KiB.
MAX_LENGTH_OCTETS: Final = 4
# The longest object identifier in use (Microsoft's templates) has about 30 bytes; a bound keeps `dotted` cheap.
MAX_OID_SIZE: Final = 64

_NO_MORE: Final = -1  # what `peek` gives at the end; no tag
_LONG_TAG: Final = 0x1F
_CONSTRUCTED: Final = 0x20
_MONTH_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_UTC_TIME_SIZE: Final = 13
_GENERALIZED_TIME_SIZE: Final = 15


class DerError(SiplError, ValueError):
    """The bytes are not what strict DER has at this place; `offset` counts from the start of the input."""

    def __init__(self, offset: int, detail: str) -> None:
        self.offset = offset
        self.detail = detail
        super().__init__("", f"malformed DER at offset {offset}: {detail}")


class Cursor:
    """A place in a DER input, bounded by the element that it reads the content of."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    @property
    def offset(self) -> int:
        """Where the next element starts, from the start of the input."""
        return self._at

    def copy(self) -> Cursor:
        """Another cursor at the same place."""
        return Cursor(self._data, self._at, self._end)

    def peek(self) -> int:
        """Tag byte of the next element, or -1 where none follows."""
        return self._data[self._at] if self._at < self._end else _NO_MORE

    def finish(self) -> None:
        """Nothing may follow.

        Raises:
            DerError: something does.
        """
        if self._at != self._end:
            raise DerError(self._at, f"{self._end - self._at} unexpected bytes")

    def _enter(self, tag: int) -> tuple[int, int]:
        """Bounds of the next element's content; its tag byte must be `tag`, or may be any where `tag` is -1."""
        data, at, end = self._data, self._at, self._end
        if at >= end:
            raise DerError(at, "an element is missing")
        found = data[at]
        if tag == _NO_MORE:
            if found & _LONG_TAG == _LONG_TAG:
                raise DerError(at, "tag numbers above 30 are not accepted")
            if found & ~_CONSTRUCTED == 0:
                raise DerError(at, "tag number 0 of the universal class is reserved")
        elif found != tag:
            raise DerError(at, f"tag {found:#04x} instead of {tag:#04x}")
        if end - at < 2:
            raise DerError(at, "the element has no length")
        length = data[at + 1]
        start = at + 2
        if length & 0x80:
            start += length & 0x7F
            length = self._long_length(at + 1)
        if length > end - start:
            raise DerError(at, f"{length} bytes of content, {max(0, end - start)} are there")
        return start, start + length

    def _long_length(self, at: int) -> int:
        """The length whose first octet, with its top bit on, is at `at`."""
        octets = self._data[at] & 0x7F
        if octets == 0:
            raise DerError(at, "the length is indefinite")
        if octets > MAX_LENGTH_OCTETS:
            raise DerError(at, f"the length has {octets} octets")
        if self._end - at - 1 < octets:
            raise DerError(at, "the length is cut off")
        length = int.from_bytes(self._data[at + 1 : at + 1 + octets], "big")
        if length < 0x80 or self._data[at + 1] == 0:
            raise DerError(at, "the length is not minimal")
        return length

    def content(self, tag: int) -> bytes:
        """Content of the next element, which must have the tag byte `tag`."""
        start, end = self._enter(tag)
        self._at = end
        return self._data[start:end]

    def within(self, tag: int) -> Cursor:
        """Cursor over the content of the next element, which must have the tag byte `tag`."""
        start, end = self._enter(tag)
        self._at = end
        return Cursor(self._data, start, end)

    def element(self, tag: int = _NO_MORE) -> bytes:
        """The next element as it lies there, with tag and length; without `tag` any that is not reserved."""
        start = self._at
        _, self._at = self._enter(tag)
        return self._data[start : self._at]

    def since(self, start: int) -> bytes:
        """The input from offset `start` up to where the next element starts."""
        return self._data[start : self._at]

    def skip(self) -> int:
        """Step over one element of any kind and return its tag byte."""
        start = self._at
        _, self._at = self._enter(_NO_MORE)
        return self._data[start]

    def integer(self) -> int:
        """INTEGER, minimal two's complement."""
        at = self._at
        start, end = self._enter(INTEGER)
        data = self._data
        if start == end:
            raise DerError(at, "the integer is empty")
        # A first octet of 00 or FF is padding where the next one has the same sign.
        if end - start > 1 and data[start] in (0x00, 0xFF) and data[start] & 0x80 == data[start + 1] & 0x80:
            raise DerError(at, "the integer is not minimal")
        self._at = end
        return int.from_bytes(data[start:end], "big", signed=True)

    def oid(self) -> bytes:
        """OBJECT IDENTIFIER as its content bytes; `dotted` turns them into text."""
        at = self._at
        content = self.content(OID)
        if not content or content[-1] & 0x80 or len(content) > MAX_OID_SIZE:
            raise DerError(at, "the object identifier is empty, cut off or too long")
        if b"\x80" in content and _has_padded_arc(content):
            raise DerError(at, "the object identifier is not minimal")
        return content

    def null(self) -> None:
        """NULL."""
        at = self._at
        if self.content(NULL):
            raise DerError(at, "NULL is not empty")

    def boolean(self) -> bool:
        """BOOLEAN, 0x00 or 0xFF."""
        at = self._at
        content = self.content(BOOLEAN)
        if content not in (b"\x00", b"\xff"):
            raise DerError(at, "the boolean is neither 00 nor FF")
        return content == b"\xff"

    def octets(self) -> bytes:
        """OCTET STRING in primitive form."""
        return self.content(OCTET_STRING)

    def bit_string(self) -> tuple[bytes, int]:
        """BIT STRING: its bytes, and how many bits of the last one are unused (0 to 7, and zero)."""
        at = self._at
        content = self.content(BIT_STRING)
        if not content or content[0] > 7 or (content[0] and len(content) == 1):
            raise DerError(at, "the bit string has a bad count of unused bits")
        unused = content[0]
        if unused and content[-1] & ((1 << unused) - 1):
            raise DerError(at, "unused bits of the bit string are not zero")
        return content[1:], unused

    def octet_aligned_bits(self) -> bytes:
        """BIT STRING of whole octets."""
        at = self._at
        content, unused = self.bit_string()
        if unused:
            raise DerError(at, "the bit string does not end on an octet")
        return content

    def time(self) -> int:
        """UTCTime or GeneralizedTime, both with seconds and in UTC (`Z`), as seconds since 1970; may be negative."""
        at = self._at
        tag = self.peek()
        if tag not in (UTC_TIME, GENERALIZED_TIME):
            raise DerError(at, "neither UTCTime nor GeneralizedTime")
        text = self.content(tag)
        if tag == UTC_TIME and len(text) == _UTC_TIME_SIZE:
            # Two digits of the year: 50 to 99 are of the last century (RFC 5280, 4.1.2.5.1).
            text = (b"20" if text < b"50" else b"19") + text
        elif tag == UTC_TIME or len(text) != _GENERALIZED_TIME_SIZE:
            raise DerError(at, "the time is not of the form YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ")
        if text[-1:] != b"Z" or not text[:-1].isdigit():
            raise DerError(at, "the time is not of the form YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ")
        year, month, day = int(text[:4]), int(text[4:6]), int(text[6:8])
        hour, minute, second = int(text[8:10]), int(text[10:12]), int(text[12:14])
        if not (year and 1 <= month <= 12 and 1 <= day <= _days_of_month(year, month)):
            raise DerError(at, "there is no such day")
        if hour > 23 or minute > 59 or second > 59:
            raise DerError(at, "there is no such time of day")
        return _days_since_1970(year, month, day) * 86400 + hour * 3600 + minute * 60 + second


def _has_padded_arc(content: bytes) -> bool:
    """An arc starts where the octet before it ends one; 0x80 as its first octet is padding."""
    return any(octet == 0x80 and not before & 0x80 for before, octet in zip(b"\x00" + content, content, strict=False))


def _days_of_month(year: int, month: int) -> int:
    leap = month == 2 and ((year % 4 == 0 and year % 100 != 0) or year % 400 == 0)
    return _MONTH_DAYS[month - 1] + leap


def _days_since_1970(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 in the Gregorian calendar; the year is counted from March so that leap days come last."""
    before_march = month <= 2
    year -= before_march
    from_march = month + 12 * before_march - 3
    return day + (153 * from_march + 2) // 5 + 365 * year + year // 4 - year // 100 + year // 400 - 719469


def dotted(oid: bytes) -> str:
    """The dotted text of an object identifier's content bytes, as `Cursor.oid` returned them."""
    arcs: list[int] = []
    arc = 0
    for octet in oid:
        arc = arc << 7 | octet & 0x7F
        if not octet & 0x80:
            if not arcs:
                first = min(arc // 40, 2)
                arcs.append(first)
                arc -= 40 * first
            arcs.append(arc)
            arc = 0
    return ".".join(map(str, arcs))


def oid(text: str) -> bytes:
    """Content bytes of the object identifier with the dotted text `text`."""
    first, second, *rest = map(int, text.split("."))
    content = bytearray()
    for arc in (40 * first + second, *rest):
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.append(arc & 0x7F | 0x80)
        content += bytes(reversed(octets))
    return bytes(content)


def encode(tag: int, *contents: bytes) -> bytes:
    """An element with the tag byte `tag` and the joined `contents`."""
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def encode_integer(value: int) -> bytes:
    """INTEGER."""
    bits = (value if value >= 0 else ~value).bit_length()
    return encode(INTEGER, value.to_bytes(bits // 8 + 1, "big", signed=True))


def encode_set_of(elements: list[bytes], tag: int = SET) -> bytes:
    """SET OF in DER order, which is that of the encodings as octet strings (X.690, 11.6)."""
    return encode(tag, *sorted(elements))
