"""Files to sign, and the keys and certificates of tests/data/crypto to do it with."""

from __future__ import annotations

from pathlib import Path

from sipl.author import guest
from sipl.author.signer import Signer, load_certificate, load_private_key
from sipl.layout.module_signature import MODULE_SIGNATURE_MARKER

DATA = Path(__file__).resolve().parent.parent / "data" / "crypto"
NOW = 1780272000  # 2026-06-01T00:00:00Z
AT = f"@{NOW}"
KEY = str(DATA / "rsa2048.key")
CERT = str(DATA / "good.pem")
EC_KEY, EC_CERT = str(DATA / "p521.key"), str(DATA / "p521.pem")
PAYLOAD = guest.loader_component(512)
KERNEL = guest.kernel_component(512)


def certificate(name: str = "good"):
    return load_certificate(str(DATA / f"{name}.pem"))


def signer(key: str = "rsa2048", cert: str = "good", digest: str = "sha256", **how) -> Signer:
    return Signer(load_private_key(str(DATA / f"{key}.key")), certificate(cert), digest, **({"now": NOW} | how))


def wrap(payload: bytes, signature: bytes, record: bytes | None = None) -> bytes:
    """A signed file, built by hand; `record` are the 12 bytes in front of the marker."""
    if record is None:
        record = b"\0\0\2\0\0\0\0\0" + len(signature).to_bytes(4, "big")
    return payload + signature + record + MODULE_SIGNATURE_MARKER


def signature_of(data: bytes) -> bytes:
    """The PKCS#7 in a signed file, found without the package's own reader."""
    length = int.from_bytes(data[-32:-28], "big")
    return data[-40 - length : -40]


def left_behind(folder: Path, *expected: str) -> set[str]:
    """Names in a folder that should not be there: temporary files."""
    return {path.name for path in folder.iterdir()} - set(expected)
