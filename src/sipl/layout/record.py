"""Big-endian records: what lies on disk and in guest memory, as named tuples over `struct`.

A record class is a `NamedTuple` whose fields stand in the order of the format that `layout` gives it. Reserved
bytes are `x` in the format and have no field, unless they must survive a round trip.

    @layout(">IB3xQ")
    class Example(NamedTuple):
        length: int
        flags: int
        address: int

    example = unpack(Example, data, offset)
    data = pack(example)
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, TypeVar

from sipl.errors import ShortRecord

if TYPE_CHECKING:
    from collections.abc import Callable

Buffer = bytes | bytearray | memoryview
RecordT = TypeVar("RecordT", bound=tuple[Any, ...])

_FORMATS: dict[type, struct.Struct] = {}


def layout(fmt: str) -> Callable[[type[RecordT]], type[RecordT]]:
    """Class decorator: lay the fields of a named tuple out by the `struct` format `fmt` (big endian)."""

    def apply(cls: type[RecordT]) -> type[RecordT]:
        _FORMATS[cls] = struct.Struct(fmt)
        return cls

    return apply


def size_of(cls: type[tuple[Any, ...]]) -> int:
    """Length of a record class in bytes."""
    return _FORMATS[cls].size


def unpack(cls: type[RecordT], data: Buffer, offset: int = 0) -> RecordT:
    """Read the record of class `cls` at byte `offset` of `data`.

    Raises:
        ShortRecord: `data` ends before the record does, or `offset` is negative.
    """
    packed = _FORMATS[cls]
    if offset < 0 or len(data) - offset < packed.size:
        raise ShortRecord(cls.__name__, packed.size, max(0, len(data) - max(0, offset)))
    return cls(*packed.unpack_from(data, offset))


def pack(record: tuple[Any, ...]) -> bytes:
    """Return a record as the bytes that lie on disk or in guest memory."""
    return _FORMATS[type(record)].pack(*record)
