"""A token of SoftHSM in a folder of its own, with keys in it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest
from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from pathlib import Path

PIN = b"481516"
LABEL = "sipl test"
MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)


class Token(NamedTuple):
    """Where the module is, and the file that tells it where its tokens are."""

    module: str
    configuration: str

    def uri(self, what: str) -> str:
        return f"pkcs11:token=sipl%20test;{what}?module-path={self.module}"


def make_token(folder: Path, need_tool, keys: dict[str, bytes]) -> Token:
    """A token with private keys from PEM, by label; their ids count from 1. This process uses it from now on."""
    tool = need_tool("softhsm2-util", "softhsm2")
    module = next((path for path in MODULES if os.path.exists(path)), None)
    if module is None:
        pytest.skip("libsofthsm2.so is in none of the usual places (apt-get install softhsm2)")
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    # SoftHSM reads it when it is loaded, which happens once per process.
    os.environ["SOFTHSM2_CONF"] = str(configuration)

    def util(*words: object) -> None:
        subprocess.run([tool, *map(str, words)], check=True, capture_output=True)

    util("--init-token", "--free", "--label", LABEL, "--pin", PIN.decode(), "--so-pin", "13579")
    for number, (label, pem) in enumerate(keys.items(), 1):
        key = serialization.load_pem_private_key(pem, None)
        path = folder / f"{label}.p8"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        util("--import", path, "--token", LABEL, "--label", label, "--id", f"{number:02}", "--pin", PIN.decode())
    return Token(module, str(configuration))
