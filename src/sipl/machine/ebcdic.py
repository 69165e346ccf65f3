"""EBCDIC as the machine writes it: names of certificates and the loadparm (docs/machine-options.md).

The 7-bit characters are those of code page 037, but for two controls. Of the bytes above them only four are known, all
others become the substitute character 0x3F; text in UTF-8 is translated byte by byte.
"""

from __future__ import annotations

from typing import Final

from sipl.errors import UsageError
from sipl.text import printable

BLANK: Final = 0x40
SUBSTITUTE: Final = 0x3F
LOADPARM_LENGTH: Final = 8
NAME_LENGTH: Final = 64

_SEVEN_BIT: Final = bytes.fromhex(
    "00010203372d2e2f1605150b0c0d0e0f101112133c3d322618193f27221d1e1f"
    "405a7f7b5b6c507d4d5d5c4e6b604b61f0f1f2f3f4f5f6f7f8f97a5e4c7e6e6f"
    "7cc1c2c3c4c5c6c7c8c9d1d2d3d4d5d6d7d8d9e2e3e4e5e6e7e8e9bae0bbb06d"
    "79818283848586878889919293949596979899a2a3a4a5a6a7a8a9c04fd0a107"
)
_EIGHT_BIT: Final = {0xE1: 0x59, 0xF8: 0x90, 0xFD: 0xEA, 0xFF: 0xFF}
_TO_EBCDIC: Final = _SEVEN_BIT + bytes(_EIGHT_BIT.get(byte, SUBSTITUTE) for byte in range(0x80, 0x100))
_FROM_EBCDIC: Final = {code: chr(byte) for byte, code in enumerate(_SEVEN_BIT)}


def to_ebcdic(data: bytes) -> bytes:
    """Translate each byte of an ASCII text."""
    return data.translate(_TO_EBCDIC)


def from_ebcdic(data: bytes) -> str:
    """Translate back; what stands for no 7-bit character becomes U+FFFD. The result is not yet fit to be shown."""
    return "".join(_FROM_EBCDIC.get(byte, "\ufffd") for byte in data)


def certificate_name(file_name: bytes) -> bytes:
    """The name field of a certificate: 64 bytes of the file's name without its folder, padded with blanks."""
    return to_ebcdic(file_name[:NAME_LENGTH].ljust(NAME_LENGTH, b" "))


def loadparm_to_ebcdic(loadparm: str) -> bytes:
    """The loadparm field of 8 bytes, padded with blanks. What else a loadparm may be is told by `parse_loadparm`.

    Raises:
        UsageError: it does not fit, or has other than 7-bit characters.
    """
    if len(loadparm) > LOADPARM_LENGTH or not loadparm.isascii():
        raise UsageError(
            "loadparm", f"'{printable(loadparm, 80)}' does not fit into {LOADPARM_LENGTH} EBCDIC characters"
        )
    return to_ebcdic(loadparm.encode("ascii").ljust(LOADPARM_LENGTH, b" "))


def loadparm_from_ebcdic(field: bytes) -> str:
    """The text of a loadparm field, without the blanks that pad it."""
    return from_ebcdic(field).rstrip(" ")
