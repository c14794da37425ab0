"""The overview of an organisation: its money, budgets, people, what used most, and what needs attention."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import now
from models.ledger import Balance, Budget, BudgetLimit, budgets
from models.ledger.budget_tables import PERIOD_NAMES
from models.ledger.budgets import SubjectSpending
from models.orgs import OrgMember, can, members
from models.orgs.alerts import alerts_for
from models.orgs.counts import OrgCounts, counts_of
from models.usage.org_figures import KeyTotal, forecast, health, month_of, month_used, totals_by
from models.usage.org_labels import labels_of
from views.orgs.pages.org_usage_pages import forecast_text
from views.orgs.pages.orgs_blueprint import bp
from views.usage.pages.call_filters import calls_address
from views.web.htmx import page_balance, render
from views.web.org_guards import current_membership, current_org, org_account, org_page, own_calls_of

SET_UP_FOR = timedelta(days=30)
"""How long an organisation that has made calls still shows what is left to set up."""
TOP = 5


class SetUpStep(NamedTuple):
    """A step of setting up an organisation: what to do and why, the link, and whether it is done."""

    title: str
    text: str
    verb: str
    href: str
    done: bool


class TopUsers(NamedTuple):
    """What used most this month by one dimension: its title, the totals, their names and calls, and the page of all."""

    title: str
    by: str
    totals: list[KeyTotal]
    names: dict[str, str]
    hrefs: dict[str, str]
    href: str


@bp.get("/orgs/<slug>")
@org_page()
def overview() -> ResponseReturnValue:
    """Show the organisation at a glance: balance and forecast, this month against budgets, people, what used most, alerts, and
    how to set it up. Members without `see_all_usage` see their own figures."""
    org, member, moment = current_org(), current_membership(), now()
    counts, funds = counts_of([org.id])[org.id], page_balance(org_account())
    since, own = org.month_start(moment), own_calls_of()
    spent = month_used(org, moment)
    expected = forecast(org, funds.net_balance, moment)
    limits = _limits(member) if own else []
    closest = [] if own else _closest_budgets()
    return render(
        "orgs/overview.html",
        membership=member,
        counts=counts,
        balance=funds,
        empty_at=forecast_text(expected, moment, spent),
        since=since,
        spent=month_used(org, moment, user_id=own) if own else spent,
        own=own,
        health=health(org, moment - timedelta(days=1), user_id=own),
        limits=limits,
        closest=closest,
        period_names=PERIOD_NAMES,
        top=[_top(by, title, moment, own) for by, title in _tops(own).items()],
        alerts=alerts_for(member, now=moment),
        steps=_steps(member, counts, funds, bool(closest), spent, moment),
        owners=members.owners(org.id),
    )


def _limits(member: OrgMember) -> list[BudgetLimit]:
    """The budgets that limit the viewer's calls; the one that stops calls first is first."""
    account = org_account()
    team = budgets.team_of(current_org().id, member.user_id)
    limits = budgets.effective_limits(account, user_id=member.user_id, team_id=team)
    return sorted(limits, key=lambda limit: limit.free / limit.limit if limit.limit else 0)[:TOP]


def _closest_budgets() -> list[tuple[Budget, SubjectSpending]]:
    """The budgets that are closest to their limits, each with who or what spent most of it."""
    account = org_account()
    spending = budgets.spending(account, top=1)
    rows = [(budget, spending[budget.id][0]) for budget in budgets.budgets_of(account)]
    return sorted(rows, key=lambda row: -row[1].spent / max(row[0].limit_credits, 1))[:TOP]


def _tops(own: str) -> dict[str, str]:
    return {"agent": "Agents", "model": "Models"} if own else {"key": "Keys", "agent": "Agents"}


def _top(by: str, title: str, moment: datetime, own: str) -> TopUsers:
    org = current_org()
    totals = totals_by(org, by, *month_of(org, moment), limit=TOP, user_id=own)
    totals = [total for total in totals if total.credits]
    names = labels_of(org, by, [total.key for total in totals])
    hrefs = {total.key: calls_address({by: total.key}) for total in totals}
    return TopUsers(title, by, totals, names, hrefs, url_for("orgs.usage", by=by))


def _steps(
    member: OrgMember, counts: OrgCounts, funds: Balance, limited: bool, spent: int, moment: datetime
) -> list[SetUpStep]:
    """What is left to set up; empty for those who do not manage members, once all is done, and once calls are old."""
    org = current_org()
    if not can(member, "manage_members") or (spent and moment - org.created_at > SET_UP_FOR):
        return []
    billing: dict[str, Any] = {"slug": org.slug}
    rows = [
        ("Add credits", "Calls that the organisation pays for need them.", "Billing", url_for("billing.organisation_billing", **billing), funds.net_balance > 0),
        ("Invite the people you work with", "By e-mail, as a list, or by the domain of their address.", "Invite", url_for("orgs.new_invites"), counts.members + counts.invites > 1),
        ("Connect a repository or a key", "Calls from a repository, or with a key of the organisation, are paid by it.", "Repositories", url_for("orgs.repositories"), counts.repositories + counts.keys > 0),
        ("Set a budget", "It stops calls before they start, for the account, each member, a key or an agent.", "New budget", url_for("budgets.new_budget"), limited),
        ("Make the first call", "It shows up in the usage at once.", "Keys", url_for("orgs.keys"), spent > 0),
    ]  # fmt: skip
    steps = [SetUpStep(*row) for row in rows]
    return steps if not all(step.done for step in steps) else []
