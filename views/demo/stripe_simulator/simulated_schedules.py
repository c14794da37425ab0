"""Subscription schedules of the Stripe simulator: another price from the end of a period, as for a downgrade."""

from views.demo.stripe_simulator.simulated_clock import SOURCES, Due
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid, required
from views.demo.stripe_simulator.simulated_items import (
    period_end,
    period_of,
    plan_of,
    priced_item,
    set_items,
)
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import Obj, Simulator
from views.demo.stripe_simulator.simulated_subscriptions import ENDED, end

PHASE = ("automatic_tax", "start_date", "end_date", "duration", "items", "metadata", "proration_behavior")


@endpoint("POST", "/v1/subscription_schedules", "from_subscription")
def create_schedule(sim: Simulator, params: Params) -> Obj:
    """POST /v1/subscription_schedules, from a subscription: its first phase is the current period."""
    subscription = sim.refer("subscription", params.needed("from_subscription"), "from_subscription")
    if subscription["status"] in ENDED:
        raise invalid("You cannot migrate a subscription that is canceled.", "from_subscription")
    if subscription["schedule"]:
        raise invalid(
            "You cannot migrate a subscription that is already attached to a schedule: "
            f"`{subscription['schedule']}`.",
            "from_subscription",
        )
    started, ends = period_of(subscription)
    priced = [(item["price"], item["quantity"]) for item in subscription["items"]["data"]]
    schedule = sim.add(
        "subscription_schedule",
        billing_mode=subscription["billing_mode"],
        current_phase={"start_date": started, "end_date": ends},
        customer=subscription["customer"],
        default_settings={
            "application_fee_percent": None,
            "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": "charge_automatically",
            "default_payment_method": subscription["default_payment_method"],
            "description": None,
            "invoice_settings": subscription["invoice_settings"],
            "on_behalf_of": None,
            "transfer_data": None,
        },
        end_behavior="release",
        metadata={},
        pause_schedules=[],
        phases=[_phase(subscription, priced, started, ends, {})],
        status="active",
        subscription=subscription["id"],
    )
    sim.change(subscription, "customer.subscription.updated", schedule=schedule["id"])
    sim.emit("subscription_schedule.created", schedule)
    return schedule


@endpoint("GET", "/v1/subscription_schedules/{id}")
def retrieve_schedule(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/subscription_schedules/{id}."""
    return sim.get("subscription_schedule", id)


@endpoint("POST", "/v1/subscription_schedules/{id}", "end_behavior metadata phases proration_behavior")
def update_schedule(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/subscription_schedules/{id}: sets its phases; the current one cannot change."""
    schedule = _active(sim, id)
    changed: Obj = {}
    if "metadata" in params:
        changed["metadata"] = params.metadata(schedule["metadata"])
    if "end_behavior" in params:
        changed["end_behavior"] = params.one_of("end_behavior", ("release", "cancel"), "release")
    if "phases" in params:
        changed["phases"] = _phases(sim, schedule, params.each("phases"))
    sim.change(schedule, "subscription_schedule.updated", **changed)
    return schedule


@endpoint("POST", "/v1/subscription_schedules/{id}/release", "preserve_cancel_date")
def release_schedule(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/subscription_schedules/{id}/release: the subscription continues without it."""
    schedule = _active(sim, id)
    _release(sim, schedule)
    return schedule


@endpoint("POST", "/v1/subscription_schedules/{id}/cancel", "invoice_now prorate")
def cancel_schedule(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/subscription_schedules/{id}/cancel, with its subscription."""
    schedule = _active(sim, id)
    end(sim, sim.get("subscription", schedule["subscription"]), "cancellation_requested")
    return schedule


@lists("/v1/subscription_schedules", "subscription_schedule", "customer")
def list_schedules(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/subscription_schedules."""
    return sim.find("subscription_schedule")


def _active(sim: Simulator, id: str) -> Obj:
    schedule = sim.get("subscription_schedule", id)
    if schedule["status"] != "active":
        raise SimulatedError(
            f"You cannot change a subscription schedule that is currently in the `{schedule['status']}` status."
        )
    return schedule


def _phases(sim: Simulator, schedule: Obj, given: list[Params]) -> list[Obj]:
    if not given:
        raise required("phases")
    subscription = sim.get("subscription", schedule["subscription"])
    start, ends = period_of(subscription)
    made: list[Obj] = []
    for index, each in enumerate(given):
        each.allow(PHASE)
        if each.integer("start_date", start) != start:
            raise invalid("Each phase begins where the one before ends.", "phases[start_date]")
        priced = [priced_item(sim, item) for item in each.each("items")]
        if not priced:
            raise required("phases[items]")
        until = each.integer("end_date") or (
            ends if index == 0 and "duration" not in each else _after(start, each, priced[0][0])
        )
        if index == 0 and until != ends:
            raise invalid("The simulator changes phases at the end of a period only.", "phases[end_date]")
        phase = _phase(subscription, priced, start, until, each.metadata())
        if "automatic_tax" in each:
            phase["automatic_tax"] = {"enabled": each.nested("automatic_tax").boolean("enabled")}
        made.append(phase)
        start = until
    return made


def _after(start: int, phase: Params, price: Obj) -> int:
    duration = phase.nested("duration")
    every = dict(price["recurring"])
    if duration:
        every = {
            "interval": duration.needed("interval"),
            "interval_count": duration.integer("interval_count", 1) or 1,
        }
    return period_end(start, {"recurring": every}, start)


def _phase(
    subscription: Obj, priced: list[tuple[Obj, int]], start: int, until: int, metadata: dict[str, str]
) -> Obj:
    items = [
        {
            "billing_thresholds": None,
            "discounts": [],
            "metadata": {},
            "plan": plan_of(price)["id"],
            "price": price["id"],
            "quantity": quantity,
            "tax_rates": [],
        }
        for price, quantity in priced
    ]
    return {
        "add_invoice_items": [],
        "currency": subscription["currency"],
        "discounts": [],
        "end_date": until,
        "items": items,
        "metadata": metadata,
        "proration_behavior": "create_prorations",
        "start_date": start,
        "trial_end": None,
    }


def _release(sim: Simulator, schedule: Obj) -> None:
    subscription = sim.get("subscription", schedule["subscription"])
    schedule |= {
        "status": "released",
        "released_at": sim.now(),
        "released_subscription": subscription["id"],
        "subscription": None,
        "current_phase": None,
    }
    sim.change(subscription, "customer.subscription.updated", schedule=None)
    sim.emit("subscription_schedule.released", schedule)


def _next_phase(sim: Simulator, schedule: Obj) -> None:
    """Begin the next phase when the current one has ended, or complete the schedule."""
    ended = schedule["current_phase"]["end_date"]
    subscription = sim.get("subscription", schedule["subscription"])
    following = next((each for each in schedule["phases"] if each["start_date"] == ended), None)
    if following is not None:
        before = sim.render(subscription)["items"]
        priced = [(sim.get("price", item["price"]), item["quantity"]) for item in following["items"]]
        set_items(sim, subscription, priced)
        subscription["metadata"] = subscription["metadata"] | following["metadata"]
        if "automatic_tax" in following:
            subscription["automatic_tax"] |= following["automatic_tax"]
        sim.emit("customer.subscription.updated", subscription, items=before)
        phase = {"start_date": following["start_date"], "end_date": following["end_date"]}
        sim.change(schedule, "subscription_schedule.updated", current_phase=phase)
    elif schedule["end_behavior"] == "cancel":
        schedule |= {"status": "completed", "completed_at": sim.now(), "current_phase": None}
        sim.emit("subscription_schedule.completed", schedule)
        end(sim, subscription, "cancellation_requested")
    else:
        _release(sim, schedule)


def _due(sim: Simulator) -> list[Due]:
    def later(schedule: Obj) -> Due:
        return schedule["current_phase"]["end_date"], lambda: _next_phase(sim, schedule)

    active = [each for each in sim.objects["subscription_schedule"].values() if each["status"] == "active"]
    return [later(each) for each in active]


# before the renewal at the same time, which then has the new price
SOURCES.insert(0, _due)
