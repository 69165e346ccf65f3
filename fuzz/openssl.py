"""OpenSSL's libcrypto as a verifier of its own: nothing of `sipl.crypto` or `cryptography` has a part in it.

`LibCrypto.signed_by` first asks CMS_verify, with the certificate in question set as that of every signer. Where this
says no, each signer is looked at alone, and only what the signature is made of: CMS_verify wants all signers to have
signed, digests to be announced in the outer set, names to be of known types, which says nothing about who signed what.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
from typing import NamedTuple

CMS_BINARY = 0x80
CMS_NO_SIGNER_CERT_VERIFY = 0x20
KU_DIGITAL_SIGNATURE = 0x80
MESSAGE_DIGEST = bytes.fromhex("06092a864886f70d010904")
ATTRIBUTES = 0xA0
OCTETS = b"\x04"
MAX_CACHED = 20_000

_P = ctypes.c_void_p
_I = ctypes.c_int
_L = ctypes.c_long
_Z = ctypes.c_size_t
_FUNCTIONS = {
    "BIO_new_mem_buf": (_P, [ctypes.c_char_p, _I]),
    "BIO_free": (_I, [_P]),
    "PEM_read_bio_X509": (_P, [_P, _P, _P, _P]),
    "d2i_CMS_ContentInfo": (_P, [_P, ctypes.POINTER(ctypes.c_char_p), _L]),
    "i2d_X509": (_I, [_P, _P]),
    "CMS_ContentInfo_free": (None, [_P]),
    "CMS_get0_SignerInfos": (_P, [_P]),
    "CMS_SignerInfo_set1_signer_cert": (None, [_P, _P]),
    "CMS_verify": (_I, [_P, _P, _P, _P, _P, ctypes.c_uint]),
    "OPENSSL_sk_num": (_I, [_P]),
    "OPENSSL_sk_value": (_P, [_P, _I]),
    "d2i_ASN1_OBJECT": (_P, [_P, ctypes.POINTER(ctypes.c_char_p), _L]),
    "ASN1_OBJECT_free": (None, [_P]),
    "OBJ_obj2nid": (_I, [_P]),
    "OBJ_nid2sn": (ctypes.c_char_p, [_I]),
    "X509_get0_pubkey": (_P, [_P]),
    "X509_get0_notBefore": (_P, [_P]),
    "X509_get0_notAfter": (_P, [_P]),
    "X509_get_key_usage": (ctypes.c_uint32, [_P]),
    "X509_cmp_time": (_I, [_P, ctypes.POINTER(_L)]),
    "EVP_get_digestbyname": (_P, [ctypes.c_char_p]),
    "EVP_Digest": (_I, [ctypes.c_char_p, _Z, _P, _P, _P, _P]),
    "EVP_PKEY_CTX_new": (_P, [_P, _P]),
    "EVP_PKEY_CTX_free": (None, [_P]),
    "EVP_PKEY_CTX_set_signature_md": (_I, [_P, _P]),
    "EVP_PKEY_verify_init": (_I, [_P]),
    "EVP_PKEY_verify": (_I, [_P, ctypes.c_char_p, _Z, ctypes.c_char_p, _Z]),
    "ERR_clear_error": (None, []),
}


class NoLibCrypto(Exception):
    """There is no OpenSSL 3 on this host."""


class X509:
    """A certificate as libcrypto holds it; it lives as long as the process."""

    def __init__(self, handle, der):
        self.handle = handle
        self.der = der


class LibCrypto:
    def __init__(self):
        name = ctypes.util.find_library("crypto") or "libcrypto.so.3"
        try:
            self._lib = ctypes.CDLL(name)
            for function, (result, arguments) in _FUNCTIONS.items():
                getattr(self._lib, function).restype = result
                getattr(self._lib, function).argtypes = arguments
        except (OSError, AttributeError) as error:
            raise NoLibCrypto(f"no libcrypto of OpenSSL 3 ({error}); apt-get install libssl3") from error
        self._cache = {}
        self.asked = 0
        self.only_alone = 0  # verified by one signer although CMS_verify as a whole said no

    def certificate(self, pem):
        """The first certificate of a PEM file (bytes)."""
        lib = self._lib
        bio = lib.BIO_new_mem_buf(pem, len(pem))
        handle = lib.PEM_read_bio_X509(bio, None, None, None)
        lib.BIO_free(bio)
        lib.ERR_clear_error()
        if not handle:
            raise ValueError("OpenSSL cannot read this certificate")
        der = ctypes.create_string_buffer(lib.i2d_X509(handle, None))
        at = ctypes.c_void_p(ctypes.addressof(der))
        lib.i2d_X509(handle, ctypes.byref(at))
        return X509(handle, der.raw)

    def may_sign(self, certificate, now):
        """Is the certificate valid at `now` (seconds since 1970), and does its key usage allow signatures?"""
        lib = self._lib
        moment = _L(now)
        started = lib.X509_cmp_time(lib.X509_get0_notBefore(certificate.handle), ctypes.byref(moment)) == -1
        # X509_cmp_time says "before" for the very second, which still belongs to the period of validity.
        moment = _L(now - 1)
        over = lib.X509_cmp_time(lib.X509_get0_notAfter(certificate.handle), ctypes.byref(moment)) == -1
        return started and not over and bool(lib.X509_get_key_usage(certificate.handle) & KU_DIGITAL_SIGNATURE)

    def signed_by(self, content, signature, certificate):
        """Did the key of `certificate` make one of the signatures in the PKCS#7 `signature` over `content`?"""
        content = bytes(content)
        key = (hashlib.sha256(content).digest(), signature, certificate.der)
        if key not in self._cache:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self.asked += 1
            self._cache[key] = self._ask(content, signature, certificate)
            self._lib.ERR_clear_error()
        return self._cache[key]

    def whole(self, content, signature, certificate):
        """What CMS_verify says, all signers taken together."""
        lib = self._lib
        at = ctypes.c_char_p(signature)
        cms = lib.d2i_CMS_ContentInfo(None, ctypes.byref(at), len(signature))
        if not cms:
            return False
        bio = lib.BIO_new_mem_buf(content, len(content))
        try:
            stack = lib.CMS_get0_SignerInfos(cms)
            for number in range(lib.OPENSSL_sk_num(stack) if stack else 0):
                lib.CMS_SignerInfo_set1_signer_cert(lib.OPENSSL_sk_value(stack, number), certificate.handle)
            return lib.CMS_verify(cms, None, None, bio, None, CMS_BINARY | CMS_NO_SIGNER_CERT_VERIFY) == 1
        finally:
            lib.BIO_free(bio)
            lib.CMS_ContentInfo_free(cms)

    def _ask(self, content, signature, certificate):
        if self.whole(content, signature, certificate):
            return True
        alone = any(self._alone(signer, content, certificate) for signer in signers_of(signature))
        self.only_alone += alone
        return alone

    def _alone(self, signer, content, certificate):
        """Did the key make this signature? `signer` is one of `signers_of`."""
        method = self._method(signer.digest)
        if not method:
            return False
        digest = self._digest(method, content)
        if signer.attributes is not None:
            if signer.attributes.get(MESSAGE_DIGEST) != OCTETS + bytes([len(digest)]) + digest:
                return False
            digest = self._digest(method, signer.signed)
        lib = self._lib
        context = lib.EVP_PKEY_CTX_new(lib.X509_get0_pubkey(certificate.handle), None)
        try:
            return (
                lib.EVP_PKEY_verify_init(context) == 1
                and lib.EVP_PKEY_CTX_set_signature_md(context, method) == 1
                and lib.EVP_PKEY_verify(context, signer.signature, len(signer.signature), digest, len(digest)) == 1
            )
        finally:
            lib.EVP_PKEY_CTX_free(context)

    def _method(self, identifier):
        """The digest that a DER object identifier names."""
        lib = self._lib
        at = ctypes.c_char_p(identifier)
        found = lib.d2i_ASN1_OBJECT(None, ctypes.byref(at), len(identifier))
        if not found:
            return None
        try:
            return lib.EVP_get_digestbyname(lib.OBJ_nid2sn(lib.OBJ_obj2nid(found)))
        finally:
            lib.ASN1_OBJECT_free(found)

    def _digest(self, method, data):
        room = ctypes.create_string_buffer(64)
        length = ctypes.c_uint()
        self._lib.EVP_Digest(data, len(data), room, ctypes.byref(length), method, None)
        return room.raw[: length.value]


class Signer(NamedTuple):
    """Of a SignerInfo: the digest's identifier (DER), its attributes, what is signed for them, the signature."""

    digest: bytes
    attributes: dict | None
    signed: bytes
    signature: bytes


def signers_of(der):
    """All signers of a PKCS#7 in definite lengths, whatever lies around them; none where there is no such thing."""
    try:
        _, wrapped = _elements(_elements(der)[0].content)
        data = _elements(_elements(wrapped.content)[0].content)
        return [_signer(_elements(element.content)) for element in _elements(data[-1].content)]
    except (IndexError, ValueError):
        return []


def _signer(fields):
    digest = _elements(fields[2].content)[0].whole
    if fields[3].tag != ATTRIBUTES:
        return Signer(digest, None, b"", fields[4].content)
    elements = _elements(fields[3].content)
    attributes = {}
    for element in elements:
        kind, values = _elements(element.content)
        attributes[kind.whole] = values.content
    # The signature is over the set in DER order, with the tag of a set.
    body = b"".join(sorted(element.whole for element in elements))
    length = len(body).to_bytes(2, "big")
    short = bytes([len(body)]) if len(body) < 0x80 else b"\x81" + length[1:] if len(body) < 0x100 else b"\x82" + length
    return Signer(digest, attributes, b"\x31" + short + body, fields[5].content)


class Element(NamedTuple):
    tag: int
    content: bytes
    whole: bytes


def _elements(data):
    """The DER elements that follow each other in `data`."""
    found = []
    at = 0
    while at < len(data):
        start = at
        tag = data[at]
        length = data[at + 1]
        at += 2
        if length & 0x80:
            octets = length & 0x7F
            length = int.from_bytes(data[at : at + octets], "big")
            at += octets
        if at + length > len(data):
            raise ValueError("an element goes on behind its end")
        found.append(Element(tag, data[at : at + length], data[start : at + length]))
        at += length
    return found
