"""The engine that runs nothing, and what every engine is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import sipl
from sipl.engine.none import NoEngine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

import ipl_lab


@pytest.fixture(scope="module")
def signers(tmp_path_factory):
    return ipl_lab.Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture
def lab(tmp_path, signers):
    return ipl_lab.Lab(tmp_path, signers)


def test_no_engine_is_an_engine(tmp_path):
    """mypy has the last word: the protocol is for type checkers only."""
    from sipl.engine.base import Engine

    assert {name for name in vars(Engine) if not name.startswith("_")} == {"run"}
    assert set(vars(NoEngine)) & {"run"}


def test_no_engine_leaves_the_machine_as_it_is(lab):
    seen = []

    class Watch(NoEngine):
        def run(self, machine, state):
            before = machine.load(0, ipl_lab.MEMORY - 4096)
            super().run(machine, state)
            seen.append((machine.load(0, ipl_lab.MEMORY - 4096) == before, state.psw))

    report = sipl.boot([lab.disk(lab.program())], lab.settings(), Watch())
    assert report.would_boot
    assert seen == [(True, ipl_lab.PSW)]


def test_what_an_engine_raises_comes_out_and_memory_is_given_up(lab):
    machines = []

    class Broken:
        def run(self, machine, state):
            machines.append(machine)
            raise RuntimeError("engine")

    with pytest.raises(RuntimeError, match="engine"):
        sipl.boot([lab.disk(lab.program())], lab.settings(), Broken())
    with pytest.raises((ValueError, sipl.SiplError)):
        machines[0].load(0, 4)


def test_an_engine_that_gives_no_verdict(lab):
    """A host that fails while the guest runs leaves the IPL undecided."""

    class Fails:
        def run(self, machine, state):
            raise sipl.UndecidedError("engine", "the host failed")

    report = sipl.boot([lab.disk(lab.program())], lab.settings(), Fails())
    assert (report.outcome, report.would_boot, report.ipl_report) == ("undecided", None, None)
