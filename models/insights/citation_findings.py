"""Finds dead citations in documents: `path:line` and links to files that the tree does not have."""

import re
from collections.abc import Iterator
from posixpath import dirname, join, normpath, splitext

from models.core.cooperative import in_slices
from models.insights.analysed_tree import CODE_ENDINGS, AnalysedTree
from models.insights.item_finding import FoundItem, named_path

DOCUMENTS = (".md", ".mdx", ".rst", ".txt", ".adoc")
MAX_PER_DOCUMENT, MAX_CITATIONS = 30, 500
_LINE = re.compile(r":(\d{1,6})(?![\d:\w]|\.\d)")
_PATH_MARKS = frozenset("._/@-")
MAX_CITED = 400
"""Characters of a cited path."""
_LINK = re.compile(r"\]\(<?([^()\s<>#?]{1,400})(?:[#?][^()\s]{0,200})?>?\)")
_OTHER = re.compile(r"^[a-z][a-z0-9+.-]*:|^//|^mailto:|^/", re.IGNORECASE)


def dead_citations(tree: AnalysedTree) -> Iterator[FoundItem]:
    """A finding for each citation of a line that does not exist, and each relative link to nothing."""
    folders = {dirname(path) for path in tree.sizes} | {""}
    folders |= {above for each in list(folders) for above in _above(each)}
    total = 0
    for path in in_slices(sorted(tree.texts)):
        if splitext(path)[1].lower() not in DOCUMENTS:
            continue
        for count, found in enumerate(_in_document(tree, path, folders)):
            if count == MAX_PER_DOCUMENT or total == MAX_CITATIONS:
                break
            total += 1
            yield found


def _in_document(tree: AnalysedTree, path: str, folders: set[str]) -> Iterator[FoundItem]:
    fenced = False
    for number, line in enumerate(in_slices(tree.text(path).split("\n")), start=1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        if len(line) > 5_000 or fenced:
            continue
        for cited, row in _cited(line):
            said = _problem(tree, path, cited, row)
            if said:
                yield _item(path, number, f"{cited}:{row}", said)
        for link in _LINK.finditer(line):
            target = link[1]
            place = normpath(join(dirname(path), target))
            if _OTHER.search(target) or place.startswith("..") or "{" in target or "%" in target:
                continue
            if place not in tree.sizes and place not in folders and place != ".":
                yield _item(path, number, target, "there is no such file")


def _cited(line: str) -> Iterator[tuple[str, int]]:
    """The paths with a number behind them."""
    for found in _LINE.finditer(line):
        start = found.start()
        least = max(0, start - MAX_CITED)
        while start > least and (line[start - 1].isalnum() or line[start - 1] in _PATH_MARKS):
            start -= 1
        path = line[start : found.start()]
        if path and line[start - 1 : start] != ":" and not path.startswith(("/", "@", "-")):
            yield path, int(found[1])


def _problem(tree: AnalysedTree, document: str, cited: str, line: int) -> str:
    """What is wrong with a citation; nothing if it resolves, or if it is not clear what it means."""
    if splitext(cited)[1].lower() not in CODE_ENDINGS | set(DOCUMENTS):
        return ""
    places = [normpath(cited), normpath(join(dirname(document), cited))]
    found = next((each for each in places if each in tree.sizes), None)
    if found is None:
        first = cited.split("/", 1)[0]
        known = "/" in cited and any(each == first or each.startswith(f"{first}/") for each in tree.sizes)
        return "there is no such file" if known else ""
    if found not in tree.texts:
        return ""
    lines = tree.texts[found].count(b"\n") + (not tree.texts[found].endswith(b"\n"))
    return f"the file has {lines:,} lines" if line > lines or line == 0 else ""


def _item(path: str, number: int, cited: str, said: str) -> FoundItem:
    return FoundItem(
        "docs:dead-citation",
        "refactoring",
        "info",
        f"{named_path(path)}:{number} cites {named_path(cited)}, but {said}",
        description="A document that points to nothing misleads people and agents.",
        path=path,
        line=number,
        symbol=cited,
        prompt=f"In {path}, line {number}, the citation {cited} leads nowhere: {said}. Find what it means and correct it.",
    )


def _above(folder: str) -> Iterator[str]:
    while folder:
        yield folder
        folder = dirname(folder)
