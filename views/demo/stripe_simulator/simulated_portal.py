"""The billing portal of the Stripe simulator: a session, and its hosted page for cards, plans and invoices; the page of an
invoice."""

from typing import Any

from flask import Flask, request
from werkzeug import Response

from views.demo.stripe_simulator import simulated_subscriptions
from views.demo.stripe_simulator.simulated_cards import BY_KIND, GROUPS
from views.demo.stripe_simulator.simulated_customers import (
    attach,
    declined,
    detach,
    living_customer,
    new_method,
)
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid
from views.demo.stripe_simulator.simulated_invoices import collect, intent_of
from views.demo.stripe_simulator.simulated_pages import money, page, see_other
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_routes import endpoint
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

LASTS = 3600
"""Seconds until a session of the portal expires."""


@endpoint("POST", "/v1/billing_portal/sessions", "configuration customer flow_data locale return_url")
def create_portal(sim: Simulator, params: Params) -> Obj:
    """POST /v1/billing_portal/sessions."""
    customer = living_customer(sim, params.needed("customer"), "customer")
    session = sim.add(
        "billing_portal.session",
        configuration="bpc_simulator",
        customer=customer["id"],
        locale=params.text("locale"),
        return_url=params.text("return_url"),
    )
    session["url"] = f"{sim.url}/portal/{session['id']}"
    return session


def mount(app: Flask, sim: Simulator) -> None:
    """Add the page to the application."""

    def show(session: Obj, error: str = "", status: int = 200) -> Any:
        customer = sim.get("customer", session["customer"])
        plans = sim.find("subscription", customer=customer["id"])
        return page(
            "stripe_portal",
            status,
            session=session,
            customer=customer,
            methods=sim.find("payment_method", customer=customer["id"]),
            default=customer["invoice_settings"]["default_payment_method"],
            plans=[each for each in plans if each["status"] not in simulated_subscriptions.ENDED],
            names={each["id"]: each["name"] for each in sim.objects["product"].values()},
            invoices=sim.find("invoice", customer=customer["id"])[:12],
            money=money,
            groups=GROUPS,
            error=error,
        )

    def portal(id: str) -> Any:
        with sim.lock:
            session = _open(sim, id)
            if request.method == "GET":
                return show(session)
            try:
                _change(sim, session["customer"], Params(request.form))
            except SimulatedError as error:
                return show(session, error.body["error"]["message"], 422)
            finally:
                sim.save()
            return see_other(request.path)

    def invoice(id: str) -> Any:
        with sim.lock:
            found, error, status = sim.get("invoice", id), "", 200
            if request.method == "POST" and found["status"] == "open":
                try:
                    return _pay(sim, found, request.form.get("card", ""))
                except SimulatedError as refused:
                    error, status = refused.body["error"]["message"], 422
                finally:
                    sim.save()
            saved = sim.find("payment_method", customer=found["customer"])
            return page(
                "stripe_invoice",
                status,
                invoice=found,
                money=money,
                saved=saved,
                groups=GROUPS,
                error=error,
            )

    app.add_url_rule("/portal/<id>", "portal", portal, methods=["GET", "POST"])
    app.add_url_rule("/invoice/<id>", "invoice", invoice, methods=["GET", "POST"])


def _pay(sim: Simulator, invoice: Obj, card: str) -> Response:
    """Pay an open invoice with a saved or a play card; the address of its page, or of the bank that asks for confirmation."""
    if card in BY_KIND:
        method = new_method(sim, BY_KIND[card], Params(), {})
    else:
        method = _own(sim, "payment_method", invoice["customer"], card)
    address = f"{sim.url}/invoice/{invoice['id']}"
    intent = intent_of(sim, invoice)
    collect(sim, invoice, method, Params(return_url=address, payment_method=method["id"]), loud=True)
    asks = intent is not None and intent["status"] == "requires_action"
    return see_other(f"{sim.url}/3ds/{intent['id']}" if intent and asks else address)


def _open(sim: Simulator, id: str) -> Obj:
    session = sim.get("billing_portal.session", id)
    if session["created"] + LASTS < sim.now():
        raise invalid("This billing portal session has expired.")
    return session


def _change(sim: Simulator, customer: str, form: Params) -> None:
    action = form.needed("do")
    if action == "add":
        kind = form.needed("card")
        if kind not in BY_KIND:
            raise invalid("Choose a card.")
        card = BY_KIND[kind]
        if card.refuses_to_be_saved:
            raise declined(card.decline_code)
        method = new_method(sim, card, Params(), {})
        attach(sim, method, customer)
        owner = sim.get("customer", customer)
        if owner["invoice_settings"]["default_payment_method"] is None:
            _default(sim, owner, method)
        return
    if action in ("default", "remove"):
        method = _own(sim, "payment_method", customer, form.needed("id"))
        if action == "default":
            _default(sim, sim.get("customer", customer), method)
        else:
            detach(sim, method)
        return
    if action in ("cancel", "resume"):
        subscription = _own(sim, "subscription", customer, form.needed("id"))
        wanted = Params(cancel_at_period_end="true" if action == "cancel" else "false")
        simulated_subscriptions.update_subscription(sim, wanted, subscription["id"])
        return
    raise invalid("Unknown action.")


def _own(sim: Simulator, kind: str, customer: str, id: str) -> Obj:
    found = sim.get(kind, id)
    if found["customer"] != customer:
        raise invalid("This belongs to another customer.")
    return found


def _default(sim: Simulator, owner: Obj, method: Obj) -> None:
    settings = owner["invoice_settings"] | {"default_payment_method": method["id"]}
    sim.change(owner, "customer.updated", invoice_settings=settings)
