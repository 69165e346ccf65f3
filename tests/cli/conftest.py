"""Running the command line: in this process, as a process of its own, and on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from sipl.author.demo import flip_byte, make_demo
from sipl.cli.main import run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

import cli_lab
import ipl_lab
from cli_lab import AT, Result


@pytest.fixture
def sipl(capsys):
    """Run a command line in this process."""

    def call(*words: object) -> Result:
        code = run([str(word) for word in words])
        written = capsys.readouterr()
        return Result(code, written.out, written.err)

    return call


@pytest.fixture
def sipl_process():
    """Run a command line as a process of its own; standard input is empty."""

    def call(*words: object, env: dict[str, str] | None = None, **how) -> Result:
        done = subprocess.run(
            cli_lab.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=cli_lab.environment(**(env or {})),
            timeout=cli_lab.PATIENCE,
            check=False,
            **how,
        )
        return Result(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))

    return call


@pytest.fixture
def terminal():
    return cli_lab.Terminal


@pytest.fixture
def start():
    """Start a command line and leave it to the test; what still runs when the test has failed is killed."""

    @contextmanager
    def call(*words: object, **how):
        process = subprocess.Popen(cli_lab.command(*words), env=cli_lab.environment(), **how)
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        finally:
            process.__exit__(None, None, None)

    return call


class Demo(NamedTuple):
    """The demo disk, whose certificate is valid at `AT`."""

    disk: str
    certificate: str

    @property
    def secure(self) -> tuple[str, ...]:
        """Options of a secure IPL."""
        return ("--secure-boot", "on", "--boot-certs", self.certificate, "--at", AT)

    @property
    def trusted(self) -> tuple[str, ...]:
        """Options that let `verify` say yes."""
        return ("--boot-certs", self.certificate, "--at", AT)


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Demo:
    files = make_demo(str(tmp_path_factory.mktemp("demo")), ipl_lab.AT)
    return Demo(files.disk, files.certificate)


@pytest.fixture(scope="session")
def signers(tmp_path_factory):
    return ipl_lab.Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture
def lab(tmp_path, signers):
    return ipl_lab.Lab(tmp_path, signers)


@pytest.fixture
def bad(demo, tmp_path) -> str:
    """A copy of the first MiB of the demo disk with one byte of the kernel changed."""
    path = tmp_path / "bad.raw"
    with open(demo.disk, "rb") as disk:
        path.write_bytes(disk.read(1 << 20))
    flip_byte(str(path))
    return str(path)


@pytest.fixture
def signed(tmp_path, signers, need_tool):
    """Makes a disk with a guest for QEMU, signed, and a signed kernel beside it; gives its path."""
    if not os.environ.get("SIPL_QEMU"):
        need_tool("qemu-system-s390x", "qemu-system-misc")
    from guest_lab import GuestLab

    lab = GuestLab(tmp_path, signers)

    def make(asm):
        kernel = lab.signed(ipl_lab.KERNEL, ipl_lab.kernel_bytes())
        return lab.disk(lab.components(bytes(asm.code), extra=[kernel]), size=1 << 20).path

    return make


@pytest.fixture
def machine(signers):
    """Words of a machine in secure mode."""
    return ("-machine", f"s390-ccw-virtio,secure-boot=on,boot-certs.0.path={signers['A'].path}", "--at", AT)
