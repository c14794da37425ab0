"""Deletion of one's own account: who may, what stops at once, a sign-in in the grace keeps it, and what is erased and what stays."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session as OrmSession

from models.accounts import OAuthAccount, Session, User
from models.accounts.account_deletion import GRACE, due_for_erasure
from models.accounts.credentials import open_web
from models.core import jobs, mail
from models.core.audit_log import AuditLog
from models.core.errors import Forbidden
from models.core.mail import Email
from models.ledger import CreditEntry
from models.ledger.ledger_proof import prove
from models.orgs import Org, OrgMember
from models.runs import RunShare
from models.store import Publisher
from models.store.catalogue.stars import AgentStar
from models.usage import Message
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person

PATH, ACCOUNT = "/profile/deletion", "/profile?tab=account"


def send(person: Person, typed: str) -> Any:
    page = person.browser.get(ACCOUNT if person.user else "/login")
    return person.browser.post(PATH, data={"csrf_token": token_of(page), "typed": typed})


def deleted_at(session: OrmSession, person: Person) -> datetime | None:
    session.expire_all()
    return session.get_one(User, person.id).deleted_at


def test_only_after_a_recent_sign_in_and_with_the_address(
    session: OrmSession, alice: Person, mallory: Person, anonymous: Person, outbox: list[Email]
) -> None:
    assert anonymous.browser.get(PATH).status_code == 302
    assert send(anonymous, "x").headers["Location"] == "/login"
    for wrong in ("", "bob@example.org", "\x00", "x" * 5000):
        assert send(alice, wrong).status_code == 422
    session.execute(update(Session).values(created_at=datetime.now(UTC) - timedelta(minutes=16)))
    session.commit()
    assert "Sign in again" in alice.browser.get(PATH).text
    assert send(alice, "alice@example.org").status_code == 403
    assert deleted_at(session, alice) is deleted_at(session, mallory) is None
    assert outbox == []


def test_the_last_owner_of_an_organisation_with_others_stays(
    session: OrmSession, alice: Person, bob: Person
) -> None:
    acme = factories.org(alice.user, "Acme Two", members=(bob.user,))
    assert "only owner of Acme Two" in alice.browser.get(PATH).text
    assert send(alice, "alice@example.org").status_code == 409
    assert deleted_at(session, alice) is None
    assert send(bob, "bob@example.org").status_code == 303
    session.expire_all()
    assert session.get(OrgMember, (acme.id, bob.id)), "until the grace is over"


def test_keys_stop_at_once_and_a_sign_in_keeps_the_account(
    session: OrmSession, client: FlaskClient, alice: Person, outbox: list[Email]
) -> None:
    solo = factories.org(alice.user, "Solo")
    factories.token(alice.user, type="cli")
    answer = send(alice, " Alice@example.org ")
    assert answer.headers["Location"] == "/login"
    assert [message.to for message in outbox] == ["alice@example.org"]
    assert alice.browser.get(ACCOUNT).status_code == 302
    assert client.get("/api/v1/me", headers=alice.headers).status_code == 401
    assert session.scalar(select(func.count()).where(Session.user_id == alice.id)) == 0
    assert deleted_at(session, alice) is not None
    assert session.get_one(Org, solo.id).deleted_at is not None
    open_web(session.get_one(User, alice.id), datetime.now(UTC))
    session.commit()
    assert deleted_at(session, alice) is None
    jobs.erase_one_account(alice.id)
    assert session.get_one(User, alice.id).email == "alice@example.org"


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> list[Email]:
    sent: list[Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: sent.append(message))
    return sent


@pytest.fixture
def full(session: OrmSession, alice: Person, bob: Person) -> Person:
    """A person with something of everything, whose grace is over."""
    user = alice.user
    org = factories.org(bob.user, "Other", members=(user,))
    factories.grant(user, 100)
    publisher = factories.publisher(user, "alices", email="alice@example.org", bio="I")
    factories.agent_config(publisher, "fixer")
    run = factories.run(user)
    factories.message(user, request={"messages": []}, response="secret")
    factories.message(user, org_id=org.id, request={"messages": []}, response="of the organisation")
    factories.save(RunShare(run_id=run.id, token_hash="t", with_messages=True, created_by=user.id))
    factories.save(OAuthAccount(user_id=user.id, type="oauth", provider="github", provider_account_id="7"))
    session.execute(
        update(User)
        .where(User.id == user.id)
        .values(name="Ada", handle="ada", image="x", deleted_at=datetime.now(UTC) - GRACE)
    )
    session.commit()
    return alice


def test_what_is_personal_is_erased_and_the_books_stay(
    app: Flask, session: OrmSession, full: Person, bob: Person, outbox: list[Email]
) -> None:
    entries = session.scalar(select(func.count()).select_from(CreditEntry))
    differences = prove().differences
    assert list(due_for_erasure(datetime.now(UTC))) == [full.id]
    for _ in range(2):
        jobs.erase_one_account(full.id)
        session.commit()
    user = session.get_one(User, full.id)
    assert (user.name, user.email) == ("Deleted account", f"{full.id}@deleted-account.invalid")
    assert (user.handle, user.image, user.referral_code, user.email_verified) == (None, None, None, None)
    assert [message.to for message in outbox] == ["alice@example.org"]
    for table in (OAuthAccount, RunShare, Session, OrgMember, AgentStar):
        owner = table.created_by if table is RunShare else table.user_id
        assert session.scalar(select(func.count()).select_from(table).where(owner == full.id)) == 0, table
    kept = dict(session.execute(select(Message.org_id.is_(None), Message.response)).all())
    assert kept == {True: None, False: "of the organisation"}
    publisher = session.get_one(Publisher, "alices")
    assert (publisher.name, publisher.email, publisher.bio) == ("Deleted account", None, None)
    assert session.scalar(select(func.count()).select_from(CreditEntry)) == entries
    named = 'SELECT count(*) FROM "user" WHERE "user"::text ~ \'alice@example|Ada\''
    assert session.scalar(text(named)) == 0
    assert prove().differences == differences
    assert session.scalars(select(AuditLog.action).where(AuditLog.subject == full.id)).all() == [
        "user.erased"
    ]
    page = bob.browser.get("/publishers/alices")
    assert page.status_code == 200
    assert "Deleted account" in page.text
    with pytest.raises(Forbidden, match="deleted"):
        open_web(session.get_one(User, full.id), datetime.now(UTC))
