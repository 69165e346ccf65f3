"""qcow2 images: bytes of the virtual disk, gathered from where the tables say (docs/formats/qcow2.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.disk.cache import BoundedCache
from sipl.disk.image import Image, fill_with_zeros
from sipl.disk.qcow2_compression import expand_cluster
from sipl.disk.qcow2_header import Qcow2Parameters, read_header
from sipl.disk.qcow2_map import Extent, Kind, Qcow2Map
from sipl.disk.raw import RawImage
from sipl.errors import ImageFormatError

if TYPE_CHECKING:
    from sipl.disk.companions import Companions
    from sipl.disk.host_file import HostFile

# The largest cluster, so that reading one block after the other expands it once.
EXPANDED_CACHE_SIZE: Final = 2 << 20
# Single blocks, each out of another compressed cluster of 2 MiB, cost 4096 times what they give: a crafted image could
# hold us up for an hour. A boot reads a few hundred tables and for the rest whole clusters, far below both figures.
EXPANDED_FREE: Final = 4 << 30  # bytes, some ten seconds
EXPANDED_PER_BYTE: Final = 16


class Qcow2Image(Image):
    """A qcow2 image of version 2 or 3; `data_file` holds the data instead of `file`, `backing` what fills the holes."""

    __slots__ = ("_allowance", "_backing", "_data", "_expanded", "_file", "_map", "_parameters")

    def __init__(
        self, file: HostFile, parameters: Qcow2Parameters, data_file: HostFile | None, backing: Image | None
    ) -> None:
        notes = ("the image was not closed cleanly (dirty bit)",) if parameters.dirty else ()
        super().__init__(file.path, parameters.size, "qcow2", notes if backing is None else notes + backing.notes)
        self._file = file
        self._parameters = parameters
        self._data = file if data_file is None else data_file
        self._backing = backing
        self._map = Qcow2Map(file, parameters, self._data.size, same_place=data_file is not None)
        self._expanded: BoundedCache[bytes] = BoundedCache(EXPANDED_CACHE_SIZE)
        self._allowance = EXPANDED_FREE  # bytes that may still be expanded

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`; see `Image.read_into`.

        What lies in one piece in the file is read in one piece, however many clusters it is.
        """
        self._check_range(offset, len(buffer))
        position = 0
        start, host, length = 0, 0, 0  # data that is still to be read: where in the buffer, where in the file
        for extent in self._map.extents(offset, len(buffer)):
            if extent.kind is Kind.DATA and (start + length, host + length) == (position, extent.host):
                length += extent.length
            elif extent.kind is Kind.DATA:
                self._read_data(host, buffer[start : start + length])
                start, host, length = position, extent.host, extent.length
            else:
                self._read_other(extent, offset + position, buffer[position : position + extent.length])
            position += extent.length
        self._read_data(host, buffer[start : start + length])

    def close(self) -> None:
        """Close the file, its data file and its backing file."""
        self._file.close()
        self._data.close()
        if self._backing is not None:
            self._backing.close()

    def _read_data(self, host: int, buffer: memoryview) -> None:
        present = min(len(buffer), max(0, self._data.size - host))
        if present:
            self._data.read_into(host, buffer[:present])
        fill_with_zeros(buffer[present:])

    def _read_other(self, extent: Extent, offset: int, buffer: memoryview) -> None:
        if extent.kind is Kind.COMPRESSED:
            self._allowance += EXPANDED_PER_BYTE * len(buffer)
            within = offset & ((1 << self._parameters.cluster_bits) - 1)
            buffer[:] = memoryview(self._expand(extent))[within : within + len(buffer)]
            return
        present = 0
        if extent.kind is Kind.HOLE and self._backing is not None:
            present = min(len(buffer), max(0, self._backing.size - offset))
            if present:
                self._backing.read_into(offset, buffer[:present])
        fill_with_zeros(buffer[present:])

    def _expand(self, extent: Extent) -> bytes:
        place = extent.host, extent.host_length
        expanded = self._expanded.get(place)
        if expanded is None:
            size = 1 << self._parameters.cluster_bits
            self._allowance -= size
            if self._allowance < 0:
                raise ImageFormatError(
                    self.path,
                    "small pieces of too many compressed clusters are asked for",
                    "make an image without compression with qemu-img convert -O qcow2",
                )
            data = self._file.read(*place)
            expanded = expand_cluster(self.path, self._parameters.compression, data, size)
            self._expanded.put(place, expanded, size)
        return expanded


def open_qcow2(file: HostFile, companions: Companions) -> Qcow2Image:
    """Open a qcow2 image and the files it names; closes all of them, `file` too, if that fails.

    Raises:
        ImageFormatError: the image is damaged, or asks for something that sipl does not read or was not allowed.
        ImageError: a file cannot be opened or read.
    """
    data_file: HostFile | None = None
    backing: Image | None = None
    try:
        parameters = read_header(file)
        if parameters.data_file_name is not None:
            data_file = companions.open(file.path, parameters.data_file_name, "data file")
        if parameters.backing_name is not None:
            backing = _open_backing(file, parameters.backing_name, parameters.backing_format, companions)
        return Qcow2Image(file, parameters, data_file, backing)
    except BaseException:
        file.close()
        for opened in (data_file, backing):
            if opened is not None:
                opened.close()
        raise


def _open_backing(file: HostFile, name: bytes, format_name: bytes | None, companions: Companions) -> Image:
    backing = companions.open(file.path, name, "backing file")
    try:
        stated = check_backing_format(file.path, backing.path, format_name)
    except BaseException:
        backing.close()
        raise
    return RawImage(backing) if stated == "raw" else open_qcow2(backing, companions)


def check_backing_format(path: str, backing_path: str, format_name: bytes | None) -> str:
    """Return the format that the image at `path` states for its backing file: "raw" or "qcow2".

    Whoever writes to a raw disk can make it look like an image that names any file: the format is never guessed.

    Raises:
        ImageFormatError: it states none, or another one.
    """
    if format_name is None:
        raise ImageFormatError(
            path,
            f"the image does not say which format its backing file {backing_path} has",
            "state it with qemu-img rebase -u -b NAME -F raw|qcow2",
        )
    if format_name not in (b"raw", b"qcow2"):
        raise ImageFormatError(
            path,
            f"the backing file {backing_path} has the format {format_name[:32].decode('ascii', 'replace')}",
            "raw and qcow2 are read",
        )
    return format_name.decode("ascii")
