"""The plan for a QEMU command line: what sipl verifies, and what QEMU is started with (docs/qemu-command.md)."""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.shared_image import WriteMode
from sipl.engine.qemu.setup import RAM_ID
from sipl.errors import RefusedToStart, UsageError
from sipl.machine.boot_devices import DeviceKind
from sipl.machine.options import parse_time
from sipl.qemu_command import boot_order, channels, guest, images, networks
from sipl.qemu_command.allowed import check_option
from sipl.qemu_command.data_images import check_data_image
from sipl.qemu_command.values import OptionValue, Syntax, asks_for_help, help_asked, number, write_json
from sipl.qemu_command.words import OwnOptions, answers_help, split
from sipl.reasons import Reason
from sipl.settings import Disk, Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sipl.disk.shared_image import BlockNode, ImageSpec, Members, SharedImage
    from sipl.qemu_command.boot_order import BootWord, ScsiAddress
    from sipl.qemu_command.channels import Channel, Channels, Monitor
    from sipl.qemu_command.guest import Actions
    from sipl.qemu_command.images import BootImage, Images
    from sipl.qemu_command.words import CommandLine

# Options that only ask QEMU something; it ends when it has answered.
_QUESTIONS: Final = ("help", "version", "audio-help")
_JUDGED: Final = frozenset(
    {
        *("add-fd", "parallel", "no-user-config"),
        *boot_order.OPTIONS,
        *channels.OPTIONS,
        *guest.OPTIONS,
        *images.OPTIONS,
        *networks.OPTIONS,
    }
)
_BLOCK_SIZE: Final = 512
_STANDARD_STREAMS: Final = 2


class Kind(Enum):
    """What a line asks for."""

    PLAIN = "plain"  # QEMU, and nothing else: nobody asks for verification
    NATIVE = "native"  # secure IPL, but by a QEMU that knows it
    HELP = "help"  # an answer, and no guest
    VERIFIED = "verified"  # secure or audit mode


class BootDevice(NamedTuple):
    """One device of the boot order.

    `device_id` is QEMU's name of the channel device, a SCSI disk's controller; `image` and `mode` say how
    `SharedImage` opens what is behind it. All three are None for a kind that has no blocks. The number in `disk` is
    None where QEMU assigns it.
    """

    disk: Disk
    device_id: str | None
    image: ImageSpec | None
    mode: WriteMode | None
    overlay: str  # the name of the node of an overlay
    scsi: ScsiAddress | None


class Guest(NamedTuple):
    """A guest whose IPL is verified.

    `held`: the user starts it himself, by a monitor. `background`: nobody stays at the terminal once it runs.
    `memory_properties` are for the memory backend that sipl makes.
    `settings` lacks only who answers the boot menu.
    """

    settings: Settings
    boot: tuple[BootDevice, ...]
    channels: tuple[Channel, ...]
    monitors: tuple[Monitor, ...]
    actions: Actions
    held: bool
    background: bool
    pid_file: str | None
    memory_properties: Mapping[str, bool]
    words: _Words

    @property
    def first_set(self) -> int:
        """The first number of a descriptor set that the line leaves free."""
        return self.words.first_set

    def arguments(
        self, opened: Sequence[SharedImage | None], relayed: Mapping[str, int], *, again: bool = False
    ) -> list[str]:
        """QEMU's arguments, but for the memory backend, firmware, sipl's monitor and `-S`.

        `opened` are the images of `boot`, in its order. `relayed` are channels that sipl keeps: for each name the
        descriptor of a connected socket. `again` is for every process but the first.
        """
        words = self.words
        members: dict[str, Members] = {}
        formats: dict[str, str] = {}
        descriptor_sets: list[str] = []
        nodes: list[BlockNode] = []
        first_set = words.first_set
        for device, image in zip(self.boot, opened, strict=True):
            if image is None or device.image is None:
                continue
            descriptor_sets += image.add_fd(first_set)
            if device.mode is WriteMode.OVERLAY:
                nodes += image.blockdevs(device.overlay, first_set)
            else:
                adopted = image.adopted(first_set)
                nodes += adopted.blockdevs
                members |= adopted.members
                formats[device.image.name] = image.format
            first_set += len(image.descriptors())
        described: list[str] = []
        for node in nodes:
            described += ["-blockdev", write_json(dict(node))]  # type: ignore[arg-type]  # all of it is JSON
        for position in range(len(words.images)):
            described += words.images.write(position, members, formats)
        return [
            *words.first,
            *descriptor_sets,
            *described,
            *words.channels.write(relayed, again=again),
            *words.networks,
            *words.devices,
        ]

    def descriptors(self, relayed: Collection[str] = ()) -> tuple[int, ...]:
        """The user's descriptors that QEMU inherits, but for those of channels that sipl keeps."""
        kept = (channel for channel in self.channels if "fd" in channel.options and channel.id not in relayed)
        own = [number("-chardev", "fd", channel.options["fd"], guest.MAX_DESCRIPTOR) for channel in kept]
        return tuple(dict.fromkeys([*self.words.descriptors, *own]))

    def check_data_images(self) -> None:
        """Refuse disks that do not boot and that lead QEMU elsewhere; see `check_data_image`."""
        for image in self.words.images.others():
            check_data_image(image, allow_backing=self.settings.allow_backing)

    def check_descriptors(self) -> None:
        """Refuse a descriptor that sipl was not started with. To be called before sipl opens anything itself.

        Raises:
            UsageError: one is not open, is a standard stream, or is a channel's and something else's.
        """
        channels = [channel.options["fd"] for channel in self.channels if "fd" in channel.options]
        own = [number("-chardev", "fd", text, guest.MAX_DESCRIPTOR) for text in channels]
        for descriptor in own:
            # Whose user leaves is closed, and the number becomes that of something else.
            if own.count(descriptor) > 1 or descriptor in self.words.descriptors:
                raise UsageError(f"fd={descriptor}", "it is handed over for two things", "give each its own")
        for descriptor in self.descriptors():
            try:
                os.fstat(descriptor)
            except OSError:
                raise UsageError(f"fd={descriptor}", "no such descriptor was inherited") from None
            if descriptor <= _STANDARD_STREAMS:
                raise UsageError(f"fd={descriptor}", "it is a standard stream", "hand over a descriptor of its own")


class _Words(NamedTuple):
    """The words for QEMU, in the order in which it gets them."""

    first: tuple[str, ...]
    images: Images
    channels: Channels
    networks: tuple[str, ...]
    devices: tuple[str, ...]
    descriptors: tuple[int, ...]
    first_set: int


class Plan(NamedTuple):
    """What to do with a line. `arguments` are for QEMU as they are; a guest that is verified has its own."""

    kind: Kind
    own: OwnOptions
    arguments: tuple[str, ...]
    guest: Guest | None = None


def read_command(argv: Sequence[str]) -> Plan:
    """Read a command line, the program's name not included.

    Raises:
        RefusedToStart: nothing boots, or in a way that nobody can verify.
        UsageError: the line asks for verification, and has something that is not allowed or not known.
    """
    line = split(argv)
    questions = [word for word in line.words if word.option in _QUESTIONS]
    if questions:
        return Plan(Kind.HELP, line.own, (questions[0].where,))
    asked = guest.asks_for_verification(line)
    if line.fault is not None and (asked or guest.may_ask(argv)):
        raise line.fault
    if not asked:
        return Plan(Kind.PLAIN, line.own, line.rest)
    if line.own.native:
        return Plan(Kind.NATIVE, line.own, line.rest)
    tree = guest.merge_machine(line)
    if not guest.is_verified(tree):
        return Plan(Kind.PLAIN, line.own, guest.without_secure_boot(line))
    return Plan(Kind.VERIFIED, line.own, (), _read_guest(line, guest.read_machine(tree)))


def _read_guest(line: CommandLine, machine: guest.Machine) -> Guest:
    own = line.own
    for word in line.words:
        if answers_help(word.option) and asks_for_help(word.value):
            raise help_asked(word.where)
        check_option(word.option, word.where, _JUDGED)
    sets, descriptor_words = guest.descriptor_sets(line)
    memory, object_words = guest.read_memory(line, machine.memory_backend)
    cpus, smp_words = guest.read_cpus(line)
    cpu, cpu_words = guest.read_cpu(line, unpack=own.allow_unpack)
    menu, boot_words = guest.read_boot(line)
    actions, action_words = guest.read_actions(line)
    kernel = guest.read_kernel(line)
    network = networks.read_networks(line)
    disks = images.Images(line, sets)
    devices = boot_order.Devices(line)
    channel = channels.Channels(line)
    if line.has("daemonize") and any(each.backend == "stdio" for each in channel.channels.values()):
        raise UsageError("-daemonize", "stdio needs the terminal", "leave out -nographic and stdio")
    boot = tuple(_boot_device(word, disks) for word in devices.boot)
    if not boot and kernel is None:
        hint = "add bootindex=1 to the -device of the disk"
        raise RefusedToStart(Reason.NO_BOOT_DEVICE, "-device", "no device has a bootindex", hint)
    passed = OptionValue("-machine", Syntax.DOTTED, "type", {"type": machine.options.type, **machine.passed})
    first = [
        *("-no-user-config", "-machine", passed.having(memory_backend=RAM_ID).write()),
        *("-m", f"size={memory.size // 1024}k"),
        *(*cpu_words, *smp_words, *boot_words, *action_words, *guest.read_others(line)),
        *(*_passed_words(line), *object_words, *descriptor_words),
    ]
    notes = (*memory.notes, *network.notes, *devices.drop_notes(), *disks.notes())
    options = machine.options._replace(
        memory=memory.size, cpus=cpus, boot_menu=menu.menu, boot_menu_timeout_ms=menu.timeout_ms, notes=notes
    )
    settings = Settings(
        machine=options,
        cpu=cpu,
        kernel=kernel,
        at=parse_time(own.at) if own.at else None,
        write=True,
        allow_backing=own.allow_backing,
    )
    words = _Words(
        first=tuple(first),
        images=disks,
        channels=channel,
        networks=tuple(network.words),
        devices=tuple(devices.write()),
        descriptors=(*(fd for group in sets.values() for fd in group), *network.descriptors),
        first_set=max(sets, default=0) + 1,
    )
    return Guest(
        settings=settings,
        boot=boot,
        channels=tuple(channel.channels.values()),
        monitors=tuple(channel.monitors),
        actions=actions,
        held=line.has("S"),
        background=line.has("daemonize"),
        pid_file=guest.read_pid_file(line),
        memory_properties=memory.properties,
        words=words,
    )


def _passed_words(line: CommandLine) -> list[str]:
    """Options that are passed on as they are."""
    from sipl.qemu_command.words import takes_value

    words: list[str] = []
    for word in line.words:
        if word.option not in _JUDGED:
            words += [word.where, word.value] if takes_value(word.option) else [word.where]
    return words + (["-snapshot"] if line.has("snapshot") else [])


def _boot_device(word: BootWord, disks: Images) -> BootDevice:
    if word.device_id is None:
        return BootDevice(Disk(word.where, word.kind, loadparm=word.loadparm), None, None, None, "", None)
    image: BootImage = disks.boot_image(word.where, word.drive, read_only=word.kind is DeviceKind.SCSI_CD)
    block_size = word.block_size
    if block_size is None and word.kind is not DeviceKind.SCSI_CD and not image.is_device:
        # What QEMU takes; a device of the host can have others, which QEMU finds out.
        block_size = _BLOCK_SIZE
    disk = Disk(image.spec.path, word.kind, block_size, word.loadparm, word.ssid, word.devno)
    return BootDevice(disk, word.device_id, image.spec, image.mode, disks.overlay_name(image), word.scsi)
