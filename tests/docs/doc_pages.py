"""The documentation as its reader sees it: sections, blocks of code, commands with the output that is shown, links."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Languages of blocks: what is executed, and what only shows something.
EXECUTED = frozenset({"console", "sh", "python"})
SHOWN = frozenset({"text", "json", "", "ini", "yaml", "toml", "c", "asm", "mermaid"})
ANY = "…"

_FENCE = re.compile(r"^( *)(```+)([\w-]*)\s*$")
_HEADING = re.compile(r"^(#{1,6}) (.+?)\s*#*$")
_LINK = re.compile(r"(?<!!)\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\]\(([^()\s]+)\)")
_EXIT = re.compile(r"\s+# exits (\d+)\s*$")
_CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")


class Block(NamedTuple):
    """A fenced block; `line` is that of its first line, `before` the last line of text above it."""

    language: str
    lines: tuple[str, ...]
    line: int
    before: str


class Section(NamedTuple):
    """What stands between two headings of level 1 or 2; its commands build on each other."""

    page: Path
    title: str
    blocks: tuple[Block, ...]


class Command(NamedTuple):
    """A command as it would be typed, the exit code that the page names, and the output that it shows."""

    text: str
    exit_code: int
    output: tuple[str, ...]
    line: int


def pages(root: Path) -> list[Path]:
    return [root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]


def _walk(page: Path) -> Iterator[tuple[int, str, Block | None]]:
    """Lines of text outside of blocks, and blocks."""
    lines = page.read_text("utf-8").splitlines()
    number, before = 0, ""
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            if lines[number].strip():
                before = lines[number].strip()
            yield number + 1, lines[number], None
            number += 1
            continue
        indent, marks = len(fence[1]), fence[2]
        end = next((at for at in range(number + 1, len(lines)) if lines[at].strip() == marks), None)
        assert end is not None, f"{page.name}:{number + 1}: the block is not closed"
        body = tuple(line[indent:] for line in lines[number + 1 : end])
        yield number + 1, "", Block(fence[3], body, number + 2, before)
        before, number = "", end + 1


def sections(page: Path) -> list[Section]:
    found: list[tuple[str, list[Block]]] = [(page.name, [])]
    for _, text, block in _walk(page):
        heading = _HEADING.match(text)
        if heading and len(heading[1]) <= 2:
            found.append((heading[2], []))
        if block is not None:
            found[-1][1].append(block)
    return [Section(page, title, tuple(blocks)) for title, blocks in found if blocks]


def headings(page: Path) -> list[str]:
    return [m[2] for _, text, _ in _walk(page) if (m := _HEADING.match(text))]


def texts(page: Path) -> list[tuple[int, str]]:
    """Lines outside of blocks with their numbers."""
    return [(number, text) for number, text, block in _walk(page) if block is None]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and most others give the headings of a page, and those that the page sets itself."""
    seen: dict[str, int] = {}
    names = {name for _, text in texts(page) for name in re.findall(r'<a id="([\w-]+)"></a>', text)}
    for heading in headings(page):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def links(page: Path) -> list[tuple[int, str]]:
    """Targets of the links of a page, with their lines; the text of a link may go on in the next line."""
    outside = texts(page)
    content = "\n".join(text for _, text in outside)
    masked = _CODE_SPAN.sub(_mask_code, content)
    return [(outside[masked.count("\n", 0, found.start())][0], found[1]) for found in _LINK.finditer(masked)]


def _mask_code(span: re.Match[str]) -> str:
    """A code span may look like a link, but stays readable as the text of one."""
    return re.sub(r"[\[\]()]", " ", span[0])


def commands(block: Block) -> list[Command]:
    """The commands of a console block: lines behind `$ `, continued behind `> `, then their output."""
    found: list[Command] = []
    for number, line in enumerate(block.lines, block.line):
        if line.startswith("$ "):
            found.append(Command(line[2:], 0, (), number))
        elif found and line.startswith("> ") and not found[-1].output:
            found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{line[2:]}")
        elif found:
            found[-1] = found[-1]._replace(output=(*found[-1].output, line))
        else:
            raise AssertionError(f"line {number}: output without a command: {line}")
    return [_with_exit_code(command) for command in found]


def _with_exit_code(command: Command) -> Command:
    stated = _EXIT.search(command.text)
    output = command.output
    while output and not output[-1].strip():
        output = output[:-1]
    if stated is None:
        return command._replace(output=output)
    return command._replace(text=command.text[: stated.start()], exit_code=int(stated[1]), output=output)


def is_console(block: Block) -> bool:
    return block.language == "console" or (block.language == "sh" and any(x.startswith("$ ") for x in block.lines))


def same_output(shown: tuple[str, ...], real: list[str]) -> bool:
    """Whether `real` is what a page shows; `…` in a line stands for any text, on a line of its own for any lines."""
    parts = []
    for line in shown:
        if line.strip() == ANY:
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(".*".join(map(re.escape, line.rstrip().split(ANY))) + r"[ ]*\n")
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in real)) is not None
