"""Images of a command line: what is opened of those that boot, and what QEMU is told in place of it."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from qemu_lines import SECURE, Opened

from sipl.disk.shared_image import ImageSpec, WriteMode
from sipl.errors import UsageError
from sipl.qemu_command.plan import read_command
from sipl.settings import Disk

DEVICE = ("-device", "virtio-blk-ccw,id=v,drive=d,bootindex=1")
FILE = '{"driver":"file","filename":"disk","node-name":"f","cache":{"direct":true}}'


def guest(*argv, device=DEVICE):
    return read_command([*SECURE, *argv, *device]).guest


def only(*argv, device=DEVICE):
    (found,) = guest(*argv, device=device).boot
    return found


def values(arguments, option):
    return [value for word, value in pairwise(arguments) if word == option]


def refused(*argv, device=DEVICE):
    with pytest.raises(UsageError) as error:
        guest(*argv, device=device)
    return str(error.value)


class TestWhatIsOpened:
    @pytest.mark.parametrize(
        ("argv", "spec", "mode"),
        [
            (["-drive", "if=none,id=d,file=a,,b"], ImageSpec("a,b", None), WriteMode.DIRECT),
            (["-drive", "if=none,id=d,file=x,format=raw"], ImageSpec("x", "raw"), WriteMode.DIRECT),
            (["-drive", "if=none,id=d,file=x,driver=raw"], ImageSpec("x", "raw"), WriteMode.DIRECT),
            (["-drive", "if=none,id=d,file=x,readonly=on"], ImageSpec("x", None), WriteMode.READ_ONLY),
            (["-drive", "if=none,id=d,file=x,read-only=on"], ImageSpec("x", None), WriteMode.READ_ONLY),
            (["-drive", "if=none,id=d,file=x,media=cdrom"], ImageSpec("x", None), WriteMode.READ_ONLY),
            (["-drive", "if=none,id=d,file=x,snapshot=on"], ImageSpec("x", None), WriteMode.OVERLAY),
            (["-snapshot", "-drive", "if=none,id=d,file=x"], ImageSpec("x", None), WriteMode.OVERLAY),
            (["-snapshot", "-drive", "if=none,id=d,file=x,snapshot=off"], ImageSpec("x", None), WriteMode.DIRECT),
            (["-drive", "if=none,id=d,file.driver=file,file.filename=x"], ImageSpec("x", None), WriteMode.DIRECT),
            (["-drive", "if=none,node-name=d,file=x"], ImageSpec("x", None), WriteMode.DIRECT),
            (
                [
                    "-drive",
                    (
                        "if=none,id=d,file=x,format=qcow2,backing.driver=raw,backing.file.driver=file,"
                        "backing.file.filename=b"
                    ),
                ],
                ImageSpec("x", "qcow2", backing=ImageSpec("b", "raw", name="0/backing/file")),
                WriteMode.DIRECT,
            ),
            (
                ["-blockdev", "raw,node-name=d,file.driver=host_device,file.filename=/dev/x"],
                ImageSpec("/dev/x", "raw"),
                WriteMode.DIRECT,
            ),
            (
                ["-blockdev", "qcow2,node-name=d,file.driver=file,file.filename=x,read-only=on"],
                ImageSpec("x", "qcow2"),
                WriteMode.READ_ONLY,
            ),
            (
                [
                    "-blockdev",
                    (
                        '{"driver":"qcow2","node-name":"d","backing":null,"file":{"driver":"file",'
                        '"filename":"x","read-only":true}}'
                    ),
                ],
                ImageSpec("x", "qcow2", ignore_backing=True),
                WriteMode.READ_ONLY,
            ),
        ],
    )
    def test_spec(self, argv, spec, mode):
        found = only(*argv)
        assert found.image == spec._replace(name="0/file")
        assert found.mode is mode
        assert found.device_id == "v"

    def test_a_file_alone_is_raw(self):
        found = only("-blockdev", FILE.replace('"f"', '"d"'))
        assert found.image == ImageSpec("disk", "raw", name="0/")
        assert found.mode is WriteMode.DIRECT

    def test_chain_of_nodes(self):
        found = only(
            *("-blockdev", FILE, "-blockdev", "file,node-name=g,filename=base,read-only=on"),
            *("-blockdev", "file,node-name=h,filename=data"),
            *("-blockdev", '{"driver":"qcow2","node-name":"b","file":"g","backing":null}'),
            *("-blockdev", "qcow2,node-name=q,file=f,backing=b,data-file=h"),
            *("-object", "throttle-group,id=t", "-blockdev", "throttle,node-name=t,throttle-group=t,file=c"),
            *(
                "-blockdev",
                "copy-on-read,node-name=c,file=q",
                "-blockdev",
                "throttle,node-name=d,throttle-group=t,file=t",
            ),
        )
        assert found.image == ImageSpec(
            "disk",
            "qcow2",
            backing=ImageSpec("base", "qcow2", ignore_backing=True, name="1/"),
            data_file=ImageSpec("data", name="2/"),
            name="0/",
        )
        assert found.mode is WriteMode.DIRECT

    def test_a_filter_can_be_read_only(self):
        found = only(
            *("-blockdev", "raw,node-name=r,file.driver=file,file.filename=x"),
            *("-blockdev", "copy-on-read,node-name=d,file=r,read-only=on"),
        )
        assert found.mode is WriteMode.READ_ONLY

    def test_descriptor_of_a_set(self):
        found = only("-add-fd", "fd=7,set=3", "-drive", "if=none,id=d,file=/dev/fdset/3,format=raw")
        assert found.image == ImageSpec("/dev/fdset/3", "raw", descriptor=7, name="0/file")
        for argv in ((), ("-add-fd", "fd=7,set=3", "-add-fd", "fd=8,set=3")):
            assert "descriptors" in refused(*argv, "-drive", "if=none,id=d,file=/dev/fdset/3,format=raw")

    def test_blocks_of_a_device_of_the_host_are_found_out(self):
        assert only("-drive", "if=none,id=d,file=/dev/sdx,format=raw").disk == Disk("/dev/sdx")
        assert only("-drive", "if=none,id=d,file=x,format=raw").disk == Disk("x", block_size=512)


class TestRefused:
    @pytest.mark.parametrize(
        ("argv", "says"),
        [
            ([], "there is no drive 'd'"),
            (["-drive", "if=none,id=d"], "no medium"),
            (["-drive", "if=none,id=d,format=qcow2"], "does not say what its 'file' is"),
            (["-drive", "if=none,id=d,driver=null-co"], "driver 'null-co'"),
            (["-blockdev", "null-co,node-name=d"], "driver 'null-co'"),
            (["-blockdev", "raw,node-name=d,file=nobody"], "there is no node 'nobody'"),
            (["-blockdev", "raw,node-name=d,file=d"], "not in a plain file"),
            (["-blockdev", "raw,node-name=d"], "does not say what its 'file' is"),
            (["-blockdev", "copy-on-read,node-name=d,file=d"], "one above the other"),
            (["-blockdev", FILE, "-blockdev", "raw,node-name=d,file=f,offset=512"], "part of a file"),
            (["-blockdev", FILE, "-blockdev", "raw,node-name=d,file=f,size=1M"], "part of a file"),
            (
                ["-blockdev", FILE, "-blockdev", "qcow2,node-name=d,file=f,backing=d"],
                "two disks that boot, or to itself",
            ),
            (["-blockdev", FILE, "-blockdev", "qcow2,node-name=d,file=f,backing=x"], "there is no node 'x'"),
            (["-blockdev", FILE, "-blockdev", "qcow2,node-name=d,file=f,data-file.driver=null-co"], "plain file"),
            (["-blockdev", "raw,node-name=d,file.driver=raw,file.file=x"], "not in a plain file"),
            (["-blockdev", "raw,node-name=d,file.driver=file"], "has no name"),
        ],
    )
    def test_graph(self, argv, says):
        assert says in refused(*argv)

    def test_an_image_belongs_to_one_disk(self):
        argv = ("-blockdev", FILE, "-blockdev", "raw,node-name=d,file=f", "-blockdev", "raw,node-name=e,file=f")
        assert "two disks" in refused(*argv, "-device", "virtio-blk-ccw,drive=e,bootindex=2")
        # One that does not boot is QEMU's business.
        assert len(guest(*argv, "-device", "virtio-blk-ccw,drive=e").boot) == 1

    def test_a_long_chain_ends(self):
        argv = [*("-blockdev", "file,node-name=f0,filename=x", "-blockdev", "qcow2,node-name=q0,file=f0")]
        for number in range(1, 80):
            argv += ["-blockdev", f"file,node-name=f{number},filename=x"]
            argv += ["-blockdev", f"qcow2,node-name=q{number},file=f{number},backing=q{number - 1}"]
        assert "one above the other" in refused(*argv, device=("-device", "virtio-blk-ccw,drive=q79,bootindex=1"))


class TestWhatQemuGets:
    def test_drive(self):
        found = guest(
            "-drive", "if=none,id=d,file=disk,cache=none,aio=native,bps=5,werror=stop,node-name=n,l2-cache-size=1M"
        )
        arguments = found.arguments([Opened()], {})
        assert values(arguments, "-add-fd") == ["fd=90,set=1"]
        (text,) = values(arguments, "-drive")
        own, _, image = text.partition(",file=json:")
        assert own == "if=none,id=d,cache=none,aio=native,bps=5,werror=stop,node-name=n,snapshot=off,read-only=off"
        assert json.loads(image.replace(",,", ",")) == {
            "driver": "qcow2",
            "file": {"driver": "file", "filename": "/dev/fdset/1", "read-only": False, "auto-read-only": False},
            "l2-cache-size": 1 << 20,
            "read-only": False,
        }

    def test_read_only_drive(self):
        found = guest("-drive", "if=none,id=d,file=disk,readonly=on,format=raw")
        (text,) = values(found.arguments([Opened(writable=False)], {}), "-drive")
        assert ",read-only=on,file=json:" in text
        assert "readonly=" not in text

    def test_overlay(self):
        found = guest("-snapshot", "-drive", "if=none,id=d,file=disk,cache=none,format=qcow2", "-drive", "file=other")
        arguments = found.arguments([Opened()], {})
        assert found.boot[0].overlay == "sipl-overlay-0"
        assert values(arguments, "-drive") == [
            'if=none,id=d,cache=none,snapshot=off,read-only=off,file=json:{"driver":"raw",,"file":"sipl-overlay-0"}',
            "file=other",
        ]
        assert [json.loads(text)["node-name"] for text in values(arguments, "-blockdev")] == ["sipl-overlay-0"]
        assert arguments.index("-blockdev") < arguments.index("-drive")
        assert found.settings.machine.notes == ("-drive other: with snapshot it begins anew at each IPL of the guest",)

    def test_nodes(self):
        found = guest(
            *("-add-fd", "fd=50,set=4", "-blockdev", FILE, "-blockdev", "qcow2,node-name=d,file=f,discard=unmap"),
            *("-blockdev", "raw,node-name=other,file.driver=file,file.filename=x,,y"),
        )
        assert found.first_set == 5
        arguments = found.arguments([Opened("0/")], {})
        assert values(arguments, "-add-fd") == ["fd=50,set=4", "fd=90,set=5"]
        file, image, other = values(arguments, "-blockdev")
        assert json.loads(file) == {
            "driver": "file",
            "filename": "/dev/fdset/5",
            "node-name": "f",
            "cache": {"direct": True},
            "read-only": False,
            "auto-read-only": False,
        }
        assert json.loads(image) == {
            "driver": "qcow2",
            "node-name": "d",
            "file": "f",
            "discard": "unmap",
            "read-only": False,
        }
        # What does not boot stays as it is.
        assert other == "raw,node-name=other,file.driver=file,file.filename=x,,y"

    def test_a_node_within_a_node(self):
        found = guest(
            "-blockdev",
            (
                "qcow2,node-name=d,file.driver=file,file.filename=x,file.locking=off,cache-size=2M,"
                "backing.driver=raw,backing.file.driver=file,backing.file.filename=b"
            ),
        )
        (text,) = values(found.arguments([Opened(below=("0/backing/file",))], {}), "-blockdev")
        tree = json.loads(text)
        assert tree["file"]["filename"] == "/dev/fdset/1"
        assert tree["file"]["locking"] == "off"
        assert tree["cache-size"] == 2 << 20
        assert tree["backing"]["file"]["filename"] == "/dev/fdset/2"
        assert tree["backing"]["read-only"] is True
        assert "filename" not in tree
        assert '"x"' not in text

    def test_the_line_is_not_changed_by_writing_it(self):
        found = guest("-drive", "if=none,id=d,file=disk,format=qcow2")
        assert found.arguments([Opened()], {}) == found.arguments([Opened()], {})

    @pytest.mark.parametrize("option", ["-hda", "-hdb", "-hdc", "-hdd", "-cdrom"])
    def test_images_by_name(self, option):
        found = guest("-drive", "if=none,id=d,file=disk", option, "x,y")
        assert values(found.arguments([Opened()], {}), option) == ["x,y"]

    def test_image_without_an_option(self):
        found = guest("-drive", "if=none,id=d,file=disk", "x.img")
        assert values(found.arguments([Opened()], {}), "-hda") == ["x.img"]
