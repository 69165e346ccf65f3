"""The rules of the house, read from the source: who may import whom, what a module has, what is shipped."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "sipl"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Data flows one way: who stands in a row may use what stands in the rows above it, never below. `layout` uses nothing
# of the package but the base, `report` and `survey` look at everything that came before, `cli` is the last.
ROWS = (
    ("_version", "text"),
    ("reasons",),
    ("errors", "advice"),
    ("layout",),
    ("crypto", "disk"),
    ("machine",),
    ("firmware",),
    ("engine",),
    ("settings",),
    ("report",),
    ("survey",),
    ("ipl", "inspection"),
    ("guest_machine",),
    ("doctor",),
    ("diagnosis",),
    # Who makes a disk tries it on the boot side.
    ("author",),
    ("qemu_command",),
    ("cli",),
    ("__main__",),
)
# The package itself names the places of its public objects and imports them when they are asked for.
_FACADE = "__init__"


def name_of(path: Path) -> str:
    """Dotted name of a module below the package: `crypto.der`, `errors`; a package is named by itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    return name.partition(".")[0]


class Import(NamedTuple):
    """One import statement: the module that is named, whether at run time, whether at the start of the module."""

    module: str
    typing_only: bool
    late: bool


class _Imports(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[Import] = []
        self._typing = False
        self._late = False

    def visit_If(self, node: ast.If) -> None:
        outer, self._typing = self._typing, self._typing or ast.unparse(node.test) == "TYPE_CHECKING"
        for child in node.body:
            self.visit(child)
        self._typing = outer
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._late = self._late, True
        self.generic_visit(node)
        self._late = outer

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(alias.name, self._typing, self._late) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports are absolute"
        assert node.module
        self.found.append(Import(node.module, self._typing, self._late))
        # `from sipl.author import guest` may name a module, too.
        for alias in node.names:
            path = ROOT / "src" / Path(*node.module.split("."), alias.name)
            if path.with_suffix(".py").is_file() or path.is_dir():
                self.found.append(Import(f"{node.module}.{alias.name}", self._typing, self._late))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    visitor = _Imports()
    visitor.visit(tree_of(path))
    return tuple(visitor.found)


def own_imports(path: Path, *, run_time: bool = True) -> set[str]:
    """Names below the package that a module imports; `run_time` leaves out what only type checkers see."""
    return {
        found.module.removeprefix("sipl.")
        for found in imports_of(path)
        if found.module.startswith("sipl.") and not (run_time and found.typing_only)
    }


def in_room(*rooms: str) -> list[Path]:
    return [path for path in MODULES if room_of(name_of(path)) in rooms]


def breaches(rooms: tuple[str, ...], forbidden: set[str], *, run_time: bool) -> list[str]:
    """Imports of forbidden rooms, as text for the one who has to mend it."""
    return [
        f"{name_of(path)} imports {name}"
        for path in in_room(*rooms)
        for name in sorted(own_imports(path, run_time=run_time))
        if room_of(name) in forbidden
    ]


def test_the_reader_of_imports_sees_all_kinds():
    source = """
from typing import TYPE_CHECKING
import sipl.one
if TYPE_CHECKING:
    from sipl.two import x
else:
    from sipl.three import y
def late():
    from sipl.author import guest
"""
    visitor = _Imports()
    visitor.visit(ast.parse(source))
    assert visitor.found == [
        Import("typing", False, False),
        Import("sipl.one", False, False),
        Import("sipl.two", True, False),
        Import("sipl.three", False, False),
        Import("sipl.author", False, True),
        Import("sipl.author.guest", False, True),
    ]


class TestImports:
    def test_every_module_has_a_place_in_the_flow(self):
        rooms = {room_of(name_of(path)) for path in MODULES} - {_FACADE}
        assert rooms == {room for row in ROWS for room in row}

    @pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda row: "+".join(ROWS[row]))
    def test_data_flows_one_way(self, row):
        """At run time nothing is imported from further down the flow."""
        below = {room for later in ROWS[row + 1 :] for room in later}
        assert breaches(ROWS[row], below, run_time=True) == []

    def test_rooms_of_one_row_do_not_know_each_other(self):
        found = []
        for row in ROWS:
            for room in row:
                found += breaches((room,), set(row) - {room}, run_time=True)
        assert found == []

    def test_layout_knows_nothing_but_the_base(self):
        """Types too: what lies on disk does not depend on who reads it."""
        rooms = {room_of(name_of(path)) for path in MODULES}
        assert breaches(("layout",), rooms - {"layout", "errors"}, run_time=False) == []

    def test_only_crypto_imports_cryptography(self):
        users = {
            room_of(name_of(path)) for path in MODULES for found in imports_of(path) if "cryptography" in found.module
        }
        assert users == {"crypto"}

    def test_firmware_reaches_disks_certificates_and_machine_only_as_guest_code_does(self):
        assert breaches(("firmware",), {"disk", "crypto", "machine"}, run_time=False) == []

    def test_machine_knows_nothing_of_who_asks(self):
        assert breaches(("machine",), {"cli", "report", "survey", "ipl", "firmware"}, run_time=False) == []

    def test_cli_holds_no_rules(self):
        """It parses words and prints; it knows options, the library's functions and the forms of output."""
        assert breaches(("cli",), {"firmware", "layout", "crypto", "disk"}, run_time=False) == []

    def test_cli_uses_the_machine_only_for_its_options(self):
        used = {name for path in in_room("cli") for name in own_imports(path) if room_of(name) == "machine"}
        assert used == {"machine.options", "machine.boot_devices"}

    def test_nobody_but_the_command_line_prints(self):
        rooms = {room_of(name_of(path)) for path in MODULES} - {"cli", "__main__"}
        writers = [
            name_of(path)
            for path in in_room(*rooms)
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Attribute)
            and node.attr in ("stdout", "stderr")
            and isinstance(node.value, ast.Name)
            and node.value.id == "sys"
        ]
        assert writers == []

    @pytest.mark.parametrize("at_start", [True, False], ids=["at start", "ever"])
    def test_modules_do_not_import_in_a_circle(self, at_start):
        """Within a room and between rooms; a command may look back at the entry point, which names it by text."""
        graph = {
            name_of(path): {
                found.module.removeprefix("sipl.")
                for found in imports_of(path)
                if found.module.startswith("sipl.") and not found.typing_only and not (at_start and found.late)
            }
            for path in MODULES
        }
        assert circles(graph) == []


def circles(graph: dict[str, set[str]]) -> list[str]:
    """One text per circle that is found by going down from each node."""
    done: set[str] = set()
    found = []

    def visit(node: str, way: tuple[str, ...]) -> None:
        if node in way:
            found.append(" → ".join((*way[way.index(node) :], node)))
        elif node not in done:
            for target in sorted(graph.get(node, ())):
                visit(target, (*way, node))
            done.add(node)

    for node in graph:
        visit(node, ())
    return found


def test_the_finder_of_circles_finds_them():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a → b → c → a"]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


class TestLayout:
    """What lies on disk and in memory has fields and no behaviour; `layout.record` is how fields become bytes."""

    RECORDS = tuple(path for path in in_room("layout") if path.name != "record.py")

    @pytest.mark.parametrize("path", RECORDS, ids=name_of)
    def test_no_logic(self, path):
        allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.ClassDef, ast.If)
        for node in tree_of(path).body:
            assert isinstance(node, allowed), f"line {node.lineno}"
            if isinstance(node, ast.If):
                assert ast.unparse(node.test) == "TYPE_CHECKING"
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    assert isinstance(member, ast.Expr | ast.Assign | ast.AnnAssign), f"line {member.lineno}"
        assert not [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.Lambda)]

    @pytest.mark.parametrize("path", RECORDS, ids=name_of)
    def test_records_are_big_endian(self, path):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "layout":
                (fmt,) = node.args
                assert isinstance(fmt, ast.Constant)
                # virtio has little-endian structures, in its modern form; so have partition tables.
                orders = (">", "<") if path.stem in ("virtio", "partition_table") else (">",)
                assert fmt.value.startswith(orders), f"line {node.lineno}"


class TestSource:
    @pytest.mark.parametrize("path", MODULES, ids=name_of)
    def test_docstring(self, path):
        text = ast.get_docstring(tree_of(path))
        assert text
        assert text.split("\n")[0].endswith((".", ":", "`"))

    def test_nothing_is_left_to_do(self):
        words = re.compile(r"\b(TODO|FIXME|XXX|HACK|for now|NotImplementedError)\b")
        assert hits(words) == []

    def test_no_paths_of_a_machine_and_nothing_of_the_reference_folder(self):
        words = re.compile(r"shared/|/work/|/home/|/root/|/tmp/|/Users/|C:\\\\")
        assert hits(words) == []

    def test_no_citation_of_another_project_s_source(self):
        """Rules are cited by our own pages."""
        words = re.compile(r"[a-z0-9_-]+\.[ch]:\d+|hw/s390x|pc-bios|\bv[89]:\d+")
        assert hits(words) == []

    def test_every_page_that_is_cited_is_there(self):
        cited = {
            (page, name_of(path))
            for path in MODULES
            for page in re.findall(r"docs/[a-z0-9_/-]+\.md", path.read_text("utf-8"))
        }
        assert cited
        assert sorted({page for page, _ in cited if not (ROOT / page).is_file()}) == []

    def test_the_section_of_a_page_that_is_cited_is_there(self):
        pattern = re.compile(r'(docs/[a-z0-9_/-]+\.md), (?:section )?"([^"\n]+)"')
        missing = [
            f"{name_of(path)}: {page}, {section}"
            for path in MODULES
            for page, section in pattern.findall(path.read_text("utf-8"))
            if (ROOT / page).is_file()
            and not re.search(
                rf"^#+ .*{re.escape(section)}", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.IGNORECASE
            )
        ]
        assert missing == []

    def test_exceptions_to_the_linters_give_their_reason(self):
        bare = re.compile(r"#\s*(noqa(: [A-Z0-9, ]+)?|type: ignore(\[[a-z, -]+\])?)$")
        assert hits(bare) == []
        assert bare.search("x = 1  # type: ignore[arg-type]")
        assert not bare.search("x = 1  # noqa: S101 (the reason)")


def hits(pattern: re.Pattern[str]) -> list[str]:
    """Where a pattern stands in the source, assembler included."""
    files = [*MODULES, *PACKAGE.rglob("*.S"), *PACKAGE.rglob("*.inc")]
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


class TestPackaging:
    @staticmethod
    def project():
        return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

    def shipped(self) -> set[Path]:
        globs = self.project()["tool"]["setuptools"]["package-data"]["sipl"]
        return {path for pattern in globs for path in PACKAGE.glob(pattern) if path.is_file()}

    def test_every_file_that_is_no_module_is_shipped(self):
        others = {
            path
            for path in PACKAGE.rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
        }
        assert {path.relative_to(PACKAGE) for path in others - self.shipped()} == set()

    @pytest.mark.parametrize(
        "name", ["py.typed", "report/report.schema.json", "author/guest/loader.bin", "engine/qemu/code/jump.bin"]
    )
    def test_is_shipped(self, name):
        assert PACKAGE / name in self.shipped()

    def test_every_folder_with_modules_is_a_package(self):
        assert {path.parent for path in MODULES if not (path.parent / "__init__.py").is_file()} == set()

    def test_version_is_said_in_one_place(self):
        from sipl import __version__

        assert self.project()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sipl._version.__version__"}
        assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)

    def test_the_commands_are_the_entry_points(self):
        assert self.project()["project"]["scripts"] == {
            "sipl": "sipl.cli.main:entry",
            "sipl-qemu-system-s390x": "sipl.cli.qemu_system:entry",
        }

    def test_what_is_imported_from_elsewhere_is_a_dependency(self):
        import sys

        project = self.project()["project"]
        named = {re.match(r"[a-z0-9_-]+", text)[0] for text in project["dependencies"]}
        # What only some need is an extra, whose package has another name than its module.
        named |= {
            re.match(r"[a-z0-9_-]+", text)[0].removeprefix("python-")
            for text in project["optional-dependencies"]["pkcs11"]
        }
        used = {found.module.partition(".")[0] for path in MODULES for found in imports_of(path)}
        assert used - set(sys.stdlib_module_names) - {"sipl"} == named
