"""Build libunicorn from its own source distribution, mended where it makes a guest slow (`make mended-unicorn`).

The source is fetched with pip, checked against its digest, changed by replacements that each have to fit exactly once,
and built for s390x alone. The result lies in a folder of its own, which the bindings use where $LIBUNICORN_PATH names
it; what pip has installed stays as it is. What is changed and why: docs/embedded-engine.md, "A faster Unicorn".
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

VERSION = "2.1.4"
SHA256 = "00567a70e323f749b419cd86bee4f9115beab7ebba32194581c090cbb7c59cff"
FOLDER = Path(__file__).resolve().parents[2] / "build" / "mended-unicorn"


class Change(NamedTuple):
    """One replacement: the file below qemu/, what stands there once, and what is to stand there."""

    path: str
    old: str
    new: str


CHANGES = (
    # A page's stores become fast once no translated block lies on it, whether or not it may hold code: on s390x every
    # page may.
    Change("accel/tcg/cputlb.c", "!(tlbe->addr_code != -1) &&", "!tb_page_has_code(cpu->uc, ram_addr) &&"),
    # They become so for the TLB entry that was asked about. Another address space may have another page at the
    # same virtual address.
    Change("accel/tcg/cputlb.c", "tlb_set_dirty(cpu, mem_vaddr);", "tlbe->addr_write &= ~(target_ulong)TLB_NOTDIRTY;"),
    # The first block on a page makes stores to it slow again, through whatever virtual address they come.
    Change(
        "accel/tcg/cputlb.c",
        "cpu_physical_memory_test_and_clear_dirty(ram_addr, TARGET_PAGE_SIZE,\n"
        "                                             DIRTY_MEMORY_CODE);",
        "tlb_reset_dirty(uc->cpu, (uintptr_t)qemu_map_ram_ptr(uc, NULL, ram_addr), TARGET_PAGE_SIZE);",
    ),
    # So this, which does it by virtual address and for each block, is not needed any more.
    Change(
        "accel/tcg/translate-all.c",
        "if (!uc_mem_hook_installed(cpu->uc, tb->pc)) {\n"
        "        tlb_reset_dirty_by_vaddr(cpu, pc & TARGET_PAGE_MASK,\n"
        "                                (pc & ~TARGET_PAGE_MASK) + tb->size);\n"
        "    }\n",
        "",
    ),
    Change(
        "accel/tcg/translate-all.h",
        "void tb_check_watchpoint(",
        "bool tb_page_has_code(struct uc_struct *uc, tb_page_addr_t addr);\nvoid tb_check_watchpoint(",
    ),
    Change(
        "accel/tcg/translate-all.c",
        "/* user-mode: call with mmap_lock held */\nvoid tb_check_watchpoint(",
        "bool tb_page_has_code(struct uc_struct *uc, tb_page_addr_t addr)\n"
        "{\n"
        "    PageDesc *page = page_find(uc, addr >> TARGET_PAGE_BITS);\n"
        "\n"
        "    return page && page->first_tb;\n"
        "}\n"
        "\n"
        "void tb_check_watchpoint(",
    ),
    # A hook on fetches says nothing of stores.
    Change(
        "include/exec/exec-all.h",
        "    if (HOOK_EXISTS_BOUNDED(uc, UC_HOOK_MEM_FETCH_PROT, paddr))\n        return true;\n",
        "",
    ),
    # A store of more than eight bytes (MVC, XC, MVCL) or one that is not aligned was compared with too few bits of the
    # map that says where on a page code lies.
    Change(
        "accel/tcg/translate-all.c",
        "b = p->code_bitmap[BIT_WORD(nr)] >> (nr & (BITS_PER_LONG - 1));",
        "b = find_next_bit(p->code_bitmap, nr + len, nr) < nr + len;",
    ),
    Change("accel/tcg/translate-all.c", "if (b & ((1 << len) - 1)) {", "if (b) {"),
)


def fetch(folder: Path) -> Path:
    """The source distribution, checked."""
    archive = folder / f"unicorn-{VERSION}.tar.gz"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", "unicorn", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), f"unicorn=={VERSION}"], check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{archive.name}: its SHA-256 is {found}, expected {SHA256}; nothing was built")
    return archive


def mend(qemu: Path) -> None:
    """Make the changes below qemu/, all of them or none."""
    texts: dict[str, str] = {}
    for change in CHANGES:
        text = texts.get(change.path) or (qemu / change.path).read_text("utf-8")
        if text.count(change.old) != 1:
            sys.exit(f"{change.path}: {change.old.splitlines()[0]!r} is not there exactly once; nothing was built")
        texts[change.path] = text.replace(change.old, change.new)
    for path, text in texts.items():
        (qemu / path).write_text(text, "utf-8")


def build(source: Path, folder: Path) -> Path:
    """The shared library, built for s390x guests."""
    options = [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DUNICORN_ARCH=s390x",
        "-DBUILD_SHARED_LIBS=ON",
        "-DUNICORN_BUILD_TESTS=OFF",
    ]
    subprocess.run(["cmake", "-S", str(source), "-B", str(folder), *options], check=True, stdout=subprocess.DEVNULL)
    jobs = str(os.cpu_count() or 1)
    subprocess.run(["cmake", "--build", str(folder), "--parallel", jobs], check=True, stdout=subprocess.DEVNULL)
    names = ("libunicorn.so.2", "libunicorn.2.dylib")
    return next(folder / name for name in names if (folder / name).exists())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the library goes (default: %(default)s)")
    given = parser.parse_args()
    if shutil.which("cmake") is None:
        sys.exit("cmake is not installed (apt-get install cmake gcc make)")
    with tempfile.TemporaryDirectory(prefix="mended-unicorn-") as name:
        work = Path(name)
        with tarfile.open(fetch(work)) as archive:
            archive.extractall(work, filter="data")
        source = work / f"unicorn-{VERSION}" / "src"
        mend(source / "qemu")
        library = build(source, work / "build")
        given.folder.mkdir(parents=True, exist_ok=True)
        # Into place at once: a process may have the former one mapped.
        fresh = given.folder / f"{library.name}.new"
        shutil.copy(library, fresh)
        fresh.replace(given.folder / library.name)
    print(f"{given.folder / library.name} is built; to use it: export LIBUNICORN_PATH={given.folder}")


if __name__ == "__main__":
    main()
