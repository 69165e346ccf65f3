"""One execution of the property: bytes make disks, secure mode boots them, and a hand-over is checked."""

from __future__ import annotations

import os
from collections import Counter
from typing import NamedTuple

import sipl.ipl
from fuzz.choices import Choices
from fuzz.disks import LARGE_MEMORY, MEMORY, NOW, STORES, Workshop, make_disk, shared_disks
from fuzz.folder import new_folder
from fuzz.hand_over import Checker, Violation
from fuzz.mutate import mutate
from fuzz.openssl import LibCrypto
from sipl.machine.options import MachineOptions
from sipl.reasons import Outcome
from sipl.settings import Disk, Settings

CASE_LENGTH = 128  # bytes that decide on a case: half of the cases take 23 of them, the longest 113
# What the property would say nothing without: the share of all cases that hand over.
MIN_SHARE = 0.15


class Case(NamedTuple):
    """`disks` are (image, block size, kind) in boot order; `certificates` are paths."""

    disks: tuple
    certificates: tuple
    loadparm: str
    memory: int


class Engine:
    """Takes over at hand-over, and looks at the guest's memory."""

    def __init__(self, checker, disks):
        self._checker = checker
        self._disks = disks
        self.facts = None

    def run(self, machine, state):
        self.facts = self._checker.check(machine.memory.view, self._disks)


class SecureBoot:
    """What all executions have in common: keys, the shared corpus, OpenSSL, a folder, and the counts."""

    def __init__(self):
        self.crypto = LibCrypto()
        self.shop = Workshop()
        self.shared, self._shared_certificate = shared_disks()
        self._folder = new_folder()
        self._loaded = {}
        self.executions = 0
        self.outcomes = Counter()
        self.reasons = Counter()
        self.verified = Counter()
        self._handed_over = set()

    def case(self, data):
        """What the bytes `data` stand for."""
        choices = Choices(data)
        certificates = tuple(map(self.shop.path, choices.pick(STORES[:1] * 8 + STORES)))
        if self._shared_certificate is not None:
            certificates += (self._shared_certificate,)
        disks = []
        number = 0
        for position in range(choices.pick((1,) * 13 + (2, 2, 3))):
            if self.shared and choices.chance(64):
                image, block_size = choices.pick(self.shared)
            else:
                image, block_size, chosen = make_disk(choices, self.shop)
                number = number if position else chosen
            image = mutate(choices, image, block_size)
            kind = choices.pick(("virtio-blk", "virtio-blk", "virtio-blk", "virtio-scsi"))
            disks.append((image, block_size, kind))
        memory = LARGE_MEMORY if choices.chance(16) else MEMORY
        return Case(tuple(disks), certificates, str(number) if number else "", memory)

    def checker(self, certificates):
        if certificates not in self._loaded:
            loaded = [self.crypto.certificate(_read(path)) for path in certificates]
            self._loaded[certificates] = Checker(self.crypto, loaded, NOW)
        return self._loaded[certificates]

    def boot(self, case, engine=None):
        """Boot a case in secure mode; returns the report."""
        paths = []
        for position, (image, block_size, kind) in enumerate(case.disks):
            path = os.path.join(self._folder, f"{position}.raw")
            with open(path, "wb") as file:
                file.write(image)
            paths.append(Disk(path, kind, block_size))
        options = MachineOptions(
            secure_boot=True, boot_certs=case.certificates, loadparm=case.loadparm, memory=case.memory
        )
        return sipl.ipl.boot(paths, Settings(machine=options, at=NOW), engine)

    def execute(self, data):
        """Run one case; returns the report.

        Raises:
            Violation: it handed over and a promise is broken.
        """
        case = self.case(data)
        engine = Engine(self.checker(case.certificates), [disk[:2] for disk in case.disks])
        report = self.boot(case, engine)
        self.executions += 1
        self.outcomes[report.outcome] += 1
        self.reasons[report.reason] += 1
        handed_over = report.outcome is Outcome.HANDS_OVER
        if handed_over != (engine.facts is not None):
            raise Violation(
                "c", f"the outcome is {report.outcome}, the engine {'ran' if engine.facts else 'did not run'}"
            )
        if engine.facts is not None:
            self.verified[engine.facts.verified] += 1
            self._handed_over.add(hash(case.disks[engine.facts.device]))
        return report

    @property
    def different(self):
        """How many different disks handed over."""
        return len(self._handed_over)

    @property
    def share(self):
        """The share of the executions that handed over."""
        return self.outcomes[Outcome.HANDS_OVER] / max(1, self.executions)


def _read(path):
    with open(path, "rb") as file:
        return file.read()
