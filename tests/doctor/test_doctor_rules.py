"""One disk per trouble: what the doctor calls it, whom it blames, and what it wants to be done."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from ipl_lab import AT, GLOBAL, HEAP, INITRD, KERNEL, LOADER, PARAMETERS, YEAR, Load, code, kernel_bytes, loader_bytes
from stage3_lab import program_with_unsigned_kernel

from sipl.author.boot_record import DiskWriter, Execute
from sipl.crypto import signing
from sipl.diagnosis import diagnose
from sipl.layout.boot_record import BlockPointer
from sipl.layout.module_signature import MODULE_SIGNATURE_MARKER, ModuleSignature
from sipl.layout.record import pack
from sipl.layout.sclab import SclabFlags

KERNEL_AT = 3  # position of the kernel in the base program


def appended(payload: bytes, signature: bytes) -> bytes:
    """A file as sign-file makes it."""
    return payload + signature + pack(ModuleSignature(0, 0, 2, 0, 0, len(signature))) + MODULE_SIGNATURE_MARKER


def names(diagnosis):
    return [problem.name for problem in diagnosis.problems]


def commands(diagnosis):
    return [step.command for step in diagnosis.steps]


def only(diagnosis):
    """The one problem that is an error."""
    (problem,) = [problem for problem in diagnosis.problems if problem.level == "error"]
    return problem


SIGN_KERNEL = "sipl sign --key key.pem --cert cert.pem /boot/vmlinuz"
ZIPL = "zipl --secure 1"


def test_good(lab, doctor):
    diagnosis = doctor(lab.program())
    assert (diagnosis.would_boot, diagnosis.exit_code, diagnosis.problems, diagnosis.steps) == (True, 0, (), ())
    assert [(v.part, v.certificate) for v in diagnosis.verified] == [("loader", "A.pem"), ("kernel", "A.pem")]
    assert diagnosis.unsigned == ("parameters", "heap", f"component at {INITRD:#x}")
    assert diagnosis.closed is False


def test_no_certificate(lab, doctor):
    problem = only(doctor(lab.program(), certs=()))
    assert (problem.name, problem.parts) == ("no-certificate", ("loader", "kernel"))
    assert len(problem.details) == 1
    assert problem.details[0].startswith("signed by CN=sipl test A, serial number 0x")
    assert "if you trust it" in problem.steps[0].what


def test_no_certificate_and_a_program_of_the_menu(lab, doctor):
    """The signers are those of the program that would boot, not of the default."""
    writer = DiskWriter(512)

    def table(signer):
        program = lab.program(loader=lab.loader(by=signer), kernel=lab.kernel(by=signer))
        return writer.append_component_table([e for c in program for e in writer.add_component(c)])

    writer.write_boot_record(writer.append_program_table([table("A"), table("B")]))
    disk = lab.disk(bytes(writer.finish()))
    assert "sipl test A" in only(doctor(disk, certs=())).details[0]
    assert "sipl test B" in only(doctor(disk, certs=(), loadparm="1")).details[0]


@pytest.mark.parametrize("certs", [("A",), ()])
def test_nothing_is_signed(lab, doctor, certs):
    program = lab.program(loader=Load(LOADER, loader_bytes()), kernel=Load(KERNEL, kernel_bytes()))
    diagnosis = doctor(program, certs=certs)
    problem = diagnosis.problems[0]
    assert (problem.name, problem.parts) == ("not-signed", ("loader", "kernel"))
    assert commands(diagnosis)[:3] == [
        "sipl sign --key key.pem --cert cert.pem /lib/s390-tools/stage3.bin",
        SIGN_KERNEL,
        ZIPL,
    ]
    assert names(diagnosis) == ["not-signed", *(["no-certificate"] if not certs else []), "no-gap"]
    assert "no partition table" in diagnosis.problems[-1].what


def test_the_loader_will_refuse_an_unsigned_kernel(lab, doctor):
    for certs in (("A",), ()):
        problem = doctor(program_with_unsigned_kernel(lab), certs=certs).problems[0]
        assert (problem.name, problem.parts) == ("not-signed", ("kernel",))
        assert "loader would refuse" in problem.what
        assert "loader-will-refuse" in problem.reasons


def test_an_unsigned_kernel_that_boots_is_no_problem(lab, doctor):
    diagnosis = doctor(lab.program(kernel=Load(KERNEL, kernel_bytes())))
    assert (diagnosis.would_boot, diagnosis.problems) == (True, ())
    assert diagnosis.unsigned[0] == "kernel"


def test_unknown_signer(lab, doctor):
    problem = only(doctor(lab.program(kernel=lab.kernel(by="B"))))
    assert (problem.name, problem.parts, problem.components) == ("signer-unknown", ("kernel",), (KERNEL_AT,))
    assert "signed by CN=sipl test B, serial number 0x" in problem.what
    (tried,) = problem.details
    assert tried.startswith("tried A.pem: CN=sipl test A, serial number 0x")
    assert problem.steps[0].command == "--boot-certs FILE.pem"
    assert SIGN_KERNEL in problem.steps[0].instead


@pytest.mark.parametrize(
    ("name", "first", "last", "says"),
    [
        ("expired", AT - 2 * YEAR, AT - YEAR, "expired at"),
        ("not-yet-valid", AT + YEAR, AT + 2 * YEAR, "not valid before"),
    ],
)
def test_certificate_at_the_wrong_time(lab, doctor, name, first, last, says):
    lab.signers.make(name, signing.generate_key("p256"), first, last)
    problem = only(doctor(lab.program(loader=lab.loader(by=name), kernel=lab.kernel(by=name)), certs=(name, "A")))
    assert (problem.name, problem.parts) == (f"certificate-{name}", ("loader", "kernel"))
    assert f"whose certificate {name}.pem does not count: {says}" in problem.what


def test_key_usage(lab, doctor, data, tmp_path):
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from sipl.crypto.certificate import Certificate

    folder = data / "crypto"
    key = load_pem_private_key((folder / "rsa2048.key").read_bytes(), None)
    certificate = Certificate.from_pem((folder / "usage-certsign.pem").read_bytes())
    kernel = kernel_bytes()
    program = lab.program(kernel=Load(KERNEL, kernel, signing.sign_detached(kernel, key, certificate)))
    at = certificate.not_before + 1
    disk = lab.disk(program)
    diagnosis = diagnose(disk, lab.settings(certs=("A", str(folder / "usage-certsign.pem")), at=at))
    assert "certificate-key-usage" in names(diagnosis)


def test_malformed_signature(lab, doctor):
    problem = only(doctor(lab.program(kernel=Load(KERNEL, kernel_bytes(), b"no signature"))))
    assert problem.name == "signature-unusable"
    assert "malformed DER" in problem.what
    assert [step.command for step in problem.steps] == [SIGN_KERNEL, ZIPL]


def test_signature_that_is_too_large(lab, doctor):
    diagnosis = doctor(lab.program(kernel=Load(KERNEL, kernel_bytes(), bytes(5000))))
    assert only(diagnosis).name == "signature-unusable"
    assert "4096 bytes" in only(diagnosis).what
    assert "signature-too-large" in only(diagnosis).reasons


class TestSignedTwice:
    @staticmethod
    def disk(lab, block_size=512, by="A", part="kernel", old="A"):
        """What zipl makes of a file that was signed twice: it takes off the outer signature."""
        size = 4 * block_size
        make, address = (kernel_bytes, KERNEL) if part == "kernel" else (loader_bytes, LOADER)
        payload = make(size)
        inner = appended(payload, lab.signers[old].sign(payload))
        component = Load(address, inner, lab.signers[by].sign(inner))
        return lab.disk(lab.program(block_size=block_size, **{part: component}), block_size)

    @pytest.mark.parametrize("block_size", [512, 4096])
    @pytest.mark.parametrize("part", ["kernel", "loader"])
    def test_is_told(self, lab, doctor, block_size, part):
        problem = only(doctor(self.disk(lab, block_size, part=part)))
        assert (problem.name, problem.parts) == ("signed-twice", (part,))
        assert [step.command.split()[:2] for step in problem.steps] == [
            ["sipl", "strip"],
            ["sipl", "sign"],
            ["zipl", "--secure"],
        ]
        # The disk pads what was signed.
        assert "A.pem verifies its first" in problem.details[0]

    def test_the_signer_does_not_matter(self, lab, doctor):
        assert only(doctor(self.disk(lab, by="B"))).name == "signed-twice"
        assert "no-certificate" in names(doctor(self.disk(lab), certs=()))
        assert "signed-twice" in names(doctor(self.disk(lab), certs=()))

    def test_an_older_signature_that_the_disk_cuts(self, lab, doctor):
        """Blocks of the file itself: those of the outer signature are left out, and the inner one is cut."""
        payload = kernel_bytes(2048)
        lab.signers.make("R", signing.generate_key("rsa4096"))
        inner = lab.signers["R"].sign(payload)
        component = payload + appended(b"", inner)[:512]
        assert MODULE_SIGNATURE_MARKER not in component
        program = lab.program(kernel=Load(KERNEL, component, lab.signers["R"].sign(appended(payload, inner))))
        assert only(doctor(program, certs=("A", "R"))).name == "signed-twice"

    def test_without_signature_entries(self, lab, doctor):
        payload = loader_bytes(1024)
        program = lab.program(loader=Load(LOADER, appended(payload, lab.signers["A"].sign(payload))))
        assert "signed-twice" in names(doctor(program))
        assert "zipl --secure 1" in commands(doctor(program))


class TestPadding:
    @staticmethod
    def disk(lab, size=1500, by="A", signed=None, part="kernel"):
        make, address = (kernel_bytes, KERNEL) if part == "kernel" else (loader_bytes, LOADER)
        payload = make(size)
        component = Load(address, payload, lab.signers[by].sign(payload if signed is None else signed(payload)))
        return lab.disk(lab.program(**{part: component}))

    @pytest.mark.parametrize("part", ["kernel", "loader"])
    @pytest.mark.parametrize("size", [1500, 1535, 1025])
    def test_zeros(self, lab, doctor, part, size):
        problem = only(doctor(self.disk(lab, size, part=part)))
        assert (problem.name, problem.parts) == ("padded", (part,))
        assert f"{size} bytes, no multiple of the block size 512: the disk loads {1536 - size} zeros" in problem.what
        assert problem.details == (f"A.pem verifies its first {size} bytes; the disk loads 1536",)

    def test_signed_with_the_padding(self, lab, doctor):
        problem = only(doctor(self.disk(lab, signed=lambda payload: payload.ljust(1536, b"\0"))))
        assert (problem.name, problem.details) == ("padded", ())

    def test_start_of_its_own_signature(self, lab, doctor):
        """Blocks of the file itself: where the payload ends in a block, the signature begins in it."""
        payload = kernel_bytes(1500)
        signature = lab.signers["A"].sign(payload)
        program = lab.program(kernel=Load(KERNEL, payload + signature[:36], signature))
        problem = only(doctor(program))
        assert problem.name == "padded"
        assert "36 bytes of its signature" in problem.what
        assert problem.details == ("A.pem verifies its first 1500 bytes; the disk loads 1536",)

    def test_unknown_signer_and_padded(self, lab, doctor):
        assert only(doctor(self.disk(lab, by="B"))).name == "padded"


class TestSclabLost:
    def test_never_there(self, lab, doctor):
        problem = only(doctor(lab.program(kernel=lab.signed(KERNEL, code(2048, 7)))))
        assert (problem.name, problem.parts) == ("sclab-lost", ("kernel",))
        assert "no SCLAB" in problem.what

    def test_something_behind_it(self, lab, doctor):
        payload = loader_bytes(1000) + code(24, 3)
        problem = only(doctor(lab.program(loader=lab.signed(LOADER, payload))))
        assert (problem.name, problem.parts) == ("sclab-lost", ("loader",))
        assert problem.what.startswith("24 bytes stand behind its SCLAB")
        assert {"sclab-missing", "no-global-sclab"} <= set(problem.reasons)

    def test_the_word_in_text_is_no_sclab(self, lab, doctor):
        payload = code(1000, 5) + b"this is not a zIPL SCLAB".ljust(1048, b"\xff")
        assert "no SCLAB" in only(doctor(lab.program(kernel=lab.signed(KERNEL, payload)))).what

    def test_wrong_fields_are_left_to_the_rules_of_the_firmware(self, lab, doctor):
        diagnosis = doctor(lab.program(kernel=lab.kernel(sclab_format=1)))
        assert names(diagnosis) == ["sclab-format"]


def test_changed(lab, doctor):
    image = bytearray(lab.folder.joinpath(lab.disk(lab.program()).path).read_bytes())
    at = image.index(kernel_bytes())
    image[at + 100] ^= 1
    problem = only(doctor(bytes(image)))
    assert (problem.name, problem.parts) == ("changed", ("kernel",))
    assert "which is A.pem" in problem.details[0]
    # What was changed must not get a new signature where it lies.
    assert not any("sipl seal" in step.command for step in problem.steps)


def test_sparse_file(lab, doctor):
    """The kernel's segments: start, three holes, and then a run that begins too early."""
    writer = DiskWriter(512)
    kernel = kernel_bytes(4096)
    entries = []
    for component in lab.program(kernel=None):
        if isinstance(component, Execute):
            hole = writer.append(bytes(512))[0]
            blocks = writer.append(kernel)[0].block
            wrong = [BlockPointer(blocks, 512, 1), hole, hole, hole, BlockPointer(blocks + 1, 512, 2)]
            entries += _with_segments(writer, lab.signed(KERNEL, kernel), wrong)
        entries += writer.add_component(component)
    table = writer.append_component_table(entries)
    writer.write_boot_record(writer.append_program_table([table]))
    problem = only(doctor(bytes(writer.finish())))
    assert (problem.name, problem.parts) == ("sparse-defect", ("kernel",))
    assert "1 blocks are named twice, beside 3 that stand for holes" in problem.what
    assert "cp --sparse=never /boot/vmlinuz NEW && mv NEW /boot/vmlinuz" in commands(doctor(bytes(writer.finish())))


def _with_segments(writer, load, pointers):
    """The entries of a component, whose segment table names other blocks."""
    entries = writer.add_component(load)
    table = writer.append_segment_tables(pointers)
    return [*entries[:-1], entries[-1]._replace(segment_table=pack(table))]


def test_weak_digest(lab, doctor):
    diagnosis = doctor(lab.program(kernel=lab.signed(KERNEL, kernel_bytes(), digest="sha1")))
    assert (diagnosis.would_boot, names(diagnosis)) == (True, ["weak-signature", "no-gap"])
    assert diagnosis.problems[0].parts == ("kernel",)
    assert "SHA-1" in diagnosis.problems[0].what


def test_weak_digest_without_a_certificate(lab, doctor):
    diagnosis = doctor(lab.program(kernel=lab.signed(KERNEL, kernel_bytes(), digest="sha1")), certs=())
    assert names(diagnosis)[:2] == ["no-certificate", "weak-signature"]


def test_weak_key(lab, doctor):
    lab.signers.make("small", rsa.generate_private_key(65537, 1024))
    diagnosis = doctor(lab.program(kernel=lab.kernel(by="small")), certs=("A", "small"))
    assert "RSA-1024" in diagnosis.problems[0].what


def test_nuc_with_unsigned_components(lab, doctor):
    diagnosis = doctor(lab.program(loader=lab.loader(flags=GLOBAL | SclabFlags.NUC)))
    problem = only(diagnosis)
    assert (problem.name, problem.reasons) == ("not-signed", ("unsigned-not-allowed",))
    assert problem.parts == ("heap", "parameters", f"component at {INITRD:#x}")


def test_several_troubles_are_put_in_order(lab, doctor):
    """A file is brought in order first, then signed, then written; certificates come last."""
    payload = kernel_bytes(1500)
    program = lab.program(loader=lab.loader(by="B"), kernel=Load(KERNEL, payload, lab.signers["A"].sign(payload)))
    diagnosis = doctor(program)
    assert names(diagnosis) == ["padded", "signer-unknown"]
    assert commands(diagnosis) == ["", SIGN_KERNEL, ZIPL, "--boot-certs FILE.pem"]


def test_what_no_rule_knows_is_said_as_verify_says_it(lab, doctor):
    problem = only(doctor(lab.program(psw=0x000800008000A002)))
    assert (problem.name, problem.reasons) == ("psw-mismatch", ("psw-mismatch",))
    assert problem.steps[0].what == "run zipl again on the guest's system"


def test_a_disk_without_a_boot_record(lab, doctor):
    diagnosis = doctor(bytes(1 << 20))
    assert (names(diagnosis), diagnosis.exit_code) == (["not-a-zipl-disk"], 1)


def test_undecided(lab, doctor, tmp_path):
    diagnosis = diagnose(lab.disk(lab.program())._replace(path=str(tmp_path / "none")), lab.settings())
    assert (diagnosis.would_boot, diagnosis.exit_code, names(diagnosis)) == (None, 2, ["image-unreadable"])
    assert diagnosis.steps[0].what == "check the name"


def test_refused_to_start(lab, doctor):
    diagnosis = doctor(lab.program(), certs=("/nonexistent.pem",))
    assert (diagnosis.exit_code, names(diagnosis)) == (1, ["certificate-path"])
    assert diagnosis.steps


@pytest.mark.parametrize("kind", ["heap", "parameters", "initrd"])
def test_what_needs_no_sclab_is_not_asked_for_one(lab, doctor, kind):
    address = {"heap": HEAP, "parameters": PARAMETERS, "initrd": INITRD}[kind]
    diagnosis = doctor(lab.program(**{kind: Load(address, code(512, 1))}))
    assert (diagnosis.would_boot, diagnosis.problems) == (True, ())


def partition() -> bytes:
    """From 1 MiB to 8 MiB."""
    return struct.pack("<4xB3xII", 0x83, 2048, (8 << 20) // 512 - 2048)


def test_a_gap_that_somebody_uses(lab, doctor):
    program = lab.program(loader=Load(LOADER, loader_bytes()), kernel=Load(KERNEL, kernel_bytes()))
    image = bytearray(8 << 20)
    content = lab.folder.joinpath(lab.disk(program).path).read_bytes()
    image[: len(content)] = content
    image[446:462] = partition()
    image[510:512] = b"\x55\xaa"
    # What the boot record leads to lies in front of the partition, and is neither zero nor a seal's.
    diagnosis = doctor(bytes(image))
    assert names(diagnosis) == ["not-signed", "no-gap"]
    assert "not sipl's" in diagnosis.problems[1].what


def test_room_in_front_of_the_first_partition(lab, doctor):
    """All that zipl wrote lies in the partition: the image itself can be signed."""
    writer = DiskWriter(512)
    writer.image += bytes((1 << 20) - 512)
    program = lab.program(loader=Load(LOADER, loader_bytes()), kernel=Load(KERNEL, kernel_bytes()))
    table = writer.append_component_table([e for c in program for e in writer.add_component(c)])
    writer.write_boot_record(writer.append_program_table([table]))
    image = writer.finish(8 << 20)
    image[446:462] = partition()
    image[510:512] = b"\x55\xaa"
    disk = lab.disk(bytes(image))
    diagnosis = doctor(disk)
    assert names(diagnosis) == ["not-signed"]
    assert commands(diagnosis) == [f"sipl seal --key key.pem --cert cert.pem {disk.path}"]
    odd = lab.folder / "a disk;.img"
    odd.write_bytes(bytes(image))
    assert commands(doctor(disk._replace(path=str(odd))))[0].endswith(f" '{odd}'")
