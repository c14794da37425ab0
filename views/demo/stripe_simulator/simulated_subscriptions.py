"""Subscriptions of the Stripe simulator: their states, and changes with proration."""

import copy

from views.demo.stripe_simulator.simulated_clock import SOURCES, Due
from views.demo.stripe_simulator.simulated_customers import living_customer
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid, required
from views.demo.stripe_simulator.simulated_invoices import (
    AFTER_INVOICE,
    collect,
    default_method,
    finalize,
    intent_of,
    new_invoice,
    subscription_of,
    void,
)
from views.demo.stripe_simulator.simulated_items import (
    full_line,
    new_item,
    period_end,
    period_of,
    priced_item,
)
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_payments import close_intent
from views.demo.stripe_simulator.simulated_proration import Change, change_items, prorations
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import Obj, Simulator, listing

HOUR, DAY = 3600, 86_400
INCOMPLETE_SECONDS = 23 * HOUR
ENDED = ("canceled", "incomplete_expired")
COMMON = (
    "automatic_tax cancel_at_period_end collection_method default_payment_method description items metadata off_session payment_behavior"
    " payment_settings proration_behavior trial_end"
)
CHANGES = "billing_cycle_anchor cancel_at cancellation_details proration_date"
WAITING = ("items", "billing_cycle_anchor", "status", "trial_end")
"""Of a subscription, what a pending update changes when it is paid."""


# --- the API ------------------------------------------------------------------------------------------------------------


@endpoint("POST", "/v1/subscriptions", f"{COMMON} billing_mode currency customer trial_period_days")
def create_subscription(sim: Simulator, params: Params) -> Obj:
    """POST /v1/subscriptions."""
    customer = living_customer(sim, params.needed("customer"), "customer")
    lines = [priced_item(sim, each) for each in params.each("items")]
    if not lines:
        raise required("items")
    behaviour = params.one_of(
        "payment_behavior",
        ("allow_incomplete", "default_incomplete", "error_if_incomplete"),
        "allow_incomplete",
    )
    method = _own_method(sim, customer, params)
    trial = params.integer("trial_end") or (
        sim.now() + (params.integer("trial_period_days") or 0) * DAY
        if params.text("trial_period_days")
        else None
    )
    before = copy.deepcopy(sim.objects)
    taxed = params.nested("automatic_tax").boolean("enabled")
    subscription = start(sim, customer, lines, params.metadata(), method=method, trial_end=trial, taxed=taxed)
    subscription["description"] = params.text("description")
    if params.boolean("cancel_at_period_end"):
        _cancel_at_end(sim, subscription, True)
    invoice = sim.get("invoice", subscription["latest_invoice"])
    try:
        if behaviour != "default_incomplete":
            off = Params(off_session=params.text("off_session", "true"))
            loud = behaviour == "error_if_incomplete"
            collect(sim, invoice, default_method(sim, invoice), off, loud=loud)
    except SimulatedError:
        sim.objects = before
        raise
    return subscription


@endpoint("GET", "/v1/subscriptions/{id}")
def retrieve_subscription(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/subscriptions/{id}."""
    return sim.get("subscription", id)


@endpoint("POST", "/v1/subscriptions/{id}", f"{COMMON} {CHANGES}")
def update_subscription(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/subscriptions/{id}: new prices with proration, cancelling at the period's end, and resuming."""
    subscription = _living(sim, id)
    before = copy.deepcopy(sim.objects)
    try:
        _update(sim, subscription, params)
    except SimulatedError:
        sim.objects = before
        raise
    return subscription


@endpoint("DELETE", "/v1/subscriptions/{id}", "cancellation_details invoice_now prorate")
def cancel_subscription(sim: Simulator, params: Params, id: str) -> Obj:
    """DELETE /v1/subscriptions/{id}: cancels at once. `prorate` credits the unused time, `invoice_now` invoices it."""
    subscription = _living(sim, id)
    if params.boolean("prorate"):
        changes: list[Change] = [(item, None, 0) for item in subscription["items"]["data"]]
        subscription["_pending"] += prorations(sim, subscription, changes, sim.now())
    if params.boolean("invoice_now") and subscription["_pending"]:
        _invoice(sim, subscription, [], "subscription_update")
    end(sim, subscription, "cancellation_requested", params.nested("cancellation_details"))
    return subscription


@lists("/v1/subscriptions", "subscription", "customer collection_method", other="price status")
def list_subscriptions(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/subscriptions: by default those that are not canceled; or `all`, `ended` or one status."""
    status, price = params.text("status"), params.text("price")
    found = []
    for each in sim.find("subscription"):
        right = {None: each["status"] != "canceled", "all": True, "ended": each["status"] in ENDED}.get(
            status, each["status"] == status
        )
        if right and (not price or any(item["price"]["id"] == price for item in each["items"]["data"])):
            found.append(each)
    return found


@lists("/v1/subscription_items", "subscription_item", "", other="subscription")
def list_items(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/subscription_items."""
    items: list[Obj] = sim.refer("subscription", params.needed("subscription"), "subscription")["items"][
        "data"
    ]
    return items


# --- states -------------------------------------------------------------------------------------------------------------


def start(
    sim: Simulator,
    customer: Obj,
    priced: list[tuple[Obj, int]],
    metadata: dict[str, str],
    *,
    method: Obj | None,
    trial_end: int | None = None,
    taxed: bool = False,
) -> Obj:
    """Create a subscription, with its first invoice finalized and not yet paid. With a trial nothing is due."""
    now = sim.now()
    recurring = [price["recurring"] for price, _ in priced]
    if not all(recurring):
        raise invalid(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`."
        )
    if len({(each["interval"], each["interval_count"]) for each in recurring}) > 1:
        raise invalid("Currency and interval fields must match across all prices of a subscription.", "items")
    if len({price["currency"] for price, _ in priced}) > 1:
        raise invalid("All prices on a subscription must be in the same currency.", "items")
    until = trial_end or period_end(now, priced[0][0], now)
    subscription = sim.add(
        "subscription",
        automatic_tax={"disabled_reason": None, "enabled": taxed, "liability": None},
        billing_cycle_anchor=trial_end or now,
        billing_mode={"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        billing_schedules=[],
        cancel_at_period_end=False,
        cancellation_details={"comment": None, "feedback": None, "reason": None},
        collection_method="charge_automatically",
        currency=priced[0][0]["currency"],
        customer=customer["id"],
        default_payment_method=method["id"] if method else None,
        default_tax_rates=[],
        discounts=[],
        invoice_settings={"account_tax_ids": None, "issuer": {"type": "self"}},
        metadata=metadata,
        payment_settings={
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        start_date=now,
        status="trialing" if trial_end else "incomplete",
        trial_end=trial_end,
        trial_settings={"end_behavior": {"missing_payment_method": "create_invoice"}},
        trial_start=now if trial_end else None,
        _pending=[],
    )
    items = [new_item(sim, subscription, price, quantity, (now, until)) for price, quantity in priced]
    subscription["items"] = listing(items, f"/v1/subscription_items?subscription={subscription['id']}")
    sim.emit("customer.subscription.created", subscription)
    lines = [
        full_line(
            sim, subscription, item, item["price"], item["quantity"], (now, until), free=bool(trial_end)
        )
        for item in subscription["items"]["data"]
    ]
    _draft(sim, subscription, lines, "subscription_create")
    return subscription


def from_checkout(sim: Simulator, session: Obj, method: Obj, confirm: Params) -> Obj:
    """The subscription of a Checkout Session, with its first payment. Raises SimulatedError if the card is declined; the next
    attempt continues the same subscription."""
    data = Params(session["_data"])
    if session.get("_subscription"):
        subscription = sim.get("subscription", session["_subscription"])
        subscription["default_payment_method"] = method["id"]
    else:
        priced = [(sim.get("price", each["price"]["id"]), each["quantity"]) for each in session["_lines"]]
        days = data.integer("trial_period_days")
        subscription = start(
            sim,
            sim.get("customer", session["customer"]),
            priced,
            data["metadata"],
            method=method,
            trial_end=sim.now() + days * DAY if days else None,
            taxed=session["automatic_tax"]["enabled"],
        )
        subscription["description"] = data.text("description")
        session["_subscription"] = subscription["id"]
    invoice = sim.get("invoice", subscription["latest_invoice"])
    intent = intent_of(sim, invoice)
    if intent is not None and invoice["status"] == "open":
        intent["_session"] = session["id"]
        session["_pay_intent"] = intent["id"]
        try:
            collect(sim, invoice, method, confirm, loud=True)
        finally:
            if session["status"] == "open" and intent["status"] != "requires_action":
                session["_pay_intent"] = None
    return subscription


def end(sim: Simulator, subscription: Obj, reason: str, given: Params | None = None) -> None:
    """Cancel it now."""
    now = sim.now()
    details = subscription["cancellation_details"] | {
        "reason": subscription["cancellation_details"]["reason"] or reason
    }
    details |= {name: given.text(name) for name in ("comment", "feedback") if given and name in given}
    unpaid = subscription["status"] == "incomplete"
    subscription |= {
        "status": "incomplete_expired" if unpaid else "canceled",
        "canceled_at": subscription["canceled_at"] or now,
        "ended_at": now,
        "cancellation_details": details,
        "cancel_at_period_end": False,
        "_pending": [],
    }
    _end_schedule(sim, subscription)
    if unpaid:
        invoice = sim.get("invoice", subscription["latest_invoice"])
        if invoice["status"] == "open":
            void(sim, invoice)
        sim.emit("customer.subscription.updated", subscription, status="incomplete")
    else:
        sim.emit("customer.subscription.deleted", subscription)


def renew(sim: Simulator, subscription: Obj) -> None:
    """Begin the next period: create and collect its invoice."""
    before = sim.render(subscription)["items"]
    begins = period_of(subscription)[1]
    trial = subscription["status"] == "trialing"
    items = subscription["items"]["data"]
    ends = period_end(begins, items[0]["price"], subscription["billing_cycle_anchor"])
    for item in items:
        item |= {"current_period_start": begins, "current_period_end": ends}
    changed = {"status": "active"} if trial else {}
    previous = {"status": "trialing"} if trial else {}
    subscription |= changed
    sim.emit("customer.subscription.updated", subscription, items=before, **previous)
    lines = [
        full_line(sim, subscription, item, item["price"], item["quantity"], (begins, ends)) for item in items
    ]
    _invoice(sim, subscription, lines, "subscription_cycle")


def _update(sim: Simulator, subscription: Obj, params: Params) -> None:
    customer = sim.get("customer", subscription["customer"])
    before = sim.render(subscription)
    plain: Obj = {}
    if "metadata" in params:
        plain["metadata"] = params.metadata(subscription["metadata"])
    if "automatic_tax" in params:
        if params.text("payment_behavior") == "pending_if_incomplete":
            raise invalid("`automatic_tax` cannot be changed by a pending update.", "automatic_tax")
        enabled = params.nested("automatic_tax").boolean("enabled")
        plain["automatic_tax"] = subscription["automatic_tax"] | {"enabled": enabled}
    if "description" in params:
        plain["description"] = params.text("description")
    if "default_payment_method" in params:
        method = _own_method(sim, customer, params)
        plain["default_payment_method"] = method["id"] if method else None
    subscription |= plain
    if "cancellation_details" in params:
        given = params.nested("cancellation_details")
        subscription["cancellation_details"] = subscription["cancellation_details"] | {
            name: given.text(name) for name in ("comment", "feedback") if name in given
        }
    if "cancel_at" in params:
        subscription["cancel_at"] = params.integer("cancel_at")
    if "cancel_at_period_end" in params and subscription["schedule"]:
        raise invalid(
            f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and updating any "
            "cancelation behavior directly is not allowed. Please update the schedule instead.",
            "cancel_at_period_end",
        )
    if "cancel_at_period_end" in params:
        _cancel_at_end(sim, subscription, params.boolean("cancel_at_period_end"))
    if params.text("payment_behavior") == "pending_if_incomplete":
        _update_when_paid(sim, subscription, params)
        return
    lines, at_once = change_items(sim, subscription, params)
    after = sim.render(subscription)
    previous = {name: value for name, value in before.items() if after[name] != value}
    if previous:
        sim.emit("customer.subscription.updated", subscription, **previous)
    if at_once:
        loud = params.text("payment_behavior") == "error_if_incomplete"
        _invoice(sim, subscription, lines, "subscription_update", loud=loud)


def _update_when_paid(sim: Simulator, subscription: Obj, params: Params) -> None:
    """Other prices as soon as their invoice is paid: until then they are the `pending_update`, for 23 hours."""
    before = {name: copy.deepcopy(subscription[name]) for name in WAITING}
    lines, at_once = change_items(sim, subscription, params)
    after = {name: subscription[name] for name in WAITING}
    if not at_once:
        return
    subscription |= before
    subscription["_waiting"] = after
    subscription["pending_update"] = {
        "billing_cycle_anchor": after["billing_cycle_anchor"],
        "discount_source": None,
        "discounts": None,
        "expires_at": sim.now() + INCOMPLETE_SECONDS,
        "prebilling_iterations": None,
        "subscription_items": sim.render(after["items"])["data"],
        "trial_end": after["trial_end"],
        "trial_from_plan": None,
    }
    _invoice(sim, subscription, lines, "subscription_update")
    if subscription["pending_update"]:
        sim.emit("customer.subscription.updated", subscription, pending_update=None)


def _end_waiting(sim: Simulator, subscription: Obj, *, paid: bool) -> None:
    """The invoice of a pending update was paid, or is void."""
    old = subscription["items"]
    waiting = subscription.pop("_waiting")
    subscription["pending_update"] = None
    if paid:
        subscription |= waiting
        sim.emit("customer.subscription.pending_update_applied", subscription)
        sim.emit("customer.subscription.updated", subscription, items=old)
    else:
        sim.emit("customer.subscription.pending_update_expired", subscription)


def _end_schedule(sim: Simulator, subscription: Obj) -> None:
    schedule = sim.objects["subscription_schedule"].get(subscription["schedule"] or "")
    if schedule is not None and schedule["status"] == "active":
        schedule |= {"status": "canceled", "canceled_at": sim.now(), "current_phase": None}
        sim.emit("subscription_schedule.canceled", schedule)


def _draft(sim: Simulator, subscription: Obj, lines: list[Obj], reason: str) -> Obj:
    customer = sim.get("customer", subscription["customer"])
    all_lines = [*subscription["_pending"], *lines]
    subscription["_pending"] = []
    invoice = new_invoice(
        sim, customer, subscription["currency"], all_lines, reason, subscription=subscription
    )
    subscription["latest_invoice"] = invoice["id"]
    finalize(sim, invoice)
    return invoice


def _invoice(sim: Simulator, subscription: Obj, lines: list[Obj], reason: str, *, loud: bool = False) -> None:
    invoice = _draft(sim, subscription, lines, reason)
    collect(sim, invoice, default_method(sim, invoice), Params(off_session="true"), loud=loud)


def _follow_invoice(sim: Simulator, invoice: Obj) -> None:
    """Update the subscription of an invoice: active if it was paid, past due if collection failed."""
    id = subscription_of(invoice)
    if id is None or sim.get("subscription", id)["status"] in ENDED:
        return
    subscription = sim.get("subscription", id)
    status = subscription["status"]
    if subscription.get("_waiting") and subscription["latest_invoice"] == invoice["id"]:
        if invoice["status"] != "open":
            _end_waiting(sim, subscription, paid=invoice["status"] == "paid")
    elif invoice["status"] == "paid":
        if status in ("incomplete", "past_due", "unpaid") and subscription["latest_invoice"] == invoice["id"]:
            sim.change(subscription, "customer.subscription.updated", status="active")
    elif status == "active" and invoice["attempted"] and invoice["status"] == "open":
        sim.change(subscription, "customer.subscription.updated", status="past_due")


def _cancel_at_end(sim: Simulator, subscription: Obj, wanted: bool) -> None:
    if wanted == subscription["cancel_at_period_end"]:
        return
    reason = "cancellation_requested" if wanted else None
    subscription |= {
        "cancel_at_period_end": wanted,
        "cancel_at": period_of(subscription)[1] if wanted else None,
        "canceled_at": sim.now() if wanted else None,
        "cancellation_details": subscription["cancellation_details"] | {"reason": reason},
    }


def _due(sim: Simulator) -> list[Due]:
    living = [each for each in sim.objects["subscription"].values() if each["status"] not in ENDED]
    waiting = [
        each
        for each in sim.objects["invoice"].values()
        if each["status"] == "open" and each["next_payment_attempt"]
    ]
    pending = [_give_up(sim, each) for each in living if each.get("_waiting")]
    return [*(_next(sim, each) for each in living), *(_retry(sim, each) for each in waiting), *pending]


def _give_up(sim: Simulator, subscription: Obj) -> Due:
    invoice = sim.get("invoice", subscription["latest_invoice"])
    return subscription["pending_update"]["expires_at"], lambda: void(sim, invoice)


def _next(sim: Simulator, subscription: Obj) -> Due:
    ends = period_of(subscription)[1]
    if subscription["status"] == "incomplete":
        return subscription["created"] + INCOMPLETE_SECONDS, lambda: end(sim, subscription, "payment_failed")
    cancel_at = subscription["cancel_at"]
    if cancel_at is not None and cancel_at <= ends:
        return cancel_at, lambda: end(sim, subscription, "cancellation_requested")
    return ends, lambda: renew(sim, subscription)


def _retry(sim: Simulator, invoice: Obj) -> Due:
    return invoice["next_payment_attempt"], lambda: _collect_again(sim, invoice)


def _collect_again(sim: Simulator, invoice: Obj) -> None:
    invoice["next_payment_attempt"] = None
    collect(sim, invoice, default_method(sim, invoice), Params(off_session="true"))
    id = subscription_of(invoice)
    if id and invoice["status"] == "open" and invoice["next_payment_attempt"] is None:
        subscription = sim.get("subscription", id)
        if subscription["status"] not in ENDED:
            intent = intent_of(sim, invoice)
            if intent and intent["status"] == "requires_action":
                close_intent(sim, intent, "abandoned")
            end(sim, subscription, "payment_failed")


# --- parts --------------------------------------------------------------------------------------------------------------


def _living(sim: Simulator, id: str) -> Obj:
    subscription = sim.get("subscription", id)
    if subscription["status"] in ENDED:
        raise SimulatedError(f"No such subscription: '{id}'", status=404, code="resource_missing", param="id")
    return subscription


def _own_method(sim: Simulator, customer: Obj, params: Params) -> Obj | None:
    id = params.text("default_payment_method")
    if id is None:
        return None
    method = sim.refer("payment_method", id, "default_payment_method")
    if method["customer"] != customer["id"]:
        raise invalid(
            f"The customer does not have a payment method with the ID {id}. The payment method must be attached to the customer.",
            "default_payment_method",
            "resource_missing",
        )
    return method


AFTER_INVOICE.append(_follow_invoice)
SOURCES.append(_due)
