"""H12: what zipl's stage3 will refuse is said before it is entered and halts without a word."""

from __future__ import annotations

import struct

import pytest
from ipl_lab import GLOBAL, HANDS_OVER, KERNEL, LOADER, PARAMETERS, PSW, PSW_MASK, Load, kernel_bytes, verdict

STAGE3_SIZE = 0x4000
SCSI = 0x0001000000000000
KDUMP = 0x0002000000000000
KERNEL_PSW = 0x0008000080010000
TRAILER = 40  # what sign-file appends behind the signature
FIELDS = (
    "parmline",
    "initrd",
    "initrd_length",
    "kernel_psw",
    "extra",
    "flags",
    "kernel_length",
    "kernel",
    "environment",
    "environment_length",
)


@pytest.fixture
def stage3(lab):
    """Builds a program as zipl writes it; named fields of stage3's parameters and parts of the program are changed."""
    kernel = lab.kernel()

    def build(
        by="A",
        size=STAGE3_SIZE,
        at=LOADER,
        psw=PSW,
        loader_flags=GLOBAL,
        parts=None,
        parameters_at=PARAMETERS,
        **fields,
    ):
        used = (parts or {}).get("kernel", kernel)
        file_length = len(kernel.data) + len(kernel.signature) + TRAILER
        if used is not None and used.signature is not None:
            file_length = len(used.data) + len(used.signature) + TRAILER
        values = {
            "kernel_psw": KERNEL_PSW,
            "flags": SCSI,
            "kernel_length": file_length,
            "kernel": KERNEL,
            "parmline": 0x9CC000,
            "initrd": 0x20000,
            "initrd_length": 512,
            "environment": 0xFFFFFFFFFFFFFFFF,
        } | fields
        data = struct.pack(">10Q", *(values.get(name, 0) for name in FIELDS))
        loader = lab.loader(
            size=size,
            at=at,
            by=by,
            flags=loader_flags,
            address=at if loader_flags & 0x4000 else 0,
            psw=psw if loader_flags & 0x8000 else 0,
        )
        chosen = {"heap": None, "loader": loader, "parameters": Load(parameters_at, data), "kernel": kernel} | (
            parts or {}
        )
        return lab.program(psw=psw, **chosen)

    return build


def predictions(report):
    return [(str(f.level), f.message) for f in report.findings if f.reason == "loader-will-refuse"]


def says(lab, program, *words):
    """All three ways in which a prediction shows: information, warning, and the verdict of `verify`."""
    disk = lab.disk(program)
    audit, secure, judged = lab.boot(disk, mode="audit"), lab.boot(disk), lab.verify(disk)
    assert verdict(audit) == verdict(secure) == verdict(judged) == HANDS_OVER
    assert [level for level, _ in predictions(audit)] == ["info"]
    assert [level for level, _ in predictions(secure)] == ["warning"]
    assert [level for level, _ in predictions(judged)] == ["warning"]
    assert secure.would_boot is True
    assert judged.would_boot is False
    assert judged.exit_code == 1
    ((_, message),) = predictions(secure)
    for word in words:
        assert word in message


def silent(lab, program, secure=HANDS_OVER):
    disk = lab.disk(program)
    for report in (lab.boot(disk, mode="audit"), lab.boot(disk), lab.verify(disk)):
        assert predictions(report) == []
    assert verdict(lab.boot(disk)) == secure
    assert lab.verify(disk).would_boot is (secure == HANDS_OVER)


# what stage3 refuses, or would not carry out as verified


@pytest.mark.parametrize("address", [0, 0x10010, 0x20000, 0xFFFFFFFFFFFFFFFF])
def test_h12_kernel_address(lab, stage3, address):
    says(lab, stage3(kernel=address), "0x10000", f"{address:#x}")


@pytest.mark.parametrize("psw", [0, KERNEL_PSW + 0x10, KERNEL_PSW & ~0x80000000, KERNEL_PSW | 1 << 63])
def test_h12_kernel_psw(lab, stage3, psw):
    says(lab, stage3(kernel_psw=psw), f"{psw:#018x}")


def test_h12_kernel_without_signature(lab, stage3):
    says(lab, stage3(parts={"kernel": Load(KERNEL, kernel_bytes())}), "no verified component")


def test_h12_no_kernel_at_all(lab, stage3):
    says(lab, stage3(parts={"kernel": None}), "no verified component")


def test_h12_verified_kernel_somewhere_else(lab, stage3):
    says(lab, stage3(parts={"kernel": lab.kernel(at=0x30000)}), "no verified component")


def test_h12_kernel_that_does_not_verify(lab, stage3):
    """In secure mode it never comes to the loader; in audit mode the prediction is information."""
    disk = lab.disk(stage3(parts={"kernel": lab.kernel(by="B")}))
    audit = lab.boot(disk, mode="audit")
    assert verdict(audit) == HANDS_OVER
    assert [level for level, _ in predictions(audit)] == ["info"]
    assert verdict(lab.boot(disk)) == ("stops", "signature-not-verified")
    assert lab.verify(disk).would_boot is False


@pytest.mark.parametrize("difference", [-2048, -513, -512, 1, 512, 1 << 20, 1 << 40])
def test_h12_kernel_length(lab, stage3, difference):
    """By this unsigned length stage3 moves the kernel: less leaves a part behind, more moves what was not verified."""
    kernel = lab.kernel()
    length = len(kernel.data) + len(kernel.signature) + TRAILER + difference
    says(lab, stage3(parts={"kernel": kernel}, kernel_length=length), str(length))


@pytest.mark.parametrize("difference", [0, -1, -511])
def test_h12_kernel_length_that_fits(lab, stage3, difference):
    """The component is whole blocks, the file need not be."""
    kernel = lab.kernel()
    length = len(kernel.data) + len(kernel.signature) + TRAILER + difference
    silent(lab, stage3(parts={"kernel": kernel}, kernel_length=length))


# what makes a program one of stage3: without it nothing is predicted


@pytest.mark.parametrize("fields", [{}, {"flags": 0}, {"flags": KDUMP}, {"flags": SCSI | KDUMP}, {"extra": 1}])
def test_h12_good(lab, stage3, fields):
    silent(lab, stage3(**fields))


WRONG = {"kernel": 0x4711}  # stage3 would refuse it


@pytest.mark.parametrize("fields", [{"flags": SCSI}, {"flags": KDUMP}, {"flags": 0}, {"extra": 1}, {"extra": 0}])
def test_h12_found(lab, stage3, fields):
    says(lab, stage3(**WRONG, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": 2},
        {"extra": 1 << 63},
        {"flags": SCSI | 1},
        {"flags": 0x0004000000000000},
        {"flags": 1 << 63},
        {"size": STAGE3_SIZE - 512},
        {"size": STAGE3_SIZE + 512},
        {"psw": PSW + 2},
        {"psw": PSW & ~0x80000000},
        {"parameters_at": 0x8000},
        {"parts": {"parameters": None}},
    ],
    ids=str,
)
def test_h12_not_found(lab, stage3, fields):
    kernel = lab.kernel(at=0x30000)
    fields = {"parts": {}} | fields
    fields["parts"] = {"kernel": kernel} | fields["parts"]
    silent(lab, stage3(**WRONG, **fields))


def test_h12_loader_at_another_place_is_not_stage3(lab, stage3):
    program = stage3(at=0x40000, psw=PSW_MASK | 0x40000, **WRONG)
    silent(lab, program)


def test_h12_the_global_sclab_must_be_the_loaders(lab, stage3):
    """The right component at the right place, but the global SCLAB is the kernel's."""
    kernel = lab.kernel(flags=GLOBAL, psw=PSW, address=KERNEL)
    silent(lab, stage3(loader_flags=0, parts={"kernel": kernel}, **WRONG))


def test_h12_memory_counts_not_the_order_of_components(lab, stage3):
    """What stage3 will find at 0x9000 is judged, also where a later component brings it."""
    program = stage3()
    bad = stage3(**WRONG)[1]
    assert bad.address == PARAMETERS
    says(lab, [*program[:-1], bad, program[-1]])


def test_h12_verify_in_audit_mode_only_informs(lab, stage3):
    report = lab.verify(lab.disk(stage3(**WRONG)), mode="audit")
    assert [level for level, _ in predictions(report)] == ["info"]
