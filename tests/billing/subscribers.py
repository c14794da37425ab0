"""Shared by the tests of plans: subscribers at the Stripe simulator."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, text

from models import billing
from models.billing import ChangePreview, NewPlan, Plan, Subscription, SubscriptionInvoice
from models.billing.mails import BillingMail, send_recorded
from models.ledger import Account
from tests.billing.stage import Desk, Obj
from tests.factories import Person

SUCCESS, CANCEL = "http://localhost/done?session_id={CHECKOUT_SESSION_ID}", "http://localhost/pricing"
DAY = 86_400
EVENTS = (
    *("customer.subscription", "invoice.pa", "invoice.payment_", "checkout.session.completed"),
    *("charge.refund", "charge.dispute"),
)


@dataclass(frozen=True)
class Plans:
    """A desk with plans, and actions of their subscribers."""

    desk: Desk

    def offer(self, name: str = "Pro", price_cents: int = 2_000, **kw: Any) -> Plan:
        """Create a plan."""
        return self.desk.run(billing.create_plan, NewPlan(name, price_cents, **kw))

    def checkout(self, who: Person, plan: Plan) -> str:
        """Start a Checkout for the plan. Returns its session id."""
        return self.desk.run(billing.subscribe, Account(user_id=who.id), plan, SUCCESS, CANCEL).id

    def subscribed(self, who: Person, plan: Plan, card: str = "visa") -> Subscription:
        """Subscribe a person: pay, and handle the events."""
        self.desk.stripe.pay(
            self.checkout(who, plan), card, name="Ada", line1="1 Main St", city="Oslo", country="NO"
        )
        self.deliver_events()
        return self.subscription(who)

    def deliver_events(self) -> None:
        """Deliver the last undelivered event of each type, and handle them."""
        heard = set(self.desk.session.scalars(text("SELECT id FROM stripe_event")))
        self.desk.session.rollback()
        new = {
            event["type"]: event
            for event in self.desk.events()
            if event["id"] not in heard and event["type"].startswith(EVENTS)
        }
        for event in new.values():
            assert self.desk.deliver(event).json == {"received": True}
        self.desk.work()

    def pass_days(self, days: float) -> None:
        """Advance Stripe's clock, and deliver the events."""
        self.desk.stripe.advance(int(days * DAY))
        self.deliver_events()

    def do(self, who: Person, verb: Any, *args: Any, **kw: Any) -> Any:
        """Call a billing function for a person."""
        return self.desk.run(verb, Account(user_id=who.id), *args, **kw)

    def change(self, who: Person, plan: Plan) -> Subscription:
        """Change the plan with the previewed proration date."""
        preview = self.preview(who, plan)
        changed: Subscription = self.do(who, billing.change, plan, preview.proration_date, now=self.now)
        return changed

    def preview(self, who: Person, plan: Plan) -> ChangePreview:
        """Preview a change of plan."""
        found: ChangePreview = self.do(who, billing.preview_change, plan, now=self.now)
        return found

    @property
    def now(self) -> datetime:
        """Stripe's time."""
        return datetime.fromtimestamp(self.desk.sim.now(), UTC)

    def subscription(self, who: Person) -> Subscription:
        """Their stored subscription."""
        self.desk.session.rollback()
        found = billing.last_subscription(Account(user_id=who.id))
        assert found is not None
        return found

    def at_stripe(self, who: Person) -> Obj:
        """Their subscription at Stripe."""
        return self.desk.sim.get("subscription", self.subscription(who).stripe_subscription_id)

    def invoices(self, who: Person) -> list[SubscriptionInvoice]:
        """Their stored invoices, oldest first."""
        self.desk.session.rollback()
        return billing.subscription_invoices(Account(user_id=who.id))[::-1]

    def grants(self, who: Person) -> list[tuple[str, int, int]]:
        """Their grants of included credits: operation, principal and balance, oldest first."""
        self.desk.session.rollback()
        query = text(
            "SELECT operation_id, principal, balance FROM credit_ledger WHERE user_id = :id AND type = 'plan'"
            " ORDER BY created_at, operation_id"
        )
        return [tuple(row) for row in self.desk.session.execute(query, {"id": who.id})]

    def mails(self, who: Person) -> list[str]:
        """Kinds of their e-mails about plans, oldest first; renders those that are not queued yet."""
        self.desk.session.rollback()
        query = select(BillingMail).where(BillingMail.user_id == who.id, BillingMail.kind.startswith("plan"))
        rows = list(self.desk.session.scalars(query.order_by(BillingMail.created_at, BillingMail.id)))
        kinds, waiting = [row.kind for row in rows], [row.id for row in rows if row.queued_at is None]
        self.desk.session.rollback()
        for id in waiting:
            self.desk.run(send_recorded, id)
        return kinds

    def forget(self, who: Person) -> None:
        """Delete all subscriptions, credits and events, as if an old backup was restored."""
        session = self.desk.session
        session.rollback()
        session.execute(text("SET LOCAL session_replication_role = replica"))
        for table in (
            "stripe_event",
            "subscription_dispute",
            "subscription_invoice",
            "subscription",
            "credit_entry",
            "credit_ledger",
        ):
            session.execute(text(f"DELETE FROM {table}"))
        session.commit()
