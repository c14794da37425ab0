"""The JSON API of runs: every row of the contract's tables (2.3, 0.4), and hostile bodies."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.runs import AgentRun, AgentStep
from tests import factories
from tests.factories import Person

pytestmark = pytest.mark.usefixtures("kind")

RUNS = "/api/v1/agent-runs"
FINISH: dict[str, Any] = {
    "action": "FINISH",
    "runId": "x",
    "status": "completed",
    "totalSteps": 3,
    "directCredits": 1.5,
    "totalCredits": 2,
}
NO_KEY = {"error": "Missing or invalid Authorization header"}
UNKNOWN_KEY = {"error": "Invalid API key or user not found"}


def post(who: Person, path: str, body: Any, **kw: Any) -> TestResponse:
    """Post like the SDK: a JSON string without the JSON content type."""
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return who.browser.post(
        path, data=data, headers=who.headers, content_type="text/plain;charset=UTF-8", **kw
    )


def start(who: Person, **kw: Any) -> str:
    answer = post(who, RUNS, {"action": "START", "agentId": "my-agent"} | kw)
    assert answer.status_code == 200, answer.text
    return str(answer.json["runId"])


def the_run(session: OrmSession, run_id: str) -> AgentRun:
    session.expire_all()
    run = session.get(AgentRun, run_id)
    assert run is not None
    return run


def steps_of(session: OrmSession, run_id: str) -> list[AgentStep]:
    session.expire_all()
    query = select(AgentStep).where(AgentStep.agent_run_id == run_id).order_by(AgentStep.step_number)
    return list(session.scalars(query))


# -- authentication ------------------------------------------------------------------------------------------

PATHS = [RUNS, f"{RUNS}/some-run/steps"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "InvalidFormat"},
        {"authorization": "Basic abc"},
        {"authorization": "bearer abc"},
        {"authorization": "Bearer "},
        {"x-codebuff-api-key": ""},
    ],
)
def test_without_a_key_401_before_anything_else(
    client: FlaskClient, path: str, headers: dict[str, str]
) -> None:
    answer = client.post(path, data="not json", headers=headers)
    assert (answer.status_code, answer.json) == (401, NO_KEY)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["unknown", "cb-pat-" + "0" * 64, "é", " x "])
def test_an_unknown_key_is_404_before_the_body_is_read(client: FlaskClient, path: str, key: str) -> None:
    answer = client.post(path, data="not json", headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json) == (404, UNKNOWN_KEY)


@pytest.mark.parametrize("path", PATHS)
def test_an_expired_key_is_unknown(
    client: FlaskClient, session: OrmSession, alice: Person, path: str
) -> None:
    key = factories.token(alice.user, expires=datetime.now(UTC) - timedelta(seconds=1))
    answer = client.post(path, data="{}", headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json) == (404, UNKNOWN_KEY)


def test_a_cookie_alone_is_no_key(alice: Person) -> None:
    answer = alice.browser.post(RUNS, data='{"action":"START","agentId":"x"}')
    assert (answer.status_code, answer.json) == (401, NO_KEY)


@pytest.mark.parametrize("type_", ["web", "cli", "pat"])
def test_any_kind_of_session_is_a_key(
    client: FlaskClient, session: OrmSession, alice: Person, type_: str
) -> None:
    key = factories.token(alice.user, type=type_)
    answer = client.post(RUNS, data='{"action":"START","agentId":"x"}', headers={"x-codebuff-api-key": key})
    assert answer.status_code == 200


def test_the_acting_user_header_changes_nobody(session: OrmSession, alice: Person, mallory: Person) -> None:
    answer = mallory.browser.post(
        RUNS,
        data='{"action":"START","agentId":"x"}',
        headers={**mallory.headers, "x-freebuff-acting-user-id": alice.id},
    )
    assert the_run(session, answer.json["runId"]).user_id == mallory.id


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_405(alice: Person, method: str, path: str) -> None:
    assert getattr(alice.browser, method)(path, headers=alice.headers).status_code == 405


# -- bodies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    ["", "{", "nope", '{"a":NaN}', '{"a":Infinity}', b"\xff\xfe", '{"a":"\\u0000"}', '{"a":1}x', "[" * 5000],
)
def test_what_is_not_json_is_400(alice: Person, path: str, body: str | bytes) -> None:
    answer = post(alice, path, body)
    assert (answer.status_code, answer.json) == (400, {"error": "Invalid JSON in request body"})


@pytest.mark.parametrize(
    "body", [{}, {"action": "PAUSE"}, {"action": None}, {"action": 1}, {"action": ["START"]}]
)
def test_an_unknown_action_is_400(alice: Person, body: Any) -> None:
    answer = post(alice, RUNS, body)
    details = {"_errors": [], "action": {"_errors": ["Invalid input"]}}
    assert (answer.status_code, answer.json) == (400, {"error": "Invalid request body", "details": details})


@pytest.mark.parametrize("body", ["[]", "null", "1", '"x"', "true"])
def test_a_body_that_is_no_object_is_400(alice: Person, body: str) -> None:
    for path in PATHS:
        answer = post(alice, path, body)
        assert answer.status_code == 400
        assert answer.json["error"] == "Invalid request body"
        assert answer.json["details"]["_errors"]


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"agentId": None}, "agentId", "Invalid input: expected string, received null"),
        ({"agentId": 1}, "agentId", "Invalid input: expected string, received number"),
        ({"agentId": "x" * 501}, "agentId", "Too big: expected string to have <=500 characters"),
        ({"ancestorRunIds": "x"}, "ancestorRunIds", "Invalid input: expected array, received string"),
        ({"ancestorRunIds": None}, "ancestorRunIds", "Invalid input: expected array, received null"),
        ({"ancestorRunIds": ["x"] * 101}, "ancestorRunIds", "Too big: expected array to have <=100 items"),
    ],
)
def test_a_start_of_the_wrong_shape_is_400(alice: Person, change: Any, key: str, message: str) -> None:
    answer = post(alice, RUNS, {"action": "START", "agentId": "a"} | change)
    assert answer.status_code == 400
    assert answer.json == {
        "error": "Invalid request body",
        "details": {"_errors": [], key: {"_errors": [message]}},
    }


def test_a_start_without_agent_says_what_is_missing(alice: Person) -> None:
    answer = post(alice, RUNS, {"action": "START"})
    message = "Invalid input: expected string, received undefined"
    assert answer.json["details"] == {"_errors": [], "agentId": {"_errors": [message]}}


def test_a_wrong_ancestor_is_named_by_its_place(alice: Person) -> None:
    answer = post(alice, RUNS, {"action": "START", "agentId": "a", "ancestorRunIds": ["x", 2]})
    message = "Invalid input: expected string, received number"
    assert answer.json["details"]["ancestorRunIds"] == {"_errors": [], "1": {"_errors": [message]}}


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"runId": 1}, "runId", "Invalid input: expected string, received number"),
        (
            {"status": "running"},
            "status",
            'Invalid option: expected one of "completed"|"failed"|"cancelled"',
        ),
        ({"totalSteps": -1}, "totalSteps", "Too small: expected number to be >=0"),
        ({"totalSteps": 1.5}, "totalSteps", "Invalid input: expected int, received number"),
        ({"totalSteps": "3"}, "totalSteps", "Invalid input: expected number, received string"),
        ({"totalSteps": True}, "totalSteps", "Invalid input: expected number, received boolean"),
        ({"totalSteps": 2**31}, "totalSteps", "Too big: expected number to be <=2147483647"),
        ({"directCredits": -0.01}, "directCredits", "Too small: expected number to be >=0"),
        ({"totalCredits": "1"}, "totalCredits", "Invalid input: expected number, received string"),
        ({"totalCredits": 1e300}, "totalCredits", "Too big: expected number to be <=1000000000000000"),
        ({"errorMessage": None}, "errorMessage", "Invalid input: expected string, received null"),
        ({"steps": {}}, "steps", "Invalid input: expected array, received object"),
    ],
)
def test_a_finish_of_the_wrong_shape_is_400(alice: Person, change: Any, key: str, message: str) -> None:
    answer = post(alice, RUNS, FINISH | change)
    assert answer.status_code == 400
    assert answer.json == {
        "error": "Invalid request body",
        "details": {"_errors": [], key: {"_errors": [message]}},
    }


# -- start ---------------------------------------------------------------------------------------------------


def test_start_makes_a_running_run_of_the_caller(session: OrmSession, alice: Person) -> None:
    run_id = start(alice, agentId="acme/reviewer@2.4.1", ancestorRunIds=["root", "parent"], id="mine")
    run = the_run(session, run_id)
    assert str(uuid.UUID(run_id)) == run_id
    assert (run.user_id, run.status, run.ancestor_run_ids) == (alice.id, "running", ["root", "parent"])
    assert (run.publisher_id, run.agent_name, run.agent_version) == ("acme", "reviewer", "2.4.1")
    assert (run.root_run_id, run.parent_run_id, run.depth) == ("root", "parent", 2)
    assert run.completed_at is None


def test_start_takes_an_empty_agent_and_no_ancestors(session: OrmSession, alice: Person) -> None:
    run = the_run(session, start(alice, agentId=""))
    assert run.ancestor_run_ids == []
    assert run.root_run_id == run.id


def test_the_longest_names_fit_every_index(session: OrmSession, alice: Person) -> None:
    name = "".join(chr(0x4E00 + number * 37 % 20_000) for number in range(500))
    ids = [f"{number:>0200}" for number in range(100)]
    assert the_run(session, start(alice, agentId=name, ancestorRunIds=ids)).agent_id == name
    assert start(alice, agentId=f"{name[:200]}/{name[200:400]}@{name[400:498]}")


# -- finish --------------------------------------------------------------------------------------------------


def test_finish_records_what_the_client_says(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    body = FINISH | {
        "runId": run_id,
        "status": "failed",
        "errorMessage": "boom",
        "totalCredits": 12345.678901,
    }
    answer = post(alice, RUNS, body)
    assert (answer.status_code, answer.json) == (200, {"success": True})
    run = the_run(session, run_id)
    assert (run.status, run.total_steps, run.error_message) == ("failed", 3, "boom")
    assert (run.direct_credits, run.total_credits) == (Decimal("1.5"), Decimal("12345.678901"))
    assert run.completed_at is not None
    assert run.duration_ms is not None


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_every_ending(session: OrmSession, alice: Person, status: str) -> None:
    run_id = start(alice)
    assert post(alice, RUNS, FINISH | {"runId": run_id, "status": status}).status_code == 200
    assert the_run(session, run_id).status == status


def test_finishing_an_unknown_run_is_200(alice: Person) -> None:
    for run_id in ("nope", "", "é" * 5000, str(uuid.uuid4())):
        answer = post(alice, RUNS, FINISH | {"runId": run_id, "steps": [{"stepNumber": 1}]})
        assert (answer.status_code, answer.json) == (200, {"success": True})


def test_nobody_finishes_somebody_elses_run(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    run_id = start(alice)
    body = FINISH | {"runId": run_id, "steps": [{"stepNumber": 1}]}
    for other in (bob, mallory):
        assert post(other, RUNS, body).json == {"success": True}
    assert post(anonymous, RUNS, body).status_code == 401
    run = the_run(session, run_id)
    assert (run.status, run.completed_at, run.total_steps) == ("running", None, 0)
    assert steps_of(session, run_id) == []


def test_a_retried_finish_changes_nothing(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    body = FINISH | {"runId": run_id, "errorMessage": "first"}
    post(alice, RUNS, body)
    ended = the_run(session, run_id).completed_at
    without = {key: value for key, value in body.items() if key != "errorMessage"}
    assert post(alice, RUNS, without).json == {"success": True}
    run = the_run(session, run_id)
    assert (run.completed_at, run.error_message) == (ended, "first")


def test_a_second_finish_corrects_the_first(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    post(alice, RUNS, FINISH | {"runId": run_id, "status": "failed"})
    ended = the_run(session, run_id).completed_at
    post(alice, RUNS, FINISH | {"runId": run_id, "status": "completed", "totalSteps": 9})
    run = the_run(session, run_id)
    assert (run.status, run.total_steps) == ("completed", 9)
    assert ended is not None
    assert run.completed_at is not None
    assert run.completed_at > ended


def test_a_very_long_error_is_kept_in_part(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    post(alice, RUNS, FINISH | {"runId": run_id, "errorMessage": "x" * 1_000_000})
    assert len(the_run(session, run_id).error_message or "") == 20_000


def test_lone_surrogates_do_not_break_the_door(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    body = json.dumps(FINISH | {"runId": run_id, "errorMessage": "E"}).replace('"E"', '"a\\ud83db"')
    assert post(alice, RUNS, body).status_code == 200
    assert the_run(session, run_id).error_message == "a�b"


# -- finish with steps ---------------------------------------------------------------------------------------


def a_step(number: int, **kw: Any) -> dict[str, Any]:
    begins = datetime.now(UTC) - timedelta(seconds=60 - number)
    return {
        "id": str(uuid.uuid4()),
        "stepNumber": number,
        "credits": number,
        "childRunIds": [],
        "messageId": f"chatcmpl-{number}",
        "status": "completed",
        "startTime": begins.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    } | kw


def test_a_finish_brings_its_steps(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    sent = [a_step(1, childRunIds=["a", "b"]), a_step(2, status="skipped", errorMessage="why"), a_step(3)]
    assert post(alice, RUNS, FINISH | {"runId": run_id, "steps": sent}).json == {"success": True}
    stored = steps_of(session, run_id)
    assert [step.id for step in stored] == [step["id"] for step in sent]
    assert [step.step_number for step in stored] == [1, 2, 3]
    assert (stored[0].child_run_ids, stored[0].spawned_count) == (["a", "b"], 2)
    assert (stored[1].status, stored[1].error_message, stored[1].credits) == ("skipped", "why", Decimal(2))
    assert stored[0].completed_at == stored[1].created_at, "a step ends where the next begins"
    assert stored[2].completed_at == the_run(session, run_id).completed_at


def test_retrying_a_finish_adds_no_step_twice(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    body = FINISH | {"runId": run_id, "steps": [a_step(1), a_step(2), a_step(2)]}
    for _ in range(3):
        assert post(alice, RUNS, body).json == {"success": True}
    stored = steps_of(session, run_id)
    assert [step.step_number for step in stored] == [1, 2]
    assert stored[1].id == body["steps"][1]["id"]


def test_steps_recorded_before_are_left_alone(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    first = post(alice, f"{RUNS}/{run_id}/steps", {"stepNumber": 1, "credits": 7}).json["stepId"]
    post(alice, RUNS, FINISH | {"runId": run_id, "steps": [a_step(1), a_step(2)]})
    stored = steps_of(session, run_id)
    assert [(step.id == first, step.credits) for step in stored] == [(True, Decimal(7)), (False, Decimal(2))]


def test_an_id_of_another_runs_step_is_replaced(session: OrmSession, alice: Person, mallory: Person) -> None:
    hers = start(mallory)
    taken = a_step(1)
    post(mallory, RUNS, FINISH | {"runId": hers, "steps": [taken]})
    run_id = start(alice)
    post(
        alice, RUNS, FINISH | {"runId": run_id, "steps": [taken, a_step(2, id="no uuid"), {"stepNumber": 3}]}
    )
    stored = steps_of(session, run_id)
    assert [step.step_number for step in stored] == [1, 2, 3]
    assert taken["id"] not in [step.id for step in stored]
    assert steps_of(session, hers)[0].id == taken["id"]


def test_a_thousand_steps_fit_and_one_more_does_not(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    many = [{"id": str(uuid.uuid4()), "stepNumber": number} for number in range(1001)]
    answer = post(alice, RUNS, FINISH | {"runId": run_id, "steps": many})
    assert answer.status_code == 400
    message = "Too big: expected array to have <=1000 items"
    assert answer.json["details"] == {"_errors": [], "steps": {"_errors": [message]}}
    assert post(alice, RUNS, FINISH | {"runId": run_id, "steps": many[:1000]}).status_code == 200
    assert session.scalar(select(func.count()).select_from(AgentStep)) == 1000


def test_one_wrong_step_refuses_the_whole_finish(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    answer = post(alice, RUNS, FINISH | {"runId": run_id, "steps": [a_step(1), {"stepNumber": -1}]})
    assert answer.status_code == 400
    message = "Too small: expected number to be >=0"
    assert answer.json["details"]["steps"]["1"]["stepNumber"] == {"_errors": [message]}
    assert the_run(session, run_id).status == "running"
    assert steps_of(session, run_id) == []


def test_steps_without_times_end_with_the_run(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    post(alice, RUNS, FINISH | {"runId": run_id, "steps": [{"stepNumber": 5}, {"stepNumber": 4}]})
    ended = the_run(session, run_id).completed_at
    assert [step.completed_at for step in steps_of(session, run_id)] == [ended, ended]


# -- steps ---------------------------------------------------------------------------------------------------


def test_a_step_is_recorded_as_sent(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    begins = datetime.now(UTC).replace(microsecond=123000) - timedelta(seconds=5)
    body = {
        "stepNumber": 1,
        "credits": 1.25,
        "childRunIds": ["c1"],
        "messageId": "chatcmpl-1",
        "status": "completed",
        "startTime": begins.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    answer = post(alice, f"{RUNS}/{run_id}/steps", body)
    assert answer.status_code == 200
    [step] = steps_of(session, run_id)
    assert answer.json == {"stepId": step.id}
    assert (step.credits, step.child_run_ids, step.message_id) == (Decimal("1.25"), ["c1"], "chatcmpl-1")
    assert step.created_at == begins
    assert step.duration_ms is not None
    assert step.duration_ms >= 4000


def test_a_bare_step_gets_the_defaults(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    for number, extra in ((0, {}), (1, {"messageId": None}), (2.0, {"unknown": {"key": 1}})):
        assert post(alice, f"{RUNS}/{run_id}/steps", {"stepNumber": number} | extra).status_code == 200
    for step in steps_of(session, run_id):
        assert (step.status, step.credits, step.message_id) == ("completed", Decimal(0), None)
        assert step.created_at == step.completed_at


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"stepNumber": -1}, "stepNumber", "Too small: expected number to be >=0"),
        ({"stepNumber": 1.5}, "stepNumber", "Invalid input: expected int, received number"),
        ({"stepNumber": 2**31}, "stepNumber", "Too big: expected number to be <=2147483647"),
        ({"stepNumber": 10**30}, "stepNumber", "Too big: expected number to be <=2147483647"),
        ({"credits": -1}, "credits", "Too small: expected number to be >=0"),
        ({"credits": None}, "credits", "Invalid input: expected number, received null"),
        ({"childRunIds": "x"}, "childRunIds", "Invalid input: expected array, received string"),
        ({"childRunIds": ["x"] * 1001}, "childRunIds", "Too big: expected array to have <=1000 items"),
        ({"messageId": 1}, "messageId", "Invalid input: expected string, received number"),
        ({"status": "failed"}, "status", 'Invalid option: expected one of "running"|"completed"|"skipped"'),
        ({"errorMessage": 1}, "errorMessage", "Invalid input: expected string, received number"),
        ({"startTime": 1}, "startTime", "Invalid input: expected string, received number"),
        ({"startTime": "2026-11-20T10:00:00+01:00"}, "startTime", "Invalid ISO datetime"),
        ({"startTime": "2026-11-20"}, "startTime", "Invalid ISO datetime"),
        ({"startTime": "2026-02-30T10:00:00Z"}, "startTime", "Invalid ISO datetime"),
    ],
)
def test_a_step_of_the_wrong_shape_is_400(alice: Person, change: Any, key: str, message: str) -> None:
    answer = post(alice, f"{RUNS}/whatever/steps", {"stepNumber": 1} | change)
    assert answer.status_code == 400
    assert answer.json == {
        "error": "Invalid request body",
        "details": {"_errors": [], key: {"_errors": [message]}},
    }


def test_the_number_of_a_step_is_required(alice: Person) -> None:
    answer = post(alice, f"{RUNS}/whatever/steps", {})
    assert answer.json["details"] == {
        "_errors": [],
        "stepNumber": {"_errors": ["Invalid input: expected number, received undefined"]},
    }


def test_a_clock_that_runs_ahead_does_not_end_a_step_before_it_began(
    session: OrmSession, alice: Person
) -> None:
    run_id = start(alice)
    ahead = (datetime.now(UTC) + timedelta(hours=2)).isoformat(timespec="seconds").replace("+00:00", "Z")
    assert post(alice, f"{RUNS}/{run_id}/steps", {"stepNumber": 1, "startTime": ahead}).status_code == 200
    assert steps_of(session, run_id)[0].duration_ms == 0


@pytest.mark.parametrize(
    "begun", ["0001-01-01T00:00:00Z", "2024-02-29T23:59:59.999Z", "9999-12-31T23:59:59.999Z"]
)
def test_any_start_time_is_taken_and_the_run_can_still_be_seen(
    session: OrmSession, alice: Person, begun: str
) -> None:
    run_id = start(alice)
    assert post(alice, f"{RUNS}/{run_id}/steps", {"stepNumber": 1, "startTime": begun}).status_code == 200
    step = {"stepNumber": 2, "startTime": begun}
    assert post(alice, RUNS, FINISH | {"runId": run_id, "steps": [step]}).status_code == 200
    for moment in (step.created_at for step in steps_of(session, run_id)):
        assert moment <= datetime.now(UTC)
    assert alice.browser.get(f"/runs/{run_id}").status_code == 200
    assert alice.browser.get("/runs").status_code == 200


def test_seconds_of_a_start_time_may_be_left_out(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    short = (datetime.now(UTC) - timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%MZ")
    assert post(alice, f"{RUNS}/{run_id}/steps", {"stepNumber": 1, "startTime": short}).status_code == 200


@pytest.mark.parametrize("run_id", ["nope", "%00", "%FF", "x" * 5000])
def test_a_step_of_an_unknown_run_is_404(alice: Person, run_id: str) -> None:
    answer = post(alice, f"{RUNS}/{run_id}/steps", {"stepNumber": 1})
    assert (answer.status_code, answer.json["error"]) == (404, "Agent run not found")
    assert "START one" in answer.json["details"]


def test_a_step_of_somebody_elses_run_is_403(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    run_id = start(alice)
    for other in (bob, mallory):
        answer = post(other, f"{RUNS}/{run_id}/steps", {"stepNumber": 1})
        assert answer.status_code == 403
        assert answer.json == {"error": "Unauthorized to add steps to this run"}
    assert post(anonymous, f"{RUNS}/{run_id}/steps", {"stepNumber": 1}).status_code == 401
    assert steps_of(session, run_id) == []


def test_a_second_step_of_one_number_is_500_and_changes_nothing(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    post(alice, f"{RUNS}/{run_id}/steps", {"stepNumber": 1, "credits": 1})
    answer = post(alice, f"{RUNS}/{run_id}/steps", {"stepNumber": 1, "credits": 2})
    assert (answer.status_code, answer.json["error"]) == (500, "Failed to add agent step")
    assert answer.json["details"].startswith("The run already has a step number 1.")
    [step] = steps_of(session, run_id)
    assert step.credits == Decimal(1)


def test_a_finished_run_still_takes_steps(session: OrmSession, alice: Person) -> None:
    run_id = start(alice)
    post(alice, RUNS, FINISH | {"runId": run_id})
    assert post(alice, f"{RUNS}/{run_id}/steps", {"stepNumber": 1}).status_code == 200
    assert len(steps_of(session, run_id)) == 1


# -- the reserved test user (0.4) ----------------------------------------------------------------------------


@pytest.fixture
def test_user(session: OrmSession, client: FlaskClient) -> Person:
    made = factories.user("tester", id="test-user-id")
    key = factories.token(made)
    return Person(made.id, made, client, key, {"authorization": f"Bearer {key}"})


def test_the_test_user_finishes_nothing(session: OrmSession, test_user: Person) -> None:
    run_id = start(test_user)
    answer = post(test_user, RUNS, FINISH | {"runId": run_id, "steps": [{"stepNumber": 1}]})
    assert answer.json == {"success": True}
    assert the_run(session, run_id).status == "running"
    assert post(test_user, RUNS, FINISH | {"totalSteps": -1}).status_code == 400


def test_the_test_user_adds_a_step_to_any_run(session: OrmSession, test_user: Person) -> None:
    answer = post(test_user, f"{RUNS}/nope/steps", {"stepNumber": 1})
    assert (answer.status_code, answer.json) == (200, {"stepId": "test-step-id"})
    assert post(test_user, f"{RUNS}/nope/steps", {"stepNumber": "1"}).status_code == 400
    assert session.scalar(select(func.count()).select_from(AgentStep)) == 0


# -- when the database fails ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "path", "body", "message"),
    [
        ("start", RUNS, {"action": "START", "agentId": "x"}, "Failed to create agent run"),
        ("finish", RUNS, FINISH, "Failed to finish agent run"),
        ("add_step", f"{RUNS}/x/steps", {"stepNumber": 1}, "Failed to add agent step"),
    ],
)
def test_a_failing_database_is_500_in_the_contracts_words(
    monkeypatch: pytest.MonkeyPatch, alice: Person, verb: str, path: str, body: Any, message: str
) -> None:
    from sqlalchemy.exc import OperationalError

    from models.runs import recording

    def fail(*args: Any, **kw: Any) -> None:
        raise OperationalError("statement", {}, Exception("gone"))

    monkeypatch.setattr(recording, verb, fail)
    answer = post(alice, path, body)
    assert (answer.status_code, answer.json) == (500, {"error": message})
