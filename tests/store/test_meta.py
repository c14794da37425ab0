"""Metadata of public pages for crawlers and link previews."""

import re

import pytest
from sqlalchemy.orm import Session as OrmSession

from tests.factories import Person
from tests.store.listings import create_agent

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
def test_public_pages_have_metadata(
    session: OrmSession, alice: Person, anonymous: Person, path: str, canonical: str
) -> None:
    assert alice.user is not None
    create_agent(session, alice.user)
    page = anonymous.browser.get(path).text
    assert re.findall(r'<link rel="canonical" href="([^"]*)"', page) == [BASE + canonical]
    assert re.findall(r'property="og:url" content="([^"]*)"', page) == [BASE + canonical]
    for name in (
        'name="description"',
        'property="og:title"',
        'property="og:description"',
        'name="twitter:card"',
    ):
        (output,) = re.findall(f'<meta {name} content="([^"]*)">', page)
        assert output
    assert page.count("og:image:width") == page.count("summary_large_image")
