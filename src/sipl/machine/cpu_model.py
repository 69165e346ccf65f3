"""CPU models and what they bring to secure IPL (docs/machine-options.md).

Four features matter: `els` (the long SCLP block, in which the others are told), `cstore` (DIAGNOSE 320), `sipl`
(DIAGNOSE 508) and `sclaf` (load attributes in components). The rest of QEMU's features is known by name only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

OPTION: Final = "--cpu"
# A model with every feature of the table switched is far shorter.
MAX_CPU_LENGTH: Final = 16 * 1024
# How much of a foreign name an error shows.
_SHOWN: Final = 80

FACILITIES: Final = ("els", "cstore", "sipl", "sclaf")
# The generation that a facility can be switched on from: zEC12 and z16.
_INTRODUCED: Final = {"els": 12, "cstore": 16, "sipl": 16, "sclaf": 16}
# Who lacks what he builds upon still starts, with a warning.
_DEPENDENCIES: Final = (("cstore", "els"), ("sipl", "els"), ("sclaf", "els"), ("sclaf", "sipl"))

_EVERYTHING: Final = frozenset({"qemu", "max"})
_KVM_ONLY: Final = "host"
_BASE: Final = "-base"  # the same machine with the features that never change
# z15, z16 and z17 are what people call gen15a, gen16a and gen17a.
_MODELS: Final = {
    7: "z900 z900.2 z900.3 z800",
    8: "z990 z990.2 z990.3 z990.4 z990.5 z890 z890.2 z890.3",
    9: "z9EC z9EC.2 z9EC.3 z9BC z9BC.2",
    10: "z10EC z10EC.2 z10EC.3 z10BC z10BC.2",
    11: "z196 z196.2 z114",
    12: "zEC12 zEC12.2 zBC12",
    13: "z13 z13.2 z13s",
    14: "z14 z14.2 z14ZR1",
    15: "gen15a gen15b z15",
    16: "gen16a gen16b z16",
    17: "gen17a gen17b z17",
}
_HINT_MODEL: Final = "z16"  # the first one that can have all four

# In lower case: names as the features of QEMU's s390x processors are spelled there.
_FEATURES: Final = """
    esan3 zarch dateh dateh2 idtes idter asnlxr stfle edat edat2 srs csske ctop ipter nonqks etf2 etf2eh etf3 etf3eh
    ldisp ldisphp hfpm hfpue eimm stckf parseh mvcos ectg csst csst2 ginste exrl emon fpe opc sprogp fpseh dfp dfphp
    dfpzc dfppc pfpo stfle45 stfle49 stfle53 cmpsceh cte te ineff_nc_tx ltlbc iacc2 eec minste2 minste3 minste4 sema tsi
    ri zpci aen ais sthyi aefsi ppa15 bpb sif iep sea_esop2 gs vx vxpd vxpdeh vxpdeh2 vxpdeh3 vxeh vxeh2 vxeh3 mepoch
    tpei irbm cmm cmmnt etoken unpack nnpa beareh rdp pai paie ap apft apqci apqi appv appvi diag318
    els cstore sipl sclaf gsls esop hpma2 kss 64bscao cmma pfmfi ibs sief2 skey gpereh siif sigpif ib cei
    tods tods-base gen13ptff gen17ptff mepochptff plo plo_ext plo-ext esort esort-base deflate deflate-base ccf ccf-base
    msa msa-base msa1 msa2 msa3 msa3-base msa4 msa4-base msa5 msa5-base msa6 msa7 msa8 msa8-base msa9 msa9-base
    msa9_pckmo msa10 msa10_pckmo msa11 msa11_pckmo msa12 msa12-base msa13 msa13_pckmo
"""
# Functions of instructions: each is a feature by itself, instruction and function joined by a hyphen.
_DES: Final = "dea tdea-128 tdea-192 edea etdea-128 etdea-192"
_AES: Final = "aes-128 aes-192 aes-256 eaes-128 eaes-192 eaes-256"
_XTS: Final = "xts-aes-128 xts-aes-256 xts-eaes-128 xts-eaes-256"
_SHA: Final = "sha-1 sha-256 sha-512 sha3-224 sha3-256 sha3-384 sha3-512 shake-128 shake-256 qai"
_FUNCTIONS: Final = {
    "plo": "cl clg clgr clx cs csg csgr csx dcs dcsg dcsgr dcsx csst csstg csstgr csstx csdst csdstg csdstgr csdstx "
    "cstst cststg cststgr cststx clo cso dcso cssto csdsto cststo tcs tcsg tcsx tcso qcs qcsg qcsx qcso lo dlx dlo "
    "tl tlg tlx tlo ql qlg qlx qlo sto dst dstg dstx dsto tst tstg tstx tsto qst qstg qstx qsto",
    "ptff": "qto qsi qpc qui qtou qtse qsie qtoue sto stou stoe stoue",
    "kmac": f"{_DES} {_AES} hmac-sha-224 hmac-sha-246 hmac-sha-384 hmac-sha-512 "
    "hmac-esha-224 hmac-esha-246 hmac-esha-384 hmac-esha-512 qai",
    "kmc": f"{_DES} {_AES} prng qai",
    "km": f"{_DES} {_AES} {_XTS} full-xts-aes-128 full-xts-aes-256 full-xts-eaes-128 full-xts-eaes-256 qai",
    "kimd": f"{_SHA} ghash",
    "klmd": _SHA,
    "pckmo": "edea etdea-128 etdea-192 aes-128 aes-192 aes-256 aes-xts-128-dk aes-xts-256-dk "
    "ecc-p256 ecc-p384 ecc-p521 ecc-ed25519 ecc-ed448 hmac-512 hmac-1024 qai",
    "kmctr": f"{_DES} {_AES} qai",
    "kmf": f"{_DES} {_AES} qai",
    "kmo": f"{_DES} {_AES} qai",
    "pcc": " ".join(f"cmac-{name}" for name in f"{_DES} {_AES}".split())
    + f" {_XTS} scalar-mult-p256 scalar-mult-p384 scalar-mult-p521 scalar-mult-ed25519 scalar-mult-ed448 "
    "scalar-mult-x25519 scalar-mult-x448 qai",
    "ppno": "sha-512-drng",
    "prno": "trng-qrtcr trng qai",
    "kma": "gcm-aes-128 gcm-aes-192 gcm-aes-256 gcm-eaes-128 gcm-eaes-192 gcm-eaes-256 qai",
    "kdsa": "ecdsa-verify-p256 ecdsa-verify-p384 ecdsa-verify-p521 ecdsa-sign-p256 ecdsa-sign-p384 ecdsa-sign-p521 "
    "eecdsa-sign-p256 eecdsa-sign-p384 eecdsa-sign-p521 eddsa-verify-ed25519 eddsa-verify-ed448 eddsa-sign-ed25519 "
    "eddsa-sign-ed448 eeddsa-sign-ed25519 eeddsa-sign-ed448 qai",
    "sortl": "sflr svlr 32 128 f0",
    "dfltcc": "gdht cmpr xpnd f0",
    "pfcr": "qaf csdst csdstg cstst cststg",
}

_SWITCH: Final = r"([+-])([^=]+)|([^=]+)=(.*)"


class CpuModel(NamedTuple):
    """A CPU model with the four facilities of secure IPL.

    `features` holds the names of the features that are on because they were switched on, or because they are one of
    the four; `warnings` are sentences on dependencies that are not met.
    """

    name: str
    els: bool
    cstore: bool
    sipl: bool
    sclaf: bool
    features: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    def as_protected(self) -> CpuModel:
        """What a guest of protected virtualization finds: none of the facilities that secure IPL needs."""
        hidden = frozenset(FACILITIES[1:])
        return self._replace(cstore=False, sipl=False, sclaf=False, features=self.features - hidden)


def parse_cpu(text: str, option: str = OPTION) -> CpuModel:
    """Parse a CPU model and its features: `z16,sipl=on,vx=off`; also `+sipl,-vx`.

    Raises:
        UsageError: no such model or feature, or the model is too old for it.
    """
    if len(text) > MAX_CPU_LENGTH:
        raise UsageError(option, f"the option is longer than {MAX_CPU_LENGTH} characters")
    name, *switches = text.split(",")
    generation = _generation(name, option)
    features: dict[str, bool] = dict.fromkeys(FACILITIES, name in _EVERYTHING)
    known: frozenset[str] | None = None
    for switch in switches:
        feature, on = _parse_switch(switch, option)
        if feature not in _INTRODUCED:
            known = known or feature_names()
            if feature not in known:
                raise _unknown(option, "feature", feature, known)
        elif on and generation is not None and generation < _INTRODUCED[feature]:
            raise UsageError(
                option,
                f"feature '{feature}' is not available for CPU model '{name}', it was introduced with later models",
                f"use {'zEC12' if feature == 'els' else _HINT_MODEL} or later",
            )
        features[feature] = on
    return CpuModel(
        name=name,
        els=features["els"],
        cstore=features["cstore"],
        sipl=features["sipl"],
        sclaf=features["sclaf"],
        features=frozenset(feature for feature, on in features.items() if on),
        warnings=tuple(
            f"CPU feature '{feature}' needs '{needed}', which is off"
            for feature, needed in _DEPENDENCIES
            if features[feature] and not features[needed]
        ),
    )


def model_names() -> tuple[str, ...]:
    """The models that can be chosen, oldest first; each but the first two also with `-base` appended."""
    return ("qemu", "max", *(name for names in _MODELS.values() for name in names.split()))


def feature_names() -> frozenset[str]:
    """The names of all features that can be switched."""
    functions = (f"{instruction}-{name}" for instruction, names in _FUNCTIONS.items() for name in names.split())
    return frozenset(_FEATURES.split()).union(functions)


def hint_for(missing: Iterable[str], model: CpuModel | None = None) -> str:
    """The exact `--cpu` text that brings the missing facilities, nothing if none is missing.

    The model stays the same where it can have them.
    """
    if not any(missing):
        return ""
    name = model.name if model else _HINT_MODEL
    if name in _EVERYTHING:
        return f"{OPTION} {name}"
    generation = _generation(name, OPTION)
    if generation is not None and generation < max(_INTRODUCED.values()):
        name = _HINT_MODEL
    return f"{OPTION} {name}," + ",".join(f"{facility}=on" for facility in FACILITIES)


def _generation(name: str, option: str) -> int | None:
    """Number of the generation of machines; None for the models that have everything."""
    if name in _EVERYTHING:
        return None
    if name == _KVM_ONLY:
        raise UsageError(
            option,
            "CPU model 'host' needs KVM on an s390x host",
            f"use qemu, or {_HINT_MODEL} and features",
        )
    for generation, names in _MODELS.items():
        if name.removesuffix(_BASE) in names.split():
            return generation
    raise _unknown(option, "model", name, model_names())


def _parse_switch(text: str, option: str) -> tuple[str, bool]:
    found = re.fullmatch(_SWITCH, text, re.DOTALL)
    if found is None:
        raise UsageError(option, f"'{_shown(text)}' switches no CPU feature", "write feature=on or feature=off")
    if found[1]:
        return found[2], found[1] == "+"
    from sipl.machine.options import parse_bool

    return found[3], parse_bool(found[4], f"{option} {_shown(found[3])}")


def _unknown(option: str, what: str, name: str, known: Iterable[str]) -> UsageError:
    from difflib import get_close_matches

    by_lower_case = {candidate.lower(): candidate for candidate in sorted(known)}
    near = get_close_matches(name[:_SHOWN].lower(), by_lower_case, n=1)
    hint = f"did you mean {by_lower_case[near[0]]}?" if near else ""
    if not hint and what == "model":
        hint = f"for example qemu or {_HINT_MODEL}"
    return UsageError(option, f"there is no CPU {what} '{_shown(name)}'", hint)


def _shown(text: str) -> str:
    return printable(text, _SHOWN)
