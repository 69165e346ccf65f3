"""Encrypted qcow2 images, made by qemu-img."""

from __future__ import annotations

import subprocess

import pytest

# It measures how fast it is, and gives up where too little time has passed by the host's clock.
TOO_FAST = "Unable to get accurate CPU usage"
TRIES = 50


def make_encrypted(program: str, path, kind: str = "luks") -> None:
    """Make an image of 1 MiB; skips the test where this qemu-img cannot."""
    options = f"encrypt.format={kind},encrypt.key-secret=s" + (",encrypt.iter-time=100" if kind == "luks" else "")
    words = [program, "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abcdefgh", "-o", options, path, "1M"]
    for _ in range(TRIES):
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0:
            return
        if TOO_FAST not in done.stderr:
            break
    pytest.skip(f"this qemu-img makes no {kind} images: {done.stderr.strip()}")
