"""The forms of QEMU's option values."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.errors import SiplError, UsageError
from sipl.qemu_command.values import (
    MAX_DEPTH,
    Syntax,
    number,
    read_dotted,
    read_json,
    read_opts,
    read_opts_or_json,
    read_pairs,
    switch,
    write_pairs,
)


def members(text, implied=""):
    return read_opts("-x", text, implied).members


class TestLists:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", {}),
            ("a=1", {"a": "1"}),
            ("a=1,b=2", {"a": "1", "b": "2"}),
            ("a=1,", {"a": "1"}),
            ("a=,b=", {"a": "", "b": ""}),
            ("a=x,,y,b=z", {"a": "x,y", "b": "z"}),
            ("a=x,,", {"a": "x,"}),
            ("a=b=c", {"a": "b=c"}),
            ("server", {"server": "on"}),
            ("nowait", {"wait": "off"}),
            ("x=1,node-name", {"x": "1", "de-name": "off"}),
            ("file.filename=/a", {"file.filename": "/a"}),
        ],
    )
    def test_reads(self, text, expected):
        assert members(text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("virtio-blk-ccw,drive=d", {"driver": "virtio-blk-ccw", "drive": "d"}),
            ("a,,b,c=1", {"driver": "a,b", "c": "1"}),
            ("driver=a,b", {"driver": "a", "b": "on"}),
        ],
    )
    def test_first_key_may_be_left_out(self, text, expected):
        assert members(text, "driver") == expected

    @pytest.mark.parametrize("text", ["a=1,a=2", "=1", "a,,b", "a b=1", "ä=1", ",", "no", "a=1\0"])
    def test_refuses(self, text):
        with pytest.raises(UsageError):
            members(text)

    def test_keys_of_a_network_may_repeat(self):
        pairs = read_pairs("-netdev", "user,hostfwd=a,hostfwd=b", "type")
        assert pairs == [("type", "user"), ("hostfwd", "a"), ("hostfwd", "b")]
        assert write_pairs(pairs, "type") == "user,hostfwd=a,hostfwd=b"

    @given(
        st.dictionaries(
            st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True), st.text(st.characters(exclude_characters="\0"))
        ),
        st.sampled_from(["", "driver"]),
    )
    def test_what_is_written_reads_the_same(self, tree, implied):
        value = read_opts("-x", "", implied)._replace(members=tree)
        assert members(value.write(), implied) == tree

    @given(st.text(alphabet="ano=,.x0\0é"), st.sampled_from(["", "driver"]))
    def test_any_text_reads_the_same_twice_or_is_refused(self, text, implied):
        try:
            value = read_opts("-x", text, implied)
        except UsageError:
            return
        assert members(value.write(), implied) == value.members


class TestDotted:
    def test_tree(self):
        value = read_dotted("-blockdev", "qcow2,file.driver=file,file.filename=a,,b,l.0=x,l.1=y", "driver")
        assert value.syntax is Syntax.DOTTED
        assert value.members == {
            "driver": "qcow2",
            "file": {"driver": "file", "filename": "a,b"},
            "l": ["x", "y"],
        }
        assert value.write() == "qcow2,file.driver=file,file.filename=a,,b,l.0=x,l.1=y"

    def test_help_is_no_value(self):
        with pytest.raises(UsageError, match="help"):
            read_dotted("-accel", "tcg,help", "accel")


class TestJson:
    def test_tree(self):
        text = '{"driver":"virtio-blk-ccw","bootindex":1,"share-rw":true,"x":null,"f":1.5,"l":[{"a":"ä"}]}'
        value = read_opts_or_json("-device", text, "driver")
        assert value.syntax is Syntax.JSON
        assert value.write() == text
        assert value.text("bootindex") == "1"
        assert value.text("share-rw") == "on"
        assert value.flag("share-rw")

    @pytest.mark.parametrize("key", ["x", "l"])
    def test_a_tree_is_no_text(self, key):
        with pytest.raises(UsageError, match=f"'{key}' takes one value"):
            read_opts_or_json("-device", '{"x":null,"l":[1]}').text(key)

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "{'a':1}",
            '{"a":1,"a":2}',
            '{"a":{"b":1,"b":1}}',
            '{"a":NaN}',
            '{"a":-Infinity}',
            '{"a":18446744073709551616}',
            '{"a":' + "9" * 5000 + "}",
            '{"a":"\\u0000"}',
            '{"a\\u0000":1}',
            '{"a":"\\ud800"}',
            '{"a":"\udc80"}',
            '{"a":1} x',
            '{"a":' + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + "}",
            '{"a":' + "[" * 50_000 + "]" * 50_000 + "}",
            '{"a":' * 20_000 + "1" + "}" * 20_000,
        ],
    )
    def test_refuses(self, text):
        with pytest.raises(UsageError):
            read_json("-device", text)

    def test_is_an_object(self):
        with pytest.raises(UsageError, match="object"):
            read_json("-device", "[1]")

    @given(st.text(alphabet='{}[]":,0a\\u'))
    def test_only_own_errors(self, text):
        try:
            tree = read_json("-device", "{" + text)
        except SiplError:
            return
        assert tree == json.loads("{" + text)


def test_numbers_and_switches():
    assert number("-x", "n", "0042", 100) == 42
    assert switch("-x", "s", "y")
    assert not switch("-x", "s", "off")
    for text in ("", "-1", "101", "٣", "1" * 50):
        with pytest.raises(UsageError):
            number("-x", "n", text, 100)
    for node in ("maybe", [], None):
        with pytest.raises(UsageError):
            switch("-x", "s", node)
