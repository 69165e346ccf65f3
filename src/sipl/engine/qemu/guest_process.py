"""All that belongs to one QEMU process: the guest's memory, its console, the stub of its debugger."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.harmless import build_image
from sipl.engine.qemu.has_secure import HasSecure
from sipl.engine.qemu.process import QemuProcess
from sipl.engine.qemu.program import QemuUnable
from sipl.engine.qemu.ram import GuestRam
from sipl.engine.qemu.setup import RAM_ID

if TYPE_CHECKING:
    from sipl.engine.qemu.setup import Setup

_UNCHANGEABLE: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class GuestProcess:
    """A QEMU that stands before its first instruction, with sipl's ends of what it was given.

    Raises:
        QemuUnable: it cannot be started.
        UsageError: the host has no room for the guest's memory.
    """

    def __init__(self, setup: Setup) -> None:
        self.stack = ExitStack()
        try:
            self.ram = GuestRam(setup.memory)
            self.stack.callback(self.ram.close)
            self.has_secure = HasSecure() if setup.has_secure else None
            if self.has_secure is not None:
                self.stack.callback(self.has_secure.close)
            self.console: socket.socket | None = None
            self.greeted = False
            self.qemu = self._start(setup)
            self.stack.callback(self.qemu.close)
        except BaseException:
            self.stack.close()
            raise

    def _start(self, setup: Setup) -> QemuProcess:
        with ExitStack() as given:
            image = os.memfd_create("sipl-harmless", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            given.callback(os.close, image)
            os.write(image, build_image())
            # QEMU takes it from there again at every reset, and has ways to open its own descriptors for writing.
            fcntl.fcntl(image, fcntl.F_ADD_SEALS, _UNCHANGEABLE)
            words = ["-S", "-action", "panic=pause,reboot=reset", "-bios", f"/proc/self/fd/{image}"]
            backend = {"qom-type": "memory-backend-file", "id": RAM_ID, "size": setup.memory}
            place = {"mem-path": f"/proc/self/fd/{self.ram.fd}", "share": True}
            words += ["-object", json.dumps({**setup.memory_properties, **backend, **place})]
            inherited = [image, self.ram.fd]
            if setup.has_console:
                self.console, theirs = socket.socketpair()
                self.stack.callback(self.console.close)
                given.callback(theirs.close)
                self.console.setblocking(False)
                words += ["-chardev", f"socket,id=sipl-console,fd={theirs.fileno()}"]
                words += ["-device", "sclpconsole,chardev=sipl-console"]
                inherited.append(theirs.fileno())
            if self.has_secure is not None:
                words += self.has_secure.arguments()
                inherited.append(self.has_secure.descriptor)
            arguments = [*setup.arguments(), *words]
            qemu = QemuProcess(
                setup.program, arguments, [*inherited, *setup.descriptors()], own_terminal=setup.own_terminal
            )
            setup.started()
            return qemu

    def quit(self) -> None:
        """Have QEMU close its images in order and end, also one that is still starting.

        The console is closed before that: QEMU does nothing else while it waits for somebody to read it.
        """
        if self.console is not None:
            self.console.close()
        with suppress(QemuUnable):
            if not self.greeted:
                self.qemu.greet()
            self.qemu.quit()

    def close(self) -> None:
        """End it at once, and give everything back."""
        self.stack.close()
