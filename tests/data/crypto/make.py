"""Makes the files of this folder anew; README.md says what they are. Needs `cryptography` and the program openssl."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import NameOID

HERE = Path(__file__).resolve().parent
START, END = datetime(2026, 1, 1), datetime(2036, 1, 1)
USAGES = [
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
]


def certificate(name, key, start=START, end=END, usage=None):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"sipl test {name}")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(0x51A0 + len(name)).not_valid_before(start).not_valid_after(end)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.KeyUsage(**{u: u == usage for u in USAGES}), critical=True)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (HERE / f"{name}.pem").write_bytes(pem)


def save(name, key):
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (HERE / f"{name}.key").write_bytes(pem)
    return key


def sign(target, cert, key, *options):
    command = ["openssl", "cms", "-sign", "-binary", "-in", "component.bin", "-outform", "DER", "-out", target]
    subprocess.run([*command, "-signer", cert, "-inkey", key, "-nocerts", *options], cwd=HERE, check=True)


def main():
    # `cryptography` makes no RSA keys below 1024 bits.
    small = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:768", "-out", "rsa768.key"]
    subprocess.run(small, cwd=HERE, check=True, stderr=subprocess.DEVNULL)
    good = save("rsa2048", rsa.generate_private_key(65537, 2048))
    certificate("good", good)
    certificate("expired", good, datetime(2025, 1, 1), datetime(2026, 5, 31, 23, 59, 59))
    certificate("future", good, datetime(2026, 6, 2), END)
    certificate("usage-signature", good, usage="digital_signature")
    certificate("usage-certsign", good, usage="key_cert_sign")
    certificate("rsa1024", save("rsa1024", rsa.generate_private_key(65537, 1024)))
    certificate("dsa2048", save("dsa2048", dsa.generate_private_key(2048)))
    certificate("p521", save("p521", ec.generate_private_key(ec.SECP521R1())))
    (HERE / "component.bin").write_bytes(bytes(range(256)) * 4 + b"component")
    sign("plain.p7s", "good.pem", "rsa2048.key", "-noattr", "-md", "sha256")
    sign("attributes.p7s", "good.pem", "rsa2048.key", "-md", "sha512")
    sign("keyid.p7s", "p521.pem", "p521.key", "-noattr", "-md", "sha384", "-keyid")


if __name__ == "__main__":
    main()
