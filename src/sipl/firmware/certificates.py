"""Certificates that verified a component: fetched once each (DIAGNOSE 320) and kept for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.firmware.area import CERTIFICATE_BLOCK_ROOM
from sipl.firmware.facilities import DIAGNOSE_320
from sipl.firmware.verdict import DeviceGivenUp
from sipl.layout.diag320 import (
    VCB_ALIGNMENT,
    VCB_HEADER_SIZE,
    VCE_HEADER_SIZE,
    VCE_VALID,
    ResponseCode,
    Subcode,
    VcbHeader,
    VceHeader,
)
from sipl.layout.iirb import CertificateEntry
from sipl.layout.record import pack, unpack
from sipl.reasons import Reason

if TYPE_CHECKING:
    from sipl.firmware.area import FirmwareArea
    from sipl.firmware.platform import Platform

_NO_ENTRY: Final = VCB_HEADER_SIZE  # output length of a request that named nothing in the store


class CertificateList:
    """The certificates of the report, in the order in which they were first needed.

    `entries` are those of the report; `store_indices` the positions in the store, origin 0, in the same order.
    """

    def __init__(self, platform: Platform, area: FirmwareArea, max_vcb_length: int) -> None:
        self._platform = platform
        self._area = area
        self._vcb_length = -(-max_vcb_length // VCB_ALIGNMENT) * VCB_ALIGNMENT
        self._next = area.certificates
        self.entries: list[CertificateEntry] = []
        self.store_indices: list[int] = []

    def position_of(self, store_index: int) -> int:
        """Position in the report of a certificate of the store; fetches it when it is new.

        Raises:
            DeviceGivenUp: certificate-not-available.
        """
        if store_index not in self.store_indices:
            der = self._fetch(store_index)
            if self._next + len(der) > self._area.certificates_end:
                raise _not_available(store_index, "the firmware has no room for it")
            self._platform.store(self._next, der)
            self.entries.append(CertificateEntry(self._next, len(der)))
            self.store_indices.append(store_index)
            self._next += len(der)
        return self.store_indices.index(store_index)

    def _fetch(self, store_index: int) -> bytes:
        """The DER of a certificate, from the certificate block that the machine stores for it."""
        if not 0 < self._vcb_length <= CERTIFICATE_BLOCK_ROOM:
            raise _not_available(store_index, f"a certificate block of {self._vcb_length} bytes is not possible")
        number = store_index + 1
        block = self._area.certificate_block
        request = unpack(VcbHeader, bytes(VCB_HEADER_SIZE))
        request = request._replace(input_length=self._vcb_length, first_index=number, last_index=number)
        self._platform.store(block, pack(request))
        response = self._platform.diagnose(DIAGNOSE_320, block, Subcode.STORE_CERTIFICATES)
        if response != ResponseCode.OK:
            raise _not_available(store_index, f"the machine answers {response:#06x}")
        header = unpack(VcbHeader, self._platform.load(block, VCB_HEADER_SIZE))
        if header.output_length == _NO_ENTRY:
            raise _not_available(store_index, "the store has no such entry")
        if header.remaining:
            raise _not_available(store_index, "it does not fit into the block that the machine asked for")
        entry = unpack(VceHeader, self._platform.load(block + VCB_HEADER_SIZE, VCE_HEADER_SIZE))
        if not entry.flags & VCE_VALID:
            raise _not_available(store_index, "the machine marks it as not valid")
        if entry.certificate_offset + entry.certificate_length > entry.length:
            raise _not_available(store_index, "its entry ends before the certificate does")
        return self._platform.load(block + VCB_HEADER_SIZE + entry.certificate_offset, entry.certificate_length)


def _not_available(store_index: int, why: str) -> DeviceGivenUp:
    return DeviceGivenUp(
        Reason.CERTIFICATE_NOT_AVAILABLE, f"certificate {store_index + 1} of the store verified a component, but {why}"
    )
