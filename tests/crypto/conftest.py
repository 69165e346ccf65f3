"""What the tests of `sipl.crypto` share: a forge for certificates and signatures of any form, and an oracle.

The forge writes DER with an encoder of its own, so that a fault in `sipl.crypto.der` cannot hide in its own output.
The oracle is the installed GnuTLS, called exactly as the machine's helpers call it. Its verdicts are those of the
version that the acceptance was measured on; the tests that need it are skipped with another one.
"""

from __future__ import annotations

import ctypes
import hashlib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa

NOW = 1780272000  # 2026-06-01T00:00:00Z
GNUTLS_VERSION = "3.7."

NULL = b"\x05\x00"
DIGEST_OIDS = {
    "md5": "1.2.840.113549.2.5",
    "sha1": "1.3.14.3.2.26",
    "sha224": "2.16.840.1.101.3.4.2.4",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
    "sha512_256": "2.16.840.1.101.3.4.2.6",
    "sha3_224": "2.16.840.1.101.3.4.2.7",
    "sha3_256": "2.16.840.1.101.3.4.2.8",
    "sha3_384": "2.16.840.1.101.3.4.2.9",
    "sha3_512": "2.16.840.1.101.3.4.2.10",
}
KEY_OIDS = {"rsa": "1.2.840.113549.1.1.1", "ec": "1.2.840.10045.2.1", "dsa": "1.2.840.10040.4.1"}
# Last arcs of the signature algorithms, by kind of key and digest.
SIGNATURE_OIDS = {
    "rsa": ("1.2.840.113549.1.1.", {"md5": 4, "sha1": 5, "sha224": 14, "sha256": 11, "sha384": 12, "sha512": 13}),
    "ec": ("1.2.840.10045.4.", {"sha1": "1", "sha224": "3.1", "sha256": "3.2", "sha384": "3.3", "sha512": "3.4"}),
    "dsa": ("2.16.840.1.101.3.4.3.", {"sha224": 1, "sha256": 2, "sha384": 3, "sha512": 4}),
}
SHA3_ARCS = {"dsa": 5, "ec": 9, "rsa": 13}
SHA3 = ("sha3_224", "sha3_256", "sha3_384", "sha3_512")
HASHES = {
    "md5": hashes.MD5,
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
    "sha512_256": hashes.SHA512_256,
    "sha3_224": hashes.SHA3_224,
    "sha3_256": hashes.SHA3_256,
    "sha3_384": hashes.SHA3_384,
    "sha3_512": hashes.SHA3_512,
}


class Forge:
    """Encoders and builders; every part can be replaced."""

    NULL = NULL
    DIGESTS = DIGEST_OIDS
    CONTENT_TYPE = "1.2.840.113549.1.9.3"
    MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
    DATA = "1.2.840.113549.1.7.1"
    KEY_USAGE = "2.5.29.15"

    @staticmethod
    def tlv(tag, *contents):
        content = b"".join(contents)
        size = len(content)
        if size < 128:
            length = bytes([size])
        else:
            octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
            length = bytes([0x80 | len(octets)]) + octets
        return bytes([tag]) + length + content

    def seq(self, *contents):
        return self.tlv(0x30, *contents)

    def set(self, *contents):
        return self.tlv(0x31, *contents)

    def integer(self, value):
        bits = (value if value >= 0 else ~value).bit_length()
        return self.tlv(2, value.to_bytes(bits // 8 + 1, "big", signed=True))

    def octets(self, content):
        return self.tlv(4, content)

    def bits(self, content, unused=0):
        return self.tlv(3, bytes([unused]), content)

    def oid(self, text):
        first, second, *rest = (int(arc) for arc in text.split("."))
        content = b""
        for arc in [first * 40 + second, *rest]:
            octets = bytes([arc & 127])
            while arc := arc >> 7:
                octets = bytes([arc & 127 | 128]) + octets
            content += octets
        return self.tlv(6, content)

    def algorithm(self, oid, parameters=b""):
        return self.seq(self.oid(oid), parameters)

    def name(self, text="forged"):
        return self.seq(self.set(self.seq(self.oid("2.5.4.3"), self.tlv(0x0C, text.encode()))))

    def utc(self, text):
        return self.tlv(0x17, text.encode())

    def generalized(self, text):
        return self.tlv(0x18, text.encode())

    @staticmethod
    def kind(key):
        kinds = {rsa.RSAPrivateKey: "rsa", ec.EllipticCurvePrivateKey: "ec", dsa.DSAPrivateKey: "dsa"}
        return next(name for cls, name in kinds.items() if isinstance(key, cls))

    @staticmethod
    def spki(key):
        return key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @staticmethod
    def signature_oid(kind, digest):
        if digest in SHA3:
            return f"2.16.840.1.101.3.4.3.{SHA3_ARCS[kind] + SHA3.index(digest)}"
        if (kind, digest) == ("dsa", "sha1"):
            return "1.2.840.10040.4.3"
        base, arcs = SIGNATURE_OIDS[kind]
        return f"{base}{arcs[digest]}"

    def extension(self, oid, value, critical=b""):
        return self.seq(self.oid(oid), critical, self.octets(value))

    def certificate(
        self,
        spki,
        *,
        version=None,
        serial=None,
        algorithm=None,
        outer_algorithm=None,
        issuer=None,
        subject=None,
        not_before=None,
        not_after=None,
        validity=None,
        unique=b"",
        extensions=None,
        signature=None,
        tail=b"",
    ):
        """A certificate with a signature that means nothing, as for a certificate of the store."""
        algorithm = algorithm or self.algorithm("1.2.840.113549.1.1.11", NULL)
        body = self.seq(
            self.tlv(0xA0, self.integer(2)) if version is None else version,
            self.integer(1) if serial is None else serial,
            algorithm,
            self.name() if issuer is None else issuer,
            validity or self.seq(not_before or self.utc("200101000000Z"), not_after or self.utc("400101000000Z")),
            self.name() if subject is None else subject,
            spki,
            unique,
            b"" if extensions is None else self.tlv(0xA3, self.seq(*extensions)),
            tail,
        )
        return self.seq(body, outer_algorithm or algorithm, signature or self.bits(b"\x01" * 32))

    @staticmethod
    def sign(key, data, digest):
        algorithm = HASHES[digest]()
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(data, padding.PKCS1v15(), algorithm)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(data, ec.ECDSA(algorithm))
        return key.sign(data, algorithm)

    def attribute(self, oid, *values):
        return self.seq(self.oid(oid), self.set(*values))

    def attributes(self, data, digest="sha256", *more):
        """The two that must be there, and more, in DER order."""
        return sorted(
            [
                self.attribute(self.CONTENT_TYPE, self.oid(self.DATA)),
                self.attribute(self.MESSAGE_DIGEST, self.octets(hashlib.new(digest, data).digest())),
                *more,
            ]
        )

    def signer(
        self,
        key,
        data,
        digest="sha256",
        *,
        digest_algorithm=None,
        algorithm=None,
        attributes=None,
        signed=None,
        identifier=None,
        version=1,
        signature=None,
        unsigned=b"",
        tail=b"",
    ):
        if signed is None:
            signed = data if attributes is None else self.set(*attributes)
        if signature is None:
            signature = self.sign(key, signed, digest)
        return self.seq(
            self.integer(version),
            identifier or self.seq(self.name(), self.integer(1)),
            digest_algorithm or self.algorithm(DIGEST_OIDS[digest]),
            b"" if attributes is None else self.tlv(0xA0, *attributes),
            algorithm or self.algorithm(self.signature_oid(self.kind(key), digest)),
            self.octets(signature),
            unsigned,
            tail,
        )

    def signed_data(
        self,
        *signers,
        version=1,
        digests=None,
        content_type=None,
        content=b"",
        certificates=b"",
        lists=b"",
        outer_type="1.2.840.113549.1.7.2",
        tail=b"",
    ):
        body = self.seq(
            self.integer(version),
            digests or self.set(self.algorithm(DIGEST_OIDS["sha256"])),
            self.seq(self.oid(content_type or self.DATA), content),
            certificates,
            lists,
            self.set(*signers),
            tail,
        )
        return self.seq(self.oid(outer_type), self.tlv(0xA0, body))

    def cms(self, key, data, digest="sha256", **parts):
        """Signed data with one signer."""
        return self.signed_data(self.signer(key, data, digest, **parts))


class _Datum(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_uint))


class GnuTls:
    """The calls that the machine makes, on the installed library."""

    DER, PEM = 0, 1
    SHA256_KEY_ID = 1

    def __init__(self):
        self._lib = ctypes.CDLL("libgnutls.so.30")
        self._lib.gnutls_check_version.restype = ctypes.c_char_p
        self.version = self._lib.gnutls_check_version(None).decode()
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = [ctypes.c_void_p]
        self._now = NOW
        time_function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.POINTER(ctypes.c_long))

        def clock(place):
            if place:
                place[0] = self._now
            return self._now

        self._clock = time_function(clock)
        self._lib.gnutls_global_set_time_function(self._clock)
        for name in ("activation", "expiration"):
            getattr(self._lib, f"gnutls_x509_crt_get_{name}_time").restype = ctypes.c_long

    @staticmethod
    def _datum(data):
        buffer = ctypes.create_string_buffer(data, max(1, len(data)))
        datum = _Datum(ctypes.cast(buffer, ctypes.c_void_p), len(data))
        datum.keep = buffer
        return ctypes.byref(datum)

    def _take(self, datum):
        data = ctypes.string_at(datum.data, datum.size)
        self._free(datum.data)
        return data

    def _with_certificate(self, data, form, use):
        handle = ctypes.c_void_p()
        self._lib.gnutls_x509_crt_init(ctypes.byref(handle))
        try:
            if self._lib.gnutls_x509_crt_import(handle, self._datum(data), form) != 0:
                return None
            return use(handle)
        finally:
            self._lib.gnutls_x509_crt_deinit(handle)

    def pem_to_der(self, pem):
        """The DER, or None where the machine would refuse the file."""

        def export(handle):
            out = _Datum()
            if self._lib.gnutls_x509_crt_export2(handle, self.DER, ctypes.byref(out)) != 0:
                return None
            return self._take(out)

        return self._with_certificate(pem, self.PEM, export)

    def certificate(self, der):
        """(key id or None, not before, not after), or None where the machine would refuse the certificate."""

        def read(handle):
            buffer, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
            done = self._lib.gnutls_x509_crt_get_key_id(handle, self.SHA256_KEY_ID, buffer, ctypes.byref(size))
            return (
                buffer.raw[: size.value] if done == 0 else None,
                self._lib.gnutls_x509_crt_get_activation_time(handle),
                self._lib.gnutls_x509_crt_get_expiration_time(handle),
            )

        return self._with_certificate(der, self.DER, read)

    def verifies(self, certificate_der, signature, data, now=NOW):
        """Would the machine take `data` for signed? DER to PEM, PEM in again, first signer, result exactly 0."""
        self._now = now
        pem = self._pkcs7(signature, self.DER, self._export_pkcs7)
        if pem is None:
            return False

        def check(pkcs7):
            return self._with_certificate(
                certificate_der,
                self.DER,
                lambda handle: self._lib.gnutls_pkcs7_verify_direct(pkcs7, handle, 0, self._datum(data), 0) == 0,
            )

        return bool(self._pkcs7(pem, self.PEM, check))

    def _export_pkcs7(self, handle):
        out = _Datum()
        return self._take(out) if self._lib.gnutls_pkcs7_export2(handle, self.PEM, ctypes.byref(out)) == 0 else None

    def _pkcs7(self, data, form, use):
        handle = ctypes.c_void_p()
        self._lib.gnutls_pkcs7_init(ctypes.byref(handle))
        try:
            if self._lib.gnutls_pkcs7_import(handle, self._datum(data), form) != 0:
                return None
            return use(handle)
        finally:
            self._lib.gnutls_pkcs7_deinit(handle)


@pytest.fixture(scope="session")
def forge():
    return Forge()


@pytest.fixture(scope="session")
def now():
    return NOW


class Reference:
    """Asserts that the oracle says what the test expects; where there is no oracle, the test's own list stands."""

    def __init__(self, oracle):
        self._oracle = oracle

    def verifies(self, expected, certificate_der, signature, data):
        if self._oracle is not None:
            assert self._oracle.verifies(certificate_der, signature, data) is expected

    def key_id(self, expected, certificate_der):
        if self._oracle is not None:
            assert self._oracle.certificate(certificate_der)[0] == expected


@pytest.fixture(scope="session")
def _oracle():
    """The oracle, or the reason why there is none."""
    try:
        oracle = GnuTls()
    except OSError:
        return "no libgnutls.so.30 to compare with (apt-get install libgnutls30)"
    if not oracle.version.startswith(GNUTLS_VERSION):
        return f"GnuTLS {oracle.version} is installed, the acceptance was measured on {GNUTLS_VERSION}x"
    return oracle


@pytest.fixture(scope="session")
def gnutls(_oracle):
    if isinstance(_oracle, str):
        pytest.skip(_oracle)
    return _oracle


@pytest.fixture(scope="session")
def reference(_oracle):
    return Reference(None if isinstance(_oracle, str) else _oracle)


@pytest.fixture(scope="session")
def own(data):
    """Reads a file of tests/data/crypto."""
    return lambda name: (data / "crypto" / name).read_bytes()


@pytest.fixture(scope="session")
def keys(own):
    """Private keys by name; elliptic-curve keys are made here, the others would take long."""

    def load(name):
        return serialization.load_pem_private_key(own(f"{name}.key"), None, unsafe_skip_rsa_key_validation=True)

    found = {name: load(name) for name in ("rsa768", "rsa1024", "rsa2048", "dsa2048", "p521")}
    curves = {
        "p192": ec.SECP192R1(),
        "p224": ec.SECP224R1(),
        "p256": ec.SECP256R1(),
        "p384": ec.SECP384R1(),
        "secp256k1": ec.SECP256K1(),
        "brainpool": ec.BrainpoolP256R1(),
    }
    found.update({name: ec.generate_private_key(curve) for name, curve in curves.items()})
    return found
