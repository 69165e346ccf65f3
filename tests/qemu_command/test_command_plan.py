"""From a whole command line to a plan."""

from __future__ import annotations

import json
import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qemu_lines import CERTS, DISK, SECURE, Opened, libvirt_line

from sipl.disk.shared_image import WriteMode
from sipl.errors import RefusedToStart, SiplError, UsageError
from sipl.machine.boot_devices import DeviceKind
from sipl.machine.cpu_model import parse_cpu
from sipl.qemu_command.boot_order import ScsiAddress
from sipl.qemu_command.guest import Actions
from sipl.qemu_command.plan import Kind, read_command
from sipl.reasons import Reason
from sipl.settings import Disk


def guest(*argv, disk=DISK):
    return read_command([*SECURE, *disk, *argv]).guest


def arguments(*argv, relayed=None):
    return guest(*argv).arguments([Opened()], relayed or {})


def values(words, option):
    return [value for word, value in pairwise(words) if word == option]


class TestKind:
    @pytest.mark.parametrize(
        "argv",
        [
            [],
            ["-M", "s390-ccw-virtio", "-incoming", "defer", "disk"],
            ["-machine", "pc", "-bios", "x"],
            ["-name", "secure-boot=on,boot-certs.0.path=x"],
            ["-option-of-the-future", "x", "-S"],
            ["-m"],
            ["-readconfig", "x"],
        ],
    )
    def test_without_verification_it_is_qemu(self, argv):
        assert read_command(argv) == (Kind.PLAIN, read_command(argv).own, tuple(argv), None)

    @pytest.mark.parametrize(
        ("argv", "rest"),
        [
            (
                ["-machine", "s390-ccw-virtio,secure-boot=off,usb=off", "-S"],
                ["-machine", "s390-ccw-virtio,usb=off", "-S"],
            ),
            (["--M", "secure_boot=no", "-bios", "-M", "x"], ["-bios", "-M", "x"]),
            (["-M", "x,secure-boot=off,y=a,,b"], ["-M", "x,y=a,,b"]),
        ],
    )
    def test_secure_boot_that_is_off_is_taken_out(self, argv, rest):
        plan = read_command(argv)
        assert plan.kind is Kind.PLAIN
        assert plan.arguments == tuple(rest)

    @pytest.mark.parametrize(
        "argv",
        [
            ["-machine", "s390-ccw-virtio,secure-boot=on"],
            ["-M", f"s390-ccw-virtio,{CERTS}"],
            ["-M", "s390-ccw-virtio", "-M", "usb=off", "--machine", "secure_boot=on"],
            ["--machine", "boot_certs.0.path=x"],
        ],
    )
    def test_verification(self, argv):
        assert read_command([*argv, *DISK]).kind is Kind.VERIFIED

    def test_native(self):
        argv = [*SECURE, "-bios", "x", "--native", "disk"]
        assert read_command(argv) == (
            Kind.NATIVE,
            read_command(argv).own,
            (*SECURE, "-bios", "x", "disk"),
            None,
        )

    @pytest.mark.parametrize("question", ["-h", "-help", "--help", "-version", "--version"])
    def test_questions(self, question):
        plan = read_command([*SECURE, question, "-bios", "x"])
        assert plan.kind is Kind.HELP
        assert plan.arguments == (("-version",) if "version" in question else ("-help",))

    @pytest.mark.parametrize(
        ("argv", "says"),
        [
            ([*SECURE, "-option-of-the-future"], "-option-of-the-future: there is no such option"),
            (["-option-of-the-future", "x", *SECURE], "-option-of-the-future"),
            ([*SECURE, "-m"], "-m: the value is missing"),
            (["-machine", "secure-boot=maybe"], "neither on nor off"),
            (["-machine", "boot-certs=x"], "-machine: parameter 'boot-certs' is no list"),
            (["-machine", "secure-boot=on", "-machine", "help"], "help is asked for"),
            (["-machine", "secure-boot=on", "-machine", "secure-boot=off"], "'secure-boot' is given twice"),
            ([*SECURE, "-machine", "boot-certs.1.path=x"], "used inconsistently"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, argv, says):
        with pytest.raises(UsageError) as error:
            read_command(argv)
        assert says in str(error.value)


class TestLibvirt:
    def test_guest(self):
        found = read_command(libvirt_line("disk.qcow2", "/certs", "/run")).guest
        machine = found.settings.machine
        assert (machine.type, machine.secure_boot, machine.boot_certs) == ("s390-ccw-virtio-7.2", True, ("/certs",))
        assert (machine.memory, machine.cpus, machine.notes) == (512 << 20, 2, ())
        (device,) = found.boot
        assert device.disk == Disk("disk.qcow2", DeviceKind.VIRTIO_BLK, 512, "", 0, 0)
        assert (device.device_id, device.mode) == ("virtio-disk0", WriteMode.DIRECT)
        assert device.image.ignore_backing
        assert [(channel.id, channel.backend) for channel in found.channels] == [
            ("charmonitor", "socket"),
            ("charconsole0", "pty"),
            ("charchannel0", "socket"),
        ]
        assert found.channels[0].options == {"path": "/sock/monitor.sock", "server": "on", "wait": "off"}
        assert found.monitors == (("charmonitor", True, False, "monitor"),)
        assert found.held
        assert found.actions == Actions(shutdown="pause")

    def test_arguments(self):
        found = read_command(libvirt_line("disk.qcow2", "/certs", "/run", "fd=31")).guest
        assert found.descriptors() == (31,)
        assert found.descriptors(relayed={"charmonitor"}) == ()
        words = found.arguments([Opened("0/")], {"charmonitor": 40})
        assert values(words, "-machine") == ["s390-ccw-virtio-7.2,usb=off,dump-guest-core=off,memory-backend=sipl-ram"]
        assert values(words, "-m") == ["size=524288k"]
        assert values(words, "-cpu") == ["max,unpack=off"]
        assert values(words, "-chardev")[0] == "socket,id=charmonitor,fd=40"
        assert [json.loads(value)["qom-type"] for value in values(words, "-object")] == ["secret", "rng-random"]
        for gone in ("-S", "-no-shutdown"):
            assert gone not in words
        assert not any("secure" in word or "certs" in word or "disk.qcow2" in word for word in words)

    def test_starts_on_the_installed_qemu(self, need_tool, tmp_path):
        """What the plan makes of it is a line that QEMU takes, with the devices at their places."""
        from qemu_trial import trial

        qemu = need_tool("qemu-system-s390x", "qemu-system-misc")
        disk = qcow2(tmp_path / "disk.qcow2")
        line = libvirt_line(disk, "/certs", str(tmp_path), f"path={tmp_path}/monitor.sock")
        answers = trial(
            qemu,
            read_command(line).guest,
            ("qom-get", {"path": "virtio-disk0", "property": "dev_id"}),
            ("query-named-block-nodes", {"flat": True}),
        )
        assert answers[0] == "fe.0.0000"
        assert {(node["node-name"], node["drv"], node["file"]) for node in answers[1]} == {
            ("libvirt-1-storage", "file", "/dev/fdset/1"),
            ("libvirt-1-format", "qcow2", "/dev/fdset/1"),
        }


def qcow2(path):
    from sipl.disk.qcow2_create import write_qcow2

    with path.open("w+b") as file:
        write_qcow2(file, b"", 1 << 20)
    return str(path)


class TestLinesOnTheInstalledQemu:
    """What a person writes, and what QEMU makes of what the plan makes of it."""

    @pytest.mark.parametrize(
        ("line", "controller", "nodes"),
        [
            ("-drive if=none,id=d,file={disk},cache=none -device virtio-blk,drive=d,bootindex=0", "sipl-boot-0", 2),
            (
                "-drive if=none,id=d,file={disk},snapshot=on,cache=none -device virtio-blk,drive=d,bootindex=0",
                "sipl-boot-0",
                5,
            ),
            (
                (
                    "-drive if=none,id=d,file={disk} -device virtio-scsi-ccw -device virtio-scsi-ccw "
                    "-device scsi-hd,bus=scsi.1,drive=d,bootindex=0,loadparm=2"
                ),
                "sipl-scsi-1",
                2,
            ),
            (
                "-drive if=none,id=d,file={disk} -device virtio-scsi-ccw -device scsi-cd,drive=d,bootindex=0",
                "sipl-scsi-0",
                2,
            ),
            (
                (
                    "-blockdev qcow2,node-name=d,file.driver=file,file.filename={disk},l2-cache-size=64K "
                    "-device virtio-blk,drive=d,bootindex=0 -nographic"
                ),
                "sipl-boot-0",
                2,
            ),
        ],
    )
    def test_starts(self, need_tool, tmp_path, line, controller, nodes):
        from qemu_trial import trial

        qemu = need_tool("qemu-system-s390x", "qemu-system-misc")
        words = line.format(disk=qcow2(tmp_path / "d.qcow2")).split()
        found = read_command([*SECURE, "-nodefaults", "-display", "none", *words]).guest
        assert found.boot[0].device_id == controller
        answers = trial(
            qemu,
            found,
            ("qom-get", {"path": controller, "property": "dev_id"}),
            ("query-named-block-nodes", {"flat": True}),
        )
        assert answers[0].startswith("fe.0.")
        assert len(answers[1]) == nodes
        assert all("fdset" in node["file"] for node in answers[1])

    def test_without_a_model_there_is_no_unpack_either(self, need_tool, tmp_path):
        from qemu_trial import trial

        qemu = need_tool("qemu-system-s390x", "qemu-system-misc")
        argv = (
            *("-nodefaults", "-display", "none", "-drive", f"if=none,id=d,file={qcow2(tmp_path / 'd')}"),
            *("-device", "virtio-blk-ccw,drive=d,bootindex=1"),
        )
        answers = trial(
            qemu,
            read_command([*SECURE, *argv]).guest,
            ("qom-get", {"path": "/machine/unattached/device[0]", "property": "unpack"}),
        )
        assert answers == [False]


class TestGuest:
    def test_defaults(self):
        found = guest()
        assert found.settings.machine.memory == 128 << 20
        assert found.settings.machine.cpus == 1
        assert found.settings.cpu == "qemu"
        assert found.settings.write
        assert found.actions == Actions("reset", "poweroff", "shutdown")
        assert not found.held
        assert not found.channels

    @pytest.mark.parametrize(
        ("argv", "size"),
        [
            (["-m", "1G"], 1 << 30),
            (["-m", "size=2048"], 2 << 30),
            (["-m", "1024k", "-m", "64"], 64 << 20),
            (["-object", "memory-backend-ram,id=m,size=256M", "-machine", "memory-backend=m"], 256 << 20),
            (
                ["-object", "memory-backend-memfd,id=m,size=1G", "-machine", "memory-backend=m", "-m", "1024"],
                1 << 30,
            ),
        ],
    )
    def test_memory(self, argv, size):
        found = guest(*argv)
        assert found.settings.machine.memory == size
        words = found.arguments([Opened()], {})
        assert values(words, "-m") == [f"size={size >> 10}k"]
        assert values(words, "-machine")[0].endswith("memory-backend=sipl-ram")
        assert not values(words, "-object")

    def test_properties_of_the_memory(self):
        backend = (
            "memory-backend-memfd,id=m,size=256M,share=on,prealloc=on,dump=off,hugetlb=on,policy=bind,host-nodes.0=1"
        )
        found = guest("-machine", "memory-backend=m", "-object", backend)
        assert found.memory_properties == {"prealloc": True, "dump": False}
        (note,) = found.settings.machine.notes
        assert note.endswith("sipl's own memory takes its place, without host-nodes, hugetlb, policy, share")
        assert guest("-mem-prealloc").memory_properties == {"prealloc": True}

    @pytest.mark.parametrize(
        ("argv", "says"),
        [
            (["-m", "8M"], "outside what the machine can have"),
            (["-m", "1X"], "no size"),
            (
                ["-m", "64", "-machine", "memory-backend=m", "-object", "memory-backend-ram,id=m,size=32M"],
                "another one",
            ),
            (["-machine", "memory-backend=m", "-object", "memory-backend-ram,id=m,size=33554433"], "whole number"),
            (["-smp", "0x2"], "no number"),
            (["-smp", "sockets=200,cores=200"], "more than the machine can have"),
            (["-smp", "500"], "no number"),
        ],
    )
    def test_impossible(self, argv, says):
        with pytest.raises(UsageError) as error:
            guest(*argv)
        assert says in str(error.value)

    @pytest.mark.parametrize(
        ("text", "cpus"),
        [("4", 4), ("cpus=2,maxcpus=8", 2), ("maxcpus=8", 8), ("sockets=2,cores=3,threads=1", 6), ("1,sockets=1", 1)],
    )
    def test_cpus(self, text, cpus):
        found = guest("-smp", text)
        assert found.settings.machine.cpus == cpus
        assert values(found.arguments([Opened()], {}), "-smp") == [text.removeprefix("cpus=")]

    @pytest.mark.parametrize(
        ("argv", "mine", "theirs"),
        [
            ([], "qemu", []),
            (["-cpu", "max"], "qemu", ["max,unpack=off"]),
            (["-cpu", "max,sipl=off,vx=off"], "qemu,sipl=off", ["max,vx=off,unpack=off"]),
            (["-cpu", "host,+els,cstore=on,migratable=on"], "qemu", ["host,migratable=on,unpack=off"]),
            (
                ["-cpu", "gen16a,els=on,cstore=on,sipl=on,sclaf=on,-vx"],
                "qemu",
                ["gen16a,els=on,-vx,unpack=off"],
            ),
            (["-cpu", "gen15a,-unpack", "-cpu", "max,-cstore"], "qemu,cstore=off", ["max,unpack=off"]),
            (["-cpu", "max,unpack=on", "--allow-unpack"], "qemu", ["max,unpack=on"]),
            (["--allow-unpack"], "qemu", []),
        ],
    )
    def test_cpu(self, argv, mine, theirs):
        found = guest(*argv)
        assert found.settings.cpu == mine
        parse_cpu(mine)
        words = found.arguments([Opened()], {})
        assert values(words, "-cpu") == theirs
        assert values(words, "-global") == ([] if theirs or argv else ["s390x-cpu.unpack=off"])

    def test_boot_menu(self):
        found = guest("-boot", "c,menu=on", "-boot", "splash-time=5000,strict=on")
        assert found.settings.machine.boot_menu is True
        assert found.settings.machine.boot_menu_timeout_ms == 5000
        assert values(found.arguments([Opened()], {}), "-boot") == ["order=c,menu=on,splash-time=5000,strict=on"]
        assert guest("-boot", "menu=off").settings.machine.boot_menu is False
        assert guest("-boot", "strict=on").settings.machine.boot_menu is None

    def test_actions(self):
        found = guest("-no-reboot", "-no-shutdown", "-action", "panic=none,watchdog=pause", "-watchdog-action", "debug")
        assert found.actions == Actions("shutdown", "pause", "none")
        words = found.arguments([Opened()], {})
        assert values(words, "-action") == ["watchdog=pause", "watchdog=debug"]
        assert not {"-no-reboot", "-no-shutdown", "-watchdog-action"}.intersection(words)

    def test_settings_of_sipl(self):
        found = guest("--allow-backing", "--at", "@77", "-machine", "loadparm=ab", "-kernel", "k")
        assert found.settings.allow_backing
        assert found.settings.at == 77
        assert found.settings.kernel == "k"
        assert found.settings.machine.loadparm == "AB"
        assert "-kernel" not in found.arguments([Opened()], {})

    def test_networks(self):
        found = guest(
            *("-netdev", "tap,id=n,fds=20:21,vhost=on,vhostfds=22:23"),
            *("-netdev", '{"type":"tap","id":"m","fd":"24","vhost":true,"vhostfd":"25"}'),
            *("-netdev", "stream,id=s,addr.type=fd,addr.str=26", "-netdev", "user,id=u,hostfwd=tcp::5-:6,hostfwd=x"),
            *("-netdev", '{"type":"dgram","id":"t","local":{"type":"fd","str":"27"}}'),
            *("-device", "vhost-vsock-ccw,guest-cid=3,vhostfd=28", "-nic", "tap,vhost=on"),
        )
        words = found.arguments([Opened()], {})
        assert values(words, "-netdev") == [
            "tap,id=n,fds=20:21",
            '{"type":"tap","id":"m","fd":"24"}',
            "stream,id=s,addr.type=fd,addr.str=26",
            "user,id=u,hostfwd=tcp::5-:6,hostfwd=x",
            '{"type":"dgram","id":"t","local":{"type":"fd","str":"27"}}',
        ]
        assert values(words, "-nic") == ["tap,vhost=on"]
        assert "vhost-vsock-ccw,guest-cid=3" in words
        assert found.descriptors() == (20, 21, 24, 26, 27)
        assert len(found.settings.machine.notes) == 3

    def test_descriptors_must_have_been_inherited(self):
        reading, writing = os.pipe()
        try:
            line = ("-netdev", f"socket,id=n,fd={reading}", "-add-fd", f"fd={writing},set=1")
            guest(*line).check_descriptors()
        finally:
            os.close(reading)
            os.close(writing)
        with pytest.raises(UsageError, match="no such descriptor was inherited"):
            guest("-netdev", "socket,id=n,fd=1000000").check_descriptors()
        with pytest.raises(UsageError, match="standard stream"):
            guest("-chardev", "socket,id=n,fd=1").check_descriptors()


class TestBootOrder:
    def test_order_kinds_and_places(self):
        found = guest(
            *("-drive", "if=none,id=a,file=a", "-drive", "if=none,id=b,file=b", "-drive", "if=none,id=c,file=c"),
            *("-device", "virtio-scsi-ccw,id=s0,devno=fe.1.00ab", "-device", "virtio-scsi-ccw,id=s1"),
            *("-device", "scsi-hd,bus=s0.0,drive=a,bootindex=30,scsi-id=2,lun=1,logical_block_size=4096,loadparm=a1"),
            *("-device", "scsi-cd,bus=s1.0,drive=b,bootindex=2"),
            *("-device", "virtio-net-ccw,id=net,bootindex=3"),
            *("-device", "virtio-blk-pci,drive=c,bootindex=4"),
            *("-device", "virtio-blk-ccw,devno=fe.0.0007"),
            *("-device", "virtio-rng"),
            disk=("-drive", "if=none,id=d,file=d", "-device", "virtio-blk,drive=d,bootindex=5,devno=0.0.0001"),
        )
        assert [device.disk for device in found.boot] == [
            Disk("b", DeviceKind.SCSI_CD),
            Disk("-device virtio-net-ccw net", DeviceKind.VIRTIO_NET),
            Disk("-device virtio-blk-pci", DeviceKind.VIRTIO_BLK_PCI),
            Disk("d", DeviceKind.VIRTIO_BLK, 512),
            Disk("a", DeviceKind.VIRTIO_SCSI, 4096, "A1", 1, 0xAB),
        ]
        assert [device.device_id for device in found.boot] == ["s1", None, None, "sipl-boot-0", "s0"]
        assert [device.scsi for device in found.boot] == [
            ScsiAddress(0, None, None),
            None,
            None,
            None,
            ScsiAddress(0, 2, 1),
        ]
        assert found.boot[0].mode is WriteMode.READ_ONLY
        words = found.arguments([Opened("2/file"), None, None, Opened(), Opened("1/file")], {})
        assert not any("loadparm" in word for word in words)
        assert "virtio-blk,drive=d,bootindex=5,devno=0.0.0001,id=sipl-boot-0" in words
        assert values(words, "-add-fd") == ["fd=90,set=1", "fd=90,set=2", "fd=90,set=3"]

    def test_controllers_without_a_name(self):
        found = guest(
            *("-drive", "if=none,id=a,file=a", "-device", "virtio-scsi", "-device", "virtio-scsi-ccw,id=x"),
            *("-device", '{"driver":"virtio-scsi-ccw"}', "-device", "scsi-hd,bus=scsi.1,drive=a,bootindex=9"),
            *("-device", "scsi-hd,bus=x.0,drive=z"),
        )
        assert found.boot[1].device_id == "sipl-scsi-1"
        devices = values(found.arguments([Opened(), Opened("1/file")], {}), "-device")
        assert devices[1:] == [
            "virtio-scsi,id=sipl-scsi-0",
            "virtio-scsi-ccw,id=x",
            '{"driver":"virtio-scsi-ccw","id":"sipl-scsi-1"}',
            "scsi-hd,bus=sipl-scsi-1.0,drive=a,bootindex=9",
            "scsi-hd,bus=x.0,drive=z",
        ]

    @pytest.mark.parametrize(
        "argv",
        [
            ["-drive", "file=disk,if=virtio"],
            ["disk"],
            ["-hda", "disk"],
            ["-drive", "if=none,id=d,file=x", "-device", "virtio-blk-ccw,drive=d"],
            ["-drive", "if=none,id=d,file=x", "-device", "virtio-blk-ccw,drive=d,bootindex=-1"],
        ],
    )
    def test_without_a_bootindex_nothing_boots(self, argv):
        with pytest.raises(RefusedToStart) as error:
            read_command([*SECURE, *argv])
        assert error.value.reason is Reason.NO_BOOT_DEVICE
        assert read_command([*SECURE, *argv, "-kernel", "k"]).guest.boot == ()

    @pytest.mark.parametrize(
        ("argv", "says"),
        [
            (["-device", "virtio-blk-ccw,bootindex=1,drive=x"], "two devices have bootindex 1"),
            (["-device", "virtio-blk-ccw,bootindex=2"], "no drive to boot from"),
            (["-device", "virtio-blk-ccw,bootindex=x,drive=d"], "no number for 'bootindex'"),
            (["-device", "virtio-blk-ccw,bootindex=2147483648,drive=d"], "no number for 'bootindex'"),
            (["-device", "scsi-hd,bootindex=2,drive=d"], "there is no virtio-scsi-ccw for it"),
            (
                ["-device", "virtio-scsi", "-device", "virtio-scsi", "-device", "scsi-hd,bootindex=2,drive=x"],
                "which controller",
            ),
            (["-device", "virtio-scsi", "-device", "scsi-hd,bus=y.0,bootindex=2,drive=x"], "no virtio-scsi-ccw for it"),
            (["-device", "virtio-scsi", "-device", "scsi-hd,lun=x,bootindex=2,drive=x"], "no number for 'lun'"),
            (["-device", "virtio-rng,id=a", "-device", "virtio-rng,id=a"], "two devices 'a'"),
            (["-device", "virtio-blk,bootindex=2,drive=x,logical_block_size=8192"], "blocks of 8192"),
            (["-device", "virtio-blk,bootindex=2,drive=x,loadparm=123456789"], "no valid loadparm"),
        ],
    )
    def test_refused(self, argv, says):
        with pytest.raises(UsageError) as error:
            guest(*argv)
        assert says in str(error.value)


class TestChannels:
    @pytest.mark.parametrize(
        ("argv", "chardevs", "uses", "monitors"),
        [
            (["-serial", "stdio"], ["stdio,id=sipl-serial0"], ["-serial chardev:sipl-serial0", "-monitor none"], []),
            (
                ["-serial", "mon:stdio"],
                ["stdio,id=sipl-serial0,mux=on,signal=off"],
                ["-mon chardev=sipl-serial0,mode=readline", "-serial chardev:sipl-serial0"],
                [("sipl-serial0", False)],
            ),
            (
                ["-nographic"],
                ["stdio,id=sipl-serial0,mux=on,signal=off"],
                ["-mon chardev=sipl-serial0,mode=readline", "-serial chardev:sipl-serial0"],
                [("sipl-serial0", False)],
            ),
            (
                ["-nographic", "-monitor", "none"],
                ["stdio,id=sipl-serial0"],
                ["-monitor none", "-serial chardev:sipl-serial0"],
                [],
            ),
            (
                ["-nographic", "-serial", "none"],
                ["stdio,id=sipl-monitor0"],
                ["-serial none", "-mon chardev=sipl-monitor0,mode=readline"],
                [("sipl-monitor0", False)],
            ),
            (["-nographic", "-nodefaults"], [], [], []),
            (
                ["-qmp", "unix:/a/b,server,nowait"],
                ["socket,id=sipl-monitor0,path=/a/b,server=on,wait=off"],
                ["-mon chardev=sipl-monitor0,mode=control"],
                [("sipl-monitor0", True)],
            ),
            (
                ["-qmp-pretty", "tcp:localhost:4444,server=on", "-monitor", "telnet::5,server"],
                [
                    "socket,id=sipl-monitor0,host=localhost,port=4444,server=on",
                    "socket,id=sipl-monitor1,host=,port=5,server=on,telnet=on",
                ],
                ["-mon chardev=sipl-monitor0,mode=control,pretty=on", "-mon chardev=sipl-monitor1,mode=readline"],
                [("sipl-monitor0", True), ("sipl-monitor1", False)],
            ),
            (
                ["-chardev", "null,id=c", "-serial", "chardev:c", "-monitor", "chardev:c"],
                ["null,id=c"],
                ["-serial chardev:c", "-mon chardev=c,mode=readline"],
                [("c", False)],
            ),
            (
                ["-serial", "file:/x,y"],
                ["file,id=sipl-serial0,path=/x,,y"],
                ["-serial chardev:sipl-serial0", "-monitor none"],
                [],
            ),
            (
                ["-serial", "/dev/ttyS0"],
                ["serial,id=sipl-serial0,path=/dev/ttyS0"],
                ["-serial chardev:sipl-serial0", "-monitor none"],
                [],
            ),
            (
                ["-serial", "vc:80Cx24C", "-serial", "pty"],
                ["vc,id=sipl-serial0,cols=80,rows=24", "pty,id=sipl-serial1"],
                ["-serial chardev:sipl-serial0", "-serial chardev:sipl-serial1", "-monitor none"],
                [],
            ),
            (["-parallel", "none"], [], ["-monitor none"], []),
        ],
    )
    def test_short_forms(self, argv, chardevs, uses, monitors):
        found = guest(*argv)
        words = found.arguments([Opened()], {})
        assert values(words, "-chardev") == chardevs
        pairs = [
            f"{word} {value}" for word, value in pairwise(words) if word in ("-mon", "-serial", "-monitor", "-qmp")
        ]
        assert sorted(pairs) == sorted(uses)  # QEMU makes all monitors before all devices
        assert [monitor[:2] for monitor in found.monitors] == monitors

    def test_relayed_channel(self):
        line = ("-chardev", "socket,id=c,path=/x,server=on,mux=on,logfile=/l", "-mon", "c,mode=control,pretty=on")
        assert values(arguments(*line, relayed={"c": 9}), "-chardev") == ["socket,id=c,fd=9,mux=on,logfile=/l"]
        assert values(arguments(*line), "-chardev") == ["socket,id=c,path=/x,server=on,mux=on,logfile=/l"]
        assert guest(*line).monitors == (("c", True, True, ""),)


WORDS = st.sampled_from(
    [
        *SECURE,
        *DISK,
        "-drive",
        "-device",
        "-blockdev",
        "-chardev",
        "-object",
        "-netdev",
        "-serial",
        "-mon",
        "-cpu",
        "-m",
        "-smp",
        "-boot",
        "-S",
        "-action",
        "-global",
        "-machine",
        "-add-fd",
        "--at",
        "--native",
        "-nographic",
        "-snapshot",
        "-accel",
        "disk",
        "1G",
        "max,-vx",
        "stdio",
        "mon:stdio",
        "virtio-scsi",
        "scsi-hd,drive=d,bootindex=3",
        "raw,node-name=d,file=f",
        '{"driver":"raw","node-name":"x","file":{"driver":"file","filename":"y"}}',
    ]
)
SYNTAX = st.text(alphabet='abdno=,.:{}[]"1-/', max_size=30)


@settings(max_examples=300)
@given(st.lists(st.one_of(WORDS, SYNTAX, st.text(max_size=8)), max_size=12))
def test_any_line_is_planned_or_refused_in_one_line(argv):
    try:
        plan = read_command([*SECURE, *argv])
    except SiplError as error:
        assert "\n" not in str(error)
        return
    assert (plan.guest is not None) == (plan.kind is Kind.VERIFIED)


@settings(max_examples=300)
@given(
    st.sampled_from(
        [
            "drive",
            "device",
            "blockdev",
            "chardev",
            "object",
            "netdev",
            "serial",
            "mon",
            "cpu",
            "m",
            "smp",
            "boot",
            "action",
            "global",
            "machine",
            "add-fd",
            "accel",
            "icount",
            "qmp",
            "nic",
            "hda",
        ]
    ),
    st.one_of(
        SYNTAX,
        st.text(max_size=20),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(
                        ["driver", "file", "backing", "filename", "node-name", "id", "type", "cache", "read-only"]
                    ),
                    st.one_of(inner, st.sampled_from(["raw", "qcow2", "file", "throttle"])),
                    max_size=4,
                ),
            ),
            max_leaves=8,
        ).map(lambda tree: json.dumps({"driver": "raw", "node-name": "n", "file": tree})),
    ),
)
def test_any_value_is_planned_or_refused(option, value):
    argv = [f"-{option}", value]
    boot = ("-device", "virtio-blk-ccw,id=b,drive=n,bootindex=2")
    for more in ((), boot):
        try:
            found = guest(*argv, *more)
            written = found.arguments([Opened("1/file")] * len(found.boot), {})
        except SiplError as error:
            assert "\n" not in str(error)
        else:
            assert all(isinstance(word, str) for word in written)


def test_a_monitor_on_a_kept_channel_speaks_qmp_there():
    found = guest("-chardev", "socket,id=m,path=/m,server=on", "-mon", "chardev=m,pretty=on,id=x")
    words = found.arguments([Opened()], {"m": 9})
    assert values(words, "-chardev") == ["socket,id=m,fd=9"]
    assert values(words, "-mon") == ["chardev=m,mode=control,id=x"]
