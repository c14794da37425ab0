"""How texts are cut into chunks."""

import pytest

from models.index.chunking import MOST_TOKENS, chunked

LONGEST = MOST_TOKENS + 1_000


@pytest.mark.parametrize(
    "text", ["\n" * 5_000 + "x", "a\n" + "\n" * 5_000 + "b", " \n" * 3_000 + "x", " " * 50_000 + "x"]
)
def test_a_long_stretch_of_nothing_makes_no_long_chunk(text: str) -> None:
    _, chunks = chunked("line", [text])
    assert "".join(each.text for each in chunks) == text
    assert max(each.tokens for each in chunks) <= LONGEST


def test_empty_lines_stay_with_the_words_after_them() -> None:
    _, chunks = chunked("line", ["\n\n\nOne.\n\n\n# Two\n"])
    assert [each.text for each in chunks] == ["\n\n\nOne.\n\n\n# Two"]
