"""The IPL report (IIRB): header, component block, certificate block, in this order (docs/formats/iirb.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.firmware.verdict import FirmwareFault
from sipl.layout.iirb import (
    EMPTY_LAST_BLOCK_PADDING,
    MAX_REPORT_CERTIFICATES,
    MAX_REPORT_COMPONENTS,
    ReportBlockHeader,
    ReportBlockType,
    ReportComponent,
    ReportHeader,
)
from sipl.layout.record import pack, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sipl.firmware.components import Component
    from sipl.layout.iirb import CertificateEntry


def component_entry(component: Component) -> ReportComponent:
    """The report entry of a component; one that is not verified has certificate index 0."""
    return ReportComponent(
        component.address,
        component.length,
        component.flags,
        component.certificate_index if component.verified else 0,
        component.error_indicators,
    )


def build_report(
    components: Iterable[Component],
    psw_entry: ReportComponent | None,
    error_indicators: int,
    certificates: Sequence[CertificateEntry],
) -> bytes:
    """The report as it lies in memory behind the IPL parameter block.

    A report whose last block has no entry ends with 8 zero bytes, which its length counts: Linux looks at a block only
    while more than a block header's length is left, and without them it would not see the empty block and so ignore
    the whole report.

    Raises:
        FirmwareFault: more entries than there is room for.
    """
    entries = [component_entry(component) for component in components]
    if psw_entry is not None:
        entries.append(psw_entry)
    if len(entries) > MAX_REPORT_COMPONENTS or len(certificates) > MAX_REPORT_CERTIFICATES:
        raise FirmwareFault("IPL report", f"no room for {len(entries)} components and {len(certificates)} certificates")
    body = _block(ReportBlockType.COMPONENTS, error_indicators, entries)
    body += _block(ReportBlockType.CERTIFICATES, 0, certificates)
    if not certificates:
        body += bytes(EMPTY_LAST_BLOCK_PADDING)
    return pack(ReportHeader(size_of(ReportHeader) + len(body), 0)) + body


def _block(kind: ReportBlockType, error_indicators: int, entries: Sequence[tuple[int, ...]]) -> bytes:
    body = b"".join(map(pack, entries))
    return pack(ReportBlockHeader(size_of(ReportBlockHeader) + len(body), kind, error_indicators)) + body
