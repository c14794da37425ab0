"""The demo organisation: members, a team, keys, credits, a month of runs, and budgets."""

from datetime import datetime, timedelta

from models import ledger
from models.accounts import User
from models.accounts.key_format import PresentedKey
from models.core.db import db
from models.demo.demo_agents import by_name
from models.demo.demo_people import ORGANISATIONS, USER_ID, id_of, new_key
from models.demo.demo_runs import PlannedRun, RunPlanner
from models.ledger import Account, budgets
from models.orgs import Org, OrgMember
from models.orgs.team_editing import add_to_team, create_team

NAME, ORG_ID = next(iter(ORGANISATIONS.items()))
ACCOUNT = Account(org_id=ORG_ID)
OWNER = "noor"
MEMBERS = {
    OWNER: "owner",
    "delia": "admin",
    "amara": "billing",
    "mei": "member",
    "farid": "member",
    "jonas": "member",
}
"""Keys of `demo_people.NAMES` with their roles."""
TEAM = ("Ingestion", ("mei", "jonas"))
CALLERS = tuple(id_of(key) for key, role in MEMBERS.items() if role != "billing")
CREDITS = 40_000
BUDGETS = (("account", "month", 20_000), ("member", "month", 4_000), ("team", "week", 2_500))


def found(began: datetime, now: datetime) -> dict[str, PresentedKey]:
    """Create the organisation with its members, team, keys and credits. Returns the callers' keys, which nobody has, by user
    id. Flushes. The demo users must exist."""
    db.session.add(
        Org(
            id=ORG_ID,
            name=NAME,
            slug=ORG_ID,
            description="Made up for the demo.",
            owner_id=id_of(OWNER),
            auto_topup_threshold=500,
            auto_topup_amount=2000,
            created_at=began,
        )
    )
    db.session.flush()
    ledger.grant(
        ACCOUNT,
        CREDITS,
        "organization",
        operation_id=f"{ORG_ID}-grant",
        description="Demo credits",
        now=began + timedelta(minutes=5),
    )
    for key, role in MEMBERS.items():
        db.session.add(OrgMember(org_id=ORG_ID, user_id=id_of(key), role=role, joined_at=began))
    db.session.flush()
    team = create_team(db.session.get_one(Org, ORG_ID), TEAM[0])
    for key in TEAM[1]:
        add_to_team(team, id_of(key))
    return {user_id: _key(user_id, began) for user_id in CALLERS}


def _key(user_id: str, began: datetime) -> PresentedKey:
    name = str(db.session.get_one(User, user_id).name).split()[0]
    title = "Nightly reviews" if user_id == USER_ID else f"{name}’s laptop"
    return new_key(user_id, title, began, 210, org_id=ORG_ID)


def planned_runs(began: datetime, now: datetime, days: int) -> list[PlannedRun]:
    """Runs of the members in the organisation, by start; few at weekends."""
    planner = RunPlanner(20261122, now, brief=True)
    agents = [name for name in by_name() if name.startswith("quarry/")] + ["harbor/code-reviewer"]
    found = []
    for day in range(days + 1):
        date = (began + timedelta(days=day)).replace(hour=0)
        for user_id in CALLERS:
            for _ in range(planner.rng.randint(0, 1 if date.weekday() >= 5 else 3)):
                start = date + timedelta(minutes=planner.rng.randint(8 * 60, 19 * 60))
                run = planner.run(user_id, planner.rng.choice(agents), start)
                if run and run.end and run.end < now - timedelta(minutes=5):
                    found.append(run)
    return sorted(found, key=lambda run: run.start)


def limit(now: datetime) -> None:
    """Create the budgets: they count what was spent already. Flushes."""
    for level, period, credits in BUDGETS:
        budgets.create_budget(ACCOUNT, level, period, credits, created_by=id_of(OWNER), now=now)
