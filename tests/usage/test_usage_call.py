"""/calls/<id>: the page of a call without a run."""

import re

import pytest
from sqlalchemy.orm import Session

from tests import factories
from tests.factories import Person

pytestmark = pytest.mark.usefixtures("kind")


def test_a_call_without_a_run_has_its_own_page(session: Session, alice: Person) -> None:
    assert alice.user is not None
    billed = factories.message(alice.user, credits=7)
    call = factories.call(alice.user, message=billed, output_tokens=50)
    before = factories.call(alice.user, started_at=call.started_at.replace(year=2020))
    page = alice.browser.get(f"/calls/{call.request_id}")
    assert page.status_code == 200
    assert "7 credits" in page.text
    assert "Hello yourself" in page.text
    assert re.search(r'href="[^"]+usage">Usage</a>', page.text)
    assert f'href="{alice.home}/calls/{before.request_id}"' in page.text


def test_a_call_of_a_run_is_shown_in_its_run(session: Session, alice: Person) -> None:
    assert alice.user is not None
    run = factories.run(alice.user)
    call = factories.call(alice.user, run_id=run.id)
    answer = alice.browser.get(f"/calls/{call.request_id}")
    assert answer.status_code == 302
    assert answer.location == f"{alice.home}/runs/{run.id}/calls/{call.request_id}"
    assert alice.browser.get(answer.location).status_code == 200


def test_a_failed_call_is_shown_too(session: Session, alice: Person) -> None:
    assert alice.user is not None
    call = factories.call(alice.user, state="failed", error="The provider was away", http_status=503)
    page = alice.browser.get(f"/calls/{call.request_id}").text
    assert "The provider was away" in page
    assert "Nothing was charged" in page


def test_other_users_get_404(session: Session, alice: Person, mallory: Person, anonymous: Person) -> None:
    assert alice.user is not None
    call = factories.call(alice.user)
    assert mallory.browser.get(f"/calls/{call.request_id}").status_code == 404
    assert anonymous.browser.get(f"/calls/{call.request_id}").status_code == 302


@pytest.mark.parametrize("request_id", ["nothing", "%00", "..%2F", "x" * 5000, "' OR 1=1"])
def test_unknown_calls(alice: Person, request_id: str) -> None:
    assert alice.browser.get(f"/calls/{request_id}").status_code == 404
