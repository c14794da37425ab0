"""Display names of who published or yanked a version."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from tests import factories
from tests.factories import Person, now


@pytest.mark.parametrize(
    ("name", "email", "shown"),
    [
        ("Ada", "ada@example.org", "Ada"),
        (None, "grace.hopper@secret.example.org", "grace.hopper"),
        ("", "grace@secret.example.org", "grace"),
        ("   ", "grace+stoa@secret.example.org", "grace+stoa"),
    ],
)
@pytest.mark.parametrize("credential", ["web", "cli", "pat"])
def test_a_user_without_a_name_is_shown_by_their_email_local_part(
    session: Session, alice: Person, name: str | None, email: str, shown: str, credential: str
) -> None:
    author = factories.user("author", email=email)
    author.name = name
    session.commit()
    house = factories.publisher(author, "acme")
    factories.agent(house, "reviewer", "1.0.0")
    of = {"published_by": author.id, "credential": credential}
    factories.agent_version(house, "reviewer", "1.1.0", **of)
    yanked = {"yanked_by": author.id, "yanked_reason": "It was wrong.", "yanked_at": now()}
    factories.agent_version(house, "reviewer", "1.2.0", **of, **yanked)
    for path in ("versions", "1.1.0"):
        page = alice.browser.get(f"/publishers/acme/agents/reviewer/{path}").get_data(as_text=True)
        assert shown in page
        assert "secret.example.org" not in page
    page = alice.browser.get("/publishers/acme/agents/reviewer/versions").get_data(as_text=True)
    assert f"<span>{shown}, " in page
    assert f" by {shown}: It was wrong." in page


@pytest.mark.parametrize(
    ("credential", "shown"), [("import", "the operator, by import"), ("pat", "a former user, with")]
)
def test_deleted_users_are_shown_as_such(
    session: Session, alice: Person, credential: str, shown: str
) -> None:
    house = factories.publisher(alice.user, "acme")
    kw: dict[str, Any] = {"published_by": None, "credential": credential}
    factories.agent(house, "reviewer", "1.0.0")
    factories.agent_version(house, "reviewer", "1.1.0", **kw)
    assert shown in alice.browser.get("/publishers/acme/agents/reviewer/versions").get_data(as_text=True)
