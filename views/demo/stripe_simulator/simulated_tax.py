"""Stripe Tax in the simulator: one rate by country, added to prices; calculations, transactions and reversals."""

from decimal import ROUND_HALF_UP, Decimal

from views.demo.stripe_simulator.simulated_customers import TAX_ID_TYPES, address
from views.demo.stripe_simulator.simulated_errors import invalid, required
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_routes import endpoint
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

RATES = {
    "AT": ("vat", "20.0"),
    "AU": ("gst", "10.0"),
    "CH": ("vat", "8.1"),
    "DE": ("vat", "19.0"),
    "ES": ("vat", "21.0"),
    "FR": ("vat", "20.0"),
    "GB": ("vat", "20.0"),
    "IE": ("vat", "23.0"),
    "IT": ("vat", "22.0"),
    "NL": ("vat", "21.0"),
    "NO": ("vat", "25.0"),
    "SE": ("vat", "25.0"),
}
"""Type of tax and percentage by country. Other countries, the United States among them, have none."""
NO_LOCATION = (
    "We could not determine the customer's tax location based on the provided customer address. Please ensure that the "
    "address is valid."
)


def tax_of(amount: int, country: str | None) -> int:
    """The tax to add to a price."""
    _, percentage = RATES.get(country or "", ("", "0"))
    return int((amount * Decimal(percentage) / 100).quantize(Decimal(1), ROUND_HALF_UP))


def tax_name(country: str | None) -> tuple[str, str]:
    """Type and percentage of a country's tax; those of no tax are empty."""
    return RATES.get(country or "", ("", "0"))


def country_of(given: Obj | None) -> str | None:
    """The country of an address object; None without one."""
    return str(given["country"]).upper() if given and given.get("country") else None


@endpoint("POST", "/v1/tax/calculations", "currency customer customer_details line_items tax_date")
def create_calculation(sim: Simulator, params: Params) -> Obj:
    """POST /v1/tax/calculations."""
    currency, lines = params.needed("currency"), params.each("line_items")
    if not lines:
        raise required("line_items")
    if params.text("customer"):
        raise invalid("The simulator takes customer_details only.", "customer")
    details = params.nested("customer_details")
    details.allow(("address", "address_source", "ip_address", "tax_ids", "taxability_override"))
    where = address(details.nested("address"))
    country = country_of(where)
    if country is None:
        raise invalid(NO_LOCATION, "customer_details[address]", "customer_tax_location_invalid")
    for tax_id in details.each("tax_ids"):
        if tax_id.needed("type") not in TAX_ID_TYPES.split():
            raise invalid("Invalid tax id type.", "customer_details[tax_ids]")
    net = 0
    for line in lines:
        line.allow(("amount", "quantity", "reference", "tax_behavior", "tax_code", "product", "metadata"))
        if line.one_of("tax_behavior", ("exclusive", "inclusive"), "exclusive") != "exclusive":
            raise invalid("The simulator adds tax to prices only.", "line_items[tax_behavior]")
        net += line.needed_integer("amount")
    tax = tax_of(net, country)
    kind, percentage = tax_name(country)
    return sim.add(
        "tax.calculation",
        amount_total=net + tax,
        currency=currency,
        customer=None,
        customer_details={
            "address": where,
            "address_source": details.text("address_source"),
            "ip_address": None,
            "tax_ids": [dict(each) for each in details.each("tax_ids")],
            "taxability_override": "none",
        },
        expires_at=sim.now() + 90 * 86_400,
        ship_from_details=None,
        shipping_cost=None,
        tax_amount_exclusive=tax,
        tax_amount_inclusive=0,
        tax_breakdown=[
            {
                "amount": tax,
                "inclusive": False,
                "tax_rate_details": {
                    "country": country,
                    "flat_amount": None,
                    "percentage_decimal": percentage,
                    "rate_type": "percentage" if kind else None,
                    "state": None,
                    "tax_type": kind or None,
                },
                "taxability_reason": "standard_rated" if kind else "not_collecting",
                "taxable_amount": net if kind else 0,
            }
        ],
        tax_date=sim.now(),
    )


@endpoint("POST", "/v1/tax/transactions/create_from_calculation", "calculation reference metadata posted_at")
def create_transaction(sim: Simulator, params: Params) -> Obj:
    """POST /v1/tax/transactions/create_from_calculation."""
    calculation = sim.refer("tax.calculation", params.needed("calculation"), "calculation")
    return sim.add(
        "tax.transaction",
        currency=calculation["currency"],
        customer=None,
        customer_details=calculation["customer_details"],
        metadata=params.metadata(),
        posted_at=sim.now(),
        reference=_new_reference(sim, params),
        reversal=None,
        ship_from_details=None,
        shipping_cost=None,
        tax_date=calculation["tax_date"],
        type="transaction",
        _amount=calculation["amount_total"],
        _tax=calculation["tax_amount_exclusive"],
    )


@endpoint(
    "POST",
    "/v1/tax/transactions/create_reversal",
    "flat_amount metadata mode original_transaction reference",
)
def create_reversal(sim: Simulator, params: Params) -> Obj:
    """POST /v1/tax/transactions/create_reversal."""
    original = sim.refer("tax.transaction", params.needed("original_transaction"), "original_transaction")
    if original["type"] != "transaction":
        raise invalid("You cannot reverse a reversal.", "original_transaction")
    reversals = [
        each
        for each in sim.objects["tax.transaction"].values()
        if (each["reversal"] or {}).get("original_transaction") == original["id"]
    ]
    left = original["_amount"] + sum(each["_amount"] for each in reversals)
    if params.one_of("mode", ("full", "partial"), "") == "full":
        if left != original["_amount"]:
            raise invalid("This transaction is partially reversed already.", "mode")
        amount = -left
    else:
        amount = params.needed_integer("flat_amount")
    if amount >= 0 or -amount > left:
        raise invalid("The amount to reverse exceeds what is left of the transaction.", "flat_amount")
    return sim.add(
        "tax.transaction",
        currency=original["currency"],
        customer=None,
        customer_details=original["customer_details"],
        metadata=params.metadata(),
        posted_at=sim.now(),
        reference=_new_reference(sim, params),
        reversal={"original_transaction": original["id"]},
        ship_from_details=None,
        shipping_cost=None,
        tax_date=original["tax_date"],
        type="reversal",
        _amount=amount,
        _tax=-tax_part(original["_tax"], -amount, original["_amount"]),
    )


def tax_part(tax: int, amount: int, total: int) -> int:
    """The part of the tax in a part of the total, rounded half up."""
    return (2 * tax * amount + total) // (2 * total)


def _new_reference(sim: Simulator, params: Params) -> str:
    reference = params.needed("reference")
    if any(each["reference"] == reference for each in sim.objects["tax.transaction"].values()):
        raise invalid("This reference is used by another transaction.", "reference")
    return reference
