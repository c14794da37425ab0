"""Markdown that somebody else wrote, as HTML that is safe to show: CommonMark with tables, no HTML, no pictures, no styles.

Two nets: the parser lets no HTML through and makes links of http, https and mailto only; what it made is then cleaned
by a list of allowed elements, so that a fault of the one is caught by the other.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

from models.core.cooperative import heavy

MAX_LENGTH = 50_000
"""Characters. Longer documents are refused where they are written and cut where they are shown."""

LONG = 5_000
"""Characters from which on documents are drawn one after the other."""

MAX_NESTING = 20
MAX_BRACKETS, MAX_MARKS, MAX_CELLS, MAX_LINES = 2_000, 5_000, 15_000, 2_000
"""Of a document: `[`; of `*`, `_`, `~`, `|`, `\\` and `` ` `` together; lines times the columns of its widest table; lines.
Far more than people write; beyond them parsing would hold up everybody else."""
SAFE_LINK = re.compile(r"(?:https?://|mailto:)[^\s]+", re.IGNORECASE)
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What has no place in a document: control characters, and those that turn the direction of reading."""

ELEMENTS = {
    *("h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "ul", "ol", "li", "blockquote", "pre", "code"),
    *("strong", "em", "s", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "pre": {"tabindex"}, "ol": {"start"}}


class _Renderer(RendererHTML):
    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A picture of another server would tell it who reads; a link to it does not."""
        token = tokens[idx]
        words = self.renderInlineAsText(token.children, options, env).strip() or "Picture"
        source = str(token.attrGet("src") or "")
        open_links = sum((each.type == "link_open") - (each.type == "link_close") for each in tokens[:idx])
        if open_links or not SAFE_LINK.fullmatch(source):
            return _escaped(words)
        return f'<a href="{_escaped(source)}">{_escaped(words)}</a>'

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Code that scrolls can be reached by keyboard."""
        return f'<pre tabindex="0"><code>{_escaped(tokens[idx].content)}</code></pre>\n'

    code_block = fence


def _escaped(text: str) -> str:
    return nh3.clean_text(text)


def _links_outside(url: str) -> bool:
    return bool(SAFE_LINK.fullmatch(url))


def _under_the_page(state: Any) -> None:
    """The page has its own first heading, so those of the document start at the second level, and none skips one."""
    above: list[str] = []
    for token in state.tokens:
        if token.type == "heading_open":
            while above and above[-1] >= token.tag:
                above.pop()
            above.append(token.tag)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(len(above) + 1, 6)}"


def _no_links_to_nowhere(state: Any) -> None:
    """`[words]()` are words: the parser does not ask `validateLink` of an empty address."""
    for token in state.tokens:
        opened: list[bool] = []
        kept = []
        for child in token.children or ():
            if child.type == "link_open":
                opened.append(bool(child.attrGet("href")))
            if child.type not in ("link_open", "link_close") or opened[-1]:
                kept.append(child)
            if child.type == "link_close":
                opened.pop()
        if token.children:
            token.children = kept


def _parser() -> MarkdownIt:
    parser = MarkdownIt(
        "commonmark", {"html": False, "maxNesting": MAX_NESTING}, renderer_cls=_Renderer
    ).enable(["table", "strikethrough"])
    parser.validateLink = _links_outside  # type: ignore[method-assign]
    parser.core.ruler.push("under_the_page", _under_the_page)
    parser.core.ruler.push("no_links_to_nowhere", _no_links_to_nowhere)
    return parser


_PARSER = _parser()


def cleaned(text: str) -> str:
    """The document as it is kept: line ends of one kind, no control characters."""
    return CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def fault(text: str) -> str | None:
    """What is wrong with a document, in words that say how to mend it; None when it can be shown."""
    if len(text) > MAX_LENGTH:
        return (
            f"This is {len(text):,} characters long; at most {MAX_LENGTH:,} fit."
            " Move details to a page of your own and link to it."
        )
    if text.count("[") > MAX_BRACKETS:
        return f"This has more than {MAX_BRACKETS:,} brackets or links. Leave some out."
    if sum(map(text.count, "*_~|`\\")) > MAX_MARKS:
        return f"This has more than {MAX_MARKS:,} marks like * _ ~ | \\ `. Leave some out."
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        return (
            f"This has {len(lines):,} lines; at most {MAX_LINES:,} fit. Move details to a page of your own."
        )
    if len(lines) * max((line.count("|") for line in lines), default=0) > MAX_CELLS:
        return "A table is too wide for a document of so many lines. Make it narrower, or split it."
    return None


def render(text: str) -> Markup:
    """Safe HTML of a document. Never raises: one that has a fault is shown as it was written, cut to `MAX_LENGTH`.

    Headings start at `h2`; pictures become links; links lead to http, https or mailto, and are not vouched for.
    """
    with heavy(len(text), LONG):
        return _rendered(text)


@lru_cache(maxsize=64)
def _rendered(text: str) -> Markup:
    text = cleaned(text)
    if fault(text):
        return Markup('<pre tabindex="0"><code>{}</code></pre>').format(text[:MAX_LENGTH])
    html = nh3.clean(
        _PARSER.render(text),
        tags=ELEMENTS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow ugc noopener noreferrer",
    )
    return Markup(html)  # noqa: S704 - it is what the cleaning left
