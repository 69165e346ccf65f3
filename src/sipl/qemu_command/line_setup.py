"""The machine of a QEMU command line, built for each IPL anew (docs/qemu-command.md)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from sipl.disk.shared_image import SharedImage

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from sipl.engine.qemu.relay.relays import Relays
    from sipl.qemu_command.plan import BootDevice, Guest


class LineSetup:
    """See `sipl.engine.qemu.setup.Setup`. `complain` gets what QEMU writes to standard error."""

    has_console = own_terminal = False

    def __init__(
        self, program: str, guest: Guest, relays: Relays, complain: Callable[[bytes], object], *, has_secure: bool
    ) -> None:
        self.program = program
        self.memory = guest.settings.machine.memory
        self.memory_properties: Mapping[str, bool] = guest.memory_properties
        self.held = guest.held
        self.has_secure = has_secure
        self.images: list[SharedImage | None] = []
        self.device_ids: list[str | None] = [device.device_id for device in guest.boot]
        self._guest = guest
        self._relays = relays
        self._complain = complain
        self._stack = ExitStack()
        self._has_started = False
        self._given: dict[str, socket.socket] = {}  # QEMU's ends of kept channels, until it has inherited them

    @property
    def stays_after_crash(self) -> bool:
        """See `Setup`; users can change what is to happen while the guest runs."""
        return self._relays.view.actions.get("panic") in ("pause", "none")

    def open(self) -> None:
        """See `Setup.open`."""
        if self.images:
            return
        self._guest.check_data_images()
        with ExitStack() as stack:
            images = [self._open(device, stack) for device in self._guest.boot]
            self._stack = stack.pop_all()
        self.images = images
        sets = sum(len(image.descriptors()) for image in images if image is not None)
        self._relays.view.descriptor_sets |= set(range(self._guest.first_set, self._guest.first_set + sets))

    def _open(self, device: BootDevice, stack: ExitStack) -> SharedImage | None:
        if device.image is None or device.mode is None:
            return None
        allowed = self._guest.settings.allow_backing
        return stack.enter_context(SharedImage(device.image, device.mode, allow_backing=allowed))

    def close(self) -> None:
        """See `Setup.close`."""
        self._drop_given()
        self._stack.close()

    def arguments(self) -> list[str]:
        """See `Setup.arguments`."""
        self._drop_given()
        self._given = self._relays.renew()
        ends = {name: end.fileno() for name, end in self._given.items()}
        return self._guest.arguments(self.images, ends, again=self._has_started)

    def descriptors(self) -> list[int]:
        """See `Setup.descriptors`."""
        found = [number for image in self.images if image is not None for number in image.descriptors()]
        found += self._guest.descriptors(self._given)
        return found + [end.fileno() for end in self._given.values()]

    def started(self) -> None:
        """See `Setup.started`."""
        self._has_started = True
        self._drop_given()

    def complain(self, data: bytes) -> None:
        """See `Setup.complain`."""
        self._complain(data)

    def _drop_given(self) -> None:
        while self._given:
            self._given.popitem()[1].close()
