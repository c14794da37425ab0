"""The usage page shows current data, and only to its owner."""

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
from tests.ledger.conftest import pool
from tests.ledger.stage import call, give

__all__ = ["pool"]

URL = "/profile?tab=usage"


@pytest.fixture
def user_id(alice: Person, session: Session) -> str:
    assert alice.user is not None
    give(session, Account(user_id=alice.user.id), 1_000, now=datetime.now(UTC) - timedelta(days=1))
    return alice.user.id


def usage_page(person: Person) -> str:
    page = person.browser.get(URL)
    assert page.status_code == 200
    return page.text


def settle(pool: Pool, user_id: str, request: str, **facts: object) -> None:
    admission = Admission("admitted", request, "", user_id=user_id, door="openai")
    ledger.settle(pool, admission, call(7, **facts), now=datetime.now(UTC))


def test_each_change_is_seen_at_once(
    pool: Pool, session: Session, alice: Person, bob: Person, user_id: str
) -> None:
    settle(pool, user_id, "req-1")
    usage_page(alice)
    settle(pool, user_id, "req-2", model="south/small")
    assert "south/small" in usage_page(alice)
    settle(pool, user_id, "req-3", model="free/own-key", byok=True)
    assert "free/own-key" in usage_page(alice)
    give(session, Account(user_id=user_id), 5_000, now=datetime.now(UTC))
    assert "5,986" in usage_page(alice)
    failure = CallFailure(
        requested_model="west/broken",
        provider="openai",
        model=None,
        started_at=datetime.now(UTC),
        latency_ms=5,
        error="upstream",
        http_status=502,
    )
    ledger.fail(pool, Admission("admitted", "req-4", "", user_id=user_id, door="openai"), failure)
    assert "west/broken" in usage_page(alice)
    assert "west/broken" not in usage_page(bob)


def test_holds_and_expiries_are_shown_at_once(session: Session, alice: Person, user_id: str) -> None:
    usage_page(alice)
    hold = (
        "INSERT INTO credit_hold (request_id, account_id, user_id, model, door, amount, worker, expires_at)"
        " VALUES ('req-h', :user_id, :user_id, 'm', 'openai', 321, 'w', now() + interval '1 hour')"
    )
    session.execute(text(hold), {"user_id": user_id})
    session.commit()
    assert "679" in usage_page(alice)
    session.execute(text("UPDATE credit_hold SET expires_at = now()"))
    session.commit()
    assert "679" not in usage_page(alice)
    session.execute(text("UPDATE credit_ledger SET expires_at = now() + interval '1 hour'"))
    session.commit()
    assert ">Never<" not in usage_page(alice)


def test_each_browser_has_its_own_form_token_and_sign_out(
    app: Flask, pool: Pool, session: Session, alice: Person, user_id: str
) -> None:
    settle(pool, user_id, "req-1")
    assert alice.user is not None
    other = app.test_client()
    other.set_cookie("next-auth.session-token", token(alice.user, type="web"))
    usage_page(alice)
    pages = [browser.get(URL) for browser in (alice.browser, other)]
    assert len({token_of(page) for page in pages}) == 2
    assert [page.headers["Vary"] for page in pages] == ["HX-Request, Cookie"] * 2
    out = other.post("/api/auth/signout", data={"csrf_token": token_of(pages[1])})
    assert out.status_code in (302, 303)
    assert other.get(URL).status_code == 302
    assert alice.browser.get(URL).status_code == 200


def test_viewing_the_page_records_the_use_of_the_session(
    pool: Pool, session: Session, alice: Person, user_id: str
) -> None:
    usage_page(alice)
    usage_page(alice)
    recently_used = text(
        "SELECT count(*) FROM session WHERE \"userId\" = :user_id AND last_used_at > now() AT TIME ZONE 'UTC' - interval '1 minute'"
    )
    session.execute(
        text(
            "UPDATE session SET last_used_at = last_used_at - interval '1 hour' WHERE \"userId\" = :user_id"
        ),
        {"user_id": user_id},
    )
    session.commit()
    usage_page(alice)
    assert session.execute(recently_used, {"user_id": user_id}).scalar_one() == 1
