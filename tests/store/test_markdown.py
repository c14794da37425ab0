"""Untrusted Markdown: allowed and removed elements, and bounded rendering time."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.store.catalogue.markdown import MAX_LENGTH, _rendered, problem_in, render

ALLOWED = re.compile(
    r"</?(?:h[2-6]|p|br|hr|ul|ol|li|blockquote|pre|code|strong|em|s|table|thead|tbody|tr|t[hd])"
    r'(?: start="\d+"| tabindex="0")?>'
    r'|<a href="(?:https?://|mailto:)[^"<>\s]*"(?: title="[^"<>]*")? rel="[a-z ]+">|</a>',
    re.IGNORECASE,
)


def leftovers(html: str) -> str:
    """Text that looks like a tag but is not allowed."""
    return "".join(re.findall(r"[<>]", ALLOWED.sub("", html)))


@pytest.mark.parametrize(
    "attempt",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x]()",
        "[*x* ![y]()]( <> 'title')",
        "[x](javascript:alert(1))",
        "[x](JaVa\tScRiPt:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        "[x](//evil.example)",
        "[x](/api/auth/signout)",
        '[x](https://e.org/"onmouseover="alert(1))',
        '[x](https://e.org "t\\" onclick=\\"alert(1)")',
        "![x](javascript:alert(1))",
        '![x"onerror="alert(1)](https://e.org/x.png)',
        "<javascript:alert(1)>",
        "[a]: javascript:alert(1)\n\n[a]",
        "<style>body{display:none}</style>",
        '<div style="position:fixed">',
        "<svg><animate onbegin=alert(1)>",
        "<!--><script>alert(1)</script>-->",
        "<iframe src=//evil.example>",
        "```<script>\n</code></pre><script>alert(1)</script>\n```",
        "\x00<scr\x00ipt>alert(1)</script>",
    ],
)
def test_nothing_runs(attempt: str) -> None:
    html = render(attempt)
    assert leftovers(html) == ""
    assert "<script" not in html
    assert not re.search(r'href="(?!https?://|mailto:)', html)


@given(st.text(alphabet="<>[]()!`*_~|#-+&;:/\"'= \n\tabjx1", max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_text_renders_allowed_elements_only(text: str) -> None:
    assert leftovers(render(text)) == ""


def test_what_people_write_is_shown() -> None:
    html = render("# Title\n\n### Deep\n\n1. a\n\n~~old~~ **new** `x<y`\n\n|a|b|\n|-|-|\n|1|2|")
    for part in (
        "<h2>Title</h2>",
        "<h3>Deep</h3>",
        "<ol>",
        "<s>old</s>",
        "<code>x&lt;y</code>",
        "<td>2</td>",
    ):
        assert part in html


def test_images_become_links() -> None:
    html = render("![logo](https://e.org/a.png) [![build](https://e.org/b.svg)](https://e.org)")
    assert "<img" not in html
    assert html.count("<a ") == 2
    assert html.count('rel="nofollow ugc noopener noreferrer"') == 2


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "![",
        "*a ",
        "**a_",
        ">",
        "- ",
        "`",
        "<",
        "[a](",
        "|",
        "a|",
        "&",
        "\\",
        "[[a]",
        "\n",
        "~~a",
        "<!--",
        "a\n|",
    ],
)
def test_rendering_time_is_bounded(piece: str) -> None:
    _rendered.cache_clear()
    for text in (piece * (MAX_LENGTH // len(piece)), "a|b\n-|-\n" + piece * 2_000, piece * 1_900):
        began = time.thread_time()
        html = render(text)
        assert time.thread_time() - began < 2
        assert leftovers(html) == ""


def test_nesting_is_bounded() -> None:
    for text in (
        ">" * 3_000 + "a",
        "\n".join("  " * n + "- a" for n in range(300)),
        "[" * 900 + "a" + "](b)" * 900,
    ):
        assert len(render(text)) < 1_000_000


@pytest.mark.parametrize(
    ("text", "word"),
    [("a" * (MAX_LENGTH + 1), "50,000"), ("[" * 3_000, "brackets"), ("*" * 6_000, "characters like"), ("|" * 60 + "\nx" * 400, "table")],
)  # fmt: skip
def test_limits_have_messages(text: str, word: str) -> None:
    output = problem_in(text)
    assert output is not None
    assert word in output
    assert render(text).startswith('<pre tabindex="0"><code>')


def test_a_usual_document_is_valid() -> None:
    assert problem_in("A [link](https://e.org) and *args*.\n" * 900) is None
