"""The dashboard of the Stripe simulator, its front page: refunds, disputes and their outcome, fraud warnings, the clock, and the
deliveries to the webhook."""

import time
from datetime import UTC, datetime
from typing import Any

from flask import Flask, request

from views.demo.stripe_simulator import simulated_clock, simulated_refunds
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid
from views.demo.stripe_simulator.simulated_pages import money, page, see_other
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_payments import settle_delayed
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

SHOWN = 20
"""Rows of each table."""
CLOCK = {"hour": 3600, "day": 86_400, "month": 31 * 86_400}


def mount(app: Flask, sim: Simulator) -> None:
    """Add the page to the application."""

    def show(error: str = "", status: int = 200) -> Any:
        charges = list(sim.objects["charge"].values())[: -SHOWN - 1 : -1]
        events = list(sim.objects["event"].values())[: -SHOWN - 1 : -1]
        return page(
            "stripe_dashboard",
            status,
            rows=[_row(sim, charge) for charge in charges],
            events=[(event, sim.deliveries[event["id"]]) for event in events],
            now=_moment(sim.now()),
            ahead=sim.offset > 0,
            clock=CLOCK,
            webhook=sim.webhook_url,
            error=error,
        )

    def dashboard() -> Any:
        sim.url = sim.url or request.host_url.rstrip("/")
        with sim.lock:
            if request.method == "GET":
                return show()
            try:
                _only_from_here()
                _act(sim, Params(request.form))
            except SimulatedError as error:
                return show(error.body["error"]["message"], 422)
            finally:
                sim.save()
        return see_other("/")

    app.add_url_rule("/", "dashboard", dashboard, methods=["GET", "POST"])


def _only_from_here() -> None:
    """Reject forms of other sites."""
    origin = request.headers.get("Origin")
    if origin is not None and origin != request.host_url.rstrip("/"):
        raise invalid("This form came from another site.")


def _row(sim: Simulator, charge: Obj) -> Obj:
    disputes = sim.find("dispute", charge=charge["id"])
    dispute = disputes[0] if disputes else None
    is_open = dispute is not None and dispute["status"] not in simulated_refunds.CLOSED
    left = charge["amount"] - charge["amount_refunded"]
    paid = charge["status"] == "succeeded"
    actions: list[tuple[str, str, str]] = []
    if charge["status"] == "pending":
        actions += [("settle", charge["id"], "Complete payment"), ("bounce", charge["id"], "Let it fail")]
    if paid and left and (dispute is None or dispute["is_charge_refundable"]):
        actions += [("refund", charge["id"], "Refund"), ("refund_half", charge["id"], "Refund half")]
    if paid and dispute is None:
        actions += [("dispute", charge["id"], "Dispute"), ("warn", charge["id"], "Send fraud warning")]
    if dispute is not None and is_open:
        actions += [("win", dispute["id"], "Win the dispute"), ("lose", dispute["id"], "Lose it")]
    state = charge["status"]
    if charge["amount_refunded"]:
        state = f"{money(charge['amount_refunded'], charge['currency'])} refunded" if left else "refunded"
    if dispute is not None:
        state += f", dispute {dispute['status'].replace('_', ' ')}"
    customer = sim.objects["customer"].get(charge["customer"] or "")
    return {
        "id": charge["id"],
        "amount": money(charge["amount"], charge["currency"]),
        "customer": (customer or {}).get("email") or charge["customer"] or "nobody",
        "description": charge["description"] or charge["metadata"].get("operationId") or "",
        "state": state if paid or charge["status"] == "pending" else f"failed: {charge['failure_message']}",
        "when": _moment(charge["created"]),
        "actions": actions,
    }


def _act(sim: Simulator, form: Params) -> None:
    action, id = form.needed("do"), form.text("id") or ""
    if action == "advance":
        if (form.text("by") or "") not in CLOCK:
            raise invalid("Advance the clock by an hour, a day or a month.")
        simulated_clock.advance(sim, CLOCK[form.needed("by")])
    elif action == "deliver":
        delivery = sim.deliveries.get(id)
        if delivery is None:
            raise invalid("There is no such event.")
        delivery |= {"delivered": False, "due": time.time(), "attempts": 0}
        sim.changed.set()
    elif action in ("win", "lose"):
        dispute = sim.get("dispute", id)
        if dispute["status"] in simulated_refunds.CLOSED:
            raise invalid("This dispute is closed.")
        simulated_refunds.close_dispute(sim, dispute, won=action == "win")
    else:
        _act_on_charge(sim, action, sim.get("charge", id))


def _act_on_charge(sim: Simulator, action: str, charge: Obj) -> None:
    left = charge["amount"] - charge["amount_refunded"]
    if action in ("refund", "refund_half"):
        params = Params(charge=charge["id"], amount=str(left if action == "refund" else max(1, left // 2)))
        simulated_refunds.create_refund(sim, params)
    elif action == "dispute" and charge["status"] == "succeeded" and not charge["disputed"]:
        simulated_refunds.open_dispute(sim, charge)
    elif action == "warn" and charge["status"] == "succeeded":
        simulated_refunds.warn_of_fraud(sim, charge)
    elif action in ("settle", "bounce") and charge["status"] == "pending":
        settle_delayed(sim, sim.get("payment_intent", charge["payment_intent"]), failed=action == "bounce")
    else:
        raise invalid("This is not possible for this payment now.")


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%-d %b %Y, %H:%M UTC")
