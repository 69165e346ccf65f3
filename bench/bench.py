"""How much sipl costs, as ratios measured in one run (`make bench`).

Each row runs the two commands that it compares in turn, so that whatever else the machine does meets both, and takes
the least of several runs of each. A target that is missed is marked; nothing fails because of it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import debian
import qemu_start

from sipl import Disk, MachineOptions, Mode, Settings, boot, verify
from sipl.author import sclab
from sipl.author.boot_record import Execute, Load, Program, write_disk
from sipl.crypto import signing
from sipl.crypto.certificate import Certificate
from sipl.layout.sclab import SclabFlags
from sipl.layout.stage3 import STAGE3_ENTRY, STAGE3_PSW

RUNS = 15
KERNEL_SIZE = 10203136  # of a Debian kernel, as zipl loads it
INITRD_SIZE = 881152
IMAGE_SIZE = 24 << 20
SPARSE_SIZE = 100 << 30
BLOCK_SIZE = 512
YEAR = 365 * 24 * 3600


class Bench:
    """Files to measure with, and the rows measured so far."""

    def __init__(self, folder: Path, runs: int) -> None:
        self.folder = folder
        self.runs = runs
        self.rows: list[tuple[str, str, str, bool]] = []
        self.sipl = [sys.executable, "-m", "sipl"]
        self.environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        now = int(time.time())
        key = signing.generate_key("rsa2048")
        pem = signing.self_signed(key, "bench", now - 60, now + YEAR)
        self.certificate = folder / "cert.pem"
        self.certificate.write_bytes(pem)
        signer = Certificate.from_pem(pem)
        entry = STAGE3_PSW
        attributes = sclab.build(SclabFlags.OPSW | SclabFlags.OLA, entry, STAGE3_ENTRY)
        loader = sclab.append(os.urandom(0x3E00), attributes, BLOCK_SIZE)
        kernel = sclab.append(os.urandom(KERNEL_SIZE - BLOCK_SIZE), sclab.build(), BLOCK_SIZE)
        self.parts = []
        loads = []
        for name, address, data in (("loader", STAGE3_ENTRY, loader), ("kernel", 0x10000, kernel)):
            signature = signing.sign_detached(data, key, signer)
            (folder / name).write_bytes(data)
            (folder / f"{name}.p7s").write_bytes(signature)
            self.parts.append(name)
            loads.append(Load(address, data, signature))
        initrd = Load(0xA00000, os.urandom(INITRD_SIZE))
        self.loaded = loader + kernel + initrd.data
        image = bytes(write_disk([Program([*loads, initrd, Execute(entry)])], BLOCK_SIZE))
        self.disk = folder / "good.raw"
        self.disk.write_bytes(image.ljust(IMAGE_SIZE, b"\0"))
        self.sparse = folder / "sparse.raw"
        self.sparse.write_bytes(image)
        os.truncate(self.sparse, SPARSE_SIZE)
        self.many = folder / "many"
        self.many.mkdir()
        for number in range(63):
            other = signing.generate_key("rsa2048")
            (self.many / f"c{number:02}.pem").write_bytes(
                signing.self_signed(other, f"other {number}", now - 60, now + YEAR)
            )
        shutil.copy(self.certificate, self.many / "c63.pem")

    def row(self, what: str, figure: str, target: str, met: bool) -> None:
        self.rows.append((what, figure, target, met))
        print(f"{'ok  ' if met else 'MISS'}  {what:<66} {figure:>10}   {target}", flush=True)

    def ratio(self, what: str, ours, other, target: float) -> None:
        """Compare the least times of two callables that return seconds."""
        best = [min(times) for times in zip(*[(ours(), other()) for _ in range(self.runs)], strict=True)]
        value = best[0] / best[1]
        detail = f"({best[0] * 1e3:.1f} / {best[1] * 1e3:.1f} ms)"
        self.row(f"{what} {detail}", f"{value:.2f}", f"<= {target}", value <= target)

    def command(self, *words: str, cpu: bool = False) -> float:
        """Seconds that a command takes, wall clock or CPU."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment)
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime if cpu else wall

    def verify_command(self, disk: Path, certificates: Path) -> float:
        return self.command(*self.sipl, "verify", "--boot-certs", str(certificates), str(disk))

    def openssl(self) -> float:
        return sum(map(self._openssl, self.parts))

    def _openssl(self, part: str) -> float:
        content = str(self.folder / part)
        words = ["openssl", "cms", "-verify", "-binary", "-noverify", "-inform", "DER", "-in", f"{content}.p7s"]
        return self.command(*words, "-content", content, "-certfile", str(self.certificate), "-out", os.devnull)


def timed(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def verification_row(bench: Bench) -> None:
    """DIAGNOSE 508 on a loaded kernel against the bare digest of the same bytes where they lie."""
    from sipl.layout import diag508
    from sipl.layout.record import pack, unpack
    from sipl.machine.cert_store import CertStore
    from sipl.machine.cpu_model import parse_cpu
    from sipl.machine.ebcdic import loadparm_to_ebcdic
    from sipl.machine.machine import Machine

    store = CertStore.load([str(bench.certificate)], lambda *_: None)
    now = int(time.time())
    machine = Machine(MachineOptions(), parse_cpu("qemu"), (), store, loadparm_to_ebcdic(""), lambda: now)
    signature = (bench.folder / "kernel.p7s").read_bytes()
    machine.store(0x10000, (bench.folder / "kernel").read_bytes())
    machine.store(0x2000, signature)
    block = unpack(diag508.Svb, bytes(diag508.SVB_SIZE))._replace(
        length=diag508.SVB_SIZE, component_length=KERNEL_SIZE, component_address=0x10000,
        signature_length=len(signature), signature_address=0x2000,
    )  # fmt: skip

    def ours() -> None:
        machine.store(0x8000, pack(block))
        assert machine.diagnose(0x508, 0x8000, diag508.Subcode.VERIFY) == diag508.ResponseCode.OK

    def bare() -> None:
        with machine.memory.span(0x10000, KERNEL_SIZE) as component:
            hashlib.sha256(component).digest()

    bench.ratio("verification in process / bare SHA-256", lambda: timed(ours), lambda: timed(bare), 1.05)
    machine.close()


def whole_ipl_row(bench: Bench) -> None:
    """A whole IPL in process, reading included, against reading and digesting the same bytes: no target."""
    settings = Settings(machine=MachineOptions(boot_certs=(str(bench.certificate),), secure_boot=True))

    def ours() -> None:
        assert boot([Disk(str(bench.disk))], settings).would_boot

    def bare() -> None:
        hashlib.sha256(bench.loaded).digest()

    ours()
    best = [min(pair) for pair in zip(*[(timed(ours), timed(bare)) for _ in range(bench.runs)], strict=True)]
    bench.row(
        f"whole IPL in process / bare SHA-256 ({best[0] * 1e3:.1f} / {best[1] * 1e3:.1f} ms)",
        f"{best[0] / best[1]:.2f}", "(no target)", met=True,
    )  # fmt: skip


def memory_row(bench: Bench) -> None:
    """Peak memory of a verification beyond the loaded components."""
    code = (
        "import re, sys; from sipl.cli.main import run; run(sys.argv[1:]);"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    words = [sys.executable, "-c", code, "verify", "-q", "--boot-certs", str(bench.certificate), str(bench.disk)]
    out = subprocess.run(words, check=True, capture_output=True, text=True, env=bench.environment).stdout
    peak = int(out.split()[-1]) / 1024 - len(bench.loaded) / (1 << 20)
    bench.row("peak memory beyond the loaded components", f"{peak:.0f} MiB", "<= 60 MiB", peak <= 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each side of a row")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sipl-bench-") as name:
        bench = Bench(Path(name), given.runs)
        settings = Settings(machine=MachineOptions(boot_certs=(str(bench.certificate),)))
        assert verify(Disk(str(bench.disk)), settings, Mode.SECURE).would_boot
        bench.verify_command(bench.disk, bench.certificate)  # compiled modules belong to a set-up
        verification_row(bench)
        whole_ipl_row(bench)
        if shutil.which("openssl"):
            bench.ratio(
                "cold `sipl verify` / `openssl cms -verify` of both components",
                lambda: bench.verify_command(bench.disk, bench.certificate), bench.openssl, 1.5,
            )  # fmt: skip
        else:
            print("skip  openssl is not installed (apt-get install openssl)")
        bench.ratio(
            "cold `sipl verify` / `import cryptography.x509`",
            lambda: bench.verify_command(bench.disk, bench.certificate),
            lambda: bench.command(sys.executable, "-c", "import cryptography.x509"), 2,
        )  # fmt: skip
        bench.ratio(
            "64 certificates / 1",
            lambda: bench.verify_command(bench.disk, bench.many),
            lambda: bench.verify_command(bench.disk, bench.certificate), 1.1,
        )  # fmt: skip
        bench.ratio(
            "100 GiB sparse image / 24 MiB image",
            lambda: bench.verify_command(bench.sparse, bench.certificate),
            lambda: bench.verify_command(bench.disk, bench.certificate), 1.1,
        )  # fmt: skip
        memory_row(bench)
        cpu = min(bench.command(*bench.sipl, "--help", cpu=True) for _ in range(bench.runs))
        bench.row("CPU time of `sipl --help`", f"{cpu * 1e3:.0f} ms", "< 60 ms", cpu < 0.06)
        debian.rows(bench)
        qemu_start.rows(bench)


if __name__ == "__main__":
    main()
