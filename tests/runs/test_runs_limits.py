"""Write limits of runs: exact under concurrency, explained in the error, configurable by the operator."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import WriteQuota
from models.core.settings import Settings
from models.runs import AgentRun, AgentRunVolume, AgentStep
from tests import factories
from tests.factories import Person, now

RUNS = "/api/v1/agent-runs"
START = {"action": "START", "agentId": "my-agent"}
FINISH: dict[str, Any] = {
    "action": "FINISH",
    "status": "completed",
    "totalSteps": 3,
    "directCredits": 1,
    "totalCredits": 2,
}


@pytest.fixture
def limit(app: Flask, settings: Settings) -> Iterator[Any]:
    """Set limits of the running application for one test."""

    def change(**limits: int) -> None:
        app.extensions["settings"] = app.extensions["settings"].model_copy(update=limits)

    yield change
    app.extensions["settings"] = settings


def post(who: Person, path: str, body: Any) -> TestResponse:
    return who.browser.post(path, data=json.dumps(body), headers=who.headers)


def start(who: Person, **more: Any) -> str:
    answer = post(who, RUNS, START | more)
    assert answer.status_code == 200, answer.text
    return str(answer.get_json()["runId"])


def step(who: Person, run: str, number: int, **more: Any) -> TestResponse:
    return post(who, f"{RUNS}/{run}/steps", {"stepNumber": number} | more)


def count(session: OrmSession, table: type[Any]) -> int:
    session.rollback()
    return session.scalar(select(func.count()).select_from(table)) or 0


def error_text(answer: TestResponse, status: int, setting: str) -> str:
    """The error message. It names the setting; a 429 has Retry-After."""
    message = str(answer.get_json()["error"])
    assert answer.status_code == status, message
    assert setting in message
    assert ("Retry-After" in answer.headers) == (status == 429)
    return message


def test_runs_a_minute_and_a_day(session: OrmSession, alice: Person, bob: Person, limit: Any) -> None:
    limit(stoa_runs_per_minute=3, stoa_runs_per_day=5)
    for _ in range(3):
        start(alice)
    refused = post(alice, RUNS, START)
    message = error_text(refused, 429, "STOA_RUNS_PER_MINUTE")
    assert "limited to 3 runs a minute and has used 3" in message
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    start(bob)
    assert count(session, AgentRun) == 4
    session.execute(text("UPDATE write_quota SET until = now() WHERE name = 'runs a minute'"))
    session.commit()
    for _ in range(2):
        start(alice)
    refused = post(alice, RUNS, START)
    assert "limited to 5 runs a day and has used 5" in error_text(refused, 429, "STOA_RUNS_PER_DAY")
    assert 86_000 < int(refused.headers["Retry-After"]) <= 86_400
    assert count(session, AgentRun) == 6


def test_what_was_refused_is_not_counted(session: OrmSession, alice: Person, limit: Any) -> None:
    limit(stoa_runs_per_minute=2)
    for _ in range(2):
        start(alice)
    for _ in range(5):
        assert post(alice, RUNS, START).status_code == 429
    session.rollback()
    assert {row.used for row in session.scalars(select(WriteQuota)) if row.name.startswith("runs a")} == {2}


def test_open_runs(session: OrmSession, alice: Person, limit: Any) -> None:
    limit(stoa_open_runs=2)
    first = start(alice)
    start(alice)
    message = error_text(post(alice, RUNS, START), 409, "STOA_OPEN_RUNS")
    assert "2 of 2" in message
    assert "FINISH" in message
    assert post(alice, RUNS, FINISH | {"runId": first}).status_code == 200
    start(alice)
    assert post(alice, RUNS, START).status_code == 409
    session.execute(
        text("UPDATE agent_run SET created_at = :long_ago WHERE status = 'running'"),
        {"long_ago": now() - timedelta(days=1, minutes=1)},
    )
    session.commit()
    start(alice)


def test_steps_a_minute_through_both_doors(session: OrmSession, alice: Person, limit: Any) -> None:
    limit(stoa_steps_per_minute=5)
    run = start(alice)
    for number in range(3):
        assert step(alice, run, number).status_code == 200
    many = {"runId": run, "steps": [{"stepNumber": number} for number in range(10, 13)]}
    error_text(post(alice, RUNS, FINISH | many), 429, "STOA_STEPS_PER_MINUTE")
    assert count(session, AgentStep) == 3
    session.rollback()
    assert session.scalar(select(AgentRun.status)) == "running"
    many["steps"] = [{"stepNumber": 10}, {"stepNumber": 0}]  # 0 exists
    assert post(alice, RUNS, FINISH | many).status_code == 200
    error_text(step(alice, run, 50), 429, "STOA_STEPS_PER_MINUTE")
    many["steps"] = [{"stepNumber": number} for number in range(20, 40)]
    message = error_text(post(alice, RUNS, FINISH | many), 413, "STOA_STEPS_PER_MINUTE")
    assert "has 21 steps and finishes" in message
    assert "Split the request" in message


def test_finishes_alone_are_limited(alice: Person, limit: Any) -> None:
    limit(stoa_steps_per_minute=3)
    run = start(alice)
    statuses = [post(alice, RUNS, FINISH | {"runId": run}).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    # finishing an unknown run writes and counts nothing
    assert post(alice, RUNS, FINISH | {"runId": "nobody's"}).status_code == 200


def test_steps_of_a_run(session: OrmSession, alice: Person, limit: Any) -> None:
    limit(stoa_steps_per_run=2)
    run, other = start(alice), start(alice)
    for number in range(2):
        assert step(alice, run, number).status_code == 200
    message = error_text(step(alice, run, 2), 409, "STOA_STEPS_PER_RUN")
    assert "Steps of this run: 2 of 2" in message
    assert "Finish it and start another" in message
    assert step(alice, other, 2).status_code == 200
    assert step(alice, run, 1).status_code == 500  # duplicate step number
    many = {"runId": other, "steps": [{"stepNumber": number} for number in range(10, 13)]}
    error_text(post(alice, RUNS, FINISH | many), 409, "STOA_STEPS_PER_RUN")
    assert post(alice, RUNS, FINISH | {"runId": run}).status_code == 200
    assert count(session, AgentStep) == 3


LONG = {"errorMessage": "e" * 900}
WIDE = {"errorMessage": "\N{LARGE ORANGE CIRCLE}" * 225}  # also 900 bytes
DEEP = {"childRunIds": ["c" * 99] * 9}


@pytest.mark.parametrize("size", [LONG, WIDE, DEEP, {"messageId": "m" * 500, "errorMessage": "e" * 400}])
def test_bytes_of_a_step_a_run_and_a_day(session: OrmSession, alice: Person, limit: Any, size: Any) -> None:
    limit(stoa_step_bytes=1_050)
    run = start(alice)
    error_text(step(alice, run, 1, **size), 413, "STOA_STEP_BYTES")
    many = {"runId": run, "steps": [{"stepNumber": 1} | size]}
    error_text(post(alice, RUNS, FINISH | many), 413, "STOA_STEP_BYTES")
    limit(stoa_step_bytes=2_000, stoa_run_bytes=2_500)
    assert [step(alice, run, number, **size).status_code for number in (1, 2)] == [200, 200]
    error_text(step(alice, run, 3, **size), 409, "STOA_RUN_BYTES")
    limit(stoa_run_bytes=100_000, stoa_run_bytes_per_day=4_000)
    assert step(alice, run, 3, **size).status_code == 200
    error_text(step(alice, run, 4, **size), 429, "STOA_RUN_BYTES_PER_DAY")
    error_text(
        post(alice, RUNS, FINISH | {"runId": run, "errorMessage": "e" * 900}), 429, "STOA_RUN_BYTES_PER_DAY"
    )
    error_text(post(alice, RUNS, START | {"ancestorRunIds": ["a" * 90] * 10}), 429, "STOA_RUN_BYTES_PER_DAY")
    assert count(session, AgentStep) == 3


def test_an_error_message_is_cut_before_it_is_counted(alice: Person, limit: Any) -> None:
    limit(stoa_step_bytes=21_000)
    assert step(alice, start(alice), 1, errorMessage="e" * 400_000).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (RUNS, START | {"junk": "x" * 6_000_000}),
        (RUNS, FINISH | {"runId": "x", "errorMessage": "x" * 6_000_000}),
        (f"{RUNS}/x/steps", {"stepNumber": 1, "errorMessage": "x" * 1_100_000}),
    ],
)
def test_a_request_that_is_too_large_is_not_read(alice: Person, path: str, body: Any) -> None:
    answer = post(alice, path, body)
    assert answer.status_code == 413
    assert "in several requests" in answer.get_json()["error"]


def test_parallel_writers_share_one_limit(app: Flask, session: OrmSession, alice: Person, limit: Any) -> None:
    limit(stoa_runs_per_minute=7, stoa_open_runs=5, stoa_steps_per_minute=11, stoa_steps_per_run=6)

    def in_parallel(*jobs: tuple[str, Any]) -> Counter[int]:
        def one(job: tuple[str, Any]) -> int:
            answer = app.test_client().post(job[0], data=json.dumps(job[1]), headers=alice.headers)
            return answer.status_code

        with ThreadPoolExecutor(12) as pool:
            return Counter(pool.map(one, jobs))

    assert in_parallel(*[(RUNS, START)] * 24) == {200: 5, 409: 19}
    runs = session.scalars(select(AgentRun.id)).all()
    assert in_parallel(*[(RUNS, FINISH | {"runId": run}) for run in runs]) == {200: 5}
    assert in_parallel(*[(RUNS, START)] * 24) == {200: 2, 429: 22}
    steps = [(f"{RUNS}/{runs[0]}/steps", {"stepNumber": number}) for number in range(24)]
    assert in_parallel(*steps)[200] == 6  # five of the eleven per minute were finishes
    assert count(session, AgentStep) == 6
    assert session.scalars(select(AgentRunVolume.steps)).all() == [6]


def test_a_real_session_of_the_sdk_is_far_from_every_limit(alice: Person) -> None:
    run = start(alice, agentId="acme/reviewer@1.0.0")
    children = [start(alice, ancestorRunIds=[run]) for _ in range(20)]
    for number in range(200):
        done = step(alice, run, number, childRunIds=children, messageId=factories.new_id())
        assert done.status_code == 200, done.text
    assert post(alice, RUNS, FINISH | {"runId": run}).status_code == 200
    steps = [{"stepNumber": number, "childRunIds": children} for number in range(1000)]
    assert post(alice, RUNS, FINISH | {"runId": children[0], "steps": steps}).status_code == 200
