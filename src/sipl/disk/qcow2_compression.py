"""Compressed clusters of a qcow2 image: one stream per cluster, expanded to one cluster and never more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.errors import ImageError, ImageFormatError
from sipl.layout.qcow2 import COMPRESSION_ZLIB

if TYPE_CHECKING:
    from sipl.layout.record import Buffer

# What the zstd format asks every reader to support; a cluster, at most 2 MiB, never needs a larger window, and the
# decompressor allocates as much as the stream asks for.
MAX_ZSTD_WINDOW: Final = 8 << 20
# All window sizes of deflate: writers use a small one, but no reader holds them to it.
_RAW_DEFLATE: Final = -15


def expand_cluster(path: str, compression: int, data: Buffer, cluster_size: int) -> bytes:
    """Return the `cluster_size` bytes that `data` begins with; what follows the stream in `data` is not looked at.

    Raises:
        ImageFormatError: the stream is damaged, or does not expand to one cluster.
        ImageError: the host has no zstd.
    """
    expanded = (
        _inflate(path, data, cluster_size) if compression == COMPRESSION_ZLIB else _zstd(path, data, cluster_size)
    )
    if len(expanded) != cluster_size:
        raise ImageFormatError(
            path, f"a compressed cluster expands to {len(expanded)} bytes instead of {cluster_size}", _HINT
        )
    return expanded


_HINT: Final = "the image is damaged or truncated; copy it again"


def _inflate(path: str, data: Buffer, cluster_size: int) -> bytes:
    import zlib

    try:
        return zlib.decompressobj(_RAW_DEFLATE).decompress(data, cluster_size)
    except zlib.error as error:
        raise ImageFormatError(path, f"a compressed cluster is damaged: {error}", _HINT) from error


def _zstd(path: str, data: Buffer, cluster_size: int) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise ImageError(path, "zstd clusters need the package zstandard", "pip install zstandard") from error

    try:
        # The size that a frame claims would be allocated before a byte of it is expanded.
        claimed = zstandard.get_frame_parameters(data).content_size
        if claimed not in (cluster_size, zstandard.CONTENTSIZE_UNKNOWN):
            raise ImageFormatError(
                path, f"a compressed cluster claims to expand to {claimed} bytes instead of {cluster_size}", _HINT
            )
        expander = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
        return expander.decompress(data, max_output_size=cluster_size)
    except zstandard.ZstdError as error:
        raise ImageFormatError(path, f"a compressed cluster is damaged: {error}", _HINT) from error
