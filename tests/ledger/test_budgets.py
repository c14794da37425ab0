"""Budgets: every level, every window, refusals, raises, and races."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models import ledger
from models.accounts import User
from models.core.errors import Conflict, DomainError, Invalid, NotFound
from models.core.pool import Pool
from models.ledger import Account, Budget, BudgetRaise, BudgetRefusal, BudgetSpend, budgets
from models.ledger.budget_pruning import prune_spending
from models.orgs import Org, OrgTeam, OrgTeamMember, edit_org
from tests import factories
from tests.ledger.stage import HOUR, NOW, Payer, admit, assert_proved, call, give, key_of, payer

DAY = 24 * HOUR


@dataclass(frozen=True)
class Stage:
    """An organisation's account with two callers, or a person's with two keys; and a run of the first."""

    account: Account
    callers: tuple[Payer, Payer]
    team: str | None
    run_id: str
    org: Org | None


@pytest.fixture(params=["person", "organisation"])
def stage(request: pytest.FixtureRequest, session: Session) -> Stage:
    return make_stage(session, organisation=request.param == "organisation")


def make_stage(session: Session, *, organisation: bool) -> Stage:
    alice, bob = payer(session), payer(session, "bob")
    owner, other = session.get_one(User, alice.id), session.get_one(User, bob.id)
    if not organisation:
        run = factories.run(owner, "acme/reviewer@1.0.0")
        give(session, alice.account, 100_000)
        second = Payer(alice.id, key_of(session, owner), alice.account)
        return Stage(alice.account, (alice, second), None, run.id, None)
    org = factories.org(owner, members=(other,))
    account = Account(org_id=org.id)
    team = factories.save(OrgTeam(org_id=org.id, name="Web"))
    factories.save(OrgTeamMember(team_id=team.id, org_id=org.id, user_id=owner.id))
    give(session, account, 100_000)
    first, second = (Payer(each.id, key_of(session, each, org.id), account) for each in (owner, other))
    run = factories.run(owner, "acme/reviewer@1.0.0", org_id=org.id)
    return Stage(account, (first, second), team.id, run.id, org)


def budget(
    session: Session, stage: Stage, level: str, period: str = "day", limit: int = 100, **kw: Any
) -> Budget:
    kw.setdefault("now", NOW)
    made = budgets.create_budget(stage.account, level, period, limit, **kw)
    session.commit()
    return made


def levels(stage: Stage) -> list[str]:
    return [level for level in ledger.LEVELS if stage.org or level not in ("team", "member")]


def spent(session: Session, of: Budget) -> dict[tuple[str, datetime], int]:
    session.rollback()
    rows = session.execute(
        text("SELECT subject, window_start, spent FROM budget_spend WHERE budget_id = :id"), {"id": of.id}
    )
    return {(subject, start): amount for subject, start, amount in rows if amount}


def test_each_level_counts_its_own_calls_and_refuses_the_one_too_many(
    session: Session, pool: Pool, stage: Stage
) -> None:
    first, second = stage.callers
    for number, level in enumerate(levels(stage)):
        at = NOW + 2 * number * DAY
        made = budget(session, stage, level, limit=20, now=at)
        mine: dict[str, Any] = {"run_id": stage.run_id, "now": at}
        one = admit(pool, first, 12, **mine)
        assert one.outcome == "admitted"
        # the other caller shares only the account's budget
        theirs = admit(pool, second, 12, now=at)
        assert theirs.outcome == ("budget_held" if level == "account" else "admitted"), level
        held = admit(pool, first, 12, **mine)
        assert (held.outcome, held.budget and held.budget.level) == ("budget_held", level)
        ledger.settle(pool, one, call(10), now=at)
        refused = admit(pool, first, 12, **mine)
        found = refused.budget
        assert found is not None
        assert (refused.outcome, found.level, found.free, found.needed) == ("budget", level, 10, 12)
        assert (found.credits, found.spent) == (20, 10)
        assert found.resets == (at + DAY).replace(hour=0, minute=0)
        fits = admit(pool, first, 10, **mine)
        for each in (theirs, fits):
            if each.outcome == "admitted":
                ledger.settle(pool, each, call(1), now=at)
        assert fits.outcome == "admitted"
        assert_proved(session)
        # the next window is empty
        mine["now"] += DAY
        assert admit(pool, first, 20, **mine).outcome == "admitted"
        budgets.end_budget(stage.account, made.id)
        session.execute(text("DELETE FROM credit_hold"))
        session.commit()
        assert admit(pool, first, 50, **mine).outcome == "admitted"
        session.execute(text("DELETE FROM credit_hold"))
        session.commit()


def test_levels_and_windows_apply_together_and_the_chain_tells_all(session: Session, pool: Pool) -> None:
    stage = make_stage(session, organisation=True)
    first, _ = stage.callers
    for level, period, limit in (
        ("account", "month", 90),
        ("team", "week", 80),
        ("member", "day", 30),
        ("key", "hour", 50),
    ):
        budget(session, stage, level, period, limit)
    budget(session, stage, "agent", "total", 70, subject="acme/reviewer")
    refused = admit(pool, first, 60, run_id=stage.run_id)
    assert refused.outcome == "budget"
    found = refused.budget
    assert found is not None
    # the narrowest two refuse; the day resets after the hour
    assert [(each["level"], each["free"]) for each in found.chain][:2] == [("member", 30), ("key", 50)]
    assert {each["level"] for each in found.chain} == {"account", "team", "member", "key", "agent"}
    assert (found.name, found.approvers) == ("alice", ["alice"])
    assert [each["name"] for each in found.chain if each["level"] == "team"] == ["Web"]


def test_a_soft_budget_warns_and_refuses_nothing(session: Session, pool: Pool, stage: Stage) -> None:
    made = budget(session, stage, "account", limit=10, hard=False, warn_percent=50)
    for credits in (4, 2, 20):
        ledger.settle(pool, admit(pool, stage.callers[0], 20), call(credits), now=NOW)
    session.rollback()
    row = session.execute(text("SELECT spent, warned_at FROM budget_spend")).one()
    assert tuple(row) == (26, NOW)
    assert made.id


def test_a_new_budget_counts_the_window_so_far_and_a_change_keeps_it(
    session: Session, pool: Pool, stage: Stage
) -> None:
    first, second = stage.callers
    for who, credits, at in ((first, 7, NOW - HOUR), (second, 5, NOW), (first, 9, NOW - DAY)):
        ledger.settle(pool, admit(pool, who, 10, now=at), call(credits), now=at)
    byok = admit(pool, first, None)
    ledger.settle(pool, byok, call(30, byok=True), now=NOW)
    every, total = (
        budget(session, stage, "account"),
        budget(session, stage, "account", "total", now=NOW + HOUR),
    )
    key = budget(session, stage, "key", subject=first.key)
    start = datetime(2026, 11, 20, tzinfo=UTC)
    assert spent(session, every) == {("", start): 12}
    assert spent(session, key) == {(first.key, start): 7}
    assert spent(session, total) == {}
    assert_proved(session)
    changed: dict[str, Any] = {"limit_credits": 15, "warn_percent": 90, "hard": True}
    budgets.change_budget(stage.account, every.id, count_byok=False, now=NOW, **changed)
    session.commit()
    assert spent(session, every) == {("", start): 12}
    budgets.change_budget(stage.account, every.id, count_byok=True, now=NOW, **changed)
    session.commit()
    assert spent(session, every) == {("", start): 42}
    assert_proved(session)


def test_calls_with_ones_own_provider_key_count_where_the_switch_says_so(
    session: Session, pool: Pool, stage: Stage
) -> None:
    first = stage.callers[0]

    def own(hold: int) -> ledger.Admission:
        request = ledger.AdmissionRequest(
            token_hash=first.key, request_id=factories.new_id("req-"), hold=hold, byok=True
        )
        return ledger.admit(pool, request, now=NOW)

    # nothing counts it, so nothing is held
    assert own(1000).outcome == "checked"
    budget(session, stage, "account", limit=20)
    counting = budget(session, stage, "key", limit=20, count_byok=True)
    one = own(15)
    assert (one.outcome, one.funding) == ("admitted", "byok")
    assert own(15).outcome == "budget_held"
    # the key's budget counts it, the account's does not, and neither does the balance
    assert admit(pool, stage.callers[1], 20).outcome == "admitted"
    assert ledger.settle(pool, one, call(12, byok=True), now=NOW).credits == 12
    assert spent(session, counting) == {(first.key, datetime(2026, 11, 20, tzinfo=UTC)): 12}
    assert own(9).outcome == "budget"
    assert_proved(session)


def test_a_hold_grows_no_further_than_its_budgets(session: Session, pool: Pool, stage: Stage) -> None:
    first = stage.callers[0]
    budget(session, stage, "key", limit=30)
    admitted, other = admit(pool, first, 10), admit(pool, first, 5)
    assert ledger.grow_hold(pool, admitted.request_id, needed=15, requested=20, now=NOW) == 20
    assert ledger.grow_hold(pool, admitted.request_id, needed=21, requested=40, now=NOW) == 25
    found = ledger.grow_hold(pool, admitted.request_id, needed=26, requested=40, now=NOW)
    assert isinstance(found, BudgetRefusal)
    assert (found.level, found.held, found.free) == ("key", 5, 25)
    ledger.settle(pool, other, call(5), now=NOW)
    ledger.settle(pool, admitted, call(25), now=NOW)
    assert admit(pool, first, 1).outcome == "budget"


def test_a_raise_lasts_until_its_end_or_for_one_run(session: Session, pool: Pool, stage: Stage) -> None:
    first = stage.callers[0]
    made = budget(session, stage, "key", limit=10)
    for kw in ({}, {"run_id": stage.run_id}):
        raised = BudgetRaise(
            budget_id=made.id, subject=first.key, amount=5, starts_at=NOW, ends_at=NOW + HOUR, **kw
        )
        made.raised_until = raised.ends_at
        factories.save(raised)
        with_run = admit(pool, first, 15, run_id=stage.run_id)
        without = admit(pool, first, 15, request_id=with_run.request_id) if kw else with_run
        assert (with_run.outcome, without.outcome) == ("admitted", "budget" if kw else "admitted")
        assert admit(pool, first, 15, now=NOW + HOUR, run_id=stage.run_id).outcome == "budget"
        session.execute(text("DELETE FROM credit_hold"))
        session.execute(text("DELETE FROM budget_raise"))
        session.commit()


def test_the_credit_limit_of_an_organisation_is_a_budget(session: Session, pool: Pool) -> None:
    stage = make_stage(session, organisation=True)
    org, first = stage.org, stage.callers[0]
    assert org is not None
    ledger.settle(pool, admit(pool, first, 10, now=NOW), call(10), now=NOW)
    edit_org(org, {"credit_limit": 25})
    session.commit()
    (limit,) = budgets.budgets_of(stage.account)
    assert (limit.level, limit.period, limit.limit_credits) == ("account", "month", 25)
    refused = admit(pool, first, 26)
    assert (refused.outcome, refused.budget and refused.budget.name) == ("budget", "Acme")
    facts: dict[str, Any] = {"warn_percent": 80, "hard": True, "count_byok": False}
    budgets.change_budget(stage.account, limit.id, limit_credits=40, **facts)
    session.commit()
    assert org.credit_limit == 40
    budgets.end_budget(stage.account, limit.id)
    session.commit()
    assert (org.credit_limit, budgets.budgets_of(stage.account)) == (None, [])
    edit_org(org, {"credit_limit": 30, "time_zone": "Asia/Tokyo"})
    session.commit()
    assert [each.limit_credits for each in budgets.budgets_of(stage.account)] == [30]
    assert budgets.time_zone_of(stage.account) == "Asia/Tokyo"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("galaxy", "day", 5), Invalid),
        (("account", "year", 5), Invalid),
        (("account", "day", -1), Invalid),
        (("key", "day", 5, "nobody's"), Invalid),
        (("account", "week", 5), Conflict),
    ],
)
def test_what_cannot_be_a_budget_is_refused(
    session: Session, stage: Stage, arguments: tuple[Any, ...], error: type[DomainError]
) -> None:
    budget(session, stage, "account", "week", 5)
    level, period, limit, *subject = arguments
    with pytest.raises(error):
        budgets.create_budget(stage.account, level, period, limit, subject=subject[0] if subject else None)
    with pytest.raises(NotFound):
        budgets.end_budget(
            Account(user_id=factories.user("mallory").id), budgets.budgets_of(stage.account)[0].id
        )


# -- windows ------------------------------------------------------------------------------------------------------


def steps(start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    while start < end:
        yield start
        start += step


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
)
def test_windows_follow_the_clock_over_a_year(session: Session, zone: str) -> None:
    """Every quarter of an hour around the changes, and every few hours between them: the window is that of the local time,
    windows follow each other, and each ends where the next begins."""
    local = ZoneInfo(zone)
    moments = sorted(
        {
            *steps(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), timedelta(hours=11)),
            *(
                moment
                for day in ((3, 8), (3, 29), (4, 5), (10, 4), (10, 25), (11, 1))
                for moment in steps(
                    datetime(2026, *day, tzinfo=UTC) - DAY,
                    datetime(2026, *day, tzinfo=UTC) + DAY,
                    timedelta(minutes=15),
                )
            ),
        }
    )
    named = {
        "day": lambda t: (t.date(),),
        "week": lambda t: t.isocalendar()[:2],
        "month": lambda t: (t.year, t.month),
        "hour": lambda t: (t.date(), t.hour, t.utcoffset()),
    }
    rows = session.execute(
        text(
            "SELECT m, p, budget_window(p, m, :zone), budget_resets(p, m, :zone)"
            " FROM unnest(CAST(:moments AS timestamptz[])) m, unnest(ARRAY['hour', 'day', 'week', 'month']) p ORDER BY p, m"
        ),
        {"zone": zone, "moments": moments},
    ).all()
    for (before, period, start, reset), (moment, other, next_start, _) in pairwise(rows):
        name = named[period]
        assert before < reset
        if period == other:
            same = name(before.astimezone(local)) == name(moment.astimezone(local))
            assert (start == next_start) is same, (period, before, moment)
            assert (moment < reset) is same, (period, before, moment, reset)


@pytest.mark.parametrize(
    ("zone", "midnight"),
    [
        # the day after each has the other offset
        ("Europe/Berlin", datetime(2026, 3, 29, 22, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2026, 10, 25, 23, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 3, 9, 4, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 11, 2, 5, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 5, 13, 30, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 10, 4, 13, tzinfo=UTC)),
    ],
)
def test_a_daily_budget_resets_at_midnight_after_a_change_of_the_clock(
    session: Session, pool: Pool, zone: str, midnight: datetime
) -> None:
    stage = make_stage(session, organisation=False)
    user = session.get_one(User, stage.callers[0].id)
    user.next_quota_reset = midnight + 10 * DAY
    session.commit()
    budgets.set_time_zone(stage.account, zone)
    made = budget(session, stage, "account", limit=10, now=midnight - HOUR)
    first = stage.callers[0]
    session.execute(text("UPDATE session SET expires = expires + interval '2 years'"))
    session.execute(text("UPDATE credit_ledger SET created_at = '2026-01-01'"))
    session.commit()
    before = midnight - timedelta(minutes=1)
    ledger.settle(pool, admit(pool, first, 10, now=before), call(10), now=before)
    refused = admit(pool, first, 1, now=before)
    assert (refused.outcome, refused.budget and refused.budget.resets) == ("budget", midnight)
    assert admit(pool, first, 10, now=midnight).outcome == "admitted"
    # the first call of the day of the change was in the window too
    assert len(spent(session, made)) == 1
    assert_proved(session, midnight)


# -- races --------------------------------------------------------------------------------------------------------


def test_200_parallel_calls_spend_no_more_than_any_level_allows(
    session: Session, pool: Pool, postgres_url: str, stage: Stage
) -> None:
    """Over the connection pools of two workers, with a budget at every level; each call holds more than it costs."""
    every = levels(stage)
    for number, level in enumerate(every if stage.org else ("account", "key")):
        # each in turn is the one that runs out, on a day of its own
        at = NOW + number * DAY
        limits = dict.fromkeys(every, 100_000) | {level: 150}
        made = {each: budget(session, stage, each, limit=limit, now=at) for each, limit in limits.items()}
        outcomes = _race(pool, postgres_url, stage, at, seed=number)
        # a call whose hold does not fit is refused
        assert 150 - 6 < max(spent(session, made[level]).values()) <= 150, level
        assert set(outcomes) == {"admitted", "budget"}
        for each in made.values():
            budgets.end_budget(stage.account, each.id)
        session.commit()
    assert_proved(session)


def _race(pool: Pool, url: str, stage: Stage, at: datetime, seed: int) -> list[str]:
    other = Pool(url, 8)
    numbers = random.Random(seed)
    costs = [numbers.randint(1, 6) for _ in range(200)]

    def one(index: int) -> str:
        worker = (pool, other)[index % 2]
        admitted = admit(worker, stage.callers[0], 6, run_id=stage.run_id, now=at)
        while admitted.outcome == "budget_held":
            admitted = admit(worker, stage.callers[0], 6, run_id=stage.run_id, now=at)
        if admitted.outcome == "admitted":
            ledger.settle(worker, admitted, call(costs[index]), now=at)
        return admitted.outcome

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(one, range(200)))
    other.close()
    return outcomes


def test_windows_long_over_are_forgotten(session: Session) -> None:
    """Of periods; a budget in total has one window for ever."""
    stage = make_stage(session, organisation=True)
    for period in ("day", "total"):
        budget = budgets.create_budget(stage.account, "account", period, 100)
        for days in (0, 99, 101, 400):
            window = NOW - timedelta(days=days)
            factories.save(BudgetSpend(budget_id=budget.id, subject=str(days), window_start=window, spent=1))
    session.commit()
    prune_spending(NOW)
    session.commit()
    rows = session.execute(
        select(Budget.period, BudgetSpend.subject).join(Budget, Budget.id == BudgetSpend.budget_id)
    )
    left: dict[str, set[str]] = {}
    for period, subject in rows:
        left.setdefault(period, set()).add(subject)
    assert left == {"day": {"0", "99"}, "total": {"0", "99", "101", "400"}}
