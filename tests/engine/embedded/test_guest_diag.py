"""DIAGNOSE 308, 320 and 508 from inside: registers, storage, and program interruptions in the guest's lowcore."""

from __future__ import annotations

import struct

import pytest
from guest_asm import DONE, PROBLEM, PROGRAM_CHECK, PROGRAM_NEW, PUT_SIZE, WAIT, program
from guest_lab import MEMORY, SIGNATURE, SPARE
from ipl_lab import Load, code

from sipl.layout.iplb import IPLB_SIZE

PRIVILEGED, ADDRESSING, SPECIFICATION = 2, 5, 6
PAYLOAD = 0x190000
R1, RESULT, R3 = 2, 3, 6
UNTOUCHED = 0xFEDCBA9876543210


def call(asm, function, address, subcode, r1=R1):
    """Issue DIAGNOSE with the result register full of what is no answer."""
    asm.load(r1, address).load(r1 | 1, address if r1 & 1 else UNTOUCHED).load(R3, subcode)
    return asm.diag(r1, R3, function)


def keep(asm, slot):
    """Keep the result register of a call for the test."""
    return asm.put_register(SPARE + 0x40000 + 8 * slot, RESULT)


def kept(left, count):
    return [left.number(SPARE + 0x40000 + 8 * slot) for slot in range(count)]


def svb(length=64, size=512, payload=PAYLOAD, signature_size=None, signature=SIGNATURE):
    return struct.pack(">I3xB8xB7xQQQQQ", length, 0, 0, 0, size, payload, signature_size, signature)


class TestProgramInterruptions:
    CASES = (
        # function, subcode, address, first register, code
        (0x308, 2, SPARE, R1, SPECIFICATION),
        (0x308, 7, SPARE, R1, SPECIFICATION),
        (0x308, 0x10003, SPARE, R1, SPECIFICATION),
        (0x308, 6, SPARE, R1 + 1, SPECIFICATION),
        (0x308, 6, SPARE + 8, R1, SPECIFICATION),
        (0x308, 6, MEMORY, R1, ADDRESSING),
        (0x308, 5, SPARE + 8, R1, SPECIFICATION),
        (0x308, 5, 1 << 40, R1, ADDRESSING),
        (0x320, 0, SPARE, R1 + 1, SPECIFICATION),
        (0x320, 0, MEMORY - 2, R1, ADDRESSING),
        (0x320, 0x10000, SPARE, R1, SPECIFICATION),
        (0x320, 1, SPARE + 4, R1, SPECIFICATION),
        (0x320, 1, MEMORY, R1, ADDRESSING),
        (0x320, 1, MEMORY - 64, R1, ADDRESSING),
        (0x320, 2, SPARE + 8, R1, SPECIFICATION),
        (0x320, 2, MEMORY, R1, ADDRESSING),
        (0x320, 2, 0xFFFF_FFFF_FFFF_F000, R1, ADDRESSING),
        (0x508, 1, SPARE, R1, SPECIFICATION),
        (0x508, 0x18000, SPARE, R1, SPECIFICATION),
        (0x508, 0, SPARE, R1 + 1, SPECIFICATION),
        (0x508, 0x8000, MEMORY, R1, ADDRESSING),
        (0x508, 0x8000, MEMORY - 8, R1, ADDRESSING),
        (0x508, 0x8000, 0xFFFF_FFFF_FFFF_FFC0, R1, ADDRESSING),
        (0x288, 0, SPARE, R1, SPECIFICATION),  # the watchdog: this machine has none
        (0x288, 1, SPARE, R1, SPECIFICATION),
        (0x999, 0, SPARE, R1, SPECIFICATION),
    )

    @pytest.mark.parametrize(("function", "subcode", "address", "r1", "code"), CASES)
    def test_code_length_and_old_psw(self, lab, function, subcode, address, r1, code):
        asm = call(program(), function, address, subcode, r1)
        behind = asm.here
        left = lab.run(asm.end())
        assert left.interrupted(code), left.end
        assert (left.program_length, left.program_old) == (4, behind)
        assert left.registers[r1] == address
        assert left.registers[r1 | 1] == (address if r1 & 1 else UNTOUCHED)

    @pytest.mark.parametrize(
        ("function", "subcode", "r1"),
        [
            (0x308, 0, R1),
            (0x308, 3, R1),
            (0x308, 4, R1),
            (0x308, 6, R1 + 1),
            (0x288, 0, R1),
            (0x320, 0, R1),
            (0x320, 0xFFFFF, R1 + 1),
            (0x508, 0, R1),
            (0x508, 0x8000, R1),
            (0x999, 0, R1),
            (0x500, 3, R1),
            (0x044, 0, R1),
            (0x09C, 0, R1),
        ],
    )
    def test_problem_state_comes_before_everything_else(self, lab, function, subcode, r1):
        asm = program().load(r1, SPARE + 1).load(R3, subcode).go(PROBLEM)
        asm.diag(r1, R3, function)
        behind = asm.here
        left = lab.run(asm.end())
        assert left.interrupted(PRIVILEGED), left.end
        assert left.program_old == behind
        assert left.number(0x150) & PROBLEM == PROBLEM

    def test_a_handler_of_the_guest_goes_on(self, lab):
        """The interruption is an event for the guest, not its end."""
        asm = program()
        handler = asm.here + 6
        start = asm.here
        asm.jump(start)  # replaced below by a jump over the handler
        asm.lg(9, 0, 0x150 + 8).s(0xB2B2, 0, 0x150)  # back to the program old PSW
        after = asm.here
        asm.code[start - asm.origin : handler - asm.origin] = type(asm)(start).jump(after).code
        asm.put_psw(PROGRAM_NEW, 0x180000000, handler)
        call(asm, 0x320, SPARE + 4, 1)
        behind = asm.here
        call(asm, 0x508, 0, 0)
        left = lab.run(asm.end())
        assert left.stopped_at == DONE, left.end
        assert left.registers[9] == behind
        assert left.registers[RESULT] == 0x8000

    def test_component_or_signature_not_in_storage(self, lab):
        for block in (
            svb(payload=MEMORY - 256, signature_size=100),
            svb(payload=1 << 40, signature_size=100),
            svb(signature_size=100, signature=MEMORY),
            svb(signature_size=100, signature=0xFFFF_FFFF_FFFF_FFFF),
        ):
            asm = program().put(SPARE, block)
            call(asm, 0x508, SPARE, 0x8000)
            left = lab.run(asm.end())
            assert left.interrupted(ADDRESSING), left.end
            assert left.registers[RESULT] == UNTOUCHED
            assert left.bytes(SPARE, 64) == block


class TestDiag320:
    def test_installed_subcodes(self, lab):
        asm = program().put(SPARE, b"\xaa" * 16)
        left = lab.run(call(asm, 0x320, SPARE + 1, 0).end())
        assert left.bytes(SPARE, 16) == b"\xaa" + bytes.fromhex("e0000000") + b"\xaa" * 11
        assert (left.registers[RESULT], left.registers[R1], left.registers[R3]) == (1, SPARE + 1, 0)

    def test_storage_and_certificates(self, lab, signers):
        asm = program().put(SPARE, (128).to_bytes(4, "big") + bytes(4))
        keep(call(asm, 0x320, SPARE, 1), 0)
        asm.put(SPARE + 0x1000, (4096).to_bytes(4, "big") + bytes(4) + bytes.fromhex("0001 0002 0000 0000"))
        keep(call(asm, 0x320, SPARE + 0x1000, 2), 1)
        left = lab.run(asm.end(), certs=("A", "B"))
        assert kept(left, 2) == [1, 1], left.end
        ders = [signers[name].certificate.der for name in "AB"]
        entries = [192 + -(-len(der) // 4) * 4 for der in ders]
        assert (left.number(SPARE + 32, 2), left.number(SPARE + 34, 2)) == (2, 64)
        assert left.number(SPARE + 84, 4) == 64 + sum(entries)
        at = SPARE + 0x1000
        assert (left.number(at + 32, 4), left.number(at + 40, 2), left.number(at + 42, 2)) == (64 + sum(entries), 2, 0)
        at += 64
        for index, (der, length) in enumerate(zip(ders, entries, strict=True), 1):
            assert (left.number(at, 4), left.number(at + 6, 2), left.number(at + 84, 4)) == (length, index, len(der))
            assert left.bytes(at + 192, len(der)) == der
            at += length

    def test_refusals_are_response_codes(self, lab):
        asm = program().put(SPARE, (64).to_bytes(4, "big") + bytes(4))
        keep(call(asm, 0x320, SPARE, 1), 0)
        asm.put(SPARE + 0x1000, (4097).to_bytes(4, "big") + bytes(4))
        keep(call(asm, 0x320, SPARE + 0x1000, 2), 1)
        asm.put(SPARE + 0x1000, (4096).to_bytes(4, "big") + bytes(4) + bytes.fromhex("0002 0001 0000 0000"))
        keep(call(asm, 0x320, SPARE + 0x1000, 2), 2)
        keep(call(asm, 0x320, SPARE, 7), 3)
        left = lab.run(asm.end())
        assert kept(left, 4) == [0x0202, 0x0204, 0x0302, 0x0102]

    def test_without_the_facility_the_function_does_not_exist(self, lab):
        asm = call(program(), 0x320, SPARE, 0)
        left = lab.run(asm.end(), mode="normal", certs=(), cpu="z15")
        assert left.interrupted(SPECIFICATION), left.end


class TestDiag508:
    @pytest.fixture
    def payload(self):
        return code(512, 0x77)

    def verify(self, lab, payload, block, signature, **options):
        asm = program().put(SPARE, block)
        call(asm, 0x508, SPARE, 0x8000)
        extra = [Load(PAYLOAD, payload), Load(SIGNATURE, signature)]
        return lab.run(asm.end(), extra=extra, **options)

    def test_query(self, lab):
        left = lab.run(call(program(), 0x508, 0xFFFF_FFFF_FFFF_FFFF, 0).end())
        assert (left.stopped_at, left.registers[RESULT]) == (DONE, 0x8000)

    def test_verified(self, lab, signers, payload):
        signature = signers["B"].sign(payload)
        block = svb(signature_size=len(signature))
        left = self.verify(lab, payload, block, signature, certs=("A", "B"))
        assert left.registers[RESULT] == 1, left.end
        der = signers["B"].certificate.der
        assert left.bytes(SPARE, 64) == block[:16] + b"\x01" + block[17:24] + len(der).to_bytes(8, "big") + block[32:]

    def test_changed_component(self, lab, signers, payload):
        signature = signers["A"].sign(payload)
        block = svb(signature_size=len(signature))
        left = self.verify(lab, b"\1" + payload[1:], block, signature)
        assert left.registers[RESULT] == 0x0402
        assert left.bytes(SPARE, 64) == block

    def test_the_guest_changes_the_component_itself(self, lab, signers, payload):
        """What is verified is what lies in storage now."""
        signature = signers["A"].sign(payload)
        asm = program().put(SPARE, svb(signature_size=len(signature)))
        keep(call(asm, 0x508, SPARE, 0x8000), 0)
        asm.put(PAYLOAD + 8, b"\xff" * 8)
        keep(call(asm, 0x508, SPARE, 0x8000), 1)
        left = lab.run(asm.end(), extra=[Load(PAYLOAD, payload), Load(SIGNATURE, signature)])
        assert kept(left, 2) == [1, 0x0402], left.end

    def test_refusals_are_response_codes(self, lab):
        blocks = [
            svb(length=63, signature_size=100),
            svb(size=0, signature_size=100),
            svb(payload=0, signature_size=100),
            svb(size=(256 << 20) + 1, signature_size=100),
            svb(signature_size=0),
            svb(signature_size=100, signature=0),
            svb(signature_size=4097),
        ]
        asm = program()
        for slot, block in enumerate(blocks):
            asm.put(SPARE, block)
            keep(call(asm, 0x508, SPARE, 0x8000), slot)
        left = lab.run(asm.end())
        assert kept(left, len(blocks)) == [0x0502, 0x0202, 0x0202, 0x0202, 0x0302, 0x0302, 0x0302], left.end

    def test_no_certificates(self, lab):
        asm = program().put(SPARE, svb(signature_size=100))
        left = lab.run(call(asm, 0x508, SPARE, 0x8000).end(), mode="normal", certs=())
        assert left.registers[RESULT] == 0x0102

    def test_without_the_facility_the_function_does_not_exist(self, lab):
        left = lab.run(call(program(), 0x508, SPARE, 0).end(), mode="normal", certs=(), cpu="z15")
        assert left.interrupted(SPECIFICATION), left.end


class TestDiag308:
    def test_store(self, lab):
        asm = program()
        keep(call(asm, 0x308, SPARE, 6), 0)
        left = lab.run(asm.end(), loadparm="1")
        assert kept(left, 1) == [1]
        block = left.bytes(SPARE, 4096)
        assert (block[:4], block[4], block[12], block[110:112]) == (IPLB_SIZE.to_bytes(4, "big"), 0x60, 2, b"\0\1")
        assert block[16:24] == "1       ".encode("cp037")

    def test_set_keeps_the_mode_of_the_machine(self, lab):
        """T12: the guest clears the flags, and finds them again."""
        asm = program()
        call(asm, 0x308, SPARE, 6)
        asm.put(SPARE, (200).to_bytes(4, "big") + bytes(4))  # length, and no flags
        keep(call(asm, 0x308, SPARE, 5), 0)
        keep(call(asm, 0x308, SPARE + 0x1000, 6), 1)
        left = lab.run(asm.end())
        assert kept(left, 2) == [1, 1]
        assert left.number(SPARE + 4, 1) == 0
        assert (left.number(SPARE + 0x1000, 4), left.number(SPARE + 0x1004, 1)) == (IPLB_SIZE, 0x60)

    @pytest.mark.parametrize("length", [0, 199, 4097, 0xFFFFFFFF])
    def test_bad_lengths(self, lab, length):
        asm = program()
        call(asm, 0x308, SPARE, 6)
        asm.put(SPARE, length.to_bytes(4, "big") + bytes(4))
        left = lab.run(call(asm, 0x308, SPARE, 5).end())
        assert left.registers[RESULT] == 0x0402

    @pytest.mark.parametrize("subcode", [0, 1])
    def test_reset_starts_at_the_psw_at_zero(self, lab, subcode):
        """At absolute zero, wherever the prefix points to. Storage stays; registers that have data stay after 1."""
        prefix, found, data = 0x20000, SPARE + 0x300, b"kept...."
        asm = program().put(SPARE, data + (0xABC).to_bytes(8, "big")).load(12, SPARE).load(7, 0x1122334455667788)
        asm.raw("6820C000").raw("9A44C000").rxy(0xEB2F, 3, 12, 8, index=3)  # LD, LAM, LCTLG
        asm.put(SPARE + 0x100, prefix.to_bytes(4, "big") + bytes(4)).s_at(0xB210, SPARE + 0x100).load(5, subcode)
        asm.put(prefix, (0x0008000180000000 | asm.here + PUT_SIZE + 4).to_bytes(8, "big")).diag(2, 5, 0x308)
        asm.load(14, found).rxy(0xEB24, 0, 14, index=13).rxy(0xEB25, 0, 14, 0x80, index=15)  # STMG, STCTG
        asm.raw("9B44E100").raw("6020E108").s(0xB211, 14, 0x110)  # STAM, STD, STPX
        left = lab.run(asm.end())
        assert left.stopped_at == DONE, left.end
        control = [left.number(found + 0x80 + 8 * number) for number in range(16)]
        assert control == [0xE0, *[0] * 13, 0xC2000000, 0]
        assert (left.number(found + 0x110, 4), left.bytes(SPARE, 8)) == (0, data)
        kept = (left.number(found + 7 * 8), left.bytes(found + 0x100, 4), left.bytes(found + 0x108, 8))
        assert kept == ((0x1122334455667788, b"kept", data) if subcode else (0, bytes(4), bytes(8)))
        if not subcode:
            assert left.bytes(found, 14 * 8) == bytes(14 * 8)


class TestPrefix:
    """With a prefix, logical operands move with it, and blocks by absolute address do not."""

    NEW = 0x20000

    def moved(self):
        asm = program().put_psw(self.NEW + PROGRAM_NEW, WAIT, PROGRAM_CHECK)
        return asm.put(SPARE + 0x100, self.NEW.to_bytes(4, "big") + bytes(4)).s_at(0xB210, SPARE + 0x100)

    def test_stpx_and_where_stores_go(self, lab):
        asm = self.moved().s_at(0xB211, SPARE).put(0x1800, b"lowcore.")
        left = lab.run(asm.end())
        assert left.prefix == left.number(SPARE, 4) == self.NEW
        assert left.bytes(self.NEW + 0x1800, 8) == b"lowcore."
        assert left.bytes(0x1800, 8) != b"lowcore."

    def test_diag_320_is_logical(self, lab):
        left = lab.run(call(self.moved(), 0x320, 0x1800, 0).end())
        assert left.number(self.NEW + 0x1800, 4) == 0xE0000000
        assert left.number(0x1800, 4) == 0

    def test_diag_308_is_absolute(self, lab):
        left = lab.run(call(self.moved(), 0x308, 0x1000, 6).end())
        assert (left.registers[RESULT], left.number(0x1000, 4)) == (1, IPLB_SIZE)
        assert left.number(self.NEW + 0x1000, 4) == 0

    def test_diag_508_is_absolute(self, lab):
        asm = self.moved().put(self.NEW + 0x1800, svb(length=63, signature_size=100))  # goes to absolute 0x1800
        keep(call(asm, 0x508, 0x1800, 0x8000), 0)
        keep(call(asm, 0x508, self.NEW + 0x1800, 0x8000), 1)
        left = lab.run(asm.put(0x1800, svb(length=64, signature_size=0)).end())
        assert left.number(0x1800, 4) == 63
        assert kept(left, 2) == [0x0502, 0x0502]

    def test_program_interruption_uses_the_moved_lowcore(self, lab):
        asm = call(self.moved(), 0x320, SPARE + 4, 1)
        behind = asm.here
        left = lab.run(asm.end())
        assert left.interrupted(SPECIFICATION), left.end
        assert left.number(self.NEW + 0x158) == behind
        assert left.number(0x8C, 4) == 0
