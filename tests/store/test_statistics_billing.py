"""Which runs count: those with a settled call, their own or of a descendant; a publisher's own runs separately."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from models import ledger
from models.accounts import User
from models.core.pool import Pool
from models.orgs import Org, OrgMember
from models.store import Agent, AgentDay, Publisher, publishers
from models.store.statistics import counting
from tests import factories
from tests.factories import Person
from tests.ledger.stage import Payer, admit, call, give, payer
from tests.store.ledger import NOW, assert_proved, count_waiting, counted, finish, settle, start, week_from


@pytest.fixture
def owner(session: Session) -> User:
    return factories.user("owner")


@pytest.fixture
def acme(session: Session, owner: User) -> Publisher:
    """`acme` with `reviewer` and `tester`, and a 7-day window that started six days before NOW."""
    made = factories.publisher(owner, "acme")
    for agent in ("reviewer", "tester"):
        factories.agent(made, agent, "1.0.0")
    week_from(session, NOW - timedelta(days=6))
    return made


@pytest.fixture
def rich(session: Session) -> Payer:
    who = payer(session, "rich")
    give(session, who.account, 100_000)
    return who


def counts(session: Session, agent: str = "reviewer") -> tuple[int, ...]:
    """All counters a run can change: runs, failed, cancelled, weekly runs, users, daily runs."""
    one = counted(session, agent=agent)
    version = counted(session, "1.0.0", agent)
    days = session.query(AgentDay).filter_by(agent_id=agent)
    assert (one.runs, one.failed, one.own_runs) == (version.runs, version.failed, version.own_runs)
    assert (one.last_used is not None) == (one.runs > 0)
    assert sum(one.durations) == one.runs
    return (one.runs, one.failed, one.cancelled, one.weekly_runs, one.unique_users, sum(d.runs for d in days))


COUNTED = (1, 0, 0, 1, 1, 1)
NOTHING = (0, 0, 0, 0, 0, 0)


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
@pytest.mark.parametrize("failed_call", [False, True])
def test_a_run_without_a_settled_call_does_not_count(
    session: Session, rich: Payer, ending: str, failed_call: bool
) -> None:
    for _ in range(3):
        run = start(session, rich.id, called=False)
        if failed_call:
            settle(session, rich.id, run, state="failed")
        finish(session, run, ending)
    assert counts(session) == NOTHING
    assert_proved(session)


@pytest.mark.usefixtures("acme")
def test_start_and_finish_without_calls_change_nothing(session: Session, alice: Person, app: Flask) -> None:
    for _ in range(5):
        run = alice.browser.post(
            "/api/v1/agent-runs",
            json={"action": "START", "agentId": "acme/reviewer@1.0.0"},
            headers=alice.headers,
        ).get_json()["runId"]
        finished = {
            "action": "FINISH",
            "runId": run,
            "status": "completed",
            "totalSteps": 1,
            "directCredits": 900,
            "totalCredits": 900,
        }
        assert (
            alice.browser.post("/api/v1/agent-runs", json=finished, headers=alice.headers).status_code == 200
        )
    listed = next(
        each for each in app.test_client().get("/api/agents").get_json() if each["id"] == "reviewer"
    )
    keys = ("usage_count", "weekly_runs", "unique_users", "weekly_spent", "total_spent")
    assert [listed[key] for key in keys] == [0] * 5
    assert "last_used" not in listed
    assert counts(session) == NOTHING


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    "price", [{"credits": 0}, {"credits": 7}, {"credits": 3, "byok": True}, {"credits": 0.01}]
)
@pytest.mark.parametrize("late", [False, True])
def test_a_settled_call_counts_whatever_it_costs(
    session: Session, gate: Pool, rich: Payer, price: dict[str, Any], late: bool
) -> None:
    run = start(session, rich.id, called=False)
    admission = admit(gate, rich, hold=0, run_id=run)
    second = admit(gate, rich, hold=0, run_id=run)
    if late:
        finish(session, run)
        assert counts(session) == NOTHING
    for each in (admission, second):
        ledger.settle(gate, each, call(**price), now=NOW)
    if not late:
        finish(session, run)
    assert counts(session) == COUNTED
    assert_proved(session)


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("depth", [1, 2, 5, 40])
@pytest.mark.parametrize("order", ["call first", "root first", "call last"])
@pytest.mark.parametrize("together", [False, True])
def test_a_run_counts_for_calls_of_any_descendant(
    session: Session, gate: Pool, rich: Payer, depth: int, order: str, together: bool
) -> None:
    chain = [start(session, rich.id, called=False)]
    for _ in range(depth):
        chain.append(start(session, rich.id, "acme/tester@1.0.0", called=False, ancestor_run_ids=list(chain)))
    calls = [admit(gate, rich, hold=0, run_id=chain[-1]) for _ in range(2)]

    def bill() -> None:
        if together:
            ledger.settle_many(gate, [(each, call(2)) for each in calls], now=NOW)
        else:
            for each in calls:
                ledger.settle(gate, each, call(2), now=NOW)

    if order == "call first":
        bill()
        for run in reversed(chain):
            finish(session, run)
    elif order == "root first":
        finish(session, chain[0])
        assert counts(session) == NOTHING
        bill()
        assert counts(session) == COUNTED
        for run in chain[1:]:
            finish(session, run)
    else:
        for run in reversed(chain):
            finish(session, run)
        assert counts(session) == counts(session, "tester") == NOTHING
        bill()
    assert counts(session) == COUNTED
    assert counted(session, agent="tester").runs == depth
    # each run is billed for its own calls only
    assert (counted(session).credits, counted(session, agent="tester").credits) == (0, 4)
    assert_proved(session)


@pytest.mark.usefixtures("acme")
def test_siblings_and_ancestors_of_a_call_do_not_count(session: Session, rich: Payer) -> None:
    root = start(session, rich.id, "acme/tester@1.0.0")
    child = start(session, rich.id, called=False, ancestor_run_ids=[root])
    start(session, rich.id, "acme/tester@1.0.0", ancestor_run_ids=[root])
    finish(session, child)
    finish(session, root)
    assert counts(session) == NOTHING
    assert counts(session, "tester") == COUNTED
    assert_proved(session)


@pytest.mark.usefixtures("acme")
def test_nobody_makes_another_persons_run_count(session: Session, rich: Payer, alice: Person) -> None:
    run = start(session, rich.id, called=False)
    start(session, alice.id, "acme/tester@1.0.0", ancestor_run_ids=[run])
    finish(session, run)
    late = start(session, alice.id, "acme/tester@1.0.0", called=False, ancestor_run_ids=[run])
    settle(session, alice.id, late)
    assert counts(session) == NOTHING
    assert_proved(session)


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("name", ["base", "other/unpublished@1.0.0"])
def test_an_unpublished_run_passes_calls_to_its_ancestors(session: Session, rich: Payer, name: str) -> None:
    root = start(session, rich.id, called=False)
    middle = start(session, rich.id, name, called=False, ancestor_run_ids=[root])
    finish(session, root)
    settle(session, rich.id, middle)
    assert counts(session) == COUNTED
    assert_proved(session)


@pytest.mark.usefixtures("acme")
def test_a_run_counts_no_longer_when_the_runs_below_it_are_deleted(session: Session, rich: Payer) -> None:
    root = start(session, rich.id, called=False)
    below = [start(session, rich.id, "acme/tester@1.0.0", ancestor_run_ids=[root]) for _ in range(2)]
    finish(session, root)
    for run, expected in zip(below, (COUNTED, NOTHING), strict=True):
        session.execute(text("DELETE FROM agent_run WHERE id = :id"), {"id": run})
        session.commit()
        assert counts(session) == expected
        assert_proved(session)


@pytest.mark.usefixtures("acme")
def test_publishing_counts_earlier_runs_by_the_same_rule(
    session: Session, rich: Payer, acme: Publisher
) -> None:
    name = "acme/new@1.0.0"
    empty = start(session, rich.id, name, called=False)
    above = start(session, rich.id, name, called=False)
    below = start(session, rich.id, "base", ancestor_run_ids=[above])
    for run in (empty, above, below):
        finish(session, run)
    counting.lock_agents("acme", ["new"])
    factories.agent(acme, "new", "1.0.0")
    counting.count_earlier_runs("acme", {"new": "1.0.0"})
    session.commit()
    assert counts(session, "new") == COUNTED
    assert_proved(session)


def test_a_new_version_is_counted_from_its_own_runs(
    session: Session, gate: Pool, rich: Payer, owner: User, acme: Publisher
) -> None:
    for days, version, ending, who in (
        (40, "2.0.0", "completed", rich.id),
        (3, "2.0.0", "completed", rich.id),
        (3, "2.0.0", "failed", rich.id),
        (2, "2.0.0", "cancelled", rich.id),
        (1, "2.0.0", "completed", owner.id),
        (1, "1.0.0", "completed", rich.id),
    ):
        run = start(session, who, f"acme/reviewer@{version}", created_at=NOW - timedelta(days=days))
        if who == rich.id:
            ledger.settle(gate, admit(gate, rich, hold=0, run_id=run), call(2), now=NOW)
        finish(session, run, ending)
    counting.lock_agents("acme", ["reviewer"])
    factories.agent_version(acme, "reviewer", "2.0.0")
    counting.count_earlier_runs("acme", {"reviewer": "2.0.0"})
    session.commit()
    new = counted(session, "2.0.0")
    assert (new.runs, new.failed, new.cancelled, new.own_runs, new.credits) == (2, 1, 1, 1, 4)
    assert (new.weekly_runs, new.weekly_credits, new.unique_users) == (1, 2, 1)
    assert_proved(session)


# -- own runs ------------------------------------------------------------------------------------------------


def finished_run(session: Session, user_id: str, ending: str = "completed", **kw: Any) -> str:
    run = start(session, user_id, **kw)
    finish(session, run, ending)
    return run


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
def test_own_runs_are_counted_separately(session: Session, owner: User, rich: Payer, ending: str) -> None:
    finished_run(session, owner.id, ending)
    finished_run(session, owner.id, ending, called=False)
    assert (counts(session), counted(session).own_runs) == (NOTHING, 1)
    assert counted(session).credits == counted(session).weekly_credits == 0
    finished_run(session, rich.id)
    assert (counts(session), counted(session).own_runs) == (COUNTED, 1)
    assert_proved(session)


@pytest.mark.parametrize("role", ["owner", "admin", "member"])
def test_runs_of_organisation_members_are_own_runs(session: Session, role: str) -> None:
    founder, person = factories.user("founder"), factories.user("person")
    org = factories.org(founder)
    made = factories.publisher(org, "acme")
    factories.agent(made, "reviewer", "1.0.0")
    week_from(session, NOW - timedelta(days=6))
    for who in (founder, person):
        finished_run(session, who.id)
    assert (counts(session), counted(session).own_runs) == (COUNTED, 1)
    session.add(OrgMember(org_id=org.id, user_id=person.id, role=role))
    session.commit()
    assert (counts(session), counted(session).own_runs) == (NOTHING, 2)
    assert_proved(session)
    session.delete(session.get_one(OrgMember, (org.id, person.id)))
    session.commit()
    assert (counts(session), counted(session).own_runs) == (COUNTED, 1)
    assert_proved(session)


def test_a_change_of_owner_updates_own_runs(
    session: Session, acme: Publisher, owner: User, rich: Payer
) -> None:
    mate = session.get_one(User, rich.id)
    org = factories.org(owner, members=(mate,))
    for who in (owner, mate, factories.user("stranger")):
        finished_run(session, who.id)
    assert (counted(session).runs, counted(session).own_runs) == (2, 1)
    publishers.link(owner, "acme", org.id)
    session.commit()
    assert (counted(session).runs, counted(session).own_runs, counted(session).unique_users) == (1, 2, 1)
    assert_proved(session)
    publishers.unlink(owner, "acme")
    session.commit()
    assert (counted(session).runs, counted(session).own_runs, counted(session).unique_users) == (2, 1, 2)
    assert_proved(session)


@pytest.mark.usefixtures("acme")
def test_own_runs_leave_the_window(session: Session, owner: User) -> None:
    finished_run(session, owner.id, created_at=NOW - timedelta(days=2))
    counting.advance_window(NOW + timedelta(days=1))
    counting.advance_window(NOW + timedelta(days=5.5))
    session.commit()
    assert counted(session).weekly_runs == 0
    assert_proved(session)


def test_the_api_excludes_own_runs(
    session: Session, acme: Publisher, owner: User, rich: Payer, app: Flask
) -> None:
    for _ in range(3):
        finished_run(session, owner.id)
    finished_run(session, rich.id)
    count_waiting(session)
    listed = next(
        each for each in app.test_client().get("/api/agents").get_json() if each["id"] == "reviewer"
    )
    assert (listed["usage_count"], listed["weekly_runs"], listed["unique_users"]) == (1, 1, 1)
    assert listed["version_stats"]["1.0.0"]["total_invocations"] == 1
    metrics = app.test_client().get("/api/agents/metrics").get_json()
    assert metrics["acme/reviewer"]["usage_count"] == 1
    page = app.test_client().get("/publishers/acme/agents/reviewer/1.0.0").get_data(as_text=True)
    assert "Publisher’s own runs</dt><dd>3 of 1.0.0, not counted above</dd>" in page


# -- concurrency ---------------------------------------------------------------------------------------------


def at_once(jobs: list[Callable[[], Any]], workers: int = 10) -> None:
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def finish_run(engine: Engine, run: str) -> None:
    with Session(engine) as own:
        finish(own, run)


@pytest.mark.usefixtures("acme")
def test_a_descendants_settlement_concurrent_with_the_finish_is_counted(
    session: Session, engine: Engine, gate: Pool, rich: Payer
) -> None:
    for _ in range(25):
        root = start(session, rich.id, called=False)
        below = start(session, rich.id, "base", called=False, ancestor_run_ids=[root])
        open_call = admit(gate, rich, hold=0, run_id=below)
        together = Barrier(2)

        def settled(open_call: Any = open_call, together: Barrier = together) -> None:
            together.wait()
            ledger.settle(gate, open_call, call(1), now=NOW)

        def end(run: str = root, together: Barrier = together) -> None:
            together.wait()
            finish_run(engine, run)

        at_once([settled, end], 2)
    assert counted(session).runs == 25
    assert_proved(session)


def test_trees_of_two_agents_end_and_settle_in_any_order(
    session: Session, engine: Engine, gate: Pool, acme: Publisher, rich: Payer
) -> None:
    chance = random.Random(8)
    people = [rich, *(payer(session, f"payer{n}") for n in range(3))]
    org: Org = factories.org(session.get_one(User, acme.user_id))
    publishers.link(session.get_one(User, acme.created_by), "acme", org.id)
    session.commit()
    jobs: list[Callable[[], Any]] = []
    late: list[Any] = []
    for who in people[1:]:
        give(session, who.account, 100_000)
    for _ in range(40):
        who = chance.choice(people)
        chain: list[str] = []
        for _ in range(chance.randrange(1, 5)):
            agent = chance.choice(("acme/reviewer@1.0.0", "acme/tester@1.0.0", "base"))
            chain.append(start(session, who.id, agent, called=False, ancestor_run_ids=list(chain)))
        jobs += [lambda run=run: finish_run(engine, run) for run in chain]
        late += [(admit(gate, who, hold=0, run_id=chain[-1]), call(1)) for _ in range(2)]
    chance.shuffle(late)
    jobs += [lambda batch=late[n : n + 4]: ledger.settle_many(gate, batch, now=NOW) for n in range(0, 60, 4)]
    jobs += [lambda each=each: ledger.settle(gate, *each, now=NOW) for each in late[60:]]

    def joins(user_id: str) -> None:
        with Session(engine) as own:
            own.add(OrgMember(org_id=org.id, user_id=user_id, role="member"))
            own.commit()

    def leaves() -> None:
        with Session(engine) as own:
            own.execute(text("DELETE FROM org_member WHERE user_id = :user"), {"user": people[1].id})
            own.commit()

    jobs += [lambda user=who.id: joins(user) for who in people[1:3]]
    jobs += [leaves]
    chance.shuffle(jobs)
    at_once(jobs)
    assert_proved(session)
    session.rollback()
    assert sum(each.runs + each.own_runs for each in session.query(Agent)) > 40
