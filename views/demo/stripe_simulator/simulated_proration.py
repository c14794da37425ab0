"""Proration of simulated subscriptions: credits and charges for the rest of a period."""

from datetime import UTC, datetime
from fractions import Fraction

from views.demo.stripe_simulator.simulated_errors import invalid
from views.demo.stripe_simulator.simulated_invoices import line
from views.demo.stripe_simulator.simulated_items import (
    full_line,
    interval_of,
    named_price,
    new_item,
    period_end,
    period_of,
    plan_of,
    priced_item,
    recurring_price,
)
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

PRORATIONS = ("create_prorations", "always_invoice", "none")


Change = tuple[Obj | None, Obj | None, int]
"""A change of an item: the item (None for a new one), its new price (None if removed), its new quantity."""


def change_items(sim: Simulator, subscription: Obj, params: Params) -> tuple[list[Obj], bool]:
    """Apply new items, the end of a trial or a new anchor. Returns the lines of an immediate invoice and whether there is one;
    prorations for a later invoice are stored on the subscription."""
    behaviour = params.one_of("proration_behavior", PRORATIONS, "create_prorations")
    now = sim.now()
    at = params.integer("proration_date", now) or now
    started, ends = period_of(subscription)
    if not started <= at <= ends:
        raise invalid("The proration date must lie within the current period.", "proration_date")
    if params.text("trial_end") not in (None, "now") or params.text("billing_cycle_anchor") not in (
        None,
        "now",
        "unchanged",
    ):
        raise invalid("The simulator can only end a trial or a period now.")
    changes = _changes(sim, subscription, params.each("items"))
    anew = params.text("billing_cycle_anchor") == "now" or params.text("trial_end") == "now"
    if changes and interval_of(subscription["items"]["data"][0]["price"]) != interval_of(
        next((price for _, price, _ in changes if price), subscription["items"]["data"][0]["price"])
    ):
        anew = True
    if not changes and not anew:
        return [], False
    free = subscription["status"] == "trialing"
    prorated = [] if behaviour == "none" or free else prorations(sim, subscription, changes, at, anew=anew)
    if anew and not free and behaviour != "none":
        touched = {old["id"] for old, _, _ in changes if old}
        rest: list[Change] = [
            (each, None, 0) for each in subscription["items"]["data"] if each["id"] not in touched
        ]
        prorated += prorations(sim, subscription, rest, at, anew=True)
    _apply(sim, subscription, changes)
    if not anew:
        subscription["_pending"] += prorated
        return [], behaviour == "always_invoice" and not free
    subscription |= {"billing_cycle_anchor": now}
    if free:
        subscription |= {"status": "active", "trial_end": now}
    items = subscription["items"]["data"]
    until = period_end(now, items[0]["price"], now)
    for item in items:
        item |= {"current_period_start": now, "current_period_end": until}
    lines = [
        full_line(sim, subscription, item, item["price"], item["quantity"], (now, until)) for item in items
    ]
    return [*prorated, *lines], True


def _changes(sim: Simulator, subscription: Obj, given: list[Params]) -> list[Change]:
    found: list[Change] = []
    for each in given:
        each.allow(("id", "price", "quantity", "deleted", "metadata"))
        id = each.text("id")
        if id is None:
            price, quantity = priced_item(sim, each)
            if any(item["price"]["id"] == price["id"] for item in subscription["items"]["data"]):
                raise invalid(
                    f"Cannot add multiple subscription items with the same price: `{price['id']}`.",
                    "items[price]",
                )
            found.append((None, price, quantity))
            continue
        old = next((item for item in subscription["items"]["data"] if item["id"] == id), None)
        if old is None:
            raise invalid(f"No such subscription_item: '{id}'", "items[id]", "resource_missing")
        if each.boolean("deleted"):
            found.append((old, None, 0))
            continue
        id = each.text("price")
        price = recurring_price(sim, id) if id else old["price"]
        quantity = each.integer("quantity", old["quantity"]) or 0
        if price["id"] != old["price"]["id"] or quantity != old["quantity"]:
            found.append((old, price, quantity))
    return found


def prorations(
    sim: Simulator, subscription: Obj, changes: list[Change], at: int, *, anew: bool = False
) -> list[Obj]:
    """The credit for the unused time of the old price, and the charge for the remaining time of the new one."""
    started, ends = period_of(subscription)
    left = Fraction(ends - at, ends - started)
    day = datetime.fromtimestamp(at, UTC).strftime("%-d %b %Y")
    lines = []
    for old, price, quantity in changes:
        if old is not None:
            amount = -_rounded(old["price"]["unit_amount"] * old["quantity"] * left)
            lines.append(
                _proration(
                    sim, subscription, old, old["price"], old["quantity"], amount, "Unused", day, (at, ends)
                )
            )
        if price is not None and not anew:
            amount = _rounded(price["unit_amount"] * quantity * left)
            lines.append(
                _proration(sim, subscription, old, price, quantity, amount, "Remaining", day, (at, ends))
            )
    return lines


def _proration(
    sim: Simulator,
    subscription: Obj,
    item: Obj | None,
    price: Obj,
    quantity: int,
    amount: int,
    which: str,
    day: str,
    period: tuple[int, int],
) -> Obj:
    name = named_price(sim, price, quantity)
    return line(
        sim,
        amount,
        f"{which} time on {name} after {day}",
        price,
        quantity,
        period,
        subscription=subscription,
        item=item["id"] if item else None,
        proration=True,
    )


def _apply(sim: Simulator, subscription: Obj, changes: list[Change]) -> None:
    items = subscription["items"]["data"]
    for old, price, quantity in changes:
        if old is None and price is not None:
            items.append(new_item(sim, subscription, price, quantity, period_of(subscription)))
        elif price is None:
            items.remove(old)
        elif old is not None:
            old |= {"price": sim.render(price), "plan": plan_of(price), "quantity": quantity}
    if not items:
        raise invalid("A subscription must have at least one active plan.", "items")


def _rounded(amount: Fraction) -> int:
    """Round to the cent, half up."""
    return int(amount + Fraction(1, 2))
