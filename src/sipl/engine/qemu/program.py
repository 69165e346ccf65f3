"""Which QEMU there is on this host."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final

from sipl.errors import UsageError

NAMES: Final = ("qemu-system-s390x", "/usr/libexec/qemu-kvm")
VARIABLE: Final = "SIPL_QEMU"
# The oldest one that the hand-over was tried on.
OLDEST: Final = (7, 2, 0)
INSTALL: Final = "install qemu-system-s390x (Debian 12: qemu-system-misc), or name it in SIPL_QEMU"


class QemuUnable(UsageError):
    """There is no QEMU here that can run a guest for sipl, or it refuses what it was asked for."""


def find_qemu(unlike: str | None = None) -> str:
    """Path of the QEMU to use: the variable `SIPL_QEMU`, else the first that is installed.

    `unlike` is a program that is not meant, as it is the one that asks.

    Raises:
        QemuUnable: there is none, or this host has not what it takes.
    """
    if sys.platform != "linux":
        raise QemuUnable("QEMU", "this host is no Linux", "take one that is")
    named = os.environ.get(VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise QemuUnable(VARIABLE, f"there is no program {named}", "name a qemu-system-s390x")
        return found
    for name in NAMES:
        found = shutil.which(name)
        if found is not None and not (unlike and os.path.realpath(found) == os.path.realpath(unlike)):
            return found
    raise QemuUnable("QEMU", f"no {NAMES[0]} is installed", INSTALL)


def check_version(version: tuple[int, int, int]) -> None:
    """Refuse what is too old.

    Raises:
        QemuUnable: it is older than the oldest that is known to work.
    """
    if version < OLDEST:
        said, wanted = (".".join(map(str, numbers)) for numbers in (version, OLDEST[:2]))
        raise QemuUnable("QEMU", f"version {said} is too old", f"take {wanted} or later")


def accelerator() -> str:
    """`kvm` where this host is an s390x that offers it, else `tcg`."""
    if os.uname().machine == "s390x" and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "kvm"
    return "tcg"
