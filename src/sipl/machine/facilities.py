"""The facility list that STFLE and STFL give to a guest of the embedded engine (docs/machine-options.md).

A bit is on if the instructions behind it work: in the embedded CPU itself (Unicorn 2.1.4, its default model), or
because the engine carries them out. The CPU's own STFLE stores an empty list, so its instructions were tried. What was
found stands in the tables `OFFERED` and `WITHHELD`; a test asks the CPU again, where it is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.machine.cpu_type import cpu_type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sipl.machine.cpu_model import CpuModel

_DOUBLEWORD: Final = 8
_STFL_SIZE: Final = 4
# Architected facilities end far below; a list of 2048 bits is also the most that STFLE can be asked for.
FACILITY_LIMIT: Final = 2048
EXTENDED_LENGTH_SCCB: Final = 140


class Facility(NamedTuple):
    """A bit that is on from a generation of machines on, and why."""

    generation: int
    name: str
    reason: str


class Withheld(NamedTuple):
    """A bit that is off, and why."""

    name: str
    reason: str


_CPU: Final = "the CPU carries it out"
_ENGINE: Final = "the engine carries it out"

# Bits 0, 1, 3, 18, 21, 25, 27 and 32 to 35 are what Debian's kernel 7.2 asks for before it starts (the list of a z10);
# 45 comes with z196, for which Debian's programs are compiled; glibc takes its z13 variants with 129.
OFFERED: Final[dict[int, Facility]] = {
    0: Facility(7, "instructions of z/Architecture", _CPU),
    1: Facility(7, "z/Architecture installed", "the CPU knows no other"),
    2: Facility(7, "z/Architecture active", "the CPU knows no other"),
    3: Facility(8, "DAT enhancement", "CSPG and IDTE: the CPU carries them out"),
    4: Facility(9, "IDTE clears by segment", "the CPU clears at least what it should"),
    7: Facility(9, "STFLE", _ENGINE),
    16: Facility(8, "extended translation 2", _CPU),
    18: Facility(8, "long displacement", _CPU),
    19: Facility(8, "long displacement is fast", "as fast as any other"),
    21: Facility(9, "extended immediate", _CPU),
    22: Facility(9, "extended translation 3", _CPU),
    24: Facility(9, "extended translation 2 enhancement", _CPU),
    25: Facility(9, "STCKF", _ENGINE),
    27: Facility(10, "MVCOS", _CPU),
    30: Facility(9, "extended translation 3 enhancement", _CPU),
    32: Facility(10, "compare and swap and store", "the CPU carries it out, but for stores of one byte"),
    33: Facility(10, "compare and swap and store 2", "the CPU carries it out, but for stores of one byte"),
    34: Facility(10, "general instructions extension", _CPU),
    35: Facility(10, "execute extensions", _CPU),
    37: Facility(11, "floating-point extension", _CPU),
    40: Facility(11, "LPP", "the CPU carries it out; nobody samples the program parameter"),
    41: Facility(10, "floating-point support enhancement", _CPU),
    45: Facility(11, "distinct operands, high word, interlocked access, load on condition", _CPU),
    49: Facility(12, "execution hint, load and trap, miscellaneous instructions 1", _CPU),
    51: Facility(12, "local TLB clearing", _CPU),
    52: Facility(12, "interlocked access 2", "one CPU runs at a time"),
    75: Facility(11, "fetch or store is told with an access exception", "the CPU stores it in the lowcore"),
    129: Facility(13, "vector", "the CPU carries it out: 211 forms of instructions gave the results of a QEMU 7.2"),
    130: Facility(14, "instruction-execution protection", _CPU),
    138: Facility(14, "always in z/Architecture mode", "the CPU knows no other"),
}

WITHHELD: Final[dict[int, Withheld]] = {
    5: Withheld("IDTE clears by region", "not put to the test, and nothing asks for it"),
    6: Withheld("ASN and LX reuse", "operation exception: EPAIR, PTI, SSAIR"),
    8: Withheld("enhanced DAT 1", "the CPU takes a large page for a page table; PFMF gives an operation exception"),
    9: Withheld("sense running status", "of use among several CPUs only"),
    10: Withheld("conditional SSKE", "the CPU sets the key unconditionally"),
    11: Withheld("configuration topology", "operation exception: PTF"),
    12: Withheld("AP query", "there is no crypto adapter"),
    13: Withheld("IPTE range", "the CPU invalidates one entry"),
    14: Withheld("nonquiescing key setting", "PFMF gives an operation exception"),
    17: Withheld("message-security assist", "the functions are not there, only the query"),
    20: Withheld("HFP multiply and add", "operation exception: MAER"),
    23: Withheld("HFP unnormalized", "operation exception: MYR"),
    26: Withheld("parsing enhancement", "operation exception: TRTE"),
    28: Withheld("TOD clock steering", "PTFF gives an operation exception; Linux would look for a time server"),
    31: Withheld("extract CPU time", "the CPU would use its own CPU timer instead of the engine's"),
    36: Withheld("enhanced monitor", "operation exception: MC"),
    38: Withheld("order-preserving compression", "operation exception: CMPSC"),
    42: Withheld("decimal floating point", "operation exception: ADTR"),
    43: Withheld("decimal floating point is fast", "there is none"),
    44: Withheld("PFPO", "operation exception: PFPO"),
    47: Withheld("CMPSC enhancement", "operation exception: CMPSC"),
    48: Withheld("decimal floating point, zoned", "operation exception: CDZT"),
    50: Withheld("constrained transactions", "operation exception: TBEGINC"),
    53: Withheld("load and zero rightmost byte, load on condition 2", "operation exception: LZRF"),
    57: Withheld("message-security assist 5", "no random numbers: only the query is there"),
    58: Withheld("miscellaneous instructions 2", "operation exception: AGH, MGRK"),
    61: Withheld("miscellaneous instructions 3", "operation exception: SELR, NCRK, MVCRL"),
    64: Withheld("runtime instrumentation", "operation exception: LRIC"),
    66: Withheld("RRBM", "operation exception: RRBM"),
    67: Withheld("CPU measurement counters", "operation exception: QCTRI"),
    68: Withheld("CPU measurement sampling", "operation exception: QSI"),
    69: Withheld("PCI", "there is no PCI"),
    71: Withheld("adapter-event notification", "there is no PCI"),
    72: Withheld("adapter-interruption suppression", "there is no adapter that could"),
    73: Withheld("transactional execution", "operation exception: TBEGIN"),
    74: Withheld("STHYI", "operation exception: STHYI"),
    76: Withheld("message-security assist 3", "the functions are not there, only the query"),
    77: Withheld("message-security assist 4", "the functions are not there, only the query"),
    78: Withheld("enhanced DAT 2", "needs enhanced DAT 1"),
    80: Withheld("decimal floating point, packed", "operation exception: CDPT"),
    81: Withheld("PPA in order", "nothing to assist: there are no transactions"),
    82: Withheld("branch prediction blocking", "there is nothing to protect from"),
    131: Withheld("side-effect access, suppression on protection 2", "not put to the test, and nothing asks for it"),
    133: Withheld("guarded storage", "operation exception: LGG, LGSC"),
    134: Withheld("vector packed decimal", "operation exception: VAP"),
    135: Withheld("vector enhancements 1", "operation exception: VBPERM, VMSL, VFMAX"),
    139: Withheld("multiple epochs", "the TOD clock has one"),
    144: Withheld("test pending external interruption", "operation exception: TPEI"),
    145: Withheld("IRBM", "operation exception: IRBM"),
    146: Withheld("message-security assist 8", "operation exception: KMA"),
    148: Withheld("vector enhancements 2", "operation exception: VLER, VSTRS"),
    150: Withheld("sort", "operation exception: SORTL"),
    151: Withheld("deflate", "operation exception: DFLTCC"),
    152: Withheld("vector packed decimal enhancement", "needs vector packed decimal"),
    155: Withheld("message-security assist 9", "operation exception: KDSA"),
    158: Withheld("ultravisor call", "there is no ultravisor"),
    161: Withheld("unpack", "there is no ultravisor"),
    165: Withheld("neural network assist", "not in the CPU"),
    192: Withheld("vector packed decimal enhancement 2", "needs vector packed decimal"),
    193: Withheld("BEAR enhancement", "operation exception: LBEAR, LPSWEY"),
    194: Withheld("reset DAT protection", "not in the CPU"),
    196: Withheld("processor activity instrumentation", "not in the CPU"),
}


class StoredList(NamedTuple):
    """How STFLE ends: condition code, general register 0 (64 bits), the bytes to store."""

    condition_code: int
    r0: int
    data: bytes


def facility_list(model: CpuModel, extra: Iterable[int] = (), without: Iterable[int] = ()) -> bytes:
    """The facility list of a CPU model: whole doublewords, bit 0 is the leftmost bit of the first byte.

    `extra` are bits that this engine brings besides, `without` such that it does not; neither asks for the generation
    of the model. Bits must be below `FACILITY_LIMIT`.
    """
    generation = cpu_type(model).generation
    bits = {bit for bit, facility in OFFERED.items() if facility.generation <= generation}
    if model.els:
        bits.add(EXTENDED_LENGTH_SCCB)
    bits = (bits | set(extra)) - set(without)
    value = bytearray((max(bits, default=0) // (8 * _DOUBLEWORD) + 1) * _DOUBLEWORD)
    for bit in bits:
        value[bit // 8] |= 0x80 >> bit % 8
    return bytes(value)


def stfl_word(facilities: bytes) -> bytes:
    """The 4 bytes that STFL stores at real address 200."""
    return facilities[:_STFL_SIZE]


def store_facility_list_extended(facilities: bytes, r0: int) -> StoredList:
    """STFLE by general register 0: the number of doublewords to store less one is its rightmost byte.

    That the operand lies on a doubleword boundary is the caller's to check.
    """
    needed = len(facilities) // _DOUBLEWORD
    asked = (r0 & 0xFF) + 1
    return StoredList(
        condition_code=0 if asked >= needed else 3,
        r0=r0 & ~0xFF | needed - 1,
        data=facilities[: asked * _DOUBLEWORD],
    )
