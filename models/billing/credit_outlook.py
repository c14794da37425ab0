"""Whether an account is running out of credits, why, when more arrive, and whom to ask."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Select, exists, func, literal, or_, select

from models.accounts.users import User
from models.billing.low_balance import LowBalance
from models.billing.referral_program.rewards import Referral
from models.billing.statements.spending_pace import SpendingPace, spending_pace
from models.billing.statements.statement import StatementTotals, statement_totals
from models.billing.subscription_plans.plans import Plan
from models.billing.subscription_plans.subscriptions import Subscription
from models.billing.subscription_plans.windows import Window, covering_subscription, limited, windows_of
from models.billing.topups.auto_topup import AutoTopup, TopupSettings, settings_of, state_of
from models.core.db import db, extension
from models.ledger import Account, Balance, CreditLedger, QuotaCycle, balance, cycle
from models.orgs import Org, OrgMember
from models.orgs.alert_settings import THRESHOLDS, OrgAlertSettings

Level = Literal["low", "empty"]
Reason = Literal["never", "debt", "held", "spent", "expired", "taken_back"]
PEOPLE = 8
ORG_DEFAULT = THRESHOLDS["low_balance"][1]


@dataclass(frozen=True, slots=True)
class CreditOutlook:
    """What an account has, what became of the rest, and what comes. `next_free` are the credits of the next cycle of a person;
    `window` is the used-up window of `plan`. `askable` are the people of an organisation who buy or decide, with their roles."""

    balance: Balance
    totals: StatementTotals
    reason: Reason | None
    pace: SpendingPace
    cycle: QuotaCycle
    next_free: int
    plan: tuple[Subscription, Plan] | None
    window: Window | None
    topup: TopupSettings
    topup_pause: str | None
    askable: Sequence[tuple[User, str]]


def low_credits() -> int:
    """Credits from which no account is warned."""
    most: int = max(ORG_DEFAULT, extension("settings").stoa_low_balance, 1)
    return most


def credit_warning(account: Account, available: int, now: datetime) -> Level | None:
    """Whether to warn of few credits: none, or fewer than the threshold of the account's alerts and the server's default.

    No warning while a plan pays for calls, or, of low ones, while automatic top-up adds credits. Reads nothing for an account
    that has many, else one row.
    """
    default = ORG_DEFAULT if account.org_id else extension("settings").stoa_low_balance
    if available >= max(default, 1):
        return None
    threshold, covered, topped_up = db.session.execute(_facts(account, now)).one()
    if covered and not limited(windows_of(account, now=now)):
        return None
    if available <= 0:
        return "empty"
    own = default if threshold is None else min(threshold, default)
    return None if topped_up or available >= own else "low"


def _facts(account: Account, now: datetime) -> Select[int | None, bool, bool]:
    paused = exists().where(AutoTopup.id == account.id, AutoTopup.pause.is_not(None))
    if account.org_id:
        threshold = select(OrgAlertSettings.low_balance).where(OrgAlertSettings.org_id == account.org_id)
        owner = Org.auto_topup_enabled
        query = select(threshold.scalar_subquery(), literal(False), func.coalesce(owner, False) & ~paused)
        return query.where(Org.id == account.org_id)
    own = select(LowBalance.threshold).where(LowBalance.account_id == account.id)
    covered = exists(
        select(literal(1)).select_from(func.plan_subscription(account.user_id, now).alias("covering"))
    )
    query = select(own.scalar_subquery(), covered, func.coalesce(User.auto_topup_enabled, False) & ~paused)
    return query.where(User.id == account.user_id)


def credit_outlook(account: Account, now: datetime) -> CreditOutlook:
    """All of it, for the account's page."""
    current, totals = balance(account, now=now), statement_totals(account.id)
    plan = None if account.org_id else covering_subscription(account, now=now)
    state = state_of(account)
    return CreditOutlook(
        current,
        totals,
        _reason(current, totals),
        spending_pace(account, now),
        cycle(account, now=now),
        0 if account.org_id else _next_free(account),
        plan,
        limited(windows_of(account, now=now)) if plan else None,
        settings_of(account),
        state.pause if state else None,
        _askable(account.org_id) if account.org_id else (),
    )


def _reason(current: Balance, totals: StatementTotals) -> Reason | None:
    if current.available > 0:
        return None
    if current.net_balance < 0:
        return "debt"
    if current.net_balance > 0:
        return "held"
    if not totals.bought + totals.granted:
        return "never"
    gone: dict[Reason, int] = {
        "spent": totals.calls + totals.charges,
        "expired": totals.expired,
        "taken_back": totals.taken_back,
    }
    return max(gone, key=lambda each: gone[each])


def _next_free(account: Account) -> int:
    """The monthly credits of the next cycle: as many free ones as in the last, at most 2,000, and the referral bonus (`credit_quota`)."""
    last = db.session.scalar(
        select(CreditLedger.principal)
        .where(CreditLedger.user_id == account.user_id, CreditLedger.type == "free")
        .order_by(CreditLedger.created_at.desc())
        .limit(1)
    )
    referred = select(func.coalesce(func.sum(Referral.credits), 0)).where(
        or_(Referral.referrer_id == account.user_id, Referral.referred_id == account.user_id)
    )
    free: int = extension("settings").stoa_free_credits if last is None else last
    return min(free, 2000) + (db.session.scalar(referred) or 0)


def _askable(org_id: str) -> Sequence[tuple[User, str]]:
    rows = db.session.execute(
        select(User, OrgMember.role)
        .join(OrgMember, OrgMember.user_id == User.id)
        .where(OrgMember.org_id == org_id, OrgMember.role.in_(("owner", "billing", "admin")))
        .order_by(OrgMember.role != "owner", OrgMember.role != "billing", User.name)
        .limit(PEOPLE)
    )
    return [(user, role) for user, role in rows]
