"""A folder and certificates for the targets that need files."""

from __future__ import annotations

import os
from functools import cache

from fuzz.disks import Workshop
from fuzz.folder import new_folder


class _Place:
    def __init__(self):
        self.folder = new_folder()
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
