"""The hosted pages of the Stripe simulator: Checkout, 3D Secure and receipts."""

from typing import Any

from flask import Flask, request
from werkzeug import Response

from views.demo.stripe_simulator.simulated_cards import BY_KIND, GROUPS
from views.demo.stripe_simulator.simulated_checkout import complete_session, pay
from views.demo.stripe_simulator.simulated_customers import TAX_ID_TYPES, new_method
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid
from views.demo.stripe_simulator.simulated_pages import money, page, see_other
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_payments import return_address
from views.demo.stripe_simulator.simulated_setups import finish_authentication
from views.demo.stripe_simulator.simulated_state import Obj, Simulator


def mount(app: Flask, sim: Simulator) -> None:
    """Add the hosted pages to the application."""

    def show(id: str, error: str = "", status: int = 200) -> Any:
        session = sim.get("checkout.session", id)
        if session["status"] != "open":
            return _ended(sim, session)
        saved = _saved(sim, session["customer"]) if session["customer"] else []
        return page(
            "stripe_checkout",
            status,
            session=session,
            lines=session["_lines"],
            total=money(session["amount_total"], session["currency"]) if session["_lines"] else "",
            money=money,
            email=(session["customer_details"] or {}).get("email") or "",
            saved=saved,
            groups=GROUPS,
            form=request.form,
            tax_id_types=TAX_ID_TYPES.split(),
            error=error,
        )

    def checkout(id: str) -> Any:
        with sim.lock:
            return show(id)

    def submit(id: str) -> Any:
        with sim.lock:
            session = sim.get("checkout.session", id)
            if session["status"] != "open":
                return _ended(sim, session)
            try:
                pay(sim, session, _chosen(sim, session), Params(request.form))
            except SimulatedError as error:
                return show(id, error.body["error"]["message"], 422)
            finally:
                sim.save()
            return _onwards(sim, session)

    def back(id: str) -> Any:
        with sim.lock:
            session = sim.get("checkout.session", id)
            if session["status"] == "open":
                return show(id, "The confirmation failed. Try again, or use another card.", 422)
            return _onwards(sim, session)

    def authenticate(id: str) -> Any:
        with sim.lock:
            kind = "setup_intent" if id.startswith("seti_") else "payment_intent"
            intent = sim.get(kind, id)
            if request.method == "POST" and intent["status"] == "requires_action":
                return _authenticated(sim, intent)
            return page(
                "stripe_3ds",
                intent=intent,
                waits=intent["status"] == "requires_action",
                amount=money(intent["amount"], intent["currency"]) if "amount" in intent else "",
            )

    def receipt(id: str) -> Any:
        with sim.lock:
            charge = sim.get("charge", id)
            return page(
                "stripe_receipt",
                charge=charge,
                amount=money(charge["amount"], charge["currency"]),
                refunded=money(charge["amount_refunded"], charge["currency"])
                if charge["amount_refunded"]
                else "",
            )

    app.add_url_rule("/checkout/<id>", "checkout", checkout)
    app.add_url_rule("/checkout/<id>", "submit_checkout", submit, methods=["POST"])
    app.add_url_rule("/checkout/<id>/return", "checkout_return", back)
    app.add_url_rule("/3ds/<id>", "authenticate", authenticate, methods=["GET", "POST"])
    app.add_url_rule("/receipt/<id>", "receipt", receipt)


def _saved(sim: Simulator, customer: str) -> list[Obj]:
    """A customer's cards, the default first."""
    default = sim.get("customer", customer)["invoice_settings"]["default_payment_method"]
    return sorted(sim.find("payment_method", customer=customer), key=lambda each: each["id"] != default)


def _chosen(sim: Simulator, session: Obj) -> Obj:
    """The saved or new card that the form names."""
    card = request.form.get("card", "")
    if card.startswith("pm_"):
        method = sim.get("payment_method", card, "card", 400)
        if method["customer"] is None or method["customer"] != session["customer"]:
            raise invalid("This card belongs to another customer.")
        return method
    if card not in BY_KIND:
        raise invalid("Choose a card.")
    return new_method(
        sim, BY_KIND[card], Params({"email": (session["customer_details"] or {}).get("email") or ""}), {}
    )


def _onwards(sim: Simulator, session: Obj) -> Response:
    if session["status"] == "complete":
        return see_other(session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"]))
    intent_id = session["_pay_intent"] or session["setup_intent"]
    return see_other(f"{sim.url}/3ds/{intent_id}")


def _ended(sim: Simulator, session: Obj) -> Any:
    if session["status"] == "complete":
        return _onwards(sim, session)
    return page("stripe_ended", 410, session=session)


def _authenticated(sim: Simulator, intent: Obj) -> Any:
    action = intent["next_action"] or {}
    back = (action.get("redirect_to_url") or {}).get("return_url")
    error = ""
    try:
        finish_authentication(sim, intent, confirmed=request.form.get("answer") == "confirm")
    except SimulatedError as refused:
        error = refused.body["error"]["message"]
    if intent["object"] == "setup_intent" and intent["status"] == "succeeded" and intent.get("_session"):
        complete_session(sim, sim.get("checkout.session", intent["_session"]), "no_payment_required")
    sim.save()
    if back:
        return see_other(return_address(intent, back))
    return page("stripe_3ds", intent=intent, waits=False, amount="", error=error)
