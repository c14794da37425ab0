"""The overview of an organisation."""

from typing import NamedTuple

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import now
from models.ledger import Balance, balance
from models.orgs import OrgMember, can, members
from models.orgs.alerts import alerts_for
from models.orgs.counts import OrgCounts, counts_of
from models.usage.member_activity import member_activity, spent_since
from views.orgs.pages.orgs_blueprint import bp
from views.web.htmx import render
from views.web.org_guards import current_membership, current_org, org_account, org_page


class OrgTask(NamedTuple):
    """What the viewer should do next: title, reason, and the link."""

    title: str
    text: str
    verb: str
    href: str


@bp.get("/orgs/<slug>")
@org_page()
def overview() -> ResponseReturnValue:
    """Show the organisation: the viewer's role, balance, what was spent this month, and what needs attention."""
    org, member, moment = current_org(), current_membership(), now()
    since = org.month_start(moment)
    counts, funds = counts_of([org.id])[org.id], balance(org_account())
    own = member_activity(org.id, [member.user_id], since, moment).get(member.user_id)
    all_usage = can(member, "see_all_usage")
    return render(
        "orgs/overview.html",
        membership=member,
        counts=counts,
        balance=funds,
        since=since,
        spent=spent_since(org.id, since) if all_usage else (own.credits if own else 0),
        all_usage=all_usage,
        alerts=alerts_for(member, now=moment),
        tasks=_tasks(member, counts, funds),
        owners=members.owners(org.id),
    )


def _tasks(member: OrgMember, counts: OrgCounts, funds: Balance) -> list[OrgTask]:
    tasks = []
    if funds.net_balance <= 0 and can(member, "buy"):
        text = "Calls that the organisation pays for are refused until it has credits."
        tasks.append(
            OrgTask(
                "No credits",
                text,
                "Buy credits",
                url_for("billing.organisation_billing", slug=current_org().slug),
            )
        )
    if counts.members == 1 and can(member, "manage_members"):
        tasks.append(
            OrgTask("You work alone", "Invite the people you work with.", "Members", url_for("orgs.team"))
        )
    if counts.repositories == 0 and can(member, "manage_repos"):
        text = "Members who call from a repository of the organisation need no key of it."
        tasks.append(OrgTask("No repositories", text, "Add one", url_for("orgs.repositories")))
    return tasks
