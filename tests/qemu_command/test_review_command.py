"""Lines that could be read in two ways, or that name what is sipl's."""

from __future__ import annotations

import os
import socket

import pytest
from qemu_lines import DISK, SECURE, Opened

from sipl.engine.qemu.relay.monitor_rules import CommandRefused, judge
from sipl.errors import UsageError
from sipl.qemu_command.plan import read_command


def guest(*argv):
    return read_command([*SECURE, *DISK, *argv]).guest


def words(*argv):
    return guest(*argv).arguments([Opened()], {})


@pytest.mark.parametrize(
    "value",
    [
        "s390-ccw-virtio,secure-boot=on,secure-boot=off",
        "s390-ccw-virtio,secure_boot=on,usb=off,secure_boot=off",
        "s390-ccw-virtio,boot-certs.0.path=/a,boot-certs.0.path=/b",
    ],
)
def test_what_is_said_twice_in_one_option_is_refused(value):
    with pytest.raises(UsageError, match="is given twice"):
        read_command(["-machine", value, *DISK])


@pytest.mark.parametrize("argv", [["-nographic", "-serial", "mon:stdio"], ["-serial", "mon:stdio", "-nographic"]])
def test_a_serial_line_with_a_monitor_is_the_only_one_of_the_terminal(argv):
    found = words(*argv)
    assert [word for word in found if word.startswith("stdio")] == ["stdio,id=sipl-serial0,mux=on,signal=off"]
    assert found.count("-mon") == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["-device", "sclpconsole,chardev=sipl-gdb"],
        ["-device", '{"driver":"virtserialport","chardev":"sipl-qmp"}'],
        ["-device", "virtio-blk-ccw,drive=sipl-file-1"],
        ["-blockdev", "raw,node-name=mine,file=sipl-file-1"],
        ["-blockdev", "qcow2,node-name=mine,file.driver=file,file.filename=/x,backing=sipl-image-1"],
        ["-drive", "if=none,id=mine,format=qcow2,file=/x,backing=sipl-image-1"],
    ],
)
def test_nothing_hangs_on_what_is_sipl_s_own(argv):
    with pytest.raises(UsageError, match="begins like those of sipl"):
        guest(*argv)


@pytest.mark.parametrize("kinds", ["user,type=vhost-user,type=user", "vhost-user,type=user", "user,type=vhost-vdpa"])
def test_each_kind_of_a_network_counts(kinds):
    with pytest.raises(UsageError, match="would have the guest's memory"):
        guest("-netdev", f"{kinds},id=n")


@pytest.mark.parametrize(
    "argv",
    [
        ["-chardev", "socket,id=a,fd={0}", "-chardev", "socket,id=b,fd={0}"],
        ["-chardev", "socket,id=a,fd={0}", "-netdev", "socket,id=n,fd={0}"],
        ["-chardev", "socket,id=a,fd={0}", "-add-fd", "fd={0},set=3"],
    ],
)
def test_a_descriptor_is_for_one_thing(argv):
    """sipl closes that of a channel when its user leaves; the number would be another file's at the next IPL."""
    one, other = socket.socketpair()
    with one, other:
        number = os.dup(one.fileno())
        try:
            found = guest(*(word.format(number) for word in argv))
            with pytest.raises(UsageError, match="for two things"):
                found.check_descriptors()
            guest("-chardev", f"socket,id=a,fd={number}").check_descriptors()
        finally:
            os.close(number)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("netdev_add", {"type": "vhost-user", "id": "n", "chardev": "c"}),
        ("netdev_add", {"type": "vhost-vdpa", "id": "n"}),
        ("device_add", {"driver": "vhost-user-fs-ccw", "chardev": "c"}),
        ("device_add", {"driver": "vhost-vdpa-device-pci"}),
        ("object-add", {"qom-type": "cryptodev-vhost-user", "id": "c"}),
    ],
)
def test_a_monitor_gives_nobody_the_guest_s_memory(command, arguments):
    with pytest.raises(CommandRefused):
        judge(command, arguments)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("netdev_add", {"type": "user", "id": "n"}),
        ("device_add", {"driver": "vhost-vsock-ccw"}),
        ("object-add", {"qom-type": "cryptodev-backend-builtin", "id": "c"}),
    ],
)
def test_a_monitor_still_adds_what_is_harmless(command, arguments):
    judge(command, arguments)


@pytest.mark.parametrize("value", ["help", "?", "virtio-blk,help", "driver=help", "virtio-blk,?"])
@pytest.mark.parametrize(
    "option", ["-device", "-cpu", "-object", "-netdev", "-chardev", "-accel", "-drive", "-m", "-d"]
)
def test_a_question_to_qemu_is_told_to_be_one(option, value):
    """It was taken for the name of a device, a model, a channel that nobody knows."""
    with pytest.raises(UsageError, match=f"^{option}: help is asked for .ask QEMU, without secure-boot"):
        guest(option, value)


@pytest.mark.parametrize("value", ["help", "?"])
def test_what_may_be_a_name_is_no_question(value):
    assert guest("-pidfile", value).pid_file == value
    assert guest("-name", value)
    assert guest("-drive", f"file=/images/{value},if=none,id=x")
    assert guest("-drive", f"file={value},format=raw,if=none,id=x")
    assert guest("-drive", f"file=/images/,,{value},format=raw,if=none,id=x")
    assert guest("-device", f'{{"driver":"virtio-rng-ccw","id":"{value}"}}')
