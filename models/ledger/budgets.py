"""Budgets of an account: create, change and end them, and read what is left. A hold checks them (`budget_admit`).

Changes take the account's lock, so no call is admitted or settled meanwhile. Those of an organisation are audited.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text

from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Conflict, Invalid, NotFound
from models.ledger.budget_tables import LEVELS, PERIODS, Budget
from models.ledger.credit_operations import MAX_GRANT, Account, lock_account
from models.orgs import Org, record_org

PERSONAL_LEVELS = ("account", "key", "agent", "run")
"""Levels of budgets of a person's own account."""
CREDIT_LIMIT = "credit-limit-"
"""Prefix of the id of the budget that is the organisation's `credit_limit`."""
MAX_BUDGETS = 100


@dataclass(frozen=True, slots=True)
class BudgetLimit:
    """A budget in force for a caller, with what is left of it. Amounts are credits."""

    budget_id: str
    level: str
    subject: str
    period: str
    hard: bool
    warn_percent: int
    count_byok: bool
    credits: int
    """The limit without raises."""
    raised: int
    spent: int
    held: int
    """By calls in flight."""
    free: int
    resets_at: datetime | None
    name: str = ""
    """Of the subject."""
    named: bool = False
    """The budget is of this subject alone; else each of the level has it."""
    raised_until: datetime | None = None
    """When the first raise in force ends."""

    @property
    def limit(self) -> int:
        """The limit with the raises in force."""
        return self.credits + self.raised

    @property
    def percent(self) -> int:
        """How much of the limit is spent or held."""
        return min(100 * (self.spent + self.held) // self.limit, 100) if self.limit else 100


def create_budget(
    account: Account,
    level: str,
    period: str,
    limit_credits: int,
    *,
    subject: str | None = None,
    warn_percent: int = 80,
    hard: bool = True,
    count_byok: bool = False,
    created_by: str | None = None,
    now: datetime | None = None,
) -> Budget:
    """Limit the account's calls. Counts what the current window has spent already. Raises Invalid, Conflict, NotFound."""
    now = now or utc_now()
    if level not in (LEVELS if account.org_id else PERSONAL_LEVELS):
        raise Invalid("Choose what the budget limits.", fields={"level": "Choose one of the list."})
    if period not in PERIODS:
        raise Invalid("Choose a period.", fields={"period": "Choose one of the list."})
    _check(limit_credits, warn_percent)
    subject = None if level == "account" else subject or None
    lock_account(account)
    live = budgets_of(account)
    if len(live) >= MAX_BUDGETS:
        raise Conflict(f"An account has at most {MAX_BUDGETS} budgets. End one first.")
    if any((each.level, each.subject, each.period) == (level, subject, period) for each in live):
        raise Conflict("There is a budget for that already. Change it instead.")
    if subject is not None and not _subject_exists(account, level, subject):
        raise Invalid("There is no such subject.", fields={"subject": "Choose one of this account."})
    budget = Budget(
        account_id=account.id,
        level=level,
        subject=subject,
        period=period,
        limit_credits=limit_credits,
        warn_percent=warn_percent,
        hard=hard,
        count_byok=count_byok,
        created_by=created_by,
        created_at=now,
    )
    db.session.add(budget)
    db.session.flush()
    _fill(budget, now)
    audit_budget(account, budget, "budget.created", after=_facts(budget))
    return budget


def change_budget(
    account: Account,
    budget_id: str,
    *,
    limit_credits: int,
    warn_percent: int,
    hard: bool,
    count_byok: bool,
    now: datetime | None = None,
) -> Budget:
    """Change a budget. The window goes on, with what was spent in it. Raises NotFound, Invalid."""
    _check(limit_credits, warn_percent)
    lock_account(account)
    budget = budget_of(account, budget_id)
    before = _facts(budget)
    recount = count_byok != budget.count_byok
    budget.limit_credits, budget.warn_percent = limit_credits, warn_percent
    budget.hard, budget.count_byok = hard, count_byok
    db.session.flush()
    if recount:
        _fill(budget, now or utc_now())
    if budget.id.startswith(CREDIT_LIMIT):
        db.session.get_one(Org, account.org_id).credit_limit = limit_credits
    if before != _facts(budget):
        audit_budget(account, budget, "budget.changed", before=before, after=_facts(budget))
    return budget


def end_budget(account: Account, budget_id: str, now: datetime | None = None) -> None:
    """End a budget: no call is refused by it any more. Raises NotFound."""
    lock_account(account)
    budget = budget_of(account, budget_id)
    budget.ended_at = now or utc_now()
    db.session.flush()
    if budget.id.startswith(CREDIT_LIMIT):
        db.session.get_one(Org, account.org_id).credit_limit = None
    audit_budget(account, budget, "budget.ended", before=_facts(budget))


def set_time_zone(account: Account, time_zone: str, now: datetime | None = None) -> None:
    """Set the clock of a personal account's budgets; an organisation's is `Org.time_zone`. Counts the current windows anew.
    Raises Invalid."""
    if time_zone not in time_zones():
        raise Invalid("Unknown time zone.", fields={"time_zone": "Choose one of the list."})
    lock_account(account)
    db.session.execute(
        text("UPDATE credit_account SET time_zone = :zone WHERE id = :id"),
        {"zone": time_zone, "id": account.id},
    )
    for budget in budgets_of(account):
        _fill(budget, now or utc_now())


def time_zone_of(account: Account) -> str:
    """The clock of the account's budgets, as an IANA name."""
    found = db.session.execute(
        text("SELECT time_zone FROM credit_account WHERE id = :id"), {"id": account.id}
    )
    return found.scalar_one_or_none() or "UTC"


def time_zones() -> list[str]:
    """The time zones that PostgreSQL knows, by name."""
    query = text("SELECT name FROM pg_timezone_names WHERE name ~ '^[A-Z][A-Za-z]+(/|$)' ORDER BY name")
    return list(db.session.scalars(query))


def budgets_of(account: Account) -> list[Budget]:
    """The account's budgets in force, widest level first."""
    level = func.array_position(text(f"ARRAY{list(LEVELS)}"), Budget.level)
    query = select(Budget).where(Budget.account_id == account.id, Budget.ended_at.is_(None))
    return list(db.session.scalars(query.order_by(level, Budget.created_at, Budget.id)))


def budget_of(account: Account, budget_id: str) -> Budget:
    """The account's budget in force with this id. Raises NotFound."""
    query = select(Budget).where(
        Budget.id == budget_id, Budget.account_id == account.id, Budget.ended_at.is_(None)
    )
    found = db.session.scalars(query).one_or_none()
    if found is None:
        raise NotFound("There is no such budget.")
    return found


def effective_limits(
    account: Account,
    *,
    user_id: str | None = None,
    key_id: str | None = None,
    team_id: str | None = None,
    agent_id: str | None = None,
    run_id: str | None = None,
    now: datetime | None = None,
) -> list[BudgetLimit]:
    """The budgets in force for calls of this person, key, team, agent and root run, widest level first; those of a level
    whose id is not given are left out."""
    callers = {"users": [user_id], "key": key_id, "team": team_id, "agent": agent_id, "run": run_id}
    return _limits(account, LEVELS, now, callers)


def member_limits(
    account: Account, user_ids: Sequence[str], now: datetime | None = None
) -> dict[str, list[BudgetLimit]]:
    """The budgets of the level member in force for each of these people, by user id. One statement."""
    callers = {"users": list(user_ids), "key": None, "team": None, "agent": None, "run": None}
    found: dict[str, list[BudgetLimit]] = {}
    for limit in _limits(account, ["member"], now, callers):
        found.setdefault(limit.subject, []).append(limit)
    return found


def tightest(limits: Sequence[BudgetLimit]) -> BudgetLimit | None:
    """Which of these limits of a month or less stops calls first: those that refuse before those that warn, then the least
    left."""
    each = [limit for limit in limits if limit.period != "total"]
    return min(each, key=lambda limit: (not limit.hard, limit.free), default=None)


_LIMITS = text(
    "SELECT l.*, budget_subject_name(:account, l.level, l.subject) AS name, b.subject IS NOT NULL AS named, ("
    " SELECT min(r.ends_at) FROM budget_raise r WHERE r.budget_id = b.id AND r.subject IN ('', l.subject)"
    " AND r.starts_at <= :now AND r.ends_at > :now AND (r.run_id IS NULL OR r.run_id = :run)) AS raised_until"
    " FROM unnest(CAST(:users AS text[])) u (id)"
    " CROSS JOIN LATERAL budget_limits(:account, u.id, :key, :team, :agent, :run, '', :now) l"
    " JOIN budget b ON b.id = l.budget_id WHERE l.level = ANY (:levels)"
    " ORDER BY array_position(:levels, l.level), l.resets_at NULLS LAST, b.created_at, b.id"
)


def _limits(
    account: Account, levels: Sequence[str], now: datetime | None, callers: dict[str, Any]
) -> list[BudgetLimit]:
    values = {"account": account.id, "levels": list(levels), "now": now or utc_now(), **callers}
    return [BudgetLimit(**row._mapping) for row in db.session.execute(_LIMITS, values)]


def key_usage(account: Account, key_id: str, now: datetime | None = None) -> int:
    """Credits charged for a key's calls since the start of the calendar month (UTC)."""
    found = db.session.execute(
        text(
            "SELECT coalesce(sum(m.credits), 0)::bigint FROM message m WHERE coalesce(m.org_id, m.user_id) = :account"
            " AND m.finished_at >= date_trunc('month', CAST(:now AS timestamptz), 'UTC') AT TIME ZONE 'UTC'"
            " AND m.key_id = :key AND NOT m.byok"
        ),
        {"account": account.id, "key": key_id, "now": now or utc_now()},
    )
    return int(found.scalar_one())


@dataclass(frozen=True, slots=True)
class SubjectSpending:
    """What one subject of a budget has spent in the current window. `resets_at` is when that ends."""

    subject: str | None
    name: str
    spent: int
    resets_at: datetime | None


def spending(account: Account, *, top: int, now: datetime | None = None) -> dict[str, list[SubjectSpending]]:
    """By id of each of the account's budgets, the subjects that spent most in the current window, at most `top`."""
    rows = db.session.execute(
        text(
            "SELECT b.id, u.subject, coalesce(u.spent, 0) AS spent, budget_resets(b.period, :now, a.time_zone) AS resets_at,"
            " budget_subject_name(b.account_id, b.level, coalesce(u.subject, b.subject, '')) AS name"
            " FROM budget b JOIN credit_account a ON a.id = b.account_id LEFT JOIN LATERAL ("
            " SELECT u.subject, u.spent FROM budget_spend u WHERE u.budget_id = b.id"
            " AND u.window_start = budget_window(b.period, :now, a.time_zone) ORDER BY u.spent DESC, u.subject LIMIT :top"
            ") u ON true WHERE b.account_id = :account AND b.ended_at IS NULL"
        ),
        {"account": account.id, "now": now or utc_now(), "top": top},
    )
    found: dict[str, list[SubjectSpending]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(SubjectSpending(row.subject, row.name, row.spent, row.resets_at))
    return found


def subjects_of(
    account: Account, level: str | None = None, subject: str | None = None
) -> list[tuple[str, str, str]]:
    """What budgets of the account may be about: level, id and name of its teams, members and keys; at most 500. Of those
    left out by that, this one is there."""
    rows = db.session.execute(
        text(
            "SELECT * FROM ("
            " SELECT 1, 'team' AS level, t.id, t.name FROM org_team t WHERE t.org_id = :account"
            " UNION ALL SELECT 2, 'member', m.user_id, budget_subject_name(:account, 'member', m.user_id) FROM org_member m"
            " WHERE m.org_id = :account"
            """ UNION ALL SELECT 3, 'key', s."sessionToken", coalesce(nullif(s.name, ''), s.token_hint) FROM session s"""
            """ WHERE coalesce(s.org_id, s."userId") = :account AND s.type = 'pat'"""
            ") x (n, level, id, name) ORDER BY (level, id) IS NOT DISTINCT FROM (:level, :subject) DESC, n, lower(name), id"
            " LIMIT 500"
        ),
        {"account": account.id, "level": level, "subject": subject},
    )
    return [(row.level, row.id, row.name) for row in rows]


_TEAM = text(
    "SELECT coalesce((SELECT a.team_id FROM service_account a WHERE a.user_id = :user), ("
    "SELECT t.team_id FROM org_team_member t WHERE t.org_id = :org AND t.user_id = :user"
    " ORDER BY t.joined_at, t.team_id LIMIT 1), (SELECT t.id FROM org_team t WHERE t.org_id = :org AND t.is_default))"
)


def team_of(org_id: str, user_id: str, key_team_id: str | None = None) -> str | None:
    """The team of a member's calls: their key's, else the one they joined first, else the default team (as `gateway_payer`)."""
    if key_team_id is not None:
        return key_team_id
    team: str | None = db.session.execute(_TEAM, {"org": org_id, "user": user_id}).scalar_one()
    return team


def _check(limit_credits: int, warn_percent: int) -> None:
    fields = {}
    if not 0 <= limit_credits <= MAX_GRANT:
        fields["limit_credits"] = "Enter a whole number of credits."
    if not 1 <= warn_percent <= 100:
        fields["warn_percent"] = "Enter a percentage from 1 to 100."
    if fields:
        raise Invalid("Check the budget.", fields=fields)


_SUBJECTS = {
    "team": "SELECT FROM org_team WHERE id = :subject AND org_id = :account",
    "member": "SELECT FROM org_member WHERE user_id = :subject AND org_id = :account",
    "key": 'SELECT FROM session WHERE "sessionToken" = :subject AND coalesce(org_id, "userId") = :account',
    "run": "SELECT FROM agent_run WHERE id = :subject AND coalesce(org_id, user_id) = :account",
    "agent": "SELECT WHERE length(:subject) <= 300 AND :account <> ''",
}


def _subject_exists(account: Account, level: str, subject: str) -> bool:
    found = db.session.execute(
        text(f"SELECT EXISTS ({_SUBJECTS[level]})"),
        {"subject": subject, "account": account.id},
    )
    return bool(found.scalar_one())


def _fill(budget: Budget, now: datetime) -> None:
    db.session.execute(text("SELECT budget_fill(:id, :now)"), {"id": budget.id, "now": now})
    db.session.refresh(budget)


def audit_budget(account: Account, budget: Budget, action: str, **states: dict[str, Any]) -> None:
    """Record a change of an organisation's budget. The audit log names it by its level and the name of what it limits."""
    if account.org_id:
        named = f"each {budget.level}" if budget.level != "account" else budget.level
        if budget.subject:
            named = f"{budget.level} {subject_name(budget, budget.subject)}"
        known: dict[str, Any] = {state: {**facts, "budget_id": budget.id} for state, facts in states.items()}
        record_org(account.org_id, action, named, **known)


def subject_name(budget: Budget, subject: str | None) -> str | None:
    """What people call this subject of the budget; None without one."""
    if not subject or budget.level == "account":
        return None
    query = select(func.budget_subject_name(budget.account_id, budget.level, subject))
    return db.session.scalar(query) or subject


def _facts(budget: Budget) -> dict[str, Any]:
    fields = ("period", "limit_credits", "warn_percent", "hard", "count_byok")
    known = {"level": budget.level, "subject": subject_name(budget, budget.subject)}
    return known | {name: getattr(budget, name) for name in fields}
