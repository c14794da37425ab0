"""A process that is killed between any two steps of a top-up: afterwards the ledger and Stripe agree, and nothing is charged
or mailed twice."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, text

from models import billing
from models.billing import AutoTopup, Purchase
from models.billing.payments import confirmations, stripe_events
from models.billing.topups import topup_charging
from models.core.db import now
from tests.billing.stage import Desk
from tests.billing.test_crashes import Killed, killed_at, turns
from tests.billing.topups import enable, state, subjects, top_up
from tests.factories import Person

ADDED = "Automatic top-up: 2,000 credits added"


def _jobs(desk: Desk) -> None:
    for id in desk.session.scalars(select(Purchase.id)).all():
        desk.run(billing.resolve, id)


def _reconciled(desk: Desk) -> None:
    desk.run(billing.reconcile, now=now() + timedelta(minutes=5))


def _webhooks(desk: Desk) -> None:
    desk.deliver_events(*stripe_events.HANDLERS)


REPAIRS = {"the reconciler": _reconciled, "its job": _jobs, "webhooks": _webhooks}
CARDS = ("visa", "insufficient_funds", "three_d_secure")


def _forget(desk: Desk) -> None:
    desk.forget()
    desk.session.execute(delete(AutoTopup))
    desk.session.commit()


def _steps(desk: Desk, verb: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    with killed_at(-1, monkeypatch) as count:
        desk.run(verb)
    return count[0]


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("card", CARDS)
def test_killed_between_any_two_steps_of_a_top_up(
    desk: Desk,
    alice: Person,
    card: str,
    repair: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each step is tried with each card and one of the repairs, which take turns."""

    def prepare() -> None:
        _forget(desk)
        desk.stripe.change_card(desk.card(alice), card)
        enable(desk, alice)

    def attempt() -> object:
        return topup_charging.top_up(alice.account)

    prepare()
    steps = _steps(desk, attempt, monkeypatch)
    assert steps > 8
    for step in turns(steps, CARDS.index(card), list(REPAIRS).index(repair)):
        prepare()
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            desk.run(attempt)
        REPAIRS[repair](desk)
        _reconciled(desk)
        charged = sum(charge["amount"] for charge in desk.charges())
        assert charged in (0, 2000)
        assert desk.balance(alice) == charged, step
        assert not any(purchase.open for purchase in desk.purchases(alice)), step
        states = [purchase.state for purchase in desk.purchases(alice)]
        assert states.count("paid") == charged // 2000
        assert subjects(desk).count(ADDED) == charged // 2000
        assert len(subjects(desk)) == states.count("paid") + states.count("failed")
        assert (state(desk, alice).pause is not None) == ("failed" in states)
        # the next attempt does the rest, once
        again = top_up(desk, alice, now() + timedelta(minutes=1))
        assert again is (card == "visa" and not charged)
        assert len(desk.charges()) == (1 if card == "visa" else 0)
        assert subjects(desk).count(ADDED) == len(desk.charges())
        desk.prove()


def test_killed_between_any_two_steps_of_a_confirmation(
    desk: Desk, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> str:
        _forget(desk)
        desk.card(alice, "three_d_secure")
        enable(desk, alice)
        assert not top_up(desk, alice)
        assert subjects(desk) == ["Confirm your automatic top-up"]
        return desk.purchase(alice).id

    id = prepare()
    steps = _steps(desk, lambda: confirmations.confirm(id, "http://localhost:8000/back"), monkeypatch)
    for step in range(1, steps + 1):
        id = prepare()
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            desk.run(confirmations.confirm, id, "http://localhost:8000/back")
        bank = desk.run(confirmations.confirm, id, "http://localhost:8000/back")
        assert bank is not None, step
        desk.stripe.authenticate(bank.rpartition("/")[2])
        _webhooks(desk)
        _reconciled(desk)
        assert [(each.id, each.state) for each in desk.purchases(alice)] == [(id, "paid")]
        assert (desk.balance(alice), state(desk, alice).pause) == (2000, None)
        assert subjects(desk) == ["Confirm your automatic top-up", ADDED]
        desk.prove()


def test_a_lost_response_is_settled_once(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    enable(desk, alice)
    desk.stripe.fail("/v1/payment_intents", when="after", status=500, times=3)
    top_up(desk, alice)
    for repair in (_webhooks, _jobs, _reconciled, _webhooks):
        repair(desk)
    assert (desk.balance(alice), len(desk.charges())) == (2000, 1)
    assert subjects(desk) == [ADDED]
    desk.prove()


def test_a_lost_top_up_is_recreated_under_its_id(desk: Desk, alice: Person) -> None:
    desk.card(alice)
    enable(desk, alice)
    assert top_up(desk, alice)
    id = desk.purchase(alice).id
    desk.session.execute(text("SET LOCAL session_replication_role = replica"))
    for table in ("purchase", "credit_entry", "credit_ledger", "auto_topup"):
        desk.session.execute(text(f"DELETE FROM {table}"))
    desk.session.commit()
    _reconciled(desk)
    purchase = desk.purchase(alice)
    assert (purchase.id, purchase.kind, purchase.state, desk.balance(alice)) == (
        id,
        "auto_topup",
        "paid",
        2000,
    )
    desk.prove()
