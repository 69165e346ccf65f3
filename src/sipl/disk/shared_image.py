"""An image that sipl reads and a QEMU process uses, in turn (docs/formats/qcow2.md, section "Shared with QEMU").

sipl verifies the guest's boot files, QEMU runs the guest, and when the guest restarts itself sipl reads again what the
guest would read, before the next QEMU process. All of them have the same files: each name is looked up once, and QEMU
gets descriptors. It is told the format of each, so that neither it nor sipl finds one out from what a guest wrote.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.companions import Companions
from sipl.disk.host_file import HostFile
from sipl.disk.image import SECTOR_SIZE, Image
from sipl.disk.open import companions_folder, find_format
from sipl.disk.qcow2 import Qcow2Image, check_backing_format
from sipl.disk.qcow2_create import CLUSTER, write_qcow2
from sipl.disk.qcow2_header import MAX_L1_SIZE, read_header
from sipl.disk.raw import RawImage
from sipl.disk.shared_file import SharedFile, Use
from sipl.errors import ImageError, ImageFormatError, UsageError

if TYPE_CHECKING:
    import os

    from sipl.disk.qcow2_header import Qcow2Parameters

BlockNode = dict[str, object]

FORMATS: Final = ("raw", "qcow2")
# An entry of 8 bytes stands for an L2 table of one cluster, whose entries of 8 bytes stand for one cluster each.
MAX_OVERLAID_SIZE: Final = MAX_L1_SIZE // 8 * (CLUSTER // 8) * CLUSTER
# What a guest writes ends with sipl, so there is nothing to bring to a medium.
_NO_FLUSH: Final = {"direct": False, "no-flush": True}
_MODE_OF_OPENING: Final = "open it with the access that the guest is to have"


class WriteMode(Enum):
    """What becomes of the guest's writes."""

    OVERLAY = "overlay"  # they go to a temporary file without a name; the image stays as it is
    DIRECT = "direct"  # they go to the image
    READ_ONLY = "read-only"  # there are none


class ImageSpec(NamedTuple):
    """One image of a chain.

    `format` None is found by content, once. `descriptor` is a number under which the file is open already; it stays
    the caller's, and `path` is its name in messages. `backing` and `data_file` are given in place of what the image
    names; `ignore_backing`: it has no backing file, whatever it names. `name` tells the images of one chain apart in
    `SharedImage.adopted`.

    Only the format of the outermost image may be None.
    """

    path: str
    format: str | None = None
    descriptor: int | None = None
    backing: ImageSpec | None = None
    data_file: ImageSpec | None = None
    ignore_backing: bool = False
    name: str = ""


class Members(NamedTuple):
    """Members of two objects of QEMU's -blockdev, to be put in place of what is there: of a file and its format."""

    file: BlockNode
    image: BlockNode


class Adopted(NamedTuple):
    """What a command line needs that describes its images itself; see `SharedImage.adopted`."""

    blockdevs: list[BlockNode]
    members: dict[str, Members]


class _Node:
    """A file with a format, what is below it, and what its header said last."""

    __slots__ = ("backing", "data", "file", "format", "guessed", "parameters", "spec")

    def __init__(self, file: SharedFile, format_name: str, spec: ImageSpec | None, *, guessed: bool = False) -> None:
        self.file = file
        self.format = format_name
        self.guessed = guessed
        self.spec = spec
        self.parameters: Qcow2Parameters | None = None
        self.data: SharedFile | None = None
        self.backing: _Node | None = None
        if format_name == "qcow2":
            self.parameters = read_header(file.host)

    def renew(self) -> None:
        """Read the header again; the files have been renewed."""
        if self.backing is not None:
            self.backing.renew()
        host = self.file.host
        if self.parameters is None:
            # The format stays; but whoever opens the file next, without knowing it, would take the guest's word.
            if self.guessed and self.file.use.writable and find_format(host) != self.format:
                raise ImageFormatError(
                    host.path,
                    "the guest made its raw image look like a qcow2 image",
                    "state its format, raw, if that is to be allowed",
                )
            return
        fresh = read_header(host)
        if _names(fresh) != _names(self.parameters):
            raise ImageFormatError(
                host.path, "the image names other files than before the guest ran", "look at it with qemu-img info"
            )
        self.parameters = fresh

    def image(self) -> Image:
        """What this node holds now; the files stay this node's."""
        if self.parameters is None:
            return RawImage(self.file.host)
        return Qcow2Image(
            self.file.host,
            self.parameters,
            None if self.data is None else self.data.host,
            None if self.backing is None else self.backing.image(),
        )


class SharedImage(Image):
    """The guest's disk, as it is now, and how QEMU gets it.

    `read_into` gives what the guest would read: what it wrote, and below that the image. QEMU may be there meanwhile,
    as long as no guest runs in it; `lend` and `renew` stand around each run. `format` is that of the image.

    Files that an image names, and that `spec` does not give, are opened as by `open_image`; the folder is that of the
    outermost image. What the guest writes in mode OVERLAY lies in `temporary_folder`, or where temporary files of the
    host lie.

    Raises:
        ImageError: a file cannot be opened, read, locked or written to, or there is no room for temporary files.
        ImageFormatError: an image is damaged, or asks for something that sipl does not read or was not allowed.
        ImageInUse: another program writes to the image, or uses one that the guest is to write to.
        UsageError: the specification contradicts itself or an image; as `open_image`; the host has no locks.
    """

    __slots__ = ("_files", "_image", "_top")

    def __init__(
        self,
        spec: ImageSpec,
        mode: WriteMode = WriteMode.OVERLAY,
        *,
        allow_backing: bool = False,
        backing_folder: str | os.PathLike[str] | None = None,
        temporary_folder: str | None = None,
    ) -> None:
        self._files: list[SharedFile] = []
        self._image: Image | None = None
        folder = companions_folder(spec.path, allow_backing=allow_backing, backing_folder=backing_folder)
        try:
            node = self._open(spec, Companions(folder), writable=mode is WriteMode.DIRECT)
            self._image = node.image()
            super().__init__(spec.path, self._image.size, node.format, self._image.notes)
            if mode is WriteMode.OVERLAY:
                node = self._lay_over(node, temporary_folder)
                self._image = node.image()
            self._top = node
        except BaseException:
            self.close()
            raise

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`; see `Image.read_into`.

        Raises:
            UsageError: also, if the image is lent or closed.
        """
        if self._image is None:
            raise UsageError(self.path, "the image is lent to QEMU, or closed", "renew it when QEMU has ended")
        self._image.read_into(offset, buffer)

    def lend(self) -> None:
        """A guest is going to run: from now on nothing is read, until `renew`."""
        self._image = None

    def renew(self) -> None:
        """The QEMU process that had the image has ended: what it wrote is what is read now. `size` may be another.

        Formats and the files of the image stay. After an error nothing can be read, and `renew` may be tried again.

        Raises:
            ImageError: a file cannot be read or locked, or is empty now.
            ImageFormatError: an image is damaged, names other files than before, or is a raw one whose format was not
                stated and which looks like another one now.
            ImageInUse: another program uses the image meanwhile.
            UsageError: the image is closed.
        """
        self._image = None
        if not self._files:
            raise UsageError(self.path, "the image is closed")
        for file in self._files:
            file.renew()
        self._top.renew()
        image = self._top.image()
        self.size, self.notes = image.size, image.notes
        self._image = image

    @property
    def direct(self) -> bool:
        """Whether QEMU writes to the image itself."""
        return self._top.file.use.writable and not self._top.file.use.private

    def close(self) -> None:
        """Close all files, and forget what the guest wrote; closing twice is allowed."""
        self._image = None
        while self._files:
            self._files.pop().close()

    # How QEMU gets it: file number 0 is in the set `first_set`, each following one in the next.

    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that a QEMU process inherits, under these numbers; they stay this object's."""
        return tuple(file.descriptor for file in self._files)

    def add_fd(self, first_set: int) -> list[str]:
        """Arguments that make one descriptor set of each file."""
        arguments = []
        for number, file in enumerate(self._files):
            arguments += ["-add-fd", f"fd={file.descriptor},set={first_set + number},opaque={file.use.role}"]
        return arguments

    def blockdevs(self, node: str, first_set: int) -> list[BlockNode]:
        """Objects for -blockdev, in order; the last one is the disk, with the name `node`.

        The others are `sipl-file-N` and `sipl-image-N`, with N the number of a set.
        """
        return self._nodes(self._top, first_set, node)

    def adopted(self, first_set: int) -> Adopted:
        """For a command line with -blockdev objects of its own: what becomes of them.

        For each `ImageSpec` with a `name`: the members of the object for its file and of that for its format (a data
        file has none) that take the place of those that are there. `blockdevs` are for files that only images name,
        and come first.

        Raises:
            UsageError: there is an overlay; it is the disk, and takes `blockdevs`.
        """
        if self._top.spec is None:
            raise UsageError(self.path, "the guest writes to an overlay, not to the image")
        adopted = Adopted([], {})
        self._adopt(self._top, first_set, adopted)
        return adopted

    def _adopt(self, node: _Node, first_set: int, adopted: Adopted) -> None:
        spec = node.spec
        if spec is None or not spec.name:
            adopted.blockdevs.extend(self._nodes(node, first_set, None))
            return
        image: BlockNode = {"read-only": not node.file.use.writable}
        if node.parameters is not None:
            if node.backing is None:
                image["backing"] = None
            elif node.backing.spec is None or not node.backing.spec.name:
                image["backing"] = self._image_name(node.backing, first_set)
            if node.backing is not None:
                self._adopt(node.backing, first_set, adopted)
            if node.data is not None and (spec.data_file is None or not spec.data_file.name):
                file = self._file_node(node.data, first_set)
                adopted.blockdevs.append(file)
                image["data-file"] = file["node-name"]
            elif node.data is not None and spec.data_file is not None:
                adopted.members[spec.data_file.name] = Members(self._file_members(node.data, first_set), {})
        adopted.members[spec.name] = Members(self._file_members(node.file, first_set), image)

    def _nodes(self, node: _Node, first_set: int, name: str | None) -> list[BlockNode]:
        found = [] if node.backing is None else self._nodes(node.backing, first_set, None)
        use = node.file.use
        file = self._file_node(node.file, first_set)
        image: BlockNode = {
            "driver": node.format,
            "node-name": name or self._image_name(node, first_set),
            "file": file["node-name"],
            "read-only": not use.writable,
            "auto-read-only": False,
        }
        if use.private:
            image |= {"cache": _NO_FLUSH, "discard": "unmap", "detect-zeroes": "unmap"}
        found.append(file)
        if node.parameters is not None:
            image["backing"] = None if node.backing is None else self._image_name(node.backing, first_set)
        if node.data is not None:
            data = self._file_node(node.data, first_set)
            image["data-file"] = data["node-name"]
            found.append(data)
        return [*found, image]

    def _file_members(self, file: SharedFile, first_set: int) -> BlockNode:
        return {
            "driver": "host_device" if file.host.is_device else "file",
            "filename": f"/dev/fdset/{first_set + self._files.index(file)}",
            "read-only": not file.use.writable,
            # Otherwise it would look for a second descriptor, with other access, in the set.
            "auto-read-only": False,
        }

    def _file_node(self, file: SharedFile, first_set: int) -> BlockNode:
        node = self._file_members(file, first_set)
        node["node-name"] = f"sipl-file-{first_set + self._files.index(file)}"
        if file.use.private:
            return node | {"locking": "off", "cache": _NO_FLUSH, "discard": "unmap"}
        return node | {"locking": "auto"}

    def _image_name(self, node: _Node, first_set: int) -> str:
        return f"sipl-image-{first_set + self._files.index(node.file)}"

    # How the files are opened.

    def _open(self, spec: ImageSpec, companions: Companions, *, writable: bool) -> _Node:
        if spec.format not in (*FORMATS, None):
            raise UsageError(spec.path, f"{spec.format} images are not read", "raw and qcow2 are")
        file = self._open_given(spec, companions, Use("image", writable))
        format_name = spec.format or find_format(file.host)
        if writable and format_name == "raw" and file.host.size % SECTOR_SIZE:
            raise UsageError(spec.path, "the image ends inside a sector", "make it larger with truncate --size=%512")
        node = _Node(file, format_name, spec, guessed=spec.format is None)
        self._open_below(node, companions, given=spec)
        return node

    def _open_given(self, spec: ImageSpec, companions: Companions, use: Use) -> SharedFile:
        if spec.descriptor is not None and use.writable:
            _check_access(spec)
        host = HostFile(spec.path, descriptor=spec.descriptor)
        try:
            companions.enter(host)
        except BaseException:
            host.close()
            raise
        return self._take(host, use)

    def _take(self, host: HostFile, use: Use) -> SharedFile:
        file = SharedFile(host, use)
        self._files.append(file)
        return file

    def _open_below(self, node: _Node, companions: Companions, given: ImageSpec | None) -> None:
        """Open the data file and the backing file of a node: those that are given, else those that it names."""
        host, parameters = node.file.host, node.parameters
        if parameters is None:
            if given is not None and (given.backing or given.data_file):
                raise UsageError(host.path, "a raw image has neither a backing nor a data file")
            return
        use = Use("data", node.file.use.writable)
        if given is not None and given.data_file is not None:
            if parameters.data_file_name is None:
                raise UsageError(host.path, "the image has its data in itself, but a data file is given")
            node.data = self._open_given(given.data_file, companions, use)
        elif parameters.data_file_name is not None:
            node.data = self._take(companions.open(host.path, parameters.data_file_name, "data file"), use)
        if given is not None and given.backing is not None:
            if given.backing.format is None:
                raise UsageError(given.backing.path, "the format of a backing file is not found out", "state it")
            node.backing = self._open(given.backing, companions, writable=False)
        elif parameters.backing_name is not None and not (given is not None and given.ignore_backing):
            backing = companions.open(host.path, parameters.backing_name, "backing file")
            try:
                stated = check_backing_format(host.path, backing.path, parameters.backing_format)
            except BaseException:
                backing.close()
                raise
            node.backing = _Node(self._take(backing, Use("backing")), stated, None)
            self._open_below(node.backing, companions, None)

    def _lay_over(self, below: _Node, folder: str | None) -> _Node:
        """Put an empty qcow2 image without a name over an image. Its header names no files, so that none is opened."""
        if self.size > MAX_OVERLAID_SIZE:
            raise UsageError(
                self.path, f"the disk has {self.size} bytes, too many for an overlay", "have its guest write to it"
            )
        import tempfile

        name = f"what the guest writes to {self.path}"
        try:
            with tempfile.TemporaryFile(prefix="sipl-", dir=folder) as file:
                write_qcow2(file, b"", self.size)
                file.flush()
                host = HostFile(name, descriptor=file.fileno())
        except ImageError:
            raise
        except OSError as error:
            raise ImageError(
                self.path,
                f"what the guest writes cannot be kept: {error.strerror or error}",
                "is there room for temporary files? TMPDIR names another place",
            ) from error
        node = _Node(self._take(host, Use("overlay", writable=True, private=True)), "qcow2", None)
        node.backing = below
        return node


def _names(parameters: Qcow2Parameters) -> tuple[bytes | None, ...]:
    """What a header says about other files."""
    return parameters.backing_name, parameters.backing_format, parameters.data_file_name


def _check_access(spec: ImageSpec) -> None:
    """A descriptor for reading is no permission to write, even if the file as such may be written to."""
    import fcntl
    import os

    try:
        flags = fcntl.fcntl(spec.descriptor or 0, fcntl.F_GETFL)
    except OSError as error:
        raise ImageError(spec.path, f"descriptor {spec.descriptor}: {error.strerror or error}") from error
    if flags & os.O_ACCMODE != os.O_RDWR:
        raise ImageError(spec.path, f"descriptor {spec.descriptor} is not for reading and writing", _MODE_OF_OPENING)
