"""Control API for tests, `/_control/...`: deliver events, change cards, dispute payments, advance the clock. Needs the
simulator's key like the API; bodies are JSON."""

import hmac
from collections.abc import Callable
from typing import Any

from flask import Flask, request

from views.demo.stripe_simulator import simulated_clock, simulated_events, simulated_refunds
from views.demo.stripe_simulator.simulated_cards import BY_KIND
from views.demo.stripe_simulator.simulated_customers import attach, living_customer, new_method
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid, required
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_payments import settle_delayed
from views.demo.stripe_simulator.simulated_state import Obj, Simulator, listing

Control = Callable[[Simulator, Obj], Any]


def mount(app: Flask, sim: Simulator) -> None:
    """Add the control routes to the application."""
    controls: dict[str, Control] = {
        "reset": _reset,
        "clock": _clock,
        "cards": _cards,
        "disputes": _disputes,
        "fraud_warnings": _fraud_warnings,
        "refunds": _refunds,
        "payments": _payments,
        "events": _events,
        "deliveries": _deliveries,
        "webhook": _webhook,
        "faults": _faults,
    }

    def control(name: str) -> Any:
        authorised(sim)
        if name not in controls:
            raise invalid(f"No such control: {name}")
        sim.url = sim.url or request.host_url.rstrip("/")
        body = request.get_json(silent=True)
        if body is not None and not isinstance(body, dict):
            raise invalid("Send a JSON object.")
        try:
            if name == "deliveries":  # without the lock: the webhook may call the API
                return _deliveries(sim, body or {})
            with sim.lock:
                answer = controls[name](sim, body or {})
                sim.save()
        except KeyError as missing:
            raise required(str(missing.args[0])) from None
        return answer

    app.add_url_rule("/_control/<name>", "control", control, methods=["POST"])


def authorised(simulator: Simulator) -> None:
    """Check the simulator's key, as bearer token or as user name. Raises SimulatedError."""
    given = request.authorization
    key = (
        (given.token or (given.parameters.get("username") if given.type == "basic" else ""))
        if given
        else None
    )
    if not key:
        raise SimulatedError(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth "
            "(e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
            status=401,
        )
    if not hmac.compare_digest(key.encode(), simulator.key.encode()):
        raise SimulatedError(f"Invalid API Key provided: {key[:8]}***{key[-4:]}", status=401)


def add_card(sim: Simulator, customer: str, kind: str, *, fingerprint: str = "", default: bool = True) -> Obj:
    """Save a card as the customer's default, also one that Stripe would decline to save."""
    if kind not in BY_KIND:
        raise invalid(f"No such card: {kind}. There are: {', '.join(BY_KIND)}")
    owner = living_customer(sim, customer)
    method = new_method(sim, BY_KIND[kind], Params(), {})
    if fingerprint and method.get("card"):
        method["card"]["fingerprint"] = fingerprint
    attach(sim, method, customer)
    if default:
        settings = owner["invoice_settings"] | {"default_payment_method": method["id"]}
        sim.change(owner, "customer.updated", invoice_settings=settings)
    return method


def _reset(sim: Simulator, body: Obj) -> Obj:
    sim.reset()
    return {}


def _clock(sim: Simulator, body: Obj) -> Obj:
    """{"advance": seconds}: runs everything that becomes due, at its time."""
    simulated_clock.advance(sim, int(body.get("advance", 0)))
    return {"now": sim.now()}


def _cards(sim: Simulator, body: Obj) -> Obj:
    """{"customer", "kind"} saves a card; {"payment_method", "kind"} changes the behaviour of a saved one."""
    if "payment_method" not in body:
        return sim.render(add_card(sim, body["customer"], body["kind"], default=body.get("default", True)))
    method = sim.get("payment_method", body["payment_method"])
    if body["kind"] not in BY_KIND:
        raise invalid(f"No such card: {body['kind']}")
    method["_kind"] = body["kind"]
    return sim.render(method)


def _disputes(sim: Simulator, body: Obj) -> Obj:
    """{"charge", "amount"?, "reason"?, "inquiry"?} opens a dispute; {"dispute", "do": "win" | "lose" | "escalate"} continues it."""
    if "charge" in body:
        charge = sim.get("charge", body["charge"])
        reason, withdraw = body.get("reason", "fraudulent"), not body.get("inquiry", False)
        return sim.render(
            simulated_refunds.open_dispute(
                sim, charge, amount=body.get("amount"), reason=reason, withdraw=withdraw
            )
        )
    dispute = sim.get("dispute", body["dispute"])
    if body["do"] == "escalate":
        simulated_refunds.escalate(sim, dispute)
    else:
        simulated_refunds.close_dispute(sim, dispute, won=body["do"] == "win")
    return sim.render(dispute)


def _fraud_warnings(sim: Simulator, body: Obj) -> Obj:
    """{"charge"}."""
    return sim.render(simulated_refunds.warn_of_fraud(sim, sim.get("charge", body["charge"])))


def _refunds(sim: Simulator, body: Obj) -> Obj:
    """{"refund", "status": "succeeded" | "failed"} ends a refund; {"charge", "amount"} creates one as on the dashboard."""
    if "charge" in body:
        params = Params(charge=body["charge"], amount=str(body["amount"]))
        return sim.render(simulated_refunds.create_refund(sim, params))
    refund = sim.get("refund", body["refund"])
    simulated_refunds.end_refund(sim, refund, body["status"])
    return sim.render(refund)


def _payments(sim: Simulator, body: Obj) -> Obj:
    """{"payment_intent", "failed"?}: a delayed payment ends now."""
    intent = sim.get("payment_intent", body["payment_intent"])
    settle_delayed(sim, intent, failed=body.get("failed", False))
    return sim.render(intent)


def _events(sim: Simulator, body: Obj) -> Obj:
    """All events, oldest first."""
    return listing(list(sim.objects["event"].values()), "/_control/events")


def _deliveries(sim: Simulator, body: Obj) -> Obj:
    """{"events": [ids]?, "url"?}: delivers these events in this order, also repeatedly, or all pending ones; returns the statuses."""
    with sim.lock:
        ids = body.get("events") or [event["id"] for event in simulated_events.pending(sim)]
        chosen = [sim.get("event", id) for id in ids]
    post = simulated_events.post_to(body.get("url") or sim.webhook_url)
    return {"statuses": [simulated_events.deliver(sim, event, post) for event in chosen]}


def _webhook(sim: Simulator, body: Obj) -> Obj:
    """{"url"?, "held"?}: sets the webhook's URL, and whether events are held back."""
    sim.webhook_url = body.get("url", sim.webhook_url)
    sim.held = body.get("held", sim.held)
    sim.changed.set()
    return {"url": sim.webhook_url, "held": sim.held}


def _faults(sim: Simulator, body: Obj) -> Obj:
    """{"method", "rule", "when": "before" | "after", "status", "times", "seconds"}: fails requests to a route, before the
    request is executed or after it, when only the response is lost."""
    fault = {"method": "POST", "when": "before", "status": 500, "times": 1, "seconds": 0} | body
    if "rule" not in fault or fault["when"] not in ("before", "after"):
        raise invalid("A fault needs a rule, and `when` is before or after.")
    sim.faults.append(fault)
    return fault
