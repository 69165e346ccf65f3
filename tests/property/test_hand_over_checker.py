"""The checker of the property can fail: every lie that a guest's memory could hold at hand-over is found."""

from __future__ import annotations

import struct
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipl.reasons import Outcome

LOADER, KERNEL, PARAMETERS = 0xA000, 0x10000, 0x9000


class Frozen:
    """A hand-over of the untouched disk: a copy of the memory, to be changed."""

    def __init__(self, secure_boot):
        self.case = secure_boot.case(b"")
        self._checker = secure_boot.checker(self.case.certificates)
        self.memory = b""
        assert secure_boot.boot(self.case, self).outcome is Outcome.HANDS_OVER
        self.iplb = int.from_bytes(self.memory[0x14:0x18], "big")
        self.report = self.iplb + 4096
        self.entries = self.report + 32
        self.end = self.report + int.from_bytes(self.memory[self.report : self.report + 4], "big")

    def run(self, machine, state):
        self.memory = bytearray(machine.memory.view)

    def check(self):
        return self._checker.check(self.memory, [disk[:2] for disk in self.case.disks])

    def entry(self, address):
        """Where the report's entry of the component at `address` lies."""
        for at in range(self.entries, self.end, 32):
            if int.from_bytes(self.memory[at : at + 8], "big") == address:
                return at
        raise AssertionError("no such component")

    def put(self, at, fmt, *values):
        struct.pack_into(fmt, self.memory, at, *values)


@pytest.fixture
def frozen(secure_boot):
    return Frozen(secure_boot)


def promise(frozen):
    from fuzz.hand_over import Violation

    with pytest.raises(Violation) as caught:
        frozen.check()
    return caught.value.promise


def test_an_untouched_hand_over_keeps_the_promise(frozen):
    facts = frozen.check()
    assert (facts.components, facts.verified, facts.certificates, facts.device) == (5, 2, 1, 0)


@pytest.mark.parametrize("address", [LOADER, LOADER + 0x200, LOADER + 0x3FF, KERNEL, KERNEL + 0x7FF])
def test_one_changed_byte_of_a_verified_component_is_found(frozen, address):
    frozen.memory[address] ^= 1
    assert promise(frozen) == "b"


def test_a_changed_byte_of_an_unsigned_component_breaks_nothing(frozen):
    frozen.memory[PARAMETERS] ^= 1
    frozen.check()


@pytest.mark.parametrize("psw", [0x0008000080009000, 0x000800008000A400, 0x000800008000A3FF, 0, 0x000800008000A002])
def test_another_psw_is_found(frozen, psw):
    frozen.put(0, ">Q", psw)
    assert promise(frozen) == "a"


def test_a_psw_in_no_verified_component_is_found_whatever_disk_and_report_say(frozen):
    """Disk, report and lowcore agree on a PSW in the unsigned parameters."""
    image, block_size, kind = frozen.case.disks[0]
    psw = struct.pack(">Q", 0x0008000080000000 | LOADER)
    other = struct.pack(">Q", 0x0008000080000000 | PARAMETERS)
    frozen.case = frozen.case._replace(disks=((_replace_last(image, psw, other), block_size, kind),))
    frozen.memory[0:8] = other
    at = bytes(frozen.memory).index(psw, frozen.entries, frozen.end)
    frozen.memory[at : at + 8] = other
    assert promise(frozen) == "a"


def _replace_last(image, old, new):
    at = image.rindex(old)
    return image[:at] + new + image[at + len(old) :]


@pytest.mark.parametrize("address", [LOADER, KERNEL])
@pytest.mark.parametrize("flags", [0, 0x80, 0x40, 0xE0])
def test_other_flags_of_a_verified_component_are_found(frozen, address, flags):
    frozen.memory[frozen.entry(address) + 16] = flags
    assert promise(frozen) == "c"


@pytest.mark.parametrize("flags", [0x80, 0x40, 0xC0])
def test_flags_of_an_unsigned_component_are_found(frozen, flags):
    frozen.memory[frozen.entry(PARAMETERS) + 16] = flags
    assert promise(frozen) == "c"


@pytest.mark.parametrize(
    ("offset", "fmt", "value"),
    [(0, ">Q", KERNEL + 8), (8, ">Q", 0x600), (8, ">Q", 0), (22, ">H", 1), (24, ">I", 0x80000000)],
    ids=["address", "length", "no-length", "certificate", "indicators"],
)
def test_another_entry_of_the_report_is_found(frozen, offset, fmt, value):
    frozen.put(frozen.entry(KERNEL) + offset, fmt, value)
    assert promise(frozen) == "c"


def test_a_component_that_is_missing_in_the_report_is_found(frozen):
    at = frozen.entry(PARAMETERS)
    frozen.memory[at : frozen.end] = frozen.memory[at + 32 : frozen.end] + bytes(32)
    frozen.put(frozen.report, ">I", frozen.end - frozen.report - 32)
    frozen.put(frozen.report + 16, ">I", int.from_bytes(frozen.memory[frozen.report + 16 :][:4], "big") - 32)
    assert promise(frozen) == "c"


def test_a_changed_certificate_is_found(frozen):
    address = int.from_bytes(frozen.memory[frozen.end - 16 : frozen.end - 8], "big")
    frozen.memory[address + 100] ^= 1
    assert promise(frozen) == "c"


def test_a_certificate_inside_a_component_is_found(frozen):
    address, length = struct.unpack_from(">QQ", frozen.memory, frozen.end - 16)
    frozen.memory[0x9100 : 0x9100 + length] = frozen.memory[address : address + length]
    frozen.put(frozen.end - 16, ">Q", 0x9100)
    assert promise(frozen) == "b"


@pytest.mark.parametrize("at", [0x14, 0xB8], ids=["parameter block", "device"])
def test_a_pointer_of_the_lowcore_that_leads_elsewhere_is_found(frozen, at):
    frozen.put(at, ">I", 0x0001_0007)
    assert promise(frozen) == "c"


def test_a_parameter_block_that_does_not_say_secure_is_found(frozen):
    frozen.memory[frozen.iplb + 4] = 0x20
    assert promise(frozen) == "c"


def meaningful(frozen):
    """Offsets of all bytes of the report that have a meaning: header, lists, entries, certificates."""
    length = frozen.end - frozen.report
    certificates = length - 32
    header, component = (*range(5), 8, 9), (*range(17), *range(22, 28))
    found = [*range(5), *(16 + at for at in header), *(certificates + at for at in (*header, *range(16, 32)))]
    return found + [start + at for start in range(32, certificates, 32) for at in component]


def test_no_changed_byte_of_the_report_goes_unnoticed(frozen):
    from fuzz.hand_over import Violation

    offsets = meaningful(frozen)
    assert len(offsets) == 5 + 7 + 6 * 23 + 7 + 16
    for offset in offsets:
        for bits in (1, 0x40, 0x80, 0xFF):
            frozen.memory[frozen.report + offset] ^= bits
            with pytest.raises(Violation):
                frozen.check()
            frozen.memory[frozen.report + offset] ^= bits
    frozen.check()


# The verifier inside the checker against the program openssl


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_libcrypto_says_what_the_program_openssl_says(secure_boot, need_tool, tmp_path, data):
    openssl = need_tool("openssl", "openssl")
    name = data.draw(st.sampled_from(["rsa", "ec", "expired", "usage"]))
    content = data.draw(st.binary(min_size=1, max_size=100))
    signature = bytearray(secure_boot.shop.sign(content, name))
    changed = data.draw(st.booleans())
    if changed:
        signature[data.draw(st.integers(0, len(signature) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.integers(0, 3)) == 3:
        content += b"x"
    path = secure_boot.shop.path(name)
    with open(path, "rb") as file:
        certificate = secure_boot.crypto.certificate(file.read())
    (tmp_path / "content").write_bytes(content)
    (tmp_path / "signature").write_bytes(signature)
    command = [openssl, "cms", "-verify", "-binary", "-inform", "DER", "-in", str(tmp_path / "signature")]
    command += ["-content", str(tmp_path / "content"), "-noverify", "-certfile", path, "-out", "/dev/null"]
    says = subprocess.run(command, capture_output=True, check=False).returncode == 0
    whole = secure_boot.crypto.whole(content, bytes(signature), certificate)
    alone = secure_boot.crypto.signed_by(content, bytes(signature), certificate)
    if says:
        assert whole
    if whole:
        assert alone
    if not changed:
        assert says == whole == alone


def test_who_signed_does_not_depend_on_what_lies_around_the_signature(secure_boot):
    """A name with a string type that OpenSSL does not know: the key made the signature all the same."""
    with open(secure_boot.shop.path("rsa"), "rb") as file:
        certificate = secure_boot.crypto.certificate(file.read())
    signature = bytearray(secure_boot.shop.sign(b"component", "rsa"))
    signature[signature.index(b"\x0c\x08fuzz rsa")] ^= 0x40
    signature = bytes(signature)
    assert not secure_boot.crypto.whole(b"component", signature, certificate)
    assert secure_boot.crypto.signed_by(b"component", signature, certificate)
    assert secure_boot.crypto.only_alone == 1
    assert not secure_boot.crypto.signed_by(b"Component", signature, certificate)


@pytest.mark.parametrize("signature", ["plain", "attributes", "keyid"])
def test_both_ways_to_verify_agree(secure_boot, data, signature):
    from fuzz.openssl import signers_of

    crypto = secure_boot.crypto
    content = (data / "crypto" / "component.bin").read_bytes()
    der = (data / "crypto" / f"{signature}.p7s").read_bytes()
    (signer,) = signers_of(der)
    said = set()
    for path in sorted((data / "crypto").glob("*.pem")):
        certificate = crypto.certificate(path.read_bytes())
        for signed in (content, content + b"x"):
            said.add(crypto.whole(signed, der, certificate))
            assert crypto.whole(signed, der, certificate) == crypto._alone(signer, signed, certificate)
    assert said == {True, False}


def test_times_and_usages_as_openssl_sees_them(secure_boot):
    from fuzz.disks import NOW, SIGNERS

    def may(name, now=NOW):
        with open(secure_boot.shop.path(name), "rb") as file:
            return secure_boot.crypto.may_sign(secure_boot.crypto.certificate(file.read()), now)

    assert {name for name in SIGNERS if may(name)} == {"rsa", "ec", "stranger"}
    start, end = 1_577_836_800, 1_735_689_600  # 2020 and 2025, both seconds belong to the period
    assert [may("rsa-old", now) for now in (start - 1, start, end, end + 1)] == [False, True, True, False]
