"""Debian from start to GUEST-DONE: the embedded engine against stock QEMU's TCG, on the same disk with the same memory.

As a program of its own it is the profile: it boots the disk that it is given and says where the time went, as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MENDED = ROOT / "build" / "mended-unicorn"
MEMORY_MIB = 512
DONE = b"GUEST-DONE"
PATIENCE = 600  # s
QEMU = "qemu-system-s390x"


class Guest(NamedTuple):
    """One run, from the start of the process to GUEST-DONE: wall clock, CPU time, peak of resident memory."""

    seconds: float
    cpu: float
    mib: float


def shared_folder() -> Path:
    return Path(os.environ.get("SIPL_SHARED", ROOT.parent / "shared"))


def missing_disks() -> str:
    """What to say without reference material; empty if it is there."""
    if not (shared_folder() / "disks" / "good.qcow2").is_file():
        return "no reference disks: put them beside the checkout as `shared` or name it in $SIPL_SHARED"
    return ""


def missing() -> str:
    """What these rows need and is not there; empty if all is."""
    if reason := missing_disks():
        return reason
    for name, package in ((QEMU, "qemu-system-s390x"), ("qemu-img", "qemu-utils")):
        if shutil.which(name) is None:
            return f"{name} is not installed (apt-get install {package})"
    if importlib.util.find_spec("unicorn") is None:
        return "unicorn is not installed"
    return ""


def run_guest(words: list[str], environment: dict[str, str]) -> Guest:
    """Start a command, wait for GUEST-DONE on its standard output, and end it."""
    start = time.perf_counter()
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout
        seen = b""
        try:
            while DONE not in seen:
                data = os.read(process.stdout.fileno(), 1 << 16)
                assert data, f"{words[0]} ended before {DONE.decode()}: {seen[-400:]!r}"
                seen = seen[-len(DONE) :] + data
            seconds = time.perf_counter() - start
            status = Path(f"/proc/{process.pid}/status").read_text("ascii")
            # Behind the name, which may have spaces, user and system time are the 12th and 13th field.
            times = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()[11:13]
        finally:
            process.kill()
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    assert peak
    return Guest(seconds, sum(map(int, times)) / os.sysconf("SC_CLK_TCK"), int(peak[1]) / 1024)


def embedded(disk: Path, environment: dict[str, str]) -> Guest:
    """A secure IPL, verification included."""
    certificate = shared_folder() / "keys" / "certA.pem"
    words = [sys.executable, "-m", "sipl", "boot", "--engine", "embedded", "--memory", f"{MEMORY_MIB}M"]
    words += ["--timeout", str(PATIENCE)]
    return run_guest([*words, "--secure-boot", "on", "--boot-certs", str(certificate), str(disk)], environment)


def qemu(disk: Path, environment: dict[str, str]) -> Guest:
    """A normal IPL with QEMU's own firmware."""
    words = [QEMU, "-M", "s390-ccw-virtio", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB), "-smp", "1"]
    words += ["-nographic", "-no-reboot", "-drive", f"file={disk},if=none,id=d,format=raw,snapshot=on"]
    return run_guest([*words, "-device", "virtio-blk-ccw,drive=d,bootindex=0"], environment)


def rows(bench) -> None:
    """Measure everything once, one after the other: a run takes 5 to 30 seconds."""
    reason = missing()
    if reason:
        print(f"skip  Debian on the embedded engine: {reason}")
        return
    disk = bench.folder / "debian.raw"
    source = str(shared_folder() / "disks" / "good.qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "raw", source, str(disk)], check=True)
    plain = {key: value for key, value in bench.environment.items() if key != "LIBUNICORN_PATH"}
    stock = qemu(disk, plain)
    libraries = [("Unicorn's wheel", plain, 4.0)]
    if any(MENDED.glob("libunicorn*")):
        libraries.append(("the mended Unicorn", {**plain, "LIBUNICORN_PATH": str(MENDED)}, 2.0))
    else:
        print("skip  the mended Unicorn is not built (make mended-unicorn)")
    for name, environment, target in libraries:
        ours = embedded(disk, environment)
        ratio = ours.seconds / stock.seconds
        bench.row(
            f"Debian on {name} / QEMU's TCG ({ours.seconds:.1f} / {stock.seconds:.1f} s)",
            f"{ratio:.2f}", f"<= {target:g}", ratio <= target,
        )  # fmt: skip
        bench.row(
            f"  in CPU time, for a busy host ({ours.cpu:.1f} / {stock.cpu:.1f} s)",
            f"{ours.cpu / stock.cpu:.2f}", "(no target)", met=True,
        )  # fmt: skip
        ratio = ours.mib / stock.mib
        bench.row(
            f"  its peak memory / QEMU's ({ours.mib:.0f} / {stock.mib:.0f} MiB)",
            f"{ratio:.2f}", "<= 1.5", ratio <= 1.5,
        )  # fmt: skip
        found = profile(disk, environment)
        guest = found["guest"]
        bench.row(f"  traps, of {found['traps']} in all", f"{found['traps'] / guest:.0f} /s", "(no target)", met=True)
        for what in ("generated code and Unicorn", "traps", "new blocks", "waits and devices", "before the guest"):
            bench.row(f"    time in: {what}", f"{found['shares'][what]:.0%}", "(no target)", met=True)


def profile(disk: Path, environment: dict[str, str]) -> dict:
    """Run this module as a program."""
    words = [sys.executable, __file__, str(disk), str(shared_folder() / "keys" / "certA.pem")]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout)


class Clock:
    """Adds up the time that wrapped functions take, and how often they were called."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def around(self, function):
        def timed(*arguments):
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - start
                self.calls += 1

        return timed


def main() -> None:
    begin = time.perf_counter()
    from sipl import Disk, MachineOptions, Settings, boot
    from sipl.engine.embedded.engine import EmbeddedEngine
    from sipl.engine.embedded.unicorn_cpu import UnicornCpu

    disk, certificate = sys.argv[1:]
    inside, traps, blocks, guest = Clock(), Clock(), Clock(), Clock()
    code_callback, on_interruption, on_new_block = (
        UnicornCpu.code_callback, UnicornCpu.on_interruption, UnicornCpu.on_new_block,
    )  # fmt: skip
    UnicornCpu.code_callback = lambda self, function: code_callback(self, traps.around(function))
    UnicornCpu.on_interruption = lambda self, function: on_interruption(self, traps.around(function))
    UnicornCpu.on_new_block = lambda self, function: on_new_block(self, blocks.around(function))
    UnicornCpu.run = inside.around(UnicornCpu.run)
    engine = EmbeddedEngine(timeout=PATIENCE, until=DONE.decode())
    engine.run = guest.around(engine.run)
    options = MachineOptions(secure_boot=True, boot_certs=(certificate,), memory=MEMORY_MIB << 20)
    report = boot([Disk(disk)], Settings(machine=options), engine)
    assert report.would_boot, report.reason
    whole = time.perf_counter() - begin
    seconds = {
        # Crossing from C to Python and back belongs to it: it cannot be told apart from outside.
        "generated code and Unicorn": inside.seconds - traps.seconds - blocks.seconds,
        "traps": traps.seconds,
        "new blocks": blocks.seconds,
        "waits and devices": guest.seconds - inside.seconds,
        "before the guest": whole - guest.seconds,
    }
    shares = {what: part / whole for what, part in seconds.items()}
    print(json.dumps({"guest": guest.seconds, "traps": traps.calls, "blocks": blocks.calls, "shares": shares}))


if __name__ == "__main__":
    main()
