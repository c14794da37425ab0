"""Markdown that grows: the blocks are the same however the text comes, what is final stays, and nothing unsafe is in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.store.catalogue.markdown_blocks import GrowingMarkdown, MarkdownBlock, blocks_of, with_links

PIECES = [
    *(
        "# Title",
        "### Deep",
        "text",
        "two\nlines",
        "- a",
        "- b",
        "1. one",
        "2. two",
        "  - nested",
        "> quoted",
    ),
    *(
        "```py",
        "x = 1",
        "```",
        "| a | b |",
        "|--|--|",
        "| 1 | 2 |",
        "---",
        "===",
        "    code",
        "[x](https://a.example)",
    ),
    *(
        "<script>alert(1)</script>",
        "**bold",
        "`code`",
        "",
        "",
        "\n",
        "【1】",
        "【file-1#2: words】",
        "\x00\r",
        "[r]: /x",
        "[r]",
    ),
]


def grown(text: str, size: int, marks: dict[str, int]) -> tuple[list[MarkdownBlock], list[MarkdownBlock]]:
    growing = GrowingMarkdown(marks)
    final: list[MarkdownBlock] = []
    last: list[MarkdownBlock] = []
    for at in range(0, len(text), size):
        growing.add(text[at : at + size])
        more, last = growing.take()
        final += more
    return final, last


@given(st.lists(st.sampled_from(PIECES), max_size=14), st.integers(1, 9))
def test_blocks_are_the_same_however_the_text_comes(pieces: list[str], size: int) -> None:
    text = "\n".join(pieces)
    final, last = grown(text, size, {"1": 1})
    whole = list(blocks_of(text, {"1": 1}))
    assert final + last == whole
    assert all("<script" not in block.html for block in whole)


def test_only_the_last_block_changes() -> None:
    final, last = grown("# A\n\nfirst\n\nsecond\n\nthird, not who", 1, {})
    assert [str(block.html) for block in final] == ["<h3>A</h3>\n", "<p>first</p>\n"]
    # what begins on a line that is not whole may still belong to the block before, as the next item of a list does
    assert [str(block.html) for block in last] == ["<p>second</p>\n", "<p>third, not who</p>\n"]


def test_an_open_block_of_code_grows_at_its_end() -> None:
    growing = GrowingMarkdown()
    growing.add("```python\nx = 1\n")
    assert growing.take() == ([], [MarkdownBlock(growing.take()[1][0].html, "x = 1\n", "python")])
    growing.add("y = 2\n```\n\nDone")
    final, last = growing.take()
    assert [block.code for block in [*final, *last]] == ["x = 1\ny = 2\n", None]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Rain 【1】.", '<p>Rain <a class="cite" href="/d?a=1&amp;b=2" data-panel-link>1</a>.</p>\n'),
        ("Rain 【2】 and 【重要】.", "<p>Rain 【2】 and 【重要】.</p>\n"),
        ("Rain 【file-0a#1: outside】.", "<p>Rain .</p>\n"),
        ("Rain 【file-0a#1: out", "<p>Rain</p>\n"),
        ("Rain \ue0001\ue001.", "<p>Rain 1.</p>\n"),
        (
            '[x](https://a.example "【1】")',
            '<p><a href="https://a.example" title="【1】" rel="nofollow ugc noopener noreferrer">x</a></p>\n',
        ),
    ],
)
def test_sources_are_numbered_and_raw_marks_left_out(text: str, shown: str) -> None:
    (block,) = blocks_of(text, {"1": 1})
    assert with_links(block.html, {1: "/d?a=1&b=2"}) == shown


def test_headings_keep_their_order_across_blocks() -> None:
    html = "".join(block.html for block in blocks_of("# A\n\n### B\n\n## C\n\n# D\n"))
    assert html == "<h3>A</h3>\n<h4>B</h4>\n<h4>C</h4>\n<h3>D</h3>\n"


def test_a_text_that_is_too_much_to_parse_is_shown_as_source() -> None:
    blocks = blocks_of("[" * 5_000 + "\n\nafter")
    assert blocks[0].code is not None
    assert sum(len(block.code or "") for block in blocks) >= 5_000


@pytest.mark.parametrize(
    "text",
    [
        "a &#xE000;1&#xE001; b",
        '[x](http://a "&#57344;1&#xE001; <b>")',
        "![&#xE000;1&#xE001;](http://a)",
        "# \ue0001\ue001",
    ],
)
def test_a_text_forges_no_mark_of_a_source(text: str) -> None:
    for block in blocks_of(text):
        assert with_links(block.html, {1: "/documents/file-1"}) == block.html
        assert "cite" not in block.html
