"""What a guest finds when QEMU starts it: registers, memory, devices, as on the embedded engine."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from guest_asm import ORIGIN, Asm, program
from guest_ring import Ring
from ipl_lab import HANDS_OVER, MIB, Execute, Load, code, verdict
from qemu_guests import (
    BLOCK,
    PLACES,
    SPARE,
    diagnose,
    dump,
    reboot,
    says,
    write_sectors,
)

from sipl.crypto.certificate import Certificate
from sipl.engine.qemu.code import code as qemu_code
from sipl.layout.iirb import CertificateEntry, ReportBlockHeader, ReportComponent, ReportHeader
from sipl.layout.iplb import CcwBlock, IplbHeader, IplbType
from sipl.layout.record import size_of, unpack
from sipl.layout.virtio import Command
from sipl.machine.boot_devices import DeviceKind

SMALL = 16 * MIB
GIB = 1 << 30
KINDS = [DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_SCSI]
REGISTERS, CONTROL, PSW_PARTS, ACCESS, LOWCORE, PREFIX = 0x70000, 0x70100, 0x70080, 0x70180, 0x71000, 0x70098
LOWCORE_SIZE = 0x200
SPARE_LOW = 0x70000
BLOCK_SIZE_FIELD = 20  # of what virtio-blk has as its configuration


def saves_its_entry() -> Asm:
    """Stores all registers, the PSW and the lowcore before anything else; in the addressing mode of its entry."""
    asm = Asm()
    asm.rxy(0xEB24, 0, 0, REGISTERS, 15)  # STMG
    asm.rxy(0xEB25, 0, 0, CONTROL, 15)  # STCTG
    asm.rre(0xB98D, 1, 2).stg(1, 0, PSW_PARTS).stg(2, 0, PSW_PARTS + 8)  # EPSW
    asm.rxy(0xEB9B, 0, 0, ACCESS, 15)  # STAMY
    asm.load(1, LOWCORE).raw("D2FF10000000").raw("D2FF11000100")  # MVC
    asm.load(1, PREFIX).s(0xB211, 1)  # STPX
    return asm.raw("010E")


class TestEntry:
    @pytest.fixture(params=["secure", "audit", "normal"])
    def both(self, request, lab):
        """The same disk on both engines."""
        mode, certs = request.param, () if request.param == "normal" else ("A",)
        disk = lab.guest(saves_its_entry().end())
        (embedded,), report = lab.boot_disk(disk, mode=mode, certs=certs, memory=SMALL)
        booted = lab.boot_qemu(disk, mode=mode, certs=certs, memory=SMALL)
        assert verdict(booted.report) == verdict(report) == HANDS_OVER
        assert booted.ends == ["done"] == [embedded.end.kind]
        return booted.runs[0], embedded

    def test_registers(self, both):
        """All zero, but for the control registers that a reset sets."""
        qemu, embedded = both
        assert qemu.bytes(REGISTERS, 128) == bytes(128) == embedded.bytes(REGISTERS, 128)
        assert qemu.bytes(ACCESS, 64) == bytes(64) == embedded.bytes(ACCESS, 64)
        control = [qemu.number(CONTROL + 8 * n) for n in range(16)]
        assert control == [embedded.number(CONTROL + 8 * n) for n in range(16)]
        assert (control[0], control[14]) == (0xE0, 0xC2000000)

    def test_psw(self, both):
        """That of the loader's short PSW: 31-bit addressing, nothing enabled."""
        qemu, embedded = both
        parts = qemu.number(PSW_PARTS), qemu.number(PSW_PARTS + 8)
        assert parts == (0, 0x80000000)
        assert parts == (embedded.number(PSW_PARTS), embedded.number(PSW_PARTS + 8))
        assert qemu.number(PREFIX, 4) == 0 == embedded.number(PREFIX, 4)

    @pytest.mark.parametrize(
        ("psw", "word"),
        [
            (0x000800008000A000, 0x8000A000),
            (0x000800018000A000, 0),
            (0x000800000000A000, 0x4000A000),
            (0x000810008000A000, 0x8000A000),
        ],
        ids=["31 bits", "64 bits", "24 bits", "condition code"],
    )
    def test_addressing_mode(self, lab, psw, word):
        """As BRANCH AND LINK shows it."""
        asm = Asm().raw("05E0").stg(14, 0, SPARE_LOW).raw("010E").end()  # BALR
        disk = lab.disk([Load(ORIGIN, bytes(asm.code).ljust(1024, b"\0")), Execute(psw)])
        (embedded,), _ = lab.boot_disk(disk, mode="normal", certs=(), memory=SMALL)
        (run,) = lab.boot_qemu(disk, mode="normal", certs=(), memory=SMALL).runs
        assert run.number(SPARE_LOW) & 0xC0000000 == word & 0xC0000000
        assert run.number(SPARE_LOW) == embedded.number(SPARE_LOW)

    def test_psw_that_waits(self, lab):
        disk = lab.disk([Load(ORIGIN, bytes(512)), Execute(0x000A000080123456)])
        (embedded,), _ = lab.boot_disk(disk, mode="normal", certs=(), memory=SMALL)
        (run,) = lab.boot_qemu(disk, mode="normal", certs=(), memory=SMALL).runs
        assert run.end.kind == "crashed"
        assert "PSW 0002000080000000 0000000000123456" in run.end.message
        assert run.end.message == embedded.end.message

    def test_lowcore(self, both):
        """PSW, address of the block, subchannel, QEMU's own parameters; nothing else."""
        qemu, embedded = both
        found = qemu.bytes(LOWCORE, LOWCORE_SIZE)
        assert found == embedded.bytes(LOWCORE, LOWCORE_SIZE)
        assert found[:8] == bytes.fromhex("000800008000A000")
        assert found[0xB8:0xBC] == bytes.fromhex("00010000")

    def test_block_and_report(self, both):
        qemu, embedded = both
        at = qemu.number(LOWCORE + 0x14, 4)
        assert qemu.bytes(at, 8192) == embedded.bytes(at, 8192)

    def test_memory(self, both):
        """Beside what was loaded there is nothing."""
        qemu, embedded = both
        assert qemu.bytes(0x2000, REGISTERS - 0x2000) == embedded.bytes(0x2000, REGISTERS - 0x2000)
        assert not qemu.bytes(0x80000, 8 * MIB).strip(b"\0")


class TestBlock:
    """What DIAGNOSE 308 subcode 6 gives, as Linux and stage3 read it."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("mode", "flags"), [("secure", 0x60), ("audit", 0x20), ("normal", 0)])
    def test_flags(self, lab, kind, mode, flags):
        disk = lab.guest(dump(diagnose(program(), 6, answer=SPARE), BLOCK, 512).end(), kind=kind)
        booted = lab.boot_qemu(disk, mode=mode, certs=() if mode == "normal" else ("A",))
        found = booted.runs[0].bytes(BLOCK, 4096)
        assert booted.console == found[:512]
        assert booted.runs[0].number(SPARE) == 1
        header = unpack(IplbHeader, found)
        assert (header.flags, header.type, header.version) == (flags, IplbType.CCW, 0)
        assert (header.length, header.block0_length) == (4096 if flags else 200, 192)
        assert (header.block0_flags, header.loadparm) == (0x80, b"\x40" * 8)
        assert unpack(CcwBlock, found, 24) == CcwBlock(0, 1)
        assert not found[112:].strip(b"\0")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("subcode", [3, 4])
    def test_flags_after_an_ipl_of_the_guest_s_own(self, lab, kind, subcode):
        disk = lab.guest(reboot(dump(diagnose(says(b""), 6), BLOCK, 8), subcode), kind=kind)
        booted = lab.boot_qemu(disk, until="\0\0\x10\0\x60\0\0\0" * 3)
        assert booted.ends == ["re-ipl", "re-ipl", "seen"]

    def test_lies_in_memory_too(self, lab):
        asm = diagnose(program(), 6)
        asm.load(12, 0x14).rxy(0xE316, 4, 12).put_register(SPARE, 4)  # LLGF
        (run,) = lab.boot_qemu(asm.end(), memory=SMALL).runs
        at = run.number(SPARE)
        assert run.bytes(at, 112) == run.bytes(BLOCK, 112)

    @pytest.mark.parametrize(("offset", "value"), [(12, b"\x55"), (0, bytes(4))])
    def test_one_that_qemu_does_not_take(self, lab, offset, value):
        """The guest is not started with another one."""

        def spoil(engine):
            at = int.from_bytes(engine.ram.read(0x14, 4), "big")
            engine.ram.write(at + offset, value)

        booted = lab.boot_qemu(says(b"x").end(), placed=spoil)
        assert booted.console == b""
        assert [run.end.kind for run in booted.runs] == ["crashed"]
        assert booted.runs[0].end.message == "QEMU did not take the IPL parameter block"

    def test_loadparm(self, lab):
        disk = lab.guest(dump(diagnose(program(), 6), BLOCK, 24).end())
        booted = lab.boot_qemu(disk, loadparm="0LINUX")
        assert booted.console[16:24].decode("cp037") == "0LINUX  "


class TestReport:
    def test_behind_the_block(self, lab, signers):
        """Components with their flags, and the certificate that it names at the place that it names."""
        asm = program().load(12, 0x14).rxy(0xE316, 4, 12).put_register(SPARE, 4)
        (run,) = lab.boot_qemu(asm.end(), memory=SMALL).runs
        at = run.number(SPARE)
        at += run.number(at, 4)
        report = unpack(ReportHeader, run.bytes(at, 16))
        end, at = at + report.length, at + size_of(ReportHeader)
        components, certificates = [], []
        while at < end:
            header = unpack(ReportBlockHeader, run.bytes(at, 16))
            kind, into = (CertificateEntry, certificates) if header.type == 1 else (ReportComponent, components)
            for entry in range(at + 16, at + header.length, size_of(kind)):
                into.append(unpack(kind, run.bytes(entry, size_of(kind))))
            at += header.length
        assert [(one.address, one.flags) for one in components[:-1]] == [(0xA000, 0xC0), (0x10000, 0xC0)]
        (certificate,) = certificates
        found = run.bytes(certificate.address, certificate.length)
        assert found == signers["A"].certificate.der
        assert isinstance(signers["A"].certificate, Certificate)


def shows_its_device() -> Asm:
    """What STSCH says of the subchannel that the lowcore names, behind what the block says."""
    asm = diagnose(program(), 6)
    asm.load(12, 0xB8).rxy(0xE316, 1, 12).put_register(SPARE + 0x100, 1).s_at(0xB234, SPARE)  # LLGF, STSCH
    return asm.end()


def device_of(run) -> tuple[int, int]:
    """Device numbers by subchannel and by block."""
    return run.number(SPARE + 6, 2), run.number(BLOCK + 110, 2)


class TestDisks:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("mode", ["secure", "audit", "normal"])
    def test_fall_back(self, lab, mode, kind):
        """The subchannel is that of the disk that was booted, and it exists."""
        empty = lab.disk(bytes(MIB), kind=kind)
        second = lab.guest(shows_its_device(), kind=kind)
        booted = lab.boot_qemu(empty, second, mode=mode, certs=() if mode == "normal" else ("A",))
        assert booted.ends == ["done"]
        assert [one.outcome for one in booted.report.devices] == ["given-up", "hands-over"]
        assert device_of(booted.runs[0]) == (2, 2)
        assert booted.runs[0].number(SPARE + 0x100, 4) == 0
        assert booted.runs[0].number(SPARE + 5, 1) & 1  # device number valid

    def test_mixed_kinds_and_eight_of_them(self, lab):
        kinds = [KINDS[n % 2] for n in range(7)]
        disks = [lab.disk(bytes(MIB), kind=kind) for kind in kinds]
        booted = lab.boot_qemu(*disks, lab.guest(shows_its_device()))
        assert booted.ends == ["done"]
        assert device_of(booted.runs[0]) == (8, 8)

    def test_no_fall_back_after_a_refusal(self, lab):
        booted = lab.boot_qemu(lab.guest(says(b"EVIL").end(), by="B"), says(b"good").end())
        assert booted.verdicts == [("stops", "signature-not-verified")]
        assert (booted.console, booted.runs) == (b"", [])

    def test_number_of_its_own(self, lab):
        disk = lab.guest(shows_its_device())._replace(devno=0xABCD)
        (run,) = lab.boot_qemu(disk).runs
        assert device_of(run) == (0xABCD, 0xABCD)

    def test_reboot_after_a_fall_back(self, lab):
        """The guest's own disk is IPLed again, and no other one is tried."""
        empty = lab.disk(bytes(MIB))
        second = lab.guest(reboot(says(b"x")))
        booted = lab.boot_qemu(empty, second, until="xxx")
        assert booted.ends == ["re-ipl", "re-ipl", "seen"]
        found = [[one.outcome for one in report.devices] for report in booted.announced]
        assert found == [["given-up", "hands-over"], *[["not-tried", "hands-over"]] * 2]

    @pytest.mark.parametrize("image_format", ["raw", "qcow2"])
    @pytest.mark.parametrize("block_size", [512, 4096])
    def test_block_size(self, lab, block_size, image_format, need_tool):
        """The device has the blocks that the boot map was written for, also where nobody stated their size."""
        ring = Ring()
        ring.command(Command.READ_CONFIG, bytes(64))
        disk = lab.guest(ring.asm.end(), block_size=block_size, size=2 * MIB)
        path = disk.path
        if image_format == "qcow2":
            path += ".qcow2"
            convert = [need_tool("qemu-img", "qemu-utils"), "convert", "-O", "qcow2", disk.path, path]
            subprocess.run(convert, check=True, capture_output=True)
        for stated in (block_size, None):
            booted = lab.boot_qemu(disk._replace(path=path, block_size=stated))
            assert booted.ends == ["done"]
            (run,) = booted.runs
            config = run.bytes(Ring.BLOCKS, 64)
            assert struct.unpack_from("<Q", config)[0] == 2 * MIB // 512
            assert struct.unpack_from("<I", config, BLOCK_SIZE_FIELD)[0] == block_size

    @pytest.mark.parametrize("kind", KINDS)
    def test_scsi_disks_of_both_sizes(self, lab, kind):
        disk = lab.guest(says(b"x").end(), block_size=4096, kind=kind, size=2 * MIB)
        assert lab.boot_qemu(disk).console == b"x"

    def test_write_stays_in_the_overlay(self, lab):
        """The guest reads back what it wrote; the image is as before."""
        ring = write_sectors(100, 0x10000)
        ring.request(kind=0, sector=100)
        disk = lab.guest(ring.asm.end())
        before = Path(disk.path).read_bytes()
        booted = lab.boot_qemu(disk)
        assert booted.ends == ["done"]
        assert booted.runs[0].bytes(Ring.STATUS, 1) == b"\0"
        assert Path(disk.path).read_bytes() == before
        assert before[100 * 512 :][:512] == bytes(512)


class TestSizes:
    @pytest.mark.parametrize("memory", [SMALL, 129 * MIB, 2 * GIB, 3 * GIB], ids=lambda size: f"{size >> 20}M")
    def test_memory(self, lab, memory):
        """The image lies below 2 GiB; the guest has all of its memory."""
        where = []

        def look(engine):
            jump = qemu_code("jump")[:256]
            ends = [min(memory, 2 * GIB) - place for place in PLACES]
            where.extend(end for end in ends if engine.ram.read(end, 256) == jump)

        last = memory - 8
        asm = program().put(last, b"the last").load(12, last).lg(4, 12).put_register(SPARE, 4)
        booted = lab.boot_qemu(asm.end(), memory=memory, placed=look)
        assert len(where) == 1
        assert booted.runs[0].bytes(SPARE, 8) == b"the last"
        assert booted.ends == ["done"]

    def test_memory_ends_where_it_ends(self, lab):
        asm = program().put(SMALL, b"too much").end()
        booted = lab.boot_qemu(asm, memory=SMALL)
        assert booted.ends == ["crashed"]
        assert booted.runs[0].number(0x8E, 2) == 5  # addressing

    @pytest.mark.parametrize("cpus", [1, 4])
    def test_cpus(self, lab, cpus):
        """Each writes where its address says."""
        entry = 0x140000
        other = Asm(entry).raw("010E").load(12, SPARE + 0x800).s(0xB212, 12)
        other.rxy(0xE391, 4, 12).rxy(0xEB0D, 5, 0, 3, 4)  # LLGH, SLLG by 3
        other.load(6, SPARE).rre(0xB908, 6, 5).load(7, 0xCAFE).stg(7, 6)  # AGR
        other.end(0x100)
        asm = says(b"").put(entry, bytes(other.code).ljust(-(-len(other.code) // 8) * 8, b"\0"))
        asm.put_psw(0x1A0, 0x0000000180000000, entry)
        for number in range(1, 5):
            asm.load(1, 0).load(3, number).rs(0xAE, 1, 3, 0, 6)  # SIGP restart
            asm.keep_cc(SPARE + 0x900 + 8 * number)
            if number < cpus:
                wait = asm.here
                asm.load(12, SPARE + 8 * number).lg(4, 12).ri(0xA7F, 4, 0).jump(wait, 8)  # CGHI
        booted = lab.boot_qemu(asm.end(), cpus=cpus)
        assert booted.ends == ["done"]
        (run,) = booted.runs
        assert [run.number(SPARE + 8 * number) for number in range(1, 5)] == [
            0xCAFE if number < cpus else 0 for number in range(1, 5)
        ]
        codes = [run.number(SPARE + 0x900 + 8 * number) for number in range(1, 5)]
        assert codes == [0 if number < cpus else 3 for number in range(1, 5)]

    def test_large_component(self, lab):
        """Some MiB of bytes that repeat nowhere, and zeros in between."""
        data = code(3 * MIB, 7) + bytes(2 * MIB) + code(MIB, 9)
        disk = lab.guest(says(b"x").end(), extra=[Load(0x400000, data)], size=None)
        (run,) = lab.boot_qemu(disk).runs
        assert run.bytes(0x400000, len(data)) == data


class TestProgramsOfQemu:
    def test_a_device_of_the_network_leaves_nothing_behind(self, lab):
        """QEMU loads a program for it into the guest's memory, if it is the first of QEMU's own boot order."""
        more = ("-netdev", "hubport,id=net,hubid=0", "-device", "virtio-net-ccw,netdev=net,bootindex=1")
        data = bytes(8 * MIB)
        disk = lab.guest(says(b"x").end(), extra=[Load(0x400000, data)], size=None)
        booted = lab.boot_qemu(disk, more=more)
        assert (booted.console, booted.ends) == (b"x", ["done"])
        assert booted.runs[0].bytes(0x400000, len(data)) == data

    @pytest.mark.parametrize("kind", KINDS)
    def test_boot_order_of_qemu_s_own(self, lab, kind):
        """QEMU has a block of its own for such a disk: the guest comes back verified."""
        booted = lab.boot_qemu(lab.guest(reboot(says(b"x")), kind=kind), until="xxx", boot_order=True)
        assert booted.ends == ["re-ipl", "re-ipl", "seen"]
        assert booted.verdicts == [HANDS_OVER] * 3


def test_real_stage3(lab, shared):
    """The loader of zipl enters the kernel, which says so as soon as it has a console."""
    from sipl.settings import Disk

    disk = Disk(str(shared / "disks" / "good.qcow2"))
    certificate = str(shared / "keys" / "certA.pem")
    text = "Linux is running with Secure-IPL enabled"
    booted = lab.boot_qemu(disk, certs=(certificate,), memory=512 * MIB, until=text, at=None)
    assert booted.ends == ["seen"], booted.console[-500:]
