"""Sealing small disks: what is signed, what is written, and what is refused, with nothing lost."""

from __future__ import annotations

import os
import struct

import ipl_lab
import linux_lab
import pytest
import seal_lab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seal_lab import FIRST, KERNEL, LOADER, PARAMETERS, disk, judge, linux, program, seal_file, stage3, unseal_file

from sipl.author import sclab, seal_source, sealing
from sipl.author.boot_record import Execute, Load
from sipl.author.partition_table import Partition, write_partition_table
from sipl.author.seal_room import make_saved
from sipl.crypto import signing
from sipl.disk.free_room import find_free_room
from sipl.disk.open import open_image
from sipl.disk.seal_frames import make_header, read_header
from sipl.doctor.sparse_defect import find_sparse_defect
from sipl.errors import ImageError, SealRefused, UsageError
from sipl.inspection import inspect
from sipl.reasons import Reason, SealReason
from sipl.settings import Disk


@pytest.fixture(scope="module")
def signers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seal-signers")
    kinds = {"A": "p521", "B": "rsa2048", "C": "rsa4096"}
    return {name: seal_lab.SealSigner(folder, name, signing.generate_key(kind)) for name, kind in kinds.items()}


@pytest.fixture
def write(tmp_path):
    """A raw image of these bytes."""

    def make(image, name="disk.raw"):
        path = tmp_path / name
        path.write_bytes(image)
        return path

    return make


def refused(reason, path, signer, **fields):
    """Sealing is refused for this reason, and the file stays as it is."""
    before = path.read_bytes()
    with pytest.raises(SealRefused) as caught:
        seal_file(path, signer, **fields)
    assert caught.value.reason is reason, caught.value
    assert path.read_bytes() == before
    return str(caught.value)


def states(report, number=0):
    (found,) = [p for p in report.programs if number in p.numbers]
    return {c.address: c.state for c in found.components}


@pytest.mark.parametrize("name", ["A", "B", "C"])
@pytest.mark.parametrize("table", ["mbr", "gpt"])
@pytest.mark.parametrize("block_size", [512, 4096])
def test_seal(write, signers, block_size, table, name):
    image = disk(block_size=block_size, table=table, programs=[program(linux(size=0x12000))])
    path = write(image)
    assert judge(path, signers[name]).reason == Reason.NO_SIGNED_COMPONENT
    report = seal_file(path, signers[name])
    assert report.done
    assert judge(path, signers[name]).boots
    assert states(report)[LOADER] == states(report)[KERNEL] == "signed"
    assert set(states(report).values()) == {"signed", "unsigned"}
    assert seal_lab.same_outside(bytes(image), path, block_size, FIRST)
    assert report.unsigned == ("parameters", "command line", "initrd", "environment block", "heap")


def test_what_is_said_of_each_component(write, signers):
    kernel = linux("5.4.3-say-this")
    report = seal_file(write(disk([program(kernel)])), signers["A"])
    found = {c.address: c for c in report.programs[0].components}
    assert found[LOADER].what == "stage3, zipl's loader"
    assert found[KERNEL].what == "Linux 5.4.3-say-this"
    assert found[KERNEL].length == len(kernel)
    import hashlib

    assert found[KERNEL].sha256 == hashlib.sha256(kernel).hexdigest()
    assert found[PARAMETERS].what == "parameters"


def test_a_dry_run_writes_nothing_and_says_what_would_be_written(write, signers):
    path = write(disk())
    before = path.read_bytes()
    planned = seal_file(path, signers["B"], dry_run=True)
    assert path.read_bytes() == before
    assert not planned.done
    done = seal_file(path, signers["B"])
    assert done.writes == planned.writes
    after = path.read_bytes()
    written = {at for w in planned.writes for at in range(w.offset, w.offset + w.length)}
    changed = {at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    assert changed <= written
    assert planned.writes[-1].offset == 0
    assert planned.writes[-1].length == 0x98
    assert all(w.offset >= 512 and w.offset + w.length <= FIRST * 512 for w in planned.writes[:-1])


def test_a_signed_disk_gets_another_signer(write, signers):
    path = write(disk())
    seal_file(path, signers["A"])
    assert not judge(path, signers["B"]).boots
    seal_file(path, signers["B"])
    assert judge(path, signers["B"]).boots
    assert not judge(path, signers["A"]).boots


def test_sealing_again_and_again_needs_no_more_room(write, signers):
    path = write(disk())
    places = [seal_file(path, signers["AB"[n % 2]]).writes[0].offset for n in range(6)]
    assert len(set(places[2:])) <= 2
    with open_image(str(path)) as image:
        frames = find_free_room(image, 512).frames
    assert len({frame.generation for frame in frames}) <= 2


def test_unseal_puts_back_what_was_there_before_the_first_seal(write, signers):
    image = disk()
    path = write(image)
    for name in "ABC":
        seal_file(path, signers[name])
    sealed = path.read_bytes()
    report = unseal_file(path)
    assert report.done
    now = path.read_bytes()
    assert now[:512] == bytes(image[:512])
    assert now[512:] == sealed[512:]
    with pytest.raises(SealRefused) as caught:
        unseal_file(path)
    assert caught.value.reason is SealReason.NOT_SEALED
    seal_file(path, signers["A"])
    assert judge(path, signers["A"]).boots


def test_unseal_keeps_a_changed_partition_table(write, signers):
    path = write(disk())
    seal_file(path, signers["A"])
    with path.open("r+b") as file:
        file.seek(450)
        file.write(b"\x82")
    unseal_file(path)
    assert path.read_bytes()[450] == 0x82


def test_unseal_dry_run(write, signers):
    image = disk()
    path = write(image)
    seal_file(path, signers["A"])
    before = path.read_bytes()
    report = unseal_file(path, dry_run=True)
    assert (report.done, report.record) == (False, bytes(image[:0x98]).hex())
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", [0, 0x97, 0x16])
def test_unseal_is_refused_when_zipl_ran_since(write, signers, where):
    path = write(disk())
    seal_file(path, signers["A"])
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(SealRefused) as caught:
        unseal_file(path)
    assert caught.value.reason is SealReason.NOT_SEALED
    assert path.read_bytes() == content


def test_unseal_is_refused_with_a_damaged_copy(write, signers):
    path = write(disk())
    seal_file(path, signers["A"])
    content = bytearray(path.read_bytes())
    content[content.index(b"siplBOOT") + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(SealRefused) as caught:
        unseal_file(path)
    assert caught.value.reason is SealReason.NOT_SEALED


def test_unseal_works_whatever_else_lies_in_the_gap_by_then(write, signers):
    image = disk()
    path = write(image)
    seal_file(path, signers["A"])
    content = bytearray(path.read_bytes())
    content[(FIRST - 1) * 512] = 1
    path.write_bytes(content)
    refused(SealReason.GAP_NOT_EMPTY, path, signers["B"])
    unseal_file(path)
    assert path.read_bytes()[:512] == bytes(image[:512])


def test_bytes_of_the_record_that_are_zipls_own_stay(write, signers):
    image = disk()
    image[0x70:0x98] = b"dump" * 10
    path = write(image)
    seal_file(path, signers["A"])
    assert path.read_bytes()[0x20:0x98] == bytes(image[0x20:0x98])


class TestMenu:
    @pytest.fixture
    def menu(self):
        """Two kernels; the default is the second one, as zipl writes it: by the same table."""
        return disk([program(linux("6.1.0-one", seed=1)), program(linux("6.1.0-two", seed=2))], order=(1, 0, 1))

    def test_all(self, write, signers, menu):
        path = write(menu)
        report = seal_file(path, signers["A"])
        assert sorted(p.numbers for p in report.programs) == [(0, 2), (1,)]
        for loadparm in ("", "1", "2"):
            assert judge(path, signers["A"], loadparm=loadparm).boots

    def test_one_signature_for_one_loader(self, write, signers, menu):
        path = write(menu)
        seal_file(path, signers["A"])
        view = inspect(Disk(str(path)))
        loaders = [c.signature.runs for p in view.programs for c in p.components if c.address == LOADER]
        assert len(loaders) == 2
        assert len(set(loaders)) == 1

    def test_only_those_that_are_named(self, write, signers, menu):
        path = write(menu)
        report = seal_file(path, signers["A"], entries=frozenset({1}))
        assert [p.numbers for p in report.programs] == [(1,)]
        assert judge(path, signers["A"], loadparm="1").boots
        assert not judge(path, signers["A"]).boots
        assert not judge(path, signers["A"], loadparm="2").boots

    def test_one_after_the_other_by_different_signers(self, write, signers, menu):
        path = write(menu)
        seal_file(path, signers["A"], entries=frozenset({1}))
        report = seal_file(path, signers["B"], entries=frozenset({0}))
        assert [(p.numbers, p.sealed) for p in sorted(report.programs)] == [((0, 2), True), ((1,), False)]
        assert states(report, 1)[KERNEL] == "kept"
        seal_file(path, signers["C"], entries=frozenset({2}))
        assert judge(path, signers["A"], loadparm="1").boots
        assert judge(path, signers["C"]).boots
        unseal_file(path)
        assert path.read_bytes()[:0x98] == bytes(menu[:0x98])

    def test_an_entry_that_is_not_there(self, write, signers, menu):
        path = write(menu)
        with pytest.raises(UsageError, match="no program 7"):
            seal_file(path, signers["A"], entries=frozenset({7}))
        assert path.read_bytes() == menu

    def test_a_broken_entry_can_be_left_out(self, write, signers):
        image = disk([program(), [Load(LOADER, stage3()), Execute(seal_lab.PSW)]])
        view = inspect(Disk(str(write(image))))
        table = view.programs[1].table_block * 512
        image[table + 4] = 1  # a dump
        path = write(image)
        assert "program 1" in refused(SealReason.BOOT_MAP_UNUSABLE, path, signers["A"])
        seal_file(path, signers["A"], entries=frozenset({0}))
        assert judge(path, signers["A"]).boots

    def test_thirty_one_entries(self, write, signers):
        programs = [program(linux(f"6.{n}", seed=n)) for n in range(31)]
        path = write(disk(programs, first=2048))
        seal_file(path, signers["C"])
        seal_file(path, signers["B"])
        for number in (0, 1, 30):
            assert judge(path, signers["B"], loadparm=str(number)).boots


class TestKernelLength:
    """By its unsigned parameters stage3 moves the kernel; they must fit the signature that is there now."""

    def adapted(self, report):
        (found,) = [c for c in report.programs[0].components if c.address == PARAMETERS]
        return found.adapted

    def test_it_is_adapted_where_it_must_be(self, write, signers):
        kernel = linux()
        path = write(disk([program(kernel)]))
        assert self.adapted(seal_file(path, signers["C"]))  # 667 bytes of signature and 40 more than one block
        assert judge(path, signers["C"]).boots
        with open_image(str(path)) as image:
            view = inspect(Disk(str(path)))
            (found,) = [c for c in view.programs[0].components if c.address == PARAMETERS]
            content = image.read(found.runs[0].block * 512, 80)
        (signature,) = [c.signature for c in view.programs[0].components if c.address == KERNEL]
        assert struct.unpack_from(">Q", content, 48)[0] == len(kernel) + signature.length + 40
        assert not self.adapted(seal_file(path, signers["C"]))
        assert judge(path, signers["C"]).boots

    def test_moved_parameters_survive_any_number_of_seals(self, write, signers):
        path = write(disk())
        for name in "CCBCACC":
            seal_file(path, signers[name])
            assert judge(path, signers[name]).boots

    def test_what_a_kernel_length_does_not_mend_is_refused(self, write, signers):
        kernel = linux()
        bad = Load(PARAMETERS, seal_lab.parameters(len(kernel), kernel=0x20000))
        text = refused(SealReason.WOULD_NOT_BOOT, write(disk([program(kernel, parameters=bad)])), signers["A"])
        assert "the loader would refuse" in text


class TestClosed:
    """A disk on which everything is signed: each part has to be named, for none but two is what a seal signs."""

    @pytest.fixture
    def closed(self, tmp_path):
        lab = ipl_lab.Lab(tmp_path, ipl_lab.Signers(tmp_path))
        return disk([linux_lab.program(lab, closed=True)])

    NAMED = frozenset({PARAMETERS, linux_lab.COMMAND_LINE, linux_lab.INITRD, linux_lab.ENVIRONMENT})

    @pytest.mark.parametrize("name", ["A", "C"])
    def test_all_parts_are_named(self, write, signers, closed, name):
        """With C the parameters are adapted, and then signed."""
        path = write(closed)
        report = seal_file(path, signers[name], components=self.NAMED)
        assert set(states(report).values()) == {"signed"}
        assert report.unsigned == ()
        assert judge(path, signers[name]).report.closed

    def test_a_part_is_left_out(self, write, signers, closed):
        refused(SealReason.COMPONENT_NOT_EXPECTED, write(closed), signers["A"])
        refused(SealReason.COMPONENT_NOT_EXPECTED, write(closed), signers["A"], components=self.NAMED - {0x40000})

    def test_signed_parameters_that_would_have_to_change(self, write, signers, closed):
        path = write(closed)
        seal_file(path, signers["A"], components=self.NAMED)
        known = (signers["A"].path,)
        text = refused(SealReason.WOULD_NOT_BOOT, path, signers["C"], boot_certs=known)
        assert "--component 0x9000" in text
        seal_file(path, signers["C"], boot_certs=known, components=frozenset({PARAMETERS}))
        assert judge(path, signers["A"], signers["C"]).report.closed


class TestRefusals:
    def test_nothing_with_a_sclab(self, write, signers):
        parts = {"loader": ipl_lab.code(0x4000, 1), "kernel": ipl_lab.code(0x11000, 2)}
        refused(SealReason.NOTHING_TO_SIGN, write(disk([program(**parts)])), signers["A"])

    def test_a_kernel_without_sclab(self, write, signers):
        path = write(disk([program(kernel=ipl_lab.code(0x11000, 2))]))
        assert "no verified component" in refused(SealReason.WOULD_NOT_BOOT, path, signers["A"])

    def test_a_loader_without_sclab(self, write, signers):
        path = write(disk([program(loader=ipl_lab.code(0x4000, 1))]))
        assert "no-global-sclab" in refused(SealReason.WOULD_NOT_BOOT, path, signers["A"])

    @pytest.mark.parametrize(
        ("loader", "reason"),
        [
            (stage3(address=0xB000), "sclab-address-mismatch"),
            (stage3(psw=seal_lab.PSW + 2), "psw-mismatch"),
            (stage3(flags=0x8000, address=0), "sclab-ola-not-one"),
            (stage3(flags=0xE000), "unsigned-not-allowed"),
            (stage3(flags=0xD000), "single-component-violated"),
            (sclab.overwrite(stage3(), sclab.build(0xC000, seal_lab.PSW, LOADER, sclab_format=1)), "sclab-format"),
        ],
    )
    def test_rules_of_the_sclab(self, write, signers, loader, reason):
        assert reason in refused(SealReason.WOULD_NOT_BOOT, write(disk([program(loader=loader)])), signers["A"])

    def test_a_sclab_longer_than_its_component(self, write, signers):
        loader = sclab.overwrite(stage3(), sclab.build(0xC000, seal_lab.PSW, LOADER, stated_length=0xFFFF))
        path = write(disk([program(loader=loader)]))
        refused(SealReason.COMPONENT_NOT_EXPECTED, path, signers["A"])

    def test_two_global_sclabs(self, write, signers):
        second = Load(0x80000, stage3(address=0x80000))
        path = write(disk([program(second=second)]))
        text = refused(SealReason.COMPONENT_NOT_EXPECTED, path, signers["A"])
        assert "--component 0x80000" in text
        text = refused(SealReason.WOULD_NOT_BOOT, path, signers["A"], components=frozenset({0x80000}))
        assert "several-global-sclabs" in text

    def test_overlapping_components(self, write, signers):
        path = write(disk([program(over=Load(KERNEL + 512, bytes(512)))]))
        assert "address-overlap" in refused(SealReason.WOULD_NOT_BOOT, path, signers["A"])

    def test_code_that_nobody_knows(self, write, signers):
        """Sealing is no oracle: what is neither loader nor Linux is named, or not signed."""
        other = sclab.overwrite(ipl_lab.code(1024, 7), sclab.build())
        path = write(disk([program(other=Load(0x80000, other))]))
        assert "0x80000" in refused(SealReason.COMPONENT_NOT_EXPECTED, path, signers["A"])
        report = seal_file(path, signers["A"], components=frozenset({0x80000}))
        assert states(report)[0x80000] == "signed"
        assert judge(path, signers["A"]).boots

    def test_a_kernel_that_is_not_linux(self, write, signers):
        path = write(disk([program(kernel=sclab.overwrite(ipl_lab.code(0x11000, 9), sclab.build()))]))
        refused(SealReason.COMPONENT_NOT_EXPECTED, path, signers["A"])
        seal_file(path, signers["A"], components=frozenset({KERNEL}))
        assert judge(path, signers["A"]).boots

    def test_linux_at_another_place(self, write, signers):
        path = write(disk([program(second=Load(0x100000, linux("6.2", seed=5)))]))
        refused(SealReason.COMPONENT_NOT_EXPECTED, path, signers["A"])

    @pytest.mark.parametrize("address", [0x50000, 0x12345, PARAMETERS])
    def test_a_component_that_cannot_be_signed(self, write, signers, address):
        refused(SealReason.COMPONENT_NOT_FOUND, write(disk()), signers["A"], components=frozenset({address}))

    def test_a_full_table(self, write, signers):
        more = {f"more{n}": Load(0x100000 + n * 0x1000, bytes(512)) for n in range(6)}
        path = write(disk([program(**more)]))
        assert "16 entries" in refused(SealReason.TABLE_FULL, path, signers["A"])
        less = {name: more[name] for name in list(more)[:5]}
        seal_file(write(disk([program(**less)])), signers["A"])

    def test_the_sparse_defect(self, write, signers):
        kernel = linux(size=0x14000)
        image = disk([program(kernel)])
        path = write(image)
        view = inspect(Disk(str(path)))
        (found,) = [c for c in view.programs[0].components if c.address == KERNEL]
        (run,) = found.runs
        zero = FIRST + 1  # in the heap
        at = image.index(struct.pack(">QHHI", run.block, 512, run.blocks - 1, 0))
        pointers = [(run.block, 140), (zero, 1), (zero, 1), (run.block + 133, 27)]
        packed = b"".join(struct.pack(">QHHI", block, 512, count - 1, 0) for block, count in pointers)
        image[at : at + len(packed)] = packed
        path = write(image)
        assert "holes" in refused(SealReason.SPARSE_DEFECT, path, signers["A"])

    @pytest.mark.parametrize(
        ("runs", "block_size", "early"),
        [
            ([(800, 8), *[(50, 1)] * 8, (1616, 100)], 512, 0),  # a hole of one block of the file system
            ([(800, 8), (50, 1), (50, 1), *[(50, 1)] * 7, (1609, 100)], 512, 1),  # one block of a second one: too early
            ([(800, 8), *[(50, 1)] * 9, (1610, 100)], 512, 0),  # other runs do not lie so: no such file system
            ([(800, 4), *[(50, 1)] * 5, (1609, 100)], 1024, 1),
            ([(800, 1), *[(50, 1)] * 5, (1609, 100)], 4096, 0),
            ([(800, 8), *[(50, 1)] * 9, (1609, 100)], 0, 0),
        ],
    )
    def test_the_sparse_defect_in_a_file_in_pieces(self, runs, block_size, early):
        found = find_sparse_defect(runs, block_size)
        assert (0 if found is None else found.early) == early
        assert found is None or found.twice == 0

    def test_an_expired_certificate(self, write, signers, tmp_path):
        from sipl.author.signer import Signer
        from sipl.crypto.certificate import Certificate
        from sipl.errors import SigningRefused

        key = signing.generate_key("p521")
        pem = signing.self_signed(key, "old", 0, 1000)
        with pytest.raises(SigningRefused):
            Signer(key, Certificate.from_pem(pem), now=seal_lab.AT)


class TestExistingSignatures:
    def test_a_known_signer(self, write, signers):
        path = write(disk())
        seal_file(path, signers["A"])
        seal_file(path, signers["B"], boot_certs=(signers["C"].path, signers["A"].path))
        assert judge(path, signers["B"]).boots

    def test_an_unknown_signer(self, write, signers):
        path = write(disk())
        seal_file(path, signers["A"])
        refused(SealReason.FOREIGN_SIGNATURE, path, signers["B"], boot_certs=(signers["C"].path,))

    def test_a_changed_kernel(self, write, signers):
        path = write(disk())
        seal_file(path, signers["A"])
        content = bytearray(path.read_bytes())
        view = inspect(Disk(str(path)))
        (found,) = [c for c in view.programs[0].components if c.address == KERNEL]
        content[found.runs[0].block * 512 + 0x11 * 512] ^= 1
        path.write_bytes(content)
        refused(SealReason.FOREIGN_SIGNATURE, path, signers["A"], boot_certs=(signers["A"].path,))
        seal_file(path, signers["A"])  # without --boot-certs nobody asks

    @pytest.mark.parametrize("address", [LOADER, KERNEL])
    def test_a_signature_that_was_taken_away(self, write, signers, address):
        """Who replaces the kernel takes its signature away, too; that must not be the way around the question."""
        path = write(disk())
        seal_file(path, signers["A"])
        content = bytearray(path.read_bytes())
        view = inspect(Disk(str(path)))
        table = view.programs[0].table_block * 512
        entries = [content[at : at + 32] for at in range(table + 32, table + 512, 32)]
        (at,) = [n for n, e in enumerate(entries) if e[23] == 2 and e[24:] == address.to_bytes(8, "big")]
        assert entries[at - 1][23] == 3
        del entries[at - 1]
        new = b"".join([*entries, bytes(32)])
        content[table + 32 : table + 32 + len(new)] = new
        _mend_frames(content)
        path.write_bytes(content)
        known = (signers["A"].path,)
        text = refused(SealReason.FOREIGN_SIGNATURE, path, signers["B"], boot_certs=known)
        assert f"--component {address:#x}" in text
        seal_file(path, signers["B"], boot_certs=known, components=frozenset({address}))
        assert judge(path, signers["B"]).boots

    def test_unsigned_is_signed_where_it_is_named(self, write, signers):
        path = write(disk())
        known = (signers["A"].path,)
        refused(SealReason.FOREIGN_SIGNATURE, path, signers["B"], boot_certs=known)
        refused(SealReason.FOREIGN_SIGNATURE, path, signers["B"], boot_certs=known, components=frozenset({LOADER}))
        seal_file(path, signers["B"], boot_certs=known, components=frozenset({LOADER, KERNEL}))
        assert judge(path, signers["B"]).boots

    def test_another_signed_component_is_kept(self, write, signers):
        other = sclab.overwrite(ipl_lab.code(1024, 7), sclab.build())
        path = write(disk([program(other=Load(0x80000, other))]))
        seal_file(path, signers["A"], components=frozenset({0x80000}))
        report = seal_file(path, signers["B"], boot_certs=(signers["A"].path,))
        assert states(report)[0x80000] == "kept"
        assert judge(path, signers["A"], signers["B"]).boots
        assert not judge(path, signers["B"]).boots


def _mend_frames(content):
    """Whoever can write to a disk can make frames, too: their checksums are no secret."""
    for at in range(512, FIRST * 512, 512):
        frame = read_header(content[at : at + 512], at // 512, 512)
        if frame is not None:
            data = content[at + 512 : at + 512 + frame.blocks * 512]
            content[at : at + 512] = make_header(frame.block, 512, data, frame.generation)


class Meddling:
    """A signer; while it signs for the n-th time, something happens to the image."""

    def __init__(self, signer, turn, meddle):
        self.certificate = signer.signer.certificate
        self.signed = []
        self._signer, self._turn, self._meddle = signer.signer, turn, meddle

    def sign(self, data):
        self.signed.append(bytes(data))
        if len(self.signed) == self._turn:
            self._meddle()
        return self._signer.sign(data)


class TestMeanwhile:
    """Somebody writes to the image and does not care for locks: what is signed is what was looked at."""

    @pytest.fixture
    def place(self):
        def find(path, address):
            view = inspect(Disk(str(path)))
            (found,) = [c for c in view.programs[0].components if c.address == address]
            return found.runs[0].block * 512

        return find

    @staticmethod
    def overwrite(path, at, data):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def refused(self, path, error, why, do):
        block0 = path.read_bytes()[:512]
        with pytest.raises(error, match=why):
            do()
        assert path.read_bytes()[:512] == block0

    def test_another_kernel_behind_the_look(self, write, signers, place):
        path = write(disk())
        at, left = place(path, KERNEL), [sum(-len(part.data) // 512 * -512 for part in program()[:-1])]

        def read(count):
            left[0] -= count
            if not left[0]:
                self.overwrite(path, at, linux(seed=99))

        signer = Meddling(signers["A"], 0, None)
        self.refused(
            path,
            ImageError,
            "0x10000 has changed",
            lambda: sealing.seal(Disk(str(path)), signer, seal_lab.options(read=read)),
        )
        assert left == [0]
        assert linux(seed=99) not in signer.signed

    def test_another_kernel_while_the_loader_is_signed(self, write, signers, place):
        path = write(disk())
        seal_file(path, signers["A"])
        at = place(path, KERNEL)
        signer = Meddling(signers["B"], 1, lambda: self.overwrite(path, at, linux(seed=99)))
        options = seal_lab.options(boot_certs=(signers["A"].path,))
        self.refused(path, ImageError, "0x10000 has changed", lambda: sealing.seal(Disk(str(path)), signer, options))
        assert linux(seed=99) not in signer.signed

    @pytest.mark.parametrize(("address", "why"), [(KERNEL, "signature-not-verified"), (0x50000, "not what was looked")])
    def test_another_component_behind_all_signatures(self, write, signers, place, address, why):
        """The loader's and the kernel's; the RAM disk, which nobody signs, must be the one that was shown, too."""
        path = write(disk())
        at = place(path, address)
        signer = Meddling(signers["A"], 2, lambda: self.overwrite(path, at, b"another"))
        self.refused(path, SealRefused, why, lambda: sealing.seal(Disk(str(path)), signer, seal_lab.options()))

    def test_another_component_while_block_0_is_written(self, write, signers, place):
        """The record that was there is put back."""
        path = write(disk())
        at = place(path, 0x50000)

        def step(what):
            if what == "write block 0":
                self.overwrite(path, at, b"another")

        self.refused(path, SealRefused, "not what was looked", lambda: seal_file(path, signers["A"], step=step))

    def test_a_component_less_while_block_0_is_written(self, write, signers):
        """The table in the gap ends before the RAM disk, and everything that is left is as it was."""
        path = write(disk())

        def step(what):
            if what == "write block 0":
                gap = path.read_bytes()[: 20 * 512]
                at = gap.index(b"\2" + (0x50000).to_bytes(8, "big")) - 23
                execute = gap.index(b"\1" + seal_lab.PSW.to_bytes(8, "big"), at) - 23
                self.overwrite(path, at, gap[execute : execute + 32])

        self.refused(path, SealRefused, "not what was looked", lambda: seal_file(path, signers["A"], step=step))


class TestForged:
    """Disks that somebody made to have a seal write what it should not, or to keep it busy."""

    def test_a_frame_in_a_partition_is_no_seal(self, write):
        """A guest's user can write such a file, and must not choose what an administrator's unseal makes current."""
        image = disk()
        at = len(image) // 512 - 20
        saved = make_saved(b"zIPL" + b"evil" * 37, bytes(image[:0x98])).ljust(512, b"\0")
        image[at * 512 : at * 512 + 1024] = make_header(at, 512, saved, 1) + saved
        path = write(image)
        with pytest.raises(SealRefused) as caught:
            unseal_file(path)
        assert caught.value.reason is SealReason.NOT_SEALED
        assert path.read_bytes() == image
        write_partition_table(image, [Partition(0x83, at + 2, 18)])
        unseal_file(write(image))  # in front of all partitions it is one

    def test_without_a_partition_table_nothing_is_put_back(self, write, signers):
        path = write(disk())
        seal_file(path, signers["A"])
        content = bytearray(path.read_bytes())
        content[446:512] = bytes(66)
        path.write_bytes(content)
        with pytest.raises(SealRefused) as caught:
            unseal_file(path)
        assert caught.value.reason is SealReason.NO_PARTITION_TABLE
        assert path.read_bytes() == content

    def test_tables_without_end(self, write, signers, monkeypatch):
        """Time and memory are bounded; and no disk is sealed of which it is not known what all it boots."""
        monkeypatch.setattr(seal_source, "MAX_TABLES_SIZE", 768 << 10)
        seal_file(write(disk(block_size=4096, programs=[program(linux(size=0x12000))])), signers["A"])
        many = {f"more{n}": Load(0x100000 + n * 4096, bytes(4096)) for n in range(60)}
        programs = [program(linux(size=0x12000)), program(linux(size=0x12000), **many)]
        path = write(disk(programs, block_size=4096))
        for entries in (None, frozenset({0})):
            text = refused(SealReason.BOOT_MAP_UNUSABLE, path, signers["A"], entries=entries)
            assert "the tables of its boot map" in text

    def test_a_table_in_a_frame_that_leads_to_a_large_component(self, write, signers):
        """What lies in the room moves with the next seal, and what is larger than the room cannot."""
        path = write(disk())
        seal_file(path, signers["C"])  # adapts the parameters, so that their table lies in the room
        content = bytearray(path.read_bytes())
        view = inspect(Disk(str(path))).programs[0]
        entries = {
            int.from_bytes(content[at + 24 : at + 32], "big"): at
            for at in range(view.table_block * 512 + 32, view.table_block * 512 + 512, 32)
            if content[at + 23] == 2
        }
        table = int.from_bytes(content[entries[PARAMETERS] :][:8], "big")
        assert table < FIRST
        # The RAM disk, which may have any length, gets this table, and the table a long run.
        here, there = entries[PARAMETERS], entries[0x50000]
        content[here : here + 16], content[there : there + 16] = content[there : there + 16], content[here : here + 16]
        struct.pack_into(">QHHI", content, table * 512, FIRST, 512, FIRST + 1, 0)
        _mend_frames(content)
        path.write_bytes(content)
        assert "larger than the room" in refused(SealReason.NO_GAP, path, signers["A"])


class TestRoom:
    def test_no_partition_table(self, write, signers):
        image = disk()
        image[510:512] = b"\0\0"
        refused(SealReason.NO_PARTITION_TABLE, write(image), signers["A"])

    def test_no_room_at_all(self, write, signers):
        refused(SealReason.NO_GAP, write(disk(first=1)), signers["A"])

    def test_too_little_room_and_just_enough(self, write, signers):
        path = write(disk(first=12))
        assert "12 blocks are needed" in refused(SealReason.NO_GAP, path, signers["C"])
        seal_file(write(disk(first=13)), signers["C"])
        refused(SealReason.NO_GAP, write(disk(first=8)), signers["A"])
        path = write(disk(first=9))
        seal_file(path, signers["A"])
        assert judge(path, signers["A"]).boots
        # There is none for a second one beside the first.
        refused(SealReason.NO_GAP, path, signers["B"])
        unseal_file(path)
        seal_file(path, signers["B"])
        assert judge(path, signers["B"]).boots

    def test_overlapping_partitions(self, write, signers):
        image = disk()
        struct.pack_into("<B3xB3xII", image, 462, 0, 0x83, FIRST + 3, 10)
        refused(SealReason.PARTITIONS_OVERLAP, write(image), signers["A"])

    @pytest.mark.parametrize("at", [512, 513, FIRST * 512 - 1])
    def test_a_byte_of_somebody_else(self, write, signers, at):
        image = disk()
        image[at] = 1
        text = refused(SealReason.GAP_NOT_EMPTY, write(image), signers["A"])
        assert f"{at - at % 512:#x}" in text

    def test_what_is_booted_from_the_gap_is_not_overwritten(self, write, signers):
        """A component of zeros looks like free room."""
        image = disk()
        view = inspect(Disk(str(write(image))))
        (heap,) = [c for c in view.programs[0].components if c.address == 0x2000]
        at = image.index(struct.pack(">QHHI", heap.runs[0].block, 512, heap.runs[0].blocks - 1, 0))
        struct.pack_into(">Q", image, at, 20)
        refused(SealReason.GAP_IN_USE, write(image), signers["A"])

    def test_a_boot_map_in_front_of_the_partition(self, write, signers):
        """The room is full, and what is in it is named."""
        image = disk(first=1, blocks=1000)
        write_partition_table(image, [Partition(0x83, 500, 500)])
        refused(SealReason.GAP_IN_USE, write(image), signers["A"])

    def test_what_is_left_out_is_not_overwritten_either(self, write, signers):
        image = disk([program(), program(linux(seed=3), heap=Load(0x3000, bytes(512)))])
        view = inspect(Disk(str(write(image))))
        (heap,) = [c for c in view.programs[1].components if c.address == 0x3000]
        at = image.index(struct.pack(">QHHI", heap.runs[0].block, 512, 0, 0))
        struct.pack_into(">Q", image, at, 20)
        refused(SealReason.GAP_IN_USE, write(image), signers["A"], entries=frozenset({0}))


class TestHost:
    def test_a_file_that_cannot_be_opened_for_writing(self, write, signers, monkeypatch):
        """For whoever runs the tests, the superuser too."""
        path = write(disk())
        real = os.open

        def read_only(name, flags, *more, **how):
            if flags & os.O_RDWR:
                raise OSError(30, "Read-only file system")
            return real(name, flags, *more, **how)

        monkeypatch.setattr(os, "open", read_only)
        with pytest.raises(SealRefused, match="Read-only file system") as caught:
            seal_file(path, signers["A"])
        assert caught.value.reason is SealReason.IMAGE_NOT_WRITABLE

    def test_a_dry_run_needs_no_right_to_write(self, write, signers, monkeypatch):
        path = write(disk())
        real = os.open

        def read_only(name, flags, *more, **how):
            if flags & os.O_RDWR and os.fspath(name) == str(path):
                raise OSError(30, "Read-only file system")
            return real(name, flags, *more, **how)

        monkeypatch.setattr(os, "open", read_only)
        assert not seal_file(path, signers["A"], dry_run=True).done

    def test_a_result_that_does_not_verify_is_taken_back(self, write, signers, monkeypatch):
        """Should the file not hold what was tried, the former record is put back."""
        import sipl.author.sealing as sealing

        image = disk()
        path = write(image)
        real = sealing.verify

        def fails_on_the_file(disk, settings, image=None):
            report = real(disk, settings, image=image)
            return report if image is not None else report._replace(would_boot=False)

        monkeypatch.setattr(sealing, "verify", fails_on_the_file)
        with pytest.raises(SealRefused) as caught:
            seal_file(path, signers["A"])
        assert caught.value.reason is SealReason.WOULD_NOT_BOOT
        assert path.read_bytes()[:512] == bytes(image[:512])

    def test_writes_that_are_lost_are_noticed_before_block_0(self, write, signers, monkeypatch):
        image = disk()
        path = write(image)
        import sipl.disk.writable_file as writable_file

        monkeypatch.setattr(writable_file, "_write_at", lambda fd, data, offset: len(data))
        with pytest.raises(ImageError, match="block 0 was not touched"):
            seal_file(path, signers["A"])
        assert path.read_bytes() == image

    def test_another_boot_record_since_the_plan(self, write, signers):
        from sipl.author.seal import SealRequest, carry_out, plan_seal
        from sipl.disk.open_writer import open_writer

        path = write(disk())
        with open_writer(str(path)) as image:
            request = SealRequest(None, frozenset(), None, seal_lab.AT)
            plan = plan_seal(image, 512, signers["A"].signer, request, lambda _: None)
            image.write_from(0x20, memoryview(b"x"))
            with pytest.raises(ImageError, match="block 0 has changed"):
                carry_out(plan, image)
        assert path.read_bytes()[512 : FIRST * 512] == bytes((FIRST - 1) * 512)


BASE = bytes(disk([program(), program(linux(seed=2))], table="gpt"))
# Where a change is likely to matter: tables, pointers, the ends of components.
TABLES = [at for at in range(0, len(BASE), 16) if 0 < len(BASE[at : at + 16].strip(b"\0")) < 12]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(TABLES), st.integers(0, 15), st.binary(min_size=1, max_size=8)), max_size=3
    ),
    sealed=st.booleans(),
)
def test_any_disk(tmp_path, signers, changes, sealed):
    """Sealed, and then it boots and nothing else changed; or refused by name, and nothing changed at all."""
    path = tmp_path / "disk.raw"
    path.write_bytes(BASE)
    if sealed:
        seal_file(path, signers["A"])
    content = bytearray(path.read_bytes())
    for start, within, data in changes:
        content[start + within : start + within + len(data)] = data
    path.write_bytes(content)
    try:
        seal_file(path, signers["B"])
    except SealRefused:
        assert path.read_bytes() == content
        return
    assert seal_lab.same_outside(bytes(content), path, 512, FIRST)
    assert judge(path, signers["B"], memory=2 << 30).boots
    unseal_file(path)
    assert path.read_bytes()[FIRST * 512 :] == content[FIRST * 512 :]
