"""The CPU from inside: control instructions, PSWs, clocks, interruptions, translation, and code that changes."""

from __future__ import annotations

from typing import ClassVar

import pytest
from guest_asm import (
    DAT,
    DONE,
    EXTERNAL,
    EXTERNAL_NEW,
    EXTERNAL_SEEN,
    GO_SIZE,
    IO,
    PROBLEM,
    PUT_PSW_SIZE,
    PUT_SIZE,
    SUPERVISOR,
    SVC_SEEN,
    WAIT,
    Asm,
    program,
)
from guest_lab import MEMORY, SPARE, EndKind

from sipl.layout.sclp import Command

OPERATION, PRIVILEGED, EXECUTE, PROTECTION, ADDRESSING, SPECIFICATION = 1, 2, 3, 4, 5, 6
PAGE_TRANSLATION, SEGMENT_TRANSLATION = 0x11, 0x10

SAM64 = "010E"


def ok(left):
    assert left.stopped_at == DONE, (left.end, hex(left.program_code), hex(left.program_old))
    return left


class TestSystemMask:
    @pytest.mark.parametrize("instruction", ["8000C000", "AD80C008"], ids=["SSM", "STOSM"])
    def test_unassigned_bit(self, lab, instruction):
        """Bit 0 of the system mask makes a PSW that is not valid."""
        asm = program().put(SPARE, b"\x80".ljust(8, b"\0")).load(12, SPARE).raw(instruction)
        behind = asm.here
        left = lab.run(asm.end())
        assert left.interrupted(SPECIFICATION), left.end
        assert (left.program_length, left.program_old) == (4, behind)

    def test_stnsm_stores_what_was(self, lab):
        asm = program().put(SPARE, bytes.fromhex("0300000000000000")).s_at(0x8000, SPARE)
        asm.load(12, SPARE + 1).raw("ACFDC000")  # STNSM: away with I/O
        asm.load(12, SPARE + 2).raw("AD00C000")  # STOSM 0: what is there
        asm.load(12, SPARE + 3).raw("ACFCC000").load(12, SPARE + 4).raw("AD00C000")
        assert ok(lab.run(asm.end())).bytes(SPARE, 5) == bytes.fromhex("0303010100")

    @pytest.mark.parametrize("instruction", ["8000C000", "ACFFC000", "AD00C000", "B202C000", "B204C000", "B206C000"])
    def test_privileged(self, lab, instruction):
        asm = program().load(12, SPARE).go(PROBLEM).raw(instruction)
        behind = asm.here
        left = lab.run(asm.end())
        assert left.interrupted(PRIVILEGED), left.end
        assert (left.program_length, left.program_old) == (4, behind)


class TestControlRegisters:
    def test_lctlg_and_stctg(self, lab):
        values = {3: 0x1122334455667788, 4: 0x99AABBCCDDEEFF00}
        asm = program().put(SPARE, b"".join(v.to_bytes(8, "big") for v in values.values()))
        asm.load(12, SPARE).rxy(0xEB2F, 3, 12, index=4).rxy(0xEB25, 3, 12, 64, 4)
        left = ok(lab.run(asm.end()))
        assert {n: left.control[n] for n in values} == values
        assert [left.number(SPARE + 64), left.number(SPARE + 72)] == list(values.values())

    def test_lctl_keeps_the_left_half(self, lab):
        asm = program().put(SPARE, bytes.fromhex("1122334455667788 AABBCCDD00000000"))
        asm.load(12, SPARE).rxy(0xEB2F, 3, 12, index=3).rs(0xB7, 3, 3, 12, 8).rs(0xB6, 3, 3, 12, 16)
        left = ok(lab.run(asm.end()))
        assert left.control[3] == 0x11223344AABBCCDD
        assert left.number(SPARE + 16, 4) == 0xAABBCCDD

    def test_registers_wrap_around(self, lab):
        asm = program().load(12, SPARE).rxy(0xEB25, 0, 12, 0, 15)
        asm.put(SPARE + 128, bytes.fromhex("0000000000000042 0000000000000E00"))
        asm.load(12, SPARE + 128).rxy(0xEB2F, 15, 12, index=0)
        left = ok(lab.run(asm.end()))
        assert (left.control[15], left.control[0]) == (0x42, 0xE00)

    def test_low_address_protection_is_kept(self, lab):
        asm = program().put(SPARE, (0x10000000).to_bytes(8, "big"))
        asm.load(12, SPARE).rxy(0xEB2F, 0, 12, index=0).rxy(0xEB25, 0, 12, 8, 0)
        left = ok(lab.run(asm.put(SPARE + 16, bytes(8)).load(9, 1).end()))
        assert left.number(SPARE + 8) == 0x10000000

    @pytest.mark.parametrize("instruction", ["EB33C004002F", "EB33C0040025", "B733C002", "B633C002"])
    def test_not_aligned(self, lab, instruction):
        asm = program().load(12, SPARE).raw(instruction)
        left = lab.run(asm.end())
        assert left.interrupted(SPECIFICATION), left.end
        assert left.program_length == len(instruction) // 2

    @pytest.mark.parametrize("instruction", ["EB33C000002F", "EB33C0000025", "B733C000", "B633C000"])
    def test_not_there(self, lab, instruction):
        left = lab.run(program().load(12, MEMORY).raw(instruction).end())
        assert left.interrupted(ADDRESSING), left.end


class TestLoadPsw:
    def test_short_psw(self, lab):
        """LPSW switches to the addressing mode of its PSW."""
        asm = program()
        target = asm.here + PUT_SIZE + 12 + 4
        asm.put(SPARE + 8, b"behind..")
        target += PUT_SIZE
        asm.put(SPARE, (0x0008000080000000 | target).to_bytes(8, "big")).load(12, SPARE).raw("8200C000")
        assert asm.here == target
        asm.load(1, 0xFFFFFFFF80100008).lg(2, 1)  # a 31-bit address: the doubleword after SPARE
        asm.put_register(0x7000, 2)
        left = ok(lab.run(asm.end()))
        assert left.number(0x7000) == left.number(0x100008) == 0x6265_6869_6E64_2E2E

    def test_short_psw_without_its_bit(self, lab):
        asm = program().put(SPARE, (0x0000000080000000 | 0xB000).to_bytes(8, "big"))
        left = lab.run(asm.load(12, SPARE).raw("8200C000").end())
        assert left.interrupted(SPECIFICATION), left.end

    @pytest.mark.parametrize(
        ("mask", "address"),
        [
            (0x8000000180000000, 0xA000),  # unassigned bit 0
            (0x0008000180000000, 0xA000),  # bit 12 of an extended PSW
            (0x0000000100000000, 0xA000),  # extended addressing without basic addressing
            (0x0000000180000001, 0xA000),  # unassigned bit 63
            (0x0000000080000000, 0x80000000),  # 31-bit addressing, 32-bit address
            (0x0000000000000000, 0x1000000),  # 24-bit addressing, 25-bit address
        ],
        ids=hex,
    )
    def test_not_valid(self, lab, mask, address):
        """An early specification exception: the PSW is current when it is found, and the old PSW shows it."""
        asm = program()
        left = lab.run(asm.go(mask, address), timeout=3)
        assert left.interrupted(SPECIFICATION), left.end
        assert (left.number(0x150), left.program_old) == (mask, address)

    @pytest.mark.parametrize("how", ["LPSWE", "BR"])
    def test_odd_address(self, lab, how):
        """Found when an instruction is to be fetched there: the old PSW is beyond it."""
        asm = program()
        asm = asm.go(SUPERVISOR, 0xA001) if how == "LPSWE" else asm.load(14, 0xA001).raw("07FE")
        left = lab.run(asm.end(), timeout=3)
        assert left.interrupted(SPECIFICATION), left.end
        assert (left.number(0x150), left.program_length, left.program_old) == (SUPERVISOR, 2, 0xA003)

    def test_odd_address_of_a_wait(self, lab):
        left = lab.run(program().go(WAIT & ~EXTERNAL & ~IO, 0xA001), timeout=3)
        assert left.stopped_at == 0xA001

    def test_where_there_is_no_storage(self, lab):
        left = lab.run(program().go(SUPERVISOR, MEMORY + 0x1000), timeout=3)
        assert left.interrupted(ADDRESSING), left.end

    def test_operation_exception(self, lab):
        asm = program().raw("0000")
        behind = asm.here
        left = lab.run(asm.end())
        assert left.interrupted(OPERATION), left.end
        assert (left.program_length, left.program_old) == (2, behind)

    def test_disabled_wait_is_told(self, lab):
        left = lab.run(program().end(0x123456))
        assert left.end.kind is EndKind.CRASHED
        assert "0000000000123456" in left.end.message

    def test_wait_for_what_never_comes(self, lab):
        left = lab.run(program().go(WAIT | IO, 0xA000), timeout=3)
        assert left.end.kind is EndKind.CRASHED
        assert "never come" in left.end.message


class TestStoreInstructions:
    def test_stfle_stfl(self, lab):
        asm = program().put(SPARE, b"\xff" * 48).load(0, 3).s_at(0xB2B0, SPARE).keep_cc(SPARE + 64)
        asm.put_register(SPARE + 72, 0).load(0, 0).s_at(0xB2B0, SPARE + 32).keep_cc(SPARE + 80).s(0xB2B1)
        left = ok(lab.run(asm.end()))
        stored = left.number(SPARE + 72) & 0xFF
        facilities = left.bytes(SPARE, 8 * (stored + 1))
        assert (left.number(SPARE + 64), left.number(SPARE + 80)) == (0, 3)
        assert left.bytes(SPARE + 8 * (stored + 1), 8) == b"\xff" * 8
        assert left.bytes(SPARE + 32, 8) == facilities[:8]
        assert left.number(200, 4) & ~0x1 == left.number(SPARE, 4) & ~0x1
        for bit in (1, 2, 7, 18, 21, 25, 27, 140):  # z/Architecture, STFLE, long displacement, …, ELS
            assert facilities[bit // 8] << bit % 8 & 0x80, bit
        for bit in (129 + 32, 61, 148, 192):  # nothing that this CPU cannot do
            assert bit // 8 >= len(facilities) or not facilities[bit // 8] << bit % 8 & 0x80, bit

    def test_stfle_not_aligned(self, lab):
        left = lab.run(program().load(0, 3).s_at(0xB2B0, SPARE + 4).end())
        assert left.interrupted(SPECIFICATION), left.end

    def test_stidp(self, lab):
        left = ok(lab.run(program().s_at(0xB202, SPARE).end(), mode="normal", certs=(), cpu="z15"))
        assert left.number(SPARE + 4, 2) == 0x8561

    def test_stsi(self, lab):
        asm = (
            program().load(0, 0).load(1, 0).s_at(0xB27D, SPARE).keep_cc(SPARE + 0x2000).put_register(SPARE + 0x2008, 0)
        )
        asm.load(0, 0x10000001).load(1, 1).s_at(0xB27D, SPARE).keep_cc(SPARE + 0x2010)
        asm.load(0, 0x70000001).load(1, 1).s_at(0xB27D, SPARE).keep_cc(SPARE + 0x2018)
        left = ok(lab.run(asm.end()))
        assert (left.number(SPARE + 0x2000), left.number(SPARE + 0x2008) >> 28) == (0, 3)
        assert left.number(SPARE + 0x2010) == 0
        assert left.bytes(SPARE + 32, 16).decode("cp037").strip()  # manufacturer
        assert left.number(SPARE + 0x2018) == 3

    def test_clocks_go_forward(self, lab):
        asm = program().s_at(0xB205, SPARE).keep_cc(SPARE + 64).s_at(0xB278, SPARE + 8).s_at(0xB27C, SPARE + 24)
        left = ok(lab.run(asm.end()))
        first, middle, last = left.number(SPARE), left.number(SPARE + 8 + 1), left.number(SPARE + 24)
        assert left.number(SPARE + 8, 1) == left.number(SPARE + 64) == 0
        assert 0 < first < middle < last

    def test_stck_into_a_page_that_is_not_there(self, lab):
        left = lab.run(program().s_at(0xB205, MEMORY - 4).end())
        assert left.interrupted(ADDRESSING), left.end


class TestServiceCall:
    def read_info(self, length=4096, command=Command.READ_SCP_INFO):
        asm = program().put(SPARE, length.to_bytes(2, "big") + bytes(6))
        return asm.load(1, int(command)).load(2, SPARE).rre(0xB220, 1, 2).keep_cc(SPARE + 0x2000)

    def test_facilities_of_secure_ipl(self, lab):
        left = ok(lab.run(self.read_info().end(), loadparm="LOADPARM"))
        assert (left.number(SPARE + 6, 2), left.number(SPARE + 0x2000)) == (0x0010, 0)
        assert left.number(SPARE + 134, 1) & 0x04
        assert left.number(SPARE + 136, 2) & 0x5000 == 0x5000
        assert left.bytes(SPARE + 24, 8) == "LOADPARM".encode("cp037")
        assert left.number(SPARE + 8, 2) * left.number(SPARE + 10, 1) == MEMORY >> 20

    def test_without_them(self, lab):
        left = ok(lab.run(self.read_info().end(), mode="normal", certs=(), cpu="z15"))
        assert not left.number(SPARE + 134, 1) & 0x04
        assert not left.number(SPARE + 136, 2) & 0x5000

    def test_too_short(self, lab):
        assert ok(lab.run(self.read_info(100).end())).number(SPARE + 6, 2) == 0x0300

    def test_unknown_command(self, lab):
        assert ok(lab.run(self.read_info(command=0x00990001).end())).number(SPARE + 6, 2) == 0x01F0

    @pytest.mark.parametrize(
        ("address", "code"), [(SPARE + 4, SPECIFICATION), (MEMORY, ADDRESSING), (0x1000, SPECIFICATION)]
    )
    def test_interruptions(self, lab, address, code):
        asm = program().load(1, int(Command.READ_SCP_INFO)).load(2, address).rre(0xB220, 1, 2)
        left = lab.run(asm.end())
        assert left.interrupted(code), left.end
        assert left.program_length == 4

    def test_privileged(self, lab):
        asm = program().load(1, int(Command.READ_SCP_INFO)).load(2, SPARE).go(PROBLEM).rre(0xB220, 1, 2)
        assert lab.run(asm.end()).interrupted(PRIVILEGED)


class TestInterruptions:
    def test_svc(self, lab):
        asm = program().svc(0xA7)
        behind = asm.here
        left = lab.run(asm.end())
        assert left.stopped_at == SVC_SEEN
        assert (left.number(0x88, 4), left.number(0x148)) == (0x000200A7, behind)

    def test_svc_from_the_problem_state(self, lab):
        asm = program().go(PROBLEM).svc(1)
        left = lab.run(asm.end())
        assert left.stopped_at == SVC_SEEN
        assert left.number(0x140) & PROBLEM == PROBLEM

    def service_signal(self, mask=EXTERNAL | SUPERVISOR, cr0=0x200):
        asm = program().put(SPARE + 8, cr0.to_bytes(8, "big")).load(12, SPARE + 8).rxy(0xEB2F, 0, 12, index=0)
        asm.put(SPARE + 0x1000, (4096).to_bytes(2, "big") + bytes(6))
        asm.load(1, int(Command.READ_SCP_INFO)).load(2, SPARE + 0x1000).rre(0xB220, 1, 2)
        return asm.go(mask)

    def test_service_signal(self, lab):
        left = lab.run(self.service_signal().end())
        assert left.stopped_at == EXTERNAL_SEEN, left.end
        assert left.number(0x86, 2) == 0x2401
        assert left.number(0x80, 4) == SPARE + 0x1000

    def test_service_signal_wakes(self, lab):
        left = lab.run(self.service_signal(EXTERNAL | WAIT))
        assert left.stopped_at == EXTERNAL_SEEN, left.end
        assert left.number(0x130) & WAIT == WAIT

    def test_service_signal_masked_by_cr0(self, lab):
        assert ok(lab.run(self.service_signal(cr0=0).end()))

    def test_service_signal_masked_by_the_psw(self, lab):
        assert ok(lab.run(self.service_signal(SUPERVISOR).end()))

    def comparator(self, asm, cr0=0x800, value=1):
        asm.put(SPARE + 8, cr0.to_bytes(8, "big")).load(12, SPARE + 8).rxy(0xEB2F, 0, 12, index=0)
        return asm.put(SPARE + 16, value.to_bytes(8, "big")).s_at(0xB206, SPARE + 16)

    def test_clock_comparator(self, lab):
        left = lab.run(self.comparator(program()).go(EXTERNAL | SUPERVISOR).end())
        assert left.stopped_at == EXTERNAL_SEEN, left.end
        assert left.number(0x86, 2) == 0x1004

    def test_clock_comparator_wakes_in_the_future(self, lab):
        """A twentieth of a second from now."""
        asm = program().s_at(0xB205, SPARE).lg(1, 12).load(2, 50000 << 12).rre(0xB908, 1, 2)
        self.comparator(asm).put_register(SPARE + 16, 1).s_at(0xB206, SPARE + 16).s_at(0xB207, SPARE + 24)
        handler_at = SPARE + 0x800
        asm.put_psw(EXTERNAL_NEW, SUPERVISOR, handler_at)
        handler = Asm(handler_at).s_at(0xB205, SPARE + 32).end()
        handler.code += bytes(-len(handler.code) % 8)
        asm.put(handler_at, bytes(handler.code))
        left = ok(lab.run(asm.go(EXTERNAL | WAIT, 0xA000)))
        assert left.number(SPARE + 16) == left.number(SPARE + 24)
        assert left.number(SPARE + 32) >= left.number(SPARE + 16) > left.number(SPARE)

    def test_clock_comparator_masked(self, lab):
        assert ok(lab.run(self.comparator(program(), cr0=0).go(EXTERNAL | SUPERVISOR).end()))
        assert ok(lab.run(self.comparator(program()).go(SUPERVISOR).end()))

    def test_lctlg_opens_for_the_comparator(self, lab):
        """The subclass mask is as good as the PSW's."""
        asm = self.comparator(program(), cr0=0).go(EXTERNAL | SUPERVISOR)
        asm.put(SPARE + 8, (0x800).to_bytes(8, "big")).load(12, SPARE + 8).rxy(0xEB2F, 0, 12, index=0)
        assert lab.run(asm.end()).stopped_at == EXTERNAL_SEEN

    @pytest.mark.parametrize("instruction", ["8000C000", "AD01C008"])
    def test_ssm_and_stosm_open_for_the_comparator(self, lab, instruction):
        asm = self.comparator(program()).put(SPARE + 0x100, b"\1".ljust(8, b"\0")).load(12, SPARE + 0x100)
        asm.raw(instruction)
        behind = asm.here
        left = lab.run(asm.end())
        assert left.stopped_at == EXTERNAL_SEEN, left.end
        assert left.number(0x138) == behind


class TestTranslation:
    """DAT on, with a segment table and one page table: the first MiB as it is, the second where tests say."""

    SEGMENTS = 0x200000
    PAGES = 0x210000

    def tables(self, asm, pages):
        """The first MiB is identical but for `pages`: virtual page to entry."""
        for page in range(256):
            entry = pages.get(page, page << 12)
            asm.load(15, entry).load(14, self.PAGES + 8 * page).stg(15, 14)
        asm.put(self.SEGMENTS, self.PAGES.to_bytes(8, "big")).load(1, 0x20)
        for segment in range(1, 4):
            asm.put(self.SEGMENTS + 8 * segment, (0x20).to_bytes(8, "big"))
        asm.put(0x6000, self.SEGMENTS.to_bytes(8, "big")).load(12, 0x6000)
        return asm.rxy(0xEB2F, 1, 12, index=1)

    def translated(self, pages, mask=DAT):
        return self.tables(program(), pages).go(mask)

    def test_stores_and_diag_320_are_translated(self, lab):
        asm = self.translated({0x80: SPARE}).put(0x80100, b"virtual.")
        asm.load(2, 0x80200).load(6, 0).diag(2, 6, 0x320)
        left = ok(lab.run(asm.end()))
        assert left.bytes(SPARE + 0x100, 8) == b"virtual."
        assert left.number(SPARE + 0x200, 4) == 0xE0000000
        assert left.number(0x80200, 4) == 0

    def test_diag_320_over_two_pages(self, lab):
        asm = self.translated({0x80: SPARE, 0x81: SPARE + 0x5000})
        left = ok(lab.run(asm.load(2, 0x80FFE).load(6, 0).diag(2, 6, 0x320).end()))
        assert (left.number(SPARE + 0xFFE, 2), left.number(SPARE + 0x5000, 2)) == (0xE000, 0)
        assert left.number(0x81000, 2) == 0

    @pytest.mark.parametrize(
        ("address", "code"), [(0x80010, PAGE_TRANSLATION), (0x180010, SEGMENT_TRANSLATION), (0x90010, PROTECTION)]
    )
    @pytest.mark.parametrize("kind", ["diag", "native", "stck"])
    def test_exceptions(self, lab, kind, address, code):
        """By an emulated instruction as by the CPU: which page, and what the old PSW points to."""
        asm = self.translated({0x80: 0x400, 0x90: SPARE | 0x200}).load(6, 0).load(2, address)
        at = asm.here
        if kind == "diag":
            asm.diag(2, 6, 0x320)
        elif kind == "native":
            asm.rxy(0xE324, 6, 2)
        else:
            asm.s(0xB205, 2)
        behind = asm.here
        left = lab.run(asm.end())
        assert left.interrupted(code), left.end
        assert left.number(0xA8) & ~0xFFF == address & ~0xFFF
        assert left.program_old == (behind if code == PROTECTION else at)
        assert left.program_length == behind - at
        assert left.number(0x150) & DAT == DAT

    def test_second_page_of_an_operand(self, lab):
        """Nothing is stored where the operand's end has no translation."""
        asm = self.translated({0x80: SPARE, 0x81: 0x400}).load(2, 0x80FFE).load(6, 0).diag(2, 6, 0x320)
        left = lab.run(asm.end())
        assert left.interrupted(PAGE_TRANSLATION)
        assert left.number(0xA8) & ~0xFFF == 0x81000
        assert left.number(SPARE + 0xFFE, 2) == 0

    def test_fetch_of_an_instruction(self, lab):
        left = lab.run(self.translated({0x80: 0x400}).load(14, 0x80000).raw("07FE"), timeout=3)
        assert left.interrupted(PAGE_TRANSLATION), left.end
        assert left.number(0xA8) & ~0xFFF == left.program_old == 0x80000

    def test_instruction_execution_protection(self, lab):
        """A page with its IEP bit holds data; that counts once CR0 says so."""
        asm = self.tables(program().put(SPARE, bytes.fromhex("07FE").ljust(8, b"\0")), {0x80: SPARE | 0x100})
        asm.go(DAT).load(13, 0x80000).raw("0DED").put_register(0x7100, 13)  # BASR 14,13
        asm.put(0x6008, (0x100000).to_bytes(8, "big")).load(12, 0x6008).rxy(0xEB2F, 0, 12, index=0).raw("0DED")
        left = lab.run(asm.end(), timeout=3)
        assert left.interrupted(PROTECTION), left.end
        assert (left.number(0x7100), left.program_old & ~0xF) == (0x80000, 0x80000)
        assert left.number(0xA8) & 0x94 == 0x84  # an instruction fetch, by instruction-execution protection

    @pytest.mark.parametrize("relative", [False, True], ids=["EX", "EXRL"])
    def test_target_of_execute_where_nobody_asked_for_protection(self, lab, relative):
        """The protection below the guest is lifted for EXECUTE's target, too, and that is the end of it."""
        target = bytes.fromhex("A77B0005")  # AGHI 7,5
        asm = self.tables(program().put(SPARE, target.ljust(8, b"\0")), {0x80: SPARE | 0x100})
        asm.put(0x6008, (0xE0).to_bytes(8, "big")).load(12, 0x6008).rxy(0xEB2F, 0, 12, index=0)
        asm.go(DAT).load(7, 1)
        if relative:
            asm.ril(0xC60, 0, (0x80000 - asm.here) // 2)
        else:
            asm.load(13, 0x80000).rs(0x44, 0, 0, 13)
        assert ok(lab.run(asm.put_register(0x7100, 7).end(), timeout=5)).number(0x7100) == 6

    def test_emulated_instruction_in_two_address_spaces(self, lab):
        """The same virtual address holds DIAG 320 in one table and DIAG 508 in another."""
        one, two = (Asm(0x80000).diag(2, 6, function).raw("07FE") for function in (0x320, 0x508))
        asm = self.tables(program().put(SPARE, bytes(one.code).ljust(8, b"\0")), {0x80: SPARE})
        asm.put(SPARE + 0x1000, bytes(two.code).ljust(8, b"\0")).go(DAT)
        asm.load(2, 0x7000).load(3, 0).load(6, 0).load(13, 0x80000).raw("0DED")  # BASR 14,13
        asm.put_register(0x7100, 3).go(SUPERVISOR)
        asm.put(self.PAGES + 8 * 0x80, (SPARE + 0x1000).to_bytes(8, "big")).raw("B20D0000").go(DAT)  # PTLB
        asm.load(2, 0x7000).load(3, 0).load(13, 0x80000).raw("0DED").put_register(0x7108, 3)
        left = ok(lab.run(asm.end()))
        assert [left.number(0x7100), left.number(0x7108)] == [1, 0x8000]


class TestExecute:
    """EX and EXRL of instructions that Unicorn does not carry out itself."""

    def run_target(self, lab, target: str, relative: bool):
        asm = program().load(2, SPARE).load(3, 0x77).load(6, 0).load(12, SPARE + 64).load(1, 0)
        start = asm.here
        asm.jump(start + 6 + 8)
        at = asm.here
        asm.raw(target).raw(bytes(8 - len(target) // 2))
        if relative:
            asm.ril(0xC60, 1, (at - asm.here) // 2)
        else:
            asm.load(13, at).rs(0x44, 1, 0, 13)
        return lab.run(asm.end(), timeout=3)

    @pytest.mark.parametrize("relative", [False, True], ids=["EX", "EXRL"])
    def test_diagnose(self, lab, relative):
        left = ok(self.run_target(lab, "83260508", relative))
        assert left.registers[3] == 0x8000

    @pytest.mark.parametrize("relative", [False, True], ids=["EX", "EXRL"])
    def test_stck(self, lab, relative):
        left = ok(self.run_target(lab, "B205C000", relative))
        assert left.number(SPARE + 64) != 0

    @pytest.mark.parametrize("relative", [False, True], ids=["EX", "EXRL"])
    def test_interruption(self, lab, relative):
        left = self.run_target(lab, "83260999", relative)
        assert left.interrupted(SPECIFICATION), left.end
        assert left.program_length == (6 if relative else 4)

    @pytest.mark.parametrize("relative", [False, True], ids=["EX", "EXRL"])
    def test_native(self, lab, relative):
        left = ok(self.run_target(lab, "D207C0000010" + "", relative))
        assert left.bytes(SPARE + 64, 8) == left.bytes(0x10, 8)


class TestLongBlocks:
    @pytest.mark.parametrize("ahead", [100, 300, 700, 1100, 1900])
    @pytest.mark.parametrize("kind", ["first", "entered", "loaded", "woken"])
    def test_nothing_is_missed_far_into_a_block(self, lab, kind, ahead):
        """Straight-line code without a branch, and an emulated instruction at its end."""
        if kind == "first":
            asm = Asm()
        elif kind == "entered":
            asm = Asm().raw(SAM64)
        elif kind == "loaded":
            asm = program().go(SUPERVISOR)
        else:
            asm = TestInterruptions().comparator(program())
            asm.put_psw(EXTERNAL_NEW, SUPERVISOR, asm.here + PUT_PSW_SIZE + GO_SIZE).go(EXTERNAL | WAIT, 0xA000)
        for _ in range(ahead // 4):
            asm.ri(0xA7B, 5, 1)
        asm.load(2, 0).load(6, 0).load(3, 0x77).diag(2, 6, 0x508)
        left = ok(lab.run(asm.end()))
        assert (left.registers[5], left.registers[3]) == (ahead // 4, 0x8000)


class TestChangingCode:
    """What runs is what lies in storage."""

    def subroutine(self, asm, at, code):
        code += b"\x07\xfe"  # BR 14
        return asm.put(at, code.ljust(-len(code) % 8 + len(code), b"\x07"))

    def call(self, asm, at):
        return asm.load(13, at).raw("0DED")  # BASR 14,13; the sequences use 14, which is loaded after

    AT = 0x30000
    LGHI: ClassVar = {number: bytes.fromhex(f"A759{number:04x}") for number in (1, 2)}  # LGHI 5,n

    def test_by_a_store(self, lab):
        asm = self.subroutine(program(), self.AT, self.LGHI[1])
        self.call(asm, self.AT).put_register(SPARE, 5)
        self.subroutine(asm, self.AT, self.LGHI[2])
        self.call(asm, self.AT).put_register(SPARE + 8, 5)
        left = ok(lab.run(asm.end()))
        assert [left.number(SPARE), left.number(SPARE + 8)] == [1, 2]

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("83260508", "83260320"),  # DIAG to DIAG
            ("A7390005", "83260508"),  # plain to DIAG
            ("83260508", "A7390005"),  # DIAG to plain
            ("AD00C000", "83260508"),  # STOSM, which has a short cut, to DIAG
            ("B205C000", "83260508"),  # STCK to DIAG
        ],
    )
    def test_emulated_instructions(self, lab, first, second):
        expected = {"83260508": 0x8000, "83260320": 1, "A7390005": 5, "AD00C000": 0x77, "B205C000": 0x77}
        asm = program()
        for slot, code in enumerate((first, second, first)):
            self.subroutine(asm, self.AT, bytes.fromhex(code))
            asm.load(2, SPARE + 0x200).load(3, 0x77).load(6, 0).load(12, SPARE + 0x208)
            self.call(asm, self.AT).put_register(SPARE + 8 * slot, 3)
        left = ok(lab.run(asm.end()))
        assert [left.number(SPARE + 8 * slot) for slot in range(3)] == [expected[c] for c in (first, second, first)]

    def test_by_an_emulated_store(self, lab):
        """STFLE, DIAG 320 and the like store behind the CPU's back: here DIAG 308 stores over code that ran."""
        asm = self.subroutine(program(), self.AT, self.LGHI[1])
        self.call(asm, self.AT).load(2, self.AT).load(6, 6).diag(2, 6, 0x308)
        self.call(asm, self.AT)  # the block begins with its length: 00 00 is no instruction
        left = lab.run(asm.end())
        assert left.interrupted(OPERATION), left.end
        assert left.program_old == self.AT + 2

    def test_by_diag_320(self, lab):
        """The four bytes E0000000, over LGHI."""
        asm = self.subroutine(program(), self.AT, self.LGHI[1])
        self.call(asm, self.AT).load(2, self.AT).load(6, 0).diag(2, 6, 0x320)
        self.call(asm, self.AT)
        left = lab.run(asm.end())
        assert left.interrupted(OPERATION), left.end

    def test_through_another_virtual_address(self, lab):
        """Code is changed through an alias of its page."""
        translation = TestTranslation()
        asm = self.subroutine(program(), SPARE, self.LGHI[1])
        translation.tables(asm, {0x80: SPARE, 0x81: SPARE}).go(DAT)
        self.call(asm, 0x80000).put_register(0x7000, 5)
        self.subroutine(asm, 0x81000, self.LGHI[2])
        self.call(asm, 0x80000).put_register(0x7008, 5)
        left = ok(lab.run(asm.end()))
        assert [left.number(0x7000), left.number(0x7008)] == [1, 2]

    def test_by_an_emulated_store_through_another_virtual_address(self, lab):
        translation = TestTranslation()
        asm = self.subroutine(program(), SPARE, self.LGHI[1])
        translation.tables(asm, {0x80: SPARE, 0x81: SPARE}).go(DAT)
        self.call(asm, 0x80000).load(2, 0x81000).load(6, 0).diag(2, 6, 0x320)
        self.call(asm, 0x80000)
        left = lab.run(asm.end())
        assert left.interrupted(OPERATION), left.end
