"""Quoted words must stand in the cited chunk; where they do is said by page, line and character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session as OrmSession

from models import index
from models.index import quoted_range
from models.index.chunking import MOST_TOKENS, chunked
from tests.index.conftest import Upload

TEXT = (
    "“Water pipes” are made of\ncopper – mostly.  The ﬁrst com\u00admittee meets\non   Tuesday, doesn’t it?"
)


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("made of copper", "made of\ncopper"),
        ('"Water pipes" are', "Water pipes” are"),
        ("copper - mostly", "copper – mostly"),
        ("The first committee", "The ﬁrst com\u00admittee"),
        ("MEETS on Tuesday", "meets\non   Tuesday"),
        ("doesn't it?", "doesn’t it?"),
        ("Water ... copper", "Water pipes” are made of\ncopper"),
        (
            "Water pipes […] Tuesday",
            "Water pipes” are made of\ncopper – mostly.  The ﬁrst com\u00admittee meets\non   Tuesday",
        ),
        ("copper … Water", None),
        ("made of lead", None),
        ("", None),
        ("...", None),
        ("—", None),
        ("pipes are", None),
    ],
)
def test_quotes_are_found_whatever_their_signs(quote: str, found: str | None) -> None:
    place = quoted_range(TEXT, quote)
    assert (TEXT[slice(*place)] if place else None) == found


@given(st.text(max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_every_part_of_a_text_is_found(text: str, start: int, length: int) -> None:
    quote = text[start : start + length]
    place = quoted_range(text, quote)
    assert place is None or 0 <= place[0] < place[1] <= len(text)
    if quote.isascii() and quote.isalnum():
        assert place is not None


@given(st.lists(st.text(st.sampled_from("ab .\n字é"), max_size=3_000), min_size=1, max_size=3))
def test_chunks_are_the_whole_text(parts: list[str]) -> None:
    starts, chunks = chunked("page", parts)
    whole = "".join(chunk.text for chunk in chunks)
    assert whole == "\n".join(part.rstrip() for part in parts)
    assert [chunk.start for chunk in chunks] == [0, *(chunk.end for chunk in chunks[:-1])][: len(chunks)]
    assert all(whole[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert len(starts) == len(parts)
    assert {chunk.first for chunk in chunks} <= set(range(1, len(parts) + 1))


def test_chunks_are_numbered_by_lines_and_bounded() -> None:
    text = "".join(f"line {number}\n" for number in range(1, 2_001)) + "word " * 3_000 + "x" * 9_000
    _, chunks = chunked("line", [text])
    assert all(chunk.tokens <= MOST_TOKENS + 500 for chunk in chunks)
    for chunk in chunks:
        assert chunk.first == text.count("\n", 0, chunk.start) + 1
        assert chunk.last == text.count("\n", 0, chunk.end - 1) + 1


def test_a_heading_begins_a_chunk_if_there_is_enough_before() -> None:
    text = "word " * 30
    _, chunks = chunked("line", ["# One\n" + f"{text}\n" * 8 + "# Two\n" + text])
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["# One", "# Two"]


@pytest.mark.usefixtures("no_process")
def test_citations_are_checked_against_the_chunk_and_name_the_page(
    upload: Upload, session: OrmSession
) -> None:
    document = upload("a.txt", "Water pipes.\fThe committee meets\non Tuesday.\fThe end.")
    spot = index.check_citation(f"{document.id}#1", "committee meets on Tuesday")
    assert spot is not None
    assert (spot.unit, spot.first, spot.last) == ("page", 2, 2)
    whole = index.whole_text(document)
    assert whole is not None
    assert whole[spot.start : spot.end] == spot.text == "committee meets\non Tuesday"
    across = index.check_citation(f"{document.id}#1", "on Tuesday. The end")
    assert across is not None
    assert (across.first, across.last) == (2, 3)
    assert index.check_citation(f"{document.id}#1", "committee sleeps") is None
    assert index.check_citation(f"{document.id}#0", "The end") is None


@pytest.mark.usefixtures("no_process")
def test_citations_of_lines_name_the_lines(upload: Upload, session: OrmSession) -> None:
    document = upload("a.txt", "".join(f"line {number} of it\n" for number in range(1, 500)))
    found = index.search([document.scope], "line 321", 1).hits[0]
    spot = index.check_citation(found.chunk_id, "line 321 of it line 322")
    assert spot is not None
    assert (spot.unit, spot.first, spot.last) == ("line", 321, 322)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    "id", ["", "#", "x#1", "{}", "{}#", "{}#x", "{}#-1", "{}#99", "{}#01", "{}#0\n", "{}#9999999999"]
)
def test_unknown_chunks_are_not_cited(upload: Upload, session: OrmSession, id: str) -> None:
    document = upload("a.txt", "Water pipes.")
    assert index.check_citation(id.format(document.id), "Water pipes") is None
    assert index.check_citation(f"{document.id}#0", "Water pipes") is not None
    assert index.check_citation(f"{document.id}#0", "x" * 2_001) is None
    index.delete_document(document)
    assert index.check_citation(f"{document.id}#0", "Water pipes") is None


@pytest.mark.usefixtures("no_process")
def test_only_small_documents_go_in_whole(upload: Upload, session: OrmSession) -> None:
    small, big = upload("a.txt", "Water pipes.\n"), upload("b.txt", "water pipes " * 5_000)
    assert index.whole_text(small) == "Water pipes."
    assert index.whole_text(big) is None
    assert index.whole_text(upload("c.txt", "queued", parse=False)) is None
