"""`sipl strip`: take signatures off files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.cli.options import Parser
from sipl.cli.sign import add_output_options, each, output_names

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Run the command; the result is the exit code: 0 none is signed any more, 1 one is damaged, 2 usage or I/O."""
    from sipl.author.signed_file import strip_file

    parser = Parser(
        "strip",
        "Take all appended signatures off each file, however many there are one around the other. A file without any "
        "stays as it is.",
        (
            "sipl strip vmlinuz",
            "sipl strip -o unsigned.bin stage3.bin",
            "sipl strip --output-dir plain stage3.bin vmlinuz",
        ),
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a loader (stage3.bin) or a kernel image")
    add_output_options(parser)
    parser.option("--force", action="store_true", help="also change a file that has other names (hard links)")
    given = parser.parse_intermixed_args(arguments)
    return each(given, output_names(given), lambda file, output: strip_file(file, output=output, force=given.force))
