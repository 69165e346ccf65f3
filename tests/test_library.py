"""`import sipl`: the same as the command line in a few lines, typed and documented."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import sipl
from sipl.author.demo import make_demo

ROOT = Path(__file__).resolve().parent.parent
AT = 1_800_000_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(str(tmp_path_factory.mktemp("demo")), AT)


@pytest.fixture
def settings(demo):
    return sipl.Settings(machine=sipl.MachineOptions(boot_certs=(demo.certificate,)), at=AT)


class TestNames:
    @pytest.mark.parametrize("name", sipl.__all__)
    def test_is_there(self, name):
        assert getattr(sipl, name) is not None
        assert name in dir(sipl)

    @pytest.mark.parametrize("name", [name for name in sipl.__all__ if not name.startswith("_")])
    def test_is_documented(self, name):
        text = inspect.getdoc(getattr(sipl, name))
        assert text
        # What a named tuple or an enumeration says of itself if nobody else does.
        assert not text.startswith((f"{name}(", "An enumeration"))

    def test_all_is_sorted_and_complete(self):
        # The order of the linter: constants, classes, then the rest.
        assert len(set(sipl.__all__)) == len(sipl.__all__)
        assert set(sipl.__all__) == {
            "__version__",
            *(name for names in sipl._PLACES.values() for name in names.split()),
        }

    def test_star_import(self):
        names: dict = {}
        exec("from sipl import *", names)
        assert set(sipl.__all__) <= set(names)

    def test_unknown_name(self):
        with pytest.raises(AttributeError, match="'sipl' has no attribute 'frob'"):
            sipl.frob  # noqa: B018 -- the access is the test

    def test_what_type_checkers_see_is_what_there_is(self):
        """The imports for type checkers name the modules from which the names come at run time."""
        import ast

        tree = ast.parse(Path(sipl.__file__).read_text("utf-8"))
        (block,) = [
            node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ]
        seen = {
            alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        assert seen == {name: module for module, names in sipl._PLACES.items() for name in names.split()}


class TestUse:
    def test_the_example_of_the_package(self, demo, settings):
        report = sipl.verify(sipl.Disk(demo.disk), settings)
        assert report.would_boot
        assert (report.mode, report.outcome, report.exit_code) == (sipl.Mode.SECURE, sipl.Outcome.HANDS_OVER, 0)
        assert [finding.level for finding in report.findings] == [sipl.Level.INFO] * 2

    def test_boot(self, demo, settings):
        secure = settings._replace(machine=settings.machine._replace(secure_boot=True))
        report = sipl.boot([sipl.Disk(demo.disk)], secure)
        assert report == sipl.verify(sipl.Disk(demo.disk), settings)
        assert isinstance(report, sipl.Report)
        assert all(isinstance(component, sipl.ComponentReport) for component in report.components)
        assert all(isinstance(certificate, sipl.CertificateReport) for certificate in report.certificates)
        assert all(isinstance(device, sipl.DeviceReport) for device in report.devices)
        assert all(isinstance(finding, sipl.FindingReport) for finding in report.findings)

    def test_inspect(self, demo):
        view = sipl.inspect(sipl.Disk(demo.disk))
        assert isinstance(view, sipl.BootMapView)
        assert [component.address for component in view.programs[0].components] == [
            0x2000,
            0xF000,
            0xA000,
            0x10000,
            0x11000,
        ]

    def test_certificates(self, demo):
        (view,) = sipl.certificates([demo.certificate], AT)
        assert isinstance(view, sipl.CertificateView)
        assert (view.number, view.subject, view.valid) == (1, "CN=sipl demo", True)

    def test_certificates_warn(self, tmp_path):
        (tmp_path / "notes").write_text("")
        warnings = []
        assert sipl.certificates([str(tmp_path)], warn=lambda *warning: warnings.append(warning)) == ()
        assert [(reason, where) for reason, where, *_ in warnings] == [
            (sipl.Reason.CERTIFICATE_SKIPPED, str(tmp_path / "notes"))
        ]

    def test_defaults(self, demo):
        report = sipl.boot([sipl.Disk(demo.disk)])
        assert (report.mode, report.outcome) == (sipl.Mode.NORMAL, sipl.Outcome.HANDS_OVER)

    def test_names_are_plain_strings_too(self, demo):
        report = sipl.verify(sipl.Disk(demo.disk))
        assert report.reason == "no-certificate"
        assert f"{report.outcome}/{report.mode}/{report.reason}" == "stops/secure/no-certificate"


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "bases"),
        [
            (sipl.UsageError, (sipl.SiplError,)),
            (sipl.UndecidedError, (sipl.SiplError,)),
            (sipl.ImageError, (sipl.UndecidedError, OSError)),
            (sipl.ImageFormatError, (sipl.UndecidedError, ValueError)),
        ],
    )
    def test_family(self, error, bases):
        assert all(issubclass(error, base) for base in bases)

    def test_say_where_why_and_what_to_do(self):
        error = sipl.ImageError("disk\x1b.raw", "is\nbad", "mend it")
        assert (error.where, error.why, error.hint) == ("disk\\x1b.raw", "is\\x0abad", "mend it")
        assert str(error) == "disk\\x1b.raw: is\\x0abad (mend it)"
        assert str(sipl.SiplError("", "why")) == "why"
        assert str(sipl.SiplError("where", "why")) == "where: why"

    def test_inspect_raises_what_boot_reports(self, tmp_path):
        with pytest.raises(sipl.ImageError, match="missing"):
            sipl.inspect(sipl.Disk(str(tmp_path / "missing")))

    def test_certificates_raise_a_reason(self, tmp_path):
        with pytest.raises(sipl.SiplError) as caught:
            sipl.certificates([str(tmp_path / "missing.pem")])
        assert caught.value.reason == sipl.Reason.CERTIFICATE_PATH


GOOD = """
from collections.abc import Sequence

import sipl

def first(entries: Sequence[int], timeout: int) -> int:
    return entries[0]

settings = sipl.Settings(
    machine=sipl.MachineOptions(secure_boot=True, boot_certs=("cert.pem",), loadparm="1"),
    cpu="z16,sipl=on",
    at=5,
    choose=first,
)
disks = [sipl.Disk("disk.raw", sipl.DeviceKind.VIRTIO_SCSI, block_size=4096)]
report: sipl.Report = sipl.boot(disks, settings)
verified: sipl.Report = sipl.verify(disks[0], settings, sipl.Mode.AUDIT)
would: bool | None = report.would_boot
code: int = report.exit_code
for finding in report.findings:
    text: str = f"{finding.reason}: {finding.message} {finding.hint}"
    if finding.component is not None:
        digest: str | None = report.components[finding.component].digest
view: sipl.BootMapView = sipl.inspect(disks[0], allow_backing=True)
blocks: list[int] = [run.block for program in view.programs for part in program.components for run in part.runs]
names: list[str] = [certificate.subject for certificate in sipl.certificates(["cert.pem"])]
try:
    sipl.inspect(disks[0])
except sipl.UndecidedError as error:
    reason: sipl.Reason = error.reason
version: str = sipl.__version__
"""

WRONG = {
    "no such name": "import sipl\nsipl.frob",
    "text for disks": "import sipl\nsipl.boot('disk.raw')",
    "text for a mode": "import sipl\nsipl.verify(sipl.Disk('x'), sipl.Settings(), 'secure')",
    "bool of would_boot": "import sipl\nx: bool = sipl.boot([]).would_boot",
    "no such field": "import sipl\nsipl.boot([]).verdict",
    "no such setting": "import sipl\nsipl.Settings(secure_boot=True)",
}


def mypy(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "program.py"
    path.write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", str(path)],
        cwd=folder,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "MYPY_CACHE_DIR": str(folder.parent / "mypy")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_typed_use_is_accepted(tmp_path):
    done = mypy(GOOD, tmp_path)
    assert (done.stdout, done.returncode) == ("", 0)


def test_wrong_use_is_found_by_the_type_checker(tmp_path):
    lines = []
    source = ""
    for text in WRONG.values():
        source += text + "\n"
        lines.append(source.count("\n"))
    done = mypy(source, tmp_path)
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line}
    assert found == set(lines), done.stdout
