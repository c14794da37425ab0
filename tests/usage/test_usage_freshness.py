"""The usage page shows what there is at the moment of the look, and to nobody else."""

from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session

from models import ledger
from models.core.pool import Pool
from models.ledger import Account, Admission, CallFailure
from tests.accounts.browsing import token_of
from tests.factories import Person, token
from tests.ledger.conftest import gate
from tests.ledger.stage import call, give

__all__ = ["gate"]

URL = "/profile?tab=usage"


@pytest.fixture
def who(alice: Person, session: Session) -> str:
    assert alice.user is not None
    give(session, Account(user_id=alice.user.id), 1_000, now=datetime.now(UTC) - timedelta(days=1))
    return alice.user.id


def look(person: Person) -> str:
    page = person.browser.get(URL)
    assert page.status_code == 200
    return page.text


def settle(gate: Pool, user_id: str, request: str, **facts: object) -> None:
    admission = Admission("admitted", request, "", user_id=user_id, door="openai")
    ledger.settle(gate, admission, call(7, **facts), now=datetime.now(UTC))


def test_each_change_is_seen_at_once(
    gate: Pool, session: Session, alice: Person, bob: Person, who: str
) -> None:
    settle(gate, who, "req-1")
    look(alice)
    settle(gate, who, "req-2", model="south/small")
    assert "south/small" in look(alice)
    settle(gate, who, "req-3", model="free/own-key", byok=True)
    assert "free/own-key" in look(alice)
    give(session, Account(user_id=who), 5_000, now=datetime.now(UTC))
    assert "5,986" in look(alice)
    failure = CallFailure(
        requested_model="west/broken",
        provider="openai",
        model=None,
        started_at=datetime.now(UTC),
        latency_ms=5,
        error="upstream",
        http_status=502,
    )
    ledger.fail(gate, Admission("admitted", "req-4", "", user_id=who, door="openai"), failure)
    assert "west/broken" in look(alice)
    assert "west/broken" not in look(bob)


def test_holds_and_expiries_are_seen_as_they_come_and_go(session: Session, alice: Person, who: str) -> None:
    look(alice)
    hold = (
        "INSERT INTO credit_hold (request_id, account_id, user_id, model, door, amount, worker, expires_at)"
        " VALUES ('req-h', :who, :who, 'm', 'openai', 321, 'w', now() + interval '1 hour')"
    )
    session.execute(text(hold), {"who": who})
    session.commit()
    assert "679" in look(alice)
    session.execute(text("UPDATE credit_hold SET expires_at = now()"))
    session.commit()
    assert "679" not in look(alice)
    session.execute(text("UPDATE credit_ledger SET expires_at = now() + interval '1 hour'"))
    session.commit()
    assert ">Never<" not in look(alice)


def test_each_browser_has_its_own_form_token_and_its_own_end(
    app: Flask, gate: Pool, session: Session, alice: Person, who: str
) -> None:
    settle(gate, who, "req-1")
    assert alice.user is not None
    other = app.test_client()
    other.set_cookie("next-auth.session-token", token(alice.user, type="web"))
    look(alice)
    pages = [browser.get(URL) for browser in (alice.browser, other)]
    assert len({token_of(page) for page in pages}) == 2
    assert [page.headers["Vary"] for page in pages] == ["HX-Request, Cookie"] * 2
    out = other.post("/api/auth/signout", data={"csrf_token": token_of(pages[1])})
    assert out.status_code in (302, 303)
    assert other.get(URL).status_code == 302
    assert alice.browser.get(URL).status_code == 200


def test_a_look_notes_that_the_session_was_used(
    gate: Pool, session: Session, alice: Person, who: str
) -> None:
    look(alice)
    look(alice)
    noted = text(
        "SELECT count(*) FROM session WHERE \"userId\" = :who AND last_used_at > now() AT TIME ZONE 'UTC' - interval '1 minute'"
    )
    session.execute(
        text("UPDATE session SET last_used_at = last_used_at - interval '1 hour' WHERE \"userId\" = :who"),
        {"who": who},
    )
    session.commit()
    look(alice)
    assert session.execute(noted, {"who": who}).scalar_one() == 1
