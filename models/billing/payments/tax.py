"""Tax of purchases and plans by Stripe Tax, switched on by `STOA_STRIPE_TAX`. Amounts are cents; tax is added to prices.

On Checkout Stripe adds the tax itself. Before a saved card is charged the tax is calculated here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from models.billing import stripe_api
from models.billing.payments.billing_details import ADDRESS
from models.billing.stripe_api import StripeError, plain

NAMES = {
    "amusement_tax": "Amusement tax",
    "communications_tax": "Communications tax",
    "gst": "GST",
    "hst": "HST",
    "igst": "IGST",
    "jct": "JCT",
    "pst": "PST",
    "qst": "QST",
    "rst": "RST",
    "sales_tax": "Sales tax",
    "service_tax": "Service tax",
    "vat": "VAT",
}
"""By Stripe's type of tax."""
NO_DETAILS = "Tax cannot be calculated without billing details. Add your billing details, then try again."
NOT_EXACT = "Stripe's calculation of the tax does not fit the price. Try again later."

TaxLine = dict[str, Any]
"""`name`, `rate` (percent as text, or None) and `cents`."""


@dataclass(frozen=True, slots=True)
class TaxCalculation:
    """The tax of one price, as calculated by Stripe Tax."""

    id: str
    net_cents: int
    tax_cents: int
    lines: list[TaxLine]

    @property
    def total_cents(self) -> int:
        """What is charged."""
        return self.net_cents + self.tax_cents


def tax_enabled() -> bool:
    """Whether this server adds tax to its prices."""
    return stripe_api.enabled() and stripe_api.billing_settings().stoa_stripe_tax


def calculate_tax(
    net_cents: int, currency: str, billing: dict[str, Any] | None, *, operation: str | None = None
) -> TaxCalculation:
    """Ask Stripe for the tax of credits of that price, for billing details as in `Purchase.billing`. Call it in no
    transaction. `operation` makes repetitions the same calculation. Raises StripeError, also without billing details."""
    if billing is None:
        raise StripeError(NO_DETAILS, unknown=False)
    params: Any = {
        "currency": currency,
        "customer_details": {
            "address": {name: billing.get(name) or "" for name in ADDRESS},
            "address_source": "billing",
            "tax_ids": billing["tax_ids"],
        },
        "line_items": [
            {"amount": net_cents, "reference": "credits", "quantity": 1, "tax_behavior": "exclusive"}
        ],
    }
    with stripe_api.api_client() as client:
        options: Any = {"idempotency_key": f"{operation}-tax"} if operation else {}
        found = plain(client.v1.tax.calculations.create(params, options))
    tax_cents = found["tax_amount_exclusive"]
    exact = (
        tax_cents >= 0 and found["amount_total"] == net_cents + tax_cents and found["currency"] == currency
    )
    if not exact or found["tax_amount_inclusive"]:
        raise StripeError(NOT_EXACT, unknown=False)
    return TaxCalculation(found["id"], net_cents, tax_cents, calculated_lines(found["tax_breakdown"]))


def calculated_lines(breakdown: Iterable[dict[str, Any]]) -> list[TaxLine]:
    """The lines of a calculation's `tax_breakdown`; taxes of nothing are left out."""
    return [
        tax_line(NAMES.get(rate.get("tax_type") or "", "Tax"), rate.get("percentage_decimal"), part["amount"])
        for part in breakdown
        if part["amount"] and (rate := part.get("tax_rate_details") or {}) is not None
    ]


def session_lines(breakdown: Iterable[dict[str, Any]]) -> list[TaxLine]:
    """The lines of a Checkout Session's `total_details.breakdown.taxes`; taxes of nothing are left out."""
    return [
        tax_line(part["rate"].get("display_name") or "Tax", part["rate"].get("percentage"), part["amount"])
        for part in breakdown
        if part["amount"]
    ]


def tax_line(name: str, percentage: Any, cents: int) -> TaxLine:
    """One line; the rate without trailing zeros."""
    rate = None if percentage is None else f"{Decimal(str(percentage)):f}"
    if rate and "." in rate:
        rate = rate.rstrip("0").rstrip(".")
    return {"name": name, "rate": rate, "cents": cents}


def shown_tax(lines: list[TaxLine] | None, tax_cents: int) -> list[tuple[str, int]]:
    """The lines of a page or receipt with their cents: nothing if tax was never calculated (None), else at least one, and
    their sum is the tax."""
    if lines is None:
        return []
    if sum(line["cents"] for line in lines) != tax_cents or not lines:
        return [("Tax", tax_cents)]
    return [
        (f"{line['name']} {line['rate']} %" if line["rate"] else line["name"], line["cents"])
        for line in lines
    ]
