"""Billing details: name, address and tax ids for receipts."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.billing.payments.billing_details import (
    LENGTHS,
    MAX_TAX_IDS,
    TAX_ID_TYPES,
    billing_address,
    billing_snapshot,
    save_billing_details,
)
from models.billing.payments.countries import COUNTRIES
from models.core.db import db
from models.core.errors import Invalid
from views.billing.pages.billing_blueprint import (
    billing_home,
    bp,
    money_page,
    organisation,
    own_billing,
    user,
)
from views.web.guards import limiter, login_required
from views.web.htmx import see_other, toast

LABELS = {
    "name": "Name or company",
    "line1": "Address line 1",
    "line2": "Address line 2",
    "postal_code": "Postal code",
    "city": "City",
    "state": "State or region",
    "country": "Country",
}


@bp.get("/profile/billing/details")
@bp.get("/orgs/<slug>/billing/details")
@login_required
def details() -> ResponseReturnValue:
    """The form. Query: `credits` or `plan`, to return to that purchase or plan."""
    saved = billing_address(billing_snapshot(own_billing().id))
    if saved is None:
        org = organisation()
        return _form({"name": (org or user()).name or ""}, [])
    values = {name: getattr(saved, name) for name in LABELS}
    return _form(values, [(each.type, each.value) for each in saved.tax_ids])


@bp.post("/profile/billing/details")
@bp.post("/orgs/<slug>/billing/details")
@login_required
@limiter.limit("30 per minute")
def save_details() -> ResponseReturnValue:
    """Save the details; receipts of earlier purchases do not change."""
    account = own_billing()
    values = {name: request.form.get(name, "") for name in LABELS}
    tax_ids = [
        (request.form.get(f"tax_id_type_{index}", ""), request.form.get(f"tax_id_value_{index}", ""))
        for index in range(MAX_TAX_IDS)
    ]
    try:
        save_billing_details(account, values, tax_ids)
    except Invalid as invalid:
        return _form(values, tax_ids, invalid.fields, 422)
    db.session.commit()
    credits = _credits()
    if credits:
        return see_other(url_for("billing.review", credits=credits))
    if plan := _plan():
        return see_other(url_for("billing.review_plan", plan=plan))
    toast("Billing details saved.")
    return see_other(billing_home())


def _form(
    values: dict[str, str],
    tax_ids: list[tuple[str, str]],
    errors: dict[str, str] | None = None,
    status: int = 200,
) -> ResponseReturnValue:
    filled = [index for index, (_, value) in enumerate(tax_ids) if value.strip()]
    tax_ids = tax_ids[: filled[-1] + 1 if filled else 0]
    rows = (tax_ids + [("", "")] * MAX_TAX_IDS)[: min(MAX_TAX_IDS, len(tax_ids) + 2)]
    return money_page(
        "billing/details.html",
        status=status,
        values=dict.fromkeys(LABELS, "") | values,
        labels=LABELS,
        lengths=LENGTHS,
        countries=list(COUNTRIES.items()),
        types=list(TAX_ID_TYPES.items()),
        tax_ids=rows,
        errors=errors or {},
        credits=_credits(),
        plan=_plan(),
    )


def _credits() -> str:
    text = request.values.get("credits", "")
    return text if text.isascii() and text.isdigit() and len(text) <= 9 else ""


def _plan() -> str:
    text = request.values.get("plan", "")
    return text if text.isascii() and len(text) <= 60 else ""
