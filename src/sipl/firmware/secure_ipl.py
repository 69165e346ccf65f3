"""Audit and secure mode: load the components of a program and check each before the next is looked at.

The order of the checks is the order of this file: a signature entry, then for its component the address rules, the
SCLAB rules, the signature; at the end the entry PSW and the global rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.firmware.components import place_component
from sipl.firmware.global_rules import check_program, check_psw
from sipl.firmware.report import build_report
from sipl.firmware.sclab import SclabCount, check_sclab
from sipl.firmware.signature import load_signature, verify
from sipl.firmware.verdict import DeviceGivenUp
from sipl.layout.boot_record import COMPONENT_EXECUTE, COMPONENT_LOAD, COMPONENT_SIGNATURE
from sipl.layout.iirb import Cei, ComponentFlags
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sipl.firmware.area import FirmwareArea
    from sipl.firmware.blocks import BlockReader
    from sipl.firmware.certificates import CertificateList
    from sipl.firmware.components import Component, ComponentList
    from sipl.firmware.platform import Platform
    from sipl.firmware.signature import PendingSignature
    from sipl.firmware.verdict import Judge
    from sipl.layout.boot_record import ComponentEntry
    from sipl.layout.iirb import ReportComponent

LOWEST_UNSIGNED_ADDRESS: Final = 0x2000  # below lies the lowcore of the program that is started


class SecureIpl:
    """One program of one device. The attributes hold what was found, also when an exception ended the attempt."""

    def __init__(
        self,
        platform: Platform,
        reader: BlockReader,
        area: FirmwareArea,
        certificates: CertificateList,
        components: ComponentList,
        judge: Judge,
    ) -> None:
        self._platform = platform
        self._reader = reader
        self._area = area
        self._judge = judge
        self.sclabs = SclabCount()
        self.components = components
        self.certificates = certificates
        self.psw: int | None = None
        self.psw_entry: ReportComponent | None = None
        self.error_indicators = 0

    def load_program(self, entries: Iterable[ComponentEntry]) -> int:
        """Load and check everything that the component table names; the result is the PSW of its EXEC entry.

        Raises:
            MachineStops: a rule is broken, in secure mode; load-address-forbidden in every mode.
            DeviceGivenUp: the table, a signature entry or a certificate cannot be used.
        """
        signature: PendingSignature | None = None
        for entry in entries:
            if entry.type == COMPONENT_EXECUTE:
                self.psw = int.from_bytes(entry.value, "big")
                self._check_whole(self.psw)
                return self.psw
            if entry.type == COMPONENT_SIGNATURE:
                if signature is not None:
                    raise DeviceGivenUp(Reason.SIGNATURE_REPEATED, "two signature entries follow each other")
                signature = load_signature(self._platform, self._reader, self._area, entry, self._judge)
            elif entry.type == COMPONENT_LOAD:
                self._load(entry, signature)
                signature = None
            else:
                raise DeviceGivenUp(Reason.UNKNOWN_COMPONENT_TYPE, f"a component has type {entry.type}")
        raise AssertionError("unreachable: the entries of a table end with EXEC or with an exception")

    def report(self) -> bytes:
        """The IPL report of the program that was loaded."""
        return build_report(self.components, self.psw_entry, self.error_indicators, self.certificates.entries)

    def _load(self, entry: ComponentEntry, signature: PendingSignature | None) -> None:
        component, segments = place_component(self._reader, self._area, entry, self.components)
        self._check_overlap(component)
        segments.read(self._reader, component.address)
        component.loaded = True
        if signature is None:
            self._check_unsigned_address(component)
            return
        component.flags = ComponentFlags.SIGNED
        component.signature_length = signature.length
        check_sclab(self._platform, component, self.sclabs, self._judge)
        self._verify(component, signature)

    def _check_overlap(self, component: Component) -> None:
        other = self.components.signed_at(component.address, component.length)
        if other is not None:
            message = (
                f"the component at {component.address:#x} to {component.end:#x} overlaps the signed one "
                f"at {other.address:#x} to {other.end:#x}"
            )
            self._judge.broken(Reason.ADDRESS_OVERLAP, message, component.position)

    def _check_unsigned_address(self, component: Component) -> None:
        if component.address < LOWEST_UNSIGNED_ADDRESS:
            component.error_indicators |= Cei.UNSIGNED_ADDRESS_TOO_LOW
            message = f"the unsigned component at {component.address:#x} lies below {LOWEST_UNSIGNED_ADDRESS:#x}"
            self._judge.broken(Reason.UNSIGNED_ADDRESS_TOO_LOW, message, component.position)

    def _verify(self, component: Component, signature: PendingSignature) -> None:
        answer = verify(self._platform, self._area, component, signature)
        if answer is None:
            message = f"the signature of the component at {component.address:#x} does not verify"
            self._judge.broken(Reason.SIGNATURE_NOT_VERIFIED, message, component.position)
            return
        component.certificate_index = self.certificates.position_of(answer.certificate_index)
        component.store_index = answer.certificate_index
        component.flags |= ComponentFlags.VERIFIED
        message = f"component at {component.address:#x} to {component.end:#x} verified"
        self._judge.add(Reason.COMPONENT_VERIFIED, Level.INFO, message, component.position)

    def _check_whole(self, psw: int) -> None:
        """The PSW rules, and with them the PSW entry, exist whenever there is a global SCLAB."""
        if self.sclabs.first_global is not None:
            self.psw_entry = check_psw(psw, self.sclabs.first_global, self.components, self._judge)
        self.error_indicators = check_program(self.sclabs, self.components, self._judge)
