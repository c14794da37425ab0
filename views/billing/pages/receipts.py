"""The page of a purchase, and its receipt and credit notes as PDF."""

import re

from flask import Response
from flask.typing import ResponseReturnValue

from models import billing
from models.billing.payments.billing_details import billing_address
from models.billing.payments.purchase import Purchase, refunded_tax
from models.billing.payments.purchase_history import PurchaseRecord, purchase_record
from models.core.errors import NotFound
from views.billing.pages.billing_blueprint import (
    bp,
    money_page,
    organisation,
    page_account,
    reason_text,
    user,
)
from views.billing.pages.receipt_pdf import ReceiptDocument, document_pdf
from views.web import format
from views.web.guards import limiter, login_required, settings
from views.web.htmx import page_balance
from views.web.viewer_locale import plain_formats


@bp.get("/profile/billing/purchases/<id>")
@bp.get("/orgs/<slug>/billing/purchases/<id>")
@login_required
def purchase(id: str) -> ResponseReturnValue:
    """A purchase: its payment, billing details, refunds and disputes."""
    account = page_account()
    record = purchase_record(account, id)
    return money_page(
        "billing/purchase.html",
        record=record,
        money=_payment_lines(record.purchase),
        details=billing_address(record.purchase.billing),
        balance=page_balance(account),
    )


@bp.get("/profile/billing/purchases/<id>/receipt.pdf")
@bp.get("/orgs/<slug>/billing/purchases/<id>/receipt.pdf")
@login_required
@limiter.limit("30 per minute")
@plain_formats()
def receipt_pdf(id: str) -> ResponseReturnValue:
    """The receipt as PDF. Raises NotFound for an unpaid purchase."""
    record = purchase_record(page_account(), id)
    if not record.purchase.paid:
        raise NotFound("There is no receipt, because this purchase is not paid.")
    return _pdf(_receipt(record), f"receipt-{record.purchase.id}")


@bp.get("/profile/billing/purchases/<id>/refunds/<refund>/credit-note.pdf")
@bp.get("/orgs/<slug>/billing/purchases/<id>/refunds/<refund>/credit-note.pdf")
@login_required
@limiter.limit("30 per minute")
@plain_formats()
def credit_note_pdf(id: str, refund: str) -> ResponseReturnValue:
    """The credit note of a refund as PDF. Raises NotFound unless the refund succeeded."""
    record = purchase_record(page_account(), id)
    found = next((each for each in record.refunds if each.id == refund and each.status == "succeeded"), None)
    if found is None:
        raise NotFound("There is no such credit note.")
    bought = record.purchase
    amount = format.cents(-found.amount_cents, bought.currency)
    tax = refunded_tax(bought, record.refunds)[found.id]
    lines = [
        (
            f"Refund of {format.number(bought.credits)} credits: {reason_text(found.reason)}",
            format.cents(tax - found.amount_cents, bought.currency),
        )
    ]
    if bought.taxes:
        name = bought.taxes[0][0] if len(bought.taxes) == 1 else "Tax"
        lines.append((name, format.cents(-tax, bought.currency)))
    return _pdf(
        ReceiptDocument(
            title="Credit note",
            number=found.id,
            seller=_seller(),
            buyer=_buyer(bought),
            facts=[("Date", f"{format.date(found.created_at)}, UTC"), ("For receipt", bought.id)],
            lines=lines,
            total=("Refunded", amount),
            test=_test_note(),
        ),
        f"credit-note-{found.id}",
    )


def _receipt(record: PurchaseRecord) -> ReceiptDocument:
    bought = record.purchase
    money = _price_lines(bought)
    returned = [
        (
            f"Refunded {format.date(each.created_at)}: {reason_text(each.reason)}",
            format.cents(-each.amount_cents, bought.currency),
        )
        for each in record.refunds
        if each.status not in ("failed", "canceled")
    ]
    returned += [
        (
            f"Disputed {format.date(each.created_at)}: {reason_text(each.reason)}",
            format.cents(-each.withdrawn_cents, bought.currency),
        )
        for each in record.disputes
        if each.withdrawn_cents
    ]
    net = bought.amount_cents - bought.refunded_cents - bought.disputed_cents
    return ReceiptDocument(
        title="Receipt",
        number=bought.id,
        seller=_seller(),
        buyer=_buyer(bought),
        facts=[("Paid", f"{format.date(bought.paid_at)}, UTC"), ("Payment method", _method(bought))],
        lines=money,
        total=("Total paid", format.cents(bought.amount_cents, bought.currency)),
        changes=returned,
        net=("Net paid", format.cents(net, bought.currency)) if returned else None,
        test=_test_note(),
    )


def _payment_lines(bought: Purchase) -> list[tuple[str, str]]:
    """Names and values of the purchase's page."""
    lines = [
        *_price_lines(bought),
        ("Payment method", _method(bought)),
        ("Started", format.moment(bought.created_at)),
    ]
    if bought.paid_at:
        lines.append(("Paid", format.moment(bought.paid_at)))
    if bought.refunded_cents:
        lines.append(("Refunded", format.cents(-bought.refunded_cents, bought.currency)))
    if bought.disputed_cents:
        lines.append(("Withdrawn by disputes", format.cents(-bought.disputed_cents, bought.currency)))
    return lines


def _price_lines(bought: Purchase) -> list[tuple[str, str]]:
    """The credits at their price, and each tax."""
    money = [(f"{format.number(bought.credits)} credits", bought.net_cents), *bought.taxes]
    return [(name, format.cents(cents, bought.currency)) for name, cents in money]


def _method(bought: Purchase) -> str:
    if bought.card_last4:
        return f"{(bought.card_brand or 'card').replace('_', ' ').title()} •••• {bought.card_last4}"
    return (bought.payment_method_type or "not known yet").capitalize()


def _seller() -> list[str]:
    return ["Stoa", *(part for part in (settings().base_url, settings().stoa_support_email) if part)]


def _buyer(bought: Purchase) -> list[str]:
    details = billing_address(bought.billing)
    org = organisation()
    return [*(details.lines() if details else []), org.name if org else user().email]


def _test_note() -> str | None:
    return "Test payment: no money moved." if billing.test_mode() else None


def _pdf(document: ReceiptDocument, name: str) -> Response:
    response = Response(document_pdf(document), mimetype="application/pdf")
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    response.headers["Content-Disposition"] = f'inline; filename="{safe}.pdf"'
    response.headers["Cache-Control"] = "no-store"
    return response
