"""Requests for more of a budget, with evidence; raises that end by themselves; and budgets tried on past calls."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert

from models.accounts.users import User
from models.billing import mails
from models.core.db import db, extension
from models.core.db import now as utc_now
from models.core.errors import Conflict, Invalid, NotFound
from models.ledger import Account, Budget, BudgetLimit, BudgetRaise, BudgetRequest, budgets, lock_account
from models.ledger.credit_operations import MAX_GRANT
from models.orgs import Org, OrgMember, can, membership
from models.runs import AgentRun

MAX_REASON = 1000
MAX_RAISE = timedelta(days=366)
TRIAL_DAYS = 30


@dataclass(frozen=True, slots=True)
class Trial:
    """What a budget would have refused of the calls since `since`. `by` are subjects with calls and credits refused, most
    first; `calls` are the first refused ones."""

    since: datetime
    calls: int
    refused: int
    credits: int
    by: Sequence[tuple[str, int, int]]
    first: Sequence[Any]


def account_of_budget(user_id: str, budget_id: str) -> tuple[Account, Budget]:
    """The budget in force with this id, and its account, for its owner or a member of the organisation. Raises NotFound."""
    found = db.session.get(Budget, budget_id)
    if found is not None and found.ended_at is None:
        if found.account_id == user_id:
            return Account(user_id=user_id), found
        if membership(user_id, found.account_id) is not None:
            return Account(org_id=found.account_id), found
    raise NotFound("There is no such budget.")


def limit_for(
    account: Account,
    budget: Budget,
    user_id: str,
    *,
    subject: str | None = None,
    key_id: str | None = None,
    key_team_id: str | None = None,
) -> BudgetLimit | None:
    """What the budget leaves a user: of their team (with a key, the key's), of themselves, or of `subject` (a key of theirs, an
    agent, a run). None if it does not apply to them."""
    level, named = budget.level, subject or budget.subject
    limits = budgets.effective_limits(
        account,
        user_id=user_id,
        team_id=budgets.team_of(account.org_id, user_id, key_team_id) if account.org_id else None,
        key_id=key_id or (named if level == "key" and _owns_key(account, user_id, named) else None),
        agent_id=named if level == "agent" else None,
        run_id=_root_run(account, user_id, named) if level == "run" else None,
    )
    return next((each for each in limits if each.budget_id == budget.id), None)


def request_more(
    account: Account,
    budget_id: str,
    user: User,
    amount: int,
    *,
    reason: str = "",
    subject: str | None = None,
    key_id: str | None = None,
    key_team_id: str | None = None,
    run_id: str | None = None,
    now: datetime | None = None,
) -> BudgetRequest:
    """Ask the owners and admins of an organisation for `amount` more credits of a budget that limits this member, with the
    evidence beside it; mails them. A second request, also one made at the same moment, replaces the amount and reason of one
    that is still open. Locks that one. `run_id`: a run of theirs, which stands for its root run.

    Raises NotFound, Invalid, and Conflict for one's own account: its owner raises it.
    """
    now = now or utc_now()
    budget = budgets.budget_of(account, budget_id)
    if account.org_id is None:
        raise Conflict("This is a budget of your own account: raise it yourself.")
    _check_amount(amount)
    limit = limit_for(account, budget, user.id, subject=subject, key_id=key_id, key_team_id=key_team_id)
    if limit is None:
        raise Invalid(
            "This budget does not limit your calls.", fields={"subject": "Name a key, agent or run of yours."}
        )
    root_run = _root_run(account, user.id, run_id)
    if run_id and root_run is None:
        raise Invalid(
            "There is no such run.", fields={"run_id": "Name a run of yours that this account pays for."}
        )
    request = _upsert_request(
        BudgetRequest(
            budget_id=budget.id,
            subject=limit.subject,
            user_id=user.id,
            amount=amount,
            reason=reason.strip()[:MAX_REASON],
            run_id=root_run,
            evidence=_evidence(account, budget, limit, now),
            created_at=now,
        )
    )
    facts = {"amount": amount, "level": limit.level, "name": limit.name, "reason": request.reason}
    budgets.audit_budget(account, budget, "budget.requested", after=facts)
    _mail_approvers(account.org_id, budget, request, user, limit)
    return request


def open_requests(account: Account, user_id: str | None = None) -> list[tuple[BudgetRequest, Budget, User]]:
    """Requests (of one user) that wait for a decision, oldest first, with the budget and who asks; at most 100."""
    query = (
        select(BudgetRequest, Budget, User)
        .join(Budget, Budget.id == BudgetRequest.budget_id)
        .join(User, User.id == BudgetRequest.user_id)
        .where(Budget.account_id == account.id, Budget.ended_at.is_(None), BudgetRequest.state == "open")
    )
    if user_id is not None:
        query = query.where(BudgetRequest.user_id == user_id)
    query = query.order_by(BudgetRequest.created_at, BudgetRequest.id).limit(100)
    return [(request, budget, user) for request, budget, user in db.session.execute(query)]


def decide_request(
    account: Account,
    request_id: str,
    decider: User,
    *,
    amount: int | None,
    ends_at: datetime | None = None,
    this_run_only: bool = False,
    answer: str = "",
    now: datetime | None = None,
) -> BudgetRequest:
    """Approve `amount` credits until `ends_at` (default: the end of the budget's window), for the request's run only or for
    all calls; None declines. Mails who asked. Raises NotFound, Conflict when it was decided, Invalid."""
    now = now or utc_now()
    lock_account(account)
    query = (
        select(BudgetRequest, Budget)
        .join(Budget, Budget.id == BudgetRequest.budget_id)
        .where(BudgetRequest.id == request_id, Budget.account_id == account.id)
    )
    row = db.session.execute(query).one_or_none()
    if row is None:
        raise NotFound("There is no such request.")
    request, budget = row[0], row[1]
    if request.state != "open":
        raise Conflict(f"This request is {request.state} already.")
    if amount is not None:
        run_id = request.run_id if this_run_only else None
        if this_run_only and run_id is None:
            raise Invalid("The request names no run.", fields={"scope": "The request names no run."})
        made = raise_budget(
            account,
            budget.id,
            amount,
            subject=request.subject,
            ends_at=ends_at,
            run_id=run_id,
            by=decider,
            now=now,
        )
        made.request_id, ends_at = request.id, made.ends_at
    request.state = "declined" if amount is None else "approved"
    request.decided_by, request.decided_at, request.answer = decider.id, now, answer.strip()[:MAX_REASON]
    db.session.flush()
    budgets.audit_budget(
        account,
        budget,
        f"budget_request.{request.state}",
        after={"name": request.evidence["name"], "amount": amount},
    )
    _mail_decision(account, budget, request, decider, amount, ends_at)
    return request


def raise_budget(
    account: Account,
    budget_id: str,
    amount: int,
    *,
    subject: str = "",
    ends_at: datetime | None = None,
    run_id: str | None = None,
    by: User,
    now: datetime | None = None,
) -> BudgetRaise:
    """Add `amount` credits to a budget's limit until `ends_at` (default: the end of its window, in total 30 days), for all
    subjects or one, and if given for one run only. Locks the account. Raises NotFound, Invalid."""
    now = now or utc_now()
    _check_amount(amount)
    lock_account(account)
    budget = budgets.budget_of(account, budget_id)
    if ends_at is None:
        ends_at = _window_end(budget, now) or now + timedelta(days=30)
    if not now < ends_at <= now + MAX_RAISE:
        raise Invalid("Choose an end.", fields={"ends_at": "Choose a time in the future, within a year."})
    made = BudgetRaise(
        budget_id=budget.id,
        subject=subject,
        amount=amount,
        run_id=run_id,
        starts_at=now,
        ends_at=ends_at,
        created_by=by.id,
    )
    db.session.add(made)
    budget.raised_until = max(budget.raised_until or ends_at, ends_at)
    db.session.flush()
    named = budgets.subject_name(budget, subject)
    facts = {"amount": amount, "subject": named, "ends_at": ends_at.isoformat(), "run_id": run_id}
    budgets.audit_budget(account, budget, "budget.raised", after=facts)
    return made


def live_raises(budget: Budget, now: datetime | None = None) -> list[BudgetRaise]:
    """The budget's raises that have not ended, the next to end first."""
    query = select(BudgetRaise).where(
        BudgetRaise.budget_id == budget.id, BudgetRaise.ends_at > (now or utc_now())
    )
    return list(db.session.scalars(query.order_by(BudgetRaise.ends_at)))


def try_budget(
    account: Account,
    level: str,
    period: str,
    limit_credits: int,
    *,
    subject: str | None = None,
    count_byok: bool = False,
    now: datetime | None = None,
) -> Trial:
    """Which calls of the last 30 days a budget would have refused, whose, and when."""
    since = (now or utc_now()) - timedelta(days=TRIAL_DAYS)
    proposed = {
        "account_id": account.id,
        "level": level,
        "subject": subject,
        "period": period,
        "limit_credits": limit_credits,
        "count_byok": count_byok,
        # a budget in total is tried from the first of these days on
        "created_at": since.isoformat(),
    }
    row = db.session.execute(
        text(
            "SELECT * FROM budget_trial(jsonb_populate_record(NULL::budget, CAST(:budget AS jsonb)), :since)"
        ),
        {"budget": json.dumps(proposed), "since": since},
    ).one()
    by = [(each["name"], each["calls"], each["credits"]) for each in row.by_subject]
    first = [each | {"finished_at": datetime.fromisoformat(each["finished_at"])} for each in row.first_calls]
    return Trial(since, row.calls, row.refused, row.credits, by, first)


def _evidence(account: Account, budget: Budget, limit: BudgetLimit, now: datetime) -> dict[str, Any]:
    """The budget's state, what it would need at this pace, the runs that used most of it, and since when it refuses calls."""
    row = db.session.execute(
        text(
            "SELECT budget_window(:period, :now, a.time_zone) AS start, budget_resets(:period, :now, a.time_zone) AS resets"
            " FROM credit_account a WHERE a.id = :account"
        ),
        {"period": budget.period, "now": now, "account": account.id},
    ).one()
    start = max(row.start, budget.created_at) if budget.period == "total" else row.start
    runs = db.session.execute(
        text("SELECT r.* FROM budget b, budget_runs(b, :subject, :start) r WHERE b.id = :id"),
        {"id": budget.id, "subject": limit.subject, "start": start},
    )
    stopped = db.session.execute(
        text(
            "SELECT stopped_at FROM budget_spend WHERE budget_id = :id AND subject = :subject AND window_start = :start"
        ),
        {"id": budget.id, "subject": limit.subject, "start": row.start},
    ).scalar_one_or_none()
    elapsed, whole = now - start, row.resets and row.resets - start
    forecast = round(limit.spent * (whole / elapsed)) if whole and elapsed > timedelta(minutes=5) else None
    return {
        "name": limit.name,
        "limit": limit.limit,
        "spent": limit.spent,
        "held": limit.held,
        "free": max(limit.free, 0),
        "resets_at": row.resets and row.resets.isoformat(),
        "forecast": forecast,
        "stopped_at": stopped and stopped.isoformat(),
        "runs": [dict(each._mapping) for each in runs],
    }


def _upsert_request(request: BudgetRequest) -> BudgetRequest:
    """Insert the request, or replace the open one of the same person and subject."""
    replaced = ("amount", "reason", "run_id", "evidence")
    columns = ("budget_id", "subject", "user_id", "created_at", *replaced)
    statement = insert(BudgetRequest).values({name: getattr(request, name) for name in columns})
    statement = statement.on_conflict_do_update(
        index_elements=["budget_id", "subject", "user_id"],
        index_where=BudgetRequest.state == text("'open'::text"),
        set_={name: statement.excluded[name] for name in replaced},
    )
    fresh = {"populate_existing": True}
    return db.session.scalars(statement.returning(BudgetRequest), execution_options=fresh).one()


def _window_end(budget: Budget, now: datetime) -> datetime | None:
    query = text(
        "SELECT budget_resets(:period, :now, a.time_zone) FROM credit_account a WHERE a.id = :account"
    )
    values = {"period": budget.period, "now": now, "account": budget.account_id}
    found: datetime | None = db.session.execute(query, values).scalar_one()
    return found


def _check_amount(amount: int) -> None:
    if not 0 < amount <= MAX_GRANT:
        raise Invalid("Enter an amount.", fields={"amount": "Enter a whole number of credits."})


def _owns_key(account: Account, user_id: str, key_id: str | None) -> bool:
    query = text(
        'SELECT EXISTS (SELECT FROM session WHERE "sessionToken" = :key AND "userId" = :user'
        ' AND coalesce(org_id, "userId") = :account)'
    )
    values = {"key": key_id, "user": user_id, "account": account.id}
    return key_id is not None and bool(db.session.execute(query, values).scalar_one())


def _root_run(account: Account, user_id: str, run_id: str | None) -> str | None:
    """The root of a run that the account pays for and the user may see: theirs, or any if their role sees all."""
    query = select(AgentRun.root_run_id).where(AgentRun.id == run_id, AgentRun.account_id == account.id)
    member = membership(user_id, account.org_id) if account.org_id else None
    if member is not None and not can(member, "see_all_usage"):
        query = query.where(AgentRun.user_id == user_id)
    return db.session.scalar(query) if run_id else None


def _mail_approvers(
    org_id: str, budget: Budget, request: BudgetRequest, asker: User, limit: BudgetLimit
) -> None:
    org = db.session.get_one(Org, org_id)
    members = db.session.scalars(select(OrgMember).where(OrgMember.org_id == org_id))
    facts = _mail_facts(org, budget, request) | {
        "asker": asker.display_name,
        "limit": f"{limit.limit:,}",
        "spent": f"{limit.spent:,}",
        "budget_name": limit.name,
    }
    for member in members:
        if can(member, "manage_budgets") and member.user_id != asker.id:
            id = f"budget-request-{request.id}-{request.amount}-{member.user_id}"
            mails.enqueue("budget_requested", id, member.user_id, facts)


def _mail_decision(
    account: Account,
    budget: Budget,
    request: BudgetRequest,
    decider: User,
    amount: int | None,
    ends_at: datetime | None,
) -> None:
    if account.org_id is None:
        return
    org = db.session.get_one(Org, account.org_id)
    facts = _mail_facts(org, budget, request) | {
        "approved": amount is not None,
        "granted": amount and f"{amount:,} credits",
        "until": ends_at and f"{ends_at:%d %B %Y, %H:%M} UTC",
        "decider": decider.display_name,
        "answer": request.answer,
    }
    mails.enqueue("budget_decided", f"budget-decision-{request.id}", request.user_id, facts)


def _mail_facts(org: Org, budget: Budget, request: BudgetRequest) -> dict[str, Any]:
    return {
        "organisation": org.name,
        "amount": f"{request.amount:,} credits",
        "reason": request.reason,
        "level": budget.level,
        "budget_url": f"{extension('settings').base_url}/orgs/{org.slug}/budgets/{budget.id}",
    }
