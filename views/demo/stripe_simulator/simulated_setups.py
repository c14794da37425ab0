"""SetupIntents of the Stripe simulator, which save a card, and the result of 3D Secure for them and for payments."""

import secrets
from typing import Any

from views.demo.stripe_simulator import simulated_cards
from views.demo.stripe_simulator.simulated_customers import attach, declined, living_customer
from views.demo.stripe_simulator.simulated_errors import SimulatedError
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_payments import (
    UNFINISHED,
    behaviour,
    given_method,
    is_past,
    require_action,
    take_money,
    unexpected_state,
)
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

SETUP = "automatic_payment_methods customer description metadata payment_method payment_method_options payment_method_types usage"


@endpoint("POST", "/v1/setup_intents", f"{SETUP} confirm return_url mandate_data use_stripe_sdk")
def create_setup(sim: Simulator, params: Params) -> Obj:
    """POST /v1/setup_intents."""
    customer = params.text("customer")
    if customer:
        living_customer(sim, customer, "customer")
    method = given_method(sim, params, customer)
    intent = new_setup(sim, customer, params.metadata(), method=method)
    intent |= {
        "description": params.text("description"),
        "usage": params.one_of("usage", ("off_session", "on_session"), "off_session"),
    }
    if types := params.texts("payment_method_types"):
        intent |= {"payment_method_types": types, "automatic_payment_methods": None}
    if params.boolean("confirm"):
        confirm_setup(sim, intent, params)
    return intent


@endpoint("GET", "/v1/setup_intents/{id}", "client_secret")
def retrieve_setup(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/setup_intents/{id}."""
    return sim.get("setup_intent", id)


@endpoint("POST", "/v1/setup_intents/{id}/confirm", "payment_method return_url mandate_data use_stripe_sdk")
def confirm_existing_setup(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/setup_intents/{id}/confirm."""
    intent = sim.get("setup_intent", id)
    if intent["status"] not in ("requires_payment_method", "requires_confirmation", "requires_action"):
        raise unexpected_state(
            sim, intent, f"You cannot confirm this SetupIntent because it has a status of {intent['status']}."
        )
    if method := given_method(sim, params, intent["customer"]):
        intent["payment_method"] = method["id"]
    confirm_setup(sim, intent, params)
    return intent


@endpoint("POST", "/v1/setup_intents/{id}/cancel", "cancellation_reason")
def cancel_setup(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/setup_intents/{id}/cancel."""
    intent = sim.get("setup_intent", id)
    if intent["status"] not in UNFINISHED:
        raise unexpected_state(
            sim, intent, f"You cannot cancel this SetupIntent because it has a status of {intent['status']}."
        )
    intent |= {"status": "canceled", "cancellation_reason": params.text("cancellation_reason")}
    sim.emit("setup_intent.canceled", intent)
    return intent


@lists("/v1/setup_intents", "setup_intent", "customer payment_method")
def list_setups(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/setup_intents."""
    return sim.find("setup_intent")


def new_setup(
    sim: Simulator, customer: str | None, metadata: dict[str, str], *, method: Obj | None = None, **more: Any
) -> Obj:
    """A new SetupIntent, not confirmed."""
    intent = sim.add(
        "setup_intent",
        automatic_payment_methods={"allow_redirects": "always", "enabled": True},
        customer=customer,
        metadata=metadata,
        payment_method=method["id"] if method else None,
        payment_method_options={"card": {"request_three_d_secure": "automatic"}},
        payment_method_types=["card", "link"],
        status="requires_confirmation" if method else "requires_payment_method",
        usage="off_session",
        **more,
    )
    intent["client_secret"] = f"{intent['id']}_secret_{secrets.token_urlsafe(16)}"
    sim.emit("setup_intent.created", intent)
    return intent


def confirm_setup(sim: Simulator, intent: Obj, params: Params) -> None:
    """Confirm the intent. Raises SimulatedError if the card is declined."""
    if intent["payment_method"] is None:
        raise unexpected_state(
            sim, intent, "You cannot confirm this SetupIntent because it's missing a payment method."
        )
    method = sim.get("payment_method", intent["payment_method"])
    if behaviour(method).authentication != "never":
        require_action(sim, intent, params.text("return_url"), "setup_intent.requires_action")
    else:
        finish_setup(sim, intent, method)


def finish_setup(sim: Simulator, intent: Obj, method: Obj) -> None:
    """Save the card. Raises SimulatedError if it is declined."""
    card = behaviour(method)
    if card.refuses_to_be_saved or is_past(method):
        error = declined("expired_card" if is_past(method) else card.decline_code)
        details = error.body["error"]
        intent |= {"status": "requires_payment_method", "payment_method": None, "next_action": None}
        intent["last_setup_error"] = details | {"payment_method": sim.render(method)}
        sim.emit("setup_intent.setup_failed", intent)
        details["setup_intent"] = sim.render(intent)
        raise error
    if intent["customer"]:
        attach(sim, method, intent["customer"])
    intent |= {"status": "succeeded", "next_action": None, "last_setup_error": None}
    sim.emit("setup_intent.succeeded", intent)


def finish_authentication(sim: Simulator, intent: Obj, *, confirmed: bool) -> None:
    """Apply the answer of the 3D Secure page. Raises SimulatedError if the card declines afterwards."""
    setup = intent["object"] == "setup_intent"
    method = sim.get("payment_method", intent["payment_method"])
    intent["next_action"] = None
    if confirmed:
        method["_authenticated"] = True
        if setup:
            finish_setup(sim, intent, method)
        else:
            take_money(sim, intent, method)
        return
    error = SimulatedError(
        simulated_cards.MESSAGES["payment_intent_authentication_failure"],
        status=402,
        type="card_error" if not setup else "invalid_request_error",
        code=f"{intent['object']}_authentication_failure",
    )
    intent |= {"status": "requires_payment_method", "payment_method": None}
    name = "last_setup_error" if setup else "last_payment_error"
    intent[name] = error.body["error"] | {"payment_method": sim.render(method)}
    sim.emit("setup_intent.setup_failed" if setup else "payment_intent.payment_failed", intent)
    raise error
