"""The certificate store as the guest will see it: what the survey says is what DIAGNOSE 320 gives."""

from __future__ import annotations

import hashlib

import pytest
from ipl_lab import AT, YEAR, Bare, Signers

import sipl
from sipl.crypto import signing
from sipl.crypto.certificate import Certificate
from sipl.layout.diag320 import ResponseCode, Subcode, VcbHeader, VceHeader
from sipl.layout.record import pack, size_of, unpack
from sipl.machine.ebcdic import from_ebcdic


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    signers = Signers(tmp_path_factory.mktemp("store"))
    old = signers.make("old", signing.generate_key("p256"), AT - 3 * YEAR, AT - 2 * YEAR)
    coming = signers.make("coming", signing.generate_key("p256"), AT + YEAR, AT + 2 * YEAR)
    return [signers["A"].path, signers["B"].path, old.path, signers["C"].path, coming.path]


class TestViews:
    def test_fields(self, paths):
        views = sipl.certificates(paths, AT)
        assert [view.number for view in views] == [1, 2, 3, 4, 5]
        assert [view.name for view in views] == ["A.pem", "B.pem", "old.pem", "C.pem", "coming.pem"]
        assert [view.path for view in views] == paths
        assert [view.key for view in views] == ["P-256", "P-521", "P-256", "RSA-2048", "P-256"]
        assert [view.key_type for view in views] == [0, 1, 0, 0, 0]
        assert [view.valid for view in views] == [True, True, False, True, False]
        assert all(view.subject == view.issuer for view in views)

    def test_why_not(self, paths):
        _, _, old, _, coming = sipl.certificates(paths, AT)
        assert "expired" in old.why_not
        assert "not valid" in coming.why_not or "not yet" in coming.why_not or "before" in coming.why_not
        assert old.why_not != coming.why_not

    def test_time_decides(self, paths):
        assert [view.valid for view in sipl.certificates(paths, AT - 2 * YEAR - 3600)] == [
            False,
            False,
            True,
            False,
            False,
        ]

    def test_hashes(self, paths):
        for view in sipl.certificates(paths, AT):
            with open(view.path, "rb") as file:
                certificate = Certificate.from_pem(file.read())
            assert view.sha256 == hashlib.sha256(certificate.der).hexdigest()
            assert view.der_length == len(certificate.der)
            assert view.key_id == certificate.key_id().hex()

    def test_what_the_guest_is_told(self, paths):
        """Lengths and key types are those of the entries that DIAGNOSE 320 stores."""
        machine = Bare(certs=paths)
        views = sipl.certificates(paths, AT)
        nothing = unpack(VcbHeader, bytes(size_of(VcbHeader)))
        request = nothing._replace(input_length=0x8000, first_index=1, last_index=len(paths))
        machine.write(0x10000, pack(request))
        assert machine.diagnose(0x320, 0x10000, Subcode.STORE_CERTIFICATES) == ResponseCode.OK
        stored = machine.read(0x10000, 0x8000)
        assert unpack(VcbHeader, stored).stored == len(views)
        offset = size_of(VcbHeader)
        for view in views:
            header = unpack(VceHeader, stored, offset)
            assert (header.length, header.certificate_index) == (view.vce_length, view.number)
            assert header.key_type == view.key_type
            assert from_ebcdic(header.name).rstrip() == view.name
            offset += header.length
