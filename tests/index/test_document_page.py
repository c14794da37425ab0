"""The page of a document: its text by pages and lines, cited words marked, and who may open it."""

import re

import pytest
from sqlalchemy.orm import Session as OrmSession

from models import index
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.index.conftest import Upload, pdf

PAGES = ("Water pipes are made of copper.", "The committee meets on Tuesday.")


def marked(page: str) -> list[str]:
    return re.findall(r"<mark[^>]*>(.*?)</mark>", page, re.S)


def test_a_citation_opens_its_page_with_the_words_marked(
    upload: Upload, alice: Person, session: OrmSession
) -> None:
    document = upload("pipes.pdf", pdf(*PAGES))
    page = alice.browser.get(f"/documents/{document.id}?chunk=1&quote=committee+meets").text
    assert marked(page) == ["committee meets"]
    assert page.index('id="page-1"') < page.index('id="page-2"') < page.index("<mark")
    whole = alice.browser.get(f"/documents/{document.id}?chunk=1").text
    assert marked(whole) == [PAGES[1]]
    wrong = alice.browser.get(f"/documents/{document.id}?chunk=1&quote=committee+sleeps")
    assert wrong.status_code == 200
    assert "quoted words are not in this document" in wrong.text
    for query in (
        "chunk=x",
        "chunk=999",
        "at=9999999",
        "at=-1",
        "chunk=%00",
        "quote=%00",
        "chunk=1&quote=%00",
    ):
        assert alice.browser.get(f"/documents/{document.id}?{query}").status_code == 200, query


def test_lines_have_anchors_and_a_long_text_is_shown_in_windows(
    upload: Upload, alice: Person, session: OrmSession
) -> None:
    text = "".join(f"line {number} of the copper pipes <b>& more\n" for number in range(1, 5001))
    document = upload("long.txt", text)
    first = alice.browser.get(f"/documents/{document.id}").text
    assert re.search(r'id="lines-1-\d+"', first)
    assert "line 1 of the copper pipes &lt;b&gt;&amp; more" in first
    assert "Later" in first
    assert "Earlier" not in first
    answer = index.search([document.scope], "line 4321", 1)
    seq = answer.hits[0].chunk_id.partition("#")[2]
    later = alice.browser.get(f"/documents/{document.id}?chunk={seq}&quote=line+4321+of").text
    assert marked(later) == ["line 4321 of"]
    assert "Earlier" in later


def test_a_failed_document_says_why(upload: Upload, alice: Person, session: OrmSession) -> None:
    document = upload("a.pdf", b"%PDF-1.4 nothing")
    assert "This PDF is damaged" in alice.browser.get(f"/documents/{document.id}").text


def test_a_page_that_waits_asks_again(upload: Upload, alice: Person, session: OrmSession) -> None:
    document = upload("a.txt", "x", parse=False)
    page = alice.browser.get(f"/documents/{document.id}").text
    assert 'hx-trigger="every 2s"' in page
    fragment = alice.browser.get(f"/documents/{document.id}", headers={"HX-Request": "true"}).text
    assert "<html" not in fragment


@pytest.mark.parametrize("address", ["", "/content"])
def test_who_may_open_it(
    upload: Upload,
    acme: Org,
    alice: Person,
    bob: Person,
    mallory: Person,
    anonymous: Person,
    session: OrmSession,
    address: str,
) -> None:
    own = upload("a.txt", "x", parse=False)
    shared = upload("b.txt", "y", account=acme.id, parse=False)
    for document, people in ((own, [alice]), (shared, [alice, bob])):
        for person in (alice, bob, mallory):
            status = person.browser.get(f"/documents/{document.id}{address}").status_code
            assert status == (200 if person in people else 404)
        assert anonymous.browser.get(f"/documents/{document.id}{address}").location.startswith("/login")


def test_where_single_sign_on_is_enforced_a_document_opens_only_through_it(
    upload: Upload, acme: Org, bob: Person, session: OrmSession
) -> None:
    shared = upload("b.txt", "y", account=acme.id, parse=False)
    acme.sso_enforced_at = factories.now()
    session.commit()
    for address in ("", "/content"):
        assert bob.browser.get(f"/documents/{shared.id}{address}").status_code == 403
