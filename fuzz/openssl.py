"""OpenSSL's libcrypto as a verifier of its own: nothing of `sipl.crypto` or `cryptography` has a part in it.

`LibCrypto.signed_by` first asks CMS_verify, with the certificate in question set as that of every signer. Where this
says no it looks at each signer alone: CMS_verify wants all signers to have signed, and the digests to be announced
in the outer set, which says nothing about who signed what.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib

CMS_BINARY = 0x80
CMS_NO_SIGNER_CERT_VERIFY = 0x20
KU_DIGITAL_SIGNATURE = 0x80
NID_MESSAGE_DIGEST = 51
V_ASN1_OCTET_STRING = 4
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
    "CMS_SignerInfo_get0_algs": (None, [_P, _P, _P, _P, _P]),
    "CMS_SignerInfo_get0_signature": (_P, [_P]),
    "CMS_SignerInfo_verify": (_I, [_P]),
    "CMS_signed_get_attr_count": (_I, [_P]),
    "CMS_signed_get0_data_by_OBJ": (_P, [_P, _P, _I, _I]),
    "CMS_verify": (_I, [_P, _P, _P, _P, _P, ctypes.c_uint]),
    "OPENSSL_sk_num": (_I, [_P]),
    "OPENSSL_sk_value": (_P, [_P, _I]),
    "OBJ_nid2obj": (_P, [_I]),
    "OBJ_obj2nid": (_I, [_P]),
    "OBJ_nid2sn": (ctypes.c_char_p, [_I]),
    "X509_ALGOR_get0": (None, [_P, _P, _P, _P]),
    "X509_get0_pubkey": (_P, [_P]),
    "X509_get0_notBefore": (_P, [_P]),
    "X509_get0_notAfter": (_P, [_P]),
    "X509_get_key_usage": (ctypes.c_uint32, [_P]),
    "X509_cmp_time": (_I, [_P, ctypes.POINTER(_L)]),
    "ASN1_STRING_get0_data": (_P, [_P]),
    "ASN1_STRING_length": (_I, [_P]),
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
        return self._with_signers(signature, lambda cms, signers: self._whole(cms, signers, content, certificate))

    def _ask(self, content, signature, certificate):
        if self.whole(content, signature, certificate):
            return True
        alone = self._with_signers(
            signature, lambda _, signers: any(self._alone(signer, content, certificate) for signer in signers)
        )
        self.only_alone += alone
        return alone

    def _with_signers(self, signature, use):
        lib = self._lib
        at = ctypes.c_char_p(signature)
        cms = lib.d2i_CMS_ContentInfo(None, ctypes.byref(at), len(signature))
        if not cms:
            return False
        try:
            stack = lib.CMS_get0_SignerInfos(cms)
            signers = [lib.OPENSSL_sk_value(stack, i) for i in range(lib.OPENSSL_sk_num(stack))] if stack else []
            return bool(signers) and use(cms, signers)
        finally:
            lib.CMS_ContentInfo_free(cms)

    def _whole(self, cms, signers, content, certificate):
        lib = self._lib
        for signer in signers:
            lib.CMS_SignerInfo_set1_signer_cert(signer, certificate.handle)
        bio = lib.BIO_new_mem_buf(content, len(content))
        try:
            return lib.CMS_verify(cms, None, None, bio, None, CMS_BINARY | CMS_NO_SIGNER_CERT_VERIFY) == 1
        finally:
            lib.BIO_free(bio)

    def _alone(self, signer, content, certificate):
        lib = self._lib
        lib.CMS_SignerInfo_set1_signer_cert(signer, certificate.handle)
        algorithm, identifier = _P(), _P()
        lib.CMS_SignerInfo_get0_algs(signer, None, None, ctypes.byref(algorithm), None)
        lib.X509_ALGOR_get0(ctypes.byref(identifier), None, None, algorithm)
        method = lib.EVP_get_digestbyname(lib.OBJ_nid2sn(lib.OBJ_obj2nid(identifier)))
        if not method:
            return False
        room = ctypes.create_string_buffer(64)
        length = ctypes.c_uint()
        lib.EVP_Digest(content, len(content), room, ctypes.byref(length), method, None)
        digest = room.raw[: length.value]
        if lib.CMS_signed_get_attr_count(signer) > 0:
            found = lib.CMS_signed_get0_data_by_OBJ(
                signer, lib.OBJ_nid2obj(NID_MESSAGE_DIGEST), -3, V_ASN1_OCTET_STRING
            )
            return bool(found) and self._octets(found) == digest and lib.CMS_SignerInfo_verify(signer) == 1
        signature = self._octets(lib.CMS_SignerInfo_get0_signature(signer))
        context = lib.EVP_PKEY_CTX_new(lib.X509_get0_pubkey(certificate.handle), None)
        try:
            return (
                lib.EVP_PKEY_verify_init(context) == 1
                and lib.EVP_PKEY_CTX_set_signature_md(context, method) == 1
                and lib.EVP_PKEY_verify(context, signature, len(signature), digest, len(digest)) == 1
            )
        finally:
            lib.EVP_PKEY_CTX_free(context)

    def _octets(self, string):
        data = self._lib.ASN1_STRING_get0_data(string)
        return ctypes.string_at(data, self._lib.ASN1_STRING_length(string)) if data else b""
