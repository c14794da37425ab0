"""Invoices of the Stripe simulator, with their lines, payments and the customer's credit balance."""

from typing import Any

from views.demo.stripe_simulator.simulated_catalogue import inline_price
from views.demo.stripe_simulator.simulated_customers import living_customer, usable_method
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_payments import (
    AFTER_PAYMENT,
    SMALLEST,
    close_intent,
    confirm_intent,
    new_intent,
)
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import Hook, Obj, Simulator, listing
from views.demo.stripe_simulator.simulated_tax import country_of, tax_of

AFTER_INVOICE: list[Hook] = []
"""Called after an invoice was paid or voided, or its payment failed: its subscription follows."""
DAY = 86_400
RETRY_DAYS = (3, 5, 7)
"""Days between attempts to collect an invoice."""


@endpoint("GET", "/v1/invoices/{id}")
def retrieve_invoice(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/invoices/{id}."""
    return sim.get("invoice", id)


@lists("/v1/invoices", "invoice", "customer status collection_method", other="subscription")
def list_invoices(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/invoices."""
    wanted = params.text("subscription")
    return [each for each in sim.find("invoice") if not wanted or subscription_of(each) == wanted]


@endpoint("GET", "/v1/invoices/{id}/lines", "limit starting_after")
def list_invoice_lines(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/invoices/{id}/lines."""
    return dict(sim.get("invoice", id)["lines"])


@endpoint(
    "POST",
    "/v1/invoiceitems",
    "amount currency customer description invoice metadata price_data pricing quantity",
)
def create_invoice_item(sim: Simulator, params: Params) -> Obj:
    """POST /v1/invoiceitems: for the customer's next invoice, or added to a draft."""
    customer = living_customer(sim, params.needed("customer"), "customer")
    quantity = params.integer("quantity", 1) or 1
    price: Obj | None = None
    if "price_data" in params:
        price = inline_price(sim, params.nested("price_data"))
    elif "pricing" in params:
        price = sim.refer("price", params.nested("pricing").needed("price"), "pricing[price]")
    amount = price["unit_amount"] * quantity if price else params.needed_integer("amount")
    item = sim.add(
        "invoiceitem",
        amount=amount,
        currency=price["currency"] if price else params.needed("currency").lower(),
        customer=customer["id"],
        date=sim.now(),
        description=params.text("description"),
        discountable=True,
        metadata=params.metadata(),
        net_amount=amount,
        quantity_decimal=str(quantity),
        period={"start": sim.now(), "end": sim.now()},
        proration=False,
        quantity=quantity,
        _price=price["id"] if price else None,
    )
    if id := params.text("invoice"):
        invoice = sim.refer("invoice", id, "invoice")
        if invoice["status"] != "draft":
            raise invalid("The invoice is no longer editable.", "invoice", "invoice_not_editable")
        item["invoice"] = id
        invoice["lines"]["data"].append(_item_line(sim, item))
        _add_up(sim, invoice)
    sim.emit("invoiceitem.created", item)
    return item


@endpoint(
    "POST",
    "/v1/invoices",
    "auto_advance collection_method currency customer days_until_due default_payment_method description metadata"
    " pending_invoice_items_behavior",
)
def create_invoice(sim: Simulator, params: Params) -> Obj:
    """POST /v1/invoices: a draft with the customer's pending items."""
    customer = living_customer(sim, params.needed("customer"), "customer")
    items: list[Obj] = []
    if params.text("pending_invoice_items_behavior") == "include":
        items = [
            each for each in sim.find("invoiceitem", customer=customer["id"]) if each["invoice"] is None
        ][::-1]
    currency = items[0]["currency"] if items else (params.text("currency") or "usd").lower()
    invoice = new_invoice(
        sim,
        customer,
        currency,
        [_item_line(sim, each) for each in items],
        "manual",
        metadata=params.metadata(),
    )
    for item in items:
        item["invoice"] = invoice["id"]
    invoice |= {
        "auto_advance": params.boolean("auto_advance"),
        "description": params.text("description"),
        "default_payment_method": params.text("default_payment_method"),
    }
    return invoice


@endpoint("POST", "/v1/invoices/{id}/finalize", "auto_advance")
def finalize_invoice(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/invoices/{id}/finalize."""
    invoice = sim.get("invoice", id)
    if invoice["status"] != "draft":
        raise invalid("This invoice is already finalized.", None, "invoice_not_editable")
    finalize(sim, invoice)
    return invoice


@endpoint("POST", "/v1/invoices/{id}/pay", "off_session payment_method")
def pay_invoice(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/invoices/{id}/pay. 402 when the card declines."""
    invoice = sim.get("invoice", id)
    if invoice["status"] == "paid":
        raise invalid("Invoice is already paid", None, "invoice_already_paid")
    if invoice["status"] == "draft":
        finalize(sim, invoice)
    if invoice["status"] == "open":
        given = params.text("payment_method")
        method = usable_method(sim, given) if given else default_method(sim, invoice)
        collect(sim, invoice, method, Params(off_session=params.text("off_session", "true")), loud=True)
    elif invoice["status"] != "paid":
        raise invalid(f"This invoice cannot be paid: it is {invoice['status']}.")
    return invoice


@endpoint("POST", "/v1/invoices/{id}/void")
def void_invoice(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/invoices/{id}/void."""
    invoice = sim.get("invoice", id)
    if invoice["status"] not in ("open", "uncollectible"):
        raise invalid(f"You cannot void an invoice that is {invoice['status']}.")
    void(sim, invoice)
    return invoice


@lists("/v1/invoice_payments", "invoice_payment", "invoice status", other="payment")
def list_invoice_payments(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/invoice_payments, by invoice or `payment[payment_intent]`."""
    wanted = params.nested("payment").text("payment_intent")
    return [
        each
        for each in sim.find("invoice_payment")
        if not wanted or each["payment"]["payment_intent"] == wanted
    ]


# --- lines --------------------------------------------------------------------------------------------------------------


def line(
    sim: Simulator,
    amount: int,
    description: str,
    price: Obj | None,
    quantity: int,
    period: tuple[int, int],
    *,
    subscription: Obj | None = None,
    item: str | None = None,
    proration: bool = False,
    currency: str = "",
    metadata: dict[str, str] | None = None,
) -> Obj:
    """A line of an invoice; amounts are cents."""
    details: Obj = {"proration": proration, "subscription": subscription["id"] if subscription else None}
    credited = {"credited_items": None}
    if subscription is None:
        parent: Obj = {"type": "invoice_item_details", "subscription_item_details": None}
        parent["invoice_item_details"] = details | {"invoice_item": item, "proration_details": credited}
    else:
        parent = {"type": "subscription_item_details", "invoice_item_details": None}
        parent["subscription_item_details"] = details | {
            "invoice_item": None,
            "proration_details": credited,
            "subscription_item": item,
        }
    made = sim.blank(
        "line_item",
        amount=amount,
        currency=price["currency"] if price else currency,
        description=description,
        discount_amounts=[],
        discountable=not proration,
        discounts=[],
        metadata=dict(metadata or {}),
        parent=parent,
        period={"start": period[0], "end": period[1]},
        pretax_credit_amounts=[],
        quantity=quantity,
        subscription=subscription["id"] if subscription else None,
        subtotal=amount,
        taxes=[],
    )
    if price:
        made["pricing"] = {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        }
    return made


def _item_line(sim: Simulator, item: Obj) -> Obj:
    price = sim.get("price", item["_price"]) if item["_price"] else None
    period = (item["period"]["start"], item["period"]["end"])
    text = item["description"] or (sim.get("product", price["product"])["name"] if price else "")
    return line(
        sim,
        item["amount"],
        text,
        price,
        item["quantity"],
        period,
        item=item["id"],
        currency=item["currency"],
        metadata=item["metadata"],
    )


# --- states of an invoice -----------------------------------------------------------------------------------------------


def new_invoice(
    sim: Simulator,
    customer: Obj,
    currency: str,
    lines: list[Obj],
    reason: str,
    *,
    subscription: Obj | None = None,
    metadata: dict[str, str] | None = None,
    preview: bool = False,
    proration_date: int | None = None,
    taxed: bool = False,
) -> Obj:
    """A draft; a preview is not stored and has no events."""
    now = sim.now()
    parent: Obj | None = None
    if subscription is not None:
        of = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]}
        if proration_date is not None:
            of["subscription_proration_date"] = proration_date
        parent = {"quote_details": None, "subscription_details": of, "type": "subscription_details"}
    make = sim.blank if preview else sim.add
    invoice = make(
        "invoice",
        account_country="US",
        account_name="Play money",
        amount_overpaid=0,
        amount_paid=0,
        amount_shipping=0,
        attempt_count=0,
        attempted=False,
        auto_advance=True,
        automatic_tax={
            "disabled_reason": None,
            "enabled": taxed or bool(subscription and subscription["automatic_tax"]["enabled"]),
            "liability": None,
            "provider": None,
            "status": None,
        },
        billing_reason="upcoming" if preview else reason,
        collection_method="charge_automatically",
        currency=currency,
        customer=customer["id"],
        customer_address=customer["address"],
        customer_email=customer["email"],
        customer_name=customer["name"],
        customer_tax_exempt="none",
        customer_tax_ids=[
            {"type": each["type"], "value": each["value"]}
            for each in sim.find("tax_id", customer=customer["id"])
        ],
        default_tax_rates=[],
        discounts=[],
        issuer={"type": "self"},
        metadata=dict(metadata or {}),
        parent=parent,
        payment_settings={
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        period_start=now,
        period_end=now,
        post_payment_credit_notes_amount=0,
        pre_payment_credit_notes_amount=0,
        starting_balance=customer["balance"],
        status="draft",
        status_transitions={
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        total_discount_amounts=[],
        total_pretax_credit_amounts=[],
        total_taxes=[],
    )
    if preview:
        invoice["id"] = f"upcoming_{invoice['id']}"
    invoice["lines"] = listing(lines, f"/v1/invoices/{invoice['id']}/lines")
    for each in invoice["lines"]["data"]:
        each["invoice"] = invoice["id"]
    _add_up(sim, invoice)
    if not preview:
        sim.emit("invoice.created", invoice)
    return invoice


def _add_up(sim: Simulator, invoice: Obj) -> None:
    net = sum(each["amount"] for each in invoice["lines"]["data"])
    tax = 0
    if invoice["automatic_tax"]["enabled"]:
        country = country_of(invoice["customer_address"])
        tax = tax_of(net, country)
        invoice["automatic_tax"]["status"] = "complete" if country else "requires_location_inputs"
        invoice["total_taxes"] = [
            {
                "amount": tax,
                "tax_behavior": "exclusive",
                "tax_rate_details": None,
                "taxability_reason": "standard_rated" if tax else "not_collecting",
                "taxable_amount": net,
                "type": "tax_rate_details",
            }
        ]
    total = net + tax
    due = total + invoice["starting_balance"]
    ending = 0
    if (
        due < 0 or 0 < due < SMALLEST[invoice["currency"]]
    ):  # below the smallest charge: it stays on the balance
        due, ending = 0, due
    invoice |= {
        "subtotal": net,
        "subtotal_excluding_tax": net,
        "total": total,
        "total_excluding_tax": net,
    }
    invoice |= {"amount_due": due, "amount_remaining": due, "_ending": ending}


def finalize(sim: Simulator, invoice: Obj) -> None:
    """Finalize: number it, apply the customer's balance, and create its payment, or mark it paid if nothing is due."""
    customer = sim.get("customer", invoice["customer"])
    invoice["starting_balance"] = customer["balance"]
    _add_up(sim, invoice)
    number = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
    customer["next_invoice_sequence"] += 1
    sim.change(customer, "customer.updated", balance=invoice["_ending"])
    invoice |= {
        "status": "open",
        "number": number,
        "effective_at": sim.now(),
        "ending_balance": invoice["_ending"],
        "hosted_invoice_url": f"{sim.url}/invoice/{invoice['id']}",
    }
    invoice["status_transitions"]["finalized_at"] = sim.now()
    if invoice["amount_due"]:
        intent = new_intent(
            sim,
            invoice["amount_due"],
            invoice["currency"],
            invoice["customer"],
            method=None,
            metadata={},
            description="Subscription creation"
            if invoice["billing_reason"] == "subscription_create"
            else None,
            setup_future_usage="off_session" if invoice["parent"] else None,
            _invoice=invoice["id"],
        )
        sim.add(
            "invoice_payment",
            amount_requested=invoice["amount_due"],
            currency=invoice["currency"],
            invoice=invoice["id"],
            is_default=True,
            payment={"payment_intent": intent["id"], "type": "payment_intent"},
            status="open",
            status_transitions={"canceled_at": None, "paid_at": None},
        )
    sim.emit("invoice.finalized", invoice)
    if not invoice["amount_due"]:
        _paid(sim, invoice)


def intent_of(sim: Simulator, invoice: Obj) -> Obj | None:
    """The intent that pays an invoice."""
    payments = sim.find("invoice_payment", invoice=invoice["id"])
    return sim.get("payment_intent", payments[0]["payment"]["payment_intent"]) if payments else None


def collect(sim: Simulator, invoice: Obj, method: Obj | None, confirm: Params, *, loud: bool = False) -> None:
    """Charge an open invoice. With `loud` a failure raises SimulatedError; without, the invoice stays open."""
    intent = intent_of(sim, invoice)
    if intent is None or invoice["status"] != "open":
        return
    invoice["attempted"] = True
    invoice["attempt_count"] += 1
    try:
        if method is None:
            raise SimulatedError(
                "There is no `default_payment_method` set on this Customer or Invoice. Please set either an appropriate "
                "default payment method and try again, or provide one.",
                status=402 if loud else 400,
                code="missing",
            )
        intent["payment_method"] = method["id"]
        confirm_intent(sim, intent, confirm)
    except SimulatedError:
        _failed(sim, invoice)
        if loud:
            raise
    if intent["status"] == "requires_action":
        sim.emit("invoice.payment_action_required", invoice)
        _failed(sim, invoice)


def void(sim: Simulator, invoice: Obj) -> None:
    """Void it: it cannot be paid any more."""
    invoice |= {"status": "void", "amount_remaining": 0, "next_payment_attempt": None}
    invoice["status_transitions"]["voided_at"] = sim.now()
    intent = intent_of(sim, invoice)
    if intent and intent["status"] != "canceled":
        close_intent(sim, intent, "void_invoice")
    sim.emit("invoice.voided", invoice)
    for hook in AFTER_INVOICE:
        hook(sim, invoice)


def default_method(sim: Simulator, invoice: Obj) -> Obj | None:
    """The payment method of an invoice: its own, its subscription's, or its customer's default."""
    subscription = subscription_of(invoice)
    customer = sim.get("customer", invoice["customer"])
    chosen = (
        invoice["default_payment_method"]
        or (sim.get("subscription", subscription)["default_payment_method"] if subscription else None)
        or customer["invoice_settings"]["default_payment_method"]
    )
    return sim.objects["payment_method"].get(chosen) if chosen else None


def subscription_of(invoice: Obj) -> str | None:
    """The id of an invoice's subscription."""
    details: Any = (invoice["parent"] or {}).get("subscription_details")
    return details["subscription"] if details else None


def _paid(sim: Simulator, invoice: Obj) -> None:
    invoice |= {"status": "paid", "amount_paid": invoice["amount_due"], "amount_remaining": 0}
    invoice |= {"attempted": True, "next_payment_attempt": None}
    invoice["status_transitions"]["paid_at"] = sim.now()
    for payment in sim.find("invoice_payment", invoice=invoice["id"]):
        payment |= {"status": "paid", "amount_paid": invoice["amount_due"]}
        payment["status_transitions"]["paid_at"] = sim.now()
        sim.emit("invoice_payment.paid", payment)
    sim.emit("invoice.paid", invoice)
    sim.emit("invoice.payment_succeeded", invoice)
    for hook in AFTER_INVOICE:
        hook(sim, invoice)


def _failed(sim: Simulator, invoice: Obj) -> None:
    tries = invoice["attempt_count"]
    again = sim.now() + RETRY_DAYS[tries - 1] * DAY if tries <= len(RETRY_DAYS) else None
    invoice["next_payment_attempt"] = again if invoice["billing_reason"] == "subscription_cycle" else None
    sim.emit("invoice.payment_failed", invoice)
    for hook in AFTER_INVOICE:
        hook(sim, invoice)


def _after_payment(sim: Simulator, intent: Obj) -> None:
    if id := intent.get("_invoice"):
        invoice = sim.get("invoice", id)
        if intent["status"] == "succeeded" and invoice["status"] == "open":
            _paid(sim, invoice)
        elif intent["status"] == "requires_payment_method":
            _failed(sim, invoice)


AFTER_PAYMENT.append(_after_payment)
