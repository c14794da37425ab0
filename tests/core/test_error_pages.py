"""What a person reads where something was refused: what happened and what to do, each once; and the toast in its place."""

import re

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from tests import factories
from tests.factories import Person

LOOK = "Check the address. What belongs to another account is not shown."


@pytest.mark.parametrize(
    ("path", "status", "headline", "said"),
    [
        ("/nope", 404, "There is nothing here", LOOK),
        ("/runs/nope", 404, "There is nothing here", f"There is no such run here. {LOOK}"),
        ("/publishers/nope", 404, "There is nothing here", f"There is no such publisher here. {LOOK}"),
        ("/publishers/other/edit", 404, "There is nothing here", f"Publisher not found. {LOOK}"),
        ("/publishers/nope/agents/a", 404, "There is nothing here", f"There is no such agent here. {LOOK}"),
        (
            "/profile/sessions/nope/revocation",
            404,
            "There is nothing here",
            f"This session or key does not exist. {LOOK}",
        ),
        (
            "/publishers/acme/owner",
            409,
            "This cannot be done now",
            "This publisher does not belong to an organisation.",
        ),
    ],
)
def test_a_page(
    session: Session, alice: Person, bob: Person, path: str, status: int, headline: str, said: str
) -> None:
    assert alice.user is not None
    assert bob.user is not None
    factories.publisher(alice.user)
    factories.publisher(bob.user, "other")
    answer = alice.browser.get(path)
    assert answer.status_code == status
    told = re.findall(r'<h1 id="fault-h">(.*?)</h1>\s*<p class="quiet">(.*?)</p>', answer.text)
    assert told == [(headline, said)]
    toast = alice.browser.get(path, headers={"HX-Request": "true"})
    assert (toast.status_code, toast.headers["HX-Reswap"]) == (status, "none")
    assert said.removesuffix(LOOK).rstrip(". ") in toast.text
    assert "<h1" not in toast.text


def test_a_method_that_the_address_has_not(client: FlaskClient) -> None:
    answer = client.put("/login")
    assert answer.status_code == 405
    assert "This address does not take that" in answer.text
    assert answer.text.count("Follow a link instead.") == 1
