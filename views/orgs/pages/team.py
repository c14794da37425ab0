"""Members of an organisation: list, add, change roles, remove, leave, transfer ownership."""

from collections.abc import Sequence
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import DomainError, Invalid
from models.ledger import BudgetLimit, budgets
from models.ledger.budget_tables import PERIOD_NAMES
from models.orgs import members
from models.usage.member_activity import NO_ACTIVITY, member_activity
from models.usage.org_figures import forecast, month_used
from views.orgs.pages.invite_pages import listed_invites
from views.orgs.pages.joining import joining
from views.orgs.pages.org_usage_pages import forecast_text
from views.orgs.pages.orgs_blueprint import bp
from views.web import format
from views.web.guards import limiter
from views.web.htmx import page_balance, render, see_other, toast, wants_fragment
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import (
    current_membership,
    current_org,
    org_account,
    org_caller,
    org_page,
    own_calls_of,
    signed_in,
)

ROLES = {
    "owner": "Everything, and the only role that transfers or deletes the organisation",
    "admin": "Manages members, teams, keys, budgets, repositories and settings; does not buy",
    "member": "Makes calls that the organisation pays for",
    "billing": "Sees all usage and the bills, and buys credits",
    "viewer": "Reads what a member reads; makes no calls",
}
"""Each role that people have, in a sentence."""


@bp.get("/orgs/<slug>/team")
@org_page()
def team() -> ResponseReturnValue:
    """List the members, with what they spent of their tightest budget; search by name or address."""
    return _page()


def _page(*, status: int = 200, errors: dict[str, str] | None = None, **entered: str) -> ResponseReturnValue:
    org, moment = current_org(), now()
    since, funds = org.month_start(moment), page_balance(org_account())
    spent = month_used(org, moment)
    return render(
        "orgs/team.html",
        partial="orgs/_members.html",
        since=since,
        spent=spent,
        balance=funds,
        empty_at=forecast_text(forecast(org, funds.net_balance, moment), moment, spent),
        seats=members.count_people(org.id),
        errors=errors or {},
        entered=entered,
        status=status,
        **_members(),
        **listed_invites(),
        **joining(),
    )


def _members() -> dict[str, Any]:
    """The variables of `orgs/_members.html`."""
    org, me, moment = current_org(), current_membership(), now()
    search = request.args.get("q", "").strip()[:100].replace("\0", "")
    page = members.people_page(org, search, cursor("after"))
    seen = [user.id for _, user in page.people if sees_figures(user.id)]
    activity = member_activity(org, seen, moment)
    limits = budgets.member_limits(org_account(), seen, moment)
    return {
        "people": [
            (row, activity.get(row.user.id, NO_ACTIVITY), budgets.tightest(limits.get(row.user.id, [])))
            for row in page.people
        ],
        "budget_urls": {id: budget_url(id, limits.get(id, [])) for id in seen},
        "sees_figures": sees_figures,
        "month": format.month(org.month_start(moment)),
        "period_names": PERIOD_NAMES,
        "search": search,
        "more": page.after and url_for("orgs.team", q=search or None, after=cursor_text(*page.after)),
        "me": me,
        "role_options": role_options(),
        "descriptions": ROLES,
        "last_owner": me.role == "owner" and len(members.owners(org.id)) == 1,
    }


def sees_figures(user_id: str) -> bool:
    """Whether the viewer sees what this member spends: everybody's, or their own."""
    return own_calls_of() in ("", user_id)


def budget_url(user_id: str, limits: Sequence[BudgetLimit]) -> str:
    """The page of the member's own budget, or the form of a new one. `limits` are those in force for the member."""
    named = [limit for limit in limits if limit.named]
    own = budgets.tightest(named) or next(iter(named), None)
    if own:
        return url_for("budgets.budget", budget_id=own.budget_id)
    return url_for("budgets.new_budget", target=f"member:{user_id}")


def role_options() -> list[tuple[str, str]]:
    """The roles that the viewer may give: only owners make owners."""
    owner = current_membership().role == "owner"
    return [(role, role.capitalize()) for role in ROLES if role != "owner" or owner]


@bp.post("/orgs/<slug>/team")
@org_page("manage_members")
@limiter.limit("30/minute;500/day", key_func=org_caller)
def add_member() -> ResponseReturnValue:
    """Add somebody who has an account."""
    email, role = request.form.get("email", ""), request.form.get("role", "")
    try:
        user = members.add(current_org(), signed_in().id, email.replace("\0", ""), role)
    except DomainError as error:
        db.session.rollback()
        if error.status not in (400, 404, 409):
            raise
        words = "Nobody here has this address. Invite them instead." if error.status == 404 else error.message
        return _page(
            status=422, errors=getattr(error, "fields", None) or {"email": words}, email=email, role=role
        )
    db.session.commit()
    toast(f"{user.display_name} is a member now.")
    return see_other(url_for("orgs.team"))


@bp.post("/orgs/<slug>/team/<user_id>/role")
@org_page("manage_members")
@limiter.limit("120/minute", key_func=org_caller)
def change_role(user_id: str) -> ResponseReturnValue:
    """Change a member's role; htmx receives the list."""
    role = request.form.get("role", "")
    _, user = members.person(current_org(), user_id)
    try:
        members.change_role(current_org(), signed_in().id, user_id, role)
    except Invalid as error:
        raise Invalid(error.message) from None
    db.session.commit()
    toast(f"{user.display_name}: {role}.")
    if wants_fragment() and user_id != signed_in().id:
        return render("orgs/team.html", partial="orgs/_members.html", **_members())
    return see_other(url_for("orgs.team"))
