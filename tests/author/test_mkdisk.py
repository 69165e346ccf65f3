"""New disks, with a kernel that is none but looks like one: what is on them, what is signed, what is refused."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from ipl_lab import AT, loader_bytes
from linux_lab import tiny_linux

import sipl
from sipl.author import mkdisk, sclab
from sipl.author.mkdisk import MIB, WouldNotBoot, make_disk
from sipl.author.recipe import BootEntry, make_recipe
from sipl.author.signed_file import sign_file
from sipl.author.signer import open_signer
from sipl.crypto import signing
from sipl.disk.block_device import BlockDevice
from sipl.disk.open import open_image
from sipl.errors import FileError, SigningRefused, UsageError

YEAR = 365 * 86400
INITRD = bytes(range(251)) * 20


class Desk:
    """A folder with keys, certificates, a kernel, a RAM disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("mine", "other"):
            key = signing.generate_key("p256")
            (folder / f"{name}.key").write_bytes(signing.key_pem(key))
            (folder / f"{name}.pem").write_bytes(signing.self_signed(key, name, AT - YEAR, AT + YEAR))
        self.write("vmlinuz", tiny_linux())
        self.write("initrd.img", INITRD)
        self.write("stage3.bin", loader_bytes(0x4000))
        self.signed = {"key": self["mine.key"], "cert": self["mine.pem"], "at": AT}

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    def write(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return self[name]

    def entry(self, **changes) -> BootEntry:
        return BootEntry(self["vmlinuz"], self["initrd.img"], "quiet")._replace(**changes)

    def make(self, *entries, output="new.img", **options):
        options.setdefault("at", AT)
        return make_disk(self[output], entries or [self.entry()], **options)

    def verify(self, output="new.img", certs=("mine.pem",), **options):
        machine = sipl.MachineOptions(boot_certs=tuple(self[name] for name in certs))
        return sipl.verify(sipl.Disk(self[output], **options), sipl.Settings(machine=machine, at=AT))

    def view(self, output="new.img", block_size=512):
        return sipl.inspect(sipl.Disk(self[output], block_size=block_size))

    def read(self, component, output="new.img", block_size=512) -> bytes:
        with open_image(self[output]) as image:
            device = BlockDevice(image, block_size)
            data = bytearray(sum(run.blocks for run in component.runs) * block_size)
            with memoryview(data) as view:
                at = 0
                for run in component.runs:
                    device.read_blocks(run.block, run.blocks, view[at : at + run.blocks * block_size])
                    at += run.blocks * block_size
            return bytes(data)

    def flip(self, component, offset=0, output="new.img") -> None:
        """Invert a byte of a component on a raw disk with blocks of 512 bytes."""
        with open(self[output], "r+b") as file:
            file.seek(component.runs[0].block * 512 + offset)
            (old,) = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([old ^ 0xFF]))

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def addresses(view, number=0):
    return {component.address: component for component in view.programs[number].components}


def partitions(image: bytes):
    assert image[510:512] == b"\x55\xaa"
    found = [struct.unpack_from("<B3xB3xII", image, 446 + 16 * n) for n in range(4)]
    return [entry[1:] for entry in found if entry[1]]


class TestOpen:
    def test_what_is_on_it(self, desk):
        made = desk.make(**desk.signed)
        assert (made.secure, made.closed, made.unsigned) == (True, False, ("parameters", "command line", "initrd"))
        (entry,) = made.entries
        assert [(part.part, part.address, part.signed) for part in entry.components] == [
            ("loader", 0xA000, True),
            ("parameters", 0x9000, False),
            ("kernel", 0x10000, True),
            ("command line", 0x24000, False),
            ("initrd", 0x40000, False),
        ]
        kernel = entry.components[2]
        assert kernel.sha256 == hashlib.sha256(tiny_linux()).hexdigest()
        assert kernel.note == "Linux 6.1.0-tiny (somebody@example) #1 SMP"
        view = desk.view()
        parts = addresses(view)
        assert desk.read(parts[0x40000]).startswith(INITRD)
        assert desk.read(parts[0x24000]).rstrip(b"\0") == b"quiet"
        assert parts[0xA000].sclab.flags == ("OPSW", "OLA")
        file_length = len(tiny_linux()) + parts[0x10000].signature.length + 40
        assert struct.unpack(">10Q", desk.read(parts[0x9000])[:80]) == (
            *(0x24000, 0x40000, len(INITRD), 0x0008000080010000, 0, 1 << 48),
            *(file_length, 0x10000, (1 << 64) - 1, 0),
        )
        assert [program.same_as for program in view.programs] == [None, 0]

    def test_verifies(self, desk):
        desk.make(**desk.signed)
        assert desk.verify().would_boot
        assert desk.verify(certs=("other.pem",)).reason == "signature-not-verified"

    def test_openssl_verifies_the_signatures(self, desk, need_tool, tmp_path):
        openssl = need_tool("openssl", "openssl")
        desk.make(closed=True, **desk.signed)
        parts = addresses(desk.view())
        assert len(parts) == 5
        for component in parts.values():
            (tmp_path / "content").write_bytes(desk.read(component))
            signature = desk.read(component.signature)[: component.signature.length]
            (tmp_path / "sig").write_bytes(signature)
            command = [openssl, "cms", "-verify", "-binary", "-inform", "DER", "-in", tmp_path / "sig", "-noverify"]
            command += ["-content", tmp_path / "content", "-certfile", desk["mine.pem"], "-out", tmp_path / "out"]
            subprocess.run(command, capture_output=True, timeout=30, check=True)

    def test_without_initrd_and_command_line(self, desk):
        made = desk.make(desk.entry(initrd=None, cmdline=None), **desk.signed)
        assert made.unsigned == ("parameters",)
        parts = addresses(desk.view())
        numbers = struct.unpack(">10Q", desk.read(parts[0x9000])[:80])
        assert numbers[:3] == ((1 << 64) - 1, 0, 0)

    def test_environment(self, desk):
        made = desk.make(desk.entry(cmdline="a=${A}"), environment={"A": "1"}, **desk.signed)
        assert made.unsigned[-1] == "environment block"
        parts = addresses(desk.view())
        assert desk.read(parts[0x34000])[:30] == b"# zIPL Environment Block\nA=1\n\0"

    def test_loader_of_zipl(self, desk):
        desk.make(loader=desk["stage3.bin"], **desk.signed)
        parts = addresses(desk.view())
        assert list(parts) == [0x2000, 0xF000, 0xA000, 0x9000, 0x10000, 0x24000, 0x40000, 0x34000]
        assert desk.read(parts[0x2000]) == bytes(0x4000)
        assert desk.read(parts[0xF000]) == bytes(0x1000)
        assert desk.read(parts[0xA000]) == loader_bytes(0x4000)
        assert desk.verify().would_boot

    @pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
    @pytest.mark.parametrize("closed", [False, True])
    def test_block_sizes(self, desk, block_size, closed):
        desk.write("vmlinuz", tiny_linux(0x14000))
        desk.make(block_size=block_size, closed=closed, **desk.signed)
        assert desk.verify(block_size=block_size).would_boot
        for component in desk.view(block_size=block_size).programs[0].components:
            assert component.length % block_size == 0

    def test_unsigned(self, desk):
        made = desk.make()
        assert (made.secure, made.closed, len(made.unsigned)) == (False, False, 5)
        machine = sipl.MachineOptions()
        assert sipl.boot([sipl.Disk(desk["new.img"])], sipl.Settings(machine=machine)).outcome == "hands-over"
        assert desk.verify().reason == "no-signed-component"

    def test_unsigned_with_a_kernel_that_could_not_be_signed(self, desk):
        desk.write("vmlinuz", tiny_linux()[:-100])
        desk.make()
        assert sipl.boot([sipl.Disk(desk["new.img"])]).outcome == "hands-over"

    def test_digest(self, desk):
        desk.make(digest="sha512", **desk.signed)
        assert {c.signature.digest for c in addresses(desk.view()).values() if c.signature} == {"SHA-512"}


class TestClosed:
    @pytest.fixture
    def closed(self, desk):
        desk.make(desk.entry(cmdline="a=${A}"), environment={"A": "1"}, closed=True, **desk.signed)
        return desk

    def test_everything_is_signed(self, closed):
        report = closed.verify()
        assert report.would_boot
        assert report.closed
        assert len(report.components) == 6
        assert all(component.verified for component in report.components)
        parts = addresses(closed.view())
        assert parts[0xA000].sclab.flags == ("OPSW", "OLA", "NUC")
        for address, part in parts.items():
            if address != 0xA000:
                assert closed.read(part)[-32:] == sclab.build()
        lengths = struct.unpack(">10Q", closed.read(parts[0x9000])[:80])
        assert lengths[2] == len(INITRD)
        assert lengths[9] == 4096 - 32

    @pytest.mark.parametrize("address", [0x9000, 0xA000, 0x10000, 0x24000, 0x40000, 0x34000], ids=hex)
    @pytest.mark.parametrize("offset", [0, 200])
    def test_one_changed_byte(self, closed, address, offset):
        closed.flip(addresses(closed.view())[address], offset)
        report = closed.verify()
        assert (report.outcome, report.reason) == ("stops", "signature-not-verified")

    def test_one_more_component(self, closed):
        """An entry without a signature, in front of the EXEC entry."""
        view = closed.view()
        with open(closed["new.img"], "r+b") as file:
            file.seek(view.programs[0].table_block * 512)
            table = file.read(512)
            entries = [table[at : at + 32] for at in range(32, 512, 32)]
            end = next(number for number, entry in enumerate(entries) if entry[23] == 1)
            more = entries[end - 1][:24] + (0x100000).to_bytes(8, "big")
            file.seek(view.programs[0].table_block * 512)
            file.write((table[:32] + b"".join([*entries[:end], more, *entries[end:]]))[:512])
        report = closed.verify()
        assert (report.outcome, report.reason) == ("stops", "unsigned-not-allowed")
        assert 0x100000 in [component.address for component in report.components]

    def test_signature_taken_away(self, closed):
        view = closed.view()
        with open(closed["new.img"], "r+b") as file:
            file.seek(view.programs[0].table_block * 512)
            table = file.read(512)
            entries = [table[at : at + 32] for at in range(32, 512, 32)]
            # That of the RAM disk: the signature entry in front of its load entry.
            at = next(n for n, entry in enumerate(entries) if int.from_bytes(entry[24:], "big") == 0x40000)
            assert entries[at - 1][23] == 3
            del entries[at - 1]
            file.seek(view.programs[0].table_block * 512)
            file.write((table[:32] + b"".join(entries)).ljust(512, b"\0"))
        assert closed.verify().reason == "unsigned-not-allowed"

    def test_needs_a_key_and_its_own_loader(self, desk):
        with pytest.raises(UsageError, match="no key"):
            desk.make(closed=True)
        with pytest.raises(UsageError, match="parameters from anybody"):
            desk.make(closed=True, loader=desk["stage3.bin"], **desk.signed)

    def test_initrd_that_fills_its_blocks(self, desk):
        for length in (512 - 32, 512 - 31, 512, 1, 65536):
            desk.write("initrd.img", b"i" * length)
            desk.make(closed=True, force=True, **desk.signed)
            part = addresses(desk.view())[0x40000]
            assert part.length == -(-(length + 32) // 512) * 512
            assert desk.verify().closed


class TestEntries:
    def test_several(self, desk):
        desk.write("old", tiny_linux(0x16000))
        recipe = make_recipe([desk.entry(name="new"), desk.entry(kernel=desk["old"], cmdline="single")], 2)
        made = make_disk(desk["new.img"], recipe, **desk.signed)
        assert (made.default, [entry.number for entry in made.entries]) == (2, [1, 2])
        view = desk.view()
        assert [(p.number, p.same_as) for p in view.programs] == [(0, None), (1, None), (2, 0)]
        assert addresses(view, 1)[0x10000].length == 0x13000
        assert addresses(view, 0)[0x10000].length == 0x16000
        for loadparm in ("", "0", "1", "2"):
            assert desk.verify(loadparm=loadparm).would_boot

    def test_what_they_share_is_there_once(self, desk):
        desk.make(*[desk.entry(cmdline=f"number={n}") for n in range(30)], **desk.signed)
        view = desk.view()
        assert len(view.programs) == 31
        kernels = {addresses(view, number)[0x10000].runs for number in (0, *range(2, 31))}
        assert len(kernels) == 1
        assert os.path.getsize(desk["new.img"]) == 2 * MIB

    def test_default_is_said_once(self, desk):
        with pytest.raises(UsageError, match="said twice"):
            make_disk(desk["new.img"], make_recipe([desk.entry()]), default=1)

    def test_one_entry_by_itself(self, desk):
        assert make_disk(desk["new.img"], desk.entry()).entries[0].number == 1


class TestImage:
    def test_partitions(self, desk):
        desk.make(size=64 * MIB, **desk.signed)
        data = Path(desk["new.img"]).read_bytes()
        assert len(data) == 64 * MIB
        assert partitions(data) == [(0xDA, 2048, 2048), (0x83, 4096, 62 * 2048)]
        for component in desk.view().programs[0].components:
            for run in component.runs:
                assert run.block >= 2048
                assert run.block + run.blocks <= 4096
        assert not any(data[0x98:446])
        assert not any(data[512:MIB])

    def test_no_larger_than_needed(self, desk):
        made = desk.make()
        assert made.size == os.path.getsize(desk["new.img"]) == 2 * MIB
        assert partitions(Path(desk["new.img"]).read_bytes()) == [(0xDA, 2048, 2048)]

    def test_partitions_with_large_blocks(self, desk):
        desk.write("vmlinuz", tiny_linux(0x14000))
        desk.make(size=8 * MIB, block_size=4096)
        assert partitions(Path(desk["new.img"]).read_bytes()) == [(0xDA, 256, 256), (0x83, 512, 6 * 256)]

    def test_is_sparse(self, desk):
        desk.make(size=1 << 40)
        found = os.stat(desk["new.img"])
        assert found.st_size == 1 << 40
        assert found.st_blocks * 512 < 4 * MIB
        with open_image(desk["new.img"]) as image:
            assert partitions(image.read(0, 512))[1][2] == (1 << 40) // 512 - 4096

    def test_partition_that_is_too_large_for_its_field(self, desk):
        desk.make(size=1 << 42, image_format="qcow2")
        with open_image(desk["new.img"]) as image:
            assert partitions(image.read(0, 512))[1][2] == 0xFFFFFFFF

    def test_qcow2(self, desk, need_tool):
        made = desk.make(image_format="qcow2", size=10 << 30, **desk.signed)
        assert made.format == desk.view().format == "qcow2"
        assert desk.verify().would_boot
        tool = need_tool("qemu-img", "qemu-utils")
        subprocess.run([tool, "check", desk["new.img"]], capture_output=True, timeout=60, check=True)
        desk.make(output="raw.img", size=10 << 30, **desk.signed)
        first, second = (sipl.inspect(sipl.Disk(desk[name])).programs[0] for name in ("new.img", "raw.img"))
        assert [c.digest for c in first.components[:1]] == [c.digest for c in second.components[:1]]

    @pytest.mark.parametrize("size", [0, 1, MIB, 2 * MIB - 512, 2 * MIB + 1, 1 << 51])
    def test_sizes_that_are_not_possible(self, desk, size):
        before = desk.names()
        with pytest.raises(UsageError, match=r"--size: .* at least 2M"):
            desk.make(size=size)
        assert desk.names() == before

    def test_nothing_is_replaced_unless_asked_for(self, desk):
        desk.make()
        before = Path(desk["new.img"]).read_bytes()
        with pytest.raises(UsageError, match="exists already"):
            desk.make(**desk.signed)
        assert Path(desk["new.img"]).read_bytes() == before
        desk.make(force=True, **desk.signed)
        assert desk.verify().would_boot

    @pytest.mark.parametrize("name", ["mine.key", "mine.pem", "vmlinuz", "initrd.img", "stage3.bin"])
    def test_what_is_needed_is_never_replaced(self, desk, name):
        before = Path(desk[name]).read_bytes()
        with pytest.raises(UsageError, match="is needed"):
            desk.make(output=name, force=True, loader=desk["stage3.bin"], **desk.signed)
        assert Path(desk[name]).read_bytes() == before

    def test_places_that_cannot_be_written_to(self, desk):
        with pytest.raises(FileError, match="No such file"):
            desk.make(output="none/new.img")
        (desk.folder / "folder").mkdir()
        with pytest.raises(UsageError, match="no regular file"):
            desk.make(output="folder", force=True)

    def test_link_is_followed(self, desk):
        os.symlink(desk["real.img"], desk["new.img"])
        desk.make()
        assert os.path.islink(desk["new.img"])
        assert os.path.getsize(desk["real.img"]) == 2 * MIB

    def test_full_host_leaves_nothing_behind(self, desk, monkeypatch):
        def full(file, content, size):
            file.write(content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setitem(mkdisk.FORMATS, "raw", full)
        before = desk.names()
        with pytest.raises(FileError, match="No space left"):
            desk.make()
        assert desk.names() == before

    def test_file_system_without_links(self, desk, monkeypatch):
        def none(*_):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", none)
        desk.make()
        assert os.path.getsize(desk["new.img"]) == 2 * MIB
        assert [name for name in desk.names() if name.startswith(".")] == []

    @pytest.mark.parametrize("links", [True, False])
    def test_file_that_appears_meanwhile_is_kept(self, desk, monkeypatch, links):
        if not links:
            monkeypatch.setattr(os, "link", lambda *_: os.stat("/none/such"))
        real = mkdisk.FORMATS["raw"]

        def slow(file, content, size):
            desk.write("new.img", b"somebody else's")
            real(file, content, size)

        monkeypatch.setitem(mkdisk.FORMATS, "raw", slow)
        with pytest.raises(UsageError, match="exists already"):
            desk.make()
        assert Path(desk["new.img"]).read_bytes() == b"somebody else's"
        assert [name for name in desk.names() if name.startswith(".")] == []


class TestSignatures:
    @staticmethod
    def sign(desk, name, who):
        with open_signer(desk[f"{who}.key"], desk[f"{who}.pem"], now=AT) as signer:
            sign_file(desk[name], signer)

    def test_those_of_the_files_are_taken_off(self, desk):
        for name in ("vmlinuz", "stage3.bin"):
            self.sign(desk, name, "other")
        desk.make(loader=desk["stage3.bin"], **desk.signed)
        assert desk.verify().would_boot
        assert addresses(desk.view())[0x10000].length == len(tiny_linux())

    def test_initrd_is_taken_without_its_own(self, desk):
        initrd = tiny_linux(0x10600)
        desk.write("initrd.img", initrd)
        self.sign(desk, "initrd.img", "other")
        desk.make(**desk.signed)
        parts = addresses(desk.view())
        assert desk.read(parts[0x40000]) == initrd
        assert struct.unpack(">10Q", desk.read(parts[0x9000])[:80])[2] == len(initrd)

    def test_kept(self, desk):
        for name in ("vmlinuz", "stage3.bin"):
            self.sign(desk, name, "other")
        made = desk.make(loader=desk["stage3.bin"], cert=desk["other.pem"], keep_signatures=True)
        assert made.secure
        assert [part.part for part in made.entries[0].components if part.signature_kept] == ["loader", "kernel"]
        assert desk.verify(certs=("other.pem",)).would_boot

    def test_kept_and_made(self, desk):
        """A distribution's kernel, one's own loader."""
        self.sign(desk, "vmlinuz", "other")
        desk.make(keep_signatures=True, trusted=[desk["other.pem"]], closed=True, **desk.signed)
        assert desk.verify(certs=("mine.pem", "other.pem")).closed
        assert desk.verify().reason == "signature-not-verified"

    def test_kept_but_of_somebody_else(self, desk):
        self.sign(desk, "vmlinuz", "other")
        with pytest.raises(SigningRefused, match="vmlinuz"):
            desk.make(keep_signatures=True, **desk.signed)
        kernel = bytearray((desk.folder / "vmlinuz").read_bytes())
        kernel[100] ^= 1
        desk.write("vmlinuz", bytes(kernel))
        with pytest.raises(SigningRefused, match="other bytes"):
            desk.make(keep_signatures=True, trusted=[desk["other.pem"]], **desk.signed)
        assert not os.path.exists(desk["new.img"])

    def test_nothing_to_keep(self, desk):
        with pytest.raises(UsageError, match="there is no key"):
            desk.make(keep_signatures=True, cert=desk["mine.pem"])
        with pytest.raises(UsageError, match="no signature that could be kept"):
            desk.make(keep_signatures=True, cert=desk["mine.pem"], loader=desk["stage3.bin"])

    @pytest.mark.parametrize(
        "options",
        [
            {"key": "mine.key"},
            {"cert": "mine.pem"},
            {"keep_signatures": True},
            {"trusted": ["mine.pem"]},
        ],
        ids=str,
    )
    def test_halves(self, desk, options):
        with pytest.raises(UsageError, match=r"^--"):
            desk.make(**options)

    def test_key_of_another_certificate(self, desk):
        with pytest.raises(SigningRefused, match="private key"):
            desk.make(key=desk["other.key"], cert=desk["mine.pem"])

    def test_expired(self, desk):
        with pytest.raises(SigningRefused, match="expired"):
            desk.make(**desk.signed | {"at": AT + 2 * YEAR})


class TestRefused:
    @pytest.mark.parametrize(
        ("kernel", "error", "why"),
        [
            (b"no kernel" * 1000, SigningRefused, "no multiple of 512"),
            (bytes(0x20000), SigningRefused, "SCLAB"),
            (sclab.overwrite(bytes(0x20000), sclab.build()), UsageError, "no kernel for s390x"),
            (tiny_linux()[:-512], SigningRefused, "SCLAB"),
            (tiny_linux() + bytes(512), SigningRefused, "SCLAB"),
            (tiny_linux()[:-32] + bytes(100) + sclab.build(), SigningRefused, "no multiple of 512"),
            (sclab.overwrite(tiny_linux(), sclab.build(0x2000)), SigningRefused, "NUC"),
        ],
        ids=["text", "zeros", "not linux", "cut", "longer", "not padded", "nuc"],
    )
    def test_kernels(self, desk, kernel, error, why):
        desk.write("vmlinuz", kernel)
        before = desk.names()
        with pytest.raises(error, match=f"vmlinuz.*{why}"):
            desk.make(**desk.signed)
        assert desk.names() == before

    def test_kernel_for_smaller_blocks(self, desk):
        with pytest.raises(UsageError, match="no whole blocks of 4096"):
            desk.write("vmlinuz", tiny_linux(0x12200))
            desk.make(block_size=4096, **desk.signed)

    def test_what_the_boot_side_finds_in_the_end(self, desk):
        """Attributes for another address: nobody but the boot side knows where the kernel is loaded."""
        desk.write("vmlinuz", sclab.overwrite(tiny_linux(), sclab.build(0x4000, 0, 0x20000)))
        before = desk.names()
        with pytest.raises(WouldNotBoot, match="sclab-address-mismatch") as caught:
            desk.make(**desk.signed)
        assert caught.value.report.outcome == "stops"
        assert desk.names() == before

    @pytest.mark.parametrize(
        ("loader", "why"),
        [(tiny_linux(), "not stage3"), (loader_bytes(0x4000, psw=0x000800008000A002), "SCLAB"), (b"", "")],
        ids=["kernel", "other psw", "empty"],
    )
    def test_loaders(self, desk, loader, why):
        desk.write("stage3.bin", loader)
        with pytest.raises((UsageError, SigningRefused), match=f"stage3.bin.*{why}"):
            desk.make(loader=desk["stage3.bin"], **desk.signed)

    def test_command_lines(self, desk):
        desk.make(desk.entry(cmdline="x" * 255), **desk.signed)
        for cmdline in ("x" * 256, "${A}" * 2):
            with pytest.raises(UsageError, match=r"256 bytes, the kernel .* takes 255"):
                desk.make(desk.entry(cmdline=cmdline), environment={"A": "x" * 128}, force=True)
        for cmdline in ("a\nb", "a\0b"):
            with pytest.raises(UsageError, match="control characters"):
                desk.make(desk.entry(cmdline=cmdline), force=True)

    def test_short_after_the_environment(self, desk):
        """What counts is the line that the kernel gets."""
        desk.make(desk.entry(cmdline="${LONG_NAME}" * 30), environment={"LONG_NAME": "x"}, **desk.signed)

    def test_initrds(self, desk):
        desk.write("initrd.img", b"")
        with pytest.raises(UsageError, match="empty"):
            desk.make()
        with pytest.raises(FileError, match="none"):
            desk.make(desk.entry(initrd=desk["none"]))

    def test_too_large_for_the_memory(self, desk):
        with open(desk["initrd.img"], "wb") as file:
            file.truncate((2 << 30) + 1)
        with pytest.raises(FileError, match="2147483649 bytes"):
            desk.make()

    def test_options(self, desk):
        with pytest.raises(UsageError, match="block size"):
            desk.make(block_size=8192)
        with pytest.raises(UsageError, match="'vmdk' is not known"):
            desk.make(image_format="vmdk")
        with pytest.raises(UsageError, match="no entry"):
            make_disk(desk["new.img"], [])
        with pytest.raises(UsageError, match="--digest"):
            desk.make(digest="md5", **desk.signed)
