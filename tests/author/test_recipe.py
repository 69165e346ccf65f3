"""Entries of a new disk, and the TOML files that name them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.author.recipe import MAX_ENTRIES, BootEntry, make_recipe, read_recipe
from sipl.errors import FileError, SiplError, UsageError


def read(tmp_path, text):
    (tmp_path / "disk.toml").write_text(text)
    return read_recipe(str(tmp_path / "disk.toml"))


def test_everything(tmp_path):
    recipe = read(
        tmp_path,
        """
default = "old"
[environment]
ROOT = "/dev/vda2"
[[entry]]
name = "new"
kernel = "vmlinuz"
initrd = "sub/initrd.img"
cmdline = "root=${ROOT}"
[[entry]]
name = "old"
kernel = "/boot/vmlinuz"
""",
    )
    assert recipe.default == 2
    assert recipe.environment == {"ROOT": "/dev/vda2"}
    assert recipe.entries == (
        BootEntry(str(tmp_path / "vmlinuz"), str(tmp_path / "sub" / "initrd.img"), "root=${ROOT}", "new"),
        BootEntry("/boot/vmlinuz", None, None, "old"),
    )


def test_least(tmp_path):
    recipe = read(tmp_path, '[[entry]]\nkernel = "k"')
    assert (recipe.default, recipe.environment, len(recipe.entries)) == (1, None, 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no entry"),
        ("[[entry]]\nname = 'x'", "no kernel"),
        ("entry = 1", "no list of tables"),
        ("entry = [1]", "no list of tables"),
        ("[[entry]]\nkernel = 1", "'kernel' of an entry is no text"),
        ("[[entry]]\nkernel = 'k'\nramdisk = 'x'", "'ramdisk' is not known"),
        ("size = 1\n[[entry]]\nkernel = 'k'", "'size' is not known"),
        ("default = true\n[[entry]]\nkernel = 'k'", "neither a name nor a number"),
        ("default = 2\n[[entry]]\nkernel = 'k'", "there is no entry '2'"),
        ("default = 0\n[[entry]]\nkernel = 'k'", "there is no entry '0'"),
        ("default = 'x'\n[[entry]]\nkernel = 'k'", "there is no entry 'x'"),
        ("environment = 1\n[[entry]]\nkernel = 'k'", "no table"),
        ("[environment]\nA = 1\n[[entry]]\nkernel = 'k'", "'A' in the environment is no text"),
        ("[[entry]]\nkernel = 'k'\nname = 'a'\n[[entry]]\nkernel = 'k'\nname = 'a'", "two entries"),
        ("[[entry", "no TOML"),
        ("a = " + "[" * 20000, "no TOML"),
        ("default = " + "1" * 5000, "no TOML"),
        ("default = 0x" + "f" * 5000 + "\n[[entry]]\nkernel = 'k'", "there is no entry"),
    ],
    ids=range(18),
)
def test_what_is_refused(tmp_path, text, why):
    with pytest.raises(UsageError, match=why):
        read(tmp_path, text)


def test_files(tmp_path):
    with pytest.raises(FileError):
        read_recipe(str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="no TOML"):
        read_recipe(str(tmp_path / "binary"))
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(FileError):
        read_recipe(str(tmp_path / "large"))


def test_numbers_and_names():
    entries = [BootEntry("k", name="2"), BootEntry("k")]
    assert make_recipe(entries).default == 1
    assert make_recipe(entries, 2).default == 2
    assert make_recipe(entries, "2").default == 1  # the name of the first one comes first
    with pytest.raises(UsageError, match="no entry ''"):
        make_recipe(entries, "")


def test_how_many():
    assert len(make_recipe([BootEntry("k")] * MAX_ENTRIES).entries) == 30
    with pytest.raises(UsageError, match="31 entries"):
        make_recipe([BootEntry("k")] * 31)


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_any_file(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    try:
        read_recipe(str(path))
    except SiplError:
        return
