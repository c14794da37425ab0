"""Budgets at the doors: who refused, in the words of each door; envelopes of runs by header; streams that outgrow a budget."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.ledger import Account, RunBudget, budgets
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events, wait
from tests.gateway.test_refusals_of_credit import CODEBUFF, MODEL, OPENAI, payload

LEFT = "X-Stoa-Run-Budget-Remaining"


@pytest.fixture
def member(session: OrmSession, acme: Org, alice: Person, bob: Person) -> tuple[dict[str, str], Account]:
    """Headers with bob's key of acme, which has 1,000 credits and gives each member 5 a day."""
    assert alice.user is not None
    assert bob.user is not None
    factories.grant(alice.user, 1000, "organization", org_id=acme.id)
    account = Account(org_id=acme.id)
    budgets.create_budget(account, "member", "day", 5)
    budgets.create_budget(account, "account", "month", 900)
    session.commit()
    return {"authorization": f"Bearer {factories.token(bob.user, org_id=acme.id)}"}, account


@pytest.mark.parametrize("path", [OPENAI, CODEBUFF])
def test_a_member_over_budget_learns_whose_it_is_and_who_can_raise_it(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    member: tuple[dict[str, str], Account],
    bob: Person,
    acme: Org,
    path: str,
) -> None:
    headers, account = member
    assert bob.user is not None
    run = factories.run(bob.user, org_id=acme.id)
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": MESSAGES,
        "max_tokens": 10_000,
        "codebuff_metadata": {"run_id": run.id},
    }
    answer = web.post(path, json=body, headers=headers)
    assert answer.status_code == 402
    error = answer.json["error"]
    assert error["code"] == "budget_exceeded"
    for part in (
        "The budget of the member bob is 5 credits a day",
        "5 are free",
        f"needs up to {error['details']['needed']}",
        "resets in",
        "alice can",
    ):
        assert part in error["message"]
    if path == CODEBUFF:
        assert answer.json["message"] == error["message"]
    details = error["details"]
    assert (details["level"], details["name"], details["limit"], details["free"]) == ("member", "bob", 5, 5)
    assert details["raised_by"] == ["alice"]
    assert details["request_url"] == f"http://localhost:8000/budgets/{details['budget_id']}"
    assert [each["level"] for each in details["chain"]] == ["wallet", "member", "account"]
    assert details["chain"][0]["free"] == 1000
    assert fake.requests == []
    # less fits
    assert web.post(path, json=body | {"max_tokens": 1000}, headers=headers).status_code == 200
    # and a call in flight leaves too little, for a while
    budget_id = details["budget_id"]
    budgets.change_budget(account, budget_id, limit_credits=15, warn_percent=80, hard=True, count_byok=False)
    factories.hold(bob.user, 8, account_id=acme.id, model=MODEL)
    session.commit()
    waits = web.post(path, json=body, headers=headers)
    assert (waits.status_code, waits.json["error"]["code"]) == (429, "budget_held")
    assert "Try again when the calls in flight end" in waits.json["error"]["message"]
    assert int(waits.headers["Retry-After"]) >= 1


def test_anthropic_clients_get_the_details_in_their_format(
    web: FlaskClient, member: tuple[dict[str, str], Account]
) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 10_000}
    answer = web.post(OPENAI, json=body, headers=member[0] | {"anthropic-version": "2023-06-01"})
    error = answer.json["error"]
    assert (answer.status_code, error["type"], error["details"]["level"]) == (402, "billing_error", "member")


def test_the_envelope_of_a_run_is_named_by_a_header_and_told_by_each_answer(
    web: FlaskClient, session: OrmSession, rich: Person, facts: Facts
) -> None:
    start = {"action": "START", "agentId": "acme/reviewer@1.0.0"}
    run_id = web.post("/api/v1/agent-runs", json=start | {"runBudget": 20}, headers=rich.headers).json[
        "runId"
    ]
    headers = rich.headers | {"x-stoa-run-id": run_id}
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1000}
    answer = web.post(OPENAI, json=body, headers=headers | {"x-stoa-run-budget": "500"})
    spent = facts.call().credits
    assert (answer.status_code, answer.headers[LEFT]) == (200, str(20 - spent))
    # a sub-run takes its envelope from it, and gives back what it leaves
    child = start | {"ancestorRunIds": [run_id]}
    refused = web.post("/api/v1/agent-runs", json=child | {"runBudget": 30}, headers=rich.headers)
    assert (refused.status_code, "asks for 30" in refused.json["error"]) == (402, True)
    with_header = rich.headers | {"x-stoa-run-budget": "15"}
    sub_run = web.post("/api/v1/agent-runs", json=child, headers=with_header).json["runId"]
    over = web.post(OPENAI, json=body | {"max_tokens": 10_000}, headers=headers)
    assert (over.status_code, over.json["error"]["details"]["level"]) == (402, "run")
    assert "Start a run with a larger x-stoa-run-budget" in over.json["error"]["message"]
    end = {
        "action": "FINISH",
        "runId": sub_run,
        "status": "completed",
        "totalSteps": 0,
        "directCredits": 0,
        "totalCredits": 0,
    }
    web.post("/api/v1/agent-runs", json=end, headers=rich.headers)
    assert web.post(OPENAI, json=body | {"max_tokens": 10_000}, headers=headers).status_code == 200


@pytest.mark.parametrize(("value", "run"), [("three", True), ("-1", True), ("1.5", True), ("20", False)])
def test_an_envelope_that_is_none_is_refused_after_the_key(
    web: FlaskClient, rich: Person, fake: FakeUpstream, value: str, run: bool
) -> None:
    assert rich.user is not None
    named = {"x-stoa-run-id": factories.run(rich.user).id} if run else {}
    body = {"model": MODEL, "messages": MESSAGES}
    headers = {"x-stoa-run-budget": value, **named}
    answer = web.post(OPENAI, json=body, headers=rich.headers | headers)
    assert (answer.status_code, "x-stoa-run-budget" in answer.json["error"]["message"]) == (400, True)
    unknown = web.post(OPENAI, json=body, headers=headers | {"authorization": "Bearer cb-pat-unknown"})
    assert unknown.status_code == 401
    assert fake.requests == []


def test_a_stream_ends_where_its_budget_does(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    budgets.create_budget(rich.account, "key", "day", 10)
    session.commit()
    # 20,000 tokens: 23 credits
    long = [fakes.chunk({"content": "yes " * 100}) for _ in range(200)]
    fake.will(
        fakes.stream(
            [*long, fakes.chunk({}, "stop"), fakes.chunk(None, usage=fakes.usage(100, 20_000)), "[DONE]"]
        )
    )
    answer = web.post(OPENAI, json=payload(rich, stream=True, max_tokens=50_000), headers=rich.headers)
    last = events(answer.data)[-1]["error"]
    assert last["code"] == "budget_exceeded"
    assert "The budget of the key" in last["message"]
    wait(lambda: facts.holds() == 0)
    assert 5 <= facts.call().credits <= 10


def test_an_agents_own_budget_is_the_default_of_its_runs(
    web: FlaskClient, session: OrmSession, rich: Person, acme: Org
) -> None:
    publisher = factories.publisher(acme, "acme-tools")
    data = {"runBudget": 40}
    factories.agent_version(publisher, data=data)
    start: dict[str, Any] = {"action": "START", "agentId": "acme-tools/reviewer@1.0.0"}

    def limit_of(**more: Any) -> list[tuple[int, str]]:
        answer = web.post("/api/v1/agent-runs", json=start | more, headers=rich.headers)
        session.rollback()
        query = select(RunBudget.limit_credits, RunBudget.source).where(
            RunBudget.run_id == answer.json["runId"]
        )
        return [tuple(row) for row in session.execute(query)]

    assert limit_of() == [(40, "agent")]
    assert limit_of(runBudget=90) == [(90, "start")]
    parent = web.post("/api/v1/agent-runs", json=start | {"runBudget": 30}, headers=rich.headers).json[
        "runId"
    ]
    # the run above leaves less: its budget is shared
    assert limit_of(ancestorRunIds=[parent]) == []
