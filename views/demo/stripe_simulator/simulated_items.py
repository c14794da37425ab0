"""Items of simulated subscriptions: their prices, periods and lines."""

import calendar
from datetime import UTC, datetime

from views.demo.stripe_simulator.simulated_errors import invalid
from views.demo.stripe_simulator.simulated_invoices import line
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

DAY = 86_400


def priced_item(sim: Simulator, given: Params) -> tuple[Obj, int]:
    """The price and quantity of an item in a request. Raises SimulatedError."""
    given.allow(("price", "price_data", "quantity", "metadata"))
    price = recurring_price(sim, given.needed("price"))
    if not price["active"]:
        raise invalid(
            "The price specified is inactive. This field only accepts active prices.", "items[price]"
        )
    return price, given.integer("quantity", 1) or 1


def recurring_price(sim: Simulator, id: str) -> Obj:
    """A price of a subscription by its id. Raises SimulatedError."""
    price = sim.refer("price", id, "items[price]")
    if not price["recurring"]:
        raise invalid(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
            "items[price]",
        )
    return price


def new_item(sim: Simulator, subscription: Obj, price: Obj, quantity: int, period: tuple[int, int]) -> Obj:
    """An item of a subscription."""
    return sim.blank(
        "subscription_item",
        current_period_start=period[0],
        current_period_end=period[1],
        discounts=[],
        metadata={},
        plan=plan_of(price),
        price=sim.render(price),
        quantity=quantity,
        subscription=subscription["id"],
        tax_rates=[],
    )


def set_items(sim: Simulator, subscription: Obj, priced: list[tuple[Obj, int]]) -> None:
    """Replace the prices of a subscription, without proration."""
    period, old = period_of(subscription), subscription["items"]["data"]
    made = []
    for index, (price, quantity) in enumerate(priced):
        item = old[index] if index < len(old) else new_item(sim, subscription, price, quantity, period)
        made.append(item | {"price": sim.render(price), "plan": plan_of(price), "quantity": quantity})
    subscription["items"]["data"] = made


def scheduled_prices(sim: Simulator, subscription: Obj) -> list[tuple[Obj, int]]:
    """The changes of the subscription's schedule for the next period; empty if there are none."""
    schedule = sim.objects["subscription_schedule"].get(subscription["schedule"] or "")
    ends = period_of(subscription)[1]
    for phase in schedule["phases"] if schedule else []:
        if phase["start_date"] == ends:
            return [(sim.get("price", item["price"]), item["quantity"]) for item in phase["items"]]
    return []


def plan_of(price: Obj) -> Obj:
    """The legacy plan object of a price."""
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": "per_unit",
        "created": price["created"],
        "currency": price["currency"],
        "interval": price["recurring"]["interval"],
        "interval_count": price["recurring"]["interval_count"],
        "livemode": False,
        "metadata": {},
        "nickname": price["nickname"],
        "product": price["product"],
        "usage_type": "licensed",
    }


def full_line(
    sim: Simulator,
    subscription: Obj | None,
    item: Obj | None,
    price: Obj,
    quantity: int,
    period: tuple[int, int],
    *,
    free: bool = False,
) -> Obj:
    """The line of a whole period."""
    every = price["recurring"]
    each = f"${price['unit_amount'] / 100:.2f} / {every['interval']}"
    name = sim.get("product", price["product"])["name"]
    text = f"Trial period for {name}" if free else f"{quantity} × {name} (at {each})"
    amount = 0 if free else price["unit_amount"] * quantity
    return line(
        sim,
        amount,
        text,
        price,
        quantity,
        period,
        subscription=subscription,
        item=item["id"] if item else None,
    )


def named_price(sim: Simulator, price: Obj, quantity: int) -> str:
    """A price as text."""
    name = str(sim.get("product", price["product"])["name"])
    return name if quantity == 1 else f"{quantity} × {name}"


def period_of(subscription: Obj) -> tuple[int, int]:
    """Begin and end of the current period."""
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]


def interval_of(price: Obj) -> tuple[str, int]:
    """The billing interval of a price."""
    return price["recurring"]["interval"], price["recurring"]["interval_count"]


def period_end(moment: int, price: Obj, anchor: int) -> int:
    """The end of a period that begins at `moment`. Months keep the day of the anchor if they have it."""
    interval, count = interval_of(price)
    if interval in ("day", "week"):
        return moment + count * DAY * (7 if interval == "week" else 1)
    months = count * (12 if interval == "year" else 1)
    begins, wanted = datetime.fromtimestamp(moment, UTC), datetime.fromtimestamp(anchor, UTC).day
    years, month = divmod(begins.month - 1 + months, 12)
    year = begins.year + years
    day = min(wanted, calendar.monthrange(year, month + 1)[1])
    return int(begins.replace(year=year, month=month + 1, day=day).timestamp())
