"""Referrals: redemption by the contract, limits, self-referrals, concurrency, and rewards that wait for a purchase."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as OrmSession

from models import ledger
from models.accounts import User, devices
from models.accounts.credentials import find_browser
from models.billing import Referral
from models.billing.referral_program import referrals
from models.billing.referral_program.referrals import BONUS, HOLD, inbox
from models.core import jobs
from models.core.db import db, now
from models.core.errors import Conflict, DomainError
from models.core.settings import Settings
from models.ledger import Account, CreditLedger
from models.ledger.credit_operations import call_function
from tests import factories
from tests.factories import Person
from views.web.guards import limiter

ALREADY = "You've already been referred by someone. Each user can only be referred once."
UNKNOWN = "This referral code doesn't exist! Try again or reach out to support@codebuff.com if the problem persists."
OWN = "Nice try bud, you can't use your own referral code."
DOUBLE = "You were referred by this user already. No double dipping, refer someone new!"
FULL = "This referrer has maxxed out the number of referrals they can make"
SELF = "You cannot use the code of an account that shares its inbox, device or card with yours."
OK = {"message": "Referral applied successfully!", "credits_redeemed": 250}


@pytest.fixture(autouse=True)
def fresh_limits(app: Flask) -> Iterator[None]:
    yield
    with app.app_context():
        limiter.reset()


@pytest.fixture
def first_purchase(app: Flask, settings: Settings) -> Iterator[None]:
    """Rewards wait for the first purchase."""
    app.extensions["settings"] = settings.model_copy(update={"stoa_referral_reward": "first_purchase"})
    yield
    app.extensions["settings"] = settings


def code_of(person: Person) -> str:
    assert person.user is not None
    assert person.user.referral_code
    return person.user.referral_code


def redeem(person: Person, code: Any, **body: Any) -> Any:
    return person.browser.post("/api/referrals", json={"referralCode": code, **body})


def grants(session: OrmSession, person: Person) -> list[CreditLedger]:
    session.expire_all()
    query = select(CreditLedger).where(CreditLedger.user_id == person.id, CreditLedger.type == "referral")
    return list(session.scalars(query.order_by(CreditLedger.operation_id)))


def referral(session: OrmSession, referred: Person) -> Referral:
    session.expire_all()
    return session.scalars(select(Referral).where(Referral.referred_id == referred.id)).one()


def by_code(user_id: str, code: str, reward: Any = "now", moment: datetime | None = None) -> Referral:
    return referrals.redeem(user_id, code, reward=reward, free_credits=500, now=moment)


# -- redeeming -----------------------------------------------------------------------------------------------


def test_both_sides_get_250_credits_until_the_referred_users_reset(
    session: OrmSession, alice: Person, bob: Person
) -> None:
    answer = redeem(bob, code_of(alice))
    assert (answer.status_code, answer.json) == (200, OK)
    made = referral(session, bob)
    assert (made.referrer_id, made.status, made.credits, made.completed_at is not None) == (
        alice.id,
        "completed",
        250,
        True,
    )
    [ours], [theirs] = grants(session, alice), grants(session, bob)
    reset = session.get_one(User, bob.id).next_quota_reset
    assert (ours.principal, ours.description, ours.expires_at) == (250, "Referral bonus (referrer)", reset)
    assert (theirs.principal, theirs.description, theirs.expires_at) == (
        250,
        "Referral bonus (referred)",
        reset,
    )
    stem = ours.operation_id.removesuffix("-referrer")
    assert theirs.operation_id == f"{stem}-referred"
    assert stem.startswith("ref-")
    assert ledger.prove().clean


def test_a_due_quota_cycle_of_the_referred_user_is_run_first(
    session: OrmSession, alice: Person, bob: Person
) -> None:
    session.get_one(User, bob.id).next_quota_reset = now() - timedelta(days=3)
    session.commit()
    assert redeem(bob, code_of(alice)).status_code == 200
    [theirs] = grants(session, bob)
    assert theirs.description == "Referral bonus (referred)"
    assert theirs.expires_at == session.get_one(User, bob.id).next_quota_reset
    assert theirs.expires_at
    assert theirs.expires_at > now()


def test_the_bonus_comes_again_with_every_quota_cycle_of_each_side(
    session: OrmSession, alice: Person, bob: Person
) -> None:
    assert redeem(bob, code_of(alice)).status_code == 200
    later = now() + timedelta(days=40)
    for person in (alice, bob):
        quota = ledger.ensure_quota(Account(user_id=person.id), 500, now=later)
        session.commit()
        assert quota
        assert quota.referral == 250
        assert [each.description for each in grants(session, person)][-1] == "Monthly referral bonus"
    assert ledger.prove().clean


def with_cookie(person: Person) -> tuple[Any, dict[str, str], dict[str, str]]:
    return person.browser, {}, {}


def with_key(person: Person) -> tuple[Any, dict[str, str], dict[str, str]]:
    return person.browser.application.test_client(), person.headers, {}


def with_token_in_body(person: Person) -> tuple[Any, dict[str, str], dict[str, str]]:
    return person.browser.application.test_client(), {}, {"authToken": person.token}


@pytest.mark.parametrize("caller", [with_cookie, with_key, with_token_in_body])
def test_every_error_of_the_contract(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, caller: Callable[..., Any]
) -> None:
    def ask(person: Person, code: str) -> tuple[int, Any]:
        client, headers, body = caller(person)
        answer = client.post("/api/referrals", json={"referralCode": code, **body}, headers=headers)
        return answer.status_code, answer.json

    assert ask(bob, "ref-none") == (404, {"error": UNKNOWN})
    assert ask(bob, code_of(bob)) == (400, {"error": OWN})
    assert ask(bob, code_of(alice)) == (200, OK)
    assert ask(bob, code_of(mallory)) == (409, {"error": ALREADY})
    assert ask(bob, "ref-none") == (409, {"error": ALREADY})
    assert ask(alice, code_of(bob)) == (409, {"error": DOUBLE})
    assert ask(alice, code_of(alice)) == (400, {"error": OWN})
    session.get_one(User, alice.id).referral_limit = 1
    session.commit()
    assert ask(mallory, code_of(alice)) == (400, {"error": FULL})
    assert len(grants(session, alice)) == len(grants(session, bob)) == 1
    assert grants(session, mallory) == []


def test_bodies_without_a_code(alice: Person, bob: Person, anonymous: Person) -> None:
    for body in ({}, {"referralCode": ""}, {"referralCode": 5}, [], "ref-x"):
        answer = bob.browser.post("/api/referrals", json=body)
        assert (answer.status_code, answer.json) == (400, {"error": "Missing referral code"}), body
        answer = anonymous.browser.post("/api/referrals", json=body, headers=bob.headers)
        expected = (404, UNKNOWN) if body == {"referralCode": ""} else (400, "Invalid request body")
        assert (answer.status_code, answer.json["error"]) == expected, body
    for client, headers in ((bob.browser, {}), (anonymous.browser, bob.headers)):
        answer = client.post("/api/referrals", data="{", headers=headers)
        assert (answer.status_code, answer.json) == (400, {"error": "Invalid request body"})


def test_redeeming_needs_a_known_key(alice: Person, anonymous: Person) -> None:
    for body, headers in (
        ({}, {}),
        ({"authToken": "cb-pat-none"}, {}),
        ({}, {"authorization": "Bearer none"}),
    ):
        answer = anonymous.browser.post(
            "/api/referrals", json={"referralCode": code_of(alice), **body}, headers=headers
        )
        assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})
    other_site = {"Origin": "https://evil.example"}
    answer = alice.browser.post("/api/referrals", json={"referralCode": "x"}, headers=other_site)
    assert answer.status_code == 403


def test_the_cookie_comes_before_the_key(
    session: OrmSession, alice: Person, bob: Person, mallory: Person
) -> None:
    answer = bob.browser.post(
        "/api/referrals", json={"referralCode": code_of(alice)}, headers=mallory.headers
    )
    assert answer.status_code == 200
    assert len(grants(session, bob)) == 1
    assert grants(session, mallory) == []


def test_a_failed_request_redeems_nothing(
    session: OrmSession, alice: Person, bob: Person, anonymous: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = referrals.grant

    def broken(account: Account, *args: Any, **kw: Any) -> Any:
        if account.user_id == bob.id:
            raise IntegrityError("grant", {}, Exception("broken"))
        return real(account, *args, **kw)

    monkeypatch.setattr(referrals, "grant", broken)
    answer = redeem(bob, code_of(alice))
    assert (answer.status_code, answer.json) == (500, {"error": "Internal server error"})
    answer = anonymous.browser.post(
        "/api/referrals", json={"referralCode": code_of(alice)}, headers=bob.headers
    )
    message = "Failed to apply referral code. Please try again later."
    assert (answer.status_code, answer.json) == (500, {"error": message})
    assert session.scalars(select(Referral)).all() == []
    assert grants(session, alice) == grants(session, bob) == []


def test_the_code_of_a_suspended_user_is_unknown(session: OrmSession, alice: Person, bob: Person) -> None:
    session.get_one(User, alice.id).banned = True
    session.commit()
    assert redeem(bob, code_of(alice)).status_code == 404
    looked_up = bob.browser.get(f"/api/referrals/{code_of(alice)}").json
    assert looked_up["referrerName"] is None
    assert looked_up["status"]["reason"] == "Referrer Not Found"
    assert bob.browser.get(f"/referrals/{code_of(alice)}").status_code == 404


# -- self-referrals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "same"),
    [
        ("alice@example.org", "alice@example.org"),
        ("Alice+x+y@Example.org", "alice@example.org"),
        ("+x@example.org", "+x@example.org"),
        ("a.li.ce+x@gmail.com", "alice@gmail.com"),
        ("alice@googlemail.com", "alice@gmail.com"),
        ("a.lice@example.org", "a.lice@example.org"),
    ],
)
def test_one_inbox_has_many_addresses(address: str, same: str) -> None:
    assert inbox(address) == same


def test_the_same_inbox_is_rejected(session: OrmSession, app: Flask, bob: Person) -> None:
    first = factories.user("a", email="al.ice@gmail.com")
    session.get_one(User, bob.id).email = "alice+2@googlemail.com"
    session.commit()
    assert first.referral_code
    answer = redeem(bob, first.referral_code)
    assert (answer.status_code, answer.json) == (400, {"error": SELF})
    assert session.scalars(select(Referral)).all() == []


def test_the_same_device_is_rejected_also_after_signing_out(
    session: OrmSession, settings: Settings, alice: Person, bob: Person, mallory: Person
) -> None:
    for person in (alice, bob):
        token = person.browser.get_cookie("next-auth.session-token")
        assert token
        by = find_browser(token.value, now())
        assert by
        code = devices.issue_code(settings.secret_key, "one-machine", now())
        assert devices.connect(settings.secret_key, code, by, now()) is devices.DeviceCodeStatus.DONE
        session.commit()
        collected = devices.collect(settings.secret_key, code, now())
        assert collected
        assert devices.disconnect(collected[1], person.id, "one-machine")
        session.commit()
    answer = redeem(bob, code_of(alice))
    assert (answer.status_code, answer.json) == (400, {"error": SELF})
    assert redeem(mallory, code_of(alice)).status_code == 200


# -- concurrency ---------------------------------------------------------------------------------------------


def at_once(app: Flask, *work: Callable[[], Any]) -> list[Any]:
    """Run each in a thread and a transaction of its own, all starting together; an error is its message."""
    start = threading.Barrier(len(work))

    def run(one: Callable[[], Any]) -> Any:
        with app.app_context():
            start.wait()
            try:
                result = one()
                db.session.commit()
            except DomainError as error:
                db.session.rollback()
                return error.message
            return result

    with ThreadPoolExecutor(len(work)) as threads:
        return list(threads.map(run, work))


def redeems(user_id: str, code: str | None) -> Callable[[], Any]:
    assert code
    return lambda: by_code(user_id, code).credits


def test_of_concurrent_redemptions_by_one_user_one_counts(
    app: Flask, session: OrmSession, alice: Person, bob: Person, mallory: Person
) -> None:
    codes = [code_of(alice), code_of(mallory)] * 4
    results = at_once(app, *(redeems(bob.id, code) for code in codes))
    assert sorted(map(str, results)) == sorted(["250", *[ALREADY] * 7])
    paid = [*grants(session, bob), *grants(session, alice), *grants(session, mallory)]
    assert len(paid) == 2
    assert ledger.prove().clean


def test_concurrent_redemptions_of_each_others_codes_count_once(
    app: Flask, session: OrmSession, alice: Person, bob: Person
) -> None:
    pair = (redeems(alice.id, code_of(bob)), redeems(bob.id, code_of(alice)))
    results = at_once(app, *pair * 4)
    assert results.count(250) == 1
    assert set(results) == {250, ALREADY, DOUBLE}
    assert len(session.scalars(select(Referral)).all()) == 1
    assert (len(grants(session, alice)), len(grants(session, bob))) == (1, 1)


def test_concurrent_redemptions_never_exceed_the_referrers_limit(
    app: Flask, session: OrmSession, alice: Person
) -> None:
    people = [factories.user(f"friend{number}").id for number in range(10)]
    results = at_once(app, *(redeems(id, code_of(alice)) for id in people))
    assert sorted(map(str, results)) == sorted(["250"] * 5 + [FULL] * 5)
    assert sum(each.principal for each in grants(session, alice)) == 5 * BONUS
    assert ledger.prove().clean


def test_constraints_reject_what_the_domain_rejects(session: OrmSession, alice: Person, bob: Person) -> None:
    carol = factories.user("carol")
    factories.referral(session.get_one(User, alice.id), session.get_one(User, bob.id))
    for referrer, referred, rule in (
        (carol.id, bob.id, "referral_referred_id_unique"),
        (bob.id, alice.id, "idx_referral_pair"),
        (carol.id, carol.id, "referral_of_another_user"),
    ):
        session.add(Referral(referrer_id=referrer, referred_id=referred, credits=250))
        with pytest.raises(IntegrityError, match=rule):
            session.flush()
        session.rollback()
    for columns, rule in (
        ({"credits": 250, "voided_at": now(), "void_reason": "refund"}, "referral_void_earns_nothing"),
        ({"credits": 0, "voided_at": now()}, "referral_void_for_a_known_reason"),
        ({"credits": 0, "voided_at": now(), "void_reason": "x"}, "referral_void_for_a_known_reason"),
        ({"credits": 0, "held_until": now()}, "referral_held_for_a_purchase"),
    ):
        session.add(Referral(referrer_id=alice.id, referred_id=carol.id, **columns))
        with pytest.raises(IntegrityError, match=rule):
            session.flush()
        session.rollback()


# -- rewards that wait ---------------------------------------------------------------------------------------


@pytest.fixture
def waiting(session: OrmSession, alice: Person, bob: Person) -> datetime:
    """Bob was referred by Alice, and the reward waits for his first purchase; returns the time of the referral."""
    moment = now() - timedelta(days=30)
    by_code(bob.id, code_of(alice), "first_purchase", moment)
    session.commit()
    return moment


def release(user_id: str, moment: datetime) -> bool:
    return referrals.release_referral(user_id, free_credits=500, now=moment)


def test_a_reward_waits_is_held_and_is_then_paid_once(
    session: OrmSession, alice: Person, bob: Person, waiting: datetime
) -> None:
    assert (referral(session, bob).status, referral(session, bob).credits) == ("pending", 0)
    assert referrals.due_referrals(now=waiting + 9 * HOLD) == []
    assert not release(bob.id, waiting + 9 * HOLD)
    assert referrals.referral_paid(bob.id, "buy-1", now=waiting)
    assert not referrals.referral_paid(bob.id, "buy-1", now=waiting)
    assert not referrals.referral_paid(bob.id, "buy-2", now=waiting + HOLD)
    session.commit()
    assert referral(session, bob).held_until == waiting + HOLD
    early = waiting + HOLD - timedelta(seconds=1)
    assert (referrals.due_referrals(now=early), release(bob.id, early)) == ([], False)
    assert referrals.due_referrals(now=waiting + HOLD) == [bob.id]
    assert release(bob.id, waiting + HOLD)
    assert not release(bob.id, waiting + HOLD)
    session.commit()
    assert referral(session, bob).credits == BONUS
    assert [each.principal for each in grants(session, alice)] == [BONUS]
    assert [each.principal for each in grants(session, bob)] == [BONUS]
    assert not referrals.referral_void(bob.id, "buy-1", "refund")
    assert ledger.prove().clean


@pytest.mark.parametrize("reason", ["refund", "dispute"])
def test_a_refund_or_dispute_voids_a_held_reward_for_good(
    session: OrmSession, alice: Person, bob: Person, waiting: datetime, reason: Any
) -> None:
    assert not referrals.referral_void(bob.id, "buy-1", reason)
    assert referrals.referral_paid(bob.id, "buy-1", now=waiting)
    assert not referrals.referral_void(bob.id, "buy-2", reason)
    assert referrals.referral_void(bob.id, "buy-1", reason, now=waiting)
    assert not referrals.referral_void(bob.id, "buy-1", reason)
    session.commit()
    assert (referral(session, bob).void_reason, referral(session, bob).voided_at) == (reason, waiting)
    assert not referrals.referral_paid(bob.id, "buy-3")
    assert not release(bob.id, waiting + 9 * HOLD)
    assert referrals.due_referrals(now=waiting + 9 * HOLD) == []
    assert referrals.referral_count(alice.id) == 0
    with pytest.raises(Conflict, match="already been referred"):
        by_code(bob.id, code_of(alice))
    assert grants(session, alice) == grants(session, bob) == []
    quota = ledger.ensure_quota(Account(user_id=alice.id), 500, now=now() + timedelta(days=40))
    assert quota
    assert quota.referral == 0


def test_a_self_referral_found_later_is_void(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, waiting: datetime
) -> None:
    by_code(mallory.id, code_of(alice), "first_purchase", waiting)
    assert referrals.referral_paid(mallory.id, "buy-1", now=waiting)
    for person in (bob, mallory):
        session.get_one(User, person.id).email = f"alice+{person.id}@example.org"
    session.commit()
    assert not referrals.referral_paid(bob.id, "buy-2", now=waiting)
    assert not release(mallory.id, waiting + HOLD)
    session.commit()
    assert {referral(session, each).void_reason for each in (bob, mallory)} == {"self_referral"}
    assert grants(session, alice) == []


def test_a_reward_stays_held_while_one_side_is_suspended(
    session: OrmSession, alice: Person, bob: Person, waiting: datetime
) -> None:
    assert referrals.referral_paid(bob.id, "buy-1", now=waiting)
    session.get_one(User, alice.id).banned = True
    session.commit()
    assert (referrals.due_referrals(), release(bob.id, now())) == ([], False)
    session.get_one(User, alice.id).banned = False
    session.commit()
    assert release(bob.id, now())


def test_concurrent_releases_and_refunds_leave_one_outcome(
    app: Flask, session: OrmSession, alice: Person, bob: Person, waiting: datetime
) -> None:
    assert referrals.referral_paid(bob.id, "buy-1", now=waiting)
    session.commit()

    def refund() -> bool:
        # the caller has locked the purchase's account
        call_function("SELECT credit_account_lock(:user, NULL)", user=bob.id)
        return referrals.referral_void(bob.id, "buy-1", "refund")

    work = [lambda: release(bob.id, now()), lambda: release(bob.id, now()), refund] * 3
    assert sum(at_once(app, *work)) == 1
    paid = referral(session, bob).status == "completed"
    assert len(grants(session, alice)) == len(grants(session, bob)) == paid
    assert ledger.prove().clean


def test_concurrent_purchases_start_one_hold(
    app: Flask, session: OrmSession, bob: Person, waiting: datetime
) -> None:
    names = [f"buy-{number}" for number in range(6)]
    work = [lambda name=name: referrals.referral_paid(bob.id, name) for name in names]
    assert sum(at_once(app, *work)) == 1
    assert referral(session, bob).purchase_id in names


def test_a_user_without_a_referral_has_no_reward(session: OrmSession, alice: Person) -> None:
    assert not referrals.referral_paid(alice.id, "buy-1")
    assert not referrals.referral_void(alice.id, "buy-1", "refund")
    assert not release(alice.id, now())


def test_the_job_pays_what_is_due(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, waiting: datetime
) -> None:
    by_code(mallory.id, code_of(alice), "first_purchase", waiting)
    assert referrals.referral_paid(bob.id, "buy-1", now=waiting)
    assert referrals.referral_paid(mallory.id, "buy-2", now=now())
    session.commit()
    for _ in range(2):
        jobs.release_referrals(0)
    assert (len(grants(session, bob)), len(grants(session, mallory)), len(grants(session, alice))) == (
        1,
        0,
        1,
    )


def test_the_operators_setting_makes_rewards_wait(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, first_purchase: None
) -> None:
    answer = redeem(bob, code_of(alice))
    assert (answer.status_code, answer.json) == (200, OK | {"credits_redeemed": 0})
    assert grants(session, bob) == []
    listed = alice.browser.get("/api/referrals").json["referrals"]
    assert [(each["id"], each["credits"]) for each in listed] == [(bob.id, 0)]
    session.get_one(User, alice.id).referral_limit = 1
    session.commit()
    assert redeem(mallory, code_of(alice)).json == {"error": FULL}
    assert referrals.referral_paid(bob.id, "buy-1")
    assert referrals.referral_void(bob.id, "buy-1", "dispute")
    session.commit()
    assert redeem(mallory, code_of(alice)).status_code == 200
    listed = alice.browser.get("/api/referrals").json["referrals"]
    assert [each["id"] for each in listed] == [mallory.id]


# -- reading -------------------------------------------------------------------------------------------------


def test_the_list_of_referrals(session: OrmSession, alice: Person, bob: Person, mallory: Person) -> None:
    empty = {"referralCode": code_of(alice), "referrals": [], "referralLimit": 5}
    assert alice.browser.get("/api/referrals").json == empty
    assert redeem(bob, code_of(alice)).status_code == 200
    assert redeem(mallory, code_of(alice)).status_code == 200
    session.get_one(User, mallory.id).name = None
    session.commit()
    them = {"id": bob.id, "name": "bob", "email": "bob@example.org", "credits": 250}
    assert alice.browser.get("/api/referrals").json == empty | {"referrals": [them]}
    me = {"id": alice.id, "name": "alice", "email": "alice@example.org", "credits": 250}
    assert bob.browser.get("/api/referrals").json == {
        "referralCode": code_of(bob),
        "referrals": [],
        "referredBy": me,
        "referralLimit": 5,
    }


def test_the_list_needs_a_session(session: OrmSession, alice: Person, anonymous: Person) -> None:
    for headers in ({}, alice.headers):
        answer = anonymous.browser.get("/api/referrals", headers=headers)
        assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})
    session.get_one(User, alice.id).referral_code = None
    session.commit()
    answer = alice.browser.get("/api/referrals")
    assert (answer.status_code, answer.json) == (500, {"error": "Internal Server Error"})


def test_looking_up_a_code(session: OrmSession, alice: Person, bob: Person, anonymous: Person) -> None:
    path = f"/api/referrals/{code_of(alice)}"
    for name in ("ref-none", "%00", "x" * 3000):
        answer = anonymous.browser.get(f"/api/referrals/{name}")
        assert (answer.status_code, answer.json) == (400, {"error": "Invalid referral code"})
    link = f"http://localhost:8000/referrals/{code_of(alice)}"
    usable = {"referralLink": link, "details": {"referralCount": 0}}
    expected = {"referrerName": "alice", "isSameUser": False, "status": usable}
    assert anonymous.browser.get(path).json == expected
    assert bob.browser.get(path).json == expected
    assert alice.browser.get(path).json == expected | {"isSameUser": True}
    session.get_one(User, alice.id).referral_limit = 1
    session.commit()
    assert redeem(bob, code_of(alice)).status_code == 200
    status = anonymous.browser.get(path).json["status"]
    assert (status["reason"], status["details"]["referralCount"]) == ("Referral Limit Reached", 1)
    assert "referralLink" not in status
