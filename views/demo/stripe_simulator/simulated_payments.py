"""PaymentIntents of the Stripe simulator."""

import calendar
import secrets
import time
from typing import Any
from urllib.parse import urlencode

from views.demo.stripe_simulator import simulated_cards
from views.demo.stripe_simulator.simulated_cards import BY_KIND, PlayCard
from views.demo.stripe_simulator.simulated_charges import book, new_charge
from views.demo.stripe_simulator.simulated_customers import (
    attach,
    declined,
    living_customer,
    new_method,
    usable_method,
)
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import Hook, Obj, Simulator

SMALLEST = {"usd": 50, "eur": 50, "gbp": 30, "chf": 50, "jpy": 50, "cad": 50, "aud": 50}
"""The smallest amount of a payment, by supported currency."""
LARGEST = 99_999_999
UNFINISHED = ("requires_payment_method", "requires_confirmation", "requires_action", "processing")
INTENT = (
    "amount automatic_payment_methods capture_method currency customer description metadata payment_method"
    " payment_method_options payment_method_types receipt_email setup_future_usage shipping statement_descriptor"
    " statement_descriptor_suffix"
)
CONFIRM = "error_on_requires_action mandate_data off_session payment_method return_url use_stripe_sdk"

AFTER_PAYMENT: list[Hook] = []
"""Called after an intent succeeded or failed: its invoice is paid, its card disputes."""


@endpoint("POST", "/v1/payment_intents", f"{INTENT} {CONFIRM} confirm payment_method_data")
def create_intent(sim: Simulator, params: Params) -> Obj:
    """POST /v1/payment_intents, with `confirm` and `off_session`."""
    if params.one_of("capture_method", ("automatic", "automatic_async", "manual"), "automatic") == "manual":
        raise invalid("The simulator has no manual capture.", "capture_method")
    customer = params.text("customer")
    if customer:
        living_customer(sim, customer, "customer")
    confirm = params.boolean("confirm")
    if "off_session" in params and not confirm:
        raise invalid("You can only set `off_session` when `confirm` is true.", "off_session")
    amount, currency = checked_amount(params.needed_integer("amount"), params.needed("currency"))
    types = params.texts("payment_method_types")
    automatic = params.nested("automatic_payment_methods")
    if types and automatic.boolean("enabled"):
        raise invalid(
            "You may only specify one of these parameters: automatic_payment_methods, payment_method_types."
        )
    method = given_method(sim, params, customer)
    redirects = not types and automatic.text("allow_redirects") != "never"
    if confirm and redirects and not params.boolean("off_session") and not params.text("return_url"):
        raise invalid(
            "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of these "
            "payment methods might redirect your customer off of your page, you must provide a `return_url`. If you don't "
            "want to accept redirect-based payment methods, set `automatic_payment_methods[enabled]` to `true` and "
            "`automatic_payment_methods[allow_redirects]` to `never` when creating Setup Intents and Payment Intents."
        )
    intent = new_intent(sim, amount, currency, customer, method=method, metadata=params.metadata())
    intent |= _intent_texts(params)
    if types:
        intent |= {"payment_method_types": types, "automatic_payment_methods": None}
    else:
        intent["automatic_payment_methods"]["allow_redirects"] = automatic.text("allow_redirects") or "always"
    if confirm:
        confirm_intent(sim, intent, params)
    return intent


@endpoint("GET", "/v1/payment_intents/{id}", "client_secret")
def retrieve_intent(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/payment_intents/{id}."""
    return sim.get("payment_intent", id)


@endpoint("POST", "/v1/payment_intents/{id}", INTENT)
def update_intent(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/payment_intents/{id}: metadata and description always, the rest before it is paid."""
    intent = sim.get("payment_intent", id)
    if params.keys() - {"metadata", "description", "expand"} and intent["status"] not in UNFINISHED[:2]:
        raise unexpected_state(
            sim,
            intent,
            f"This PaymentIntent could not be updated because it has a status of {intent['status']}.",
        )
    if "metadata" in params:
        intent["metadata"] = params.metadata(intent["metadata"])
    if "amount" in params:
        intent["amount"], _ = checked_amount(params.needed_integer("amount"), intent["currency"])
    if "payment_method" in params:
        method = given_method(sim, params, intent["customer"])
        intent |= {"payment_method": method["id"] if method else None, "status": "requires_confirmation"}
    intent |= _intent_texts(params)
    return intent


@endpoint("POST", "/v1/payment_intents/{id}/confirm", f"{CONFIRM} receipt_email setup_future_usage")
def confirm_existing_intent(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/payment_intents/{id}/confirm."""
    intent = sim.get("payment_intent", id)
    if intent["status"] not in ("requires_payment_method", "requires_confirmation", "requires_action"):
        done = "it has already succeeded after being previously confirmed"
        why = done if intent["status"] == "succeeded" else f"it has a status of {intent['status']}"
        raise unexpected_state(sim, intent, f"You cannot confirm this PaymentIntent because {why}.")
    if method := given_method(sim, params, intent["customer"]):
        intent["payment_method"] = method["id"]
    intent |= _intent_texts(params)
    confirm_intent(sim, intent, params)
    return intent


@endpoint("POST", "/v1/payment_intents/{id}/cancel", "cancellation_reason")
def cancel_intent(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/payment_intents/{id}/cancel."""
    intent = sim.get("payment_intent", id)
    if intent["status"] not in UNFINISHED or intent.get("_invoice"):
        raise unexpected_state(
            sim,
            intent,
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent with one "
            "of the following statuses may be canceled: requires_payment_method, requires_capture, requires_confirmation, "
            "requires_action, processing.",
        )
    close_intent(sim, intent, params.text("cancellation_reason"))
    return intent


@lists("/v1/payment_intents", "payment_intent", "customer")
def list_intents(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/payment_intents."""
    return sim.find("payment_intent")


def new_intent(
    sim: Simulator,
    amount: int,
    currency: str,
    customer: str | None,
    *,
    method: Obj | None,
    metadata: dict[str, str],
    **more: Any,
) -> Obj:
    """A new intent, not confirmed."""
    intent = sim.add(
        "payment_intent",
        amount=amount,
        amount_capturable=0,
        amount_details={"tip": {}},
        amount_received=0,
        automatic_payment_methods={"allow_redirects": "always", "enabled": True},
        capture_method="automatic_async",
        confirmation_method="automatic",
        currency=currency,
        customer=customer,
        metadata=metadata,
        payment_method=method["id"] if method else None,
        payment_method_options={"card": {"request_three_d_secure": "automatic"}},
        payment_method_types=["card", "link"],
        status="requires_confirmation" if method else "requires_payment_method",
        **more,
    )
    intent["client_secret"] = f"{intent['id']}_secret_{secrets.token_urlsafe(16)}"
    sim.emit("payment_intent.created", intent)
    return intent


def confirm_intent(sim: Simulator, intent: Obj, params: Params) -> None:
    """Confirm the intent. Raises SimulatedError if the card declines; the intent records the attempt."""
    if intent["payment_method"] is None:
        raise unexpected_state(
            sim,
            intent,
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the "
            "PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a payment method "
            "or ConfirmationToken.",
        )
    method = sim.get("payment_method", intent["payment_method"])
    card = behaviour(method)
    off_session = params.boolean("off_session")
    asks = card.authentication == "always" or (
        card.authentication == "setup" and not method.get("_authenticated")
    )
    if is_past(method):
        _decline(sim, intent, method, "expired_card")
    if asks and off_session:
        _decline(sim, intent, method, "authentication_required")
    if asks and params.boolean("error_on_requires_action"):
        _decline(sim, intent, method, "authentication_required")
    if asks:
        require_action(sim, intent, params.text("return_url"), "payment_intent.requires_action")
    else:
        take_money(sim, intent, method)


def take_money(sim: Simulator, intent: Obj, method: Obj) -> None:
    """Charge the card. Raises SimulatedError if it declines."""
    card = behaviour(method)
    if card.decline_code:
        _decline(sim, intent, method, card.decline_code)
    if intent["setup_future_usage"] and intent["customer"]:
        attach(sim, method, intent["customer"])
    elif method["customer"] is None:
        method["_spent"] = True
    intent |= {"next_action": None, "last_payment_error": None}
    if card.delayed:
        charge = new_charge(sim, intent, method, status="pending", paid=False)
        intent |= {"latest_charge": charge["id"], "status": "processing", "_due": sim.now() + 3 * 86_400}
        sim.emit("charge.pending", charge)
        sim.emit("payment_intent.processing", intent)
        return
    charge = new_charge(sim, intent, method, status="succeeded", paid=True)
    _booked(sim, intent, charge)


def settle_delayed(sim: Simulator, intent: Obj, *, failed: bool = False) -> None:
    """Complete or fail a payment that takes days."""
    charge = sim.get("charge", intent["latest_charge"])
    intent["_due"] = None
    if not failed:
        charge |= {"status": "succeeded", "paid": True}
        _booked(sim, intent, charge)
        return
    charge |= {
        "status": "failed",
        "failure_code": "insufficient_funds",
        "failure_message": "The account has no funds.",
    }
    intent |= {"status": "requires_payment_method", "payment_method": None}
    intent["last_payment_error"] = {
        "type": "card_error",
        "code": "insufficient_funds",
        "message": charge["failure_message"],
        "charge": charge["id"],
    }
    sim.emit("charge.failed", charge)
    sim.emit("payment_intent.payment_failed", intent)
    for hook in AFTER_PAYMENT:
        hook(sim, intent)


def close_intent(sim: Simulator, intent: Obj, reason: str | None) -> None:
    """Cancel an intent."""
    intent |= {
        "status": "canceled",
        "canceled_at": sim.now(),
        "cancellation_reason": reason,
        "next_action": None,
    }
    sim.emit("payment_intent.canceled", intent)


def require_action(sim: Simulator, intent: Obj, return_url: str | None, event: str) -> None:
    """Require the cardholder's confirmation on the bank's page."""
    page = f"{sim.url}/3ds/{intent['id']}"
    intent["status"] = "requires_action"
    if return_url:
        intent["next_action"] = {
            "type": "redirect_to_url",
            "redirect_to_url": {"return_url": return_url, "url": page},
        }
    else:
        sdk = {"type": "three_d_secure_redirect", "stripe_js": page, "source": sim.new_id("payment_method")}
        intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": sdk}
    sim.emit(event, intent)


def return_address(intent: Obj, return_url: str) -> str:
    """The URL to which the 3D Secure page returns."""
    name = intent["object"]
    worked = intent["status"] in ("succeeded", "processing")
    answer = {
        name: intent["id"],
        f"{name}_client_secret": intent["client_secret"],
        "redirect_status": "succeeded" if worked else "failed",
    }
    return f"{return_url}{'&' if '?' in return_url else '?'}{urlencode(answer)}"


def behaviour(method: Obj) -> PlayCard:
    """The card behind a payment method, which decides its behaviour."""
    return BY_KIND[method["_kind"]]


def checked_amount(amount: int, currency: str, param: str = "amount") -> tuple[int, str]:
    """Check an amount of minor units and its currency. Raises SimulatedError if out of bounds."""
    currency = currency.lower()
    if currency not in SMALLEST:
        raise invalid(f"Invalid currency: {currency}.", "currency")
    if amount < 1:
        raise invalid("This value must be greater than or equal to 1.", param, "parameter_invalid_integer")
    if amount < SMALLEST[currency]:
        least = f"{SMALLEST[currency] / 100:.2f} {currency}"
        raise invalid(f"Amount must be at least {least}", param, "amount_too_small")
    if amount > LARGEST:
        raise invalid("Amount must be no more than 999,999.99", param, "amount_too_large")
    return amount, currency


def given_method(sim: Simulator, params: Params, customer: str | None) -> Obj | None:
    """The payment method of a request, by id or by data. Raises SimulatedError if it is another customer's."""
    if "payment_method_data" in params:
        data = params.nested("payment_method_data")
        kind = "link" if data.text("type") == "link" else "visa"
        return new_method(sim, BY_KIND[kind], data.nested("billing_details"), {})
    id = params.text("payment_method")
    if id is None:
        return None
    method = usable_method(sim, id)
    if method["customer"] and method["customer"] != customer:
        owner = "does not belong to the Customer you supplied" if customer else "belongs to a Customer"
        raise invalid(
            f"The provided PaymentMethod {owner}. Please include the Customer in the `customer` parameter on the "
            "PaymentIntent.",
            "payment_method",
        )
    return method


def _intent_texts(params: Params) -> Obj:
    names = (
        "description",
        "receipt_email",
        "setup_future_usage",
        "statement_descriptor",
        "statement_descriptor_suffix",
    )
    return {name: params.text(name) for name in names if name in params}


def unexpected_state(sim: Simulator, intent: Obj, message: str) -> SimulatedError:
    """The error of an action that the intent's status does not allow."""
    error = SimulatedError(message, code=f"{intent['object']}_unexpected_state")
    error.body["error"][intent["object"]] = sim.render(intent)
    return error


def is_past(method: Obj) -> bool:
    """Whether a card has expired."""
    card = method.get("card")
    if not card:
        return False
    last = calendar.monthrange(card["exp_year"], card["exp_month"])[1]
    return calendar.timegm((card["exp_year"], card["exp_month"], last, 23, 59, 59)) < time.time()


def _decline(sim: Simulator, intent: Obj, method: Obj, decline_code: str) -> None:
    error = declined(decline_code)
    details = error.body["error"]
    charge = new_charge(
        sim,
        intent,
        method,
        status="failed",
        paid=False,
        failure_code=details["code"],
        failure_message=details["message"],
    )
    blocked = method["_kind"] == "blocked"
    charge["outcome"] |= {
        "network_status": "not_sent_to_network" if blocked else "declined_by_network",
        "reason": "highest_risk_level" if blocked else decline_code,
        "risk_level": "highest" if blocked else "normal",
        "seller_message": "The bank did not return any further details with this decline.",
        "type": "blocked" if blocked else "issuer_declined",
    }
    again = "do_not_try_again" if decline_code in simulated_cards.NOT_AGAIN else "try_again_later"
    details |= {"advice_code": again, "charge": charge["id"], "payment_method": sim.render(method)}
    intent |= {
        "status": "requires_payment_method",
        "payment_method": None,
        "next_action": None,
        "latest_charge": charge["id"],
        "last_payment_error": dict(details),
    }
    sim.emit("charge.failed", charge)
    sim.emit("payment_intent.payment_failed", intent)
    details["payment_intent"] = sim.render(intent)
    raise error


def _booked(sim: Simulator, intent: Obj, charge: Obj) -> None:
    fee = round(charge["amount"] * 0.029) + 30
    charge["amount_captured"] = charge["amount"]
    charge["balance_transaction"] = book(sim, charge, charge["amount"], "charge", "charge", fee)["id"]
    intent |= {"status": "succeeded", "latest_charge": charge["id"], "amount_received": intent["amount"]}
    sim.emit("charge.succeeded", charge)
    sim.emit("payment_intent.succeeded", intent)
    for hook in AFTER_PAYMENT:
        hook(sim, intent)
