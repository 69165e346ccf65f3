"""Where the output of a command goes: JSON, plain lines for a pipe, or something worth looking at for a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person looks at standard output or `stream`; NO_COLOR and a dumb terminal ask for plain lines."""
    return (
        (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    )


def write_lines(lines: Iterable[str], stream: TextIO | None = None) -> None:
    """Print lines to standard output or `stream`, in its encoding as far as it can show them."""
    out = stream or sys.stdout
    text = "".join(f"{line}\n" for line in lines)
    encoding = out.encoding or "utf-8"
    out.write(text.encode(encoding, "backslashreplace").decode(encoding))


def complain(message: str) -> None:
    """Print the one line of an error to standard error."""
    try:
        # What the parser of a command says begins with its name already.
        sys.stderr.write(f"{message}\n" if message.startswith("sipl ") else f"sipl: {message}\n")
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Nobody reads `stream` any more: keep the interpreter from trying once more, and complaining, at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def write_json(value: object) -> None:
    """Print a value as one line of JSON."""
    import json

    sys.stdout.write(json.dumps(value) + "\n")
