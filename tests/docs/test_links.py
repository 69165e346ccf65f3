"""Links of the documentation lead somewhere, and nothing in it leads to where a reader cannot go."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

# pytest's importlib mode puts nothing on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import doc_pages

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = doc_pages.pages(ROOT)
EXTERNAL = ("https://", "http://", "mailto:")
# Folders of one machine, material that is not part of the project, and hosts that packages are fetched from.
ELSEWHERE = re.compile(
    r"\.\./shared|/work/|/root/|/home/\w|/Users/|/tmp/\w|pypi\.org|pythonhosted|registry\.|docker\.io|ghcr\.io|quay\.io|"
    r"crates\.io|npmjs|proxy\.golang|localhost|127\.0\.0\.1"
)


def problem(page, target):
    """Why a link does not resolve; empty if it does."""
    path, _, anchor = target.partition("#")
    place = (page.parent / path).resolve() if path else page
    if not place.exists():
        return "there is no such file"
    if anchor and anchor not in doc_pages.anchors(place):
        return f"there is no heading for #{anchor}"
    return "" if place.is_relative_to(ROOT) else "it leads out of the project"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    found = [
        (line, target, problem(page, target))
        for line, target in doc_pages.links(page)
        if not target.startswith(EXTERNAL)
    ]
    assert [f"{page.name}:{line}: {target}: {why}" for line, target, why in found if why] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_leads_elsewhere(page):
    lines = enumerate(page.read_text("utf-8").splitlines(), 1)
    assert [f"{page.name}:{number}: {line}" for number, line in lines if ELSEWHERE.search(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_headings_are_told_apart_by_their_anchors(page):
    if page.name == "CHANGELOG.md":
        return  # each version has the same headings
    names = [heading.lower() for heading in doc_pages.headings(page)]
    assert sorted(names) == sorted(set(names))


def test_every_page_is_reached_from_the_overview():
    overview = ROOT / "docs" / "index.md"
    reached = {(overview.parent / target.partition("#")[0]).resolve() for _, target in doc_pages.links(overview)}
    pages = {page for page in (ROOT / "docs").rglob("*.md") if page != overview}
    assert sorted(str(p.relative_to(ROOT)) for p in pages - reached) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `two`\n[a](page.md#one-two) [b](none.md) `[c](d)` [`e`](#gone)\n", "utf-8")
    assert [target for _, target in doc_pages.links(page)] == ["page.md#one-two", "none.md", "#gone"]
    assert doc_pages.anchors(page) == {"one-two"}
    assert problem(page, "none.md") == "there is no such file"
    assert problem(page, "#gone") == "there is no heading for #gone"
    assert problem(page, "page.md#one-two") == "it leads out of the project"
