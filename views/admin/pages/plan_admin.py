"""The operators' pages of plans: list, create, edit, retire, and the subscribers of each version."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from models.billing.subscription_plans import plan_subscribers, plans
from models.billing.subscription_plans.plans import MAX_WINDOWS, NewPlan, Plan, WindowLimit
from models.core.db import db
from models.core.errors import Conflict, Invalid
from views.billing.pages.billing_blueprint import money_page
from views.billing.pages.plan_cards import STATUSES, plan_card
from views.web.guards import admin_required, audit, cookie_user, limiter, operator_required
from views.web.htmx import see_other, toast
from views.web.keyset import Cursor, cursor, cursor_text

bp = Blueprint("plan_admin", __name__)

PAGE = 50
WHOLE = re.compile(r"-?\d{1,9}", re.ASCII)
DOLLARS = re.compile(r"\d{1,6}(\.\d{1,2})?", re.ASCII)
LABELS = {
    "name": "Name",
    "description": "Description",
    "price": "Price",
    "interval": "Billed",
    "windows": "Windows",
    "included_credits": "Included credits",
    "models": "Models",
    "requests_per_minute": "Requests a minute",
    "seats": "Seats",
    "features": "Display lines",
    "tier": "Tier",
    "sort": "Order",
}
NUMBERS = ("included_credits", "requests_per_minute", "seats", "tier", "sort")
OPTIONAL = ("requests_per_minute", "seats", "tier")


@dataclass(frozen=True, slots=True)
class WindowRow:
    """A window as entered."""

    name: str = ""
    hours: str = ""
    credits: str = ""

    @property
    def empty(self) -> bool:
        return not (self.name or self.hours or self.credits)


@dataclass(frozen=True, slots=True)
class PlanForm:
    """The form's fields as entered, and their errors by field."""

    values: Mapping[str, Any]
    windows: list[WindowRow]
    errors: Mapping[str, str]


@bp.get("/admin/plans")
@admin_required
def plan_list() -> ResponseReturnValue:
    """List the plans. Query: `before` (cursor of the retired plans)."""
    before = cursor()
    retired = plan_subscribers.retired_plans(before=before, limit=PAGE + 1)
    last = retired[PAGE - 1][0] if len(retired) > PAGE else None
    more = _page_after("plan_admin.plan_list", last.created_at, last.id) if last else None
    if before:
        return money_page(
            "admin/retired_plans.html",
            partial="admin/_retired_plans.html",
            retired=retired[:PAGE],
            more=more,
        )
    offered = plan_subscribers.offered_plans()
    return money_page("admin/plans.html", rows=offered, retired=retired[:PAGE], more=more)


@bp.get("/admin/plans/new")
@operator_required
def new_plan() -> ResponseReturnValue:
    """The form of a new plan."""
    windows = [WindowRow("5 hours", "5"), WindowRow("Week", "168"), WindowRow("Month")]
    return _page(None, PlanForm(_blank(), windows, {}))


@bp.post("/admin/plans")
@admin_required
@limiter.limit("60 per minute")
def create_plan() -> ResponseReturnValue:
    """Create a plan."""
    try:
        made = plans.create_plan(NewPlan(**_terms()))
    except (Invalid, Conflict) as error:
        db.session.rollback()
        return _page(None, _entered(error), status=422)
    id, name = made.id, made.name
    audit("plan.created", id, user=cookie_user(), after={"name": name, "price_cents": made.price_cents})
    db.session.commit()
    toast(f"{name} created.")
    return see_other(url_for("plan_admin.plan_list"))


@bp.get("/admin/plans/<id>")
@admin_required
def plan(id: str) -> ResponseReturnValue:
    """A version of a plan with its subscribers. Query: `before` (cursor of the subscribers)."""
    found = plans.get_plan(id)
    if before := cursor():
        return money_page(
            "admin/subscribers.html",
            partial="admin/_subscribers.html",
            plan=found,
            **_subscribers(found, before),
        )
    return _page(found, _stored(found) if found.active else None)


@bp.post("/admin/plans/<id>")
@admin_required
@limiter.limit("60 per minute")
def save_plan(id: str) -> ResponseReturnValue:
    """Save the form. A change of the price or the limits first shows the form again with a warning, then creates a new
    version."""
    try:
        saved = plans.update_plan(plans.get_plan(id), _terms())
    except (Invalid, Conflict) as error:
        db.session.rollback()
        return _page(plans.get_plan(id), _entered(error), status=422)
    new_id, version, name = saved.id, saved.version, saved.name
    if new_id != id and request.form.get("next_version") != str(version):
        db.session.rollback()
        return _page(plans.get_plan(id), _entered(), next_version=version, status=422)
    audit("plan.changed", new_id, user=cookie_user(), before={"id": id}, after={"version": version})
    db.session.commit()
    toast(f"{name} version {version} is now for sale." if new_id != id else f"{name} saved.")
    return see_other(url_for("plan_admin.plan", id=new_id))


@bp.get("/admin/plans/<id>/retirement")
@operator_required
def ask_retirement(id: str) -> ResponseReturnValue:
    """Confirm retiring a plan, in a dialog or, without JavaScript, on a page."""
    found = plans.get_plan(id)
    return money_page(
        "admin/retire_plan.html",
        partial="admin/_retire_plan.html",
        plan=found,
        count=plan_subscribers.subscriber_count(found),
    )


@bp.post("/admin/plans/<id>/retirement")
@admin_required
@limiter.limit("60 per minute")
def retire(id: str) -> ResponseReturnValue:
    """Retire a plan: it is no longer sold, and its subscribers keep it."""
    found = plans.get_plan(id)
    plans.retire_plan(found)
    name = found.name
    audit("plan.retired", id, user=cookie_user())
    db.session.commit()
    toast(f"{name} is retired.")
    return see_other(url_for("plan_admin.plan_list"))


# -- the form ------------------------------------------------------------------------------------------------


def _page(
    found: Plan | None, form: PlanForm | None, *, next_version: int | None = None, status: int = 200
) -> ResponseReturnValue:
    errors = form.errors if form else {}
    response = money_page(
        "admin/plan.html",
        partial="admin/_plan_form.html" if request.method == "POST" else None,
        status=status,
        plan=found,
        card=plan_card(found) if found else None,
        form=form.values if form else None,
        windows=_rows(form.windows) if form else [],
        errors=errors,
        summary=[(id, LABELS.get(id, "Window"), message) for id, message in errors.items()],
        next_version=next_version,
        count=plan_subscribers.subscriber_count(found) if found else 0,
        **(_subscribers(found, None) if found else {}),
    )
    if errors:
        response.headers["HX-Reswap"] = "outerHTML show:top"  # the summary is far above the button
    return response


def _subscribers(found: Plan, before: Cursor | None) -> dict[str, Any]:
    people = plan_subscribers.subscribers(found, before=before, limit=PAGE + 1)
    last = people[PAGE - 1].subscription if len(people) > PAGE else None
    return {
        "subscribers": people[:PAGE],
        "statuses": STATUSES,
        "more": _page_after("plan_admin.plan", last.created_at, last.stripe_subscription_id, id=found.id)
        if last
        else None,
    }


def _blank() -> dict[str, Any]:
    texts = dict.fromkeys(LABELS, "")
    return texts | {"interval": "month", "included_credits": "0", "sort": "0", "public": True}


def _stored(found: Plan) -> PlanForm:
    values = _blank() | {
        "name": found.name,
        "description": found.description,
        "price": str(Decimal(found.price_cents).scaleb(-2)),
        "interval": found.interval,
        "models": "\n".join(found.models or ()),
        "features": "\n".join(found.features),
        "public": found.public,
    }
    for name in NUMBERS:
        value = getattr(found, name)
        values[name] = "" if value is None else str(value)
    rows = [
        WindowRow(each.name, "" if each.hours is None else str(each.hours), str(each.credits))
        for each in found.windows
    ]
    return PlanForm(values, rows, {})


def _entered(error: Invalid | Conflict | None = None) -> PlanForm:
    values: dict[str, Any] = {name: request.form.get(name, "") for name in LABELS}
    values["public"] = "public" in request.form
    errors = getattr(error, "fields", None) or ({"name": error.message} if error else {})
    errors = {"price" if name == "price_cents" else name: message for name, message in errors.items()}
    return PlanForm(values, _entered_rows(), errors)


def _entered_rows() -> list[WindowRow]:
    return [
        WindowRow(
            *(request.form.get(f"window_{part}_{index}", "").strip() for part in ("name", "hours", "credits"))
        )
        for index in range(MAX_WINDOWS)
    ]


def _rows(filled: list[WindowRow]) -> list[WindowRow]:
    """The rows of the form: the filled ones and an empty one, at least three, at most MAX_WINDOWS."""
    filled = filled[: 1 + max((index for index, row in enumerate(filled) if not row.empty), default=-1)]
    return (filled + [WindowRow()] * MAX_WINDOWS)[: min(MAX_WINDOWS, max(3, len(filled) + 1))]


def _terms() -> dict[str, Any]:
    """The fields as `plans.NewPlan` takes them. Raises Invalid with an error for each field that is not a number; the
    domain validates the rest."""
    form, errors = request.form, {}
    terms: dict[str, Any] = {
        "name": form.get("name", "").strip(),
        "description": form.get("description", "").strip(),
        "interval": form.get("interval", ""),
        "models": _lines("models") or None,
        "features": _lines("features"),
        "public": "public" in form,
    }
    price = form.get("price", "").strip().replace(",", "").removeprefix("$")
    if DOLLARS.fullmatch(price):
        terms["price_cents"] = int(Decimal(price) * 100)
    else:
        errors["price"] = "Enter dollars, such as 20 or 19.99."
    for name in NUMBERS:
        text = form.get(name, "").strip().replace(",", "")
        if WHOLE.fullmatch(text):
            terms[name] = int(text)
        elif not text and name in OPTIONAL:
            terms[name] = None
        else:
            errors[name] = "Enter a whole number."
    terms["windows"], wrong = _windows()
    if errors := errors | wrong:
        raise Invalid("Some fields are invalid.", fields=errors)
    return terms


def _windows() -> tuple[list[WindowLimit], dict[str, str]]:
    windows, errors = [], {}
    for index, row in enumerate(_entered_rows()):
        if row.empty:
            continue
        hours, credits = row.hours.replace(",", ""), row.credits.replace(",", "")
        if not row.name:
            errors[f"window_name_{index}"] = "Enter a name."
        if hours and not WHOLE.fullmatch(hours):
            errors[f"window_hours_{index}"] = "Enter a whole number, or nothing."
        elif not WHOLE.fullmatch(credits):
            errors[f"window_credits_{index}"] = "Enter a whole number."
        else:
            windows.append(WindowLimit(row.name, int(hours) if hours else None, int(credits)))
    return windows, errors


def _lines(name: str) -> list[str]:
    return [line.strip() for line in request.form.get(name, "").splitlines() if line.strip()]


# -- pages of lists ------------------------------------------------------------------------------------------


def _page_after(endpoint: str, time: datetime, last: str, **values: Any) -> str:
    return url_for(endpoint, before=cursor_text(time, last), **values)
