"""Firmware images made by hand: ELF files as a linker makes a position-independent program, any part changed."""

from __future__ import annotations

import struct

LOAD, DYNAMIC = 1, 2
RELA, RELA_SIZE, RELA_ENTRY = 7, 8, 9
RELATIVE = 12
CODE = 0x200
DATA = 0x1000  # a doubleword that is relocated, then a second one
RELOCATIONS = 0x1100
DYNAMIC_AT = 0x1200
END = 0x3000  # with zeros behind what lies in the file
TARGETS = ((DATA, 0x1008), (DATA + 8, -16 & (1 << 64) - 1))


def header(**changes) -> bytes:
    fields = {"magic": b"\x7fELF", "size": 2, "order": 2, "type": 3, "machine": 22, "entry": CODE, "at": 64} | {
        "header_size": 56,
        "count": 3,
    }
    f = fields | changes
    return struct.pack(
        ">4sBBB9xHHIQQQIHHHHHH", f["magic"], f["size"], f["order"], 1, f["type"], f["machine"], 1, f["entry"], f["at"],
        0, 0, 64, f["header_size"], f["count"], 64, 0, 0,
    )  # fmt: skip


def segment(kind: int, offset: int, address: int, file_size: int, memory_size: int | None = None) -> bytes:
    memory = file_size if memory_size is None else memory_size
    return struct.pack(">IIQQQQQQ", kind, 7, offset, address, address, file_size, memory, 0x1000)


def firmware(
    code: bytes = b"\x07\xfe",
    *,
    targets=TARGETS,
    kind: int = RELATIVE,
    segments: list[bytes] | None = None,
    dynamic: list[tuple[int, int]] | None = None,
    **changes,
) -> bytes:
    """A whole image with code at `CODE`, in two segments; what a test is about is replaced by naming it."""
    relocations = b"".join(struct.pack(">QQQ", address, kind, addend) for address, addend in targets)
    if dynamic is None:
        dynamic = [(RELA, RELOCATIONS), (RELA_SIZE, len(relocations)), (RELA_ENTRY, 24)]
    table = b"".join(struct.pack(">QQ", *entry) for entry in [*dynamic, (0, 0)])
    if segments is None:
        segments = [
            segment(LOAD, 0, 0, DATA),
            segment(LOAD, DATA, DATA, DYNAMIC_AT + len(table) - DATA, END - DATA),
            segment(DYNAMIC, DYNAMIC_AT, DYNAMIC_AT, len(table)),
        ]
    changes.setdefault("count", len(segments))
    start = (header(**changes) + b"".join(segments)).ljust(CODE, b"\0")
    assert len(start) == CODE
    assert len(code) <= DATA - CODE
    data = bytes(16).ljust(RELOCATIONS - DATA, b"\x5a") + relocations
    return (start + code).ljust(DATA, b"\0") + data.ljust(DYNAMIC_AT - DATA, b"\0") + table
