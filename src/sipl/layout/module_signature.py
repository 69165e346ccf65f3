"""The trailer of a file with an appended signature, as of Linux's sign-file (docs/formats/appended-signature.md).

The file is: payload, PKCS#7 in DER, this record, the marker.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.layout.record import layout

MODULE_SIGNATURE_MARKER: Final = b"~Module signature appended~\n"
MODULE_SIGNATURE_SIZE: Final = 12
MODULE_SIGNATURE_TRAILER_SIZE: Final = MODULE_SIGNATURE_SIZE + len(MODULE_SIGNATURE_MARKER)
MODULE_SIGNATURE_PKCS7: Final = 2  # the only type of identifier that zipl and Linux take


@layout(">BBBBB3xI")
class ModuleSignature(NamedTuple):
    """12 bytes between the signature and the marker; everything but `id_type` and `signature_length` is zero."""

    algorithm: int
    hash: int
    id_type: int
    signer_length: int
    key_id_length: int
    signature_length: int  # bytes of PKCS#7 in front of this record
