"""Previews of invoices in the Stripe simulator: the next one of a subscription, or the one that a change would create."""

import copy

from views.demo.stripe_simulator.simulated_customers import living_customer
from views.demo.stripe_simulator.simulated_errors import invalid, required
from views.demo.stripe_simulator.simulated_invoices import new_invoice
from views.demo.stripe_simulator.simulated_items import (
    full_line,
    period_end,
    period_of,
    priced_item,
    scheduled_prices,
    set_items,
)
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_proration import Change, change_items, prorations
from views.demo.stripe_simulator.simulated_routes import endpoint
from views.demo.stripe_simulator.simulated_state import Obj, Simulator
from views.demo.stripe_simulator.simulated_subscriptions import ENDED

PREVIEW_DETAILS = (
    "billing_cycle_anchor",
    "cancel_at_period_end",
    "cancel_now",
    "items",
    "metadata",
    "proration_behavior",
    "proration_date",
    "trial_end",
)


@endpoint(
    "POST",
    "/v1/invoices/create_preview",
    "automatic_tax currency customer preview_mode subscription subscription_details",
)
def preview(sim: Simulator, params: Params) -> Obj:
    """POST /v1/invoices/create_preview: the next invoice, or the one of a change or of a new subscription."""
    details = params.nested("subscription_details")
    details.allow(PREVIEW_DETAILS)
    params.one_of("preview_mode", ("next",), "next")
    taxed = params.nested("automatic_tax").boolean("enabled")
    id = params.text("subscription")
    if id is None:
        customer = living_customer(sim, params.needed("customer"), "customer")
        priced = [priced_item(sim, each) for each in details.each("items")]
        if not priced:
            raise required("subscription_details[items]")
        now = sim.now()
        lines = [
            full_line(sim, None, None, price, quantity, (now, period_end(now, price, now)))
            for price, quantity in priced
        ]
        return new_invoice(
            sim, customer, priced[0][0]["currency"], lines, "subscription_create", preview=True, taxed=taxed
        )
    subscription = sim.refer("subscription", id, "subscription")
    if subscription["status"] in ENDED:
        raise invalid(
            "You cannot preview an upcoming invoice for a canceled subscription.",
            None,
            "invoice_upcoming_none",
        )
    kept = copy.deepcopy(subscription)
    kept["automatic_tax"]["enabled"] = taxed or kept["automatic_tax"]["enabled"]
    return _previewed(sim, subscription, kept, details)


def _previewed(sim: Simulator, subscription: Obj, kept: Obj, details: Params) -> Obj:
    """The invoice that the given changes would create. They are applied to a copy."""
    customer = sim.get("customer", subscription["customer"])
    at = details.integer("proration_date")
    if details.boolean("cancel_now"):
        changes: list[Change] = [(item, None, 0) for item in kept["items"]["data"]]
        lines = [*kept["_pending"], *prorations(sim, kept, changes, at or sim.now())]
        return new_invoice(
            sim,
            customer,
            kept["currency"],
            lines,
            "upcoming",
            subscription=kept,
            preview=True,
            proration_date=at,
        )
    if "cancel_at_period_end" in details:
        kept["cancel_at_period_end"] = details.boolean("cancel_at_period_end")
    lines, at_once = change_items(sim, kept, details)
    if at_once:
        lines = [*kept["_pending"], *lines]
    elif kept["cancel_at_period_end"] and not kept["_pending"]:
        raise invalid("No upcoming invoices for customer: " + kept["customer"], None, "invoice_upcoming_none")
    else:
        begins = period_of(kept)[1]
        if scheduled := scheduled_prices(sim, kept):
            set_items(sim, kept, scheduled)
        items = [] if kept["cancel_at_period_end"] else kept["items"]["data"]
        lines = list(kept["_pending"])
        for item in items:
            ends = period_end(begins, item["price"], kept["billing_cycle_anchor"])
            lines.append(full_line(sim, kept, item, item["price"], item["quantity"], (begins, ends)))
    shown = new_invoice(
        sim,
        customer,
        kept["currency"],
        lines,
        "upcoming",
        subscription=kept,
        preview=True,
        proration_date=at or sim.now(),
    )
    shown["period_start"], shown["period_end"] = period_of(subscription)
    return shown
