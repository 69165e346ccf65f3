"""Looking without judging: the boot map of a disk, the certificates of a store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sipl.reasons import Reason
    from sipl.settings import Disk
    from sipl.survey.model import BootMapView, CertificateView


def inspect(disk: Disk, *, allow_backing: bool = False, backing_folder: str | None = None) -> BootMapView:
    """Show the boot map of a disk; what is wrong with the boot map itself is in `fault` fields.

    Raises:
        UndecidedError: the image cannot be opened or read.
    """
    from sipl.disk.block_device import BlockDevice
    from sipl.disk.block_size import find_block_size
    from sipl.disk.open import open_image
    from sipl.survey.boot_map import survey_boot_map

    with open_image(disk.path, allow_backing=allow_backing, backing_folder=backing_folder) as image:
        return survey_boot_map(image, BlockDevice(image, disk.block_size or find_block_size(image)))


def certificates(
    paths: Sequence[str], at: int | None = None, warn: Callable[[Reason, str, str, str], None] | None = None
) -> tuple[CertificateView, ...]:
    """Show the certificate store that paths of files and directories give, judged at `at` (None is now).

    `warn` gets each warning: reason, where, why, what to do.

    Raises:
        RefusedToStart: a machine would not start with these paths.
    """
    from sipl.machine.cert_store import CertStore
    from sipl.survey.certificates import survey_store

    store = CertStore.load(paths, warn or (lambda *_: None))
    return survey_store(store, int(time.time()) if at is None else at)
