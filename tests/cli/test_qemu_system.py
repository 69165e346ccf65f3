"""`sipl-qemu-system-s390x`: whole QEMU command lines, with guests of a few instructions on the installed QEMU."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import console_guests
import pytest
import qemu_system_lab
from cli_lab import AT, PATIENCE
from guest_asm import ORIGIN
from guest_ring import Ring
from qemu_system_lab import CONSOLE, QUIET, READY, Peer, damage, disk_words, run, started, watched


@pytest.fixture(autouse=True)
def _hang_up():
    yield
    qemu_system_lab.hang_up()


def test_a_line_as_people_type_it(signed, machine):
    code, out, err = run(*machine, *QUIET, *CONSOLE, *disk_words(signed(console_guests.says(READY))))
    assert (code, out) == (0, READY)
    assert "hands over" in err
    assert "(TCG) runs the guest" in err
    assert "the guest says that it is done" in err


def test_a_changed_byte_never_runs(signed, machine):
    path = signed(console_guests.says(READY))
    damage(path)
    code, out, err = run(*machine, *QUIET, *CONSOLE, *disk_words(path))
    assert (code, out) == (1, b"")
    assert "signature-not-verified" in err


def test_audit_mode_warns_and_goes_on(signed, machine):
    path = signed(console_guests.says(READY))
    damage(path)
    audit = [word.replace("secure-boot=on", "secure-boot=off") for word in machine]
    code, out, err = run(*audit, *QUIET, *CONSOLE, *disk_words(path))
    assert (code, out) == (0, READY)
    assert "signature-not-verified" in err


def libvirt_words(path, certificate, monitor):
    """What libvirt writes for a guest that virt-install has defined."""
    certificates = f"boot-certs.0.path={certificate}"
    console = {"driver": "sclpconsole", "chardev": "charconsole0", "id": "con0"}
    backend = {"qom-type": "memory-backend-ram", "id": "s390.ram", "size": 134217728}
    file = {"driver": "file", "filename": str(path), "node-name": "libvirt-1-storage", "auto-read-only": True}
    image = {"node-name": "libvirt-1-format", "read-only": False, "driver": "raw", "file": "libvirt-1-storage"}
    boot = {"driver": "virtio-blk-ccw", "devno": "fe.0.0000", "drive": "libvirt-1-format", "id": "virtio-disk0"}
    network = {"driver": "virtio-net-ccw", "netdev": "hostnet0", "id": "net0", "mac": "52:54:00:1d:5b:6c"}
    return [
        *("-name", "guest=s390,debug-threads=on", "-S", "-object", json.dumps(backend), "-machine"),
        f"s390-ccw-virtio,usb=off,dump-guest-core=off,memory-backend=s390.ram,secure-boot=on,{certificates}",
        *("-accel", "tcg", "-cpu", "max", "-m", "size=131072k", "-overcommit", "mem-lock=off"),
        *("-smp", "2,sockets=2,cores=1,threads=1", "-uuid", "6c1c4a3c-8a7c-4f2b-9a3e-0d6a5c1f7e11"),
        *("-display", "none", "-no-user-config", "-nodefaults"),
        *("-chardev", f"socket,id=charmonitor,fd={monitor},server=on,wait=off"),
        *("-mon", "chardev=charmonitor,id=monitor,mode=control", "-rtc", "base=utc", "-no-shutdown"),
        *("-boot", "strict=on", "-blockdev", json.dumps(file), "-blockdev", json.dumps(image)),
        *("-device", json.dumps(boot | {"bootindex": 1}), "-netdev", '{"type":"user","id":"hostnet0"}'),
        *("-device", json.dumps(network | {"devno": "fe.0.0001"})),
        *("-chardev", "pty,id=charconsole0", "-device", json.dumps(console)),
        *("-device", '{"driver":"virtio-balloon-ccw","id":"balloon0","devno":"fe.0.0002"}'),
        *("-object", '{"qom-type":"rng-random","id":"objrng0","filename":"/dev/urandom"}'),
        *("-device", '{"driver":"virtio-rng-ccw","rng":"objrng0","id":"rng0","devno":"fe.0.0003"}'),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-msg", "timestamp=on", "--at", AT),
    ]


def test_a_line_as_libvirt_writes_it(signed, signers, tmp_path):
    """The monitor's listening socket is inherited, the guest is held until libvirt starts it, the console is a pty."""
    path = signed(console_guests.says_and_loops(READY))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "monitor"))
        listener.listen(1)
        words = libvirt_words(path, signers["A"].path, listener.fileno())
        with started(*words, pass_fds=[listener.fileno()]) as process:
            monitor = Peer(tmp_path / "monitor")
            monitor.until(b'"QMP"')
            monitor.command("qmp_capabilities")
            monitor.command("query-chardev")
            answer = json.loads(monitor.until(b"charconsole0").splitlines()[-1])
            (name,) = (one["filename"] for one in answer["return"] if one["label"] == "charconsole0")
            assert name.startswith("pty:/dev/pts/")
            terminal = os.open(name.removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY)
            monitor.command("query-status")
            assert b"prelaunch" in monitor.until(b'"status"')
            monitor.command("cont")
            shown = b""
            while READY not in shown:
                shown += os.read(terminal, 1024)
            os.close(terminal)
            monitor.command("quit")
            assert process.wait(PATIENCE) == 0


def test_users_stay_connected_over_an_ipl_that_the_guest_asks_for(signed, machine):
    path = signed(console_guests.says_and_reboots(READY))
    with watched(machine, path) as (process, console, monitor):
        monitor.command("cont")
        console.until(READY, 3)
        monitor.until(b'"RESET"', 2)
        monitor.command("quit")
        assert process.wait(PATIENCE) == 0
        monitor.rest()
    assert sum("QMP" in message for message in monitor.messages()) == 1
    assert not any(message.get("event") == "GUEST_PANICKED" for message in monitor.messages())
    assert not (Path(path).parent / "con").exists()
    assert not (Path(path).parent / "mon").exists()


def test_a_monitor_for_people(signed, machine, tmp_path):
    path = signed(console_guests.says_and_loops(READY))
    words = (*CONSOLE, *disk_words(path), "-monitor", f"unix:{tmp_path}/people,server=on,wait=off")
    with started(*machine, *QUIET, *words) as process:
        people = Peer(tmp_path / "people")
        people.until(b"(qemu) ")
        people.socket.sendall(b"info status\r")
        people.until(b"VM status: running")
        assert process.stdout.read(len(READY)) == READY
        people.socket.sendall(b"gdbserver\r")
        people.until(b"(qemu) ", 3)
        people.socket.sendall(b"system_reset\r")
        assert process.stdout.read(len(READY)) == READY
        people.socket.sendall(b"quit\r")
        assert process.wait(PATIENCE) == 0


def test_a_reset_from_a_monitor_is_a_new_verification(signed, machine):
    path = signed(console_guests.says_and_loops(READY))
    with watched(machine, path) as (process, console, monitor):
        monitor.command("cont")
        console.until(READY)
        monitor.command("system_reset")
        console.until(READY, 2)
        damage(path)
        monitor.command("system_reset")
        assert process.wait(PATIENCE) == 1
        assert console.rest() == READY * 2
        assert b"signature-not-verified" in process.stderr.read()


def test_a_monitor_cannot_start_anything_before_it_was_verified(signed, machine, tmp_path):
    """A monitor at the terminal, which is QEMU's own: its commands are there from the first moment on."""
    path = signed(console_guests.says(READY))
    monitor = ("-chardev", "stdio,id=early", "-mon", "chardev=early,mode=control")
    console = ("-chardev", f"file,id=con,path={tmp_path}/shown", "-device", "sclpconsole,chardev=con")
    early = b'{"execute":"qmp_capabilities"}\n{"execute":"cont"}\n'
    how = {"stdin": subprocess.PIPE}
    with started(*machine, *QUIET, *console, *disk_words(path), *monitor, **how) as process:
        _, err = process.communicate(early, timeout=PATIENCE)
    # Either sipl was first and the guest ran, or it was not, and then nothing did.
    shown = (tmp_path / "shown").read_bytes()
    assert (process.returncode, shown) in ((0, READY), (2, b""))
    assert shown or b"before the guest was verified; only the harmless image ran" in err


def test_a_monitor_cannot_write_into_the_guests_memory_through_its_file(signed, machine, tmp_path):
    """QEMU would open its own descriptor of the memory as an image, and copy another image to where the code is."""
    path = signed(console_guests.says(READY))
    evil = tmp_path / "evil"
    evil.write_bytes(bytes(console_guests.says(b"EVIL").code).ljust(4096, b"\0"))
    with watched(machine, path) as (process, console, monitor):
        monitor.command("qom-get", path="/objects/sipl-ram", property="mem-path")
        memory = json.loads(monitor.until(b"/proc/self/fd/").splitlines()[-1])["return"]
        over = {"driver": "raw", "node-name": "ram", "offset": ORIGIN, "size": 4096}
        monitor.command("blockdev-add", **over, file={"driver": "file", "filename": memory})
        monitor.command("blockdev-add", **{"driver": "file", "node-name": "evil", "filename": str(evil)})
        monitor.command("blockdev-backup", **{"device": "evil", "target": "ram", "sync": "full", "job-id": "j"})
        monitor.command("query-block-jobs")
        monitor.command("query-jobs")
        monitor.command("cont")
        assert process.wait(PATIENCE) == 0
        assert console.rest() == READY
        assert b"Operation not permitted" in monitor.rest()


@pytest.mark.parametrize("how", ["telnet=on", "websocket=on", "mux=on"])
def test_a_monitor_that_cannot_be_judged_is_not_reached_over_a_network(signed, machine, tmp_path, how):
    path = signed(console_guests.says(READY))
    words = ("-chardev", f"socket,id=m,path={tmp_path}/m,server=on,wait=off,{how}", "-mon", "chardev=m,mode=readline")
    code, out, err = run(*machine, *QUIET, *CONSOLE, *disk_words(path), *words)
    assert (code, out, err.count("\n")) == (2, b"", 1)
    assert "cannot be judged" in err


@pytest.mark.parametrize(
    "words",
    [
        ("-chardev", "socket,id=s,path=/x,server=on,wait=off", "-chardev", "mux,id=m,chardev=s", "-mon", "chardev=m"),
        ("-chardev", "udp,id=m,port=1", "-mon", "chardev=m"),
        ("-chardev", "pipe,id=m,path=/x", "-mon", "chardev=m,mode=control"),
        ("-monitor", "vc"),
        ("-qmp", "vc"),
        ("-monitor", "/dev/ttyS0"),
        ("-serial", "mon:vc"),
        ("-chardev", "spiceport,id=m,name=x", "-mon", "chardev=m"),
    ],
)
def test_nor_in_any_other_way(signed, machine, words):
    """Wherever somebody may be who is not the person at the terminal."""
    code, out, err = run(*machine, *QUIET, *disk_words(signed(console_guests.says(READY))), *words)
    assert (code, out, err.count("\n")) == (2, b"", 1)
    assert "cannot be judged" in err


@pytest.fixture
def data_disk(tmp_path, need_tool):
    """Makes a qcow2 image that says of itself that it is above another file."""
    program = need_tool("qemu-img", "qemu-utils")

    def make(*options):
        path = tmp_path / "data.qcow2"
        subprocess.run([program, "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True)
        return path

    return make


def test_a_disk_that_does_not_boot_leads_nowhere(signed, machine, tmp_path, data_disk):
    """QEMU would open the file that the header names, for reading and writing, whatever it is."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret".ljust(1 << 20))
    path = signed(console_guests.says(READY))
    for options in (("-o", f"data_file={secret},data_file_raw=on"), ("-b", secret, "-F", "raw")):
        image = data_disk(*options)
        words = ("-drive", f"file={image},format=qcow2,if=none,id=x", "-device", "virtio-blk-ccw,drive=x")
        code, out, err = run(*machine, *QUIET, *CONSOLE, *disk_words(path), *words)
        assert (code, out, err.count("\n")) == (2, b"", 1), err
        assert f"{image}: the image names the" in err
        assert run("--allow-backing", *machine, *QUIET, *CONSOLE, *disk_words(path), *words)[:2] == (0, READY)


def test_a_disk_whose_files_are_all_on_the_line(signed, machine, tmp_path, data_disk):
    below = tmp_path / "below"
    below.write_bytes(bytes(1 << 20))
    image = data_disk("-b", below, "-F", "raw")
    node = {"driver": "qcow2", "node-name": "x", "file": {"driver": "file", "filename": str(image)}}
    node["backing"] = {"driver": "raw", "file": {"driver": "file", "filename": str(below)}}
    words = ("-blockdev", json.dumps(node), "-device", "virtio-blk-ccw,drive=x")
    path = signed(console_guests.says(READY))
    assert run(*machine, *QUIET, *CONSOLE, *disk_words(path), *words)[:2] == (0, READY)


def test_the_start_waits_for_who_is_to_be_waited_for(signed, machine, tmp_path):
    path = signed(console_guests.says(READY))
    channel = f"socket,id=con,path={tmp_path}/con,server=on,wait=on"
    with started(*machine, *QUIET, *disk_words(path), "-chardev", channel, "-device", "sclpconsole,chardev=con") as run:
        assert f"waiting for a connection to unix:{tmp_path}/con,server=on\n".encode() in run.stderr.readline()
        assert Peer(tmp_path / "con").rest() == READY
        assert run.wait(PATIENCE) == 0


def test_the_next_disk_boots_where_the_first_one_cannot(signed, machine, tmp_path):
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(1 << 20))
    audit = [word.replace("secure-boot=on", "secure-boot=off") for word in machine]
    good = disk_words(signed(console_guests.says(READY)), "d1", bootindex=2)
    code, out, _ = run(*audit, *QUIET, *CONSOLE, *disk_words(empty), *good)
    assert (code, out) == (0, READY)


def test_virtio_scsi(signed, machine):
    path = signed(console_guests.says(READY))
    words = ("-device", "virtio-scsi-ccw,id=hba", "-drive", f"file={path},format=raw,if=none,id=d0")
    code, out, _ = run(*machine, *QUIET, *CONSOLE, *words, "-device", "scsi-hd,drive=d0,bus=hba.0,bootindex=1")
    assert (code, out) == (0, READY)


def test_two_boot_disks_behind_one_controller_are_refused(signed, machine):
    path = signed(console_guests.says(READY))
    words = ["-device", "virtio-scsi-ccw,id=hba"]
    for number in (1, 2):
        words += ["-drive", f"file={path},format=raw,if=none,id=d{number},readonly=on"]
        words += ["-device", f"scsi-hd,drive=d{number},bus=hba.0,bootindex={number},lun={number}"]
    code, out, err = run(*machine, *QUIET, *CONSOLE, *words)
    assert (code, out) == (2, b"")
    assert "two disks of the boot order are behind one controller" in err


def test_a_network_card_does_not_boot(signed, machine):
    network = ("-netdev", "user,id=n0", "-device", "virtio-net-ccw,netdev=n0,bootindex=0")
    code, out, err = run(*machine, *QUIET, *CONSOLE, *disk_words(signed(console_guests.says(READY))), *network)
    assert (code, out) == (1, b"")
    assert "device-not-eligible" in err


@pytest.mark.parametrize(
    ("words", "named"),
    {
        "incoming": (("-incoming", "defer"), "-incoming"),
        "loadvm": (("-loadvm", "x"), "-loadvm"),
        "loader": (("-device", "loader,file=/etc/passwd,addr=0"), "loader"),
        "bios": (("-bios", "x"), "-bios"),
        "gdb": (("-gdb", "tcp::1"), "-gdb"),
        "s": (("-s",), "-s"),
        "unknown": (("-frobnicate",), "-frobnicate"),
        "remote image": (("-drive", "file=nbd://127.0.0.1/x,if=none,id=x"), "-drive"),
    }.values(),
)
def test_what_could_lead_around_is_refused_by_name(signed, machine, words, named):
    code, out, err = run(*machine, *QUIET, *CONSOLE, *disk_words(signed(console_guests.says(READY))), *words)
    assert (code, out, err.count("\n")) == (2, b"", 1)
    assert named in err


@pytest.mark.parametrize(("words", "code"), [((), 0), (("-action", "panic=exit-failure"), 1)])
def test_a_crash_ends_as_the_line_says(signed, machine, words, code):
    path = signed(console_guests.says_and_crashes(READY))
    assert run(*machine, *QUIET, *CONSOLE, *disk_words(path), *words)[:2] == (code, READY)


def test_a_crashed_guest_stays_where_that_is_asked_for(signed, machine):
    path = signed(console_guests.says_and_crashes(READY))
    with watched(machine, path, "-action", "panic=pause") as (process, console, monitor):
        monitor.command("cont")
        console.until(READY)
        monitor.until(b"GUEST_PANICKED")
        monitor.command("query-status")
        monitor.until(b"guest-panicked")
        assert process.poll() is None
        monitor.command("system_reset")
        monitor.command("cont")
        console.until(READY, 2)
        monitor.command("quit")
        assert process.wait(PATIENCE) in (0, 1)


def test_no_reboot(signed, machine):
    path = signed(console_guests.says_and_reboots(READY))
    code, out, _ = run(*machine, *QUIET, *CONSOLE, *disk_words(path), "-no-reboot")
    assert (code, out) == (0, READY)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_everything(signed, machine, number):
    path = signed(console_guests.says_and_loops(READY))
    with watched(machine, path) as (process, console, monitor):
        monitor.command("cont")
        console.until(READY)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 2
        assert console.rest() == READY
    assert not (Path(path).parent / "con").exists()


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """A program in the place of QEMU that says what it was called with."""
    fake = tmp_path / "qemu"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("SIPL_QEMU", str(fake))


def test_without_secure_boot_it_is_qemu(echo):
    words = ("-frobnicate", "-m", "64", "-kernel", "x")
    assert run(*words)[:2] == (0, "\n".join([*words, ""]).encode())


def test_native_leaves_all_to_qemu(echo):
    words = ("-machine", "s390-ccw-virtio,secure-boot=on,boot-certs.0.path=x", "-m", "64")
    assert run("--native", *words)[:2] == (0, "\n".join([*words, ""]).encode())


def test_help_tells_of_its_own_options_too(echo):
    code, out, _ = run("-help")
    assert code == 0
    assert b"--allow-backing" in out
    assert out.endswith(b"-help\n")


def test_no_qemu(machine, monkeypatch, signed):
    path = signed(console_guests.says(READY))
    monkeypatch.setenv("SIPL_QEMU", "/nonexistent/qemu")
    code, _, err = run(*machine, *QUIET, *disk_words(path))
    assert (code, err.count("\n")) == (2, 1)
    assert "/nonexistent/qemu" in err


def test_what_qemu_refuses_is_told_in_one_line(signed, machine):
    path = signed(console_guests.says(READY))
    code, out, err = run(*machine, *QUIET, *CONSOLE, *disk_words(path, devno="fe.0.zzzz"))
    assert (code, out, err.count("\n")) == (2, b"", 1)


def test_a_file_goes_on_where_the_ipl_before_stopped(signed, machine, tmp_path):
    path = signed(console_guests.says_and_reboots(READY))
    log = tmp_path / "log"
    words = ("-chardev", f"file,id=con,path={log}", "-device", "sclpconsole,chardev=con")
    with started(*machine, *QUIET, *words, *disk_words(path)):
        deadline = time.monotonic() + PATIENCE
        while not (log.exists() and log.read_bytes().count(READY) >= 3):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_balloon_does_not_flood_standard_error(signed, machine):
    """What it takes from the guest cannot be given back to the host, which QEMU says of each page."""
    ring = Ring(size=128)
    pages = b"".join(struct.pack("<I", 0x400 + number) for number in range(64))
    ring.asm.put(ring.BUFFER, pages)
    ring.descriptors((ring.BUFFER, len(pages), 0, 0))
    ring.available(1, 0)
    asm = ring.notify()
    slow = console_guests.write(asm, READY).load(5, 20_000_000).ri(0xA77, 5, 0)  # BRCTG to itself
    balloon = ("-device", "virtio-balloon-ccw,devno=fe.0.0000")
    code, out, err = run(*machine, *QUIET, *CONSOLE, *balloon, *disk_words(signed(slow.end())))
    assert (code, out) == (0, READY)
    assert err.count("what a balloon takes") == 1
    assert "fallocate" not in err
