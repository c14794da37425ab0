"""Untrusted Markdown to safe HTML: CommonMark with tables, without raw HTML, images or styles.

Two layers: the parser drops HTML and links other than http, https and mailto; its output is then sanitised with an allowlist
of elements, in case of a bug in either.
"""

import html
import re
from collections.abc import Mapping, Sequence
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
"""Maximum length in characters. Longer documents are rejected on write and truncated on display."""

HEAVY_LENGTH = 5_000
"""Documents from this length (characters) are rendered one at a time."""

MAX_NESTING = 20
MAX_BRACKETS, MAX_MARKS, MAX_CELLS, MAX_LINES = 2_000, 5_000, 15_000, 2_000
"""Limits of a document: `[`; `*`, `_`, `~`, `|`, `\\` and `` ` `` together; lines × columns of the widest table; lines. They
bound the parsing time."""
SAFE_LINK = re.compile(r"(?:https?://|mailto:)[^\s]+", re.IGNORECASE)
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control and bidirectional override characters, which are removed."""

CITED = re.compile(r"【([^【】\n]{1,200})】")
"""How a model names a source."""
_MARK_SIGNS = re.compile("[\\ue000\\ue001]")

ELEMENTS = {
    *("h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "ul", "ol", "li", "blockquote", "pre", "code"),
    *("strong", "em", "s", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "pre": {"tabindex"}, "ol": {"start"}}


class _Renderer(RendererHTML):
    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Render a link instead of an image, so that no other server learns who views the page."""
        token = tokens[idx]
        label = self.renderInlineAsText(token.children, options, env).strip() or "Picture"
        source = str(token.attrGet("src") or "")
        open_links = sum((each.type == "link_open") - (each.type == "link_close") for each in tokens[:idx])
        if open_links or not SAFE_LINK.fullmatch(source):
            return _escaped(label)
        return f'<a href="{_escaped(source)}">{_escaped(label)}</a>'

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Render a code block that can be scrolled by keyboard."""
        return f'<pre tabindex="0"><code>{_escaped(tokens[idx].content)}</code></pre>\n'

    code_block = fence


def _escaped(text: str) -> str:
    return nh3.clean_text(text)


def _is_safe_link(url: str) -> bool:
    return bool(SAFE_LINK.fullmatch(url))


def _shift_headings(state: Any) -> None:
    """Start headings at level two, below the page's own, without skipping levels; with `above` in the environment, below those. It
    then has the headings above what follows."""
    above: list[str] = state.env.setdefault("above", [])
    for token in state.tokens:
        if token.type == "heading_open":
            while above and above[-1] >= token.tag:
                above.pop()
            above.append(token.tag)
            token.meta["above"] = above.copy()
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(len(above) + 1, 6)}"


def _drop_empty_links(state: Any) -> None:
    """Turn `[text]()` into text: the parser does not call `validateLink` for an empty URL."""
    for token in state.tokens:
        opened: list[bool] = []
        children = []
        for child in token.children or ():
            if child.type == "link_open":
                opened.append(bool(child.attrGet("href")))
            if child.type not in ("link_open", "link_close") or opened[-1]:
                children.append(child)
            if child.type == "link_close":
                opened.pop()
        if token.children:
            token.children = children


def _drop_forged_marks(state: Any) -> None:
    """Remove the signs of marks that a text has itself, as entities too: only checked sources have marks, and never within an attribute."""
    waiting = [child for token in state.tokens for child in token.children or ()]
    while waiting:
        token = waiting.pop()
        token.content = _MARK_SIGNS.sub("", token.content)
        token.attrs = {
            name: _MARK_SIGNS.sub("", value) if isinstance(value, str) else value
            for name, value in token.attrs.items()
        }
        waiting += token.children or ()


def _mark_sources(state: Any) -> None:
    """With `marks` in the environment, replace `【id】` of its ids in texts, but not in links and code, by the mark of that source."""
    marks: Mapping[str, int] = state.env.get("marks", {})
    if not marks:
        return
    for token in state.tokens:
        links = 0
        for child in token.children or ():
            links += {"link_open": 1, "link_close": -1}.get(child.type, 0)
            if child.type == "text" and not links:
                child.content = CITED.sub(
                    lambda found: mark_of(marks[found[1]]) if found[1] in marks else found[0], child.content
                )


def mark_of(number: int) -> str:
    """What stands in the HTML for a source, to be replaced after it is sanitised."""
    return f"\ue000{number}\ue001"


def _parser() -> MarkdownIt:
    parser = MarkdownIt(
        "commonmark", {"html": False, "maxNesting": MAX_NESTING}, renderer_cls=_Renderer
    ).enable(["table", "strikethrough"])
    parser.validateLink = _is_safe_link  # type: ignore[method-assign]
    parser.core.ruler.push("shift_headings", _shift_headings)
    parser.core.ruler.push("drop_empty_links", _drop_empty_links)
    parser.core.ruler.push("drop_forged_marks", _drop_forged_marks)
    parser.core.ruler.push("mark_sources", _mark_sources)
    return parser


PARSER = _parser()


def normalize(text: str) -> str:
    """The document as it is stored: `\n` line ends, no control characters."""
    return CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def problem_in(text: str) -> str | None:
    """Why a document is rejected and how to fix it; None if it is valid."""
    if len(text) > MAX_LENGTH:
        return (
            f"The text has {len(text):,} characters; the limit is {MAX_LENGTH:,}."
            " Move details to your own page and link to it."
        )
    if text.count("[") > MAX_BRACKETS:
        return f"The text has more than {MAX_BRACKETS:,} brackets or links. Remove some."
    if sum(map(text.count, "*_~|`\\")) > MAX_MARKS:
        return f"The text has more than {MAX_MARKS:,} characters like * _ ~ | \\ `. Remove some."
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        return (
            f"The text has {len(lines):,} lines; the limit is {MAX_LINES:,}. Move details to your own page."
        )
    if len(lines) * max((line.count("|") for line in lines), default=0) > MAX_CELLS:
        return "A table is too wide for a document of this length. Make it narrower, or split the document."
    return None


def render(text: str) -> Markup:
    """Render a document as safe HTML. Never raises: an invalid document is shown as source, truncated to `MAX_LENGTH`.

    Headings start at `h2`; images become links; links are http, https or mailto, with `rel="nofollow ugc noopener noreferrer"`.
    """
    with heavy(len(text), HEAVY_LENGTH):
        return _rendered(text)


def plain_text(text: str) -> str:
    """A document as text: a line for each paragraph, heading and list item, without marks. Never raises."""
    lines = html.unescape(nh3.clean(render(text), tags=set())).splitlines()
    return "\n".join(line.strip() for line in lines if line.strip())


@lru_cache(maxsize=64)
def _rendered(text: str) -> Markup:
    text = normalize(text)
    if problem_in(text):
        return Markup('<pre tabindex="0"><code>{}</code></pre>').format(text[:MAX_LENGTH])
    return sanitised(PARSER.render(text))


def sanitised(rendered: str) -> Markup:
    """The HTML of the parser with the allowed elements and attributes only."""
    clean = nh3.clean(
        rendered,
        tags=ELEMENTS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow ugc noopener noreferrer",
    )
    return Markup(clean)  # noqa: S704 - sanitised
