"""Webhooks delivered a hundred times concurrently, and hostile webhooks that must change nothing."""

import json
import time
from typing import Any

from tests.proof.cast import Person
from tests.proof.payments import Obj, Payments, at_once, echo
from tests.proof.stage import Result

CREDITS = 1000


def webhooks(payments: Payments, *, copies: int = 100, rounds: int = 5) -> Result:
    """Deliver many concurrent copies of one event and of all events of a payment, then hostile events."""
    for number in range(rounds):
        _one_event(payments, copies)
        _all_events(payments, copies)
        echo(f"round {number + 1} of {rounds}: {copies} copies at once, one grant each")
    payments.check_agreement()
    hostile = _hostile_events(payments)
    payments.stage.prove()
    return Result(
        "webhooks",
        f"{rounds} x one event {copies} times at once, and {rounds} x all events of a payment {copies} times at once; "
        f"{hostile} kinds of forged, stale and mismatched events",
        "one grant for each payment; hostile events changed nothing, and the operator sees each",
    )


def _one_event(payments: Payments, copies: int) -> None:
    (person,) = payments.buyers(1, card=None)
    payments.stripe.pay(payments.checkout(person, CREDITS))
    event = payments.events("checkout.session.completed")[-1]
    statuses = at_once(copies, lambda _: payments.deliver(event).status_code)
    assert set(statuses) == {200}, statuses
    payments.wait_handled([event["id"]])
    assert payments.entries(person) == [("grant", CREDITS)]
    ((attempts, ignored),) = payments.stage.rows(
        "SELECT attempts, ignored FROM stripe_event WHERE id = :id", id=event["id"]
    )
    assert (attempts, ignored) == (1, None), (attempts, ignored)


def _all_events(payments: Payments, copies: int) -> None:
    before = len(payments.events())
    (person,) = payments.buyers(1, card=None)
    payments.stripe.pay(payments.checkout(person, CREDITS))
    events = payments.events(after=before)
    statuses = at_once(copies, lambda number: payments.deliver(events[number % len(events)]).status_code)
    assert set(statuses) == {200}, statuses
    payments.wait_handled(each["id"] for each in events)
    assert payments.entries(person) == [("grant", CREDITS)]
    assert payments.stage.balance(person) == CREDITS


def _hostile_events(payments: Payments) -> int:
    """Assert that nothing changes, and that `flask billing events` lists each. Returns the number of kinds."""
    (mallory,) = payments.buyers(1)
    assert payments.buy(mallory, CREDITS).json() == {"success": True, "credits": CREDITS}
    before = _facts(payments)
    expected = _unsigned(payments) | _mismatched(payments, mallory)
    after = _facts(payments)
    assert after == before, f"hostile events changed something: {before} {after}"
    shown = payments.command("events", "--limit", "1000")
    for kind, reason in expected.items():
        assert reason in shown, f"the operator does not see {kind} ({reason!r}):\n{shown}"
    echo(f"{len(expected)} kinds of hostile events changed nothing: {', '.join(expected)}")
    return len(expected)


def _facts(payments: Payments) -> tuple[Any, ...]:
    """Everything that a granted payment changes."""
    entries = payments.stage.rows("SELECT count(*), coalesce(sum(amount), 0) FROM credit_entry")[0]
    purchases = payments.stage.rows(
        "SELECT id, state, taken_back, refunded_cents, disputed_cents FROM purchase WHERE paid_at IS NOT NULL ORDER BY id"
    )
    users = payments.stage.rows('SELECT count(*) FROM "user" WHERE banned')
    return tuple(entries), [tuple(row) for row in purchases], users[0][0]


def _unsigned(payments: Payments) -> dict[str, str]:
    """Send unsigned, forged and stale bodies. Returns the expected reason for the operator by kind."""
    (alice,) = payments.buyers(1, card=None)
    payments.stripe.pay(payments.checkout(alice, CREDITS))
    event = payments.events("checkout.session.completed")[-1]
    body = json.dumps(payments.sim.render(event)).encode()
    now = int(time.time())
    right = payments.stripe.signed(body)
    altered = body.replace(b'"currency": "usd"', b'"currency": "eur"')
    assert altered != body
    answers = {
        "a forged signature": payments.send(body, secret="whsec_of_somebody_else"),
        "an altered body": payments.send(altered, signed=right),
        "no signature": payments.send(body, signed=""),
        "a stale event": payments.send(body, at=now - 301),
        "another event's signature": payments.send(body, signed=payments.stripe.signed(b"{}")),
    }
    for kind, answer in answers.items():
        assert answer.status_code == 400, f"{kind}: {answer.status_code} {answer.text}"
    reasons = dict.fromkeys(answers, "refused 4 times: No valid signature")
    return reasons | {"a stale event": "refused 1 times: The signature is too old"}


def _mismatched(payments: Payments, mallory: Person) -> dict[str, str]:
    """Send signed events whose objects do not match their purchase. Returns the expected reason for the operator by
    kind."""
    changes: dict[str, Obj] = {
        "a foreign currency": {"currency": "jpy"},
        "a smaller amount": {"amount_received": CREDITS - 1, "amount_total": CREDITS - 1},
        "a larger amount": {"amount_received": CREDITS + 1, "amount_total": CREDITS + 1},
        "another customer": {"customer": payments.customer(mallory)},
    }
    expected = {}
    ids = []
    for kind, changed in changes.items():
        (alice,) = payments.buyers(1, card=None)
        session_id = payments.checkout(alice, CREDITS)
        payments.stripe.pay(session_id)
        with payments.sim.lock:
            session = payments.sim.get("checkout.session", session_id)
            intent = payments.sim.get("payment_intent", session["payment_intent"])
            for thing in (session, intent):
                thing |= {name: value for name, value in changed.items() if name in thing}
        for event in payments.events("checkout.session.completed", "payment_intent.succeeded")[-2:]:
            assert payments.deliver(event).status_code == 200
            ids.append(event["id"])
        expected[kind] = f"{intent['metadata']['operationId']}: its "
    ids += _claims(payments, mallory, expected)
    payments.wait_handled(ids)
    return expected


def _claims(payments: Payments, mallory: Person, expected: dict[str, str]) -> list[str]:
    """Send signed events that claim a payment for another purchase, or name objects that do not exist at Stripe."""
    (alice,) = payments.buyers(1, card=None)
    payments.checkout(alice, CREDITS)
    theirs = payments.stage.rows("SELECT id FROM purchase WHERE user_id = :id", id=alice.id)[0][0]
    own, intent_id = payments.stage.rows(
        "SELECT id, stripe_payment_intent_id FROM purchase WHERE user_id = :id", id=mallory.id
    )[0]
    with payments.sim.lock:
        paid = payments.sim.render(payments.sim.get("payment_intent", intent_id))
    facts = {"grantType": "purchase", "credits": str(CREDITS), "userId": alice.id}
    claimed = {**paid, "metadata": facts | {"operationId": theirs}}
    unknown = {**paid, "metadata": facts | {"operationId": "buy-nobody-1"}}
    expected["a payment of another purchase"] = f"{theirs}: its operation is {theirs}, and Stripe says {own}"
    expected["a purchase that does not exist"] = "buy-nobody-1: there is no such purchase"
    expected["a charge that does not exist"] = "Stripe knows no charge ch_unknown"
    expected["a refund of an unknown payment"] = "Stripe knows no payment pi_unknown"
    return [
        payments.send_event("payment_intent.succeeded", claimed),
        payments.send_event("payment_intent.succeeded", unknown),
        payments.send_event(
            "charge.dispute.created",
            {"id": "du_unknown", "object": "dispute", "charge": "ch_unknown", "amount": CREDITS},
        ),
        payments.send_event(
            "charge.refunded",
            {"id": "ch_unknown", "object": "charge", "payment_intent": "pi_unknown", "amount_refunded": 1000},
        ),
    ]
