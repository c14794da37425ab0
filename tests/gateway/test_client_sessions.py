"""Sessions of unmodified clients become trees of runs: without a change in the client, and without touching what its calls cost."""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models.accounts.credentials import hash_token
from models.accounts.key_format import new_secret
from models.core.db import now
from models.core.pool import Pool
from models.gateway.call_session import CallSession, read_session
from models.ledger import Account
from models.orgs import Org
from models.runs import AgentRun, ClientSessionRun
from models.runs.client_sessions import IDLE, end_idle_sessions
from models.runs.kill_switch import resume_account, stop_account
from models.runs.run_totals import totals_of
from tests import factories
from tests.factories import Person
from tests.gateway.conftest import MESSAGES, Facts

HELLO: dict[str, Any] = {"model": "openai/house-model", "max_tokens": 50, "messages": MESSAGES}
CLAUDE = {"x-claude-code-session-id": "3f1c0f52-7f3c-4d7e-9d9e-0c58a4f2a001"}
UUID = "0c58a4f2-7f3c-4d7e-9d9e-3f1c0f52a001"


def agent(id: str, parent: str = "", kind: str = "") -> dict[str, str]:
    """Headers of a sub-agent of Claude Code."""
    named = {"agent-id": id, "parent-agent-id": parent, "agent-type": kind}
    return CLAUDE | {f"x-claude-code-{name}": value for name, value in named.items() if value}


@pytest.fixture
def call(web: FlaskClient, gateway_app: Flask, rich: Person) -> Callable[..., Any]:
    """Send a call of alice, or of another person, with these headers."""
    gateway_app.extensions["gateway"].admitter.session_runs.clear()

    def post(
        headers: dict[str, str], person: Person = rich, path: str = "/v1/messages", **changes: Any
    ) -> Any:
        return web.post(path, json={**HELLO, **changes}, headers={**person.headers, **headers})

    return post


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements of the gateway's pool."""
    found: list[str] = []
    execute = Pool.execute

    def counting(self: Pool, query: str, *args: Any, **kwargs: Any) -> Any:
        found.append(query)
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(Pool, "execute", counting)
    return found


def runs(session: OrmSession) -> list[AgentRun]:
    session.rollback()
    return list(session.scalars(select(AgentRun).order_by(AgentRun.created_at, AgentRun.id)))


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, {}, None),
        ({}, {"metadata": {"user_id": "alice"}, "user": "u1", "prompt_cache_key": "k"}, None),
        ({"x-session-id": "s1", **CLAUDE}, {}, CallSession("client", "s1")),
        (CLAUDE, {}, CallSession("claude-code", CLAUDE["x-claude-code-session-id"])),
        (
            agent("a2", "a1", "Explore/é"),
            {},
            CallSession("claude-code", CLAUDE["x-claude-code-session-id"], "a2", "Explore-", "a1"),
        ),
        ({"session-id": "s", "thread-id": "s", "user-agent": "codex_exec/0.171"}, {}, CallSession("codex", "s")),
        (
            {"session-id": "s", "thread-id": "t", "x-codex-parent-thread-id": "s", "x-openai-subagent": "review",
             "user-agent": "codex_exec/0.171"},
            {},
            CallSession("codex", "s", "t", "review"),
        ),
        (
            {"session-id": "t", "thread-id": "t", "x-codex-parent-thread-id": "s", "x-codex-window-id": "w"},
            {},
            CallSession("codex", "s", "t"),
        ),
        (
            {"session-id": "s", "thread-id": "s", "user-agent": "codex_exec/0.171"},
            {"client_metadata": {"x-codex-window-id": "t:0", "session_id": "s", "thread_id": "t"}},
            CallSession("codex", "s", "t"),
        ),
        ({}, {"client_metadata": {"x-codex-window-id": "t:0", "session_id": 7}}, None),
        ({"x-session-affinity": "ses_1", "user-agent": "opencode/1.18"}, {}, CallSession("opencode", "ses_1")),
        ({}, {"metadata": {"user_id": json.dumps({"session_id": UUID})}}, CallSession("client", UUID)),
        (
            {"user-agent": "claude-cli/1.0"},
            {"metadata": {"user_id": f"user_{'a' * 64}_account__session_{UUID}"}},
            CallSession("claude-code", UUID),
        ),
        ({"x-session-id": "a" * 201}, {}, None),
        ({"x-session-id": "a b"}, {"metadata": {"user_id": "{"}}, None),
        ({}, {"metadata": {"user_id": '{"session_id": 7}'}}, None),
    ],
)  # fmt: skip
def test_signals_by_priority(headers: dict[str, str], body: Any, expected: CallSession | None) -> None:
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    assert read_session(environ, body) == expected


def test_a_session_and_its_sub_agents_become_a_tree(
    call: Callable[..., Any], session: OrmSession, rich: Person, facts: Facts, trips: list[str]
) -> None:
    sent = [
        *(CLAUDE, agent("a1", kind="Explore"), agent("a2", "a1", "Plan"), agent("a3", "unknown")),
        *(CLAUDE, agent("a2", "a1", "Plan")),
    ]
    for headers in sent:
        assert call(headers).status_code == 200
    asked = [query for query in trips if "client_session_run" in query]
    assert len(asked) == 4, "a session that is known costs no round trip"
    root, first, second, third = runs(session)
    assert [run.agent_id for run in (root, first, second, third)] == [
        *("claude-code", "claude-code/Explore", "claude-code/Plan", "claude-code/agent")
    ]
    assert [run.ancestor_run_ids for run in (root, first, second, third)] == [
        *([], [root.id], [root.id, first.id], [root.id])
    ]
    assert not any(run.publisher_id for run in (root, first, second, third)), "no figure of the store moves"
    assert [each.run_id for each in facts.calls()] == [
        *(root.id, first.id, second.id, third.id, root.id, second.id)
    ]
    page = rich.browser.get("/runs").text
    assert "Claude Code session" in page
    tree = rich.browser.get(f"/runs/{root.id}").text
    assert "Claude Code: Explore" in tree
    totals = totals_of(rich.id, [root.id, first.id])
    spent = sum(message.credits for message in facts.messages())
    assert (totals[root.id].all.calls, totals[root.id].all.credits) == (6, spent)
    assert (totals[first.id].own.calls, totals[first.id].all.calls) == (1, 3)


def test_calls_without_a_session_cost_no_round_trip_and_runs_of_their_own_count(
    call: Callable[..., Any], session: OrmSession, rich: Person, trips: list[str], facts: Facts
) -> None:
    assert rich.user
    call({})
    own = factories.run(rich.user)
    own_id = own.id
    call({"x-stoa-run-id": own_id, **CLAUDE})
    assert not any("client_session_run" in query for query in trips)
    assert [each.run_id for each in facts.calls()] == [None, own_id]


def test_what_a_call_is_for_is_kept_with_it(call: Callable[..., Any], rich: Person, facts: Facts) -> None:
    hints = {"x-claude-code-prompt-id": "p1", "x-claude-code-request-class": "main"}
    turn = json.dumps({"turn_id": "t1", "request_kind": "compaction"})
    codex = {"session-id": "s", "x-codex-window-id": "s:0", "x-codex-turn-metadata": turn}
    for headers in (CLAUDE | hints, codex, codex | {"x-codex-turn-metadata": "{"}, hints):
        assert call(headers).status_code == 200
    calls = facts.calls()
    assert [(each.parameters or {}).get("client") for each in calls] == [
        {"prompt_id": "p1", "request_class": "main"},
        {"prompt_id": "t1", "request_class": "compaction"},
        None,
        None,
    ]
    page = rich.browser.get(f"/calls/{calls[0].request_id}").text
    assert "request class main" in page
    assert "request_class" not in page, "it is no part of the request to send again"


def test_a_foreign_session_id_never_joins_another_account(
    call: Callable[..., Any], session: OrmSession, rich: Person, bob: Person, acme: Org, web: FlaskClient
) -> None:
    assert rich.user
    assert bob.user
    factories.grant(bob.user, 100)
    factories.grant(rich.user, 1000, type="organization", org_id=acme.id)
    org_key = {"authorization": f"Bearer {factories.token(rich.user, org_id=acme.id)}"}
    acme_id, users = acme.id, [rich.id, bob.id]
    for _ in range(2):
        assert call(CLAUDE).status_code == 200
        assert call(CLAUDE, bob).status_code == 200
        assert web.post("/v1/messages", json=HELLO, headers=org_key | CLAUDE).status_code == 200
        assert call({"x-stoa-org": acme_id, **CLAUDE}).status_code == 200
    found = [(run.user_id, run.org_id, run.paid_by) for run in runs(session)]
    alice, other = users
    assert sorted(found, key=repr) == sorted(
        [(alice, None, None), (other, None, None), (alice, acme_id, None), (alice, acme_id, "named")],
        key=repr,
    )


def test_keys_with_a_public_id_need_their_secret(
    call: Callable[..., Any], session: OrmSession, rich: Person, web: FlaskClient
) -> None:
    assert rich.user
    key = factories.api_key(rich.user)
    id, body = key[:32], key[32:75]
    other = new_secret(id)
    assert other != id + body
    for presented, status in ((key, 200), (other, 401)):
        headers = {"authorization": f"Bearer {presented}", "x-session-id": f"s-{status}"}
        assert web.post("/v1/messages", json=HELLO, headers=headers).status_code == status
    assert len(runs(session)) == 1


def test_several_workers_that_see_a_session_at_once_make_one_run(
    call: Callable[..., Any], session: OrmSession, rich: Person, gateway_app: Flask
) -> None:
    token, pool = rich.token, gateway_app.extensions["gateway"].pool
    found: list[Any] = []
    query = "SELECT client_session_run($1, NULL, NULL, NULL, 'codex', 's', $2, 'agent', '', 10, 10, now())"

    def ask(agent: str) -> None:
        found.append((agent, pool.execute(query, (hash_token(token), agent), timeout=20)[0][0]))

    threads = [threading.Thread(target=ask, args=(agent,)) for agent in ("", "a1") * 6]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert {each[1] for each in found} == {run.id for run in runs(session)}
    assert len(set(found)) == 2


def test_limits_of_new_sessions_leave_calls_without_a_run(
    call: Callable[..., Any],
    session: OrmSession,
    gateway_app: Flask,
    facts: Facts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_app.extensions["gateway"].admitter.session_runs, "_limits", (2, 100))
    for number in range(4):
        assert call({"x-session-id": f"s{number}"}).status_code == 200
    assert [each.run_id is None for each in facts.calls()] == [False, False, True, True]
    refused = call({"x-session-id": "s9", "x-stoa-run-budget": "5"})
    assert (refused.status_code, "needs a run" in refused.text) == (400, True)


def test_an_idle_session_ends_and_goes_on(
    call: Callable[..., Any], session: OrmSession, rich: Person, facts: Facts
) -> None:
    assert rich.user
    user = rich.user
    call(CLAUDE)
    call(agent("a1"))
    ids = [run.id for run in runs(session)]

    def end(after: timedelta) -> list[str]:
        session.rollback()
        end_idle_sessions(now() + after)
        session.commit()
        return [run.status for run in runs(session)]

    def age(hours: int) -> None:
        session.execute(
            text("UPDATE client_session SET ended_at = ended_at - :by"), {"by": timedelta(hours=hours)}
        )
        session.commit()

    assert end(IDLE - timedelta(seconds=30)) == ["running", "running"]
    session.execute(
        text(
            "UPDATE gateway_call SET started_at = started_at - :by, finished_at = finished_at - :by WHERE run_id = :id"
        ),
        {"by": IDLE, "id": ids[0]},
    )
    session.execute(
        text("UPDATE client_session SET opened_at = opened_at - :by WHERE run_id = :id"),
        {"by": IDLE, "id": ids[0]},
    )
    session.commit()
    # the sub-agent is at work
    assert end(timedelta(minutes=1)) == ["running", "running"]
    assert end(IDLE) == ["completed", "completed"]
    assert all(run.completed_at and run.completed_at <= now() for run in runs(session))
    # a worker whose cache still has the runs goes on with them
    once = agent("a1") | {"idempotency-key": "once"}
    first, again = call(once), call(once)
    assert (first.status_code, again.data == first.data) == (200, True)
    assert [run.status for run in runs(session)] == ["running", "running"]
    assert end(IDLE) == ["completed", "completed"]
    age(25)
    # on another day it is another run
    assert call(CLAUDE).status_code == 200
    assert [run.status for run in runs(session)] == ["completed", "completed", "running"]
    # what was stopped stays stopped
    account = Account(user_id=user.id)
    stop_account(account, user)
    session.commit()
    assert call(CLAUDE).status_code == 403
    resume_account(account, user)
    session.commit()
    assert call(CLAUDE).status_code == 200
    assert [run.status for run in runs(session)] == ["completed", "completed", "cancelled", "running"]
    assert facts.calls()[-1].run_id == runs(session)[-1].id
    assert len(session.scalars(select(ClientSessionRun)).all()) == 2


def test_the_envelope_of_a_session_is_not_lost_by_a_pause(
    call: Callable[..., Any], session: OrmSession, rich: Person
) -> None:
    headers = CLAUDE | {"x-stoa-run-budget": "50"}
    assert call(headers).status_code == 200
    session.rollback()
    end_idle_sessions(now() + IDLE)
    session.commit()
    answer = call(headers)
    assert (answer.status_code, answer.headers["X-Stoa-Run-Budget-Remaining"]) == (200, "50")
    assert [(run.status, run.envelope_run_id == run.id) for run in runs(session)] == [
        ("completed", True),
        ("running", True),
    ]
