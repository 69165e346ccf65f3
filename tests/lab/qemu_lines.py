"""Command lines for tests: as libvirt writes them, and as people do."""

from __future__ import annotations

from sipl.disk.shared_image import Adopted, Members

CERTS = "boot-certs.0.path=/certs"
SECURE = ("-machine", f"s390-ccw-virtio,secure-boot=on,{CERTS}")
DISK = ("-drive", "if=none,id=d,file=disk.qcow2,format=qcow2", "-device", "virtio-blk-ccw,drive=d,bootindex=1")


def libvirt_line(disk: str, certs: str, sockets: str, monitor: str = "path=/sock/monitor.sock") -> list[str]:
    """A guest of virt-install as libvirt 9 starts it; its monitor is reached as `monitor` says."""
    return [
        *("-name", "guest=s390,debug-threads=on", "-S"),
        *("-object", '{"qom-type":"secret","id":"masterKey0","format":"raw","data":"c2VjcmV0"}'),
        "-machine",
        (
            "s390-ccw-virtio-7.2,usb=off,dump-guest-core=off,memory-backend=s390.ram,"
            f"secure-boot=on,boot-certs.0.path={certs}"
        ),
        *("-accel", "tcg", "-cpu", "max", "-m", "size=524288k"),
        *("-object", '{"qom-type":"memory-backend-ram","id":"s390.ram","size":536870912}'),
        *("-overcommit", "mem-lock=off", "-smp", "2,sockets=2,cores=1,threads=1"),
        *("-uuid", "b1c1e2f4-5a3d-4c1e-9b52-0d6f3c0f6a11", "-display", "none", "-no-user-config", "-nodefaults"),
        *("-chardev", f"socket,id=charmonitor,{monitor},server=on,wait=off"),
        *("-mon", "chardev=charmonitor,id=monitor,mode=control", "-rtc", "base=utc", "-no-shutdown"),
        *("-boot", "strict=on"),
        *("-device", '{"driver":"virtio-scsi-ccw","id":"scsi0","devno":"fe.0.0002"}'),
        *("-device", '{"driver":"virtio-serial-ccw","id":"virtio-serial0","devno":"fe.0.0003"}'),
        "-blockdev",
        (
            f'{{"driver":"file","filename":"{disk}","node-name":"libvirt-1-storage","auto-read-only":true,'
            '"discard":"unmap","cache":{"direct":false,"no-flush":false}}'
        ),
        "-blockdev",
        (
            '{"node-name":"libvirt-1-format","read-only":false,"discard":"unmap","driver":"qcow2",'
            '"cache":{"direct":false,"no-flush":false},"file":"libvirt-1-storage","backing":null}'
        ),
        "-device",
        '{"driver":"virtio-blk-ccw","devno":"fe.0.0000","drive":"libvirt-1-format","id":"virtio-disk0","bootindex":1}',
        *("-netdev", '{"type":"user","id":"hostnet0"}'),
        "-device",
        '{"driver":"virtio-net-ccw","netdev":"hostnet0","id":"net0","mac":"52:54:00:11:22:33","devno":"fe.0.0001"}',
        *("-chardev", "pty,id=charconsole0"),
        *("-device", '{"driver":"sclpconsole","chardev":"charconsole0","id":"console0"}'),
        *("-chardev", f"socket,id=charchannel0,path={sockets}/agent.sock,server=on,wait=off"),
        "-device",
        (
            '{"driver":"virtserialport","bus":"virtio-serial0.0","nr":1,"chardev":"charchannel0","id":"channel0",'
            '"name":"org.qemu.guest_agent.0"}'
        ),
        *("-audiodev", '{"id":"audio1","driver":"none"}'),
        *("-device", '{"driver":"virtio-balloon-ccw","id":"balloon0","devno":"fe.0.0004"}'),
        *("-object", '{"qom-type":"rng-random","id":"objrng0","filename":"/dev/urandom"}'),
        *("-device", '{"driver":"virtio-rng-ccw","rng":"objrng0","id":"rng0","devno":"fe.0.0005"}'),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-msg", "timestamp=on"),
    ]


class Opened:
    """Stands for an image that sipl has opened, in one file; `name` is the one in its ImageSpec."""

    format = "qcow2"

    def __init__(self, name: str = "0/file", *, writable: bool = True, below: tuple[str, ...] = ()) -> None:
        self._names = (name, *below)
        self._writable = writable

    def add_fd(self, first_set: int) -> list[str]:
        return [
            word
            for number, _ in enumerate(self._names)
            for word in ("-add-fd", f"fd={90 + number},set={first_set + number}")
        ]

    def descriptors(self) -> tuple[int, ...]:
        return tuple(range(90, 90 + len(self._names)))

    def blockdevs(self, node: str, first_set: int) -> list[dict[str, object]]:
        return [{"driver": "qcow2", "node-name": node, "file": f"/dev/fdset/{first_set}"}]

    def adopted(self, first_set: int) -> Adopted:
        members = {}
        for number, name in enumerate(self._names):
            file = {
                "driver": "file",
                "filename": f"/dev/fdset/{first_set + number}",
                "read-only": not self._writable or number > 0,
                "auto-read-only": False,
            }
            members[name] = Members(file, {"read-only": not self._writable or number > 0})
        return Adopted([], members)
