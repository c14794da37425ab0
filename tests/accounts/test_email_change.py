"""Change the e-mail address of an account: link, notice, refusals, for every test user."""

import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session as OrmSession

from models.accounts import EmailChange, Session, User, email_changes
from models.core import mail
from models.core.audit_log import AuditLog
from models.core.mail import Email
from models.orgs.directory import ScimUser
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person

ACCOUNT, CHANGE = "/profile?tab=account", "/profile/email"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> list[Email]:
    sent: list[Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: sent.append(message))
    return sent


def sent(person: Person, path: str = CHANGE, headers: Any = None, **form: str) -> Any:
    page = person.browser.get(ACCOUNT if person.user else "/login")
    return person.browser.post(path, data={"csrf_token": token_of(page), **form}, headers=headers)


def email_of(session: OrmSession, person: Person) -> str:
    session.expire_all()
    return session.get_one(User, person.id).email


def link_in(message: Email) -> str:
    found = re.search(r"http://localhost:8000(/profile/email/[\w\-]+)", message.text)
    assert found, message.text
    return found[1]


def test_a_link_to_the_new_address_changes_it_once(
    session: OrmSession,
    alice: Person,
    bob: Person,
    mallory: Person,
    anonymous: Person,
    outbox: list[Email],
) -> None:
    sessions = set(session.scalars(select(Session.session_token).where(Session.user_id == alice.id)))
    answer = sent(alice, email=" New@Example.org ")
    assert (answer.status_code, answer.headers["Location"]) == (303, ACCOUNT)
    assert [message.to for message in outbox] == ["new@example.org", "alice@example.org"]
    link = link_in(outbox[0])
    assert link not in outbox[1].text + (outbox[1].html or "")
    assert link.rpartition("/")[2] not in session.scalars(select(EmailChange.token_hash)).one()
    assert "Confirm new@example.org" in alice.browser.get(ACCOUNT).text
    for other in (bob, mallory):
        assert other.browser.get(link).status_code == 410
        assert sent(other, link).status_code == 410
    assert anonymous.browser.get(link).status_code == 302
    assert sent(anonymous, link).headers["Location"] == "/login"
    assert sent(anonymous).headers["Location"] == "/login"
    page = alice.browser.get(link)
    assert page.status_code == 200
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert email_of(session, alice) == "alice@example.org"
    assert sent(alice, link).headers["Location"] == ACCOUNT
    assert email_of(session, alice) == "new@example.org"
    assert [message.to for message in outbox[2:]] == ["alice@example.org"]
    queued = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'billing.send_email'"
    assert session.scalar(text(queued)) == 1
    assert sent(alice, link).status_code == 410
    kept = set(session.scalars(select(Session.session_token).where(Session.user_id == alice.id)))
    assert kept == sessions
    rows = session.execute(
        select(AuditLog.action, AuditLog.before, AuditLog.after).order_by(AuditLog.id)
    ).all()
    assert [row.action for row in rows] == ["email.change_requested", "email.changed"]
    assert rows[1].before == {"email": "alice@example.org"}
    assert rows[1].after == {"email": "new@example.org"}


@pytest.mark.parametrize(
    "email",
    [
        "",
        "nobody",
        "a\x00b@example.org",
        "x" * 400 + "@example.org",
        "ALICE@example.org",
        "bob@example.org",
        "x@service-account.invalid",
    ],
)
def test_a_wrong_address_is_refused(
    session: OrmSession, alice: Person, bob: Person, outbox: list[Email], email: str
) -> None:
    answer = sent(alice, headers=HTMX, email=email)
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
    assert (outbox, session.scalars(select(EmailChange)).all()) == ([], [])


def test_only_the_latest_link_works_and_it_can_be_cancelled(
    session: OrmSession, alice: Person, anonymous: Person, outbox: list[Email]
) -> None:
    sent(alice, email="one@example.org")
    sent(alice, email="two@example.org")
    first, second = link_in(outbox[0]), link_in(outbox[2])
    assert alice.browser.get(first).status_code == 410
    assert alice.browser.get(second).status_code == 200
    assert sent(anonymous, "/profile/email/cancellation").headers["Location"] == "/login"
    assert sent(alice, "/profile/email/cancellation").status_code == 303
    assert sent(alice, second).status_code == 410
    sent(alice, email="three@example.org")
    session.execute(update(EmailChange).values(expires_at=factories.now() - timedelta(seconds=1)))
    session.commit()
    assert sent(alice, link_in(outbox[4])).status_code == 410
    email_changes.delete_expired_changes(factories.now())
    assert session.scalars(select(EmailChange)).all() == []
    assert email_of(session, alice) == "alice@example.org"


def test_an_address_that_was_taken_meanwhile_is_refused(
    session: OrmSession, alice: Person, outbox: list[Email]
) -> None:
    sent(alice, email="new@example.org")
    factories.user("new")
    answer = sent(alice, link_in(outbox[0]))
    assert answer.status_code == 409
    assert "Another account has this address" in answer.text
    assert email_of(session, alice) == "alice@example.org"


@pytest.mark.parametrize("reason", ["directory", "sign-on"])
def test_an_organisation_that_knows_the_address_keeps_it(
    session: OrmSession, alice: Person, bob: Person, outbox: list[Email], reason: str
) -> None:
    sent(bob, email="new@example.org")
    owner, member = session.get_one(User, alice.id), session.get_one(User, bob.id)
    org = factories.org(owner, "Umbrella", members=(member,))
    if reason == "directory":
        session.add(
            ScimUser(org_id=org.id, user_name="bob", email="bob@example.org", active=True, attributes={})
        )
    else:
        org.sso_enforced_at = factories.now()
    session.commit()
    assert "Umbrella" in bob.browser.get(ACCOUNT).text
    refused = sent(bob, email="other@example.org")
    assert refused.status_code == 409
    assert "Umbrella" in refused.text
    assert sent(bob, link_in(outbox[0])).status_code == 409
    assert email_of(session, bob) == "bob@example.org"
