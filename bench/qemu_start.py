"""From the start of `sipl boot --engine qemu` to Linux's first line, against QEMU's own -kernel on the same machine.

What is compared is a secure IPL, verification and has_secure included, and the same kernel, RAM disk and command line
given to the same QEMU with the same devices. The two differ in more than sipl's work:

* QEMU's -kernel enters the kernel itself. After an IPL zipl's stage3 runs first, and moves kernel and RAM disk. Both
  kernels then unpack themselves.
* QEMU's memory is private, for which hosts commonly have huge pages. With sipl it is a file of the host, for which they
  commonly have none.
* For has_secure the guest is held a few times by QEMU's GDB stub before its first line.
* Its console goes through sipl.

So the guest's own time is a row of its own. sipl's own share is the time until it has the guest started, less what the
other QEMU needs until its guest runs. Both QEMUs make their machine meanwhile, sipl's beside the verification.
"""

from __future__ import annotations

import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import debian
from marked_sipl import CPU, GUEST_RUNS, PARTS

from sipl import Disk, MachineOptions, Settings

if TYPE_CHECKING:
    from pathlib import Path

LAB = debian.ROOT / "tests" / "lab"
MARKED = debian.ROOT / "bench" / "marked_sipl.py"
FIRST_LINE = b"Linux version"
RUNS = 9  # of each side; one takes one to two seconds
PATIENCE = 60  # s
# A process that was killed still gives its memory back.
PAUSE = 0.1  # s


class Start(NamedTuple):
    """One run, in seconds from the start of its process."""

    first: float  # to the first byte on the console
    guest: float  # to where the guest began to run; 0: not known
    marks: dict[str, float]  # what sipl wrote down


def missing() -> str:
    """What these rows need and is not there; empty if all is."""
    from sipl.engine.qemu.program import QemuUnable, find_qemu

    try:
        find_qemu()
    except QemuUnable as unable:
        return str(unable)
    return debian.missing_disks()


def watch(words: list[str], environment: dict[str, str], sign: socket.socket, inherited: list[int]):
    """Run a command until the console's first line is there.

    The result: when it began, on the clock of all processes; seconds until the first byte of that line; seconds until
    something came on the other socket, and what.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        pass_fds=inherited,
    )  # fmt: skip
    console = process.stdout.fileno()
    times: dict[int, float] = {}
    seen = {console: b"", sign.fileno(): b""}
    poll = select.poll()
    for descriptor in seen:
        poll.register(descriptor, select.POLLIN)
    try:
        while b"\n" not in seen[console]:
            ready = poll.poll(PATIENCE * 1000)
            assert ready, f"{words[0]} says nothing for {PATIENCE} s"
            for descriptor, _ in ready:
                times.setdefault(descriptor, time.monotonic() - begin)
                data = os.read(descriptor, 1 << 16)
                assert data, f"{words[0]} ended before the guest's first line: {seen[console]!r}"
                seen[descriptor] += data
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        time.sleep(PAUSE)
    assert FIRST_LINE in seen[console], seen[console]
    return begin, times[console], times.get(sign.fileno(), 0.0), seen[sign.fileno()]


def with_sipl(environment: dict[str, str], *, marked: bool) -> Start:
    """A secure IPL; `marked` with the times at which sipl came to what."""
    shared = debian.shared_folder()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        words = [
            sys.executable,
            *([str(MARKED), str(number)] if marked else ["-m", "sipl"]),
            "boot",
            "--engine",
            "qemu",
        ]
        words += ["--memory", f"{debian.MEMORY_MIB}M", "--secure-boot", "on"]
        words += ["--boot-certs", str(shared / "keys" / "certA.pem"), str(shared / "disks" / "good.qcow2")]
        begin, first, _, said = watch(words, environment, ours, [number])
    marks = json.loads(said) if marked else {}
    for name in PARTS if marked else ():
        marks[name] -= begin
    return Start(first, marks.get(GUEST_RUNS, 0.0), marks)


def with_kernel(folder: Path, environment: dict[str, str]) -> Start:
    """The kernel alone, on the machine that sipl would give QEMU; the guest runs when QEMU greets."""
    from debian_lab import CMDLINE

    from sipl.engine.qemu.own_setup import OwnSetup
    from sipl.engine.qemu.setup import RAM_ID

    disk = Disk(str(debian.shared_folder() / "disks" / "good.qcow2"))
    setup = OwnSetup([disk], Settings(machine=MachineOptions(memory=debian.MEMORY_MIB << 20)))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        setup.open()
        try:
            words = [setup.program, *setup.arguments()]
            words += ["-object", f"memory-backend-ram,id={RAM_ID},size={setup.memory}"]
            words += ["-chardev", f"socket,id=monitor,fd={theirs.fileno()}", "-mon", "chardev=monitor,mode=control"]
            words += ["-chardev", "stdio,id=console", "-device", "sclpconsole,chardev=console"]
            words += ["-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img"), "-append", CMDLINE]
            _, first, ready, _ = watch(words, environment, ours, [theirs.fileno(), *setup.descriptors()])
        finally:
            setup.close()
    return Start(first, ready, {})


def rows(bench) -> None:
    """Measure both in turn, and take the medians: a guest takes its time at random, by a tenth and more."""
    reason = missing()
    if reason:
        print(f"skip  start of a guest on QEMU: {reason}")
        return
    sys.path.insert(0, str(LAB))
    import debian_lab

    debian_lab.extract(debian.shared_folder(), bench.folder)
    with_sipl(bench.environment, marked=False)  # compiled modules belong to a set-up, and files are in memory then
    ours, kernels, marked = [], [], []
    for _ in range(min(bench.runs, RUNS)):
        ours.append(with_sipl(bench.environment, marked=False))
        kernels.append(with_kernel(bench.folder, bench.environment))
        marked.append(with_sipl(bench.environment, marked=True))

    def milliseconds(times) -> float:
        return statistics.median(times) * 1e3

    sipl, kernel = milliseconds(run.first for run in ours), milliseconds(run.first for run in kernels)
    bench.row(
        f"start to Linux's first line on QEMU / QEMU's -kernel ({sipl:.0f} / {kernel:.0f} ms)",
        f"{sipl / kernel:.2f}", "<= 1.1", sipl <= 1.1 * kernel,
    )  # fmt: skip
    sipl, kernel = (min(run.first for run in runs) * 1e3 for runs in (ours, kernels))
    bench.row(
        f"  the least of each, for a busy host ({sipl:.0f} / {kernel:.0f} ms)",
        f"{sipl / kernel:.2f}", "(no target)", met=True,
    )  # fmt: skip
    sipl, kernel = (milliseconds(run.first - run.guest for run in runs) for runs in (marked, kernels))
    bench.row(
        f"  of it, from the guest's start on ({sipl:.0f} / {kernel:.0f} ms)",
        f"{sipl / kernel:.2f}", "(no target)", met=True,
    )  # fmt: skip
    # What follows does not depend on chance: whatever is more than the least is the host's.
    before, alone = (min(run.guest for run in runs) * 1e3 for runs in (marked, kernels))
    bench.row(
        f"  sipl's own share: until the guest runs, less QEMU alone ({before:.0f} - {alone:.0f} ms)",
        f"{before - alone:.0f} ms", "(no target)", met=True,
    )  # fmt: skip
    cpu = min(run.marks[CPU] for run in marked) * 1e3
    bench.row("    CPU time of sipl's process until then", f"{cpu:.0f} ms", "(no target)", met=True)
    for previous, part in zip(("", *PARTS), PARTS, strict=False):
        spent = min(run.marks[part] - run.marks.get(previous, 0.0) for run in marked) * 1e3
        bench.row(f"    from there until {part}", f"{spent:.0f} ms", "(no target)", met=True)
