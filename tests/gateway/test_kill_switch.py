"""Stopping all agents of an account: running calls end, holds are free, new calls are refused until it is resumed."""

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models import ledger
from models.accounts import User
from models.ledger import Account
from models.runs import AgentRun
from models.runs.kill_switch import resume_account, stop_account, stop_report
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events, wait

OPENAI, CODEBUFF = "/v1/chat/completions", "/api/v1/chat/completions"
TEXT = "yes " * 100


def user_of(person: Person) -> User:
    assert person.user is not None
    return person.user


def paid_by(person: Person) -> Account:
    return Account(user_id=user_of(person).id)


@pytest.mark.parametrize("path", [OPENAI, CODEBUFF])
@pytest.mark.parametrize("stream", [True, False])
def test_a_running_answer_ends_with_a_terminal_event_and_what_was_produced_is_settled(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    path: str,
    stream: bool,
) -> None:
    run = factories.run(user_of(rich))
    run_id = run.id
    gate = threading.Event()
    fake.will(fakes.pausing([fakes.chunk({"content": TEXT}) for _ in range(3)], gate, 2))
    body = {"model": "openai/house-model", "messages": MESSAGES, "stream": stream}
    body["codebuff_metadata"] = {"run_id": run_id}
    answers: list[Any] = []

    def call() -> None:
        answers.append(web.application.test_client().post(path, json=body, headers=rich.headers))
        answers[0].data  # noqa: B018

    calling = threading.Thread(target=call)
    calling.start()
    gateway = web.application.extensions["gateway"]
    wait(lambda: any(call._abort for call in gateway.hold_renewer.calls()) and fake.requests)
    stop, new = stop_account(paid_by(rich), user_of(rich))
    assert new
    session.commit()
    calling.join(50)
    gate.set()
    error = events(answers[0].data)[-1]["error"] if stream else answers[0].json["error"]
    assert (error["code"], answers[0].status_code) == ("account_stopped", 200 if stream else 403)
    assert "Resume them at http" in error["message"]
    assert b"[DONE]" not in answers[0].data
    assert facts.holds() == 0
    made = facts.call()
    if made.state == "settled":  # else nothing had arrived yet
        assert (made.error, made.usage_source) == ("account_stopped", "counted")
        assert made.output_tokens >= 100
    report = stop_report(stop)
    assert (report.calls, report.live, report.settled) == (1, 0, made.credits)
    assert [(group.name, group.calls) for group in report.runs] == [
        (run_id if path == CODEBUFF else "no run", 1)
    ]
    assert (session.get_one(AgentRun, run_id).status, [each["id"] for each in stop.runs]) == (
        "cancelled",
        [run_id],
    )

    # refused in each door's words, also without a hold
    for keys in ({}, {"model": "openai/free-model"}):
        refused = web.post(path, json={**body, **keys}, headers=rich.headers)
        assert refused.status_code == 403
        code = refused.json["error"] if path == CODEBUFF else refused.json["error"]["code"]
        assert code == "account_stopped"
    assert len(fake.requests) == 1
    assert stop_account(paid_by(rich), user_of(rich)) == (stop, False)
    assert resume_account(paid_by(rich), user_of(rich)) == stop
    session.commit()
    fake.will(fakes.answer())
    body["codebuff_metadata"] = {"run_id": factories.run(user_of(rich)).id}
    assert web.post(path, json={**body, "stream": False}, headers=rich.headers).status_code == 200
    assert ledger.prove().clean


def test_a_call_that_waits_for_its_provider_ends_too_and_costs_nothing(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(fakes.silent(60))
    answers: list[Any] = []
    body = {"model": "openai/gpt-5", "messages": MESSAGES, "stream": True}

    def call() -> None:
        answers.append(web.application.test_client().post(OPENAI, json=body, headers=rich.headers))

    calling = threading.Thread(target=call)
    calling.start()
    wait(lambda: fake.requests)
    stop, _ = stop_account(paid_by(rich), user_of(rich))
    session.commit()
    calling.join(50)
    assert (answers[0].status_code, answers[0].json["error"]["code"]) == (403, "account_stopped")
    # not sent again, and to no other provider
    assert len(fake.requests) == 1
    assert (facts.call().state, facts.call().error) == ("failed", "account_stopped")
    assert stop_report(stop).freed > 0


def test_the_calls_of_others_go_on(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, rich: Person, bob: Person, facts: Facts
) -> None:
    factories.grant(user_of(bob), 100)
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks(), gate, 2))
    body = {"model": "openai/house-model", "messages": MESSAGES, "stream": True}
    answer = web.post(OPENAI, json=body, headers=bob.headers, buffered=False)
    assert next(iter(answer.response))
    stop_account(paid_by(rich), user_of(rich))
    session.commit()
    gate.set()
    assert b"[DONE]" in answer.data
    wait(lambda: facts.holds() == 0)
