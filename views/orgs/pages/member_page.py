"""A member of an organisation: role, teams, usage of this month, limits with their source, open requests for more."""

from typing import Any

from flask import url_for
from flask.typing import ResponseReturnValue

from models.billing import budget_requests
from models.core.db import now
from models.core.errors import NotFound
from models.ledger import budgets
from models.ledger.budget_tables import PERIOD_NAMES
from models.orgs import OrgTeam, can, members, org_keys
from models.orgs.team_editing import teams_of
from models.orgs.teams import org_teams
from models.usage.org_figures import month_of, totals_by
from views.orgs.pages.orgs_blueprint import bp
from views.orgs.pages.team import budget_url, role_options, sees_figures
from views.web.htmx import render
from views.web.org_guards import current_membership, current_org, org_account, org_page, own_calls_of


@bp.get("/orgs/<slug>/team/<user_id>")
@org_page()
def member(user_id: str) -> ResponseReturnValue:
    """Show a member: to themselves, and to those who see everybody's usage or manage members. Others: NotFound."""
    org, viewer = current_org(), current_membership()
    if not (sees_figures(user_id) or can(viewer, "manage_members")):
        raise NotFound("Member not found")
    membership, user = members.person(org, user_id)
    alone = membership.role == "owner" and len(members.owners(org.id)) == 1
    itself = user_id == viewer.user_id
    return render(
        "orgs/member.html",
        user=user,
        membership=membership,
        itself=itself,
        last_owner=alone,
        role_options=role_options(),
        manageable=can(viewer, "manage_members")
        and (membership.role != "owner" or viewer.role == "owner")
        and not alone,
        teams=_teams(user_id),
        keys=org_keys.keys_of(org.id, user_id),
        opens_keys=itself or can(viewer, "manage_keys"),
        usage_url=_usage_url(user_id),
        **_spending(user_id),
    )


def _teams(user_id: str) -> list[OrgTeam]:
    """Whoever has joined no team is in the default one."""
    org = current_org()
    return list(teams_of(org.id, user_id) or [team for team in org_teams(org.id) if team.is_default])


def _usage_url(user_id: str) -> str:
    return url_for("orgs.usage", member=None if own_calls_of() else user_id)


def _spending(user_id: str) -> dict[str, Any]:
    """What the member spent this month, what limits their calls, and what they ask for."""
    org, account, moment = current_org(), org_account(), now()
    start, end = month_of(org, moment)
    totals = totals_by(org, "model", start, end, limit=None, user_id=user_id)
    team = budgets.team_of(org.id, user_id)
    limits = budgets.effective_limits(account, user_id=user_id, team_id=team, now=moment)
    return {
        "calls": sum(total.calls for total in totals),
        "spent": sum(total.credits for total in totals),
        "since": start,
        "limits": limits,
        "tightest": budgets.tightest([limit for limit in limits if limit.level == "member"]),
        "budget_url": budget_url(user_id, [limit for limit in limits if limit.level == "member"]),
        "period_names": PERIOD_NAMES,
        "requests": budget_requests.open_requests(account, user_id),
    }
