"""DIAGNOSE 320 and 508 calls measured on the reference: registers, interruption and memory, byte for byte.

All of the reference material where it is there, and always the part of it in tests/data/diag.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sipl.machine.cert_store import CertStore
from sipl.machine.interruption import ProgramInterruption
from sipl.machine.options import parse_time

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SIPL_SHARED", ROOT.parent / "shared"))
OWN_FILE = ROOT / "tests" / "data" / "diag" / "vectors.json"
OWN = json.loads(OWN_FILE.read_text())
SHARED_FILE = SHARED / "diag" / "vectors.json"
REFERENCE = json.loads(SHARED_FILE.read_text()) if SHARED_FILE.is_file() else {"vectors": []}

STORES = {"A": "certA.pem", "B": "certB.pem", "EC": "certEC.pem", "expired": "expired.pem"}
MEMORY = 128 << 20
REGISTERS = 0xDEAD0000
# All calls work on the first MiB or at the end of memory; both are compared as a whole.
LOW, TAIL = 1 << 20, 1 << 16


def params(vectors):
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def number(text):
    return int(text, 16)


def region_bytes(region):
    return bytes.fromhex(region["hex"]).ljust(region["length"], b"\0")


class Expected:
    """What must come out: the reference, or what `sipl` says instead."""

    def __init__(self, vector, registers, low):
        reference, decided = vector["reference"], vector.get("sipl", {})
        self.interruption = decided.get("program_interruption", reference["program_interruption"])
        result = decided.get("result_register", reference["result_register"])
        self.registers = list(registers)
        if result != "untouched":
            self.registers[vector["r1"] + 1] = number(result)
        memory = decided.get("memory", reference["memory"])
        self.low = bytearray(low)
        for region in () if memory == "as input" else memory:
            at = number(region["address"])
            self.low[at : at + region["length"]] = region_bytes(region)


def run(guest_with, vector, paths, at):
    wanted, _, switch = vector["store"].partition(", ")
    names = [] if wanted == "empty" else wanted.split()
    store = CertStore.load([str(paths[STORES[name]]) for name in names], lambda *warning: pytest.fail(str(warning)))
    cpu = "qemu,cstore=off" if switch == "cstore off" else "qemu"
    guest = guest_with(store, cpu=cpu, now=parse_time(at), memory=MEMORY)
    for region in vector["input"]:
        guest.put(number(region["address"]), region_bytes(region))
    registers = guest.cpu.registers
    registers[:] = [REGISTERS + n for n in range(16)]
    registers[vector["r1"]] = number(vector["address"])
    registers[vector["r3"]] = number(vector["subcode"])
    guest.cpu.problem_state = vector["problem_state"]
    expected = Expected(vector, registers, guest.get(0, LOW))
    tail = guest.get(MEMORY - TAIL, TAIL)
    interruption = None
    try:
        guest.machine.execute_diagnose(guest.cpu, number(vector["diag"]), vector["r1"], vector["r3"])
    except ProgramInterruption as error:
        interruption = int(error.code)
    assert interruption == expected.interruption
    assert [f"{value:#x}" for value in registers] == [f"{value:#x}" for value in expected.registers]
    assert guest.get(0, LOW) == bytes(expected.low)
    assert guest.get(MEMORY - TAIL, TAIL) == tail


@pytest.fixture(scope="module")
def own_certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diag")
    for name, pem in OWN["certificates"].items():
        (folder / name).write_text(pem)
    return {name: folder / name for name in OWN["certificates"]}


@pytest.mark.parametrize("vector", params(OWN["vectors"]))
def test_own_vector(guest_with, own_certificates, vector):
    run(guest_with, vector, own_certificates, OWN["at"])


@pytest.mark.parametrize("vector", params(REFERENCE["vectors"]) or [pytest.param(None, id="reference")])
def test_reference_vector(guest_with, shared, vector):
    paths = {name: shared / "keys" / name for name in ("certA.pem", "certB.pem", "certEC.pem")}
    paths["expired.pem"] = shared / "corpus" / "certs" / "expired.pem"
    run(guest_with, vector, paths, REFERENCE["at"])


def test_all_reference_vectors_are_there(shared):
    assert shared == SHARED
    assert len(REFERENCE["vectors"]) == 58
    assert REFERENCE["registers_before"].startswith("R(n) = 0xdead0000+n")


def test_own_vectors_are_unchanged_copies(shared):
    of_reference = {vector["name"]: vector for vector in REFERENCE["vectors"]}
    for vector in OWN["vectors"]:
        assert vector == of_reference[vector["name"]]
