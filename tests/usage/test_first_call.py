"""The page of a new key: the key once, commands, and its first call, for own keys, keys of organisations and service accounts."""

import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Session
from models.accounts.credentials import hash_token
from models.core.db import db
from models.gateway import GatewayCall
from models.orgs import Org
from models.orgs.service_accounts import create_service_account
from tests import factories
from tests.factories import Person

POLL = 'hx-trigger="every 2s"'
HTMX = {"HX-Request": "true"}


def page_of(token: str, slug: str | None = None) -> str:
    return f"{f'/orgs/{slug}' if slug else '/profile'}/keys/{hash_token(token)}/first-call"


def call(person: Person, token: str, **kw: Any) -> GatewayCall:
    assert person.user
    return factories.call(person.user, key_id=hash_token(token), **kw)


def test_the_key_is_in_every_command_once(alice: Person) -> None:
    keys = "/profile?tab=api-keys"
    found = re.search(r'name="csrf_token" value="([^"]+)"', alice.browser.get(keys).text)
    assert found
    made = alice.browser.post("/profile/keys", data={"csrf_token": found[1], "name": "x", "days": "9"})
    page = alice.browser.get(made.location)
    token = re.findall(r"sk_live_[0-9A-Za-z]{73}", page.text)[0]
    for line in (
        f"export STOA_KEY={token}",
        f"Bearer {token}",
        f"base_url=&#34;http://localhost:8000/v1&#34;, api_key=&#34;{token}&#34;",
        f"apiKey: &#34;{token}&#34;",
    ):
        assert line in page.text or line.replace("&#34;", '"') in page.text, line
    assert page.headers["Cache-Control"] == "no-store"
    assert "Waiting for your first call" in page.text
    again = alice.browser.get(made.location).text
    assert "cb-pat-" not in again.replace(token[:15], "")
    assert "$STOA_KEY" in again


def test_waiting_becomes_the_call(session: OrmSession, alice: Person) -> None:
    page = page_of(alice.token)
    session.get_one(Session, hash_token(alice.token)).created_at = factories.now() - timedelta(minutes=5)
    session.commit()
    waiting = alice.browser.get(page, headers=HTMX).text
    assert POLL in waiting
    assert "<html" not in waiting
    assert alice.browser.get(f"{page}?seen=", headers=HTMX).status_code == 204, "nothing new"
    failed = call(alice, alice.token, state="failed", http_status=402, error="insufficient_credits")
    refused = alice.browser.get(page, headers=HTMX).text
    assert "A call failed with 402. Nothing was charged." in refused
    assert "There were no credits to pay for it." in refused
    assert f"/calls/{failed.request_id}" in refused
    assert POLL in refused, "the next may work"
    assert alice.browser.get(f"{page}?seen={failed.request_id}", headers=HTMX).status_code == 204
    assert alice.user
    first = factories.call(
        alice.user,
        key_id=hash_token(alice.token),
        message=factories.message(alice.user, credits=0),
        micro_credits=412_000,
    )
    text = alice.browser.get(page, headers=HTMX).text
    assert POLL not in text
    assert re.search(r"0\.41 <small>credits</small>", text)
    assert "Fractions add up" in text
    assert f"/calls/{first.request_id}" in text
    assert "Your first call" in alice.browser.get(page).text
    usage = alice.browser.get("/profile?tab=usage").text
    assert "No calls yet" not in usage


def test_waiting_ends_after_an_hour(session: OrmSession, alice: Person) -> None:
    session.get_one(Session, hash_token(alice.token)).created_at = factories.now() - timedelta(minutes=61)
    session.commit()
    call(alice, alice.token)
    text = alice.browser.get(page_of(alice.token)).text
    assert POLL not in text
    assert "No call yet" in text


def test_who_sees_the_page_of_which_key(session: OrmSession, acme: Org, cast: dict[str, Person]) -> None:
    alice, bob = cast["alice"].user, cast["bob"].user
    assert alice
    assert bob
    service = create_service_account(acme, alice.id, "Builds")
    account = db.session.get_one(type(alice), service.user_id)
    own = cast["bob"].token
    org_key = factories.token(bob, org_id=acme.id, name="ci")
    service_key = factories.token(account, org_id=acme.id, name="builds")
    table = {
        page_of(own): {"bob": 200, "anonymous": 302},
        page_of(org_key): {"bob": 303, "anonymous": 302},
        page_of(org_key, "acme"): {"bob": 200, "alice": 200, "carol": 200, "anonymous": 302},
        page_of(service_key, "acme"): {"alice": 200, "carol": 200, "anonymous": 302},
        page_of(own, "acme"): {"anonymous": 302},
    }
    for path, allowed in table.items():
        for name, person in cast.items():
            answer = person.browser.get(path)
            assert answer.status_code == allowed.get(name, 404), (path, name)
    assert cast["bob"].browser.get(page_of(org_key)).location == page_of(org_key, "acme")
    factories.call(
        account, key_id=hash_token(service_key), org_id=acme.id, micro_credits=1, started_at=factories.now()
    )
    text = cast["alice"].browser.get(page_of(service_key, "acme")).text
    assert "0.000001 <small>" in text
    assert "/orgs/acme/calls/" in text


@pytest.mark.parametrize("key", ["x", "a\0b", "é", "0" * 64, "'" * 9])
def test_unknown_keys_are_404(alice: Person, acme: Org, key: str) -> None:
    for base in ("/profile", "/orgs/acme"):
        assert alice.browser.get(f"{base}/keys/{key}/first-call").status_code == 404


def test_a_refused_first_call_is_shown_with_its_reason(
    app: Flask, session: OrmSession, alice: Person
) -> None:
    body = {"model": "stoa/demo", "messages": [{"role": "user", "content": "Hello"}]}
    refused = app.test_client().post("/v1/chat/completions", json=body, headers=alice.headers)
    assert refused.status_code == 402
    app.extensions["gateway"].refused_calls.flush()
    page = alice.browser.get(page_of(alice.token)).text
    assert "A call failed with 402. Nothing was charged." in page
    assert "There were no credits to pay for it." in page
    assert POLL in page
