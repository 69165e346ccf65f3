"""A QEMU that is started with what a plan says, stops before its first instruction, and answers questions."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, TextIO

from sipl.disk.shared_image import SharedImage

if TYPE_CHECKING:
    from sipl.qemu_command.plan import Guest


def trial(qemu: str, guest: Guest, *questions: tuple[str, dict[str, object]]) -> list[object]:
    """The answers to QMP commands; fails with what QEMU complains about."""
    with ExitStack() as stack:
        opened = [
            stack.enter_context(SharedImage(device.image, device.mode)) if device.image else None
            for device in guest.boot
        ]
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        ours.settimeout(30)
        memory = os.memfd_create("guest")
        stack.callback(os.close, memory)
        size = guest.settings.machine.memory
        os.ftruncate(memory, size)
        backend = f"memory-backend-file,id=sipl-ram,size={size},share=on,mem-path=/proc/self/fd/{memory}"
        process = subprocess.Popen(
            [
                *(qemu, "-S", "-chardev", f"socket,id=sipl-qmp,fd={theirs.fileno()}", "-object", backend),
                *("-mon", "chardev=sipl-qmp,mode=control", *guest.arguments(opened, {})),
            ],
            pass_fds=[theirs.fileno(), memory, *(fd for image in opened if image for fd in image.descriptors())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        theirs.close()
        try:
            lines = stack.enter_context(ours.makefile("rw"))
            answers: list[object] = []
            with suppress(BrokenPipeError, ConnectionResetError):
                for name, arguments in [("qmp_capabilities", {}), *questions, ("quit", {})]:
                    lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
                    lines.flush()
                    answers.append(_answer(lines))
            complaints = process.communicate(timeout=30)[0].decode()
            assert process.returncode == 0, complaints
        finally:
            process.kill()
            process.communicate()
        assert len(answers) >= len(questions) + 1, complaints
        return answers[1 : len(questions) + 1]


def _answer(lines: TextIO) -> object:
    """What comes back for a command; QEMU says other things, too."""
    for line in lines:
        said = json.loads(line)
        assert "error" not in said, said
        if "return" in said:
            return said["return"]
    raise ConnectionResetError
