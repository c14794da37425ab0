"""The demo: created through the real functions, so its ledger proves; created once, removed completely."""

from datetime import UTC, datetime, timedelta

from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models import demo, ledger, store
from models.accounts import Session as Key
from models.accounts import User
from models.assistants import Assistant
from models.billing import public_plans, retire_plan
from models.conversations import TimelineItem
from models.core.pool import Pool
from models.core.settings import Settings
from models.demo import demo_agents, demo_org, demo_people
from models.gateway import GatewayCall
from models.index import Document
from models.insights import ActionItemRun
from models.insights.item_run_reading import waiting_patches
from models.ledger import CreditEntry, budgets
from models.orgs import Org, OrgMember
from models.projects import (
    Blob,
    Manifest,
    Project,
    Snapshot,
    SnapshotParent,
    SyncPreview,
    Workspace,
    WorkspaceChange,
    WorkspaceOperation,
)
from models.projects.environment import EnvironmentVariable
from models.projects.storage_proof import prove_account
from models.runs import AgentRun
from models.store import Agent, AgentConfig, AgentVersion, Publisher, publishers
from models.store.catalogue.markdown import problem_in
from models.store.publishing import spawning
from models.store.publishing.definition import Definition, conflicts
from models.store.statistics import store_proof
from models.threads import Thread, ThreadMessage
from models.usage import Message, UsageRollup
from tests import factories

NOW = (datetime.now(UTC) - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
"""Noon yesterday, because the 7-day window uses the database clock."""


def seeded(session: Session, postgres_url: str, settings: Settings) -> int:
    made = Pool(postgres_url, 1)
    try:
        return demo.seed(made, settings, commit=session.commit, now=NOW)
    finally:
        made.close()


def count(session: Session, table: type) -> int:
    return session.execute(select(func.count()).select_from(table)).scalar_one()


def test_the_demo_fills_the_store_proves_and_is_removed_completely(
    app: Flask, session: Session, postgres_url: str, settings: Settings
) -> None:
    assert demo.is_first_start()
    calls = seeded(session, postgres_url, settings)
    assert calls > 1000
    own = session.scalars(select(Message.id).where(Message.user_id == demo.USER_ID)).all()
    assert 80 < len(own) < 600
    assert not demo.is_first_start()
    assert count(session, Message) == calls
    first, last = session.execute(select(func.min(Message.finished_at), func.max(Message.finished_at))).one()
    assert first < NOW - timedelta(days=26)
    assert NOW - timedelta(days=4) < last <= NOW
    assert session.execute(select(AgentRun.id).where(AgentRun.parent_run_id.is_not(None))).first()
    assert not session.execute(select(AgentRun.id).where(AgentRun.status == "running")).first()
    assert session.execute(select(GatewayCall.error).where(GatewayCall.state == "failed")).first()
    books = ledger.prove()
    assert books.clean, books
    spent = session.execute(
        select(func.sum(UsageRollup.credits)).where(UsageRollup.grain == "day")
    ).scalar_one()
    assert spent > 100
    run = session.execute(select(AgentRun).order_by(AgentRun.total_credits.desc()).limit(1)).scalar_one()
    assert run.total_credits >= run.direct_credits > 0

    check_organisation(session)
    check_store(session)
    check_dependencies(session)
    check_threads(session)
    check_projects(session)
    check_work(session)
    # it is created once and removed completely; to create it takes seconds
    assert seeded(session, postgres_url, settings) == 0
    assert count(session, Message) == calls
    assert demo.remove()
    session.commit()
    made = (User, Message, AgentRun, CreditEntry, UsageRollup, GatewayCall, Org, Publisher, Agent)
    made += (Assistant, Thread, ThreadMessage, Document, Project, Snapshot, Workspace, Blob, Manifest)
    counted = (store.AgentConfig, store.AgentVersion, store.AgentRunBill, store.AgentDay, store.AgentUser)
    for table in (*made, *counted):
        assert count(session, table) == 0, table
    assert ledger.prove().clean
    assert store_proof.prove().differences == []
    assert not demo.remove()


def test_the_commands_seed_and_remove(app: Flask, session: Session) -> None:
    runner = app.test_cli_runner()
    assert "Demo created" in runner.invoke(args=["demo", "seed"]).output
    assert "already exists" in runner.invoke(args=["demo", "seed"]).output
    assert "removed" in runner.invoke(args=["demo", "remove"]).output
    assert "no demo" in runner.invoke(args=["demo", "remove"]).output
    assert count(session, User) == 0


def check_threads(session: Session) -> None:
    """Three assistants, threads with branches, and a citation of a page of the handbook."""
    assert count(session, Assistant) == 3
    document = session.scalars(select(Document)).one()
    assert (document.state, document.report["parts"]) == ("ready", 3)
    cited = session.scalars(select(ThreadMessage).where(ThreadMessage.citations.is_not(None))).one()
    assert [(each["valid"], each["first"], each["document_id"]) for each in cited.citations or ()] == [
        (True, 2, document.id)
    ]
    assert "【1】" in cited.text
    query = select(ThreadMessage.thread_id, func.count(ThreadMessage.branch_id.distinct()))
    found = session.execute(query.group_by(ThreadMessage.thread_id)).all()
    assert sorted(branches for _, branches in found) == [1, 1, 2, 2]


def check_projects(session: Session) -> None:
    """A project with three workspaces, snapshots with three merges, an undo and a sync to decide, all before now; its bytes prove."""
    assert (count(session, Project), count(session, Workspace), count(session, Snapshot)) == (1, 3, 17)
    assert count(session, EnvironmentVariable) == 2
    kinds = session.scalars(select(WorkspaceOperation.kind)).all()
    assert sorted(kinds) == ["snapshot"] * 17 + ["undo"]
    parents = select(func.count()).select_from(SnapshotParent).group_by(SnapshotParent.child_id)
    assert sorted(session.scalars(parents)) == [1] * 13 + [2] * 3
    (preview,) = session.scalars(select(SyncPreview))
    assert [each["path"] for each in preview.plan["decisions"]] == ["README.md"]
    assert session.scalars(select(func.max(WorkspaceChange.path))).one() == "tides/moon.py"
    for table in (Snapshot, WorkspaceOperation, Workspace, Project):
        assert session.scalars(select(func.max(table.created_at))).one() < NOW
    assert prove_account(demo.USER_ID)[1] == []


def check_work(session: Session) -> None:
    """A conversation with what its turn changed, a patch that waits with green checks, and a run that failed."""
    (item,) = session.scalars(select(TimelineItem))
    snapshot = session.get_one(Snapshot, (item.project_id, item.snapshot_id))
    assert (snapshot.message, item.files_count) == ("Say when springs come", 1)
    runs = {run.status: run for run in session.scalars(select(ActionItemRun))}
    assert sorted(runs) == ["failed", "ready"]
    assert (runs["ready"].verified, len(runs["failed"].attempts)) == (True, 3)
    assert [each.run.id for each in waiting_patches([item.project_id])] == [runs["ready"].id]


def check_organisation(session: Session) -> None:
    """It has people, a team, keys, and budgets that are used, of which none has stopped anybody."""
    assert {row.role for row in session.scalars(select(OrgMember))} == {"owner", "admin", "billing", "member"}
    assert session.scalars(select(Message.id).where(Message.org_id == demo_org.ORG_ID)).all()
    names = session.scalars(select(Key.name).where(Key.org_id == demo_org.ORG_ID)).all()
    assert len(names) == len(set(names)) == len(demo_org.CALLERS)
    spending = budgets.spending(demo_org.ACCOUNT, top=1)
    used = [(budget, spending[budget.id][0].spent) for budget in budgets.budgets_of(demo_org.ACCOUNT)]
    assert len(used) == len(demo_org.BUDGETS)
    assert all(spent < budget.limit_credits for budget, spent in used)


def check_store(session: Session) -> None:
    assert store_proof.prove().differences == []
    assert count(session, Publisher) == 6
    assert 25 <= count(session, Agent) <= 30
    assert session.scalars(select(Publisher.id).where(Publisher.verified)).all()
    assert session.scalars(select(Publisher).where(Publisher.org_id.is_not(None))).all()
    delia = session.get_one(User, demo.USER_ID)
    assert [each.publisher.id for each in publishers.managed(delia)] == ["quarry", "delia"]
    agents = session.scalars(select(Agent).order_by(Agent.runs.desc())).all()
    assert agents[0].runs > 100
    assert agents[0].weekly_runs > 10
    assert all(agent.runs and agent.credits is not None and agent.unique_users for agent in agents)
    assert all(agent.versions > 1 for agent in agents[:20])
    assert session.scalars(select(Agent.successor).where(Agent.deprecated_at.is_not(None))).all() == [
        "ferry/release-notes"
    ]
    assert session.scalars(select(AgentVersion.version).where(AgentVersion.yanked_at.is_not(None))).all() == [
        "3.0.1"
    ]
    oldest, newest = session.execute(
        select(func.min(AgentVersion.published_at), func.max(AgentVersion.published_at))
    ).one()
    assert oldest < NOW - timedelta(days=120)
    assert NOW - timedelta(days=3) < newest <= NOW


def check_dependencies(session: Session) -> None:
    """Each reference is pinned to a version published earlier."""
    configs = session.scalars(select(AgentConfig)).all()
    called = {place for config in configs for place in config.data["spawnableAgents"]}
    places = [place for each in called if (place := spawning.parse(each))]
    assert len(places) == len(called) > 10
    assert spawning.published(places) == set(places)
    versions = {
        (row.publisher_id, row.agent_id, row.version): row.published_at
        for row in session.scalars(select(AgentVersion))
    }
    for config in configs:
        for each in config.data["spawnableAgents"]:
            place = spawning.parse(each)
            assert place
            assert versions[tuple(place)] < versions[config.publisher_id, config.id, config.version]


def test_the_demo_definitions_are_valid() -> None:
    models = set()
    for publisher in demo_agents.publishers():
        assert publishers.id_format_problem(publisher.id) is None
        assert publisher.owner in demo_people.NAMES
        assert publisher.organisation is None or publisher.organisation in demo_people.ORGANISATIONS
        for agent in publisher.agents:
            assert agent.readme is None or problem_in(agent.readme) is None
            days = [release.days for release in agent.releases]
            assert days == sorted(days, reverse=True)
            for release in agent.releases:
                definition = Definition.model_validate(dict(release.definition))
                assert conflicts(definition) == []
                models.add(definition.model)
    assert len({model.split("/")[0] for model in models}) > 3


def test_removing_the_demo_keeps_data_of_others(
    app: Flask, session: Session, postgres_url: str, settings: Settings
) -> None:
    seeded(session, postgres_url, settings)
    alice = factories.user()
    house = factories.publisher(alice)
    factories.agent(house, data={"spawnableAgents": ["harbor/file-picker@1.3.0"]})
    lent = factories.publisher(session.get_one(Org, "demo-quarry"), "lent-by-alice", created_by=alice.id)
    team = factories.org(alice)
    stored = factories.publisher(team, "made-by-delia", created_by=demo.USER_ID)
    run = factories.run(alice, "harbor/code-reviewer@2.4.1")
    run.status, run.completed_at = "completed", NOW
    session.commit()
    assert demo.remove()
    session.commit()
    session.expire_all()
    assert set(session.scalars(select(Publisher.id))) == {"acme", "lent-by-alice", "made-by-delia"}
    assert (lent.user_id, lent.org_id) == (alice.id, None)
    assert (stored.created_by, stored.org_id) == (alice.id, team.id)
    assert session.scalars(select(AgentRun.id)).all() == [run.id]
    assert count(session, Agent) == 1
    assert store_proof.prove().differences == []
    assert ledger.prove().clean


def test_plans_are_offered_once(session: Session) -> None:
    assert demo.offer_plans() == 3
    assert [(plan.name, plan.tier, plan.price_cents) for plan in public_plans()] == [
        ("Strong", 100, 10_000),
        ("Stronger", 200, 20_000),
        ("Strongest", 500, 50_000),
    ]
    for plan in public_plans():
        retire_plan(plan)
    assert demo.offer_plans() == 0
