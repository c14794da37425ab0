"""Forms act once: a repeated, concurrent or resubmitted form gets the response of the first submission."""

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import text, update
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.core.form_submissions import RESPONSE_KEPT, FormSubmission, forget_submissions
from models.orgs import Org
from tests import factories
from tests.factories import Person
from views.web import form_tokens

KEYS = "/profile?tab=api-keys"
NO_PAGES = ("/api/", "/v1/", "/scim/")
MAKES = re.compile(r"(create|add|new|name|ask|send_invites)(_|$)")
NOT_ONCE = {
    "assistants.add_documents": "the same form uploads the next files; a double click acts once",
    "billing.add_card": "leads to Stripe, whose session makes the card once",
}


def fields(page: TestResponse, action: str) -> dict[str, str]:
    """The hidden fields of the form of a page that posts to this address."""
    form = re.search(rf'<form[^>]* action="{re.escape(action)}".*?</form>', page.text, re.DOTALL)
    assert form, page.text[:500]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[0]))


def count(session: OrmSession, table: str) -> int:
    session.rollback()
    return session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()


FORMS: Sequence[tuple[str, str, dict[str, str], str]] = (
    (KEYS, "/profile/keys", {"name": "laptop", "days": "90"}, "session"),
    (
        "/publishers/new?step=3&publisher=harbor&name=Harbor",
        "/publishers/new",
        {"publisher": "harbor", "name": "Harbor"},
        "publisher",
    ),
    ("/orgs/new", "/orgs/new", {"name": "Umbrella"}, "org"),
    ("/projects/new?step=3&name=Pier", "/projects", {"name": "Pier"}, "project"),
    ("/orgs/acme/keys", "/orgs/acme/keys", {"name": "ci", "days": "90"}, "session"),
    ("/orgs/acme/service-accounts", "/orgs/acme/service-accounts", {"name": "Builds"}, "service_account"),
    ("/orgs/acme/teams", "/orgs/acme/teams", {"name": "Web"}, "org_team"),
    (
        "/orgs/acme/invites/new",
        "/orgs/acme/invites/new",
        {"email": "eve@example.org", "role": "member"},
        "org_invite",
    ),
    (
        "/profile/budgets/new",
        "/profile/budgets/new",
        {"target": "account", "period": "day", "limit_credits": "100", "warn_percent": "80", "kind": "hard"},
        "budget",
    ),
)


@pytest.mark.parametrize(
    ("page", "action", "form", "table"),
    FORMS,
    ids=lambda each: each if isinstance(each, str) and each[0] == "/" else "",
)
def test_a_repeated_form_acts_once_and_shows_the_same(
    session: OrmSession, acme: Org, alice: Person, page: str, action: str, form: dict[str, str], table: str
) -> None:
    form = fields(alice.browser.get(page), action) | form
    before = count(session, table)
    first = alice.browser.post(action, data=form)
    assert first.status_code in (200, 303), first.text
    shown = alice.browser.get(first.location).text if first.location else first.text
    second = alice.browser.post(action, data=form)
    assert count(session, table) == before + 1
    assert (second.status_code, second.location) == (first.status_code, first.location)
    again = alice.browser.get(second.location).text if second.location else second.text
    secrets = re.findall(r"sk_live_[0-9A-Za-z]{73}", shown)
    assert re.findall(r"sk_live_[0-9A-Za-z]{73}", again) == secrets
    stored = session.scalars(text("SELECT response FROM form_submission")).all()
    assert stored
    assert not any(secret in (each or "") for each in stored for secret in secrets or ["laptop"])
    changed = alice.browser.post(action, data=form | {"name": "other", "email": "x@example.org"})
    assert changed.status_code in (200, 303, 422)
    assert (changed.status_code == 422) == (count(session, table) == before + 1), (
        "other input is another form"
    )


def test_two_at_once_make_one(app: Flask, session: OrmSession, alice: Person) -> None:
    form = fields(alice.browser.get(KEYS), "/profile/keys") | {"name": "laptop", "days": "90"}
    cookies = {cookie.key: cookie.value for cookie in alice.browser._cookies.values()}  # type: ignore[union-attr]
    start = threading.Barrier(4)

    def send(_: int) -> TestResponse:
        browser = app.test_client()
        for name, value in cookies.items():
            browser.set_cookie(name, value)
        start.wait()
        answer = browser.post("/profile/keys", data=form)
        return browser.get(answer.location)

    before = count(session, "session")
    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(send, range(4)))
    assert count(session, "session") == before + 1
    assert len({re.findall(r"sk_live_[0-9A-Za-z]{73}", page.text)[0] for page in pages}) == 1


def test_a_rejected_form_may_be_corrected_and_sent_again(session: OrmSession, alice: Person) -> None:
    form = fields(alice.browser.get(KEYS), "/profile/keys") | {"name": "laptop", "days": "many"}
    assert alice.browser.post("/profile/keys", data=form).status_code == 422
    assert alice.browser.post("/profile/keys", data=form).status_code == 422, "as often as you like"
    assert alice.browser.post("/profile/keys", data=form | {"days": "9"}).status_code == 303


def test_who_else_sends_a_token_acts_for_themselves(
    session: OrmSession, alice: Person, mallory: Person
) -> None:
    form = fields(alice.browser.get(KEYS), "/profile/keys") | {"name": "laptop", "days": "90"}
    made = alice.browser.get(alice.browser.post("/profile/keys", data=form).location)
    own = fields(mallory.browser.get(KEYS), "/profile/keys")["csrf_token"]
    other = mallory.browser.get(
        mallory.browser.post("/profile/keys", data=form | {"csrf_token": own}).location
    )
    found = [re.findall(r"sk_live_[0-9A-Za-z]{73}", page.text)[0] for page in (made, other)]
    assert len(set(found)) == 2


def test_a_key_is_shown_again_for_five_minutes(session: OrmSession, alice: Person) -> None:
    form = fields(alice.browser.get(KEYS), "/profile/keys") | {"name": "laptop", "days": "90"}
    alice.browser.post("/profile/keys", data=form)
    before = count(session, "session")
    session.execute(
        update(FormSubmission).values(finished_at=factories.now() - RESPONSE_KEPT - timedelta(seconds=1))
    )
    session.commit()
    late = alice.browser.post("/profile/keys", data=form)
    assert late.status_code == 409
    assert "This form was sent already" in late.text
    forget_submissions(factories.now())
    session.commit()
    assert session.scalars(text("SELECT response FROM form_submission")).all() == [None]
    assert alice.browser.post("/profile/keys", data=form).status_code == 409
    assert count(session, "session") == before
    forget_submissions(factories.now() + form_tokens.ONCE_FOR)
    session.commit()
    assert count(session, "form_submission") == 0


def test_a_form_that_sets_a_state_acts_again_later(session: OrmSession, acme: Org, alice: Person) -> None:
    """Or an old page could claim that all agents were stopped."""
    page = "/orgs/acme/stop"
    form = fields(alice.browser.get(f"{page}/confirmation"), page)
    first, double = (alice.browser.post(page, data=form) for _ in range(2))
    assert (first.status_code, double.status_code) == (303, 303)
    assert count(session, "account_stop") == 1
    alice.browser.post(f"{page}/end", data=fields(alice.browser.get(page), f"{page}/end"))
    session.execute(update(FormSubmission).values(expires_at=factories.now()))
    session.commit()
    alice.browser.post(page, data=form)
    assert count(session, "account_stop") == 2


def test_endpoints_that_make_something_do_it_once(app: Flask) -> None:
    endpoints = {
        rule.endpoint
        for rule in app.url_map.iter_rules()
        if "POST" in (rule.methods or ()) and not rule.rule.startswith(NO_PAGES)
    }
    making = {each for each in endpoints if MAKES.match(each.partition(".")[2])}
    assert making - form_tokens.ONCE == NOT_ONCE.keys()
    assert endpoints >= form_tokens.ONCE | form_tokens.WITHOUT_EFFECT
