"""Buying for organisations: the JSON route and the pages; and automatic top-up, the same for people and organisations."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models import billing, ledger
from models.billing import TopupSettings
from models.billing.org_money_alerts import alert_expiring_card
from models.billing.payments.billing_details import save_billing_details
from models.billing.payments.cards import SavedCard
from models.billing.payments.customers import ensure_customer
from models.billing.topups import auto_topup, topup_charging
from models.core.db import now
from models.ledger import Account
from models.orgs import Org, OrgAlert, OrgMember
from tests import factories
from tests.billing.stage import Desk
from tests.billing.topups import mails, post
from tests.factories import Person

LATER = timedelta(minutes=1)
ADDRESS = {"name": "Acme", "line1": "1 Row", "city": "London", "postal_code": "N1", "country": "GB"}


def account_of(org: Org) -> Account:
    return Account(org_id=org.id)


def customer(desk: Desk, account: Account) -> str:
    return desk.run(ensure_customer, account)


def subscribe(desk: Desk, org: Org) -> str:
    """Give the organisation a customer and a subscription."""
    id = customer(desk, account_of(org))
    desk.session.execute(
        text("UPDATE org SET stripe_subscription_id = 'sub_1' WHERE id = :id"), {"id": org.id}
    )
    desk.session.commit()
    return id


def balance(desk: Desk, account: Account) -> int:
    desk.session.rollback()
    return ledger.balance(account).net_balance


def purchases(desk: Desk, account: Account) -> list[billing.Purchase]:
    desk.session.rollback()
    return billing.purchases_of(account)[0]


# -- JSON -----------------------------------------------------------------------------------------------------


def test_the_answers_come_in_the_order_of_the_contract(
    desk: Desk, alice: Person, bob: Person, mallory: Person, anonymous: Person, acme: Org
) -> None:
    route = f"/api/orgs/{acme.id}/credits"
    few = "Minimum purchase is 5,000 credits"
    no_owner = "Forbidden or Organization not found"

    def ask(who: Person, body: Any, path: str = route) -> tuple[int, str]:
        answer = who.browser.post(path, json=body)
        return answer.status_code, (answer.json or {})["error"]

    assert ask(anonymous, {"amount": 1})[0] == 401
    bodies: list[Any] = [{}, {"amount": 4999}, {"amount": "many"}, [], {"amount": None}]
    for body in bodies:
        assert ask(mallory, body) == (400, few)
    assert ask(mallory, {"amount": 5000}) == (403, no_owner)
    assert ask(bob, {"amount": 5000}) == (403, no_owner)
    assert ask(alice, {"amount": 5000}, "/api/orgs/none/credits") == (403, no_owner)
    assert ask(alice, {"amount": 100_000_000}) == (400, "Maximum purchase is 99,999,999 credits")
    assert ask(alice, {"amount": 5000}) == (
        400,
        "Organization billing not set up. Please set up billing first.",
    )
    saved = customer(desk, account_of(acme))
    desk.configure(stripe_team_fee_price_id="price_1")
    assert ask(alice, {"amount": 5000}) == (
        400,
        "Organization subscription not found. Please set up billing first.",
    )
    subscribe(desk, acme)
    desk.stripe.add_card(saved)
    desk.stripe.fail("/v1/customers/{id}", method="GET", times=3)
    answer = alice.browser.post(route, json={"amount": 5000})
    assert (answer.status_code, answer.json) == (
        500,
        {
            "error": "Failed to create credit purchase session",
            "details": "Stripe did not answer. Try again in a minute.",
        },
    )
    assert desk.charges() == []
    desk.app.extensions["stripe"] = None
    assert ask(alice, {"amount": 5000})[0] == 503


def test_an_owner_buys_with_the_default_card(desk: Desk, alice: Person, acme: Org) -> None:
    desk.stripe.add_card(subscribe(desk, acme))
    answer = alice.browser.post(f"/api/orgs/{acme.id}/credits", json={"amount": 5000})
    assert answer.json == {"success": True, "credits": 5000, "direct_charge": True}
    (bought,) = purchases(desk, account_of(acme))
    assert bought.id.startswith(f"org-{acme.id}-")
    (charge,) = desk.charges()
    assert charge["metadata"] == {
        "organizationId": acme.id,
        "organization_id": acme.id,
        "userId": alice.id,
        "credits": "5000",
        "operationId": bought.id,
        "grantType": "organization_purchase",
    }
    assert (balance(desk, account_of(acme)), desk.balance(alice)) == (5000, 0)
    desk.deliver_events()
    assert balance(desk, account_of(acme)) == 5000
    desk.prove()


@pytest.mark.parametrize(("cards", "direct"), [(["visa"], True), (["visa", "mastercard"], False)])
def test_the_only_card_becomes_the_default(
    desk: Desk, alice: Person, acme: Org, cards: list[str], direct: bool
) -> None:
    saved = subscribe(desk, acme)
    for kind in cards:
        desk.stripe.add_card(saved, kind, default=False)
    desk.stripe.add_card(saved, "expired", default=False)
    answer = alice.browser.post(f"/api/orgs/{acme.id}/credits", json={"amount": 5000}).json or {}
    assert answer["direct_charge"] is direct
    assert len(desk.charges()) == direct


def test_without_a_card_the_owner_pays_on_stripes_page_and_the_webhook_grants(
    desk: Desk, alice: Person, acme: Org
) -> None:
    subscribe(desk, acme)
    answer = alice.browser.post(f"/api/orgs/{acme.id}/credits", json={"amount": 6000}).json or {}
    assert answer == {
        "success": True,
        "checkout_url": answer["checkout_url"],
        "credits": 6000,
        "amount_cents": 6000,
        "direct_charge": False,
    }
    back = desk.stripe.pay(answer["checkout_url"].rpartition("/")[2])
    assert back.startswith("http://localhost:8000/orgs/acme/billing/payment?session_id=cs_")
    assert balance(desk, account_of(acme)) == 0
    desk.deliver_events()
    assert (balance(desk, account_of(acme)), desk.ignored()) == (6000, [])
    (bought,) = purchases(desk, account_of(acme))
    assert (bought.kind, bought.state, bought.user_id) == ("checkout", "paid", alice.id)
    desk.prove()


# -- pages ----------------------------------------------------------------------------------------------------

PAGES = ("", "/purchases", "/purchase?amount=10000", "/cards", "/auto-topup", "/details", "/payment")
FORMS = (
    "/purchase",
    "/cards",
    "/cards/pm_1/default",
    "/cards/pm_1/removal",
    "/portal",
    "/auto-topup",
    "/details",
)


def test_owners_and_admins_see_it_and_only_owners_buy(
    desk: Desk, alice: Person, bob: Person, mallory: Person, anonymous: Person, acme: Org
) -> None:
    desk.run(save_billing_details, account_of(acme), ADDRESS, [])
    for path in (f"/orgs/acme/billing{each}" for each in PAGES):
        seen = [who.browser.get(path).status_code for who in (alice, bob, mallory, anonymous)]
        assert seen == [200, 403, 404, 302], path
    for path in (f"/orgs/acme/billing{each}" for each in FORMS):
        assert [post(who.browser, path).status_code for who in (bob, mallory)] == [403, 404], path
    desk.session.get_one(OrgMember, (acme.id, bob.id)).role = "admin"
    desk.session.commit()
    shown = bob.browser.get("/orgs/acme/billing")
    assert (shown.status_code, "Only owners and the billing role buy credits" in shown.text) == (200, True)
    form = {"credits": "5000", "operation": "operation-1"}
    assert post(bob.browser, "/orgs/acme/billing/purchase", form).status_code == 403
    assert bob.browser.get("/orgs/none/billing").status_code == 404
    assert 'href="/orgs/acme/billing"' in bob.browser.get("/profile?tab=billing").text
    assert 'href="/orgs/acme/billing"' not in mallory.browser.get("/profile?tab=billing").text


def test_an_owner_buys_on_the_page_and_finds_the_receipt(
    desk: Desk, alice: Person, bob: Person, mallory: Person, acme: Org
) -> None:
    desk.run(save_billing_details, account_of(acme), ADDRESS, [])
    desk.stripe.add_card(customer(desk, account_of(acme)))
    shown = alice.browser.get("/orgs/acme/billing").text
    assert 'action="/orgs/acme/billing/purchase"' in shown
    assert 'action="/orgs/acme/billing/auto-topup"' in shown
    assert "5,000 to 1,000,000 credits" in shown
    assert alice.browser.get("/orgs/acme/billing/purchase?credits=4999").status_code == 422
    review = alice.browser.get("/orgs/acme/billing/purchase?amount=10000").text
    assert 'action="/orgs/acme/billing/purchase"' in review
    form = {"credits": "10000", "operation": "operation-1"}
    answer = post(alice.browser, "/orgs/acme/billing/purchase", form)
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/orgs/acme/billing/payment?")
    paid = alice.browser.get(answer.headers["Location"]).text
    assert "10,000 credits bought" in paid
    (bought,) = purchases(desk, account_of(acme))
    mine = f"/orgs/acme/billing/purchases/{bought.id}"
    assert f'href="{mine}"' in paid
    receipt = alice.browser.get(mine)
    assert (receipt.status_code, f'href="{mine}/receipt.pdf"' in receipt.text) == (200, True)
    assert alice.browser.get(f"{mine}/receipt.pdf").data.startswith(b"%PDF")
    assert alice.browser.get(f"/profile/billing/purchases/{bought.id}").status_code == 404
    assert bob.browser.get(f"{mine}/receipt.pdf").status_code == 403
    assert mallory.browser.get(mine).status_code == 404
    other = factories.org(desk.session.merge(alice.user), "Umbrella")  # type: ignore[arg-type]
    assert alice.browser.get(f"/orgs/{other.slug}/billing/purchases/{bought.id}").status_code == 404
    assert (balance(desk, account_of(acme)), desk.balance(alice)) == (10_000, 0)
    desk.prove()


def test_leaving_stripes_page_says_that_nothing_was_charged(desk: Desk, alice: Person, acme: Org) -> None:
    answer = alice.browser.get("/orgs/acme/billing?purchase_canceled=true")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/orgs/acme/billing")


# -- automatic top-up -----------------------------------------------------------------------------------------

Accounts = Callable[[str], Account]


@pytest.fixture
def accounts(desk: Desk, alice: Person, acme: Org) -> Accounts:
    """The account of a kind, with a customer."""

    def made(kind: str) -> Account:
        account = account_of(acme) if kind == "organisation" else alice.account
        customer(desk, account)
        return account

    return made


both_kinds = pytest.mark.parametrize("kind", ["person", "organisation"])


def enable(desk: Desk, account: Account, actor: Person, cap: int | None = None) -> None:
    desk.run(auto_topup.save, account, actor.id, TopupSettings(True, 500, 2000, cap), source="page")


def top_up(desk: Desk, account: Account, at: datetime | None = None) -> bool:
    return desk.run(topup_charging.top_up, account, now=at)


@both_kinds
def test_an_account_below_its_threshold_is_charged_once(
    desk: Desk, alice: Person, accounts: Accounts, kind: str
) -> None:
    account = accounts(kind)
    desk.stripe.add_card(customer(desk, account))
    enable(desk, account, alice)
    assert desk.run(topup_charging.enqueue_due) == 1
    assert desk.run(topup_charging.enqueue_due) == 0, "it is enqueued already"
    assert [top_up(desk, account), top_up(desk, account, now() + LATER)] == [True, False]
    assert desk.run(topup_charging.enqueue_due, now=now() + 2 * LATER) == 0
    (bought,) = purchases(desk, account)
    prefix = "org-auto-topup" if kind == "organisation" else "auto-topup"
    assert bought.id.startswith(f"{prefix}-{account.id}-")
    assert (balance(desk, account), len(desk.charges())) == (2000, 1)
    (mail,) = mails(desk)
    assert (mail["to"], mail["subject"]) == ("alice@example.org", "Automatic top-up: 2,000 credits added")
    at = "/orgs/acme/billing" if kind == "organisation" else "/profile/billing"
    assert f"http://localhost:8000{at}/purchases/{bought.id}" in mail["text"]
    desk.prove()


@both_kinds
@pytest.mark.parametrize(
    ("card", "pause"),
    [("insufficient_funds", "decline"), ("lost_card", "card"), ("authentication_required", "confirmation")],
)
def test_a_decline_pauses_the_account_and_its_page_says_so(
    desk: Desk, alice: Person, accounts: Accounts, kind: str, card: str, pause: str
) -> None:
    account = accounts(kind)
    desk.stripe.add_card(customer(desk, account), card)
    enable(desk, account, alice)
    assert not top_up(desk, account)
    told = desk.session.scalars(select(OrgAlert.kind)).all()
    of_org = kind == "organisation" and pause != "confirmation"
    assert told == (["auto_topup_failed"] if of_org else [])
    shown = desk.run(auto_topup.view, account)
    assert (shown.state, shown.pause) == ("paused", pause)
    assert desk.run(topup_charging.enqueue_due, now=now() + LATER) == 0
    path = "/orgs/acme/billing/auto-topup" if kind == "organisation" else "/profile/auto-topup"
    page = alice.browser.get(path).text
    assert "Paused" in page or "Your bank requires you to confirm" in page
    assert f'action="{path}' in page


@both_kinds
def test_the_monthly_cap_holds(desk: Desk, alice: Person, accounts: Accounts, kind: str) -> None:
    account = accounts(kind)
    desk.stripe.add_card(customer(desk, account))
    enable(desk, account, alice, cap=3000)
    assert top_up(desk, account)
    desk.run(ledger.charge, account, 1900, cause="calls")
    assert not top_up(desk, account, now() + LATER)
    assert desk.run(auto_topup.view, account).pause == "cap"
    assert len(desk.charges()) == 1


def test_an_organisation_is_charged_at_its_threshold_and_a_person_below(
    desk: Desk, alice: Person, accounts: Accounts
) -> None:
    for kind, due in (("person", False), ("organisation", True)):
        account = accounts(kind)
        desk.stripe.add_card(customer(desk, account))
        grant = "organization" if kind == "organisation" else "admin"
        desk.run(ledger.grant, account, 500, grant, operation_id=kind, description="x", buyer_id=alice.id)
        enable(desk, account, alice)
        assert (desk.run(topup_charging.enqueue_due), top_up(desk, account)) == (int(due), due), kind


def test_a_subscription_switches_it_on_and_nothing_is_charged_before_somebody_agrees(
    desk: Desk, alice: Person, accounts: Accounts, acme: Org
) -> None:
    account = accounts("organisation")
    desk.stripe.add_card(customer(desk, account))
    desk.session.execute(
        text("UPDATE org SET auto_topup_enabled = true, auto_topup_threshold = 500, auto_topup_amount = 2000")
    )
    desk.session.commit()
    assert (desk.run(topup_charging.enqueue_due), top_up(desk, account)) == (0, False)
    assert "Nothing is charged yet" in alice.browser.get("/orgs/acme/billing").text
    form = {"enabled": "1", "threshold": "500", "amount": "20", "cap": "100"}
    assert post(alice.browser, "/orgs/acme/billing/auto-topup", form).status_code == 303
    assert (desk.run(topup_charging.enqueue_due), top_up(desk, account)) == (1, True)
    consent = desk.session.execute(text("SELECT user_id, ceiling_cents, text FROM auto_topup_consent")).one()
    assert (consent.user_id, consent.ceiling_cents) == (alice.id, 50_000)
    assert "the organisation's saved payment method $20.00" in consent.text


def test_an_organisation_may_choose_more(desk: Desk, alice: Person, accounts: Accounts) -> None:
    for kind, statuses in (("person", (422, 303)), ("organisation", (303, 422))):
        account = accounts(kind)
        desk.stripe.add_card(customer(desk, account))
        path = "/orgs/acme/billing/auto-topup" if kind == "organisation" else "/profile/auto-topup"
        for (threshold, amount), status in zip((("5000", "200"), ("200", "50")), statuses, strict=True):
            form = {"enabled": "1", "threshold": threshold, "amount": amount, "cap": ""}
            assert post(alice.browser, path, form).status_code == status, (kind, amount)


def test_the_owners_ban_stops_it(desk: Desk, alice: Person, accounts: Accounts) -> None:
    account = accounts("organisation")
    desk.stripe.add_card(customer(desk, account))
    enable(desk, account, alice)
    desk.session.execute(text('UPDATE "user" SET banned = true WHERE id = :id'), {"id": alice.id})
    desk.session.commit()
    assert not top_up(desk, account)
    assert desk.charges() == []


@pytest.mark.parametrize(
    ("expires", "warned"),
    [((2026, 11), True), ((2026, 12), False), ((2027, 1), False), ((None, None), False)],
)
def test_a_card_that_expires_within_30_days_is_an_alert_once(
    session: OrmSession, acme: Org, expires: tuple[int | None, int | None], warned: bool
) -> None:
    year, month = expires
    card = SavedCard("pm_1", "card", "visa", "4242", month, year, "f", default=True, usable=True)
    moment = datetime(2026, 11, 5, tzinfo=UTC)
    assert [alert_expiring_card(acme.id, card, moment) for _ in range(2)] == [warned, False]
    for each in session.scalars(select(OrgAlert)):
        assert each.message.startswith("The card ending in 4242 expires at the end of November 2026.")
