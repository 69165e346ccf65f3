"""What X.509 names a certificate by: distinguished names and serial numbers.

Names are shown as in RFC 4514, the last part first, in text that is safe on a terminal.
"""

from __future__ import annotations

from typing import Final

from sipl.crypto.der import SEQUENCE, SET, Cursor, DerError, dotted
from sipl.text import printable

# Names have some tens of characters; what is longer was made to flood a terminal or a report.
MAX_VALUE: Final = 256
MAX_TEXT: Final = 1024
# RFC 5280 allows 20 octets, real ones exceed it a little; Python refuses to print numbers of more than 1785.
MAX_SERIAL_SIZE: Final = 64

_KEYWORDS: Final = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.42": "GN",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
}
_CODECS: Final = {
    0x0C: "utf-8",  # UTF8String
    0x12: "ascii",  # NumericString
    0x13: "ascii",  # PrintableString
    0x14: "latin-1",  # TeletexString, as everybody uses it
    0x16: "ascii",  # IA5String
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}
_ESCAPED: Final = frozenset('"+,;<>\\')


def check_name(cursor: Cursor) -> bytes:
    """Step over a Name, checking its form, and return it as it lies there.

    Raises:
        DerError: it is no sequence of sets of type and value.
    """
    start = cursor.offset
    parts = cursor.within(SEQUENCE)
    while parts.peek() >= 0:
        pairs = parts.within(SET)
        while pairs.peek() >= 0:
            pair = pairs.within(SEQUENCE)
            pair.oid()
            pair.skip()
            pair.finish()
    return cursor.since(start)


def read_serial(cursor: Cursor) -> int:
    """Serial number of a certificate; any sign.

    Raises:
        DerError: it is no integer, or longer than `MAX_SERIAL_SIZE`.
    """
    at = cursor.offset
    serial = cursor.integer()
    if serial.bit_length() >= 8 * MAX_SERIAL_SIZE:
        raise DerError(at, f"the serial number has more than {MAX_SERIAL_SIZE} bytes")
    return serial


def name_text(element: bytes) -> str:
    """Text of a Name that `check_name` returned; `printable`, and cut at `MAX_TEXT` characters."""
    parts: list[str] = []
    cursor = Cursor(element).within(SEQUENCE)
    while cursor.peek() >= 0:
        pairs = cursor.within(SET)
        shown: list[str] = []
        while pairs.peek() >= 0:
            pair = pairs.within(SEQUENCE)
            identifier = dotted(pair.oid())
            tag = pair.peek()
            shown.append(f"{_KEYWORDS.get(identifier, identifier)}={_value(tag, pair.content(tag))}")
        parts.append("+".join(shown))
    return printable(",".join(reversed(parts)), MAX_TEXT)


def _value(tag: int, content: bytes) -> str:
    codec = _CODECS.get(tag)
    if codec is not None:
        try:
            return _escape(printable(content.decode(codec), MAX_VALUE))
        except UnicodeDecodeError:
            pass
    return f"#{content[: MAX_VALUE // 2].hex()}"


def _escape(text: str) -> str:
    escaped = "".join(f"\\{c}" if c in _ESCAPED else c for c in text)
    if escaped[:1] in ("#", " "):
        escaped = f"\\{escaped}"
    if len(text) > 1 and text[-1] == " ":
        escaped = f"{escaped[:-1]}\\ "
    return escaped
