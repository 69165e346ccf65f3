"""`sipl inspect`: the boot map as lines and as JSON."""

from __future__ import annotations

import pytest

KEYS = "schema path format size block_size version program_table_block programs fault"
PROGRAM_KEYS = "number table_block same_as components psw fault closed unsigned"
COMPONENT_KEYS = "address length runs digest signature sclab fault part"
SIGNATURE_KEYS = (
    "format length runs signer digest signature_algorithm key_identifier signed_attributes embedded_certificates fault"
)
SCLAB_KEYS = "length format flags load_psw load_address fault"


def test_lines(sipl, demo):
    result = sipl("inspect", demo.disk)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0].startswith(f"{demo.disk}: raw, 25165824 bytes in blocks of 512, boot record version 1, ")
    text = result.out
    assert "  program 0 (default), component table in block " in text
    assert ": the same as program 0\n" in text
    assert "    component 0xa000 (loader): 512 bytes, block" in text
    assert " by CN=sipl demo, serial number 0x" in text
    assert "global SCLAB of length 32, OPSW+OLA, PSW 000800008000a000, address 0xa000" in text
    assert "    entry PSW 000800008000a000" in text
    assert text.count("sha256 ") == 5


def test_json_keys_are_stable(sipl, demo):
    (view,) = sipl("inspect", "--json", demo.disk).json
    assert list(view) == KEYS.split()
    assert (view["schema"], view["fault"]) == ("sipl.boot-map/1", None)
    programs = view["programs"]
    assert all(list(program) == PROGRAM_KEYS.split() for program in programs)
    assert [program["same_as"] for program in programs] == [None, 0]
    components = programs[0]["components"]
    assert all(list(component) == COMPONENT_KEYS.split() for component in components)
    signatures = [component["signature"] for component in components if component["signature"]]
    assert len(signatures) == 2
    assert all(list(signature) == SIGNATURE_KEYS.split() for signature in signatures)
    sclabs = [component["sclab"] for component in components if component["sclab"]]
    assert all(list(sclab) == SCLAB_KEYS.split() for sclab in sclabs)
    assert sclabs[0]["flags"] == ["OPSW", "OLA"]


def test_blocks_on_disk_are_those_with_the_digest(sipl, demo):
    import hashlib

    (view,) = sipl("inspect", "--json", demo.disk).json
    with open(demo.disk, "rb") as disk:
        content = disk.read()
    for component in view["programs"][0]["components"]:
        data = b"".join(content[run["block"] * 512 : (run["block"] + run["blocks"]) * 512] for run in component["runs"])
        assert len(data) == component["length"]
        assert hashlib.sha256(data).hexdigest() == component["digest"]


def test_several_disks_one_line_of_json_each(sipl, demo, bad):
    result = sipl("inspect", "--json", demo.disk, bad)
    assert [view["path"] for view in result.json] == [demo.disk, bad]


@pytest.mark.parametrize("size", [512, 4096])
def test_block_size(sipl, lab, size):
    disk = lab.disk(lab.program(block_size=size), size).path
    assert sipl("inspect", "--json", disk).json[0]["block_size"] == size
    other = 4096 if size == 512 else 512
    result = sipl("inspect", "--json", "--block-size", other, disk)
    assert (result.code, result.json[0]["block_size"]) == (1, other)
    assert result.json[0]["fault"]


def test_no_boot_map(sipl, tmp_path):
    path = tmp_path / "data.raw"
    path.write_bytes(bytes(1 << 20))
    result = sipl("inspect", path)
    assert (result.code, result.err, len(result.lines)) == (1, "", 1)
    assert "not-a-zipl-disk" in result.out
    (view,) = sipl("inspect", "--json", path).json
    assert (view["programs"], view["version"]) == ([], None)
    assert "not-a-zipl-disk" in view["fault"]


def test_verbose_shows_all_places_on_disk(sipl, lab):
    # Each block has a pointer of its own, but they follow each other: one run.
    scattered = lab.disk(lab.program(), merged=False).path
    assert " and " not in sipl("inspect", "-v", scattered).out


def test_nothing_is_verified(sipl, bad):
    """A byte of the kernel was changed; that is for verify."""
    result = sipl("inspect", "--json", bad)
    assert result.code == 0
    assert [c["fault"] for c in result.json[0]["programs"][0]["components"]] == [None] * 5
