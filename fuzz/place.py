"""A folder and certificates for the targets that need files."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache

from fuzz.disks import Workshop


class _Place:
    def __init__(self):
        in_memory = "/dev/shm"
        self.folder = tempfile.mkdtemp(prefix="sipl-fuzz-", dir=in_memory if os.path.isdir(in_memory) else None)
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.shop = Workshop()
        self.certificates = tuple(self.shop.path(name) for name in ("rsa", "ec"))

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(data)
        return path


the_place = cache(_Place)
