"""Run the fuzz targets: guided by coverage (atheris) where that is installed, with random changes elsewhere.

    python fuzz/run.py [TARGET ...] [--seconds S] [--executions N] [--plain] [--seed N] [--keep FOLDER]
    python fuzz/run.py --reproduce FILE TARGET

Says how many executions were made and what was found; the exit code is 1 if anything was.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pkgutil
import random
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TARGETS = (
    "hand-over", "boot-map", "disk-image", "pkcs7", "x509", "pem", "signed-file", "sclab", "options", "report",
    "diagnose", "partitions", "seal", "qcow2-writer", "doctor", "linux-image", "recipe", "environment", "pkcs11-uri",
)  # fmt: skip
SECONDS = 30
SLOWEST = 20  # seconds of one execution; none of what is parsed here takes a tenth of a second
MOST_MEMORY = 2048  # MiB of a whole run
LONGEST = 64 << 10  # bytes of an input
WRITE_EVERY = 64  # executions between two notes of a guided run


class Result(NamedTuple):
    executions: int
    seconds: float
    summary: str
    findings: tuple  # texts


def import_sipl():
    """Import all of the package that the targets reach, so that coverage sees it."""
    import sipl

    for module in pkgutil.walk_packages(sipl.__path__, "sipl."):
        if not module.name.startswith(("sipl.cli", "sipl.__main__")):
            importlib.import_module(module.name)


def drive_plain(target, seconds, executions, seed, keep):
    """Random changes of the seeds, in this process; goes on after a finding and reports each kind once."""
    generator = random.Random(seed)
    seeds = target.seeds()
    findings = {}
    done = 0
    start = time.monotonic()
    while done < (executions or sys.maxsize) and (executions or time.monotonic() - start < seconds):
        data = seeds[done] if done < len(seeds) else change(generator, seeds, target.fresh)
        began = time.monotonic()
        found = None
        try:
            target.function(data)
        except Exception as error:  # noqa: BLE001 (whatever is raised is a finding)
            last = traceback.extract_tb(error.__traceback__)[-1]
            found = (f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}", traceback.format_exc())
        done += 1
        if found is None and time.monotonic() - began > SLOWEST:
            found = ("slow", f"one execution took {time.monotonic() - began:.1f} s\n")
        if found is not None and found[0] not in findings:
            findings[found[0]] = found[1] + f"input: {keep_input(keep, data)}"
    peak = peak_memory()
    if peak > MOST_MEMORY:
        findings["memory"] = f"the process took {peak} MiB"
    return Result(done, time.monotonic() - start, target.summary(), tuple(findings.values()))


def change(generator, seeds, fresh):
    """A seed with some bytes changed, replaced, removed, repeated, or bytes of no meaning."""
    if fresh and generator.random() < 0.75:
        return generator.randbytes(fresh)
    data = bytearray(generator.choice(seeds))
    for _ in range(generator.choice((1, 1, 2, 4, 8))):
        at = generator.randrange(len(data) + 1)
        length = generator.choice((1, 2, 4, 8, 16))
        kind = generator.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[at : at + length] = generator.randbytes(length)
        elif kind == 2:
            data[at : at + length] = generator.choice((b"\0", b"\x7f", b"\x80", b"\xff")) * length
        elif kind == 3:
            del data[at : at + length]
        else:
            source = generator.randrange(len(data) + 1)
            data[at : at + length] = data[source : source + length]
    return bytes(data[:LONGEST])


def peak_memory():
    """MiB that this process has had in memory at most, 0 where the host does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def keep_input(keep, data):
    keep.mkdir(parents=True, exist_ok=True)
    path = keep / f"finding-{hash(data) & 0xFFFF_FFFF:08x}"
    path.write_bytes(data)
    return path


def drive_guided(name, seconds, executions, seed, keep):
    """A process of its own, which ends with its first finding."""
    keep.mkdir(parents=True, exist_ok=True)
    from fuzz.folder import environment_for, run_folder

    with run_folder() as folder:
        notes = Path(folder, "notes")
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        bound = [f"-runs={executions}"] if executions else [f"-max_total_time={seconds}"]
        limits = [f"-timeout={SLOWEST}", f"-rss_limit_mb={MOST_MEMORY}", f"-seed={seed}", "-len_control=0"]
        command = [sys.executable, __file__, "--guided", name, str(notes), str(corpus), *bound, *limits]
        command += [f"-artifact_prefix={keep}{os.sep}", "-print_final_stats=1", "-verbosity=1", str(corpus)]
        start = time.monotonic()
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=environment_for(folder)
        )
        took = time.monotonic() - start
        number, _, summary = notes.read_text().partition("\n") if notes.exists() else ("0", "", "")
    output = done.stdout + done.stderr
    counted = re.search(r"^stat::number_of_executed_units: *([0-9]+)", output, re.MULTILINE)
    coverage = re.findall(r"\bcov: ([0-9]+)", output)
    if coverage:
        summary = "; ".join(filter(None, (summary, f"coverage {coverage[-1]}")))
    findings = ()
    if done.returncode:
        noise = ("#", "INFO", "stat::", "0x", "\\", "WARNING: Failed to find function")
        lines = [line for line in output.splitlines() if not line.startswith(noise)]
        findings = ("\n".join(lines[-40:]),)
    return Result(int(counted[1]) if counted else int(number), took, summary, findings)


def guided(name, notes, corpus, arguments):
    """What the process of `drive_guided` does."""
    import atheris

    with atheris.instrument_imports(include=["sipl"]):
        import_sipl()
    from fuzz import targets

    target = targets.TARGETS[name]
    for number, seed in enumerate(target.seeds()):
        Path(corpus, f"seed{number}").write_bytes(seed)
    done = 0

    def one(data):
        nonlocal done
        done += 1
        target.function(data)
        if done % WRITE_EVERY == 0:
            Path(notes).write_text(f"{done}\n{target.summary()}")

    # libFuzzer would spend its changes on bytes that decide nothing.
    atheris.Setup([name, f"-max_len={target.fresh or LONGEST}", *arguments], one)
    atheris.Fuzz()


def main(arguments):
    if arguments[:1] == ["--guided"]:
        guided(*arguments[1:4], arguments[4:])
        return 0
    parser = argparse.ArgumentParser(description="Run the fuzz targets; docs/fuzzing.md tells more.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all of: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target (default %(default)s)")
    parser.add_argument(
        "--executions",
        type=int,
        default=int(os.environ.get("SIPL_FUZZ_EXECUTIONS", "0")),
        help="of each target, instead of a time (default: $SIPL_FUZZ_EXECUTIONS, if set)",
    )
    parser.add_argument("--plain", action="store_true", help="random changes, also where atheris is installed")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random numbers")
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "fuzz", help="folder for inputs of findings")
    parser.add_argument("--reproduce", type=Path, metavar="FILE", help="run one target once, on this input")
    options = parser.parse_args(arguments)
    for name in options.targets:
        if name not in TARGETS:
            parser.error(f"there is no target {name}; choose from {', '.join(TARGETS)}")
    names = options.targets or TARGETS
    if options.reproduce is not None:
        from fuzz import targets

        for name in names:
            targets.TARGETS[name].function(options.reproduce.read_bytes())
        print("nothing was found")
        return 0
    plain = options.plain or importlib.util.find_spec("atheris") is None
    if plain and not options.plain:
        print("atheris is not installed for this Python: random changes instead of coverage-guided ones", flush=True)
    print(f"{'random changes' if plain else 'guided by coverage'}, seed {options.seed}", flush=True)
    return run(names, plain, options)


def run(names, plain, options):
    total = found = 0
    for name in names:
        bounds = (options.seconds, options.executions, options.seed & 0x7FFF_FFFF, options.keep / name)
        if plain:
            from fuzz import targets

            result = drive_plain(targets.TARGETS[name], *bounds)
        else:
            result = drive_guided(name, *bounds)
        total += result.executions
        found += len(result.findings)
        words = f"{name:<12}{result.executions:>10} executions in {result.seconds:.0f} s"
        words += f", {len(result.findings)} findings" + (f"; {result.summary}" if result.summary else "")
        print(words, flush=True)
        for finding in result.findings:
            print(finding, flush=True)
    print(f"{'all':<12}{total:>10} executions, {found} findings", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
