"""What public pages tell crawlers and sites that link to them."""

import re

import pytest
from sqlalchemy.orm import Session as OrmSession

from tests.factories import Person
from tests.store.listings import shelve

BASE = "http://localhost:8000"
AGENT = "/publishers/harbor/agents/code-reviewer"


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/", "/"),
        ("/docs/api", "/docs/api"),
        ("/store?sort=name", "/store"),
        ("/publishers/harbor?after=a", "/publishers/harbor"),
        (f"{AGENT}/1.9.0", f"{AGENT}/2.4.1"),
        (f"{AGENT}/versions?below=2.0.0", f"{AGENT}/versions"),
    ],
)
def test_a_public_page_says_what_it_is_and_where(
    session: OrmSession, alice: Person, anonymous: Person, path: str, canonical: str
) -> None:
    assert alice.user is not None
    shelve(session, alice.user)
    page = anonymous.browser.get(path).text
    assert re.findall(r'<link rel="canonical" href="([^"]*)"', page) == [BASE + canonical]
    assert re.findall(r'property="og:url" content="([^"]*)"', page) == [BASE + canonical]
    for name in (
        'name="description"',
        'property="og:title"',
        'property="og:description"',
        'name="twitter:card"',
    ):
        (said,) = re.findall(f'<meta {name} content="([^"]*)">', page)
        assert said
    assert page.count("og:image:width") == page.count("summary_large_image")
