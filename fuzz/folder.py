"""Folders for what targets write, in memory where the host has that, and gone when the run is over."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

PREFIX = "sipl-fuzz-"
_IN_MEMORY = "/dev/shm"
_PARENT = "SIPL_FUZZ_FOLDER"  # names the folder of the process that started this one


def run_folder():
    """A context manager: the folder of a run, which it removes."""
    return tempfile.TemporaryDirectory(prefix=PREFIX, dir=_place())


def environment_for(folder):
    """Environment of a process whose folders lie in `folder`, as one that ends at its first finding removes none."""
    return {**os.environ, _PARENT: str(folder)}


def new_folder():
    """Path of a folder that is there until this process ends."""
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=_place())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _place():
    return os.environ.get(_PARENT) or (_IN_MEMORY if os.path.isdir(_IN_MEMORY) else None)
