"""CPU models and the facilities of secure IPL (T19)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.errors import UsageError
from sipl.machine import cpu_model
from sipl.machine.cpu_model import FACILITIES, CpuModel, feature_names, hint_for, model_names, parse_cpu


def facilities(model: CpuModel) -> set[str]:
    return {name for name in FACILITIES if getattr(model, name)}


@pytest.mark.parametrize("name", ["qemu", "max"])
def test_t19_qemu_and_max_bring_all_four(name):
    model = parse_cpu(name)
    assert model == CpuModel(name, True, True, True, True, frozenset(FACILITIES))


@pytest.mark.parametrize(
    "name", ["z900", "z14ZR1", "gen15a", "z15", "z16", "gen16a", "gen16b", "gen17a", "z17", "z16-base"]
)
def test_t19_named_models_bring_none_by_themselves(name):
    assert parse_cpu(name) == CpuModel(name, False, False, False, False)


@pytest.mark.parametrize("name", ["z16", "gen16a", "gen16b", "gen16a-base", "gen17a", "gen17b", "z17"])
def test_t19_all_four_can_be_switched_on_from_z16_on(name):
    model = parse_cpu(f"{name},els=on,cstore=on,sipl=on,sclaf=on")
    assert facilities(model) == set(FACILITIES)
    assert model.warnings == ()


@pytest.mark.parametrize("name", ["zEC12", "zBC12", "z13", "z14", "gen15b"])
@pytest.mark.parametrize("facility", ["cstore", "sipl", "sclaf"])
def test_t19_an_older_model_refuses_the_three(name, facility):
    assert parse_cpu(f"{name},els=on").els
    with pytest.raises(UsageError) as error:
        parse_cpu(f"{name},{facility}=on")
    assert error.value.where == "--cpu"
    assert error.value.why == (
        f"feature '{facility}' is not available for CPU model '{name}', it was introduced with later models"
    )
    assert error.value.hint == "use z16 or later"


def test_els_came_with_zec12():
    assert parse_cpu("zEC12,els=on").els
    with pytest.raises(UsageError, match="introduced with later models"):
        parse_cpu("z114,els=on")


def test_an_older_model_may_switch_off_what_it_does_not_have():
    assert facilities(parse_cpu("z900,els=off,sipl=off")) == set()


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("max,sipl=on", {"els", "cstore", "sipl", "sclaf"}),
        ("qemu,sipl=off", {"els", "cstore", "sclaf"}),
        ("qemu,-sipl,-sclaf", {"els", "cstore"}),
        ("z16,+els,+cstore", {"els", "cstore"}),
        ("z16,els=y,cstore=yes,sipl=true", {"els", "cstore", "sipl"}),
        ("qemu,els=n,els=on", {"els", "cstore", "sipl", "sclaf"}),
        ("qemu,cstore=on,cstore=false", {"els", "sipl", "sclaf"}),
    ],
)
def test_switches(text, on):
    assert facilities(parse_cpu(text)) == on


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("z16,cstore=on", [("cstore", "els")]),
        ("z16,sipl=on", [("sipl", "els")]),
        ("z16,els=on,sclaf=on", [("sclaf", "sipl")]),
        ("z16,sclaf=on", [("sclaf", "els"), ("sclaf", "sipl")]),
        ("qemu,els=off", [("cstore", "els"), ("sipl", "els"), ("sclaf", "els")]),
        ("z16,els=on,sipl=on", []),
        ("z16,els=on,cstore=on", []),
    ],
)
def test_dependencies_only_warn(text, pairs):
    assert parse_cpu(text).warnings == tuple(
        f"CPU feature '{name}' needs '{needed}', which is off" for name, needed in pairs
    )


def test_other_features_are_known_by_name():
    model = parse_cpu("z16,vx=on,te=off,msa9_pckmo=on,km-xts-eaes-256=on,plo-qsto=on,-cte")
    assert model.features == {"vx", "msa9_pckmo", "km-xts-eaes-256", "plo-qsto"}


def test_a_protected_guest_sees_none_of_the_facilities():
    model = parse_cpu("qemu,vx=on").as_protected()
    assert facilities(model) == {"els"}
    assert model.features == {"els", "vx"}


@pytest.mark.parametrize(
    ("text", "why", "hint"),
    [
        ("", "there is no CPU model ''", "for example qemu or z16"),
        ("z18", "there is no CPU model 'z18'", "did you mean z"),
        ("z16-bas", "there is no CPU model 'z16-bas'", ""),
        ("z10ec", "there is no CPU model 'z10ec'", "did you mean z10EC?"),
        ("qemu-base", "there is no CPU model 'qemu-base'", ""),
        ("z16-base-base", "there is no CPU model 'z16-base-base'", ""),
        ("host", "CPU model 'host' needs KVM on an s390x host", "use qemu"),
        ("z16,sip=on", "there is no CPU feature 'sip'", "did you mean sipl?"),
        ("z16,SIPL=on", "there is no CPU feature 'SIPL'", "did you mean sipl?"),
        ("z16,quantum=on", "there is no CPU feature 'quantum'", ""),
        ("z16,sipl", "'sipl' switches no CPU feature", "write feature=on"),
        ("z16,", "'' switches no CPU feature", "write feature=on"),
        ("z16,+sipl=on", "there is no CPU feature '+sipl'", "did you mean sipl?"),
        ("z16,=on", "'=on' switches no CPU feature", "write feature=on"),
        ("z16,sipl=1", "'1' is neither on nor off", "write on or off"),
        ("z16,sipl=", "'' is neither on nor off", "write on or off"),
        ("z16,\x1b[2Jx=on", "there is no CPU feature '\\x1b[2Jx'", ""),
    ],
)
def test_refused(text, why, hint):
    with pytest.raises(UsageError) as error:
        parse_cpu(text)
    assert error.value.where.startswith("--cpu")
    assert error.value.why == why
    assert error.value.hint.startswith(hint)
    assert str(error.value).isprintable()


def test_too_long():
    with pytest.raises(UsageError, match="longer than"):
        parse_cpu("z16," + "vx=on," * 5000)


def test_a_long_name_costs_and_shows_little():
    with pytest.raises(UsageError) as error:
        parse_cpu("z16," + "x" * 16_000 + "=on")
    assert len(str(error.value)) < 200


def test_every_listed_model_and_feature_is_accepted():
    for name in model_names():
        assert parse_cpu(name).name == name
        if name not in ("qemu", "max"):
            assert parse_cpu(f"{name}-base").name == f"{name}-base"
    names = sorted(feature_names())
    model = parse_cpu(f"qemu,{','.join(f'+{name}' for name in names)}")
    assert model.features == set(names)
    assert len(names) > 350


def test_the_table_of_features_names_each_once():
    listed = cpu_model._FEATURES.split()
    assert len(listed) == len(set(listed))
    assert set(FACILITIES) <= set(listed)


def test_the_hint_is_the_exact_option():
    everything = "--cpu z16,els=on,cstore=on,sipl=on,sclaf=on"
    assert hint_for(["cstore"]) == everything
    assert hint_for([]) == ""
    assert hint_for(["sipl"], parse_cpu("z15")) == everything
    assert hint_for(["sipl"], parse_cpu("gen17a,els=on")) == everything.replace("z16", "gen17a")
    assert hint_for(["sipl"], parse_cpu("max,sipl=off")) == "--cpu max"


@pytest.mark.parametrize("start", ["z14", "z16", "gen17b-base", "qemu,els=off", "max,sclaf=off"])
def test_the_hint_cures(start):
    model = parse_cpu(start)
    missing = [name for name in FACILITIES if not getattr(model, name)]
    cured = parse_cpu(hint_for(missing, model).removeprefix("--cpu "))
    assert facilities(cured) == set(FACILITIES)
    assert cured.warnings == ()


@settings(max_examples=200)
@given(
    st.sampled_from(["z16", "qemu", "z900", "gen17a-base", "host", "Z16", ""]),
    st.lists(st.sampled_from(["sipl", "els", "vx", "+", "-", "=", "on", "off", ",", "x", "\n"]), max_size=10).map(
        "".join
    ),
)
def test_only_usage_errors_come_out(name, switches):
    try:
        model = parse_cpu(f"{name},{switches}")
    except UsageError as error:
        assert str(error).isprintable()
    else:
        assert facilities(model) == model.features & set(FACILITIES)


@settings(max_examples=100)
@given(st.text(max_size=40))
def test_only_usage_errors_come_out_of_any_text(text):
    try:
        model = parse_cpu(text)
    except UsageError as error:
        assert str(error).isprintable()
    else:
        assert model.name in text
