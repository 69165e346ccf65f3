"""Every field lies where the format pages say: offsets and widths written down once more, by hand."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import sipl.layout
from sipl.layout import (
    boot_record,
    diag320,
    diag508,
    elf,
    iirb,
    iplb,
    linux,
    module_signature,
    partition_table,
    record,
    sclab,
    sclp,
    seal_room,
    stage3,
)
from sipl.layout.record import pack, size_of, unpack

# record: (size, {field: (offset, width)})
RECORDS = {
    boot_record.BlockPointer: (16, {"block": (0, 8), "size": (8, 2), "count_less_one": (10, 2)}),
    boot_record.BootRecord: (32, {"magic": (0, 4), "version": (4, 4), "program_table": (16, 16)}),
    boot_record.ProgramTableHeader: (16, {"magic": (0, 4)}),
    boot_record.ComponentTableHeader: (32, {"magic": (0, 4), "type": (4, 1)}),
    boot_record.ComponentEntry: (32, {"segment_table": (0, 16), "type": (23, 1), "value": (24, 8)}),
    boot_record.SignatureInfo: (8, {"format": (0, 1), "length": (4, 4)}),
    sclab.SclabLocator: (8, {"length": (2, 2), "magic": (4, 4)}),
    sclab.Sclab: (24, {"format": (0, 1), "flags": (2, 2), "load_psw": (8, 8), "load_address": (16, 8)}),
    iirb.ReportHeader: (16, {"length": (0, 4), "flags": (4, 1)}),
    iirb.ReportBlockHeader: (16, {"length": (0, 4), "type": (4, 1), "error_indicators": (8, 2)}),
    iirb.CertificateEntry: (16, {"address": (0, 8), "length": (8, 8)}),
    iirb.ReportComponent: (
        32,
        {
            "address": (0, 8),
            "length": (8, 8),
            "flags": (16, 1),
            "certificate_index": (22, 2),
            "error_indicators": (24, 4),
        },
    ),
    iplb.IplbHeader: (
        24,
        {
            "length": (0, 4),
            "flags": (4, 1),
            "version": (7, 1),
            "block0_length": (8, 4),
            "type": (12, 1),
            "block0_flags": (13, 1),
            "loadparm": (16, 8),
        },
    ),
    # behind the header of 24 bytes
    iplb.CcwBlock: (88, {"ssid": (109 - 24, 1), "devno": (110 - 24, 2)}),
    iplb.QemuScsiBlock: (
        88,
        {"lun": (0, 4), "target": (4, 2), "channel": (6, 2), "ssid": (109 - 24, 1), "devno": (110 - 24, 2)},
    ),
    iplb.QiplParameters: (
        28,
        {
            "flags": (0, 1),
            "boot_position": (1, 1),
            "menu_timeout": (12, 4),
            "chain_length": (18, 2),
            "next_iplb": (20, 8),
        },
    ),
    diag320.Vcssb: (
        128,
        {
            "length": (0, 4),
            "version": (7, 1),
            "total_certificates": (32, 2),
            "max_certificates": (34, 2),
            "max_single_vcb_length": (80, 4),
            "total_vcb_length": (84, 4),
        },
    ),
    diag320.VcbHeader: (
        64,
        {
            "input_length": (0, 4),
            "first_index": (8, 2),
            "last_index": (10, 2),
            "output_length": (32, 4),
            "stored": (40, 2),
            "remaining": (42, 2),
        },
    ),
    diag320.VceHeader: (
        128,
        {
            "length": (0, 4),
            "flags": (4, 1),
            "key_type": (5, 1),
            "certificate_index": (6, 2),
            "name": (8, 64),
            "format": (72, 1),
            "key_id_length": (74, 2),
            "hash_type": (77, 1),
            "hash_length": (78, 2),
            "certificate_length": (84, 4),
            "hash_offset": (96, 2),
            "certificate_offset": (98, 2),
        },
    ),
    diag508.Svb: (
        64,
        {
            "length": (0, 4),
            "version": (7, 1),
            "certificate_index": (16, 1),
            "certificate_length": (24, 8),
            "component_length": (32, 8),
            "component_address": (40, 8),
            "signature_length": (48, 8),
            "signature_address": (56, 8),
        },
    ),
    elf.ElfHeader: (
        64,
        {
            "magic": (0, 4),
            "word_size": (4, 1),
            "byte_order": (5, 1),
            "header_version": (6, 1),
            "type": (16, 2),
            "machine": (18, 2),
            "version": (20, 4),
            "entry": (24, 8),
            "program_headers": (32, 8),
            "header_size": (52, 2),
            "program_header_size": (54, 2),
            "program_header_count": (56, 2),
        },
    ),
    elf.ProgramHeader: (
        56,
        {
            "type": (0, 4),
            "flags": (4, 4),
            "offset": (8, 8),
            "address": (16, 8),
            "file_size": (32, 8),
            "memory_size": (40, 8),
            "alignment": (48, 8),
        },
    ),
    elf.DynamicEntry: (16, {"tag": (0, 8), "value": (8, 8)}),
    elf.Relocation: (24, {"address": (0, 8), "info": (8, 8), "addend": (16, 8)}),
    sclp.SccbHeader: (8, {"length": (0, 2), "function_code": (2, 1), "response_code": (6, 2)}),
    stage3.Stage3Parameters: (
        80,
        {
            "parmline_address": (0, 8),
            "initrd_address": (8, 8),
            "initrd_length": (16, 8),
            "kernel_psw": (24, 8),
            "extra_parameters": (32, 8),
            "flags": (40, 8),
            "kernel_length": (48, 8),
            "kernel_address": (56, 8),
            "environment_address": (64, 8),
            "environment_length": (72, 8),
        },
    ),
    linux.LinuxArea: (
        56,
        {
            "subchannel": (0, 8),
            "initrd_address": (8, 8),
            "initrd_length": (16, 8),
            "old_memory_address": (24, 8),
            "old_memory_length": (32, 8),
            "version": (40, 8),
            "command_line_size": (48, 8),
        },
    ),
    module_signature.ModuleSignature: (
        12,
        {
            "algorithm": (0, 1),
            "hash": (1, 1),
            "id_type": (2, 1),
            "signer_length": (3, 1),
            "key_id_length": (4, 1),
            "signature_length": (8, 4),
        },
    ),
    partition_table.MbrEntry: (16, {"status": (0, 1), "type": (4, 1), "first": (8, 4), "blocks": (12, 4)}),
    partition_table.GptHeader: (
        92,
        {
            "magic": (0, 8),
            "revision": (8, 4),
            "size": (12, 4),
            "crc": (16, 4),
            "own_block": (24, 8),
            "other_block": (32, 8),
            "first_usable": (40, 8),
            "last_usable": (48, 8),
            "disk": (56, 16),
            "entries_block": (72, 8),
            "entries": (80, 4),
            "entry_size": (84, 4),
            "entries_crc": (88, 4),
        },
    ),
    partition_table.GptEntry: (48, {"type": (0, 16), "identifier": (16, 16), "first": (32, 8), "last": (40, 8)}),
    seal_room.FrameHeader: (
        512,
        {
            "magic": (0, 8),
            "version": (8, 2),
            "block_size": (12, 4),
            "own_block": (16, 8),
            "blocks": (24, 4),
            "generation": (32, 8),
            "sector_digests": (40, 440),
            "digest": (480, 32),
        },
    ),
    seal_room.SavedRecord: (
        368,
        {"magic": (0, 8), "version": (8, 2), "former": (32, 152), "written": (184, 152), "digest": (336, 32)},
    ),
}


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_size(cls):
    assert size_of(cls) == RECORDS[cls][0]


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_offsets(cls):
    size, fields = RECORDS[cls]
    order = "little" if cls.__module__.endswith(".partition_table") else "big"
    zero = unpack(cls, bytes(size))
    for name, (offset, width) in fields.items():
        mark = bytes(number % 255 + 1 for number in range(width))
        data = bytes(offset) + mark + bytes(size - offset - width)
        expected = mark if isinstance(getattr(zero, name), bytes) else int.from_bytes(mark, order)
        assert unpack(cls, data) == zero._replace(**{name: expected})
        assert pack(zero._replace(**{name: expected})) == data


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_every_field_is_written_down(cls):
    """Reserved bytes that must survive have names of their own; everything else is in the table above."""
    assert {name for name in cls._fields if not name.startswith("reserved")} == RECORDS[cls][1].keys()


def test_no_record_is_forgotten():
    """qcow2 has tests of its own, made with qemu-img; so have the records of running guests."""
    elsewhere = {f"sipl.layout.{name}" for name in ("css", "qcow2", "scsi", "sclp_events", "virtio")}
    modules = [
        importlib.import_module(f"sipl.layout.{info.name}") for info in pkgutil.iter_modules(sipl.layout.__path__)
    ]
    known = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and value in record._FORMATS
    }
    assert {cls for cls in known if cls.__module__ not in elsewhere} == RECORDS.keys()


def test_limits_fit_the_structures():
    assert boot_record.PROGRAM_TABLE_HEADER_SIZE + boot_record.PROGRAM_TABLE_ENTRIES * 16 == 512
    assert boot_record.MAX_COMPONENT_ENTRIES == 127
    assert iirb.MAX_REPORT_COMPONENTS == boot_record.MAX_COMPONENT_ENTRIES  # EXEC has the slot of the PSW entry
    assert size_of(sclab.Sclab) + size_of(sclab.SclabLocator) == sclab.SCLAB_MIN_LENGTH
    assert iplb.IPLB_CHAIN_SIZE == 28672
    assert module_signature.MODULE_SIGNATURE_TRAILER_SIZE == 40
