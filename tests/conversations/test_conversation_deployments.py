"""Deploying from a conversation, as its owner and as others."""

from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.turns import TurnEngine
from tests.conversations.test_conversations_api import Api
from tests.deployments.deployment_calls import fetch, host_of
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


def test_a_conversation_ships_the_head_of_its_workspace(
    session: OrmSession, client: FlaskClient, rich: Person, engine_of_turns: TurnEngine, mallory: Person
) -> None:
    api = Api(client, rich, engine_of_turns)
    home = f"/conversations/{api.id}"
    failed = api("post", f"{home}/deploy")[1]
    assert (failed["status"], failed["url"]) == ("failed", None)
    files = {"index.html": "<p>pier", "wrangler.toml": 'name = "pier"\n', "README.md": "Twelve columns.\n"}
    api.push(api.project_id, api.tree(files), workspace_id=api.workspace_id)
    for _ in range(2):
        made = api("post", f"{home}/deploy", headers={"Idempotency-Key": "one"})[1]
        assert (made["status"], made["message"]) == ("success", "It is live.")
    assert fetch(client, host_of(made["url"])).text == "<p>pier"
    listed = api.get("/deployments")
    assert [(each["status"], each["trigger"]) for each in listed["deployments"]] == [
        ("success", "chat"),
        ("failed", "chat"),
    ]
    assert listed["deployments"][0]["id"] == made["deploymentId"]
    info = {"type": "wrangler", "name": "pier", "configFile": "wrangler.toml"}
    assert listed["projectInfo"] == api.get("/project-info")["projectInfo"] == info
    log = api.get(f"/deployments/{made['deploymentId']}/logs")["log"]
    assert log["entries"][-1]["content"] == f"Live at {made['url']}"
    other = ProjectsApi(client, mallory)
    for method, path in (
        *(("get", "/project-info"), ("get", "/deployments"), ("post", "/deploy")),
        ("get", f"/deployments/{made['deploymentId']}/logs"),
    ):
        assert other(method, f"{home}{path}")[0] == 404
        assert client.open(f"/v1{home}{path}", method=method).status_code == 401
    assert api("get", f"{home}/deployments/none/logs")[0] == 404
