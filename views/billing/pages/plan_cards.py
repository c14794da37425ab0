"""Cards of plans: price, display lines and action."""

from collections.abc import Iterable
from dataclasses import dataclass

from flask import url_for

from models import billing
from models.billing import Plan, PlanWindow, Subscription
from views.web import format

STATUSES = {
    "trialing": ("Trial", "ok", "check"),
    "active": ("Active", "ok", "check"),
    "past_due": ("Payment failed", "bad", "alert"),
    "unpaid": ("Unpaid", "bad", "alert"),
    "paused": ("Paused", None, "cut"),
    "incomplete": ("Waiting for payment", "running", "clock"),
    "canceled": ("Ended", None, "cut"),
}
"""Label, badge and icon of each status of a subscription."""


@dataclass(frozen=True, slots=True)
class PlanCard:
    """A plan for sale. Without `href` the card has no action."""

    id: str
    name: str
    description: str
    price: str
    interval: str
    lines: tuple[str, ...]
    own: bool = False
    label: str = ""
    primary: bool = False
    action: str = ""
    href: str | None = None


def plan_of(subscription: Subscription | None) -> Plan | None:
    """The plan of a subscription; None without one."""
    return billing.get_plan(subscription.plan_id) if subscription and subscription.plan_id else None


def plan_card(
    plan: Plan, *, own: bool = False, label: str = "", action: str = "", href: str | None = None
) -> PlanCard:
    """The card of a plan."""
    return PlanCard(
        plan.id,
        plan.name,
        plan.description,
        format.cents(plan.price_cents, plan.currency),
        plan.interval,
        tuple(plan_lines(plan)),
        own=own,
        label=label,
        action=action,
        href=href,
    )


def cards_for(plans: Iterable[Plan], subscription: Subscription | None) -> list[PlanCard]:
    """The cards of plans for sale, each with its action for this subscriber, or for a user without a plan."""
    return [_card_for(plan, subscription) for plan in plans]


def _card_for(plan: Plan, subscription: Subscription | None) -> PlanCard:
    if subscription is None:
        return plan_card(plan, action="Subscribe", href=url_for("billing.review_plan", plan=plan.id))
    if plan.id == subscription.plan_id:
        return plan_card(
            plan, own=True, label="Your plan", action="View plan", href=url_for("profile.profile", tab="plan")
        )
    if plan.id == subscription.scheduled_plan_id:
        return plan_card(plan, label="Starts next")
    return plan_card(plan, action="Change plan", href=url_for("billing.preview_change", plan=plan.id))


def plan_lines(plan: Plan) -> list[str]:
    """The plan's display lines, followed by its limits."""
    lines = list(plan.features)
    lines += [
        f"{format.number(window.credits)} credits {_per(window, plan.interval)}" for window in plan.windows
    ]
    if plan.included_credits:
        lines.append(f"{format.number(plan.included_credits)} included credits a {plan.interval}")
    lines.append(f"Models: {', '.join(plan.models)}" if plan.models else "All models of this server")
    if plan.requests_per_minute:
        lines.append(_counted(plan.requests_per_minute, "request") + " a minute")
    if plan.seats:
        lines.append(_counted(plan.seats, "seat"))
    return lines


def plan_facts(plan: Plan, subscription: Subscription) -> list[tuple[str, str]]:
    """Labels and values that describe a subscriber's plan."""
    facts = [("Price", f"{format.cents(plan.price_cents, plan.currency)} a {plan.interval}")]
    ends = subscription.cancel_at_period_end or subscription.status == "canceled"
    facts.append(("Ends" if ends else "Renews", format.date(subscription.billing_period_end)))
    facts.append(("Since", format.date(subscription.created_at)))
    if plan.included_credits:
        facts.append(("Included credits", f"{format.number(plan.included_credits)} each {plan.interval}"))
    facts.append(("Models", ", ".join(plan.models) if plan.models else "All"))
    if plan.requests_per_minute:
        facts.append(("Requests a minute", format.number(plan.requests_per_minute)))
    if plan.seats:
        facts.append(("Seats", format.number(plan.seats)))
    return facts


def _per(window: PlanWindow, interval: str) -> str:
    match window.hours:
        case None:
            return f"a {interval}"
        case 1:
            return "an hour"
        case 24:
            return "a day"
        case 168:
            return "a week"
        case hours if hours % 24 == 0:
            return f"every {hours // 24} days"
        case hours:
            return f"every {hours} hours"


def _counted(count: int, noun: str) -> str:
    return f"{format.number(count)} {noun}{'' if count == 1 else 's'}"
