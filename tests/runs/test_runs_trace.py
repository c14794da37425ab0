"""The trace of a run: order, nesting, limits, and no access to other accounts' runs."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert
from sqlalchemy.orm import Session as OrmSession

from models.core.errors import Invalid
from models.gateway import GatewayCall
from models.runs import AgentRun, AgentStep, history, trace, trace_rows
from models.runs.run_totals import RunTotals
from models.runs.trace import Trace, TraceBranch, build_tree
from tests import factories
from tests.factories import Person, now

pytestmark = pytest.mark.usefixtures("kind")


@pytest.fixture
def domain(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


START = now().replace(microsecond=0) - timedelta(hours=1)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def a_run(
    session: OrmSession, owner: Person, name: str = "base", end: float | None = 100, **kw: Any
) -> AgentRun:
    kw.setdefault("created_at", at(0))
    if end is not None:
        kw = {"completed_at": at(end), "status": "completed"} | kw
    return factories.run(owner.user, name, **kw)


def a_call(
    session: OrmSession, owner: Person, run: AgentRun, start: float, end: float, **kw: Any
) -> GatewayCall:
    times = {"started_at": at(start), "finished_at": at(end), "latency_ms": int((end - start) * 1000)}
    return factories.call(owner.user, run_id=run.id, **(times | kw))


def a_step(session: OrmSession, run: AgentRun, number: int, start: float, end: float, **kw: Any) -> AgentStep:
    return factories.step(run, number, created_at=at(start), completed_at=at(end), **kw)


def traced(viewer: Person, run: AgentRun, **kw: Any) -> Trace:
    return trace.trace_of(viewer.account_id, run.id, **kw)


def shape(found: Trace) -> list[tuple[int, str]]:
    return [(entry.depth, entry.name) for entry in found.window.entries]


def test_calls_and_spawned_runs_stand_below_the_step_that_names_them(
    domain: None, session: OrmSession, alice: Person
) -> None:
    run = a_run(session, alice)
    message = factories.message(alice.user, 3)
    a_call(session, alice, run, 1, 5, message=message, model="m1", ttft_ms=700)
    child = a_run(session, alice, "acme/helper@1.0.0", 9, parent=run, created_at=at(6))
    a_call(session, alice, child, 6.5, 8, model="m2", credits=2)
    # the client's clock is ten minutes behind: only the ids link this step to its call and its spawned run
    a_step(session, run, 1, -600, 9, message_id=message.id, child_run_ids=[child.id])
    a_step(session, run, 2, 10, 20)
    a_call(session, alice, run, 11, 12, model="m3", credits=1)
    a_call(session, alice, run, 50, 51, model="m4", credits=4)
    found = traced(alice, run)
    assert shape(found) == [
        (0, "base"),
        (1, "Step 1"),
        (2, "m1"),
        (2, "helper"),
        (3, "m2"),
        (1, "Step 2"),
        (2, "m3"),
        (1, "m4"),
    ]
    by_name = {entry.name: entry for entry in found.window.entries}
    assert by_name["Step 1"].credits == 5
    assert by_name["Step 2"].credits == 1
    assert by_name["base"].credits == 10
    assert by_name["Step 1"].starts == at(0), "a step does not begin before its run"
    assert by_name["m1"].first_token == at(1.7)
    assert (found.window.starts, found.window.ends) == (at(0), at(100))
    assert (found.window.earlier, found.window.later) == (None, None)


def test_a_step_reported_without_a_start_still_comes_before_its_call(
    domain: None, session: OrmSession, alice: Person
) -> None:
    run = a_run(session, alice)
    message = factories.message(alice.user, 3)
    a_call(session, alice, run, 1, 5, message=message, model="m1")
    a_step(session, run, 1, 6, 6, message_id=message.id)
    assert shape(traced(alice, run)) == [(0, "base"), (1, "Step 1"), (2, "m1")]


def test_failures_and_skipped_steps_say_so(domain: None, session: OrmSession, alice: Person) -> None:
    run = a_run(session, alice, status="failed")
    a_step(session, run, 1, 1, 2, status="skipped")
    a_step(session, run, 2, 3, 4, error_message="no luck")
    a_call(session, alice, run, 5, 6, state="failed", error="timed out", model=None, credits=0)
    states = [(entry.name, entry.state, entry.note) for entry in traced(alice, run).window.entries]
    assert states == [
        ("base", "failed", ""),
        ("Step 1", "skipped", ""),
        ("Step 2", "failed", "no luck"),
        ("stoa/demo", "failed", "timed out"),
    ]


def test_calls_in_flight_are_shown_open_with_what_is_held(
    domain: None, session: OrmSession, alice: Person, mallory: Person
) -> None:
    run = factories.run(alice.user, "base")
    child = factories.run(alice.user, "helper", parent=run)
    factories.hold(alice.user, 40, run_id=run.id, model="big")
    factories.hold(alice.user, 2, run_id=child.id, model="small")
    factories.hold(alice.user, 9, run_id=run.id, model="lost", state="lost", lost_at=now())
    factories.hold(mallory.user, 99, run_id=run.id, model="hers")
    found = traced(alice, run)
    assert sorted(shape(found)) == [(0, "base"), (1, "big"), (1, "helper"), (2, "small")]
    assert {entry.state for entry in found.window.entries} == {"open"}
    assert found.held == 42


def test_a_foreign_run_that_claims_mine_is_never_shown(
    domain: None, session: OrmSession, alice: Person, mallory: Person
) -> None:
    run = a_run(session, alice)
    claim = a_run(session, mallory, "evil", parent=run, created_at=at(1))
    a_call(session, mallory, claim, 2, 3, model="evil-model", credits=1000)
    a_call(session, mallory, run, 2, 3, model="evil-model", credits=1000)
    a_step(session, run, 1, 1, 5, child_run_ids=[claim.id])
    message = factories.message(mallory.user, 77)
    a_call(session, mallory, claim, 2, 3, message=message, model="evil-model")
    a_step(session, run, 2, 5, 6, message_id=message.id)
    found = traced(alice, run)
    assert shape(found) == [(0, "base"), (1, "Step 1"), (1, "Step 2")]
    assert (found.tree.children, found.unlisted, found.models) == ([], 0, [])
    assert found.window.entries[0].credits == 0


def test_a_run_below_a_missing_or_foreign_parent_hangs_on_the_nearest_of_mine(
    domain: None, session: OrmSession, alice: Person, mallory: Person
) -> None:
    run = a_run(session, alice)
    foreign = a_run(session, mallory, "evil", parent=run)
    a_run(session, alice, "far", parent=foreign, created_at=at(5))
    child = a_run(session, alice, "child", parent=run, created_at=at(6))
    a_run(session, alice, "grandchild", ancestor_run_ids=[run.id, child.id, "gone"], created_at=at(7))
    found = traced(alice, run)
    assert shape(found) == [(0, "base"), (1, "far"), (1, "child"), (2, "grandchild")]
    assert [branch.run.agent_name for branch in found.tree.children] == ["far", "child"]
    assert [branch.run.agent_name for branch in found.tree.children[1].children] == ["grandchild"]


def branch_names(branch: TraceBranch) -> dict[str, Any]:
    return {child.run.id: branch_names(child) for child in branch.children}


def bare(run_id: str, *ancestors: str) -> AgentRun:
    return AgentRun(id=run_id, agent_id=run_id, ancestor_run_ids=list(ancestors), created_at=START)


@pytest.mark.parametrize(
    ("family", "tree"),
    [
        ([], {}),
        ([bare("a", "root"), bare("b", "root", "a")], {"a": {"b": {}}}),
        ([bare("b", "root", "a"), bare("a", "root")], {"a": {"b": {}}}),
        ([bare("b", "root", "gone")], {"b": {}}),
        ([bare("a", "root", "b"), bare("b", "root", "a")], {"a": {"b": {}}}),
        ([bare("a", "root", "a")], {"a": {}}),
        ([bare("root", "root")], {}),
        ([bare("a", "a", "root")], {"a": {}}),
        ([bare("a", "c"), bare("b", "a"), bare("c", "b"), bare("d", "c")], {"a": {"b": {"c": {"d": {}}}}}),
    ],
)
def test_the_tree_holds_each_run_once_whatever_it_claims(
    family: list[AgentRun], tree: dict[str, Any]
) -> None:
    found = build_tree(bare("root"), family, {})
    assert branch_names(found) == tree
    assert found.totals == RunTotals()


def test_claimed_circles_do_not_hang_the_page(domain: None, session: OrmSession, alice: Person) -> None:
    run = a_run(session, alice)
    a_run(session, alice, "one", id="one", ancestor_run_ids=[run.id, "two"], created_at=at(1))
    a_run(session, alice, "two", id="two", ancestor_run_ids=[run.id, "one"], created_at=at(2))
    a_run(session, alice, "self", id="self", ancestor_run_ids=[run.id, "self"], created_at=at(3))
    found = traced(alice, run)
    assert sorted(branch_names(found.tree)) == ["one", "self"]
    assert traced(alice, session.get(AgentRun, "one")).window.entries
    loop = factories.run(alice.user, "loop", id="loop", ancestor_run_ids=["loop"])
    assert shape(traced(alice, loop)) == [(0, "loop")]


def test_sums_by_model_come_to_the_sum_of_the_run(domain: None, session: OrmSession, alice: Person) -> None:
    run = a_run(session, alice)
    child = a_run(session, alice, parent=run)
    for number in range(12):
        a_call(
            session, alice, child if number % 2 else run, number, number + 1, model=f"m{number:02}",
            credits=number, micro_credits=number * 1_000_000, output_tokens=number,
        )  # fmt: skip
    summary = history.summary_of(alice.account_id, run.id)
    models = traced(alice, run).models
    assert [model.model for model in models] == ["m11", "m10", "m09", "m08", "m07", "m06", "m05", "m04", ""]
    assert sum(model.usage.credits for model in models) == summary.totals.all.credits == 66
    assert sum(model.usage.output_tokens for model in models) == summary.totals.all.output_tokens
    assert models[-1].usage.calls == 4


def test_a_long_run_is_shown_in_windows_that_meet(domain: None, session: OrmSession, alice: Person) -> None:
    run = a_run(session, alice, end=2000)
    for number in range(150):
        a_step(session, run, number, number * 3, number * 3 + 2)
        a_call(session, alice, run, number * 3 + 0.5, number * 3 + 1, model=f"m{number}")
    forward: list[str] = []
    cursor, windows = None, []
    for _ in range(3):
        found = traced(alice, run, after=cursor)
        windows.append(found.window)
        forward += [name for _, name in shape(found)[1:]]
        cursor = found.window.later
        if not cursor:
            break
    assert len(windows) == 2
    assert forward == [name for number in range(150) for name in (f"Step {number}", f"m{number}")]
    back = traced(alice, run, before=windows[1].earlier)
    assert shape(back) == shape(traced(alice, run))
    last = traced(alice, run, tail=True)
    assert shape(last)[-1] == (2, "m149")
    assert last.window.earlier
    assert last.window.later is None
    assert windows[0].ends <= at(303)
    assert windows[1].starts >= at(299)
    past = traced(alice, run, after=cursor_past_the_end(windows[1]))
    assert shape(past) == [(0, "base")]


def cursor_past_the_end(window: trace.TraceWindow) -> str:
    return history.encode_cursor(window.ends + timedelta(hours=1), "2.0.zzz")


def test_a_window_that_begins_inside_a_step_knows_the_step(
    domain: None, session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "WINDOW", 4)
    run = a_run(session, alice)
    a_step(session, run, 1, 0, 50)
    for number in range(6):
        a_call(session, alice, run, number + 1, number + 2, model=f"m{number}", credits=1)
    first = traced(alice, run)
    assert shape(first) == [(0, "base"), (1, "Step 1"), (2, "m0"), (2, "m1"), (2, "m2")]
    assert first.window.entries[1].credits is None, "its other calls are in the next window"
    second = traced(alice, run, after=first.window.later)
    assert shape(second) == [(0, "base"), (2, "m3"), (2, "m4"), (2, "m5")]


@pytest.mark.parametrize("cursor", ["x", "MjAyNg"])
@pytest.mark.parametrize("direction", ["after", "before"])
def test_a_malformed_cursor_is_rejected(
    domain: None, session: OrmSession, alice: Person, cursor: str, direction: str
) -> None:
    run = a_run(session, alice)
    with pytest.raises(Invalid):
        traced(alice, run, **{direction: cursor})


@pytest.mark.parametrize("position", ["9.0.x", "0.-1.x", "0.2147483648.x", "0.99999999999.x"])
@pytest.mark.parametrize("direction", ["after", "before"])
def test_a_cursor_to_an_impossible_position_is_rejected(
    domain: None, session: OrmSession, alice: Person, position: str, direction: str
) -> None:
    run = a_run(session, alice)
    with pytest.raises(Invalid):
        traced(alice, run, **{direction: history.encode_cursor(START, position)})


def test_a_spawned_runs_calls_are_bounded(
    domain: None, session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_rows, "MAX_NESTED_CALLS", 3)
    run = a_run(session, alice)
    child = a_run(session, alice, "busy", parent=run, created_at=at(1))
    for number in range(5):
        a_call(session, alice, child, number + 2, number + 3, model=f"m{number}")
    found = traced(alice, run)
    assert shape(found) == [(0, "base"), (1, "busy"), (2, "m0"), (2, "m1"), (2, "m2")]
    assert found.window.entries[1].truncated


def test_deep_families_stop_indenting(domain: None, session: OrmSession, alice: Person) -> None:
    parent = run = a_run(session, alice)
    for number in range(7):
        parent = a_run(session, alice, f"r{number}", parent=parent, created_at=at(number + 1))
    assert [depth for depth, _ in shape(traced(alice, run))] == [0, 1, 2, 3, 4, 4, 4, 4]


def test_a_run_of_thousands_is_read_in_bounded_time(domain: None, session: OrmSession, alice: Person) -> None:
    run = a_run(session, alice, end=6000)
    account = factories.payer(alice.user, run.org_id)
    children = [
        {"id": f"child-{number}", "user_id": alice.id, "org_id": run.org_id, "agent_id": "helper", "ancestor_run_ids": [run.id],
         "created_at": at(number * 5)}
        for number in range(1000)
    ]  # fmt: skip
    session.execute(insert(AgentRun), children)
    steps = [
        {"agent_run_id": run.id, "step_number": number, "created_at": at(number * 5), "completed_at": at(number * 5 + 4)}
        for number in range(1000)
    ]  # fmt: skip
    session.execute(insert(AgentStep), steps)
    calls = [
        {"request_id": f"r{number}", "account_id": account.id, "user_id": alice.id, "run_id": run.id, "door": "openai",
         "requested_model": "m", "model": f"m{number % 5}", "state": "settled", "latency_ms": 500, "credits": 1,
         "started_at": at(number), "finished_at": at(number + 0.5)}
        for number in range(5000)
    ]  # fmt: skip
    session.execute(insert(GatewayCall), calls)
    session.commit()
    started = time.perf_counter()
    found = traced(alice, run)
    elapsed = time.perf_counter() - started
    print(f"{elapsed:.3f} s")
    assert elapsed < 5
    assert len(found.window.entries) <= 1 + trace.WINDOW + trace.MAX_TREE_RUNS + trace_rows.MAX_NESTED_CALLS
    assert found.unlisted == 800
    assert found.window.entries[0].credits == 5000
