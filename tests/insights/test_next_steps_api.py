"""Next steps over HTTP: by rules, by a model, their life, and what a model's answer cannot do."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from tests import factories
from tests.factories import Person
from tests.insights.model_answers import ModelAnswers
from tests.projects.project_calls import ProjectsApi

BRIEF = {
    "intent": "startup",
    "problem": "Rain",
    "mvp_features": ["Umbrella rental", "Weather alarm"],
    "has_users": False,
}
STEP = '{"title": "Ask five people", "rationale": "Nobody uses it", "category": "validation", "priority": 1, "effort": "small"}'


@pytest.fixture
def project(mine: ProjectsApi) -> str:
    """A project with a brief."""
    id = mine.project()
    assert mine("patch", f"/projects/{id}/brief", {"intent": "startup", "brief": BRIEF})[0] == 200
    return id


def generate(api: ProjectsApi, project: str, model: str = "stoa/demo") -> tuple[int, Any]:
    status, body = api("post", f"/projects/{project}/next-steps/generate?model={model}")
    return status, body.get("next_steps", body)


def test_rules_propose_what_follows_from_facts_once(mine: ProjectsApi, project: str) -> None:
    status, steps = generate(mine, project, "rules")
    assert (status, [each["title"] for each in steps]) == (200, ["Push the first snapshot"])
    assert (steps[0]["model"], steps[0]["rationale"]) == (None, "The project has no files yet.")
    workspace = mine.workspace(project)
    mine.push(project, mine.tree({"umbrella.py": "x = 1"}), workspace_id=workspace)
    titles = [each["title"] for each in generate(mine, project, "rules")[1]]
    assert titles == ["Build “Weather alarm”", "Show it to one person it is made for"]
    assert generate(mine, project, "rules") == (200, [])
    mine("patch", f"/projects/{project}/next-steps/{steps[0]['id']}", {"status": "dismissed"})
    assert generate(mine, project, "rules") == (200, [])
    assert len(mine("get", f"/projects/{project}/next-steps")[1]["next_steps"]) == 3


def test_findings_and_proposals_become_steps(mine: ProjectsApi, project: str) -> None:
    workspace = mine.workspace(project)
    body = {"workspace_id": workspace, "type": "test_coverage", "title": "None", "severity": "critical"}
    mine("post", "/action-items", body)
    steps = {each["title"]: each["rationale"] for each in generate(mine, project, "rules")[1]}
    assert steps["Mend the critical findings"] == "1 critical item in the inbox."
    assert "Write the first tests" in steps


def test_without_a_model_the_contract_answers_501(mine: ProjectsApi, project: str) -> None:
    for path in ("next-steps/generate", "decisions/extract"):
        status, body = mine("post", f"/projects/{project}/{path}")
        assert (status, body["error"]["code"]) == (501, "NOT_IMPLEMENTED")
        assert "rules" in body["error"]["message"]


def test_a_model_of_the_server_is_the_default(
    app: Flask, mine: ProjectsApi, project: str, answers: ModelAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = app.extensions["settings"].model_copy(update={"stoa_insights_model": "stoa/demo"})
    monkeypatch.setitem(app.extensions, "settings", settings)
    answers.texts = [f"[{STEP}]"]
    assert mine("post", f"/projects/{project}/next-steps/generate")[0] == 200
    assert answers.bodies[0]["model"] == "stoa/demo"


def test_a_model_adds_steps_that_are_marked(mine: ProjectsApi, project: str, answers: ModelAnswers) -> None:
    answers.texts = [f"Sure! [1] Here: [{STEP}, {STEP}] Bye", f"[{STEP}]"]
    status, steps = generate(mine, project)
    assert (status, [each["model"] for each in steps]) == (200, [None, "stoa/demo"])
    assert (steps[1]["title"], steps[1]["priority"], steps[1]["effort"]) == ("Ask five people", 1, "small")
    sent = answers.bodies[0]
    assert (sent["client_id"], sent["max_tokens"]) == ("stoa-next-steps", 1600)
    assert "Umbrella rental" in sent["messages"][1]["content"]
    assert generate(mine, project) == (200, [])
    assert "Ask five people" in answers.bodies[1]["messages"][1]["content"]


def test_without_intent_and_brief_a_model_is_not_asked(mine: ProjectsApi, answers: ModelAnswers) -> None:
    assert generate(mine, mine.project())[0] == 422
    assert answers.bodies == []


@pytest.mark.parametrize("text", [None, "", "No.", "{}", "[1, 2]", "[" * 5_000, '["x"]', '[{"title": "x"'])
def test_an_answer_in_another_format_is_500_and_keeps_what_the_rules_say(
    mine: ProjectsApi, project: str, answers: ModelAnswers, text: str | None
) -> None:
    answers.texts = [text]
    status, body = generate(mine, project)
    assert (status, body["error"]["code"]) == (500, "MODEL_FAILED")
    assert len(mine("get", f"/projects/{project}/next-steps")[1]["next_steps"]) == 1


def test_what_a_model_says_is_cut_and_checked(mine: ProjectsApi, project: str, answers: ModelAnswers) -> None:
    odd = (
        '{"title": "'
        + "x" * 500
        + '", "description": "'
        + "y\\n" * 2_000
        + '", "rationale": 7, "category": "evil",'
        ' "priority": true, "effort": "huge", "status": "completed", "id": "mine", "helpful_count": 99}'
    )
    answers.texts = [f'[{odd}, {{"title": ""}}, {{"title": 3}}, {{"title": "a\\u0000b"}}]']
    _, first, second = generate(mine, project)[1]
    assert (len(first["title"]), len(first["description"])) == (140, 1000)
    assert (first["category"], first["priority"], first["effort"]) == ("feature", 2, None)
    assert (first["status"], first["helpful_count"], first["rationale"]) == ("pending", 0, None)
    assert second["title"] == "a b"


def test_a_call_is_paid_by_the_caller(
    session: OrmSession, mine: ProjectsApi, alice: Person, project: str
) -> None:
    status, body = generate(mine, project)
    assert (status, body["error"]["code"]) == (402, "INSUFFICIENT_CREDITS")
    factories.grant(alice.user, 1000)
    session.commit()
    assert [each["model"] for each in generate(mine, project)[1]] == ["stoa/demo"]
    assert generate(mine, project, "nobody/nothing")[0] == 404


def test_the_life_of_a_step(mine: ProjectsApi, project: str) -> None:
    (step,) = generate(mine, project, "rules")[1]
    path = f"/projects/{project}/next-steps/{step['id']}"
    for status in ("started", "completed", "dismissed"):
        code, body = mine("patch", path, {"status": status})
        assert (code, body["next_step"]["status"], body["next_step"]["acted_on_at"] is None) == (
            200,
            status,
            False,
        )
        assert len(mine("get", f"/projects/{project}/next-steps?status={status}")[1]["next_steps"]) == 1
    assert mine("patch", path, {"status": "pending"})[1]["next_step"]["acted_on_at"] is None
    for body in ({"status": "done"}, {}, {"status": 1}):
        assert mine("patch", path, body)[0] == 422
    assert mine("get", f"/projects/{project}/next-steps?status=done")[0] == 422
    mine("post", f"{path}/feedback", {"helpful": True})
    rated = mine("post", f"{path}/feedback", {"helpful": False})[1]["next_step"]
    assert (rated["helpful_count"], rated["not_helpful_count"]) == (1, 1)
    for body in ({"helpful": "yes"}, {}, {"helpful": None}):
        assert mine("post", f"{path}/feedback", body)[0] == 422
    assert mine("patch", f"/projects/{project}/next-steps/none", {"status": "started"})[0] == 404


def test_strangers_are_told_that_there_is_nothing(
    client: FlaskClient, mine: ProjectsApi, mallory: Person, project: str
) -> None:
    (step,) = generate(mine, project, "rules")[1]
    theirs = ProjectsApi(client, mallory)
    own = theirs.project()
    for method, path, body in (
        ("get", f"/projects/{project}/next-steps", None),
        ("post", f"/projects/{project}/next-steps/generate?model=rules", None),
        ("post", f"/projects/{project}/next-steps/generate", None),
        ("patch", f"/projects/{project}/next-steps/{step['id']}", {"status": "started"}),
        ("patch", f"/projects/{own}/next-steps/{step['id']}", {"status": "started"}),
        ("post", f"/projects/{own}/next-steps/{step['id']}/feedback", {"helpful": True}),
        ("post", f"/projects/{project}/next-steps/{step['id']}/feedback", {"helpful": True}),
    ):
        assert theirs(method, path, body)[0] == 404, path
        assert client.open(f"/v1{path}", method=method, json=body).status_code == 401
    assert mine("get", f"/projects/{project}/next-steps")[1]["next_steps"] == [step]
