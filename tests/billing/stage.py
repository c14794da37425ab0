"""Shared by the tests of billing: the Stripe simulator on loopback, users with cards, and events delivered on demand."""

import json
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models import billing, ledger
from models.billing import Purchase
from models.billing.payments import stripe_events
from models.billing.payments.customers import ensure_customer
from models.billing.payments.purchase_proof import prove_purchases
from models.core.db import db
from models.core.settings import Settings
from models.ledger import Account
from tests.factories import Person
from tests.fakes.stripe_simulator import StripeSim
from views.demo.stripe_simulator import Simulator
from views.demo.stripe_simulator.simulated_events import payload_of

WEBHOOK = "/api/stripe/webhook"
BUY = "/api/stripe/buy-credits"

T = TypeVar("T")
Obj = dict[str, Any]


@dataclass(frozen=True)
class Desk:
    """The application and the simulator of a test."""

    app: Flask
    stripe: StripeSim
    session: OrmSession
    settings: Settings

    @property
    def sim(self) -> Simulator:
        """Its state."""
        return self.stripe.simulator

    def configure(self, **more: object) -> None:
        """Connect to the simulator, without limits of buying unless given."""
        unlimited = {
            "stoa_purchases_per_day": 0,
            "stoa_purchase_cents_per_day": 0,
            "stoa_declines_per_card": 0,
            "stoa_declines_per_address": 0,
        }
        loaded: Any = self.settings.model_dump() | self.stripe.settings | unlimited | more
        self.app.extensions["stripe"] = billing.connect(Settings(_env_file=None, **loaded))

    def run(self, verb: Callable[..., T], *args: Any, **kw: Any) -> T:
        """Call a function as a job does: in an application context of its own, committed at its end."""

        def job() -> T:
            with self.app.app_context():
                result = verb(*args, **kw)
                db.session.commit()
                return result

        return Context().run(job)

    # --- users --------------------------------------------------------------------------------------------------

    def customer(self, who: Person) -> str:
        """Their customer at Stripe."""
        return self.run(ensure_customer, Account(user_id=who.id))

    def card(self, who: Person, kind: str = "visa", **kw: Any) -> str:
        """A saved card, their default."""
        return str(self.stripe.add_card(self.customer(who), kind, **kw)["id"])

    def buy(self, who: Person, credits: int = 1000) -> TestResponse:
        """Buy with the browser's session."""
        return who.browser.post(BUY, json={"credits": credits})

    def bought(self, who: Person, credits: int = 1000) -> Purchase:
        """Save a card and buy with it."""
        self.card(who)
        answer = self.buy(who, credits)
        assert answer.json == {"success": True, "credits": credits}
        return self.purchases(who)[-1]

    # --- Stripe's side ------------------------------------------------------------------------------------------

    def charges(self) -> list[Obj]:
        """Charges that succeeded, oldest first."""
        return [each for each in self.sim.objects["charge"].values() if each["status"] == "succeeded"]

    def refund(self, purchase: Purchase, amount: int) -> Obj:
        """Refund on Stripe's dashboard."""
        return self.stripe.refund(self.charge_of(purchase)["id"], amount)

    def dispute(self, purchase: Purchase, **kw: Any) -> Obj:
        """Open a dispute of the payment."""
        return self.stripe.dispute(self.charge_of(purchase)["id"], **kw)

    def charge_of(self, purchase: Purchase) -> Obj:
        """The charge of the payment."""
        assert purchase.stripe_charge_id
        return self.sim.get("charge", purchase.stripe_charge_id)

    # --- events -------------------------------------------------------------------------------------------------

    def events(self, *types: str) -> list[Obj]:
        """Stripe's events of these types (all without one), oldest first."""
        return [each for each in self.sim.objects["event"].values() if not types or each["type"] in types]

    def deliver(self, event: Obj, *, secret: str | None = None, at: int | None = None) -> TestResponse:
        """Send one event to the webhook, signed."""
        return self.post(payload_of(self.sim, event), secret=secret, at=at)

    def post(self, payload: bytes, *, secret: str | None = None, at: int | None = None) -> TestResponse:
        """Send a body to the webhook, signed."""
        signature = self.stripe.signed(payload, secret=secret, at=at)
        return self.app.test_client().post(WEBHOOK, data=payload, headers={"Stripe-Signature": signature})

    def forge(self, type: str, object: Obj, **more: Any) -> TestResponse:
        """Send a made-up event with a valid signature."""
        event = {
            "id": f"evt_{ledger.compact_id()}",
            "object": "event",
            "type": type,
            "created": 1_790_000_000,
        }
        return self.post(json.dumps(event | {"data": {"object": object}} | more).encode())

    def work(self) -> None:
        """Apply all stored events that are not handled."""
        waiting = select(stripe_events.StripeEvent.id).where(stripe_events.StripeEvent.handled_at.is_(None))
        ids = self.session.scalars(waiting).all()
        self.session.rollback()
        for id in ids:
            self.run(stripe_events.apply_event, id)

    def deliver_events(self, *types: str) -> None:
        """Deliver all events of these types (all without one), and apply them."""
        for event in self.events(*types):
            assert self.deliver(event).json == {"received": True}
        self.work()

    # --- our side -----------------------------------------------------------------------------------------------

    def purchases(self, who: Person) -> list[Purchase]:
        """Their purchases, oldest first."""
        self.session.rollback()
        query = select(Purchase).where(Purchase.user_id == who.id).order_by(Purchase.created_at)
        return list(self.session.scalars(query.execution_options(populate_existing=True)))

    def purchase(self, who: Person) -> Purchase:
        """Their only purchase."""
        (found,) = self.purchases(who)
        return found

    def balance(self, who: Person) -> int:
        """Their net balance."""
        self.session.rollback()
        return ledger.balance(Account(user_id=who.id)).net_balance

    def entries(self, who: Person) -> list[tuple[str, int]]:
        """Kinds and amounts of their ledger entries."""
        self.session.rollback()
        rows = self.session.execute(
            text("SELECT kind, amount FROM credit_entry WHERE account_id = :id ORDER BY id"), {"id": who.id}
        )
        return [(row.kind, row.amount) for row in rows]

    def ignored(self) -> list[str]:
        """Why events were ignored."""
        self.session.rollback()
        return [each.ignored for each in stripe_events.stripe_events(troubled=True) if each.ignored]

    def prove(self) -> None:
        """Prove the ledger and the purchases."""
        self.session.rollback()
        checks = [*ledger.prove().checks, *prove_purchases()]
        assert not any(check.count for check in checks), [check for check in checks if check.count]

    def forget(self) -> None:
        """Delete all payments, here and at Stripe, but keep the users."""
        self.sim.reset()
        self.session.rollback()
        self.session.execute(text("SET LOCAL session_replication_role = replica"))
        for table in (
            *("purchase_refund", "purchase_dispute", "card_decline", "billing_mail"),
            *("purchase", "stripe_event", "reconciliation"),
            *("credit_entry", "credit_ledger", "procrastinate_jobs"),
        ):
            self.session.execute(text(f"DELETE FROM {table}"))
        self.session.execute(text('UPDATE "user" SET stripe_customer_id = NULL'))
        self.session.commit()
