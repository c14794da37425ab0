"""Reads HTML and plain text of any encoding."""

import re

from charset_normalizer import from_bytes
from selectolax.lexbor import LexborHTMLParser, LexborNode

from models.index.parsing.parsed_parts import Parsed, Parts, Unreadable, row_text

SAMPLE = 256 << 10
"""Bytes from which an encoding is guessed."""
FEW = 24
"""With fewer bytes that are not ASCII the encoding of Western Windows is taken."""
_HIGH = bytes(range(128, 256))
MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
IGNORED = "script,style,noscript,template,iframe,object,embed,svg,canvas,head > meta,head > link"
BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "br",
        "caption",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "li",
        "main",
        "nav",
        "ol",
        "option",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "title",
        "tr",
        "ul",
    ]
)
HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
MAX_NODES = 2_000_000
MAX_DEPTH = 2_000
"""Elements within one another. The time to parse grows with the square of the depth."""
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_SELF_CLOSING = frozenset(
    [
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "source",
        "track",
        "wbr",
        "p",
        "li",
        "dt",
        "dd",
        "tr",
        "td",
        "th",
        "thead",
        "tbody",
        "tfoot",
        "option",
        "optgroup",
    ]
)


def parse(kind: str, data: bytes) -> tuple[Parsed, Parts]:
    """A text, or what an HTML page shows."""
    parsed = Parsed("line")
    text = decoded(data, parsed)
    return parsed, iter((html_text(text, parsed) if kind == "html" else text,))


def decoded(data: bytes, parsed: Parsed) -> str:
    """The text of bytes: by their mark, as UTF-8, or in the encoding that is most likely. Raises Unreadable."""
    for mark, name in MARKS:
        if data.startswith(mark):
            return data.decode(name, "replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    if len(data) - len(data.translate(None, _HIGH)) < FEW:  # too little to guess from
        return data.decode("cp1252", "replace")
    best = from_bytes(data[:SAMPLE]).best()
    if best is None:
        raise Unreadable("The encoding of this text is unknown. Save it as UTF-8 and upload it again.")
    parsed.note(f"The text is not UTF-8; it was read as {best.encoding}.")
    return data.decode(best.encoding, "replace")


def html_text(source: str, parsed: Parsed) -> str:
    """What an HTML document shows, a line for each block. Nothing is run or fetched."""
    if _too_deep(source):
        raise Unreadable(f"This page has more than {MAX_DEPTH:,} elements within one another.")
    tree = LexborHTMLParser(source)
    scripts = len(tree.css("script"))
    if scripts:
        parsed.note("1 script is ignored." if scripts == 1 else f"{scripts:,} scripts are ignored.")
    if tree.css_first("iframe,object,embed"):
        parsed.note("Embedded pages are not fetched.")
    for node in tree.css(IGNORED):
        node.decompose()
    root = tree.root
    return _shown(root, parsed) if root is not None else ""


def _too_deep(source: str) -> bool:
    """Whether more elements are open at a time than `MAX_DEPTH`, apart from those that need not be closed."""
    depth = 0
    for match in _TAG.finditer(source):
        if match[2].lower() in _SELF_CLOSING:
            continue
        depth = max(depth - 1, 0) if match[1] else depth + 1
        if depth > MAX_DEPTH:
            return True
    return False


def _shown(root: LexborNode, parsed: Parsed) -> str:
    """The text below a node. Walks without recursion: documents may be nested a million deep."""
    lines: list[str] = []
    line: list[str] = []

    def end_line() -> None:
        text = " ".join("".join(line).split())
        line.clear()
        if text or (lines and lines[-1]):
            lines.append(text)

    depth_of_pre, seen = 0, 0
    stack: list[tuple[LexborNode | None, str]] = [(root, "")]
    while stack:
        node, closing = stack.pop()
        if node is None:
            if closing == "pre":
                depth_of_pre -= 1
                lines.append("".join(line).rstrip())
                line.clear()
            elif closing in BLOCKS:
                end_line()
            continue
        seen += 1
        if seen > MAX_NODES:
            parsed.note(f"Stopped after {MAX_NODES:,} elements.")
            break
        tag = node.tag or ""
        if tag == "-text":
            text = node.text_content or ""
            if depth_of_pre:
                *whole, last = text.split("\n")
                for each in whole:
                    lines.append("".join(line) + each)
                    line.clear()
                line.append(last)
            else:
                line.append(text)
            continue
        if tag == "tr":
            end_line()
            cells = [child.text(separator=" ") for child in node.iter() if child.tag in ("td", "th")]
            if cells and not node.css_first("table"):
                lines.append(row_text(iter(cells)))
                continue
        if tag in BLOCKS and not (tag == "pre" and depth_of_pre):
            end_line()
        if tag == "pre":
            depth_of_pre += 1
        if tag in HEADINGS:
            line.append(HEADINGS[tag])
        elif tag == "li":
            line.append("- ")
        stack.append((None, tag))
        stack.extend((child, "") for child in reversed(list(node.iter(include_text=True))))
    end_line()
    return "\n".join(lines).strip("\n")
