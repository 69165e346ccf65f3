"""Fields of the event facility lie where docs/formats/sclp-console.md says: offsets and widths once more, by hand."""

from __future__ import annotations

import pytest

from sipl.layout import sclp_events as ev
from sipl.layout.record import pack, size_of, unpack

RECORDS = {
    ev.EventHeader: (6, {"length": (0, 2), "type": (2, 1), "flags": (3, 1)}),
    ev.MessageDataBlock: (12, {"length": (0, 2), "type": (2, 2), "tag": (4, 4), "revision": (8, 4)}),
    ev.MessageObject: (4, {"length": (0, 2), "type": (2, 2)}),
    ev.TextObject: (10, {"length": (0, 2), "type": (2, 2), "line_type": (4, 2), "alarm": (6, 1)}),
    ev.GdsVector: (4, {"length": (0, 2), "identifier": (2, 2)}),
    ev.GdsSubvector: (2, {"length": (0, 1), "key": (1, 1)}),
    ev.StateChange: (12, {"valid": (0, 2), "mask_length": (2, 2), "facilities": (4, 8)}),
    ev.Quiesce: (3, {"timeout": (0, 2), "unit": (2, 1)}),
    ev.ControlProgramId: (
        74,
        {
            "format": (0, 1),
            "system_type": (2, 8),
            "system_name": (18, 8),
            "system_level": (34, 8),
            "sysplex_name": (50, 8),
        },
    ),
    ev.CpuInfo: (
        8,
        {"configured": (0, 2), "configured_offset": (2, 2), "standby": (4, 2), "standby_offset": (6, 2)},
    ),
}


@pytest.mark.parametrize("cls", RECORDS)
def test_each_field_has_its_place(cls):
    size, fields = RECORDS[cls]
    assert size_of(cls) == size
    assert list(cls._fields) == list(fields)
    for name, (offset, width) in fields.items():
        data = bytearray(size)
        data[offset : offset + width] = bytes(range(1, width + 1))
        value = getattr(unpack(cls, data), name)
        assert (value if isinstance(value, bytes) else value.to_bytes(width, "big")) == bytes(range(1, width + 1))
        assert pack(unpack(cls, data)) == bytes(data)


def test_no_record_is_forgotten():
    records = {value for value in vars(ev).values() if isinstance(value, type) and hasattr(value, "_fields")}
    assert records == RECORDS.keys()
