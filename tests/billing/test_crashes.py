"""A process that stops between any two steps of a purchase: afterwards the ledger and Stripe agree."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import stripe
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session as OrmSession

from models import billing
from models.billing import Purchase
from models.billing.payments import payment_state, stripe_events, transitions
from models.billing.payments.buying import begin, operation_id
from models.core.db import db, now
from models.core.jobs import transaction
from tests.billing.stage import Desk
from tests.factories import Person


class Killed(BaseException):
    """The process was killed."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Stop at the given step; there is one before and after each request to Stripe and each commit."""
    count = [0]

    def tick(*_: Any) -> None:
        count[0] += 1
        if count[0] == step:
            raise Killed

    request = stripe.RequestsClient.request

    def ticking(self: Any, *args: Any, **kw: Any) -> Any:
        tick()
        answer = request(self, *args, **kw)
        tick()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(stripe.RequestsClient, "request", ticking)
        event.listen(OrmSession, "before_commit", tick)
        event.listen(OrmSession, "after_commit", tick)
        try:
            yield count
        finally:
            event.remove(OrmSession, "before_commit", tick)
            event.remove(OrmSession, "after_commit", tick)


def _steps(desk: Desk, verb: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    with killed_at(-1, monkeypatch) as count:
        desk.run(verb)
    return count[0]


def _resolved(desk: Desk) -> None:
    """Run the job of each purchase."""
    for id in desk.session.scalars(select(Purchase.id)).all():
        desk.run(billing.resolve, id)


def _reconciled(desk: Desk) -> None:
    desk.run(billing.reconcile, now=now() + timedelta(minutes=5))


def _delivered(desk: Desk) -> None:
    desk.deliver_events(*stripe_events.HANDLERS)


REPAIRS = {"the reconciler": _reconciled, "its job": _resolved, "webhooks": _delivered}
CARDS = ("visa", "declined", None)


def turns(steps: int, card: int, repair: int) -> range:
    """Every third step, a different third for each card of a repair and for each repair of a card."""
    return range(1 + (card + repair) % 3, steps + 1, 3)


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("card", CARDS, ids=["saved card", "declined card", "no card"])
def test_killed_between_any_two_steps_of_a_purchase(
    desk: Desk,
    alice: Person,
    card: str | None,
    repair: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each step is tried with each card and one of the repairs, which take turns."""

    def prepare() -> None:
        desk.forget()
        if card:
            desk.card(alice, card)

    def buy() -> object:
        return billing.buy(alice.account, alice.id, 1000)

    prepare()
    steps = _steps(desk, buy, monkeypatch)
    assert steps > 8
    for step in turns(steps, CARDS.index(card), list(REPAIRS).index(repair)):
        prepare()
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            desk.run(buy)
        for session in desk.sim.find("checkout.session"):  # its URL may be open in a browser
            if session["status"] == "open":
                desk.stripe.pay(session["id"])
        REPAIRS[repair](desk)
        charged = sum(charge["amount"] for charge in desk.charges())
        assert charged in (0, 1000)
        assert desk.balance(alice) == charged, step
        states = [purchase.state for purchase in desk.purchases(alice)]
        assert states.count("paid") == charged // 1000
        desk.prove()
        _reconciled(desk)
        assert desk.balance(alice) == charged
        found = billing.last_reconciliation()
        assert found is not None
        assert found.open_findings == 0
        assert not any(purchase.open for purchase in desk.purchases(alice))


def test_a_killed_job_of_an_event_is_repeated(
    desk: Desk, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> str:
        desk.forget()
        purchase = desk.bought(alice)
        desk.refund(purchase, 400)
        (refunded,) = desk.events("charge.refunded")
        desk.deliver(refunded)
        return str(refunded["id"])

    id = prepare()
    steps = _steps(desk, lambda: stripe_events.apply_event(id), monkeypatch)
    for step in range(1, steps + 1):
        id = prepare()
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            desk.run(stripe_events.apply_event, id)
        desk.run(stripe_events.apply_event, id)
        assert (desk.purchase(alice).state, desk.balance(alice)) == ("partly_refunded", 600)
        assert desk.entries(alice) == [("grant", 1000), ("revocation", -400)]
        desk.prove()


def test_an_older_response_never_overwrites_a_newer_one(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    version = purchase.version
    known = payment_state.KnownPayment(
        purchase.id,
        purchase.stripe_customer_id,
        purchase.created_at,
        (purchase.stripe_payment_intent_id or "",),
    )
    old = payment_state.fetch(known)
    assert old is not None
    desk.refund(purchase, 300)
    desk.deliver_events()
    assert desk.balance(alice) == 700
    assert desk.run(transitions.settle, purchase.id, version, old) is False
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("partly_refunded", 700)


# --- reconciliation -------------------------------------------------------------------------------------------------


def _begun(desk: Desk, alice: Person) -> str:
    """A purchase that was inserted, and nothing else."""
    customer = desk.customer(alice)

    def write() -> str:
        operation = operation_id(alice.account, alice.id)
        with transaction():
            begin(operation, alice.account, alice.id, "direct", 1000, customer)
        return operation

    return desk.run(write)


def test_the_command_repairs_and_prints_what_it_did(desk: Desk, alice: Person) -> None:
    runner = desk.app.test_cli_runner()
    purchase = desk.bought(alice)
    desk.refund(purchase, 100)
    desk.dispute(purchase, amount=200)
    begun = _begun(desk, alice)
    desk.session.get_one(Purchase, begun).created_at -= timedelta(minutes=3)
    desk.session.commit()
    first = runner.invoke(args=["billing", "reconcile"])
    assert first.exit_code == 0, first.output
    assert (
        f"repaired  {purchase.id}  state paid → disputed, refunded_cents 0 → 100, disputed_cents 0 → 200,"
        " taken_back 0 → 300" in first.output
    )
    assert f"repaired  {begun}  state created → cancelled" in first.output
    assert desk.balance(alice) == 700
    again = runner.invoke(args=["billing", "reconcile", "--days", "30"])
    assert "Stripe and the purchases agree." in again.output
    kept = billing.last_reconciliation()
    assert kept is not None
    assert (kept.findings, kept.error, kept.checked) == ([], None, 1)
    desk.prove()


def test_a_decided_old_dispute_is_found_without_fetching_what_agrees(
    desk: Desk, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = desk.bought(alice)
    dispute = desk.dispute(old)
    desk.deliver_events()
    desk.stripe.win(dispute["id"])
    desk.session.get_one(Purchase, old.id).paid_at -= timedelta(days=60)
    desk.session.commit()
    for kind in ("payment_intent", "charge", "dispute"):
        for each in desk.sim.objects[kind].values():
            each["created"] -= 60 * 86_400
    found = desk.run(billing.reconcile)
    assert [(each["purchase_id"], each["repaired"]) for each in found.findings] == [(old.id, True)]
    assert (desk.purchase(alice).state, desk.balance(alice)) == ("paid", 1000)
    for _ in range(5):
        desk.buy(alice)
    assert _steps(desk, billing.reconcile, monkeypatch) < 40
    found = billing.last_reconciliation()
    assert found is not None
    assert (found.checked, found.findings) == (5, [])


def test_a_lost_purchase_is_recreated_under_its_id(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    id = purchase.id
    desk.refund(purchase, 250)
    desk.session.delete(desk.session.get_one(Purchase, id))
    desk.session.commit()
    _drop_books(desk)
    found = desk.run(billing.reconcile)
    assert [(each["purchase_id"], each["repaired"]) for each in found.findings] == [(id, True)]
    assert (desk.purchase(alice).id, desk.purchase(alice).state, desk.balance(alice)) == (
        id,
        "partly_refunded",
        750,
    )
    desk.prove()


@pytest.mark.parametrize(
    "facts",
    [
        {"userId": "somebody"},
        {"credits": "100000"},
        {"credits": "-1"},
        {"operationId": "buy-somebody-1"},
        {"organizationId": "org-1"},
    ],
    ids=str,
)
def test_a_foreign_payment_is_reported_and_not_granted(
    desk: Desk, alice: Person, facts: dict[str, str]
) -> None:
    purchase = desk.bought(alice)
    with desk.sim.lock:
        intent = desk.sim.get("payment_intent", purchase.stripe_payment_intent_id or "")
        intent["metadata"] = intent["metadata"] | facts
    desk.session.delete(desk.session.get_one(Purchase, purchase.id))
    desk.session.commit()
    _drop_books(desk)
    result = desk.app.test_cli_runner().invoke(args=["billing", "reconcile"])
    assert result.exit_code == 1
    assert "NOT REPAIRED" in result.output
    assert (desk.purchases(alice), desk.balance(alice)) == ([], 0)


def test_a_paid_purchase_unknown_to_stripe_is_reported(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    customers = dict(desk.sim.objects["customer"])
    desk.sim.reset()
    desk.sim.objects["customer"] |= customers
    found = desk.run(billing.reconcile)
    assert [(each["purchase_id"], each["repaired"]) for each in found.findings] == [(purchase.id, False)]
    assert "Stripe knows no such payment" in found.findings[0]["what"]
    assert desk.balance(alice) == 1000


def test_a_failed_reconciliation_has_its_reason(desk: Desk, alice: Person) -> None:
    desk.stripe.fail("/v1/payment_intents", method="GET", times=3)
    with pytest.raises(billing.StripeError):
        desk.run(billing.reconcile)
    desk.session.rollback()
    kept = billing.last_reconciliation()
    assert kept is not None
    assert kept.error == "Stripe did not answer. Try again in a minute."


def test_two_charges_of_one_purchase_are_reported_and_granted_once(desk: Desk, alice: Person) -> None:
    purchase = desk.bought(alice)
    with desk.sim.lock:
        paid = desk.sim.get("payment_intent", purchase.stripe_payment_intent_id or "")
        twin = desk.sim.add("payment_intent", **{k: v for k, v in paid.items() if k not in ("id", "object")})
    desk.forge("payment_intent.succeeded", dict(twin))
    desk.work()
    assert desk.balance(alice) == 1000
    assert any(f"charged twice for {purchase.id}" in why for why in desk.ignored())


def test_the_proof_finds_a_purchase_without_its_credits(desk: Desk, alice: Person) -> None:
    desk.bought(alice)
    _drop_books(desk)
    result = desk.app.test_cli_runner().invoke(args=["billing", "prove"])
    assert result.exit_code == 1
    assert "DRIFT  a paid purchase has its credits" in result.output


def _drop_books(desk: Desk) -> None:
    desk.session.execute(text("SET LOCAL session_replication_role = replica"))
    desk.session.execute(text("DELETE FROM credit_entry"))
    desk.session.execute(text("DELETE FROM credit_ledger"))
    desk.session.commit()
    db.session.rollback()
