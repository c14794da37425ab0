"""Railway: what is uploaded, given and asked; rolling back, logs, destroying; tokens of workspaces."""

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.deployments import Deployment
from tests.deployments.deployment_calls import SITE, SiteCalls
from tests.deployments.provider_runs import CREDENTIALS, choose, log_of, newest, reach, step
from tests.factories import Person
from tests.fakes.deploy_providers import GOOD, FakeProviders, providers
from tests.projects.project_calls import ProjectsApi

__all__ = ["providers"]


@pytest.fixture(autouse=True)
def reached(app: Flask, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server calls the fakes."""
    reach(app, providers, monkeypatch)


def test_a_snapshot_is_built_there_with_its_commands_and_variables(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders
) -> None:
    railway = providers.railway
    value = "value-of-a-variable-99"
    pier.api(
        "post", f"/projects/{pier.project}/env-vars", {"key": "TOKEN", "value": value, "is_secret": True}
    )
    first = pier.push(SITE | {"app/main.py": "print()"})
    assert pier.change(adapter="railway", start_command="python main.py", folder="app")[0] == 200
    assert pier.deploy()["error"] == "Add a token of Railway under Connections."
    choose(pier, providers, "railway")
    railway.states, railway.log = ["BUILDING", "SUCCESS"], f"It has {value} and {GOOD}."
    pier.deploy()
    assert step(session).state == "releasing"
    row = step(session)
    (service,) = railway.services
    assert (row.state, row.url) == ("live", f"https://{service}.up.railway.example")
    assert railway.uploads == [{"main.py": b"print()"}]
    assert railway.commands[service] == {"buildCommand": None, "startCommand": "python main.py"}
    assert railway.variables[service] == {"TOKEN": value}
    log = log_of(pier, row)
    assert "Variables, by name: TOKEN." in log
    assert "It has **** and ****." in log
    assert pier.change(start_command=None, folder=None)[0] == 200
    pier.push(SITE, [first])
    pier.deploy()
    step(session)
    assert railway.commands[service] == {"buildCommand": None, "startCommand": None}
    assert railway.uploads[1].keys() == SITE.keys()
    assert (len(railway.projects), len(railway.services)) == (1, 1)


def test_an_earlier_deployment_is_rolled_back_to(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    railway = providers.railway
    choose(pier, providers, "railway")
    pier.push(SITE)
    rows = []
    for _ in range(2):
        pier.deploy()
        rows.append(step(session).id)
    one, two = (session.get_one(Deployment, each) for each in rows)
    assert (one.state, two.state) == ("stopped", "live")
    made = pier.api("post", f"/infrastructure/deployments/{one.id}/release")[1]["deployment"]
    again = step(session)
    assert (again.id, again.state, again.external_id) == (made["id"], "live", "d3")
    assert (len(railway.uploads), railway.asked.count("deploymentRollback")) == (2, 1)
    assert session.get_one(Deployment, two.id).state == "rolled_back"
    railway.can_roll_back = False
    pier.api("post", f"/infrastructure/deployments/{two.id}/release")
    assert step(session).error == "Railway no longer keeps this deployment. Deploy its snapshot anew."
    assert session.get_one(Deployment, again.id).state == "live"


def test_lines_of_railway_are_read_by_those_who_see_the_project(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders, alice: Person, mallory: Person
) -> None:
    choose(pier, providers, "railway")
    pier.push(SITE)
    pier.deploy()
    row = step(session)
    path = f"/infrastructure/deployments/{row.id}/provider-logs"
    (line,) = pier.api("get", path)[1]["lines"]
    assert line == {"timestamp": "2026-11-30T10:00:05.123Z", "stream": "stderr", "content": "Listens."}
    page = f"/projects/{pier.project}/ship/deployments/{row.id}"
    assert "Lines of Railway" in alice.browser.get(page).text
    assert "Listens." in alice.browser.get(f"{page}/provider").text
    assert mallory.browser.get(f"{page}/provider").status_code == 404
    assert ProjectsApi(pier.client, mallory)("get", path)[0] == 404
    assert pier.client.get(f"/v1{path}").status_code == 401
    providers.fault = (503, {})
    status, body = pier.api("get", path)
    assert (status, body["error"]["code"]) == (502, "PROVIDER_FAILED")
    assert "Railway answered 503: Told by the fake." in alice.browser.get(f"{page}/provider").text
    providers.fault = None
    pier.change(adapter="static")
    static = pier.deploy()["deployment_id"]
    status, body = pier.api("get", f"/infrastructure/deployments/{static}/provider-logs")
    assert (status, body["error"]["code"]) == (409, "NO_PROVIDER_LOG")
    assert "Lines of" not in alice.browser.get(f"/projects/{pier.project}/ship/deployments/{static}").text


def test_destroying_the_service_ends_what_was_live_there(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders
) -> None:
    choose(pier, providers, "railway")
    pier.push(SITE)
    pier.deploy()
    step(session)
    (resource,) = pier.api("get", f"/infrastructure/projects/{pier.project}/resources")[1]["resources"]
    assert (resource["type"], resource["provider"]) == ("compute", "railway")
    path = f"/infrastructure/projects/{pier.project}/resources/{resource['id']}"
    for _ in range(2):
        assert pier.api("delete", path) == (200, {"success": True})
    assert providers.railway.services == {}
    assert newest(session).state == "stopped"
    pier.deploy()
    assert step(session).state == "live"
    assert (len(providers.railway.projects), len(providers.railway.services)) == (1, 1)


def test_a_token_of_a_workspace_is_accepted(pier: SiteCalls, providers: FakeProviders) -> None:
    providers.railway.account = False
    assert pier.api("post", CREDENTIALS, {"provider": "railway", "api_token": GOOD})[0] == 201
    (listed,) = pier.api("get", CREDENTIALS)[1]["credentials"]
    assert listed["metadata"] == '{"name":"Ada\'s","workspace_id":"w1"}'
