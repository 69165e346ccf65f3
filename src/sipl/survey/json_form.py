"""Boot maps and certificate stores as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sipl.report.json_form import plain
from sipl.survey.model import BOOT_MAP_SCHEMA, CERTIFICATES_SCHEMA
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sipl.reasons import Reason
    from sipl.survey.model import BootMapView, CertificateView


def boot_map_dict(view: BootMapView) -> dict[str, Any]:
    """A boot map as JSON knows it."""
    return {"schema": BOOT_MAP_SCHEMA} | {name: plain(value) for name, value in view._asdict().items()}


def certificates_dict(views: Sequence[CertificateView], reason: Reason | None, notes: Sequence[str]) -> dict[str, Any]:
    """A certificate store as JSON knows it; `reason` says why a machine would refuse it."""
    return {
        "schema": CERTIFICATES_SCHEMA,
        "reason": reason,
        "certificates": [plain(view) for view in views],
        "notes": [printable(note) for note in notes],
    }
