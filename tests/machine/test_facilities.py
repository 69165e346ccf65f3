"""The facility list: what a kernel asks for is there, and each bit tells the truth about the embedded CPU."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.machine.cpu_model import parse_cpu
from sipl.machine.facilities import (
    EXTENDED_LENGTH_SCCB,
    OFFERED,
    WITHHELD,
    facility_list,
    stfl_word,
    store_facility_list_extended,
)

# What kernels ask for before they start, by the machine that they are compiled for.
Z10 = {0, 1, 3, 18, 21, 25, 27, 32, 33, 34, 35}
Z196 = Z10 | {45}
# The word that Debian's kernel 7.2.13 holds it in.
DEBIAN_KERNEL = 0xD0002450F0000000


def bits(data):
    return {bit for bit in range(8 * len(data)) if data[bit // 8] >> (7 - bit % 8) & 1}


def test_what_kernels_ask_for():
    offered = bits(facility_list(parse_cpu("qemu")))
    assert offered >= Z196
    assert bits(struct.pack(">Q", DEBIAN_KERNEL)) == Z10
    assert bits(facility_list(parse_cpu("z10EC"))) & Z196 == Z10


def test_the_tables_give_each_bit_once():
    assert not OFFERED.keys() & WITHHELD.keys()
    assert EXTENDED_LENGTH_SCCB not in OFFERED.keys() | WITHHELD.keys()
    for facility in (*OFFERED.values(), *WITHHELD.values()):
        assert facility.name
        assert facility.reason


def test_the_list_is_whole_doublewords():
    data = facility_list(parse_cpu("qemu"))
    assert len(data) == 24
    assert bits(data) == OFFERED.keys() | {140}
    assert stfl_word(data) == data[:4]


@pytest.mark.parametrize(
    ("cpu", "on"),
    [("qemu", True), ("qemu,els=off,cstore=off,sipl=off,sclaf=off", False), ("z16", False), ("z16,els=on", True)],
)
def test_extended_length_sccb_is_the_model_s(cpu, on):
    assert (140 in bits(facility_list(parse_cpu(cpu)))) is on


def test_a_model_has_what_its_generation_had():
    lists = [bits(facility_list(parse_cpu(name))) for name in ("z900", "z990", "z9EC", "z10EC", "z196", "zEC12", "z13")]
    for older, newer in pairwise(lists):
        assert older < newer
    assert lists[0] == {0, 1, 2}
    assert 129 not in lists[-2]
    assert bits(facility_list(parse_cpu("z16"))) == bits(facility_list(parse_cpu("qemu"))) - {140}


def test_an_engine_may_know_better():
    model = parse_cpu("z16")
    assert bits(facility_list(model, extra=[8, 130, 200], without=[129, 0])) == (
        bits(facility_list(model)) | {8, 130, 200}
    ) - {129, 0}
    assert len(facility_list(model, extra=[200])) == 32
    assert facility_list(model, without=OFFERED) == bytes(8)


@given(st.integers(0, 2**64 - 1))
def test_stfle(r0):
    data = facility_list(parse_cpu("qemu"))
    cc, after, stored = store_facility_list_extended(data, r0)
    asked = r0 % 256 + 1
    assert cc == (0 if asked >= 3 else 3)
    assert after == r0 - r0 % 256 + 2
    assert stored == data[: 8 * min(asked, 3)]


# What the embedded CPU does: instructions in hexadecimal

CARRIED_OUT = {
    0: "b9040012",  # LGR
    3: "b98a0024",  # CSPG
    16: "b9930024 e90780008020 e20780008020 eb240000008e",  # TROO, PKA, UNPKU, MVCLU
    18: "e3108ffcff71 eb1280000014",  # LAY, CSY
    21: "c21900000005 b9830024",  # AFI, FLOGR
    22: "b9be0024 b9b00024 d00380008020",  # SRSTU, CU14, TRTR
    24: "b9931024",  # TROO
    30: "b2a71024",  # CU12
    32: "c82280008020",  # CSST
    33: "c82280008020",
    34: "ec12003f0055 e31080000002 e31080000036",  # RISBG, LTG, PFD
    37: "b3a10001 b2b80001",  # CDLGBR, SRNMB
    40: "b2808000",  # LPP
    41: "b3c10001 b3722004 b2b90001",  # LDGR, CPSDR, SRNMT
    45: "b9f83012 b9e10012 eb12800000f8 b9f28012 cc1800000005",  # ARK, POPCNT, LAA, LOCR, AIH
    49: "eb1080000023 ec12003f0059 b2e81012 b2fa0011",  # CLT, RISBGN, PPA, NIAI
    51: "b2213112",  # IPTE
    # VL, VMLOF, VFENEB, VPERM, VFADB, VCKSM, VGFMG, LCBB
    129: "e71080000006 e712300020a5 e71230000081 e7123000408c e712300030e3 e71230000066 e712300030b4 e71080006027",
}
# Of what is withheld because of an operation exception; 8 and 28 among them.
NOT_CARRIED_OUT = {
    6: "b99a0010",  # EPAIR
    8: "b9af0018",  # PFMF
    11: "b9a20010",  # PTF
    20: "b32e0024",  # MAER
    23: "b33b0024",  # MYR
    26: "b9bf0024",  # TRTE
    28: "0104",  # PTFF
    36: "af000000",  # MC
    38: "b2630024",  # CMPSC
    42: "b3d24002",  # ADTR
    44: "010a",  # PFPO
    47: "b2630024",
    48: "ed07800000aa",  # CDZT
    50: "e56100000000",  # TBEGINC
    53: "e3108000003b",  # LZRF
    58: "e31080000038 b9ec5024",  # AGH, MGRK
    61: "b9f03812 b9f53012 e50a80008008",  # SELR, NCRK, MVCRL
    64: "aa100000",  # LRIC
    66: "b9ae0012",  # RRBM
    67: "b28e8000",  # QCTRI
    68: "b2868000",  # QSI
    73: "e56000000000",  # TBEGIN
    74: "b2560024",  # STHYI
    80: "ed07800000ae",  # CDPT
    133: "e3108000004c",  # LGG
    134: "e61230005071",  # VAP
    135: "e71230000085",  # VBPERM
    144: "b9a10012",  # TPEI
    145: "b9ac0012",  # IRBM
    146: "b9296024",  # KMA
    148: "e61080003007",  # VLER
    150: "b9380024",  # SORTL
    151: "b9396024",  # DFLTCC
    155: "b93a0024",  # KDSA
    193: "eb0080000071 b2008000",  # LBEAR, LPSWEY
}
QUERY_ONLY = {17: "b92e0024 b92f0024 b93e0024 b93f0024 b91e0024", 76: "b928", 77: "b92a0024 b92b0024 b92d6024 b92c0000"}
PROGRAM = 3  # number of the interruption in the hook
CODE, DATA = 0x10000, 0x30000
SUPERVISOR_64 = 0x0000_0001_8000_0000
DAT = 0x0400_0000_0000_0000
AFP_AND_VECTOR = 0x6_0000  # CR0 bits 45 and 46
TRANSLATION_EXCEPTION = 0xA8


class EmbeddedCpu:
    """One instruction after the other on the CPU of the embedded engine, as it comes."""

    def __init__(self, unicorn, registers):
        self.registers = registers
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_S390X, unicorn.UC_MODE_BIG_ENDIAN)
        self.cpu.ctl_set_cpu_model(registers.UC_CPU_S390X_MAX)
        self.cpu.mem_map(0, 4 << 20)
        self.interruptions = []
        self.cpu.hook_add(unicorn.UC_HOOK_INTR, self._interrupted)
        self.cr0 = 0xE0 | AFP_AND_VECTOR

    def _interrupted(self, cpu, number, _):
        self.interruptions.append(number)
        cpu.emu_stop()

    def set(self, name, value):
        self.cpu.reg_write(getattr(self.registers, f"UC_S390X_REG_{name}"), value)

    def get(self, name):
        return self.cpu.reg_read(getattr(self.registers, f"UC_S390X_REG_{name}"))

    def execute(self, instruction, mask=SUPERVISOR_64, at=CODE, **registers):
        """Whether the instruction ended without an interruption."""
        self.cpu.mem_write(at, instruction)
        self.interruptions.clear()
        operands = {"R0": 0, "R1": DATA, "R2": DATA, "R3": 16, "R4": DATA + 4096, "R5": 16, "R6": DATA + 8192, "R7": 16}
        for name, value in {**operands, "R8": DATA + 12288, "CR0": self.cr0, "PSWM": mask, **registers}.items():
            self.set(name, value)
        self.cpu.emu_start(at, at + len(instruction), count=1)
        return not self.interruptions


@pytest.fixture
def embedded():
    unicorn = pytest.importorskip("unicorn", reason="the embedded CPU (unicorn) is not installed")
    registers = pytest.importorskip("unicorn.s390x_const")
    return EmbeddedCpu(unicorn, registers)


def instructions(table):
    return [(bit, one) for bit, text in table.items() for one in text.split()]


@pytest.mark.parametrize(("bit", "code"), instructions(CARRIED_OUT))
def test_an_offered_instruction_is_carried_out(embedded, bit, code):
    assert bit in OFFERED
    assert embedded.execute(bytes.fromhex(code), **({"R0": 0x200} if bit in (32, 33) else {})), OFFERED[bit].name


@pytest.mark.parametrize(("bit", "code"), instructions(NOT_CARRIED_OUT))
def test_a_withheld_instruction_is_not_carried_out(embedded, bit, code):
    assert bit in WITHHELD
    assert not embedded.execute(bytes.fromhex(code)), WITHHELD[bit].name
    assert embedded.interruptions == [PROGRAM]
    assert embedded.get("PC") == CODE


def test_the_tables_are_put_to_the_test():
    """Every bit that is withheld for an operation exception is in the table above."""
    assert {bit for bit, why in WITHHELD.items() if "operation exception" in why.reason} - {
        14
    } == NOT_CARRIED_OUT.keys()


@pytest.mark.parametrize(("bit", "code"), instructions(QUERY_ONLY))
def test_of_the_cryptographic_functions_only_the_query_is_there(embedded, bit, code):
    assert bit in WITHHELD
    instruction = bytes.fromhex(code).ljust(4, b"\0")
    assert embedded.execute(instruction, R0=0, R1=DATA)
    assert bytes(embedded.cpu.mem_read(DATA, 16)) == b"\x80" + bytes(15)
    assert not embedded.execute(instruction, R0=1, R1=DATA)


def test_the_list_of_the_cpu_itself_is_empty(embedded):
    """Why the engine has its own STFLE."""
    embedded.cpu.mem_write(DATA, b"\xff" * 32)
    embedded.execute(bytes.fromhex("b2b02000"), R0=3)
    assert bytes(embedded.cpu.mem_read(DATA, 32)) == b"\xff" * 32


LOAD, STORE = bytes.fromhex("e31080000004"), bytes.fromhex("e31080000024")
REGION, SEGMENTS, PAGES, LARGE = 0x100000, 0x104000, 0x108000, 0x200000
INVALID, PROTECTED, NO_EXECUTION = 0x400, 0x200, 0x100


@pytest.fixture
def translating(embedded):
    """The first MiB one to one, pages 0x80 and above of special kinds, the second MiB a large page."""

    def put(address, value):
        embedded.cpu.mem_write(address, struct.pack(">Q", value))

    for entry in range(2048):
        put(REGION + 8 * entry, 0x24)
        put(SEGMENTS + 8 * entry, 0x20)
    for page in range(256):
        put(PAGES + 8 * page, page << 12)
    put(REGION, SEGMENTS | 0x7)
    put(SEGMENTS, PAGES)
    put(SEGMENTS + 8, LARGE | 0x400)
    put(PAGES + 8 * 0x80, INVALID)
    put(PAGES + 8 * 0x81, DATA | PROTECTED)
    put(PAGES + 8 * 0x82, DATA | NO_EXECUTION)
    embedded.cr0 |= 1 << 63 - 40 | 1 << 63 - 43  # enhanced DAT, instruction-execution protection
    for register in ("CR1", "CR13"):
        embedded.set(register, REGION | 0x7)

    def execute(instruction, address=0):
        embedded.cpu.mem_write(TRANSLATION_EXCEPTION, bytes(8))
        done = embedded.execute(instruction, SUPERVISOR_64 | DAT, R8=address)
        return done, struct.unpack(">Q", embedded.cpu.mem_read(TRANSLATION_EXCEPTION, 8))[0]

    return execute


@pytest.mark.parametrize(("instruction", "kind"), [(LOAD, 0x800), (STORE, 0x400)])
def test_75_fetch_or_store_is_told(translating, instruction, kind):
    assert 75 in OFFERED
    done, told = translating(instruction, 0x80010)
    assert not done
    assert told & ~0x3FF == 0x80000 | kind


def test_75_a_protected_page(translating):
    assert translating(LOAD, 0x81000)[0]
    done, told = translating(STORE, 0x81000)
    assert not done
    assert told & ~0x3FB == 0x81000 | 0x400 | 0x4


def test_8_a_large_page_is_taken_for_a_page_table(embedded, translating):
    assert 8 in WITHHELD
    embedded.cpu.mem_write(LARGE, bytes(7) + b"\x42")  # the data of the page, or a page-table entry for page 0
    embedded.cpu.mem_write(0, b"zero was")
    assert translating(LOAD, 0x100000)[0]
    assert embedded.get("R1").to_bytes(8, "big") == b"zero was"


def test_130_execution_is_prevented(embedded, translating):
    assert 130 in OFFERED
    assert translating(LOAD)[0]
    embedded.cpu.mem_write(DATA, bytes.fromhex("a7190042"))  # LGHI 1,0x42
    embedded.interruptions.clear()
    embedded.set("R1", 0)
    embedded.set("PSWM", SUPERVISOR_64 | DAT)
    embedded.cpu.emu_start(0x82000, 0x82004, count=1)
    assert (embedded.interruptions, embedded.get("R1")) == ([3], 0)
    told = struct.unpack(">Q", embedded.cpu.mem_read(TRANSLATION_EXCEPTION, 8))[0]
    assert told & ~0xF3B == 0x82084
