"""The trailer of an appended signature, as sign-file writes it."""

from __future__ import annotations

from sipl.layout.module_signature import (
    MODULE_SIGNATURE_MARKER,
    MODULE_SIGNATURE_PKCS7,
    MODULE_SIGNATURE_TRAILER_SIZE,
    ModuleSignature,
)
from sipl.layout.record import pack, size_of, unpack


def test_sizes_and_marker():
    assert size_of(ModuleSignature) == 12
    assert len(MODULE_SIGNATURE_MARKER) == 28
    assert MODULE_SIGNATURE_TRAILER_SIZE == 40


def test_the_record_of_a_file_signed_by_sign_file():
    record = bytes.fromhex("0000020000000000" + "0000019b")
    assert unpack(ModuleSignature, record) == (0, 0, MODULE_SIGNATURE_PKCS7, 0, 0, 411)
    assert pack(ModuleSignature(0, 0, MODULE_SIGNATURE_PKCS7, 0, 0, 411)) == record
