"""Machine options, sizes and times."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.errors import UsageError
from sipl.machine.options import (
    MAX_MEMORY,
    MIN_MEMORY,
    MachineOptions,
    parse_bool,
    parse_loadparm,
    parse_machine,
    parse_menu_timeout,
    parse_size,
    parse_time,
)

MIB = 1 << 20


def machine(*options: str, **base) -> MachineOptions:
    return parse_machine(options, MachineOptions(**base))


def test_defaults():
    assert machine() == MachineOptions()
    assert machine("") == MachineOptions()
    options = MachineOptions()
    assert not options.secure_boot
    assert options.boot_certs == ()


def test_the_option_of_a_secure_boot():
    options = machine(
        "s390-ccw-virtio,secure-boot=on,boot-certs.1.path=/b,,c.pem,boot-certs.0.path=/a.pem,loadparm=prompt"
    )
    assert options == MachineOptions(secure_boot=True, boot_certs=("/a.pem", "/b,c.pem"), loadparm="PROMPT")


def test_several_options_add_up_in_any_order():
    assert machine("secure-boot=on", "s390-ccw-virtio", "boot-certs.0.path=A", "secure-boot=off") == MachineOptions(
        boot_certs=("A",)
    )


def test_what_is_not_named_stays_as_it_was():
    base = MachineOptions(secure_boot=True, boot_certs=("A",), memory=64 * MIB, cpus=3, protected=True)
    assert parse_machine(["loadparm=2"], base) == base._replace(loadparm="2")
    assert parse_machine(["boot-certs.0.path=B"], base).boot_certs == ("B",)


@pytest.mark.parametrize(
    "name", ["s390-ccw-virtio", "s390-ccw-virtio-9.2", "s390-ccw-virtio-noble", "s390-ccw-virtio-rhel9.6.0"]
)
def test_machine_types(name):
    assert machine(name).type == name
    assert machine(f"type={name}").type == name


@pytest.mark.parametrize(("text", "value"), [(word, True) for word in ("on", "yes", "true", "y")])
def test_switches_on(text, value):
    assert machine(f"secure-boot={text}").secure_boot is value


@pytest.mark.parametrize("text", ["off", "no", "false", "n"])
def test_switches_off(text):
    assert machine(f"secure-boot={text}", secure_boot=True).secure_boot is False


def test_an_empty_certificate_path_is_left_to_the_store():
    assert machine("boot-certs.0.path=").boot_certs == ("",)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("pc", "there is no machine type 'pc'"),
        ("s390-ccw-virtio-", "there is no machine type 's390-ccw-virtio-'"),
        ("type.x=1", "parameter 'type' takes one value, not members"),
        ("secure-boot=1", "'1' is neither on nor off"),
        ("secure-boot=ON", "'ON' is neither on nor off"),
        ("secure-boot=", "'' is neither on nor off"),
        ("secure-boot.0=on", "parameter 'secure-boot' takes one value, not members"),
        ("s390-ccw-virtio,secure-boot", "there is no '=' after parameter 'secure-boot'"),
        ("boot-certs=x", "parameter 'boot-certs' is no list"),
        ("boot-certs.path=x", "parameter 'boot-certs' is no list"),
        ("boot-certs.0=x", "parameter 'boot-certs.0' takes a path"),
        ("boot-certs.0.file=x", "parameter 'boot-certs.0.file' is unexpected"),
        ("boot-certs.0.path=x,boot-certs.0.mode=y", "parameter 'boot-certs.0.mode' is unexpected"),
        ("boot-certs.0.path.x=y", "parameter 'boot-certs.0.path' takes one value, not members"),
        ("boot-certs.0.path=x,boot-certs.1.0=y", "parameter 'boot-certs.1' takes a path"),
        ("boot-certs.1.path=x", "parameter 'boot-certs.0' missing"),
        ("loadparm=123456789", "'123456789' is no valid loadparm"),
        ("loadparm=a_b", "'a_b' is no valid loadparm"),
        ("usb=perhaps", "'perhaps' is neither on nor off"),
        ("accel.x=tcg", "parameter 'accel' takes one value, not members"),
        ("kernel=/boot/image", "parameter 'kernel' is not taken here"),
        ("initrd=/boot/initrd", "parameter 'initrd' is not taken here"),
        ("append=quiet", "parameter 'append' is not taken here"),
        ("firmware=x.img", "parameter 'firmware' is not taken here"),
        ("memory.size=1G", "parameter 'memory' is not taken here"),
        ("colour=blue", "there is no parameter 'colour'"),
        ("help", "properties: boot-certs, loadparm, secure-boot, type"),
    ],
)
def test_refused(option, why):
    with pytest.raises(UsageError) as error:
        machine(option)
    assert error.value.where.startswith("--machine")
    assert error.value.why == why


def test_a_list_in_two_options_is_refused():
    with pytest.raises(UsageError, match=r"'boot-certs\.\*' used inconsistently"):
        machine("boot-certs.0.path=A", "boot-certs.1.path=B")


def test_near_miss_is_named():
    with pytest.raises(UsageError) as error:
        machine("secureboot=on")
    assert error.value.hint == "did you mean secure-boot?"


def test_properties_without_effect_leave_a_note():
    options = machine("accel=kvm,aes-key-wrap=off,confidential-guest-support=pv0")
    assert options._replace(notes=()) == MachineOptions()
    assert [note.split("'")[1] for note in options.notes] == ["accel", "aes-key-wrap", "confidential-guest-support"]
    assert not options.protected


def test_errors_are_one_safe_line():
    with pytest.raises(UsageError) as error:
        machine("secure-boot=\x1b[31m\n")
    assert str(error.value).isprintable()


def test_parse_bool_names_its_option():
    assert parse_bool("y", "--boot-menu") is True
    with pytest.raises(UsageError, match=r"^--boot-menu: 'maybe' is neither on nor off"):
        parse_bool("maybe", "--boot-menu")


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), ("prompt", "PROMPT"), ("1", "1"), ("A. 9", "A. 9"), ("12345678", "12345678")]
)
def test_loadparm(text, expected):
    assert parse_loadparm(text) == expected


@pytest.mark.parametrize("text", ["123456789", "a-b", "ß", "\u0131", "a\n", "\0"])
def test_loadparm_refused(text):
    with pytest.raises(UsageError, match="is no valid loadparm"):
        parse_loadparm(text)


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("5000", 5000), ("4294967295", 0xFFFFFFFF)])
def test_menu_timeout(text, expected):
    assert parse_menu_timeout(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "1.5", "4294967296", "٣", "9" * 5000])
def test_menu_timeout_refused(text):
    with pytest.raises(UsageError, match="is no time-out"):
        parse_menu_timeout(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16", 16 * MIB),
        ("512", 512 * MIB),
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("16384K", 16 * MIB),
        ("1g", 1024 * MIB),
        ("2G", 2048 * MIB),
        ("1020M", 1020 * MIB),
        ("1022M", 1022 * MIB),
        ("64G", MAX_MEMORY),
    ],
)
def test_size(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is no size"),
        ("M", "'M' is no size"),
        ("-1", "'-1' is no size"),
        ("1.5G", "'1.5G' is no size"),
        ("12X", "'12X' is no size"),
        ("٣2M", "'٣2M' is no size"),
        ("512M\n", "'512M\\x0a' is no size"),
        ("9" * 5000, f"'{'9' * 80}…' is no size"),
        ("0", "'0' is outside what the machine can have"),
        ("15M", "'15M' is outside what the machine can have"),
        ("1T", "'1T' is outside what the machine can have"),
        ("16385K", "'16385K' is no multiple of 1 MiB, the storage increment at this size"),
        ("1021M", "'1021M' is no multiple of 2 MiB, the storage increment at this size"),
    ],
)
def test_size_refused(text, why):
    with pytest.raises(UsageError) as error:
        parse_size(text)
    assert error.value.where == "--memory"
    assert error.value.why == why


def test_the_smallest_memory_leaves_room_below_the_firmware():
    firmware_area = (MIN_MEMORY - 3 * MIB) // 0x10000 * 0x10000 - 28672
    assert firmware_area > 12 * MIB


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@0", 0),
        ("@1795312800", 1795312800),
        ("@253402300799", 253402300799),
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-23T02:00:00Z", 1795399200),
        ("2026-11-23T03:00:00+01:00", 1795399200),
        ("2026-11-22T21:30:00-04:30", 1795399200),
        ("2026-11-23T02:00:00.999Z", 1795399200),
        ("9999-12-31T23:59:59Z", 253402300799),
        ("1969-12-31T23:00:00-02:00", 3600),
    ],
)
def test_time(text, expected):
    assert parse_time(text) == expected


def test_time_now():
    before = int(time.time())
    assert before <= parse_time("now") <= int(time.time())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is no point in time"),
        ("NOW", "'NOW' is no point in time"),
        ("yesterday", "'yesterday' is no point in time"),
        ("2026-13-01T00:00:00Z", "'2026-13-01T00:00:00Z' is no point in time"),
        ("@", "'@' is no point in time"),
        ("@-1", "'@-1' is no point in time"),
        ("@" + "9" * 5000, f"'@{'9' * 79}…' is no point in time"),
        ("2026-11-23", "'2026-11-23' does not say which time zone it is in"),
        ("2026-11-23T02:00:00", "'2026-11-23T02:00:00' does not say which time zone it is in"),
        ("1969-12-31T23:59:59Z", "'1969-12-31T23:59:59Z' is not in the years 1970 to 9999"),
        ("@253402300800", "'@253402300800' is not in the years 1970 to 9999"),
        ("0001-01-01T00:00:00+23:00", "'0001-01-01T00:00:00+23:00' is not in the years 1970 to 9999"),
        ("9999-12-31T23:59:59-23:00", "'9999-12-31T23:59:59-23:00' is not in the years 1970 to 9999"),
    ],
)
def test_time_refused(text, why):
    with pytest.raises(UsageError) as error:
        parse_time(text)
    assert error.value.where == "--at"
    assert error.value.why == why


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            [
                "secure-boot=",
                "boot-certs.0.path=",
                "boot-certs.",
                "loadparm=",
                "accel=",
                "on",
                ",",
                "=",
                "x",
                ".0",
                "help",
            ]
        ),
        max_size=8,
    ).map("".join)
)
def test_only_usage_errors_come_out(option):
    try:
        options = machine(option)
    except UsageError:
        return
    assert isinstance(options, MachineOptions)


@settings(max_examples=100)
@given(st.text(max_size=30))
def test_only_usage_errors_come_out_of_values(text):
    for parse in (parse_size, parse_time, parse_loadparm, parse_menu_timeout):
        try:
            result = parse(text)
        except UsageError as error:
            assert str(error).isprintable()
        else:
            assert isinstance(result, (int, str))
