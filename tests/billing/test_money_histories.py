"""Random payment histories in one process: whatever the steps and their order, all sums match at the end. The long form
with a real server is `make prove ONLY=payment-histories`."""

import random
from collections import Counter
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from models import billing, ledger
from models.billing.payments import stripe_events
from models.billing.referral_program import referrals
from models.billing.referral_program.referrals import BONUS
from models.core.db import now
from models.core.errors import DomainError
from models.ledger.statement_check import check_statement
from models.usage.statement_export import statement_csv, statement_range
from tests.billing.stage import Desk
from tests.billing.topups import enable, top_up
from tests.factories import Person

STEPS = [
    "buy",
    "buy",
    "spend",
    "spend",
    "refund",
    "dispute",
    "decide",
    "give",
    "sweep",
    "top up",
    "refer",
    "tell",
]


@pytest.mark.parametrize("seed", range(2))
def test_all_sums_match_after_any_history(desk: Desk, alice: Person, bob: Person, seed: int) -> None:
    rng = random.Random(seed)
    people, moment = [alice, bob], now()
    for who, fingerprint in ((alice, "f1"), (bob, "f2")):
        desk.card(who, fingerprint=fingerprint)
        enable(desk, who, threshold=300, amount=500)
    given: Counter[str] = Counter()
    for _ in range(25):
        who = rng.choice(people)
        moment += timedelta(minutes=1)
        _step(desk, rng, who, people, given, moment)
    desk.deliver_events(*stripe_events.HANDLERS)
    found = desk.run(billing.reconcile, now=now() + timedelta(minutes=5))
    assert found.open_findings == 0
    assert desk.ignored() == []
    desk.prove()
    for who in people:
        _check(desk, who, given[who.id])


def _step(
    desk: Desk, rng: random.Random, who: Person, people: list[Person], given: Counter[str], moment: datetime
) -> None:
    charges = [each for each in desk.charges() if each["amount"] > each["amount_refunded"]]
    charge = rng.choice(charges) if charges else None
    match rng.choice(STEPS):
        case "buy":
            assert desk.buy(who, rng.choice([500, 777, 1000])).status_code in (200, 403)
        case "spend":
            desk.run(ledger.charge, who.account, rng.randint(1, 600), cause=f"spent-{ledger.compact_id()}")
        case "refund" if charge and not charge["disputed"]:
            desk.stripe.refund(charge["id"], rng.randint(1, charge["amount"] - charge["amount_refunded"]))
        case "dispute" if charge and not charge["disputed"] and len(desk.sim.find("dispute")) < 3:
            left = charge["amount"] - charge["amount_refunded"]
            desk.stripe.dispute(charge["id"], amount=rng.randint(1, left), inquiry=rng.random() < 0.3)
        case "decide" if desk.sim.find("dispute", status="needs_response"):
            id = desk.sim.find("dispute", status="needs_response")[0]["id"]
            (desk.stripe.win if rng.random() < 0.5 else desk.stripe.lose)(id)
        case "give":
            given[who.id] += (credits := rng.randint(1, 300))
            ends = moment + timedelta(minutes=rng.randint(1, 9))
            operation = f"given-{ledger.compact_id()}"
            desk.run(
                ledger.grant,
                who.account,
                credits,
                "free",
                operation_id=operation,
                expires_at=ends,
                now=moment,
            )
        case "sweep":
            desk.run(ledger.sweep, now=moment)
        case "top up":
            top_up(desk, who, moment)
        case "refer":
            other = rng.choice(people)
            code = desk.session.scalar(
                text('SELECT referral_code FROM "user" WHERE id = :id'), {"id": other.id}
            )
            try:
                desk.run(referrals.redeem, who.id, code or "", reward="now", free_credits=0)
            except DomainError:
                desk.session.rollback()
            else:
                given.update({who.id: BONUS, other.id: BONUS})
        case "tell":
            events = desk.events(*stripe_events.HANDLERS)
            for event in rng.choices(events, k=6):
                desk.deliver(event)
            desk.work()


def _check(desk: Desk, who: Person, given: int) -> None:
    """Payments at Stripe, grants and usage match the entries and the statement."""
    customer = desk.customer(who)
    kinds: Counter[str] = Counter()
    for kind, amount in desk.entries(who):
        kinds[kind] += amount
    bought = 0
    for charge in desk.charges():
        if charge["customer"] == customer:
            refunded = sum(each["amount"] for each in desk.sim.find("refund", charge=charge["id"]))
            moved = [
                each["amount"]
                for dispute in desk.sim.find("dispute", charge=charge["id"])
                for each in dispute["balance_transactions"]
            ]
            bought += charge["amount"] - min(charge["amount"], refunded - sum(moved))
    assert kinds["grant"] + kinds["revocation"] + kinds["reinstatement"] == bought + given
    balance = desk.balance(who)
    assert sum(kinds.values()) == balance
    lines = "".join(desk.run(lambda: list(statement_csv(statement_range(who.id, None, None)))))
    statement = check_statement(lines.splitlines(keepends=True))
    assert statement.valid, statement.problems
    assert (statement.closing_balance, statement.from_start) == (balance, True)
    assert {kind: amount for kind, amount in statement.kinds.items() if amount} == {
        kind: amount for kind, amount in kinds.items() if amount
    }
