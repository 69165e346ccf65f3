"""Making an environment block: values for `${NAME}` in kernel command lines (docs/formats/loader.md)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sipl.author.host_files import read_file
from sipl.errors import UsageError
from sipl.layout.environment import ENVIRONMENT_SIZE, ENVIRONMENT_TEXT, MAX_ENVIRONMENT_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

# One block's worth of variables, and comments around them.
MAX_ENVIRONMENT_FILE: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)
_REFERENCE: Final = re.compile(r"\$\{([A-Z0-9_]+)\}", re.ASCII)


def build_environment(variables: Mapping[str, str], size: int = ENVIRONMENT_SIZE) -> bytes:
    """The block, `size` bytes.

    Raises:
        UsageError: a name or a value is not possible, or there is too much of them.
    """
    if len(variables) > MAX_ENVIRONMENT_VARIABLES:
        raise UsageError(
            "environment", f"{len(variables)} variables are too many", f"{MAX_ENVIRONMENT_VARIABLES} is the most"
        )
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            raise UsageError("environment", f"'{name}' is no name", "use A-Z, 0-9 and _, no digit in front")
        if not value.isprintable() or not value.isascii():
            raise UsageError(f"environment, {name}", "the value has characters that are not printable ASCII")
    block = ENVIRONMENT_TEXT + "".join(f"{name}={value}\n" for name, value in variables.items()).encode("ascii")
    if len(block) > size:
        raise UsageError("environment", f"{len(block)} bytes are too many", f"there is room for {size}")
    return block.ljust(size, b"\0")


def parse_variable(text: str) -> tuple[str, str]:
    """Name and value in NAME=VALUE.

    Raises:
        UsageError: there is no equals sign.
    """
    name, sign, value = text.partition("=")
    if not sign:
        raise UsageError("environment", f"'{text}' sets nothing", "write NAME=VALUE")
    return name, value


def read_environment(path: str) -> dict[str, str]:
    """The variables in an environment file: lines NAME=VALUE, comments and empty lines; the last one counts.

    Raises:
        FileError: the file cannot be read.
        UsageError: a line is none of these.
    """
    data = read_file(path, MAX_ENVIRONMENT_FILE, "an environment file")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise UsageError(path, "it has characters that are not ASCII") from None
    lines = (line for line in text.split("\n") if line.strip() and not line.startswith("#"))
    return dict(map(parse_variable, lines))


def expand(line: str, variables: Mapping[str, str]) -> str:
    """The command line as the loader makes it: each `${NAME}` replaced by its value, or removed if it has none."""
    return _REFERENCE.sub(lambda found: variables.get(found[1], ""), line)
