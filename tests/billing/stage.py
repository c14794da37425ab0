"""What the tests of money in share: the Stripe simulator on loopback, people with cards, events that come when a test says."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from models import ledger
from models.billing import Purchase, stripe_events
from models.billing.customers import ensure_customer
from models.core.db import db
from models.core.settings import DEMO_STRIPE_KEY
from models.ledger import Account
from tests.factories import Person
from views.demo.stripe_simulator.simulated_app import create_simulator
from views.demo.stripe_simulator.simulated_control import add_card
from views.demo.stripe_simulator.simulated_events import payload_of, signature
from views.demo.stripe_simulator.simulated_refunds import (
    close_dispute,
    end_refund,
    give_back,
    open_dispute,
    warn_of_fraud,
)
from views.demo.stripe_simulator.simulated_state import Simulator

KEY = DEMO_STRIPE_KEY + "tests"
SECRET = "whsec_of_the_tests"
WEBHOOK = "/api/stripe/webhook"
BUY = "/api/stripe/buy-credits"

T = TypeVar("T")
Obj = dict[str, Any]


@contextmanager
def simulator() -> Iterator[tuple[Simulator, str]]:
    """The simulator on a port of its own, and its address."""
    sim = Simulator(KEY, SECRET)
    server = make_server("127.0.0.1", 0, create_simulator(sim), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield sim, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass(frozen=True)
class Desk:
    """The application with the simulator of a test."""

    app: Flask
    sim: Simulator
    url: str
    session: OrmSession

    def run(self, verb: Callable[..., T], *args: Any, **kw: Any) -> T:
        """Call a verb as a job does: in an application context of its own, committed at its end."""

        def job() -> T:
            with self.app.app_context():
                result = verb(*args, **kw)
                db.session.commit()
                return result

        return Context().run(job)

    # --- people -------------------------------------------------------------------------------------------------

    def customer(self, who: Person) -> str:
        """Their customer at Stripe."""
        return self.run(ensure_customer, Account(user_id=who.id))

    def card(self, who: Person, kind: str = "visa", **kw: Any) -> str:
        """A saved card, their default."""
        customer = self.customer(who)
        with self.sim.lock:
            return str(add_card(self.sim, customer, kind, **kw)["id"])

    def buy(self, who: Person, credits: int = 1000) -> TestResponse:
        """Buy as a browser."""
        return who.browser.post(BUY, json={"credits": credits})

    def bought(self, who: Person, credits: int = 1000) -> Purchase:
        """A purchase that their card has paid."""
        self.card(who)
        answer = self.buy(who, credits)
        assert answer.json == {"success": True, "credits": credits}
        return self.purchases(who)[-1]

    def pay(self, session_id: str, card: str = "visa") -> requests.Response:
        """Pay on the hosted page of a Checkout Session, up to where it leads."""
        return requests.post(
            f"{self.url}/checkout/{session_id}", {"card": card}, allow_redirects=False, timeout=10
        )

    # --- what is at Stripe --------------------------------------------------------------------------------------

    def charges(self) -> list[Obj]:
        """Payments that took money, oldest first."""
        return [each for each in self.sim.objects["charge"].values() if each["status"] == "succeeded"]

    def refund(self, purchase: Purchase, amount: int) -> Obj:
        """Refund on Stripe's dashboard."""
        with self.sim.lock:
            return give_back(self.sim, self.charge_of(purchase), amount, None, {})

    def fail_refund(self, refund: Obj) -> None:
        """The bank sends the money back."""
        with self.sim.lock:
            end_refund(self.sim, refund, "failed")

    def dispute(self, purchase: Purchase, amount: int | None = None, **kw: Any) -> Obj:
        """The bank disputes the payment, and takes the money."""
        with self.sim.lock:
            return open_dispute(self.sim, self.charge_of(purchase), amount=amount, **kw)

    def close(self, dispute: Obj, *, won: bool) -> None:
        """The bank decides."""
        with self.sim.lock:
            close_dispute(self.sim, dispute, won=won)

    def warn(self, purchase: Purchase) -> Obj:
        """The bank reports the payment as fraud."""
        with self.sim.lock:
            return warn_of_fraud(self.sim, self.charge_of(purchase))

    def charge_of(self, purchase: Purchase) -> Obj:
        """The charge that paid."""
        assert purchase.stripe_charge_id
        return self.sim.get("charge", purchase.stripe_charge_id)

    # --- events -------------------------------------------------------------------------------------------------

    def events(self, *types: str) -> list[Obj]:
        """Stripe's events of these types (all without one), oldest first."""
        return [each for each in self.sim.objects["event"].values() if not types or each["type"] in types]

    def deliver(self, event: Obj, *, secret: str = SECRET, at: int | None = None) -> TestResponse:
        """Send one event to the webhook, signed."""
        return self.post(payload_of(self.sim, event), secret=secret, at=at)

    def post(self, payload: bytes, *, secret: str = SECRET, at: int | None = None) -> TestResponse:
        """Send a body to the webhook, signed."""
        return self.app.test_client().post(
            WEBHOOK, data=payload, headers={"Stripe-Signature": signature(payload, secret, at)}
        )

    def forge(self, type: str, object: Obj, **more: Any) -> TestResponse:
        """Send an event of our own making, signed as Stripe's."""
        event = {
            "id": f"evt_{ledger.compact_id()}",
            "object": "event",
            "type": type,
            "created": 1_790_000_000,
        }
        return self.post(json.dumps(event | {"data": {"object": object}} | more).encode())

    def work(self) -> None:
        """Work all events that were taken and not handled."""
        waiting = select(stripe_events.StripeEvent.id).where(stripe_events.StripeEvent.handled_at.is_(None))
        ids = self.session.scalars(waiting).all()
        self.session.rollback()
        for id in ids:
            self.run(stripe_events.apply_event, id)

    def tell(self, *types: str) -> None:
        """Deliver all events of these types that Stripe has, and work them."""
        for event in self.events(*types):
            assert self.deliver(event).json == {"received": True}
        self.work()

    # --- what is here -------------------------------------------------------------------------------------------

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
        """What they have, debt subtracted."""
        self.session.rollback()
        return ledger.balance(Account(user_id=who.id)).net_balance

    def entries(self, who: Person) -> list[tuple[str, int]]:
        """Their journal: kinds and amounts."""
        self.session.rollback()
        rows = self.session.execute(
            text("SELECT kind, amount FROM credit_entry WHERE account_id = :id ORDER BY id"), {"id": who.id}
        )
        return [(row.kind, row.amount) for row in rows]

    def ignored(self) -> list[str]:
        """Why events were ignored."""
        self.session.rollback()
        return [each.ignored for each in stripe_events.stripe_events(troubled=True) if each.ignored]
