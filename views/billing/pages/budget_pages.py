"""Budgets of an organisation (`/orgs/<slug>/budgets`) and of a person (`/profile?tab=budgets`): what limits the viewer, all
budgets and requests for those who manage them, and a budget tried on past calls."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec, cast

from flask import Blueprint, current_app, g, request, url_for
from flask.typing import ResponseReturnValue

from models.billing import budget_requests
from models.core.db import db, now
from models.core.errors import DomainError, Invalid
from models.ledger import LEVELS, PERIODS, Account, Budget, budgets
from models.ledger.budget_tables import PERIOD_NAMES
from models.ledger.budgets import CREDIT_LIMIT, PERSONAL_LEVELS
from models.orgs import SsoRequired, can, org_by_id, require
from views.accounts.pages.profile import tab
from views.web import format
from views.web.guards import current_account, limiter, login_required
from views.web.htmx import render, see_other, toast
from views.web.org_guards import current_membership, enter_org, org_account, signed_in, sso_required

P = ParamSpec("P")
bp = Blueprint("budgets", __name__)

LEVEL_NAMES = {
    "account": "The account",
    "team": "Team",
    "member": "Member",
    "key": "Key",
    "agent": "Agent",
    "run": "Run",
}
ENDS = {"window": "until the budget resets", "day": "for a day", "week": "for a week", "month": "for 30 days"}
_SPANS = {"day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=30)}


def budget_page(
    *, manage: bool = False
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Decorator, below the routes: a page of the organisation `<slug>`, or else of the viewer's own account. `manage`: for those
    who manage budgets there. Outsiders: NotFound. Consumes `slug`; the view reads `page_account()`."""

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @login_required
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            slug = cast(str | None, kwargs.pop("slug", None))
            try:
                if slug is not None:
                    enter_org(slug, "manage_budgets" if manage else None)
            except SsoRequired as required:
                return sso_required(required.org)
            g.budget_account = org_account() if slug is not None else current_account()
            return view(*args, **kwargs)

        return guarded

    return decorate


def page_account() -> Account:
    """The account whose budgets the page shows."""
    return cast(Account, g.budget_account)


@bp.url_defaults
def _keep_organisation(endpoint: str, values: dict[str, Any]) -> None:
    """Links between these pages, and to them from other pages of an organisation, stay with the organisation."""
    org = g.get("org")
    if (
        org is not None
        and "slug" not in values
        and current_app.url_map.is_endpoint_expecting(endpoint, "slug")
    ):
        values["slug"] = org.slug


@tab("budgets")
def own_budgets() -> ResponseReturnValue:
    """The budgets of the viewer's own account."""
    return budget_list()


@bp.get("/orgs/<slug>/budgets")
@budget_page()
def budget_list() -> ResponseReturnValue:
    """What limits the viewer, the account's budgets, and requests to decide."""
    account, viewer = page_account(), signed_in()
    manages = _manages()
    sees_all = manages or can(current_membership(), "see_all_usage")
    team = budgets.team_of(account.org_id, viewer.id) if account.org_id else None
    return render(
        "billing/budgets.html",
        limits=budgets.effective_limits(account, user_id=viewer.id, team_id=team) if account.org_id else [],
        budgets=budgets.budgets_of(account) if sees_all else [],
        spending=budgets.spending(account, top=1) if sees_all else {},
        requests=[_decidable(*row) for row in budget_requests.open_requests(account)] if manages else [],
        sees_all=sees_all,
        time_zone=budgets.time_zone_of(account),
        **_words(),
    )


@bp.get("/profile/budgets/new")
@bp.get("/orgs/<slug>/budgets/new")
@budget_page(manage=True)
@limiter.limit("60/minute")
def new_budget() -> ResponseReturnValue:
    """The form of a new budget, filled from the query; with `trial`, also what it would have refused in the last 30 days."""
    if not request.args.get("trial"):
        return _new_form(request.args)
    try:
        values = _read_form(request.args)
        level, subject = values.pop("level"), values.pop("subject")
        trial = budget_requests.try_budget(
            page_account(),
            level,
            values["period"],
            values["limit_credits"],
            subject=subject,
            count_byok=values["count_byok"],
        )
    except Invalid as error:
        return _new_form(request.args, error.fields, status=422)
    return _new_form(request.args, trial=trial)


@bp.post("/profile/budgets/new")
@bp.post("/orgs/<slug>/budgets/new")
@budget_page(manage=True)
@limiter.limit("60/minute")
def create() -> ResponseReturnValue:
    """Create a budget."""
    try:
        values = _read_form(request.form)
        made = budgets.create_budget(page_account(), values.pop("level"), created_by=signed_in().id, **values)
    except DomainError as error:
        fields = error.fields if isinstance(error, Invalid) else {"target": error.message}
        db.session.rollback()
        return _new_form(request.form, fields, status=422)
    db.session.commit()
    toast("Budget created. It counts what this period has spent already.")
    return see_other(url_for("budgets.budget", budget_id=made.id))


@bp.get("/profile/budgets/<budget_id>")
@bp.get("/orgs/<slug>/budgets/<budget_id>")
@budget_page()
def budget(budget_id: str) -> ResponseReturnValue:
    """One budget: what is left for the viewer, who spent it, raises in force; forms to change it, or to ask for more."""
    return _budget_page(budgets.budget_of(page_account(), budget_id))


@bp.get("/budgets/<budget_id>")
@login_required
def find_budget(budget_id: str) -> ResponseReturnValue:
    """From a refused call to the page of the budget that refused it."""
    account, found = budget_requests.account_of_budget(signed_in().id, budget_id)
    org = org_by_id(account.org_id) if account.org_id else None
    values: dict[str, Any] = {"slug": org.slug} if org else {}
    return see_other(url_for("budgets.budget", budget_id=found.id, **values))


@bp.post("/profile/budgets/<budget_id>")
@bp.post("/orgs/<slug>/budgets/<budget_id>")
@budget_page(manage=True)
@limiter.limit("60/minute")
def change(budget_id: str) -> ResponseReturnValue:
    """Change a budget."""
    found = budgets.budget_of(page_account(), budget_id)
    try:
        values = _read_amounts(request.form)
        budgets.change_budget(page_account(), budget_id, **values)
    except Invalid as error:
        db.session.rollback()
        return _budget_page(found, form=request.form, errors=error.fields, status=422)
    db.session.commit()
    toast("Budget changed. What was spent stays.")
    return see_other(url_for("budgets.budget", budget_id=budget_id))


@bp.post("/profile/budgets/<budget_id>/end")
@bp.post("/orgs/<slug>/budgets/<budget_id>/end")
@budget_page(manage=True)
@limiter.limit("60/minute")
def end(budget_id: str) -> ResponseReturnValue:
    """End a budget."""
    budgets.end_budget(page_account(), budget_id)
    db.session.commit()
    toast("Budget ended. It refuses no more calls.")
    return see_other(_list_url())


@bp.post("/profile/budgets/<budget_id>/raises")
@bp.post("/orgs/<slug>/budgets/<budget_id>/raises")
@budget_page(manage=True)
@limiter.limit("60/minute")
def add_raise(budget_id: str) -> ResponseReturnValue:
    """Raise a budget for a time."""
    found = budgets.budget_of(page_account(), budget_id)
    try:
        made = budget_requests.raise_budget(
            page_account(), budget_id, _number("amount"), ends_at=_end(), by=signed_in()
        )
    except Invalid as error:
        db.session.rollback()
        return _budget_page(found, errors=error.fields, status=422)
    db.session.commit()
    toast(f"Raised by {format.number(made.amount)} credits. The raise ends by itself.")
    return see_other(url_for("budgets.budget", budget_id=budget_id))


@bp.post("/orgs/<slug>/budgets/<budget_id>/requests")
@budget_page()
@limiter.limit("20/minute")
def ask(budget_id: str) -> ResponseReturnValue:
    """Ask for more of a budget."""
    require(current_membership(), "spend")
    found = budgets.budget_of(page_account(), budget_id)
    subject = _text("subject", request.form)[:300] or None
    try:
        budget_requests.request_more(
            page_account(),
            budget_id,
            signed_in(),
            _number("amount"),
            reason=_text("reason", request.form),
            subject=subject,
        )
    except Invalid as error:
        db.session.rollback()
        return _budget_page(found, errors=error.fields, status=422)
    db.session.commit()
    toast("Request sent to the owners and admins.")
    return see_other(url_for("budgets.budget", budget_id=budget_id))


@bp.post("/orgs/<slug>/budgets/requests/<request_id>")
@budget_page(manage=True)
@limiter.limit("60/minute")
def decide(request_id: str) -> ResponseReturnValue:
    """Approve a request, for a time or for its run only, or decline it."""
    approves = request.form.get("decision") == "approve"
    try:
        budget_requests.decide_request(
            page_account(),
            request_id,
            signed_in(),
            amount=_number("amount") if approves else None,
            ends_at=_end() if approves else None,
            this_run_only=approves and bool(request.form.get("this_run_only")),
            answer=_text("answer", request.form),
        )
    except DomainError as error:
        if error.status not in (409, 422):
            raise
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(_list_url())
    db.session.commit()
    toast("Approved." if approves else "Declined.")
    return see_other(_list_url())


@bp.post("/profile/budgets/clock")
@budget_page(manage=True)
@limiter.limit("20/minute")
def save_time_zone() -> ResponseReturnValue:
    """Set the clock of the viewer's own budgets."""
    try:
        budgets.set_time_zone(page_account(), _text("time_zone", request.form))
    except Invalid as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(_list_url())
    db.session.commit()
    toast("Time zone saved. The current periods were recalculated.")
    return see_other(_list_url())


# -- forms and words -----------------------------------------------------------------------------------------


def _manages() -> bool:
    return page_account().org_id is None or can(current_membership(), "manage_budgets")


def _list_url() -> str:
    if page_account().org_id:
        return url_for("budgets.budget_list")
    return url_for("profile.profile", tab="budgets")


def _read_form(form: Any) -> dict[str, Any]:
    level, _, subject = _text("target", form).partition(":")
    if level == "agent" and not subject:
        subject = _text("agent", form)[:300]
    return {
        "level": level,
        "subject": subject or None,
        "period": _text("period", form),
        **_read_amounts(form),
    }


def _read_amounts(form: Any) -> dict[str, Any]:
    return {
        "limit_credits": _number("limit_credits", form),
        "warn_percent": _number("warn_percent", form) if form.get("warn_percent") else 80,
        "hard": form.get("kind") != "soft",
        "count_byok": bool(form.get("count_byok")),
    }


def _text(name: str, form: Any) -> str:
    """A field without surrounding space; text in the database has no NUL."""
    return cast(str, form.get(name, "")).replace("\0", "").strip()


def _number(name: str, form: Any = None) -> int:
    text = (request.form if form is None else form).get(name, "").strip().replace(",", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Invalid("Enter a whole number.", fields={name: "Enter a whole number."})
    return int(text)


def _end() -> datetime | None:
    span = _SPANS.get(request.form.get("ends", ""))
    return now() + span if span else None


def _targets(chosen: str) -> list[tuple[str, str]]:
    account = page_account()
    chosen_level, _, chosen_id = chosen.partition(":")
    each = [
        (level, f"Each {level}")
        for level in (LEVELS if account.org_id else PERSONAL_LEVELS)
        if level != "account"
    ]
    subjects = [
        (f"{level}:{id}", f"{LEVEL_NAMES[level]}: {name}")
        for level, id, name in budgets.subjects_of(account, chosen_level, chosen_id)
    ]
    return [("account", "The whole account"), *each, *subjects]


def _words() -> dict[str, Any]:
    return {
        "manages": _manages(),
        "organisation": page_account().org_id is not None,
        "period_names": PERIOD_NAMES,
        "level_names": LEVEL_NAMES,
        "ends": list(ENDS.items()),
        "credit_limit": CREDIT_LIMIT,
        "list_url": _list_url(),
    }


def _decidable(row: Any, found: Budget, user: Any) -> dict[str, Any]:
    times = {name: row.evidence.get(name) for name in ("resets_at", "stopped_at")}
    return {
        "row": row,
        "budget": found,
        "who": user.display_name,
        **{name: value and datetime.fromisoformat(value) for name, value in times.items()},
    }


def _new_form(
    form: Any, errors: dict[str, str] | None = None, *, trial: Any = None, status: int = 200
) -> ResponseReturnValue:
    return render(
        "billing/budget_new.html",
        status=status,
        form=form,
        errors=errors or {},
        trial=trial,
        targets=_targets(form.get("target", "").replace("\0", "")),
        periods=[(period, PERIOD_NAMES[period].capitalize()) for period in PERIODS],
        **_words(),
    )


def _budget_page(
    found: Budget, *, form: Any = None, errors: dict[str, str] | None = None, status: int = 200
) -> ResponseReturnValue:
    account = page_account()
    manages = _manages()
    sees_all = manages or can(current_membership(), "see_all_usage")
    return render(
        "billing/budget.html",
        status=status,
        budget=found,
        limit=budget_requests.limit_for(
            account, found, signed_in().id, subject=_text("subject", request.args) or None
        ),
        spending=budgets.spending(account, top=20).get(found.id, []) if sees_all else [],
        raises=budget_requests.live_raises(found),
        sees_all=sees_all,
        asks=account.org_id is not None and not manages and can(current_membership(), "spend"),
        form=form,
        errors=errors or {},
        **_words(),
    )
