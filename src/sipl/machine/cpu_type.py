"""Machine types: the number and the generation behind the name of a CPU model (docs/machine-options.md)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from sipl.machine.cpu_model import CpuModel

_BASE: Final = "-base"
# A later edition of the same machine: z900.2, z9EC.3.
_EDITION: Final = re.compile(r"\.[0-9]+\Z")


class CpuType(NamedTuple):
    """What STIDP and STSI say of a model; `number` has four hexadecimal digits."""

    number: int
    generation: int

    @property
    def cpu_id(self) -> int:
        """What STIDP stores, 64 bits: no version, no serial number, the machine type."""
        return self.number << 16


# The models that have everything say that they are a z15.
_EVERYTHING: Final = CpuType(0x8561, 15)
_TYPES: Final = {
    "z900": CpuType(0x2064, 7),
    "z800": CpuType(0x2066, 7),
    "z990": CpuType(0x2084, 8),
    "z890": CpuType(0x2086, 8),
    "z9EC": CpuType(0x2094, 9),
    "z9BC": CpuType(0x2096, 9),
    "z10EC": CpuType(0x2097, 10),
    "z10BC": CpuType(0x2098, 10),
    "z196": CpuType(0x2817, 11),
    "z114": CpuType(0x2818, 11),
    "zEC12": CpuType(0x2827, 12),
    "zBC12": CpuType(0x2828, 12),
    "z13": CpuType(0x2964, 13),
    "z13s": CpuType(0x2965, 13),
    "z14": CpuType(0x3906, 14),
    "z14ZR1": CpuType(0x3907, 14),
    "gen15a": CpuType(0x8561, 15),
    "gen15b": CpuType(0x8562, 15),
    "z15": CpuType(0x8561, 15),
    "gen16a": CpuType(0x3931, 16),
    "gen16b": CpuType(0x3932, 16),
    "z16": CpuType(0x3931, 16),
    "gen17a": CpuType(0x9175, 17),
    "gen17b": CpuType(0x9176, 17),
    "z17": CpuType(0x9175, 17),
}


def cpu_type(model: CpuModel) -> CpuType:
    """Machine type of a CPU model; `qemu` and `max` are a z15."""
    return _TYPES.get(_EDITION.sub("", model.name.removesuffix(_BASE)), _EVERYTHING)
