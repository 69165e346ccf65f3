"""The images that a command line describes, and what becomes of those that boot (docs/qemu-command.md).

-blockdev builds a graph: a file, its format above it, filters above that; a node names those below it, or holds their
description. -drive is a whole such graph with other words. A disk that boots is opened by sipl, which tells QEMU the
descriptors in place of the names; all else that the line says about it stays. Other disks stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.shared_image import ImageSpec, Members, WriteMode
from sipl.errors import UsageError
from sipl.qemu_command.allowed import (
    BLOCK_DRIVERS,
    CACHE,
    DRIVE,
    INTERFACES,
    check_block_driver,
    check_id,
    check_properties,
    refuse,
)
from sipl.qemu_command.values import (
    OptionValue,
    Syntax,
    read_dotted,
    read_opts,
    scalar,
    switch,
    write_json,
    write_list,
)
from sipl.qemu_command.words import names
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sipl.qemu_command.values import Node, Tree
    from sipl.qemu_command.words import CommandLine, Word

# The option of a node's name, of an image given by its name alone, and what these set.
_NAMED_DISKS: Final = {"": "hda", "hda": "hda", "hdb": "hdb", "hdc": "hdc", "hdd": "hdd", "cdrom": "cdrom"}
OPTIONS: Final = ("blockdev", "drive", "snapshot", *_NAMED_DISKS)

_CHILDREN: Final = ("file", "backing", "data-file")
_FILTERS: Final = frozenset({"throttle", "copy-on-read"})
_FILES: Final = frozenset({"file", "host_device"})
_FORMATS: Final = frozenset({"raw", "qcow2"})
_FDSET: Final = "/dev/fdset/"
# A chain of backing files, all of them named on the line; longer than any that is used.
MAX_CHAIN: Final = 64
_SHOWN: Final = 80
_OWN_NAME: Final = "give each a name of its own"

# Members that are no text in JSON.
_SWITCHES: Final = names("""
    auto-read-only direct discard-no-unref drop-cache force-share lazy-refcounts no-flush pass-discard-other
    pass-discard-request pass-discard-snapshot read-only read-zeroes x-check-cache-dropped
""")
_NUMBERS: Final = names("""
    aio-max-batch cache-clean-interval cache-size l2-cache-entry-size l2-cache-size latency-ns offset
    refcount-cache-size size
""")
_UNITS: Final = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# What -drive calls otherwise.
_DRIVE_NAMES: Final = {"readonly": "read-only"}
_OF_FORMAT: Final = frozenset({"driver", "read-only", "auto-read-only", "force-share"}) | (
    BLOCK_DRIVERS["qcow2"] | BLOCK_DRIVERS["raw"]
) - {"cache", "discard", "detect-zeroes", "node-name", "file"}

Path = tuple[str, ...]


class _At(NamedTuple):
    """Where a node is described: the number of its -blockdev or -drive, and the way down to it."""

    root: int
    path: Path = ()


class _Place(NamedTuple):
    """Where an image and its file are described; a data file has no image."""

    image: _At | None
    file: _At


class _Root(NamedTuple):
    """One -blockdev or -drive: as it was written, and the node that it describes.

    `options` is what -drive says besides the node; -blockdev says nothing else.
    """

    option: str
    value: OptionValue
    tree: Tree
    options: Mapping[str, str] | None = None


class BootImage(NamedTuple):
    """The image of a disk that boots: what is opened, and what becomes of the guest's writes."""

    spec: ImageSpec
    mode: WriteMode
    is_device: bool  # the name or the driver says that it is a device of the host
    root: int


class OtherImage(NamedTuple):
    """An image that QEMU opens itself and that may be qcow2; `described` are the files below that the line names."""

    where: str
    spec: ImageSpec
    described: frozenset[str]


class Images:
    """All images of a command line.

    Raises:
        UsageError: one is not allowed, contradicts itself, or is described in a way that QEMU does not know.
    """

    def __init__(self, line: CommandLine, descriptor_sets: Mapping[int, Sequence[int]]) -> None:
        self._sets = descriptor_sets
        self._roots: list[_Root] = []
        self._drives: dict[str, int] = {}
        self._nodes: dict[str, _At] = {}
        self._places: dict[str, _Place] = {}
        self._overlaid: dict[int, str] = {}
        self._snapshot = line.has("snapshot")
        for word in line.of("blockdev", "drive", *_NAMED_DISKS):
            self._add(word)
        for number, root in enumerate(self._roots):
            self._enter(root.value.where, _At(number), root.tree, top=root.options is not None)

    def __len__(self) -> int:
        return len(self._roots)

    # What the line says.

    def _add(self, word: Word) -> None:
        if word.option == "blockdev":
            value = read_dotted(word.where, word.value, "driver")
            self._roots.append(_Root("blockdev", value, _typed(word.where, value.members)))
        elif word.option == "drive":
            self._add_drive(read_opts(word.where, word.value))
        else:
            if not word.value:
                raise UsageError(word.where, "the name of an image is empty", "name a file")
            _check_name(word.where, word.value)
            value = OptionValue(word.where, Syntax.OPTS, "", {"file": word.value})
            self._roots.append(_Root(_NAMED_DISKS[word.option], value, {}))

    def _add_drive(self, value: OptionValue) -> None:
        where = value.where
        members = {_DRIVE_NAMES.get(key, key): value.text(key) for key in value.members}
        if len(members) != len(value.members):
            raise UsageError(where, "read-only is said twice", "say it once")
        tree, options = _drive_parts(where, members)
        check_properties(where, "a drive", options, DRIVE)
        interface = options.get("if", "virtio")
        if interface not in INTERFACES:
            raise refuse(where, f"interface '{printable(interface, _SHOWN)}' is none of this machine")
        name = options.get("id", "")
        if name:
            check_id(where, name)
            if name in self._drives:
                raise UsageError(where, f"there are two drives '{printable(name, _SHOWN)}'", _OWN_NAME)
            self._drives[name] = len(self._roots)
        self._roots.append(_Root("drive", value, _typed(where, tree), options))

    def _enter(self, where: str, at: _At, tree: Tree, *, top: bool = False) -> None:
        """Judge a node and those that it holds, and note their names; `values` limits the depth.

        At the `top` of a -drive the format may be left out.
        """
        if not tree and (top or self._roots[at.root].option not in ("drive", "blockdev")):
            return  # a drive without a medium, or an image given by its name alone
        driver = scalar(where, "driver", tree.get("driver", ""))
        if driver or not top:
            check_block_driver(where, driver, tree)
        else:
            check_properties(where, "an image", tree, BLOCK_DRIVERS["raw"] | BLOCK_DRIVERS["qcow2"])
        cache = tree.get("cache", {})
        if not isinstance(cache, dict):
            raise UsageError(where, "'cache' of an image has members", "write cache.direct and cache.no-flush")
        check_properties(where, "a cache", cache, CACHE)
        if "node-name" in tree:
            name = scalar(where, "node-name", tree["node-name"])
            check_id(where, name)
            if name in self._nodes or name in self._drives:
                raise UsageError(where, f"there are two nodes '{printable(name, _SHOWN)}'", _OWN_NAME)
            self._nodes[name] = at
        for child in _CHILDREN:
            below = tree.get(child)
            if isinstance(below, dict):
                self._enter(where, _At(at.root, (*at.path, child)), below)
            elif isinstance(below, str):
                check_id(where, below)

    # Disks that boot.

    def boot_image(self, where: str, name: str, *, read_only: bool) -> BootImage:
        """The image of the drive or node `name`, for a device that boots from it.

        Raises:
            UsageError: there is none, or it is none that sipl reads.
        """
        at = _At(self._drives[name]) if name in self._drives else self._nodes.get(name)
        if at is None:
            raise UsageError(
                where, f"there is no drive '{printable(name, _SHOWN)}'", "name it with -drive or -blockdev"
            )
        root = self._roots[at.root]
        tree = self._tree(at)
        if not tree:
            raise UsageError(where, f"drive '{printable(name, _SHOWN)}' has no medium to boot from", "name a file")
        writable = not read_only
        passed = 0
        while tree.get("driver") in _FILTERS:
            writable = writable and not switch(where, "read-only", tree.get("read-only", False))
            at = self._child(where, at, "file")
            tree = self._tree(at)
            passed += 1
            if passed > MAX_CHAIN:
                raise _too_long(where)
        spec, can_write = self._image(where, at, 0)
        overlaid = root.options is not None and (
            switch(where, "snapshot", root.options["snapshot"]) if "snapshot" in root.options else self._snapshot
        )
        if overlaid:
            mode = WriteMode.OVERLAY
            self._overlaid[at.root] = spec.name
        else:
            mode = WriteMode.DIRECT if writable and can_write else WriteMode.READ_ONLY
        place = self._places[spec.name]
        is_device = self._tree(place.file).get("driver") == "host_device" or (
            spec.path.startswith("/dev/") and not spec.path.startswith(_FDSET)
        )
        return BootImage(spec, mode, is_device, at.root)

    def _image(self, where: str, at: _At, depth: int) -> tuple[ImageSpec, bool]:
        """A format above a file, or a file alone; and whether both may be written to."""
        if depth > MAX_CHAIN:
            raise _too_long(where)
        tree = self._tree(at)
        driver = tree.get("driver")
        can_write = not switch(where, "read-only", tree.get("read-only", False))
        if driver in _FILES:
            name = self._place(where, at, at)
            return self._file_spec(where, at, name)._replace(format="raw"), can_write
        if driver is not None and driver not in _FORMATS:
            why = f"a disk that boots cannot be of driver '{printable(str(driver), _SHOWN)}'"
            raise UsageError(where, why, "take raw or qcow2 in a file")
        if "offset" in tree or "size" in tree:
            raise UsageError(where, "a disk that boots cannot be a part of a file", "leave offset and size out")
        file = self._child(where, at, "file")
        below = self._tree(file)
        if below.get("driver") not in _FILES:
            raise UsageError(where, "a disk that boots is not in a plain file", "give it driver=file or host_device")
        can_write = can_write and not switch(where, "read-only", below.get("read-only", False))
        name = self._place(where, at, file)
        spec = self._file_spec(where, file, name)
        spec = spec._replace(format=driver if isinstance(driver, str) else None)
        if "data-file" in tree:
            data = self._child(where, at, "data-file")
            if self._tree(data).get("driver") not in _FILES:
                why = "the data of a disk that boots is not in a plain file"
                raise UsageError(where, why, "give it driver=file or host_device")
            spec = spec._replace(data_file=self._file_spec(where, data, self._place(where, None, data)))
        if tree.get("backing", "") is None:
            spec = spec._replace(ignore_backing=True)
        elif "backing" in tree:
            spec = spec._replace(backing=self._image(where, self._child(where, at, "backing"), depth + 1)[0])
        return spec, can_write

    def _file_spec(self, where: str, at: _At, name: str) -> ImageSpec:
        path = scalar(where, "filename", self._tree(at).get("filename", ""))
        if not path:
            raise UsageError(where, "the image has no name", "give it a filename")
        descriptor = None
        if path.startswith(_FDSET):
            number = path.removeprefix(_FDSET)
            descriptors = self._sets.get(int(number), ()) if number.isdecimal() and len(number) < 10 else ()
            if len(descriptors) != 1:
                why = f"set '{printable(number, _SHOWN)}' has {len(descriptors)} descriptors"
                raise UsageError(where, why, "give it one, with -add-fd")
            descriptor = descriptors[0]
        return ImageSpec(path, descriptor=descriptor, name=name)

    def _place(self, where: str, image: _At | None, file: _At) -> str:
        """A name for an image and its file, which no other disk that boots may have."""
        name = f"{file.root}/{'/'.join(file.path)}"
        if name in self._places:
            raise UsageError(where, "an image belongs to two disks that boot, or to itself", "give each its own")
        self._places[name] = _Place(image, file)
        return name

    def _tree(self, at: _At) -> Tree:
        tree = self._roots[at.root].tree
        for key in at.path:
            below = tree[key]
            if not isinstance(below, dict):
                raise UsageError("-blockdev", f"'{key}' describes no node")
            tree = below
        return tree

    def _child(self, where: str, at: _At, key: str) -> _At:
        """Where a node below is described: there, or elsewhere by its name."""
        child = self._tree(at).get(key)
        if isinstance(child, dict):
            return _At(at.root, (*at.path, key))
        if not isinstance(child, str):
            raise UsageError(where, f"an image of a disk that boots does not say what its '{key}' is", "name it")
        if child not in self._nodes:
            raise UsageError(where, f"there is no node '{printable(child, _SHOWN)}'", "name it with -blockdev")
        return self._nodes[child]

    # Disks that do not boot.

    def others(self) -> Iterator[OtherImage]:
        """The images that QEMU opens itself; to be called when those that boot are known.

        Raises:
            UsageError: one has no name.
        """
        booted = {place.image for place in self._places.values()}
        for number, root in enumerate(self._roots):
            if root.option in ("blockdev", "drive"):
                yield from self._others_below(root.value.where, _At(number), booted)
            else:
                yield OtherImage(root.value.where, ImageSpec(root.value.text("file")), frozenset())

    def _others_below(self, where: str, at: _At, booted: set[_At | None]) -> Iterator[OtherImage]:
        tree = self._tree(at)
        for child in _CHILDREN:
            if isinstance(tree.get(child), dict):
                yield from self._others_below(where, _At(at.root, (*at.path, child)), booted)
        if at in booted or "file" not in tree or tree.get("driver", "qcow2") != "qcow2":
            return
        file = self._child(where, at, "file")
        if self._tree(file).get("driver") in _FILES:
            described = frozenset({"backing", "data-file"} & tree.keys())
            yield OtherImage(where, self._file_spec(where, file, ""), described)

    # What QEMU gets.

    def notes(self) -> list[str]:
        """Sentences about what the guest loses when it restarts: QEMU throws away its own temporary files each time."""
        found = []
        for number, root in enumerate(self._roots):
            if root.options is None or number in self._overlaid or "file" not in root.tree:
                continue
            own = root.options.get("snapshot")
            if self._snapshot if own is None else switch(root.value.where, "snapshot", own):
                name = root.options.get("id", "") or root.value.text("file")
                found.append(f"-drive {printable(name, _SHOWN)}: with snapshot it begins anew at each IPL of the guest")
        return found

    def overlay_name(self, image: BootImage) -> str:
        """The name of the node that QEMU is to find the overlay of an image under."""
        return f"sipl-overlay-{image.root}"

    def write(self, number: int, members: Mapping[str, Members], formats: Mapping[str, str]) -> list[str]:
        """The words for one -blockdev, -drive or image, in the order of the line.

        `members` and `formats` are those of the images that sipl has opened, by the names in their `ImageSpec`.
        """
        root = self._roots[number]
        if root.option not in ("blockdev", "drive"):
            return [f"-{root.option}", root.value.text("file")]
        options = root.options
        if options is not None and number in self._overlaid:
            return ["-drive", _drive(options, {"driver": "raw", "file": f"sipl-overlay-{number}"})]
        tree = _copy(root.tree)
        touched = False
        for name, place in self._places.items():
            if name in members:
                touched = self._merge(tree, number, place, members[name]) or touched
                if place.image == _At(number) and name in formats:
                    tree.setdefault("driver", formats[name])
        if not touched:
            return [f"-{root.option}", root.value.write()]
        if options is None:
            return ["-blockdev", write_json(tree)]
        tree.pop("node-name", None)
        return ["-drive", _drive(options, tree)]

    @staticmethod
    def _merge(tree: Tree, number: int, place: _Place, members: Members) -> bool:
        """Put members in place of those that are there; whether there were any in this -blockdev or -drive."""
        touched = False
        for at, new in ((place.image, members.image), (place.file, members.file)):
            if at is not None and at.root == number:
                node = tree
                for key in at.path:
                    below = node[key]
                    node = below if isinstance(below, dict) else node
                for key, member in new.items():
                    node[key] = member if isinstance(member, str | bool) else None
                touched = True
        return touched


def _drive(options: Mapping[str, str], tree: Tree) -> str:
    """A drive whose image is described in JSON; its own options are explicit where QEMU would find others."""
    own = {key: text for key, text in options.items() if key != "snapshot"}
    read_only = {"read-only": "on" if tree.get("read-only") else "off"}
    return write_list({**own, "snapshot": "off", **read_only, "file": f"json:{write_json(tree)}"})


def _drive_parts(where: str, members: Mapping[str, str]) -> tuple[Tree, dict[str, str]]:
    """What a -drive says about an image, as -blockdev would, and what it says about the drive."""
    tree: Tree = {}
    options: dict[str, str] = {}
    for key, text in members.items():
        if key == "file":
            _check_name(where, text)
            if text:
                _put(where, tree, "file.driver", "file")
                _put(where, tree, "file.filename", text)
        elif key == "format":
            _put(where, tree, "driver", text)
        elif key in _OF_FORMAT or ("." in key and key.partition(".")[0] in _CHILDREN):
            _put(where, tree, key, text)
        else:
            options[key] = text
    if options.get("media") == "cdrom":
        tree.setdefault("read-only", True)
    if "node-name" in options:
        tree["node-name"] = options["node-name"]
    return tree, options


def _check_name(where: str, name: str) -> None:
    """Refuse the name of an image that is none of a file: QEMU takes what stands before a colon for a protocol."""
    before = name.partition("/")[0]
    if ":" in before:
        protocol = printable(before.partition(":")[0], _SHOWN)
        why = f"images of protocol '{protocol}' are not read, only local raw and qcow2 ones"
        raise UsageError(where, why, "write ./ in front of the name of a file that has a colon in it")


def _put(where: str, tree: Tree, key: str, text: str) -> None:
    """Set a leaf whose key has dots."""
    *way, last = key.split(".")
    branch = tree
    if len(way) > MAX_CHAIN:
        raise _too_long(where)
    for fragment in way:
        below = branch.setdefault(fragment, {})
        if not isinstance(below, dict):
            raise UsageError(where, f"'{printable(fragment, _SHOWN)}' is a name here and has members there")
        branch = below
    if last in branch:
        raise UsageError(where, f"'{printable(key, _SHOWN)}' is said twice", "say it once")
    branch[last] = text


def _typed(where: str, tree: Tree) -> Tree:
    """The same, with switches and numbers where JSON has them; the depth is limited by whoever has read it."""
    return {key: _typed_member(where, key, node) for key, node in tree.items()}


def _typed_member(where: str, key: str, node: Node) -> Node:
    if isinstance(node, dict):
        return _typed(where, node)
    if isinstance(node, str) and key in _SWITCHES:
        return switch(where, key, node)
    if isinstance(node, str) and key in _NUMBERS:
        digits = node.rstrip("BKMGTbkmgt")
        unit = node[len(digits) :].upper()
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and unit in _UNITS):
            raise UsageError(where, f"'{printable(node, _SHOWN)}' is no number for '{printable(key, _SHOWN)}'")
        return int(digits) * _UNITS[unit]
    return node


def _copy(tree: Tree) -> Tree:
    return {key: _copy(node) if isinstance(node, dict) else node for key, node in tree.items()}


def _too_long(where: str) -> UsageError:
    return UsageError(where, f"more than {MAX_CHAIN} images stand one above the other")
