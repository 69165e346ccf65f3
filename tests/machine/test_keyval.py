"""The keyval parser: every row of the syntax table in docs/machine-options.md, and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.errors import UsageError
from sipl.machine import keyval
from sipl.machine.keyval import MAX_FRAGMENT_LENGTH, MAX_FRAGMENTS, MAX_OPTION_LENGTH


def parse(*options: str):
    tree: keyval.Tree = {}
    for text in options:
        tree = keyval.parse(text, "--machine", "type", tree).values
    return tree


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("s390-ccw-virtio", {"type": "s390-ccw-virtio"}),
        ("s390-ccw-virtio,", {"type": "s390-ccw-virtio"}),
        ("type=x,a=1,b=2", {"type": "x", "a": "1", "b": "2"}),
        ("a=1,a=2", {"a": "2"}),
        ("a=", {"a": ""}),
        ("a=,b=1", {"a": "", "b": "1"}),
        ("a=1,,2,b=3", {"a": "1,2", "b": "3"}),
        ("a=,,", {"a": ","}),
        ("a=1,,,b=3", {"a": "1,", "b": "3"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=x y\nz", {"a": "x y\nz"}),
        ("a.b.c=1,a.b.d=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("l.0.path=A,l.1.path=B", {"l": [{"path": "A"}, {"path": "B"}]}),
        ("l.1.path=B,l.0.path=A", {"l": [{"path": "A"}, {"path": "B"}]}),
        ("l.0=x", {"l": ["x"]}),
        ("l.00=x,l.01=y", {"l": ["x", "y"]}),
        ("l.0.0=x", {"l": [["x"]]}),
        ("l.0.path=A,l.0.path=B", {"l": [{"path": "B"}]}),
        ("l.0.path=", {"l": [{"path": ""}]}),
        ("__com.example_key=1", {"__com.example_key": "1"}),
        ("a.__com.example_key.b=1", {"a": {"__com.example_key": {"b": "1"}}}),
    ],
)
def test_accepted(text, expected):
    assert parse(text) == expected


def test_ten_elements_are_in_numerical_order():
    text = ",".join(f"l.{number}={number}" for number in reversed(range(12)))
    assert parse(text) == {"l": [str(number) for number in range(12)]}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["l.1=x"], "parameter 'l.0' missing"),
        (["boot-certs.0.path=a,boot-certs.2.path=c"], "parameter 'boot-certs.1' missing"),
        (["boot-certs.4294967296.path=a"], "parameter 'boot-certs.0' missing"),
        (["boot-certs.0.path=a,boot-certs.x=c"], "parameters 'boot-certs.*' used inconsistently"),
        (["l.0=a,l.00=b"], "parameters 'l.*' used inconsistently"),
        (["a=1,a.b=2"], "parameters 'a.*' used inconsistently"),
        (["a.b=2,a=1"], "parameters 'a.*' used inconsistently"),
        (["a.b.c=2,a.b=1"], "parameters 'a.b.*' used inconsistently"),
        (["l.0.path=a", "l.1.path=b"], "parameters 'l.*' used inconsistently"),
        (["l.0.path=a", "l.0.path=b"], "parameters 'l.*' used inconsistently"),
        (["l.0.path=a", "l=b"], "parameters 'l.*' used inconsistently"),
        (["a.l.0.path=a", "a.l.0.path=b"], "parameters 'a.l.*' used inconsistently"),
        (["a=1,b"], "there is no '=' after parameter 'b'"),
        (["a=1,help.x"], "there is no '=' after parameter 'help.x'"),
        (["=1"], "'' is no valid parameter name"),
        ([",a=1"], "'' is no valid parameter name"),
        (["a=1,=2"], "'' is no valid parameter name"),
        (["0=1"], "'0' is no valid parameter name"),
        (["a.=1"], "'a.' is no valid parameter name"),
        (["a..b=1"], "'a..b' is no valid parameter name"),
        (["a.0b=1"], "'a.0b' is no valid parameter name"),
        (["_a=1"], "'_a' is no valid parameter name"),
        (["ä=1"], "'ä' is no valid parameter name"),
        (["a\n=1"], "'a\\x0a' is no valid parameter name"),
        (["a b=1"], "'a b' is no valid parameter name"),
    ],
)
def test_refused(options, why):
    with pytest.raises(UsageError) as error:
        parse(*options)
    assert error.value.where == "--machine"
    assert error.value.why == why


def test_only_one_option_carries_the_list():
    assert parse("s390-ccw-virtio", "l.0.path=A", "a=1") == {
        "type": "s390-ccw-virtio",
        "l": [{"path": "A"}],
        "a": "1",
    }


def test_later_option_wins_and_earlier_tree_stays():
    first = keyval.parse("x.a=1,b=2", "-M", "type").values
    second = keyval.parse("x.a=3,x.c=4", "-M", "type", first).values
    assert second == {"x": {"a": "3", "c": "4"}, "b": "2"}
    assert first == {"x": {"a": "1"}, "b": "2"}


def test_no_implied_key_without_permission():
    with pytest.raises(UsageError, match="no '=' after parameter 'x'"):
        keyval.parse("x", "--other")


@pytest.mark.parametrize("text", ["help", "?", "s390-ccw-virtio,help", "a=1,?", "help,a=1"])
def test_help_is_asked_for(text):
    assert keyval.parse(text, "-M", "type").help


def test_help_is_a_parameter_with_a_value():
    parsed = keyval.parse("help=1", "-M", "type")
    assert not parsed.help
    assert parsed.values == {"help": "1"}


def test_limits():
    longest = "a" * MAX_FRAGMENT_LENGTH
    assert parse(f"{longest}.{longest}=1") == {longest: {longest: "1"}}
    with pytest.raises(UsageError, match="over 127 characters"):
        parse(f"x.{longest}a=1")
    deepest = ".".join("a" * MAX_FRAGMENTS)
    assert keyval.parse(f"{deepest}=1", "-M")
    with pytest.raises(UsageError, match="more than 16 dotted parts"):
        parse(f"{deepest}.a=1")
    assert parse("a=" + "x" * (MAX_OPTION_LENGTH - 2))
    with pytest.raises(UsageError, match="longer than"):
        parse("a=" + "x" * (MAX_OPTION_LENGTH - 1))


def test_an_error_does_not_repeat_a_whole_option():
    with pytest.raises(UsageError) as error:
        parse(" " * 100_000 + "=1")
    assert len(str(error.value)) < 300


NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
LEAVES = st.text(max_size=8)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, min_size=1, max_size=4) | st.dictionaries(NAMES, inner, min_size=1, max_size=4),
    max_leaves=12,
)


def write(value, key: str) -> list[str]:
    if isinstance(value, str):
        return [f"{key}={value.replace(',', ',,')}"]
    members = value.items() if isinstance(value, dict) else enumerate(value)
    return [part for name, member in members for part in write(member, f"{key}.{name}" if key else str(name))]


@settings(max_examples=200)
@given(st.dictionaries(NAMES, TREES, max_size=4), st.randoms())
def test_every_tree_comes_back_in_any_order(tree, random):
    parts = write(tree, "")
    random.shuffle(parts)
    assert keyval.parse(",".join(parts), "-M").values == tree


@settings(max_examples=300)
@given(st.lists(st.text(alphabet="ab01.,=_-? \nhelp", max_size=40), max_size=3))
def test_only_usage_errors_come_out(options):
    try:
        tree = parse(*options)
    except UsageError:
        return
    assert all(isinstance(key, str) for key in tree)
