"""What may stand on the command line of a guest whose IPL is verified: an allow-list (docs/qemu-command.md).

Whoever writes the line owns the host, and is not whom secure IPL protects from; but he must not switch it off without
noticing. So an option is allowed when it is known that it cannot

* have code run that was not verified: other firmware, a saved state, a loader, a debugger, a plugin;
* take the hand-over away from sipl: who starts the guest, what a reset does, which process there is;
* write into the guest's memory past the guest's own devices: memory that others have, too, and devices of the host.

Everything else is refused by name, also what is only unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.errors import UsageError
from sipl.qemu_command.words import names
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# All names of objects, devices, images and channels that sipl adds begin so.
OWN_PREFIX: Final = "sipl-"
_SHOWN: Final = 80

# Options that are passed on as they are: names, time, logs, pictures and sounds, limits of the process.
PASSED: Final = names("""
    D async-teardown audio audiodev compat d dfilter display echr enable-kvm enable-sync-profile fsdev full-screen
    k msg name no-user-config nodefaults nographic one-insn-per-tb only-migratable overcommit portrait rotate rtc
    run-with runas chroot sandbox seed singlestep spice trace usb uuid vga virtfs vnc
""")

_NO_STATE: Final = "the guest would go on from a saved state instead of an IPL"
_NO_FIRMWARE: Final = "firmware comes from sipl alone"
_NO_DEBUGGER: Final = "a debugger can change the guest past every verification"
_NO_FILE: Final = "what it says cannot be judged here"
_NO_MEMORY: Final = "the guest's memory comes from sipl"
_NO_SUCH: Final = "this machine has no use for it"

# Options that are refused with a reason of their own.
REFUSED: Final = {
    "incoming": _NO_STATE,
    "loadvm": _NO_STATE,
    "bios": _NO_FIRMWARE,
    "pflash": _NO_FIRMWARE,
    "igvm": _NO_FIRMWARE,
    "shim": _NO_FIRMWARE,
    "option-rom": _NO_FIRMWARE,
    "L": "QEMU's own firmware would come from there",
    "dtb": _NO_SUCH,
    "fw_cfg": _NO_SUCH,
    "tpmdev": _NO_SUCH,
    "acpitable": _NO_SUCH,
    "smbios": _NO_SUCH,
    "semihosting": "the guest could read and write files of the host",
    "semihosting-config": "the guest could read and write files of the host",
    "gdb": _NO_DEBUGGER,
    "s": _NO_DEBUGGER,
    "plugin": "a plugin sees and changes whatever the guest runs",
    "qtest": "a test drives the machine in place of the guest",
    "qtest-log": "a test drives the machine in place of the guest",
    "preconfig": "the machine could be changed after it was judged",
    "readconfig": _NO_FILE,
    "writeconfig": _NO_FILE,
    "set": "it changes another option; write it there",
    "mem-path": _NO_MEMORY,
    "numa": _NO_MEMORY,
    "iscsi": "only local images can be had",
    "mtdblock": _NO_SUCH,
    "fda": _NO_SUCH,
    "fdb": _NO_SUCH,
    "sd": _NO_SUCH,
    "xen-attach": "a guest of Xen is not started by sipl",
    "xen-domid": "a guest of Xen is not started by sipl",
    "xen-domid-restrict": "a guest of Xen is not started by sipl",
}

# Properties of -machine that QEMU gets; of those that it does not get, sipl takes care itself.
MACHINE: Final = names("""
    accel aes-key-wrap aux-ram-share dea-key-wrap dump-guest-core graphics kernel-irqchip loadparm mem-merge
    suppress-vmdesc type usb
""")
MACHINE_REFUSED: Final = {
    "append": "use -append",
    "boot": "use -boot",
    "confidential-guest-support": "a guest of protected virtualization starts from an image that sipl cannot verify",
    "dtb": _NO_SUCH,
    "dumpdtb": _NO_SUCH,
    "firmware": _NO_FIRMWARE,
    "initrd": "use -initrd",
    "kernel": "use -kernel",
    "memory": "use -m",
    "memory-encryption": "a guest of protected virtualization starts from an image that sipl cannot verify",
    "smp": "use -smp",
}

ACCELERATORS: Final[Mapping[str, frozenset[str]]] = {
    "tcg": frozenset({"one-insn-per-tb", "split-wx", "tb-size", "thread"}),
    "kvm": frozenset({"dirty-ring-size", "kernel-irqchip", "kvm-shadow-mem"}),
}
# A recording replays what was not verified: `rr`, `rrfile` and `rrsnapshot` are not in it.
ICOUNT: Final = frozenset({"align", "shift", "sleep"})
BOOT: Final = frozenset({"menu", "once", "order", "reboot-timeout", "splash", "splash-time", "strict"})
ACTIONS: Final = frozenset({"panic", "reboot", "shutdown", "watchdog"})

# Objects, with their properties. The memory of the guest is no matter of these: see `RAM_BACKENDS`.
_THROTTLE: Final = [
    f"x-{unit}-{way}{suffix}"
    for unit in ("bps", "iops")
    for way in ("total", "read", "write")
    for suffix in ("", "-max", "-max-length")
]
_TLS: Final = "dir endpoint priority verify-peer"
OBJECTS: Final[Mapping[str, frozenset[str]]] = {
    name: names(properties)
    for name, properties in {
        "authz-list": "policy rules",
        "authz-list-file": "filename refresh",
        "authz-pam": "service",
        "authz-simple": "identity",
        "cryptodev-backend-builtin": "queues throttle-bps throttle-ops",
        "filter-dump": "file maxlen netdev queue status position insert",
        "iothread": "aio-max-batch poll-grow poll-max-ns poll-shrink poll-weight thread-pool-max thread-pool-min",
        "main-loop": "aio-max-batch poll-grow poll-max-ns poll-shrink thread-pool-max thread-pool-min",
        "rng-builtin": "",
        "rng-egd": "chardev",
        "rng-random": "filename",
        "secret": "data file format iv keyid",
        "secret_keyring": "format iv keyid serial",
        "thread-context": "cpu-affinity node-affinity",
        "throttle-group": f"limits x-iops-size {' '.join(_THROTTLE)}",
        "tls-creds-anon": _TLS,
        "tls-creds-psk": f"{_TLS} username",
        "tls-creds-x509": f"{_TLS} passwordid sanity-check",
    }.items()
}
# Main memory as QEMU and libvirt have it; sipl's own takes its place, with those properties that fit.
RAM_BACKENDS: Final = frozenset({"memory-backend-ram", "memory-backend-memfd"})
RAM_KEPT: Final = frozenset({"dump", "merge", "prealloc"})
RAM_DROPPED: Final = names("""
    host-nodes hugetlb hugetlbsize policy prealloc-context prealloc-threads reserve seal share
    x-use-canonical-path-for-ramblock-id
""")
_OBJECTS_REFUSED: Final = {
    "memory-backend-file": "others have that memory, too, and could change it",
    "memory-backend-shm": "others have that memory, too, and could change it",
    "memory-backend-epc": _NO_SUCH,
    "s390-pv-guest": "a guest of protected virtualization starts from an image that sipl cannot verify",
    "qtest": "a test drives the machine in place of the guest",
    "x-remote-object": "another process would be a device of the guest",
    "vfio-user-server": "another process would have the guest's memory",
    "x-vfio-user-server": "another process would have the guest's memory",
    "cryptodev-vhost-user": "another process would have the guest's memory",
    "dbus-vmstate": _NO_STATE,
    "colo-compare": "the guest would follow another one",
}

# Devices, with their properties, in parts.
_VIRTIO: Final = """
    any_layout event_idx in_order indirect_desc iommu_platform notify_on_empty packed queue_reset use-disabled-flag
    use-started x-disable-legacy-check
"""
_CCW: Final = f"devno ioeventfd max_revision {_VIRTIO}"
_PCI: Final = f"""
    acpi-index addr aer ats bus disable-legacy disable-modern failover_pair_id ioeventfd modern-pio-notify multifunction
    page-per-vq vectors {_VIRTIO}
"""
_BLOCK: Final = """
    account-failed account-invalid backend_defaults bootindex discard_granularity drive logical_block_size min_io_size
    opt_io_size physical_block_size rerror share-rw stats-intervals werror write-cache
"""
_GEOMETRY: Final = "cyls heads lcyls lheads lsecs secs"
_SCSI: Final = f"""
    {_BLOCK} bus channel device_id dpofua loadparm lun max_io_size max_unmap_size migrate-emulated-scsi-request
    port_index port_wwn product quirk_mode_page_apple_vendor quirk_mode_page_truncated
    quirk_mode_page_vendor_specific_apple quirk_mode_sense_rom_use_dbd scsi-id scsi_version serial vendor ver
    wwn
"""
_VIRTIO_BLK: Final = f"""
    {_BLOCK} {_GEOMETRY} config-wce discard iothread iothread-vq-mapping max-discard-sectors max-write-zeroes-sectors
    num-queues queue-size report-discard-granularity request-merging scsi seg-max-adjust serial write-zeroes
"""
_VIRTIO_NET: Final = """
    bootindex csum ctrl_guest_offloads ctrl_mac_addr ctrl_rx ctrl_rx_extra ctrl_vlan ctrl_vq duplex failover gso
    guest_announce guest_csum guest_ecn guest_rsc_ext guest_tso4 guest_tso6 guest_ufo guest_uso4 guest_uso6 hash
    host_ecn host_mtu host_tso4 host_tso6 host_ufo host_uso mac mq mrg_rxbuf netdev rsc_interval rss
    rx_queue_size speed status tx tx_queue_size
"""
_VIRTIO_SCSI: Final = """
    cmd_per_lun hotplug iothread iothread-vq-mapping max_sectors num_queues param_change seg_max_adjust virtqueue_size
    worker_per_virtqueue
"""
_SERIAL: Final = "emergency-write max_ports"
_RNG: Final = "max-bytes period rng"
_BALLOON: Final = """
    deflate-on-oom free-page-hint free-page-reporting guest-stats-polling-interval iothread page-poison
    qemu-4-0-config-size
"""
_INPUT: Final = "display head serial wheel-axis"
DEVICES: Final[Mapping[str, frozenset[str]]] = {
    name: names(properties)
    for name, properties in {
        "diag288": "",
        "scsi-cd": _SCSI,
        "scsi-hd": f"{_SCSI} {_GEOMETRY} removable rotation_rate",
        "sclpconsole": "chardev",
        "sclplmconsole": "chardev echo write_errors",
        "vhost-vsock-ccw": f"{_CCW} guest-cid seqpacket vhostfd",
        "virtconsole": "bus chardev name nr",
        "virtio-9p-ccw": f"{_CCW} fsdev mount_tag",
        "virtio-balloon-ccw": f"{_CCW} {_BALLOON}",
        "virtio-balloon-pci": f"{_PCI} {_BALLOON}",
        "virtio-blk-ccw": f"{_CCW} {_VIRTIO_BLK} loadparm",
        "virtio-blk-pci": f"{_PCI} {_VIRTIO_BLK} loadparm",
        "virtio-crypto-ccw": f"{_CCW} cryptodev",
        "virtio-gpu-ccw": f"{_CCW} edid max_hostmem max_outputs outputs xres yres",
        "virtio-keyboard-ccw": f"{_CCW} {_INPUT}",
        "virtio-mouse-ccw": f"{_CCW} {_INPUT}",
        "virtio-net-ccw": f"{_CCW} {_VIRTIO_NET} loadparm",
        "virtio-net-pci": f"{_PCI} {_VIRTIO_NET} loadparm",
        "virtio-rng-ccw": f"{_CCW} {_RNG}",
        "virtio-rng-pci": f"{_PCI} {_RNG}",
        "virtio-scsi-ccw": f"{_CCW} {_VIRTIO_SCSI}",
        "virtio-serial-ccw": f"{_CCW} {_SERIAL}",
        "virtio-serial-pci": f"{_PCI} {_SERIAL}",
        "virtio-tablet-ccw": f"{_CCW} {_INPUT}",
        "virtserialport": "bus chardev name nr",
        "x-terminal3270": "chardev devno",
        "zpci": "fid forwarding-assist interpret target uid",
    }.items()
}
# Other names that QEMU has for them.
DEVICE_ALIASES: Final = {
    f"virtio-{kind}": f"virtio-{kind}-ccw"
    for kind in ("9p", "balloon", "blk", "crypto", "gpu", "keyboard", "mouse", "net", "rng", "scsi", "serial", "tablet")
}
_DEVICES_REFUSED: Final = {
    "loader": "it loads what was not verified into the guest's memory",
    "guest-loader": "it loads what was not verified into the guest's memory",
    "nvdimm": "others have that memory, too, and could change it",
    "virtio-pmem": "others have that memory, too, and could change it",
    "virtio-mem": "memory that comes later is not sipl's",
    "ivshmem": "others have that memory, too, and could change it",
    "vhost-user": "another process would have the guest's memory",
    "vhost-vdpa": "another device would have the guest's memory",
    "vfio": "a device of the host would have the guest's memory",
    "x-vfio-user": "another process would have the guest's memory",
    "vhost-scsi": "a target of the host would have the guest's memory",
    "scsi-block": "only images can be had, not whole SCSI devices",
    "scsi-generic": "only images can be had, not whole SCSI devices",
}
# Which disk boots, where it is and how its blocks are: -device says that, for all to see.
_NOT_GLOBAL: Final = names("""
    bootindex bus chardev channel devno drive fsdev iothread loadparm logical_block_size lun mac netdev rng
    scsi-id vhostfd
""")

NETDEVS: Final = frozenset(
    {"bridge", "dgram", "hubport", "l2tpv3", "nic", "none", "passt", "socket", "stream", "tap", "user", "vde"}
)
_NETDEVS_REFUSED: Final = {
    "vhost-user": "another process would have the guest's memory",
    "vhost-vdpa": "another device would have the guest's memory",
}

CHARDEVS: Final = names("""
    file mux null pipe pty ringbuf serial socket spiceport spicevmc stdio tty udp vc qemu-vdagent hub parallel
    parport msmouse memory
""")
_CHARDEVS_REFUSED: Final = {"testdev": "with it a guest ends QEMU", "dbus": "it is no channel that sipl could keep"}

# Drivers of images, with their properties.
_COMMON: Final = "auto-read-only cache detect-zeroes discard driver force-share node-name read-only"
_FILE: Final = "aio aio-max-batch drop-cache filename locking x-check-cache-dropped"
BLOCK_DRIVERS: Final[Mapping[str, frozenset[str]]] = {
    name: names(f"{_COMMON} {properties}")
    for name, properties in {
        "copy-on-read": "bottom file",
        "file": _FILE,
        "host_cdrom": _FILE,
        "host_device": _FILE,
        "null-aio": "latency-ns read-zeroes size",
        "null-co": "latency-ns read-zeroes size",
        "qcow2": """
            backing cache-clean-interval cache-size data-file discard-no-unref file l2-cache-entry-size
            l2-cache-size lazy-refcounts overlap-check pass-discard-other pass-discard-request
            pass-discard-snapshot refcount-cache-size
        """,
        "raw": "file offset size",
        "throttle": "file throttle-group",
    }.items()
}
CACHE: Final = frozenset({"direct", "no-flush"})

# What -drive says of the drive itself; the rest of it is an image, as above.
_LIMITS: Final = [
    f"{unit}{way}{suffix}"
    for unit in ("bps", "iops")
    for way in ("", "_rd", "_wr")
    for suffix in ("", "_max", "_max_length")
]
_THROTTLING: Final = [
    f"throttling.{unit}-{way}{suffix}"
    for unit in ("bps", "iops")
    for way in ("total", "read", "write")
    for suffix in ("", "-max", "-max-length")
]
DRIVE: Final = frozenset(
    f"""
    aio bus cache cache.direct cache.no-flush cache.writeback copy-on-read detect-zeroes discard file format group id if
    index iops_size media node-name rerror snapshot stats-account-failed stats-account-invalid throttling.group
    throttling.iops-size unit werror {" ".join(_LIMITS)} {" ".join(_THROTTLING)}
    """.split()
)
INTERFACES: Final = frozenset({"none", "virtio"})


def check_option(option: str, where: str, judged: Iterable[str]) -> None:
    """Refuse an option that is neither passed on as it is nor among those that are judged one by one.

    Raises:
        UsageError: it is refused.
    """
    if option in PASSED or option in judged:
        return
    raise refuse(where, REFUSED.get(option, "nobody has judged whether verification survives it"))


def refuse(where: str, why: str) -> UsageError:
    """The error for something that is not allowed."""
    return UsageError(where, f"it cannot be had with secure-boot or boot-certs: {why}", "leave it out")


def check_properties(where: str, what: str, properties: Iterable[str], known: frozenset[str]) -> None:
    """Refuse a property that is not known to be harmless.

    Raises:
        UsageError: there is one.
    """
    for name in properties:
        if name not in known:
            shown = printable(name, _SHOWN)
            raise refuse(where, f"nobody has judged property '{shown}' of {printable(what, _SHOWN)}")


def check_device(where: str, driver: str, properties: Iterable[str]) -> str:
    """Refuse a device, or a property of one; returns the driver's main name.

    Raises:
        UsageError: it is refused.
    """
    name = DEVICE_ALIASES.get(driver, driver)
    if name not in DEVICES:
        raise _refused_kind(where, "device", driver, _DEVICES_REFUSED)
    check_properties(where, name, properties, DEVICES[name] | {"driver", "id"})
    return name


def check_global(where: str, driver: str, name: str) -> None:
    """Refuse a default for a property of a device that may not be had, or that -device has to say.

    Raises:
        UsageError: it is refused.
    """
    main = check_device(where, driver, ())
    if name in _NOT_GLOBAL:
        raise UsageError(where, f"'{printable(name, _SHOWN)}' is no matter of a default", "say it in each -device")
    check_properties(where, main, [name], DEVICES[main])


def check_object(where: str, kind: str, properties: Iterable[str]) -> None:
    """Refuse an object, or a property of one.

    Raises:
        UsageError: it is refused.
    """
    if kind not in OBJECTS:
        raise _refused_kind(where, "object", kind, _OBJECTS_REFUSED)
    check_properties(where, kind, properties, OBJECTS[kind] | {"id", "qom-type"})


def check_netdev(where: str, kind: str) -> None:
    """Refuse a network; whatever the others are told, they carry packets.

    Raises:
        UsageError: it is refused.
    """
    if kind not in NETDEVS:
        raise _refused_kind(where, "network", kind, _NETDEVS_REFUSED)


def check_chardev(where: str, kind: str) -> None:
    """Refuse a channel; whatever the others are told, they carry characters.

    Raises:
        UsageError: it is refused.
    """
    if kind not in CHARDEVS:
        raise _refused_kind(where, "channel", kind, _CHARDEVS_REFUSED)


def check_block_driver(where: str, driver: str, properties: Iterable[str]) -> None:
    """Refuse a driver of images, or a property of one.

    Raises:
        UsageError: it is refused.
    """
    if driver not in BLOCK_DRIVERS:
        raise refuse(
            where, f"images of driver '{printable(driver, _SHOWN)}' are not read, only local raw and qcow2 ones"
        )
    check_properties(where, driver, properties, BLOCK_DRIVERS[driver])


def check_accelerator(where: str, name: str, properties: Iterable[str] = ()) -> None:
    """Refuse an accelerator, or a property of one.

    Raises:
        UsageError: it is refused.
    """
    if name not in ACCELERATORS:
        raise UsageError(where, f"accelerator '{printable(name, _SHOWN)}' runs no guest of sipl", "use kvm or tcg")
    check_properties(where, name, properties, ACCELERATORS[name])


def check_id(where: str, name: str) -> None:
    """Refuse a name that sipl could give to something of its own.

    Raises:
        UsageError: it is refused.
    """
    if name.startswith(OWN_PREFIX):
        raise UsageError(where, f"the name '{printable(name, _SHOWN)}' begins like those of sipl", "take another one")


def _refused_kind(where: str, what: str, name: str, reasons: Mapping[str, str]) -> UsageError:
    """The longest prefix of the name tells the reason."""
    begin = max((start for start in reasons if name == start or name.startswith(f"{start}-")), key=len, default="")
    why = reasons.get(begin, f"nobody has judged {what} '{printable(name, _SHOWN)}'")
    return refuse(f"{where} {printable(name, _SHOWN)}" if name else where, why)
