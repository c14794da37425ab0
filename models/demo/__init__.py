"""Made-up people, the agents they publish and a month of runs of those, so that a new server has pages to look at.

Everything goes through the verbs that real use takes, at past times: publications, grants, holds, settlements, runs and
steps. So the books and the store's figures of the demo prove like any others. Marked, and removable.
"""

import hashlib
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import delete, select

from models import ledger
from models.accounts import Session as Key
from models.accounts import User
from models.core.db import db
from models.core.db import now as utc_now
from models.core.pool import Pool
from models.core.settings import Settings
from models.demo import demo_people, demo_store
from models.demo.demo_agents import by_name
from models.demo.demo_people import EMAIL, USER_ID
from models.demo.demo_runs import PlannedRun, RunPlanner, RunWriter

__all__ = ["DAYS", "EMAIL", "USER_ID", "exists", "is_first_start", "remove", "seed"]

DAYS = 30
SPAN_HOURS = 4
"""Calls of others that began within so many hours are settled together."""
OWN = (
    *("harbor/code-reviewer", "harbor/code-reviewer", "ferry/release-notes", "lighthouse/test-writer"),
    *("lighthouse/test-writer", "delia/standup"),
)
"""What the demo user runs."""


def exists() -> bool:
    """Whether the demo user is there."""
    return db.session.get(User, USER_ID) is not None


def is_first_start() -> bool:
    """Whether this server has no user at all yet."""
    return db.session.execute(select(User.id).limit(1)).first() is None


def seed(
    pool: Pool,
    settings: Settings,
    *,
    commit: Callable[[], None],
    now: datetime | None = None,
) -> int:
    """Make the people, a month of their runs that ends at `now`, and the agents that were run.

    Returns how many calls were settled; 0 if the demo is there. Calls `commit`, the door's, as it goes: a settlement
    is a transaction of its own and must find what it is about. The same for the same day: drawn
    from a fixed seed. Raises what publishing raises when somebody has the id of a made-up publisher.
    """
    if exists():
        return 0
    now = now or utc_now()
    began = (now - timedelta(days=DAYS)).replace(hour=8, minute=0, second=0, microsecond=0)
    keys = {user_id: hashlib.sha256(uuid.uuid4().bytes).hexdigest() for user_id in demo_people.IDS}
    _people(settings, keys, began, now)
    # runs first: what ran before it was in the store is counted at once when it enters
    commit()
    player = RunWriter(pool, settings, commit, keys)
    for run in _own_runs(began, now):
        player.play([run], together=False)
    for _, runs in groupby(_others_runs(began, now), key=_span):
        player.play(list(runs), together=True)
    demo_store.fill(now)
    db.session.execute(delete(Key).where(Key.session_token.in_(keys.values())))
    commit()
    return player.calls


def remove() -> bool:
    """Delete the made-up people and all that is theirs, ledger entries and agents included. False if there are none.
    Flushes."""
    if not exists():
        return False
    demo_store.clear()
    for user_id in demo_people.IDS:
        ledger.erase_account(user_id)
    db.session.execute(delete(User).where(User.id.in_(demo_people.IDS)))
    return True


def _people(settings: Settings, keys: dict[str, str], began: datetime, now: datetime) -> None:
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
        # A key nobody knows: the settlements name the key that was used.
        db.session.add(
            Key(
                session_token=keys[user_id],
                user_id=user_id,
                type="pat",
                expires=now + timedelta(days=DAYS),
                created_at=began,
                name="Demo key",
                token_hint="cb-pat-…",  # noqa: S106  (a hint to show, of a key nobody has)
            )
        )


def _own_runs(began: datetime, now: datetime) -> list[PlannedRun]:
    """The demo user's: fewer at weekends, none that is not over."""
    planner = RunPlanner(20261120, now)
    found = []
    for day in range(DAYS + 1):
        date = (began + timedelta(days=day)).replace(hour=0)
        runs = planner.draw.randint(0, 1) if date.weekday() >= 5 else planner.draw.randint(1, 4)
        for minute in sorted(planner.draw.randint(8 * 60, 18 * 60) for _ in range(runs)):
            start = date + timedelta(minutes=minute)
            run = planner.run(USER_ID, planner.draw.choice(OWN), start)
            if run and _is_over(run, now):
                found.append(run)
    return found


def _others_runs(began: datetime, now: datetime) -> list[PlannedRun]:
    """Everybody else's, by when they began. Who likes an agent comes back to it; few use all of them."""
    planner = RunPlanner(20261121, now, brief=True)
    others = [user_id for user_id in demo_people.IDS if user_id != USER_ID]
    found = []
    for agent in by_name().values():
        known = planner.draw.sample(others, min(len(others), 3 + round(agent.runs_a_day * 2)))
        for day in range(DAYS + 1):
            date = (began + timedelta(days=day)).replace(hour=0)
            likely = agent.runs_a_day * (0.3 if date.weekday() >= 5 else 0.85) * (0.7 + 0.6 * day / DAYS)
            if agent.deprecated and agent.deprecated.days > DAYS - day:
                likely *= 1 - 0.8 * day / DAYS
            runs = int(likely * planner.draw.uniform(0.5, 1.5) + planner.draw.random())
            for _ in range(runs):
                start = date + timedelta(seconds=planner.draw.randint(6 * 3600, 21 * 3600))
                run = planner.run(planner.draw.choice(known), agent.name, start)
                if run and _is_over(run, now):
                    found.append(run)
    return sorted(found, key=lambda run: run.start)


def _is_over(run: PlannedRun, now: datetime) -> bool:
    return run.end is not None and run.end < now - timedelta(minutes=5)


def _span(run: PlannedRun) -> tuple[int, int]:
    return run.start.toordinal(), run.start.hour // SPAN_HOURS
