"""What a verification imports: RSA none of `cryptography`, the others not its X.509."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path
from sipl.crypto.certificate import Certificate
from sipl.crypto.verify import SignatureCheck
folder, certificate, signature = sys.argv[1:]
read = lambda name: (Path(folder) / name).read_bytes()
SignatureCheck(read("component.bin"), read(signature)).verify(Certificate.from_pem(read(certificate)), 1780272000)
print("\\n".join(sys.modules))
"""


def modules(data, certificate, signature):
    command = [sys.executable, "-c", SCRIPT, data / "crypto", certificate, signature]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_rsa_needs_no_library(data):
    assert not {name for name in modules(data, "good.pem", "plain.p7s") if name.startswith("cryptography")}


def test_elliptic_curves_need_no_x509(data):
    found = modules(data, "p521.pem", "keyid.p7s")
    assert "cryptography.hazmat.primitives.asymmetric.ec" in found
    assert "cryptography.x509" not in found
