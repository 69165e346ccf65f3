"""The allow-list: what is refused on the command line of a guest whose IPL is verified, one by one."""

from __future__ import annotations

import re
import subprocess

import pytest
from qemu_lines import DISK, SECURE, Opened

from sipl.errors import UsageError
from sipl.qemu_command import allowed
from sipl.qemu_command.plan import _JUDGED, read_command
from sipl.qemu_command.words import known_options, takes_value


def read(*argv):
    return read_command([*SECURE, *DISK, *argv]).guest


def refused(*argv):
    with pytest.raises(UsageError) as error:
        read(*argv)
    return str(error.value)


OPTIONS = {
    "-incoming": "tcp:0:4444",
    "-loadvm": "x",
    "-bios": "x",
    "-pflash": "x",
    "-option-rom": "x",
    "-L": "x",
    "-dtb": "x",
    "-fw_cfg": "name=x,string=y",
    "-tpmdev": "emulator,id=t,chardev=c",
    "-gdb": "tcp::1234",
    "-s": None,
    "-plugin": "x.so",
    "-qtest": "stdio",
    "-qtest-log": "x",
    "-preconfig": None,
    "--preconfig": None,
    "-readconfig": "x",
    "-writeconfig": "x",
    "-set": "device.x.y=z",
    "-mem-path": "/dev/shm",
    "-numa": "node",
    "-iscsi": "user=x",
    "-fda": "x",
    "-sd": "x",
    "-mtdblock": "x",
    "-xen-attach": None,
    "-debugcon": "stdio",
    "-usbdevice": "mouse",
    "-dump-vmstate": "x",
    "-semihosting": None,
    "-igvm": "x",
    "-initrd": "x",
    "-append": "x",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_option(option):
    value = OPTIONS[option]
    text = refused(option, *([] if value is None else [value]))
    assert text.startswith(f"-{option.lstrip('-')}: it cannot be had with secure-boot or boot-certs: ")
    assert "\n" not in text


def test_every_option_with_a_reason_is_an_option():
    assert known_options() >= set(allowed.REFUSED)
    assert known_options() | {""} >= allowed.PASSED | _JUDGED
    assert not allowed.PASSED & set(allowed.REFUSED)
    assert not _JUDGED & set(allowed.REFUSED)


@pytest.mark.parametrize(
    "option", sorted(known_options() - allowed.PASSED - _JUDGED - {"M", "h", "help", "version", "audio-help"})
)
def test_every_option_that_nobody_allows_is_refused(option):
    assert refused(f"-{option}", *(["x"] if takes_value(option) else [])).startswith(f"-{option}: it cannot be had")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            "loader,file=x,addr=0",
            "-device loader: it cannot be had with secure-boot or boot-certs: it loads what was not",
        ),
        ('{"driver":"loader","file":"x"}', "-device loader"),
        ("guest-loader,addr=0", "-device guest-loader"),
        ("generic-loader", "nobody has judged device 'generic-loader'"),
        ("nvdimm,memdev=x", "others have that memory"),
        ("virtio-pmem-ccw,memdev=x", "others have that memory"),
        ("virtio-mem-ccw,memdev=x", "memory that comes later"),
        ("ivshmem-plain,memdev=x", "others have that memory"),
        ("vhost-user-blk-ccw,chardev=c", "another process"),
        ("vhost-user-fs-ccw,chardev=c", "another process"),
        ("vhost-scsi-ccw,wwpn=x", "target of the host"),
        ("vfio-ccw,sysfsdev=x,bootindex=2", "device of the host"),
        ("vfio-pci,host=1", "device of the host"),
        ("vfio-ap,sysfsdev=x", "device of the host"),
        ("scsi-block,drive=d", "whole SCSI devices"),
        ("scsi-generic,drive=d", "whole SCSI devices"),
        ("max-s390x-cpu,core-id=1", "nobody has judged device"),
        ("virtio-blk-device,drive=d", "nobody has judged device"),
        ("", "nobody has judged device"),
        ("drive=d", "nobody has judged device"),
        ("virtio-rng-ccw,x-new=1", "property 'x-new' of virtio-rng-ccw"),
        ("virtio-gpu-ccw,blob=on", "property 'blob'"),
        ("virtio-rng-pci,romfile=x", "property 'romfile'"),
        ("virtio-rng,id=sipl-boot-0", "begins like those of sipl"),
        ('{"driver":"virtio-rng-ccw","id":["x"]}', "takes one value"),
        ("virtio-rng,driver=loader", "given twice"),
    ],
)
def test_device(value, says):
    assert says in refused("-device", value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("memory-backend-file,id=m,size=1M,mem-path=/x", "-object memory-backend-file: it cannot be had"),
        ("memory-backend-ram,id=m,size=1M", "main memory only"),
        ('{"qom-type":"memory-backend-memfd","id":"m","size":1}', "main memory only"),
        ("memory-backend-shm,id=m,size=1M", "others have that memory"),
        ("s390-pv-guest,id=pv0", "sipl cannot verify"),
        ("qtest,id=q,chardev=c", "test drives"),
        ("x-remote-object,id=q", "another process"),
        ("cryptodev-vhost-user,id=q,chardev=c", "another process"),
        ("dbus-vmstate,id=q", "saved state"),
        ("can-bus,id=c", "nobody has judged object 'can-bus'"),
        ("rng-random,id=r,new=1", "property 'new'"),
        ("rng-random,id=sipl-ram", "begins like those of sipl"),
    ],
)
def test_object(value, says):
    assert says in refused("-object", value)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("-netdev", "vhost-user,id=n,chardev=c", "-netdev vhost-user"),
        ("-netdev", '{"type":"vhost-vdpa","id":"n","vhostdev":"/dev/x"}', "another device"),
        ("-netdev", "new,id=n", "nobody has judged network 'new'"),
        ("-netdev", "user,id=n,type=vhost-user", "vhost-user"),
        ("-netdev", "type=vhost-user,id=n,type=user", "vhost-user"),
        ("-nic", "vhost-user,chardev=c", "another process"),
        ("-net", "vhost-user", "another process"),
        ("-netdev", "tap,id=n,fd=x", "is no number"),
        ("-netdev", "passt,id=n,vhost-user=on", "another process"),
        ("-netdev", '{"type":"passt","id":"n","vhost-user":true}', "another process"),
        ("-chardev", "mux,id=m,chardev=sipl-qmp", "begins like those of sipl"),
        ("-chardev", "hub,id=m,chardevs.0=c,chardevs.1=sipl-gdb", "begins like those of sipl"),
        ("-chardev", "testdev,id=c", "ends QEMU"),
        ("-chardev", "new,id=c", "nobody has judged channel 'new'"),
        ("-chardev", "null", "no id"),
        ("-chardev", "null,id=sipl-qmp", "begins like those of sipl"),
        ("-chardev", '{"backend":"null","id":"c"}', "JSON"),
        ("-parallel", "stdio", "parallel"),
        ("-mon", "chardev=nobody", "no -chardev 'nobody'"),
        ("-serial", "chardev:nobody", "no -chardev nobody"),
        ("-serial", "braille", "no channel that sipl knows"),
        ("-accel", "qtest", "runs no guest"),
        ("-accel", "hvf", "runs no guest"),
        ("-accel", "xen", "runs no guest"),
        ("-accel", "tcg,new=1", "property 'new'"),
        ("-icount", "shift=1,rr=replay,rrfile=x", "property 'rr'"),
        ("-global", "virtio-blk-ccw.bootindex=1", "no matter of a default"),
        ("-global", "driver=virtio-blk-ccw,property=drive,value=x", "no matter of a default"),
        ("-global", "loader.file=x", "loads what was not"),
        ("-global", "s390x-cpu.unpack=on", "nobody has judged device 's390x-cpu'"),
        ("-global", "virtio-blk-ccw.new=1", "property 'new'"),
        ("-global", "nonsense", "nobody has judged"),
        ("-boot", "rom=x", "property 'rom'"),
        ("-m", "1G,slots=2,maxmem=4G", "memory that comes later"),
        ("-m", "1G,new=1", "property 'new'"),
        ("-smp", "2,new=1", "property 'new'"),
        ("-action", "reboot=none", "nothing to do at reboot"),
        ("-action", "new=none", "property 'new'"),
        ("-cpu", "max,unpack=on", "--allow-unpack"),
        ("-cpu", "max,+unpack", "--allow-unpack"),
        ("-cpu", "max,new=on", "no CPU feature 'new'"),
        ("-cpu", "pentium", "no CPU model"),
        ("-machine", "confidential-guest-support=pv0", "'confidential-guest-support' is not taken here"),
        ("-machine", "firmware=x", "'firmware' is not taken here"),
        ("-machine", "kernel=x", "use -kernel"),
        ("-machine", "memory.size=1G", "use -m"),
        ("-machine", "new=x", "property 'new' of the machine"),
        ("-machine", "accel=kvm:qtest", "accelerator 'qtest'"),
        ("-machine", "memory-backend=m", "there is no memory 'm'"),
        ("-machine", "type=none", "-machine: there is no machine type"),
        ("-machine", "secure_boot=off", "with a hyphen and with an underscore"),
        ("-add-fd", "fd=x,set=1", "is no number"),
    ],
)
def test_others(option, value, says):
    assert says in refused(option, value)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("-drive", "file=nbd://host/x,if=none", "protocol 'nbd'"),
        ("-drive", "file=https://host/x,if=none", "protocol 'https'"),
        ("-drive", "file=rbd:pool/x", "protocol 'rbd'"),
        ("-drive", "file=fat:rw:/dir", "protocol 'fat'"),
        ("-drive", 'file=json:{"driver":"nbd"}', "protocol 'json'"),
        ("-drive", "file.driver=nbd,file.host=x", "driver 'nbd'"),
        ("-drive", "file.filename=nbd:x:1", "driver ''"),
        ("-drive", "driver=vvfat,file=x", "driver 'vvfat'"),
        ("-drive", "file=x,format=luks", "driver 'luks'"),
        ("-drive", "file=x,format=qcow2,backing.driver=raw,backing.file.driver=ssh", "driver 'ssh'"),
        ("-drive", "file=x,if=pflash", "interface 'pflash'"),
        ("-drive", "file=x,new=1", "property 'new' of a drive"),
        ("-drive", "file=x,id=sipl-d", "begins like those of sipl"),
        ("-drive", "file=x,id=d", "two drives 'd'"),
        ("-drive", "file=x,readonly=on,read-only=off", "twice"),
        ("-drive", "file=x,file.filename=y", "twice"),
        ("-drive", "file=x,format=raw,driver=raw", "twice"),
        ("-drive", "backing=x,backing.driver=raw", "a name here and has members there"),
        ("-blockdev", "nbd,node-name=n,server.type=unix", "driver 'nbd'"),
        ("-blockdev", '{"driver":"raw","file":{"driver":"gluster"}}', "driver 'gluster'"),
        ("-blockdev", '{"driver":"raw","file":{"driver":"file","filename":"x","new":1}}', "property 'new'"),
        ("-blockdev", '{"driver":"raw","file":{}}', "driver ''"),
        ("-blockdev", '{"driver":"raw","file":"f","cache":{"new":1}}', "property 'new' of a cache"),
        ("-blockdev", '{"driver":"raw","file":"f","cache":"none"}', "cache.direct"),
        ("-blockdev", '{"driver":["raw"],"file":"f"}', "takes one value"),
        ("-blockdev", '{"driver":"qcow2","file":"f","encrypt":{}}', "property 'encrypt'"),
        ("-blockdev", "raw,node-name=sipl-x,file=f", "begins like those of sipl"),
        ("-blockdev", "raw,node-name=d,file=f", "two nodes 'd'"),
        ("-blockdev", "qcow2,node-name=n,file=f,l2-cache-size=many", "no number for 'l2-cache-size'"),
        ("-blockdev", "qcow2,node-name=n,file=f,read-only=maybe", "neither on nor off"),
        ("-hda", "ssh://x/y", "protocol 'ssh'"),
        ("-cdrom", "http://x/y", "protocol 'http'"),
    ],
)
def test_image(option, value, says):
    assert says in refused(option, value)


def test_disk_without_an_option():
    assert "protocol 'nbd'" in refused("nbd:localhost:1")


HARMLESS = [
    ("-device", "virtio-rng-ccw,max-bytes=1024,period=1000"),
    ("-device", "virtio-9p-ccw,fsdev=f,mount_tag=t"),
    ("-device", "zpci,uid=1,target=x"),
    ("-device", "diag288"),
    ("-device", '{"driver":"virtio-blk-ccw","drive":"x","iothread-vq-mapping":[{"iothread":"i","vqs":[0]}]}'),
    ("-object", "iothread,id=i,poll-max-ns=1"),
    ("-object", "secret,id=s,data=x"),
    ("-object", '{"qom-type":"throttle-group","id":"g","limits":{"iops-total":5}}'),
    ("-netdev", "user,id=n,hostfwd=tcp::1-:1,hostfwd=tcp::2-:2"),
    ("-nic", "none"),
    ("-net", "nic,model=virtio"),
    ("-chardev", "file,id=c,path=x"),
    ("-accel", "kvm"),
    ("-accel", "tcg,thread=multi"),
    ("-icount", "shift=auto"),
    ("-global", "virtio-rng-ccw.max-bytes=5"),
    ("-global", "driver=virtio-net-ccw,property=mq,value=on"),
    ("-cpu", "host,migratable=off"),
    ("-drive", "file=./a:b,format=raw"),
    ("-drive", "if=none,media=cdrom,id=cd"),
    ("-blockdev", "null-co,node-name=z,size=1M"),
    ("-fsdev", "local,id=f,path=/x,security_model=none"),
    ("-only-migratable",),
    ("-enable-kvm",),
    ("-snapshot",),
    ("-watchdog-action", "pause"),
    ("-run-with", "async-teardown=on"),
]


OTHERWISE = {
    "-icount": "-icount auto",
    "-global": "-global driver=virtio-",
    "-cpu": "-cpu host,migratable=off,unpack=off",
    "-watchdog-action": "-action watchdog=pause",
    "-drive": "-drive",
}


@pytest.mark.parametrize("argv", HARMLESS, ids=" ".join)
def test_harmless(argv):
    arguments = read(*argv).arguments([Opened()], {})
    # An option keeps its words, or is said in the other way that QEMU has for it.
    assert set(argv) <= set(arguments) or OTHERWISE[argv[0]] in " ".join(arguments)


def test_devices_of_the_table_are_those_of_the_installed_qemu(need_tool):
    qemu = need_tool("qemu-system-s390x", "qemu-system-misc")
    text = subprocess.run([qemu, "-device", "help"], capture_output=True, text=True, check=True).stdout
    there = set(re.findall(r'^name "([^"]+)"', text, re.MULTILINE))
    assert not set(allowed.DEVICES) - there
    assert set(re.findall(r'alias "([^"]+)"', text)) == set(allowed.DEVICE_ALIASES) - {"virtio-crypto"}
    for driver in ("virtio-blk-ccw", "scsi-hd", "virtio-net-ccw"):
        text = subprocess.run([qemu, "-device", f"{driver},help"], capture_output=True, text=True, check=True).stdout
        offered = set(re.findall(r"^  ([A-Za-z0-9_-]+)=", text, re.MULTILINE))
        assert len(allowed.DEVICES[driver] & offered) > 20
        # What it lacks came later; what is not in the table is not for users.
        assert {name for name in offered - allowed.DEVICES[driver] if not name.startswith("x-")} == {
            "scsi-hd": set()
        }.get(driver, {"dev_id", "subch_id", "virtio-backend"})
