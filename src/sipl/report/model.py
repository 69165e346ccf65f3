"""The report of one IPL, `sipl.report/1` (docs/report.md): what the JSON holds, as typed objects.

Every text in it is safe to show: what came from a disk, a certificate, a guest or a file name has control, escape and
bidirectional characters escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from sipl.reasons import Level, Mode, Outcome, Reason

SCHEMA: Final = "sipl.report/1"


class DeviceReport(NamedTuple):
    """One boot device: hands-over, stops, given-up, undecided or not-tried; `program` is None if none was chosen."""

    path: str
    kind: str
    outcome: str
    reason: Reason | None
    program: int | None


class ComponentReport(NamedTuple):
    """One component of the program that was loaded last; the PSW entry is not among them.

    `flags` and `error_indicators` (CEI) as in the IPL report; `certificate` is the SHA-256 fingerprint of the
    certificate that verified it; `digest` the SHA-256 of its bytes in guest memory, None if it was not loaded; both
    hex. `part` is what it is by the place that zipl gives it (loader, kernel, …), None where nothing tells.
    """

    address: int
    length: int
    flags: int
    signed: bool
    verified: bool
    certificate: str | None
    error_indicators: int
    digest: str | None
    part: str | None = None


class CertificateReport(NamedTuple):
    """A certificate of the IPL report. Times are ISO 8601 in UTC, `length` is in bytes of DER."""

    report_index: int  # position in the IPL report, origin 0; `index` in JSON
    store_index: int  # position in the certificate store, origin 0
    name: str  # as the guest sees it
    subject: str
    not_before: str
    not_after: str
    sha256: str
    length: int


class FindingReport(NamedTuple):
    """One finding. `device` and `component` are positions in the lists of the report, origin 0, or None."""

    reason: Reason
    level: Level
    device: int | None
    component: int | None
    message: str
    hint: str


class Report(NamedTuple):
    """What happened in one IPL, or what would happen (docs/report.md).

    `psw`, `ipl_parameter_block` and `ipl_report` are hex; `error_indicators` is the IIEI, `psw_error_indicators` the
    CEI of the PSW entry, both None where there is none. `would_boot` is what the exit code says: True is 0, False 1,
    None 2. `closed`: everything that is loaded was verified, and the loader forbids anything unsigned (NUC); None where
    that was not looked at. `unsigned` names the components without a signature, those that matter most first.
    """

    mode: Mode
    outcome: Outcome
    reason: Reason | None
    psw: str | None
    devices: tuple[DeviceReport, ...]
    components: tuple[ComponentReport, ...]
    error_indicators: int | None
    psw_error_indicators: int | None
    would_boot: bool | None
    certificates: tuple[CertificateReport, ...]
    findings: tuple[FindingReport, ...]
    ipl_parameter_block: str | None
    ipl_report: str | None
    closed: bool | None = None
    unsigned: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 yes, 1 no, 2 could not decide."""
        return 2 if self.would_boot is None else int(not self.would_boot)
