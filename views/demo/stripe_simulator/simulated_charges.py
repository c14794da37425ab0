"""Charges and balance transactions of the Stripe simulator."""

import secrets
from typing import Any

from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import Obj, Simulator


@endpoint("GET", "/v1/charges/{id}")
def retrieve_charge(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/charges/{id}."""
    return sim.get("charge", id)


@endpoint("POST", "/v1/charges/{id}", "description fraud_details metadata receipt_email")
def update_charge(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/charges/{id}."""
    charge = sim.get("charge", id)
    changed: Obj = {name: params.text(name) for name in ("description", "receipt_email") if name in params}
    if "metadata" in params:
        changed["metadata"] = params.metadata(charge["metadata"])
    if "fraud_details" in params:
        changed["fraud_details"] = dict(params.nested("fraud_details"))
    sim.change(charge, "charge.updated", **changed)
    return charge


@lists("/v1/charges", "charge", "customer payment_intent")
def list_charges(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/charges."""
    return sim.find("charge")


@endpoint("GET", "/v1/balance_transactions/{id}")
def retrieve_balance_transaction(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/balance_transactions/{id}."""
    return sim.get("balance_transaction", id)


@lists("/v1/balance_transactions", "balance_transaction", "source type currency")
def list_balance_transactions(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/balance_transactions."""
    return sim.find("balance_transaction")


def new_charge(sim: Simulator, intent: Obj, method: Obj, *, status: str, paid: bool, **more: Any) -> Obj:
    """A charge of an intent."""
    charge = sim.add(
        "charge",
        amount=intent["amount"],
        amount_captured=intent["amount"] if paid else 0,
        amount_refunded=0,
        billing_details=dict(method["billing_details"]),
        captured=status != "failed",
        currency=intent["currency"],
        customer=intent["customer"],
        description=intent["description"],
        disputed=False,
        fraud_details={},
        metadata=dict(intent["metadata"]),
        outcome={
            "advice_code": None,
            "network_advice_code": None,
            "network_decline_code": None,
            "network_status": "approved_by_network",
            "reason": None,
            "risk_level": "normal",
            "risk_score": 12,
            "seller_message": "Payment complete.",
            "type": "authorized",
        },
        paid=paid,
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details=_method_details(method),
        radar_options={},
        receipt_email=intent["receipt_email"],
        refunded=False,
        status=status,
        **more,
    )
    charge["receipt_url"] = f"{sim.url}/receipt/{charge['id']}" if status != "failed" else None
    return charge


def book(sim: Simulator, source: Obj, amount: int, type: str, category: str, fee: int = 0) -> Obj:
    """A balance transaction: money received (positive) or paid out."""
    return sim.add(
        "balance_transaction",
        amount=amount,
        available_on=sim.now() + 2 * 86_400,
        balance_type="payments",
        currency=source["currency"],
        fee=fee,
        fee_details=[
            {
                "amount": fee,
                "application": None,
                "currency": source["currency"],
                "description": "Stripe processing fees",
                "type": "stripe_fee",
            }
        ]
        if fee
        else [],
        net=amount - fee,
        reporting_category=category,
        source=source["id"],
        status="pending",
        type=type,
    )


def _method_details(method: Obj) -> Obj:
    if method["type"] != "card":
        return {"type": method["type"], method["type"]: {"country": None}}
    card = method["card"]
    shown = {
        name: card[name]
        for name in ("brand", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4")
    }
    return {
        "type": "card",
        "card": shown
        | {
            "checks": card["checks"],
            "installments": None,
            "mandate": None,
            "network": card["brand"],
            "network_token": {"used": False},
            "network_transaction_id": secrets.token_hex(8),
            "three_d_secure": None,
            "wallet": None,
        },
    }
