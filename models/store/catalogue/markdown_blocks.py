"""Untrusted Markdown that grows, such as an answer that is being written: its blocks as safe HTML, all but the last of them final.

The same text gives the same blocks whether it comes whole or in pieces, so that a page which shows an answer as it comes looks the
same when it is loaded again. Links by reference need their definition in the same block.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from markdown_it.token import Token
from markupsafe import Markup

from models.core.cooperative import heavy
from models.store.catalogue.markdown import CONTROLS, HEAVY_LENGTH, PARSER, problem_in, sanitised

PIECE = 4_000
"""Characters of a whole text that are parsed at a time."""
MAX_CACHED = 20_000
MAX_ON_PAGE = 400_000
"""Characters of all texts of a page that are parsed: some seconds at worst, for anybody who has a link to it."""
BELOW = ("h0",)
"""Headings of a text begin at `h3`, below the page's and the one of its message."""
_MARK = re.compile("\\ue000([0-9]{1,4})\\ue001")
_UNCHECKED = re.compile(r"【\s*file-[^【】]{1,2400}】")
_OPEN = re.compile(r"【\s*(?:f[^【】]{0,2400})?\Z")
_PRIVATE = re.compile("[\\ue000\\ue001\\r]")


class MarkdownBlock(NamedTuple):
    """A block as HTML; or, if `code` is not None, a block of code, with the language that its fence names, or "". Marks of sources in the
    HTML are `\\ue000n\\ue001`: see `with_links`."""

    html: Markup
    code: str | None = None
    language: str = ""


class GrowingMarkdown:
    """A text that grows. `marks` are the numbers of its sources by id: `【id】` in it becomes the mark of the source. What models write to
    cite a document, `【file-…】`, is left out until it was checked."""

    def __init__(self, marks: Mapping[str, int] | None = None) -> None:
        self._marks = dict(marks or {})
        self._above: list[str] = list(BELOW)
        self._rest = ""

    def add(self, text: str) -> None:
        """What was written since."""
        self._rest = _UNCHECKED.sub("", self._rest + _PRIVATE.sub("", CONTROLS.sub("", text)))

    def take(self) -> tuple[list[MarkdownBlock], list[MarkdownBlock]]:
        """The blocks that became final since the last call; and what is not final yet, as it looks now: seldom more than one block."""
        if problem_in(self._rest):
            # too much to parse again with each piece: shown as it is written
            source, self._rest = self._rest, ""
            return [MarkdownBlock(Markup(), source)], []
        final, size, growing = self._parsed()
        self._rest = self._rest[size:]
        return final, growing

    def _parsed(self) -> tuple[list[MarkdownBlock], int, list[MarkdownBlock]]:
        text = _OPEN.sub("", self._rest)
        env: dict[str, Any] = {"above": list(self._above), "marks": self._marks}
        with heavy(len(text), HEAVY_LENGTH):
            groups = list(_groups(PARSER.parse(text, env)))
            blocks = [_block(group, env) for group in groups]
        starts = [(group[0].map or [0])[0] for group in groups]
        # a block is final when the next one has begun with a whole line
        whole_lines = text.count("\n")
        count = 0
        while count + 1 < len(groups) and starts[count + 1] < whole_lines:
            count += 1
        for group in groups[:count]:
            for token in group:
                if token.type == "heading_open":
                    self._above = token.meta["above"]
        size = _offset(text, starts[count]) if count else 0
        return blocks[:count], size, blocks[count:]


def blocks_of(text: str, marks: Mapping[str, int] | None = None) -> Sequence[MarkdownBlock]:
    """All blocks of a whole text. Never raises."""
    found = tuple(sorted((marks or {}).items()))
    return _cached(text, found) if len(text) <= MAX_CACHED else _all_blocks(text, found)


def blocks_of_page(texts: Sequence[tuple[str, Mapping[str, int]]]) -> list[Sequence[MarkdownBlock]]:
    """The blocks of the texts of one page, oldest first, each with its marks. Of the newest, as many are parsed as have `MAX_ON_PAGE`
    characters together; the others are shown as they were written."""
    left, found = MAX_ON_PAGE, []
    for text, marks in reversed(texts):
        fits = len(text) <= left
        left -= len(text) if fits else 0
        found.append(blocks_of(text, marks) if fits else [MarkdownBlock(Markup(), text)])
    return found[::-1]


def with_links(html: Markup, links: Mapping[int, str]) -> Markup:
    """The HTML of a block with the numbers of its sources; `links` are their addresses by number."""

    def link(found: re.Match[str]) -> str:
        number = int(found[1])
        href = links.get(number)
        if href is None:
            return Markup('<span class="cite">{}</span>').format(number)
        return Markup('<a class="cite" href="{}" data-panel-link>{}</a>').format(href, number)

    return Markup(_MARK.sub(link, html))  # noqa: S704 - of two safe parts


def _all_blocks(text: str, marks: tuple[tuple[str, int], ...]) -> tuple[MarkdownBlock, ...]:
    growing = GrowingMarkdown(dict(marks))
    found: list[MarkdownBlock] = []
    last: list[MarkdownBlock] = []
    start = 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        growing.add(text[start:end])
        final, last = growing.take()
        found += final
        start = end
    return (*found, *last)


_cached = lru_cache(maxsize=512)(_all_blocks)


def _groups(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """The tokens of each block of the outermost level."""
    group: list[Token] = []
    depth = 0
    for token in tokens:
        group.append(token)
        depth += token.nesting
        if depth == 0:
            yield group
            group = []


def _block(tokens: list[Token], env: dict[str, Any]) -> MarkdownBlock:
    first = tokens[0]
    if first.type in ("fence", "code_block"):
        language = re.match(r"[\w+#.-]{0,30}", first.info.strip())
        return MarkdownBlock(Markup(), first.content, language[0] if language else "")
    return MarkdownBlock(sanitised(PARSER.renderer.render(tokens, PARSER.options, env)))


def _offset(text: str, line: int) -> int:
    """Where a line begins."""
    at = 0
    for _ in range(line):
        at = text.index("\n", at) + 1
    return at
