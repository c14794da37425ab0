"""Refunds, disputes and early fraud warnings of the Stripe simulator."""

from views.demo.stripe_simulator.simulated_charges import book
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_payments import AFTER_PAYMENT, behaviour
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

DISPUTE_FEE = 1500
INQUIRY = ("warning_needs_response", "warning_under_review", "warning_closed")
CLOSED = ("won", "lost", "warning_closed")


# --- refunds ------------------------------------------------------------------------------------------------------------


@endpoint("POST", "/v1/refunds", "amount charge instructions_email metadata payment_intent reason")
def create_refund(sim: Simulator, params: Params) -> Obj:
    """POST /v1/refunds, by charge or payment intent; a part, or the rest."""
    charge = _charge_to_refund(sim, params)
    left = charge["amount"] - charge["amount_refunded"]
    if charge["disputed"] and any(
        each["status"] not in ("won", "warning_closed") and not each["is_charge_refundable"]
        for each in sim.find("dispute", charge=charge["id"])
    ):
        raise invalid(
            f"Charge {charge['id']} has been charged back; cannot issue a refund.", None, "charge_disputed"
        )
    if left == 0:
        raise invalid(f"Charge {charge['id']} has already been refunded.", None, "charge_already_refunded")
    amount = params.integer("amount", left) or 0
    if amount < 1:
        raise invalid("Invalid positive integer", "amount", "parameter_invalid_integer")
    if amount > left:
        raise invalid(
            f"Refund amount (${amount / 100:.2f}) is greater than unrefunded amount on charge (${left / 100:.2f})",
            "amount",
        )
    reason = params.text("reason")
    if reason not in (None, "duplicate", "fraudulent", "requested_by_customer"):
        raise invalid(
            "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer", "reason"
        )
    return give_back(sim, charge, amount, reason, params.metadata())


@endpoint("GET", "/v1/refunds/{id}")
def retrieve_refund(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/refunds/{id}."""
    return sim.get("refund", id)


@endpoint("POST", "/v1/refunds/{id}", "metadata")
def update_refund(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/refunds/{id}."""
    refund = sim.get("refund", id)
    sim.change(refund, "refund.updated", metadata=params.metadata(refund["metadata"]))
    return refund


@endpoint("POST", "/v1/refunds/{id}/cancel")
def cancel_refund(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/refunds/{id}/cancel, while it is pending."""
    refund = sim.get("refund", id)
    if refund["status"] not in ("pending", "requires_action"):
        raise invalid(f"You cannot cancel this refund because it has a status of {refund['status']}.")
    end_refund(sim, refund, "canceled")
    return refund


@lists("/v1/refunds", "refund", "charge payment_intent")
def list_refunds(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/refunds."""
    return sim.find("refund")


@lists("/v1/charges/{id}/refunds", "refund")
def list_charge_refunds(sim: Simulator, params: Params, id: str) -> list[Obj]:
    """GET /v1/charges/{id}/refunds."""
    return sim.find("refund", charge=sim.get("charge", id)["id"])


def give_back(sim: Simulator, charge: Obj, amount: int, reason: str | None, metadata: dict[str, str]) -> Obj:
    """Refund part of a charge."""
    method = sim.get("payment_method", charge["payment_method"])
    status = behaviour(method).refund
    refund = sim.add(
        "refund",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        customer=charge["customer"],
        destination_details={"card": {"reference_status": "pending", "type": "refund"}, "type": "card"},
        metadata=metadata,
        payment_intent=charge["payment_intent"],
        reason=reason,
        status="pending" if status == "pending" else "succeeded",
        _will_fail=sim.now() + 60 if status == "failed" else None,
    )
    if refund["status"] == "pending":
        refund["pending_reason"] = "processing"
    refund["balance_transaction"] = book(sim, refund, -amount, "refund", "refund")["id"]
    _count_refund(charge, amount)
    sim.emit("refund.created", refund)
    sim.emit("charge.refunded", charge)
    _settle_warnings(sim, charge)
    return refund


def end_refund(sim: Simulator, refund: Obj, status: str) -> None:
    """End a refund: a pending one succeeds, or one fails or is cancelled and the money returns to the seller."""
    charge = sim.get("charge", refund["charge"])
    changed: Obj = {"status": status, "pending_reason": None, "_will_fail": None}
    if status in ("failed", "canceled"):
        back = book(sim, refund, refund["amount"], "refund_failure", "refund_failure")
        changed["failure_balance_transaction"] = back["id"]
        if status == "failed":
            changed["failure_reason"] = "unknown"
        _count_refund(charge, -refund["amount"])
    sim.change(refund, "refund.failed" if status == "failed" else "refund.updated", **changed)
    sim.emit("charge.refund.updated", refund)


def _count_refund(charge: Obj, amount: int) -> None:
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]


def _charge_to_refund(sim: Simulator, params: Params) -> Obj:
    if id := params.text("charge"):
        charge = sim.refer("charge", id, "charge")
    else:
        intent = sim.refer("payment_intent", params.needed("payment_intent"), "payment_intent")
        if intent["latest_charge"] is None:
            raise invalid(
                f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
                "payment_intent",
            )
        charge = sim.get("charge", intent["latest_charge"])
    if charge["status"] != "succeeded":
        raise SimulatedError(f"This charge ({charge['id']}) has not succeeded.", code="charge_not_refundable")
    return charge


# --- disputes -----------------------------------------------------------------------------------------------------------


@endpoint("GET", "/v1/disputes/{id}")
def retrieve_dispute(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/disputes/{id}."""
    return sim.get("dispute", id)


@endpoint("POST", "/v1/disputes/{id}", "evidence metadata submit")
def update_dispute(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/disputes/{id}. As in Stripe's test mode the evidence `winning_evidence` wins, `losing_evidence` loses."""
    dispute = sim.get("dispute", id)
    changed: Obj = {}
    if "metadata" in params:
        changed["metadata"] = params.metadata(dispute["metadata"])
    evidence = params.nested("evidence")
    if evidence:
        changed["evidence"] = dispute["evidence"] | evidence
        changed["evidence_details"] = dispute["evidence_details"] | {"has_evidence": True}
        if params.boolean("submit", True):
            changed["evidence_details"]["submission_count"] += 1
            changed["status"] = "warning_under_review" if dispute["status"] in INQUIRY else "under_review"
    sim.change(dispute, "charge.dispute.updated", **changed)
    text = evidence.text("uncategorized_text")
    if text in ("winning_evidence", "losing_evidence"):
        close_dispute(sim, dispute, won=text == "winning_evidence")
    return dispute


@endpoint("POST", "/v1/disputes/{id}/close")
def concede_dispute(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/disputes/{id}/close: accept that it is lost."""
    dispute = sim.get("dispute", id)
    if dispute["status"] in CLOSED:
        raise invalid("This dispute is already closed.")
    close_dispute(sim, dispute, won=False)
    return dispute


@lists("/v1/disputes", "dispute", "charge payment_intent")
def list_disputes(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/disputes."""
    return sim.find("dispute")


def open_dispute(
    sim: Simulator,
    charge: Obj,
    *,
    amount: int | None = None,
    reason: str = "fraudulent",
    withdraw: bool = True,
) -> Obj:
    """Open a dispute of a payment or a part of it; without `withdraw` it is an inquiry, which withdraws no money."""
    method = sim.get("payment_method", charge["payment_method"])
    brand = method["card"]["brand"] if method.get("card") else "visa"
    case = "chargeback" if withdraw else "inquiry"
    dispute = sim.add(
        "dispute",
        amount=charge["amount"] - charge["amount_refunded"] if amount is None else amount,
        balance_transactions=[],
        charge=charge["id"],
        currency=charge["currency"],
        enhanced_eligibility_types=[],
        evidence={"uncategorized_text": None},
        evidence_details={
            "due_by": sim.now() + 10 * 86_400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        is_charge_refundable=not withdraw,
        metadata={},
        network_reason_code="10.4",
        payment_intent=charge["payment_intent"],
        payment_method_details={
            "card": {"brand": brand, "case_type": case, "network": brand, "network_reason_code": "10.4"},
            "type": "card",
        },
        reason=reason,
        status="needs_response" if withdraw else "warning_needs_response",
    )
    charge["disputed"] = True
    sim.emit("charge.dispute.created", dispute)
    if withdraw:
        withdraw_funds(sim, dispute)
    _settle_warnings(sim, charge)
    return dispute


def escalate(sim: Simulator, dispute: Obj) -> None:
    """Turn an inquiry into a dispute, and withdraw the money."""
    sim.change(dispute, "charge.dispute.updated", status="needs_response", is_charge_refundable=False)
    withdraw_funds(sim, dispute)


def withdraw_funds(sim: Simulator, dispute: Obj) -> None:
    """Withdraw the disputed money from the seller."""
    taken = book(sim, dispute, -dispute["amount"], "adjustment", "dispute", DISPUTE_FEE)
    dispute["balance_transactions"].append(sim.render(taken))
    sim.emit("charge.dispute.funds_withdrawn", dispute)


def close_dispute(sim: Simulator, dispute: Obj, *, won: bool) -> None:
    """Close a dispute: won (the withdrawn money is reinstated), lost, or, for an inquiry, closed."""
    inquiry = dispute["status"] in INQUIRY
    withdrawn = -sum(each["amount"] for each in dispute["balance_transactions"])
    status = "warning_closed" if inquiry else "won" if won else "lost"
    if won and withdrawn > 0:
        back = book(sim, dispute, withdrawn, "adjustment", "dispute_reversal")
        dispute["balance_transactions"].append(sim.render(back))
    if status != "lost":
        dispute["is_charge_refundable"] = True
    previous, dispute["status"] = dispute["status"], status
    sim.emit("charge.dispute.closed", dispute, status=previous)
    if won and withdrawn > 0:
        sim.emit("charge.dispute.funds_reinstated", dispute)


# --- early fraud warnings -----------------------------------------------------------------------------------------------


@endpoint("GET", "/v1/radar/early_fraud_warnings/{id}")
def retrieve_warning(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/radar/early_fraud_warnings/{id}."""
    return sim.get("radar.early_fraud_warning", id)


@lists("/v1/radar/early_fraud_warnings", "radar.early_fraud_warning", "charge payment_intent")
def list_warnings(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/radar/early_fraud_warnings."""
    return sim.find("radar.early_fraud_warning")


def warn_of_fraud(sim: Simulator, charge: Obj, fraud_type: str = "unauthorized_use_of_card") -> Obj:
    """Create an early fraud warning of the card's bank."""
    warning = sim.add(
        "radar.early_fraud_warning",
        actionable=not charge["refunded"] and not charge["disputed"],
        charge=charge["id"],
        fraud_type=fraud_type,
        payment_intent=charge["payment_intent"],
    )
    sim.emit("radar.early_fraud_warning.created", warning)
    return warning


def _settle_warnings(sim: Simulator, charge: Obj) -> None:
    """A warning is not actionable once its charge is fully refunded or disputed."""
    if charge["refunded"] or charge["disputed"]:
        for warning in sim.find("radar.early_fraud_warning", charge=charge["id"]):
            sim.change(warning, "radar.early_fraud_warning.updated", actionable=False)


def _follow_the_card(sim: Simulator, intent: Obj) -> None:
    if intent["status"] != "succeeded":
        return
    charge = sim.get("charge", intent["latest_charge"])
    card = behaviour(sim.get("payment_method", charge["payment_method"]))
    if card.dispute:
        inquiry = card.dispute == "inquiry"
        open_dispute(sim, charge, reason="general" if inquiry else card.dispute, withdraw=not inquiry)
    if card.warns_of_fraud:
        warn_of_fraud(sim, charge)


AFTER_PAYMENT.append(_follow_the_card)
