"""Referral pages: the profile tab, the invitation signed in and out, affiliate handles and their short links."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from flask import Flask
from sqlalchemy import event, select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from models.billing import Referral
from models.billing.referral_program import affiliates, referrals
from models.core.audit_log import AuditLog
from models.core.db import db, now
from models.core.errors import DomainError
from models.core.settings import Settings
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person
from views.billing.pages.referrals import PAGE
from views.web.guards import limiter

TAB = "/profile?tab=referrals"
HTMX = {"HX-Request": "true"}


@pytest.fixture(autouse=True)
def fresh_limits(app: Flask) -> Iterator[None]:
    yield
    with app.app_context():
        limiter.reset()


@pytest.fixture
def first_purchase(app: Flask, settings: Settings) -> Iterator[None]:
    app.extensions["settings"] = settings.model_copy(update={"stoa_referral_reward": "first_purchase"})
    yield
    app.extensions["settings"] = settings


def page_of(person: Person) -> str:
    assert person.user is not None
    return f"/referrals/{person.user.referral_code}"


def post(person: Person, path: str, **form: str) -> tuple[int, str, str]:
    """Post a form with the token of the page at the same path; returns status, location and text."""
    token = token_of(person.browser.get(path))
    answer = person.browser.post(path, data={"csrf_token": token, **form})
    return answer.status_code, answer.headers.get("Location", ""), answer.text


def plain(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


# -- the tab -------------------------------------------------------------------------------------------------


def test_the_tab_shows_link_limit_and_people(session: OrmSession, alice: Person, bob: Person) -> None:
    assert "No referrals yet" in alice.browser.get(TAB).text
    assert post(bob, page_of(alice))[:2] == (303, TAB)
    text = plain(alice.browser.get(TAB).text)
    assert f"http://localhost:8000{page_of(alice)}" in text
    assert "1 of 5" in text
    assert "bob bob@example.org" in text
    assert "Paid" in text
    assert "Referred by alice" in plain(bob.browser.get(TAB).text)
    assert "You got 250 credits on" in plain(bob.browser.get(TAB).text)


def test_the_tab_refreshes_only_its_lists(alice: Person, bob: Person, anonymous: Person) -> None:
    page = alice.browser.get(TAB)
    assert f'hx-get="{TAB}" hx-trigger="every 15s"' in page.text
    part = alice.browser.get(TAB, headers=HTMX)
    assert part.text.lstrip().startswith('<div class="stack stack--wide" id="referrals"')
    assert anonymous.browser.get(TAB).status_code == 302
    assert anonymous.browser.get(TAB, headers=HTMX).status_code == 401


def test_each_state_of_a_waiting_reward_is_shown(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, first_purchase: None
) -> None:
    assert "7 days after the first purchase" in plain(alice.browser.get(TAB).text)
    for person in (bob, mallory):
        assert post(person, page_of(alice))[:2] == (303, TAB)
    assert "You get your credits after your first purchase" in bob.browser.get(TAB).text
    assert "You get 250 credits 7 days after your first purchase" in plain(bob.browser.get(TAB).text)
    assert "Waiting for the first purchase" in plain(alice.browser.get(TAB).text)
    assert referrals.referral_paid(bob.id, "buy-1")
    assert referrals.referral_paid(mallory.id, "buy-2")
    assert referrals.referral_void(mallory.id, "buy-2", "refund")
    session.commit()
    text = plain(alice.browser.get(TAB).text)
    assert "Held until" in text
    assert "Void purchase refunded" in text
    assert "1 of 5" in text
    assert "unless your purchase is refunded or disputed by then" in plain(bob.browser.get(TAB).text)
    assert "No credits were paid for it" in plain(mallory.browser.get(TAB).text)


def test_a_long_list_is_paginated_with_few_queries(app: Flask, session: OrmSession, alice: Person) -> None:
    me = session.get_one(User, alice.id)
    for number in range(PAGE + 3):
        friend = factories.user(f"friend{number:03}")
        factories.referral(me, friend, 250, created_at=now() - timedelta(minutes=number // 2))
    queries: list[str] = []
    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *a: queries.append(a[2]))
    page = alice.browser.get(TAB)
    assert len(queries) <= 12, queries
    shown = re.findall(r"friend\d+@", page.text)
    found = re.search(r'href="([^"]+)" id="older"', page.text)
    assert found
    older = alice.browser.get(found[1].replace("&amp;", "&")).text
    assert 'id="newest"' in older
    assert 'id="older"' not in older
    rest = re.findall(r"friend\d+@", older)
    assert (len(shown), len(rest), len({*shown, *rest})) == (PAGE, 3, PAGE + 3)
    for cursor in ("none", "%00"):
        assert alice.browser.get(f"{TAB}&before={cursor}").status_code == 200


def test_a_user_without_a_code_sees_a_notice(session: OrmSession, alice: Person) -> None:
    session.get_one(User, alice.id).referral_code = None
    session.commit()
    assert "Your account has no referral code" in alice.browser.get(TAB).text


def test_the_old_url_redirects_to_the_tab(anonymous: Person) -> None:
    answer = anonymous.browser.get("/referrals")
    assert (answer.status_code, answer.headers["Location"]) == (308, TAB)


# -- the invitation ------------------------------------------------------------------------------------------


def test_signing_in_returns_to_the_invitation(alice: Person, anonymous: Person) -> None:
    page = anonymous.browser.get(page_of(alice))
    assert page.status_code == 200
    assert "alice invites you" in page.text
    assert f'href="/login?next={page_of(alice)}"' in page.text
    assert anonymous.browser.post(page_of(alice)).status_code in (302, 303, 400)


def test_a_signed_in_user_accepts_with_one_button(session: OrmSession, alice: Person, bob: Person) -> None:
    assert post(bob, page_of(alice))[:2] == (303, TAB)
    assert "You got 250 credits." in bob.browser.get(TAB).text
    made = session.scalars(select(Referral)).one()
    assert (made.referrer_id, made.referred_id, made.status) == (alice.id, bob.id, "completed")
    again = bob.browser.get(page_of(alice))
    assert again.status_code == 200
    assert "already been referred" in again.text
    assert "Accept the invitation" not in again.text


def test_a_repeated_form_shows_an_error_and_changes_nothing(
    session: OrmSession, alice: Person, bob: Person
) -> None:
    token = token_of(bob.browser.get(page_of(alice)))
    assert bob.browser.post(page_of(alice), data={"csrf_token": token}).status_code == 303
    second = bob.browser.post(page_of(alice), data={"csrf_token": token})
    assert second.status_code == 409
    assert "already been referred" in second.text
    assert bob.browser.post(page_of(alice)).status_code == 400  # without the token
    unknown = bob.browser.post("/referrals/ref-none", data={"csrf_token": token})
    assert unknown.status_code == 404
    assert len(session.scalars(select(Referral)).all()) == 1


def test_the_owner_sees_the_link_to_share(alice: Person) -> None:
    page = alice.browser.get(page_of(alice))
    assert "This is your own link" in page.text
    assert "Accept the invitation" not in page.text


def test_unknown_and_full_invitations(
    session: OrmSession, alice: Person, bob: Person, anonymous: Person
) -> None:
    for name in ("ref-none", "%00", "x" * 3000):
        page = anonymous.browser.get(f"/referrals/{name}")
        assert page.status_code == 404
        assert "Unknown invitation" in page.text
    session.get_one(User, alice.id).referral_limit = 0
    session.commit()
    assert "Referral limit reached" in anonymous.browser.get(page_of(alice)).text
    assert "maxxed out" in bob.browser.get(page_of(alice)).text
    assert "Accept" not in bob.browser.get(page_of(alice)).text.split("<main")[1].split("</p>", 1)[1]


def test_the_title_uses_only_the_owners_name(session: OrmSession, alice: Person, anonymous: Person) -> None:
    session.get_one(User, alice.id).handle = "ally"
    session.commit()
    assert "<title>@ally invites you" in anonymous.browser.get(f"{page_of(alice)}?referrer=Ally").text
    assert "<title>alice invites you" in anonymous.browser.get(f"{page_of(alice)}?referrer=your_bank").text


# -- affiliates ----------------------------------------------------------------------------------------------


def test_a_handle_gives_a_short_link_and_a_limit_of_500(
    session: OrmSession, alice: Person, anonymous: Person
) -> None:
    assert post(alice, "/affiliates", handle=" Ally_1 ")[:2] == (303, "/affiliates")
    session.expire_all()
    me = session.get_one(User, alice.id)
    assert (me.handle, me.referral_limit) == ("ally_1", 500)
    assert "http://localhost:8000/ally_1" in alice.browser.get("/affiliates").text
    assert "http://localhost:8000/ally_1" in alice.browser.get(TAB).text
    assert alice.browser.get("/api/user/profile").json["handle"] == "ally_1"
    assert alice.browser.get("/api/referrals").json["referralLimit"] == 500
    for path in ("/ally_1", "/ALLY_1"):
        answer = anonymous.browser.get(path)
        assert answer.status_code == 302
        assert answer.headers["Location"] == f"{page_of(alice)}?referrer=ally_1"
    logged = session.scalars(select(AuditLog).where(AuditLog.action == "affiliate.named")).one()
    assert logged.subject == alice.id


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        ("", "3 to 20 letters"),
        ("ab", "3 to 20 letters"),
        ("a" * 21, "3 to 20 letters"),
        ("with-hyphen", "3 to 20 letters"),
        ("naïve", "3 to 20 letters"),
        ("a\0bc", "3 to 20 letters"),
        ("ΑΒΓ", "3 to 20 letters"),
        ("Admin", "reserved"),
        ("codebuff", "reserved"),
        ("publishers", "reserved"),
        ("readyz", "reserved"),
        ("BOBBY", "taken"),
    ],
)
def test_an_invalid_handle_returns_the_form(
    session: OrmSession, alice: Person, bob: Person, handle: str, message: str
) -> None:
    session.get_one(User, bob.id).handle = "bobby"
    session.commit()
    status, _, text = post(alice, "/affiliates", handle=handle)
    assert status == 422
    assert message in text
    assert 'aria-invalid="true"' in text
    session.expire_all()
    me = session.get_one(User, alice.id)
    assert (me.handle, me.referral_limit) == (None, 5)


def test_a_handle_cannot_be_changed(session: OrmSession, alice: Person) -> None:
    token = token_of(alice.browser.get("/affiliates"))
    for handle, status in (("first", 303), ("second", 409)):
        answer = alice.browser.post("/affiliates", data={"csrf_token": token, "handle": handle})
        assert answer.status_code == status
    session.expire_all()
    assert session.get_one(User, alice.id).handle == "first"


def test_of_concurrent_claims_of_a_handle_one_succeeds(
    app: Flask, session: OrmSession, alice: Person, bob: Person, mallory: Person
) -> None:
    people = [alice.id, bob.id, mallory.id] * 3
    start = Barrier(len(people))

    def claim(number: int) -> str:
        with app.app_context():
            start.wait()
            try:
                affiliates.set_handle(people[number], "wanted" if number % 2 else f"other{number}")
                db.session.commit()
            except DomainError as error:
                db.session.rollback()
                return error.message
            return "set"

    with ThreadPoolExecutor(len(people)) as threads:
        results = list(threads.map(claim, range(len(people))))
    assert results.count("set") == 3
    session.expire_all()
    handles = [session.get_one(User, each.id).handle for each in (alice, bob, mallory)]
    assert None not in handles
    assert len(set(handles)) == 3


def test_access_to_handles(alice: Person, anonymous: Person) -> None:
    assert anonymous.browser.get("/affiliates").status_code == 302
    assert anonymous.browser.post("/affiliates", data={"handle": "nobody"}).status_code == 400
    assert alice.browser.post("/affiliates", data={"handle": "nobody"}).status_code == 400


def test_other_paths_keep_their_responses(session: OrmSession, alice: Person, anonymous: Person) -> None:
    session.get_one(User, alice.id).handle = "models"
    session.commit()
    assert anonymous.browser.get("/models").location.startswith("/login")
    assert anonymous.browser.get("/nobody").status_code == 404
    assert anonymous.browser.post("/models").status_code == 405
    assert anonymous.browser.get("/no-such-page").status_code == 404
    session.get_one(User, alice.id).handle = "ally"
    session.get_one(User, alice.id).banned = True
    session.commit()
    assert anonymous.browser.get("/ally").status_code == 404
