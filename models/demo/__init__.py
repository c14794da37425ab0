"""Demo data for a new server: users, the agents they publish, and a month of their runs.

Created through the same functions as real data, with past timestamps: publishing, grants, holds, settlements, runs and steps.
So its ledger and store statistics can be proved. Marked as demo data, and removable.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import delete, select

from models import ledger
from models.accounts import User
from models.core.db import db
from models.core.db import now as utc_now
from models.core.pool import Pool
from models.core.settings import Settings
from models.demo import demo_org, demo_people, demo_projects, demo_store, demo_threads
from models.demo.demo_agents import by_name
from models.demo.demo_people import EMAIL, USER_ID
from models.demo.demo_plans import offer_plans
from models.demo.demo_runs import PlannedRun, RunPlanner, RunWriter
from models.index.document_purge import forget_account
from models.projects.exported_projects import forget_projects_of

__all__ = ["DAYS", "EMAIL", "USER_ID", "exists", "is_first_start", "offer_plans", "remove", "seed"]

DAYS = 30
SPAN_HOURS = 4
"""Calls of other users within a span of this many hours are settled in one batch."""
OWN_AGENTS = (
    *("harbor/code-reviewer", "harbor/code-reviewer", "ferry/release-notes", "lighthouse/test-writer"),
    *("lighthouse/test-writer", "delia/standup"),
)
"""The agents that the demo user runs."""


def exists() -> bool:
    """Whether the demo user exists."""
    return db.session.get(User, USER_ID) is not None


def is_first_start() -> bool:
    """Whether this server has no users yet."""
    return db.session.execute(select(User.id).limit(1)).first() is None


def seed(
    pool: Pool,
    settings: Settings,
    *,
    commit: Callable[[], None],
    now: datetime | None = None,
) -> int:
    """Create the users, a month of runs up to `now`, an organisation with its own, the agents, assistants with threads, and a project.

    Returns the number of settled calls; 0 if the demo exists. Calls `commit` repeatedly, because settlements are transactions
    of their own and need the data. Deterministic per day (fixed random seed). Raises PublishRefused and Invalid if the id of a
    demo publisher is taken.
    """
    if exists():
        return 0
    now = now or utc_now()
    began = (now - timedelta(days=DAYS)).replace(hour=8, minute=0, second=0, microsecond=0)
    _people(settings, began, now)
    # calls name the key that was used; nobody has these
    keys = {user_id: demo_people.new_key(user_id, "Laptop", began, 2 * DAYS) for user_id in demo_people.IDS}
    # runs first: publishing an agent counts its earlier runs at once
    commit()
    writer = RunWriter(pool, settings, commit, keys)
    for run in _own_runs(began, now):
        writer.write([run], batch=False)
    for _, runs in groupby(_other_runs(began, now), key=_span):
        writer.write(list(runs), batch=True)
    calls = _organisation(pool, settings, commit, began, now)
    demo_store.fill(now)
    commit()
    demo_threads.fill(settings, commit)
    demo_projects.fill(now)
    commit()
    return writer.calls + calls


def remove() -> bool:
    """Delete the demo users and all their data, ledger entries and agents included. Returns False without demo. Flushes."""
    if not exists():
        return False
    ledger.erase_account(demo_org.ORG_ID)
    demo_store.clear()
    forget_account(USER_ID)
    forget_projects_of(USER_ID)
    for user_id in demo_people.IDS:
        ledger.erase_account(user_id)
    db.session.execute(delete(User).where(User.id.in_(demo_people.IDS)))
    return True


def _organisation(
    pool: Pool, settings: Settings, commit: Callable[[], None], began: datetime, now: datetime
) -> int:
    """Create the organisation with its runs and budgets. Returns the number of settled calls."""
    keys = demo_org.found(began, now)
    commit()
    writer = RunWriter(pool, settings, commit, keys, demo_org.ORG_ID)
    for _, runs in groupby(demo_org.planned_runs(began, now, DAYS), key=_span):
        writer.write(list(runs), batch=True)
    demo_org.limit(now)
    return writer.calls


def _people(settings: Settings, began: datetime, now: datetime) -> None:
    for key, name in demo_people.NAMES.items():
        db.session.add(
            User(
                id=demo_people.id_of(key),
                email=demo_people.email_of(key),
                email_verified=began,
                name=name,
                created_at=began,
                next_quota_reset=began + timedelta(days=DAYS + 1),
            )
        )
    db.session.flush()
    for key in demo_people.NAMES:
        user_id = demo_people.id_of(key)
        ledger.signup_grant(user_id, settings.stoa_free_credits, now=began)
        ledger.grant(
            ledger.Account(user_id=user_id),
            3_000 if user_id == USER_ID else 20_000,
            "admin",
            operation_id="demo-grant" if user_id == USER_ID else f"demo-grant-{key}",
            description="Demo credits",
            now=began + timedelta(minutes=5),
        )


def _own_runs(began: datetime, now: datetime) -> list[PlannedRun]:
    """Runs of the demo user, all finished; fewer at weekends."""
    planner = RunPlanner(20261120, now)
    found = []
    for day in range(DAYS + 1):
        date = (began + timedelta(days=day)).replace(hour=0)
        runs = planner.rng.randint(0, 1) if date.weekday() >= 5 else planner.rng.randint(1, 4)
        for minute in sorted(planner.rng.randint(8 * 60, 18 * 60) for _ in range(runs)):
            start = date + timedelta(minutes=minute)
            run = planner.run(USER_ID, planner.rng.choice(OWN_AGENTS), start)
            if run and _is_over(run, now):
                found.append(run)
    return found


def _other_runs(began: datetime, now: datetime) -> list[PlannedRun]:
    """Runs of the other users, by start. Each agent has its own group of regular users."""
    planner = RunPlanner(20261121, now, brief=True)
    others = [user_id for user_id in demo_people.IDS if user_id != USER_ID]
    found = []
    for agent in by_name().values():
        users = planner.rng.sample(others, min(len(others), 3 + round(agent.runs_a_day * 2)))
        for day in range(DAYS + 1):
            date = (began + timedelta(days=day)).replace(hour=0)
            expected = agent.runs_a_day * (0.3 if date.weekday() >= 5 else 0.85) * (0.7 + 0.6 * day / DAYS)
            if agent.deprecated and agent.deprecated.days > DAYS - day:
                expected *= 1 - 0.8 * day / DAYS
            runs = int(expected * planner.rng.uniform(0.5, 1.5) + planner.rng.random())
            for _ in range(runs):
                start = date + timedelta(seconds=planner.rng.randint(6 * 3600, 21 * 3600))
                run = planner.run(planner.rng.choice(users), agent.name, start)
                if run and _is_over(run, now):
                    found.append(run)
    return sorted(found, key=lambda run: run.start)


def _is_over(run: PlannedRun, now: datetime) -> bool:
    return run.end is not None and run.end < now - timedelta(minutes=5)


def _span(run: PlannedRun) -> tuple[int, int]:
    return run.start.toordinal(), run.start.hour // SPAN_HOURS
