"""What a user's monitor may ask of a QEMU whose guest was verified.

A monitor is for the administration of the host. Yet a few commands put unverified code into the guest, take the guest
to where no IPL is verified, or change things that belong to sipl, so that the next IPL would start something else than
the user believes. Those are refused by name, and so is what is not known here: a QEMU that comes later may have
anything.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sipl.errors import SiplError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class CommandRefused(SiplError):
    """A command is not passed on to QEMU; `where` is its name."""


_FOREIGN_STATE: Final = "it puts memory into the guest that nobody has verified"
_AWAY: Final = "the guest would go on where no IPL is verified"
_IMAGES: Final = "the next IPL starts from the images that sipl has opened, without this change"
_INTO_GUEST: Final = "it can change the guest's memory and registers"
_ENGINES: Final = "this connection is sipl's own"
_UNKNOWN: Final = "sipl does not know whether it keeps unverified code out"
_RESETTING: Final = "the machine was reset, and its next IPL is not verified yet"
_PROGRAM: Final = "it starts a program of the host"
_DESCRIPTOR: Final = "by its number it could be one of sipl's or QEMU's own"
_HINT: Final = "a guest under secure or audit IPL is guarded"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Commands with a reason of their own.
_REASONS: Final = {
    **dict.fromkeys(
        ("migrate-incoming", "migrate-recover", "snapshot-load", "xen-load-devices-state", "replay-seek"),
        _FOREIGN_STATE,
    ),
    **dict.fromkeys(("loadvm", "migrate_incoming", "migrate_recover", "replay_seek"), _FOREIGN_STATE),
    **dict.fromkeys(("migrate", "migrate-continue", "migrate-start-postcopy", "xen-save-devices-state"), _AWAY),
    **dict.fromkeys(("migrate_continue", "migrate_start_postcopy"), _AWAY),
    **dict.fromkeys(
        _names(
            "block-commit block-stream block_resize blockdev-change-medium blockdev-close-tray blockdev-create "
            "blockdev-insert-medium blockdev-mirror blockdev-open-tray blockdev-remove-medium blockdev-reopen "
            "blockdev-snapshot blockdev-snapshot-sync change-backing-file drive-mirror eject x-blockdev-change "
            "change commit block_stream drive_add drive_del drive_mirror snapshot_blkdev qemu-io"
        ),
        _IMAGES,
    ),
    **dict.fromkeys(("gdbserver", "o", "mce", "xen-event-inject"), _INTO_GUEST),
    **dict.fromkeys(("chardev-change", "yank"), _ENGINES),
}

# Those that look, and those that change nothing which an IPL or the guest's code depends on.
_ALLOWED: Final = _names(
    # the run of the guest; each reset ends in an IPL by sipl, and of set-action the relay keeps what could change that
    "cont stop quit system_reset system_powerdown system_wakeup inject-nmi watchdog-set-action set-action "
    # looking; memory and keys are written to files of the host
    "device-list-properties qom-get qom-list qom-list-properties qom-list-types trace-event-get-state "
    "trace-event-set-state memsave pmemsave dump-guest-memory dump-skeys dumpdtb screendump calc-dirty-rate "
    # people
    "add_client change-vnc-password set_password expire_password display-reload display-update send-key "
    "input-send-event client_migrate_info ringbuf-read ringbuf-write "
    # devices and what stands behind them
    "device_add device_del object-add object-del netdev_add netdev_del set_link announce-self balloon "
    "chardev-add chardev-remove chardev-send-break add-fd remove-fd getfd closefd qom-set set-cpu-topology "
    "request-ebpf device-sync-config "
    # disks: none of these changes what an image consists of
    "blockdev-add blockdev-del blockdev-backup drive-backup block_set_io_throttle block-latency-histogram-set "
    "block-set-write-threshold block-dirty-bitmap-add block-dirty-bitmap-clear block-dirty-bitmap-disable "
    "block-dirty-bitmap-enable block-dirty-bitmap-merge block-dirty-bitmap-remove block-export-add "
    "block-export-del nbd-server-start nbd-server-stop nbd-server-add nbd-server-remove snapshot-save "
    "snapshot-delete blockdev-snapshot-internal-sync blockdev-snapshot-delete-internal-sync transaction "
    "block-job-cancel block-job-change block-job-complete block-job-dismiss block-job-finalize block-job-pause "
    "block-job-resume block-job-set-speed job-cancel job-complete job-dismiss job-finalize job-pause job-resume "
    # libvirt sets these at every start; nothing moves by them
    "migrate-set-capabilities migrate-set-parameters migrate_cancel migrate-pause "
    "set-vcpu-dirty-limit cancel-vcpu-dirty-limit human-monitor-command"
)
_QUERY: Final = re.compile(r"(x-)?query-[a-z0-9-]+", re.ASCII)

_IN_TRANSACTION: Final = _names(
    "abort blockdev-backup drive-backup block-dirty-bitmap-add block-dirty-bitmap-clear block-dirty-bitmap-disable "
    "block-dirty-bitmap-enable block-dirty-bitmap-merge block-dirty-bitmap-remove "
    "blockdev-snapshot-internal-sync"
)

# Devices that a guest drives; a loader (which writes memory), those whose other end has the guest's memory, whole
# devices of the host, and parts of the machine itself are not among them.
_DEVICE: Final = re.compile(
    r"(virtio|usb)-[a-z0-9-]+|scsi-(hd|cd)|vhost-vsock(-ccw|-pci[a-z-]*)?|virtserialport|virtconsole|zpci|pci-bridge|"
    r"diag288|e1000e?|rtl8139|nvme|[a-zA-Z0-9._-]+-s390x-cpu",
    re.ASCII,
)
# Images in files and over networks, and what stands above them. Not: those whose other end has the guest's memory.
_BLOCK_DRIVER: Final = re.compile(
    r"file|host_(device|cdrom)|raw|qcow2?|qed|vdi|vpc|vhdx|vmdk|parallels|dmg|bochs|cloop|luks|nbd|ssh|https?|ftps?|"
    r"rbd|iscsi|iser|gluster|nfs|null-(co|aio)|throttle|copy-on-read|copy-before-write|compress|preallocate|"
    r"snapshot-access|quorum|blkdebug|blkverify|blklogwrites",
    re.ASCII,
)
# What stands behind devices. Not: qtest, which writes guest memory, remote objects, and whatever comes later.
_OBJECT: Final = re.compile(
    r"secret|secret_keyring|iothread|throttle-group|thread-context|pr-manager-helper|rng-(random|egd|builtin)|"
    r"tls-creds-(anon|psk|x509)|tls-cipher-suites|authz-(list|list-file|pam|simple)|"
    r"cryptodev-backend-(builtin|lkcf)|memory-backend-(ram|memfd)|filter-dump|input-linux",
    re.ASCII,
)
# Networks that start no program, and whose other end does not have the guest's memory.
_NETWORK: Final = re.compile(r"user|tap|bridge|socket|stream|dgram|l2tpv3|vde|hubport", re.ASCII)
# Their members that name a program; "no" is none.
_PROGRAMS: Final = ("helper", "script", "downscript", "guestfwd", "smb")
# Commands that take descriptors, and the members that have them. A name is one that `getfd` has given; what begins
# with a digit is a number.
_TAKE_DESCRIPTORS: Final = frozenset({"netdev_add", "chardev-add", "device_add", "nbd-server-start", "object-add"})
_DESCRIPTORS: Final = frozenset({"fd", "fds", "vhostfd", "vhostfds"})
_NAME_OF_DESCRIPTOR: Final = re.compile(r"[^0-9:][^:]*", re.ASCII)
_DISPLAY: Final = re.compile(r"vnc|spice|@dbus-display", re.ASCII)
# An object or a device by its id and no further: what it points to may be a part of the machine. Those of sipl's own
# are none of the user's.
_OWN_OBJECT: Final = re.compile(r"/(objects|machine/peripheral|machine/peripheral-anon)/(?!sipl-)[^/]+", re.ASCII)

_HUMAN: Final = _names(
    "help ? info cont c stop s quit q exit system_reset system_powerdown system_wakeup nmi watchdog_action "
    "x xp print p sum gva2gpa gpa2hva gpa2hpa memsave pmemsave dump-guest-memory dump_skeys dumpdtb screendump "
    "log logfile trace-event trace-file sync-profile singlestep one-insn-per-tb cpu "
    "sendkey mouse_move mouse_button mouse_set balloon set_link announce_self set_password expire_password "
    "hostfwd_add hostfwd_remove netdev_del device_del object_del chardev-send-break "
    "ringbuf_read ringbuf_write savevm delvm qom-get qom-list "
    "block_set_io_throttle block_job_cancel block_job_pause block_job_resume block_job_set_speed "
    "migrate_cancel migrate_pause migrate_set_capability migrate_set_parameter"
)
_HUMAN_NAME: Final = re.compile(r"[ \t]*([^ \t/]*)", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def judge(command: str, arguments: Mapping[str, object], *, resetting: bool = False) -> None:
    """Whether a QMP command may be passed on to a QEMU whose guest was verified.

    `resetting`: the machine was reset, and waits for its next IPL.

    Raises:
        CommandRefused: it may not; says why.
    """
    if command not in _ALLOWED and not _QUERY.fullmatch(command):
        raise CommandRefused(command, _REASONS.get(command, _UNKNOWN), _HINT)
    if command == "human-monitor-command":
        judge_human(str(arguments.get("command-line", "")), resetting=resetting)
    elif command == "inject-nmi" and resetting:
        # A restart interruption takes the new PSW that the guest before has left, ahead of the harmless image.
        raise CommandRefused(command, _RESETTING, "wait until the guest runs")
    if command in _TAKE_DESCRIPTORS:
        _judge_descriptors(command, arguments)
    if command in _JUDGES:
        _JUDGES[command](command, arguments)


def judge_human(line: str, *, resetting: bool = False) -> None:
    """Whether a line may be passed on to QEMU's human monitor; `resetting` as `judge` has it.

    The name decides; commands that have devices, objects or images as text are for QMP.

    Raises:
        CommandRefused: it may not; says why.
    """
    if _CONTROL.search(line):
        raise CommandRefused("", "a line for the monitor has no control characters")
    found = _HUMAN_NAME.match(line)
    name = found[1] if found else ""
    if name not in _HUMAN:
        raise CommandRefused(name, _REASONS.get(name, _UNKNOWN), _HINT)
    if name == "nmi" and resetting:
        raise CommandRefused(name, _RESETTING, "wait until the guest runs")


def resets(command: str, arguments: Mapping[str, object]) -> bool:
    """Whether a QMP command resets the machine."""
    if command != "human-monitor-command":
        return command == "system_reset"
    found = _HUMAN_NAME.match(str(arguments.get("command-line", "")))
    return found is not None and found[1] == "system_reset"


def _judge_device(command: str, arguments: Mapping[str, object]) -> None:
    if not _matches(_DEVICE, arguments.get("driver")):
        raise CommandRefused(f"{command} {arguments.get('driver')}", _UNKNOWN, _HINT)


def _judge_object(command: str, arguments: Mapping[str, object]) -> None:
    if not _matches(_OBJECT, arguments.get("qom-type")):
        raise CommandRefused(f"{command} {arguments.get('qom-type')}", _UNKNOWN, _HINT)


def _judge_property(command: str, arguments: Mapping[str, object]) -> None:
    path = arguments.get("path")
    if not _matches(_OWN_OBJECT, path):
        why, hint = (
            "it may belong to the machine, which is sipl's",
            "what can be set is /objects/ID and /machine/peripheral/ID",
        )
        raise CommandRefused(f"{command} {path}", why, hint)
    if arguments.get("property") == "drive":
        raise CommandRefused(f"{command} drive", _IMAGES, _HINT)


def _judge_client(command: str, arguments: Mapping[str, object]) -> None:
    if not _matches(_DISPLAY, arguments.get("protocol")):
        raise CommandRefused(f"{command} {arguments.get('protocol')}", _ENGINES, "vnc and spice can have clients added")


def _judge_network(command: str, arguments: Mapping[str, object]) -> None:
    kind = arguments.get("type")
    if not _matches(_NETWORK, kind):
        raise CommandRefused(f"{command} {kind}", _UNKNOWN, _HINT)
    for name in _PROGRAMS:
        if arguments.get(name, "no") != "no":
            raise CommandRefused(f"{command} {name}", _PROGRAM, "start it by yourself, and hand its descriptor over")


def _judge_nodes(command: str, value: object) -> None:
    """All block nodes that are described in one another."""
    if isinstance(value, list):
        for item in value:
            _judge_nodes(command, item)
    elif isinstance(value, dict):
        if "driver" in value and not _matches(_BLOCK_DRIVER, value["driver"]):
            raise CommandRefused(f"{command} {value['driver']}", _UNKNOWN, _HINT)
        for item in value.values():
            _judge_nodes(command, item)


def _judge_descriptors(command: str, value: object) -> None:
    """Descriptors have names, wherever they stand; the address of a socket may be one, too."""
    if isinstance(value, list):
        for item in value:
            _judge_descriptors(command, item)
    elif isinstance(value, dict):
        named = [value[key] for key in value.keys() & _DESCRIPTORS]
        if value.get("type") == "fd":
            data = value.get("data")
            named.append(data.get("str") if isinstance(data, dict) else value.get("str"))
        for item in named:
            names = item.split(":") if isinstance(item, str) else [item]
            if not all(_matches(_NAME_OF_DESCRIPTOR, name) for name in names):
                raise CommandRefused(f"{command} {item}", _DESCRIPTOR, "give it a name with getfd")
        for item in value.values():
            _judge_descriptors(command, item)


def _judge_transaction(command: str, arguments: Mapping[str, object]) -> None:
    actions = arguments.get("actions")
    for action in actions if isinstance(actions, list) else ():
        kind = action.get("type") if isinstance(action, dict) else None
        if not isinstance(kind, str) or kind not in _IN_TRANSACTION:
            raise CommandRefused(f"{command} {kind}", _REASONS.get(str(kind), _UNKNOWN), _HINT)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


_JUDGES: Final[Mapping[str, Callable[[str, Mapping[str, object]], None]]] = {
    "add_client": _judge_client,
    "blockdev-add": _judge_nodes,
    "device_add": _judge_device,
    "netdev_add": _judge_network,
    "object-add": _judge_object,
    "qom-set": _judge_property,
    "transaction": _judge_transaction,
}
