"""The environment block: values that the loader puts into the kernel command line (docs/formats/loader.md).

A text, then lines NAME=VALUE, then zeros.
"""

from __future__ import annotations

from typing import Final

ENVIRONMENT_TEXT: Final = b"# zIPL Environment Block\n"
# zipl gives it one block of a file system; what edits it in place counts on no more.
ENVIRONMENT_SIZE: Final = 4096
MAX_ENVIRONMENT_VARIABLES: Final = 512
