"""`sipl`, which writes down when it came to what, on the descriptor that the first argument names.

It imports little, as that would count.
"""

from __future__ import annotations

import os
import sys
import time

GUEST_RUNS = "the verified guest is placed and started"
PARTS = ("sipl has started and knows its task", "QEMU is started", "the guest is verified", GUEST_RUNS)
CPU = "cpu"


def main() -> None:
    """Times are those of the clock that all processes have in common; CPU time is that of this process."""
    descriptor = int(sys.argv.pop(1))
    from sipl.cli.main import entry
    from sipl.engine.qemu.engine import QemuEngine
    from sipl.engine.qemu.process import QemuProcess
    from sipl.engine.qemu.qmp import Qmp

    marks: dict[str, float] = {}
    start, run, execute = QemuProcess.__init__, QemuEngine.run, Qmp.execute

    def marked_start(*arguments, **named) -> None:
        marks.setdefault(PARTS[0], time.monotonic())
        start(*arguments, **named)
        marks.setdefault(PARTS[1], time.monotonic())

    def marked_run(*arguments):
        marks.setdefault(PARTS[2], time.monotonic())
        return run(*arguments)

    def marked_execute(qmp, command, *arguments):
        if command == "cont" and GUEST_RUNS not in marks:
            marks.update({GUEST_RUNS: time.monotonic(), CPU: time.process_time()})
            import json

            os.write(descriptor, json.dumps(marks).encode())
        return execute(qmp, command, *arguments)

    QemuProcess.__init__, QemuEngine.run, Qmp.execute = marked_start, marked_run, marked_execute
    entry()


if __name__ == "__main__":
    main()
