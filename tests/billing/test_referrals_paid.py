"""Referral rewards that wait for a purchase, with purchases, refunds and disputes at the Stripe simulator."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from models.billing import Referral
from models.billing.referral_program import referrals
from models.billing.referral_program.referrals import HOLD
from models.core.db import now
from tests.billing.stage import Desk
from tests.factories import Person


def _refer(desk: Desk, referrer: Person, referred: Person) -> None:
    assert referrer.user is not None
    assert referrer.user.referral_code
    code = referrer.user.referral_code
    desk.run(referrals.redeem, referred.id, code, reward="first_purchase", free_credits=0)


def _referral(desk: Desk, referred: Person) -> Referral:
    desk.session.rollback()
    query = select(Referral).where(Referral.referred_id == referred.id)
    return desk.session.scalars(query.execution_options(populate_existing=True)).one()


def test_the_first_purchase_starts_the_hold_and_pays_both_after_it(
    desk: Desk, alice: Person, bob: Person
) -> None:
    _refer(desk, alice, bob)
    purchase = desk.bought(bob)
    found = _referral(desk, bob)
    assert found.purchase_id == purchase.id
    assert found.held_until
    assert abs(found.held_until - now() - HOLD) < timedelta(minutes=1)
    desk.deliver_events()  # the webhooks of the same payment
    assert desk.buy(bob).json == {"success": True, "credits": 1000}
    assert _referral(desk, bob).held_until == found.held_until
    assert desk.run(referrals.release_referral, bob.id, free_credits=0, now=found.held_until)
    assert (desk.balance(alice), desk.balance(bob)) == (250, 2250)
    desk.prove()


@pytest.mark.parametrize("cents", [1, 1000])
def test_a_refund_in_the_hold_voids_the_reward(desk: Desk, alice: Person, bob: Person, cents: int) -> None:
    _refer(desk, alice, bob)
    desk.refund(desk.bought(bob), cents)
    desk.deliver_events()
    assert _referral(desk, bob).void_reason == "refund"
    assert not desk.run(referrals.release_referral, bob.id, free_credits=0, now=now() + 2 * HOLD)
    assert desk.balance(alice) == 0


def test_a_dispute_in_the_hold_voids_the_reward(desk: Desk, alice: Person, bob: Person) -> None:
    _refer(desk, alice, bob)
    desk.dispute(desk.bought(bob))
    desk.deliver_events()
    assert _referral(desk, bob).void_reason == "dispute"


def test_a_card_that_the_referrer_used_too_is_a_self_referral(desk: Desk, alice: Person, bob: Person) -> None:
    _refer(desk, alice, bob)
    prints: set[Any] = {desk.bought(alice).card_fingerprint, desk.bought(bob).card_fingerprint}
    assert len(prints) == 1
    assert _referral(desk, bob).void_reason == "self_referral"
