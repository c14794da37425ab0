"""Few and no credits: the banner, the page that says why and when more arrive, and the way from a refused call to it."""

import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy.orm import Session as OrmSession

from models.billing.low_balance import set_low_balance_threshold
from models.core.db import db
from models.ledger import Account, revoke
from models.orgs import Org
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge
from tests.factories import Person
from tests.orgs.test_orgs_in_browser import enter, shoot
from tests.server import serving

RUNS = "/runs"
EMPTY, LOW = "no credits. New calls are refused.", " credits left."


def shown(person: Person, path: str = RUNS) -> str:
    found = re.search(r'class="banner".*?</div>', person.browser.get(path).text, re.DOTALL)
    return found[0] if found else ""


@pytest.mark.parametrize(
    ("credits", "threshold", "topup", "expected"),
    [
        (0, None, False, EMPTY),
        (0, None, True, EMPTY),
        (60, None, False, LOW),
        (60, None, True, ""),
        (60, 40, False, ""),
        (60, 0, False, ""),
        (60, 5000, False, LOW),
        (100, 5000, False, ""),
    ],
)
def test_when_a_banner_warns(
    session: OrmSession, alice: Person, credits: int, threshold: int | None, topup: bool, expected: str
) -> None:
    assert alice.user
    if credits:
        factories.grant(alice.user, credits)
    alice.user.auto_topup_enabled = topup
    set_low_balance_threshold(Account(user_id=alice.id), threshold)
    session.commit()
    banner = shown(alice)
    assert (expected in banner) if expected else not banner
    if expected:
        assert 'href="/credits"' in banner
    assert not shown(alice, "/credits"), "it says so itself"


def test_the_banner_of_low_credits_is_hidden_for_a_day(
    session: OrmSession, acme: Org, cast: dict[str, Person]
) -> None:
    alice = cast["alice"]
    assert alice.user
    factories.grant(alice.user, 60)
    factories.grant(alice.user, 60, type="organization", org_id=acme.id)
    page = "/orgs/acme/runs"
    assert "Acme has 60 credits left." in shown(alice, page)
    token = re.search(r'name="csrf_token" value="([^"]+)"', shown(alice, page))
    assert token
    form = {"csrf_token": token[1]}
    headers = {"Referer": f"http://localhost{page}"}
    answer = alice.browser.post("/orgs/acme/credits/dismissal", data=form, headers=headers)
    assert (answer.status_code, answer.location) == (303, page)
    assert not shown(alice, page)
    assert shown(alice), "of another account"
    away = alice.browser.post(
        "/credits/dismissal", data=form, headers={"Referer": "http://elsewhere.example/x"}
    )
    assert away.status_code in (303, 403)
    statuses = {}
    for name, person in cast.items():
        own = re.search(
            r'name="csrf_token" value="([^"]+)"',
            person.browser.get("/orgs/new" if person.user else "/login").text,
        )
        assert own
        statuses[name] = person.browser.post(
            "/orgs/acme/credits/dismissal", data={"csrf_token": own[1]}
        ).status_code
    assert statuses == {"alice": 303, "carol": 303, "bob": 303, "dave": 303, "mallory": 404, "anonymous": 303}
    assert (
        "/login" in cast["anonymous"].browser.post("/credits/dismissal", data={"csrf_token": own[1]}).location
    )


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ("nothing", "No credits were added yet"),
        ("spent", "All credits were spent on calls"),
        ("owed", "You owe 5 credits"),
        ("held", "All credits are held by calls in progress"),
        ("revoked", "Most credits were taken back"),
    ],
)
def test_the_page_says_why(session: OrmSession, alice: Person, history: str, why: str) -> None:
    assert alice.user
    if history != "nothing":
        left = {"spent": 0, "owed": -5}.get(history, 100)
        made = factories.grant(alice.user, 100, balance=left)
        if history == "held":
            factories.hold(alice.user, amount=100)
        if history == "revoked":
            revoke(made.operation_id, "abuse", now=factories.now())
    alice.user.next_quota_reset = factories.now() + timedelta(days=3)
    session.commit()
    page = alice.browser.get("/credits").text
    assert why in page
    # a revoked grant counts as none
    assert re.search(r"Monthly free credits</dt><dd>([\d,]+ on <time|None)", page)
    usage = alice.browser.get("/profile?tab=usage").text
    assert ("No credits yet" in usage) == (history == "nothing")
    assert ("No credits left" in usage) == (history == "revoked")


def test_whom_to_ask_in_an_organisation(session: OrmSession, acme: Org, cast: dict[str, Person]) -> None:
    assert cast["alice"].user
    factories.grant(cast["alice"].user, 9, type="organization", org_id=acme.id)
    for name, status in {"alice": 200, "bob": 200, "dave": 200, "mallory": 404, "anonymous": 302}.items():
        answer = cast[name].browser.get("/orgs/acme/credits")
        assert answer.status_code == status, name
        if status == 200:
            for asked in ("alice", "carol", "dave"):
                assert f"mailto:{asked}@example.org" in answer.text
            assert "mailto:bob" not in answer.text
            assert ("Where they went" in answer.text) == (name != "bob")
            assert "Monthly free credits" not in answer.text


def test_a_refused_call_leads_to_the_page(
    app: Flask, session: OrmSession, acme: Org, bob: Person, mallory: Person
) -> None:
    assert bob.user
    client: Any = app.test_client()
    body = {"model": "stoa/demo", "messages": [{"role": "user", "content": "Hello"}]}
    for token, query in ((bob.token, ""), (factories.token(bob.user, org_id=acme.id), f"?org={acme.id}")):
        refused = client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {token}"})
        assert refused.status_code == 402
        message = refused.json["error"]["message"]
        assert f"http://localhost:8000/credits{query}" in message
    assert bob.browser.get(f"/credits?org={acme.id}").location == "/orgs/acme/credits"
    assert mallory.browser.get(f"/credits?org={acme.id}").location == "/credits"
    assert mallory.browser.get("/credits?org=a%00b").location == "/credits"
    db.session.rollback()


@pytest.mark.browser
def test_axe_finds_nothing(
    open_page: OpenPage, app: Flask, session: OrmSession, acme: Org, alice: Person, bob: Person
) -> None:
    assert alice.user
    assert bob.user
    factories.grant(alice.user, 100, balance=-5)
    factories.grant(bob.user, 60)
    with serving(app) as base, open_page(base, width=390) as page:
        enter(page, alice)
        for name, path in {"credits": "/credits", "credits-of-organisation": "/orgs/acme/credits"}.items():
            page.goto(path)
            shoot(page, name)
            judge(page, *WIDTHS)
        page.goto(RUNS)
        shoot(page, "credits-empty-banner")
        enter(page, bob)
        page.goto(RUNS)
        shoot(page, "credits-low-banner")
        judge(page, *WIDTHS)
        page.get_by_role("button", name="Hide for today").click()
        expect(page.get_by_role("region", name="Credits")).to_have_count(0)
