"""Routes and pages of runs: whose they are, what they answer, and what each refuses."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.insights import ActionItem, ActionItemRun
from models.ledger import Account
from models.orgs import Org
from models.projects import Workspace
from models.projects.snapshots.blob_packs import blob_bytes
from models.projects.snapshots.manifest_store import manifest_entries, manifest_row
from models.turns import TurnEngine
from tests import factories
from tests.factories import Person
from tests.insights.item_run_rows import (
    BASE,
    MENDED,
    ItemPlace,
    checks_end,
    item_place,
    ready_run,
    use_agent,
    waiting_for_stop,
)
from tests.projects.project_calls import ProjectsApi
from tests.projects.project_rows import caller_of, pushed
from tests.projects.test_races import at_once

OTHER = "def add(a, b):\n    return b - a\n"
MUTATING = ("stop", "resume", "apply", "rebase")


@pytest.fixture
def place(session: OrmSession, alice: Person) -> ItemPlace:
    factories.grant(alice.user, 100_000)
    made = item_place(caller_of(alice.id, Account(user_id=alice.id)), Account(user_id=alice.id))
    session.commit()
    return made


@pytest.fixture
def ready(session: OrmSession, place: ItemPlace) -> str:
    """A run that is ready; its id."""
    made = ready_run(place, {"add.py": MENDED})
    session.commit()
    return made.id


@pytest.fixture
def api(client: FlaskClient, alice: Person) -> ProjectsApi:
    return ProjectsApi(client, alice)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with checks_end(monkeypatch):
        yield


def move_on(session: OrmSession, alice: Person, place: ItemPlace, text: str = OTHER) -> None:
    """Somebody pushes to the workspace."""
    caller = caller_of(alice.id, Account(user_id=alice.id))
    pushed(caller, place.project_id, place.workspace_id, {**BASE, "add.py": text}, "Moved", place.base_id)
    session.commit()


def test_a_run_is_begun_read_and_applied_over_the_api(
    app: Flask,
    session: OrmSession,
    monkeypatch: pytest.MonkeyPatch,
    processes: None,
    api: ProjectsApi,
    place: ItemPlace,
) -> None:
    use_agent(monkeypatch, {"add.py": "x\n"}, {"add.py": MENDED})
    status, body = api("post", f"/action-items/{place.item_id}/runs", {"budget": 50})
    assert (status, body["run"]["status"], body["run"]["budget"]) == (200, "queued", 50)
    assert "patch" not in body["run"]
    engine: TurnEngine = app.extensions["turns"]
    assert engine.idle(20)
    status, body = api("get", f"/action-items/runs/{body['run']['id']}")
    run = body["run"]
    assert (status, run["status"], run["verified"], run["attempt_count"]) == (200, "ready", True, 2)
    assert "+    return a + b" in run["patch"]
    assert [each["kind"] for each in run["checks"]] == ["test"]
    assert "error" not in run
    assert [each["state"] for each in run["attempts"]] == ["failed", "passed"]
    status, body = api("get", f"/action-items/{place.item_id}/runs")
    assert (status, [each["id"] for each in body["runs"]]) == (200, [run["id"]])
    assert api("post", f"/action-items/runs/{run['id']}/apply")[0] == 200
    status, body = api("post", f"/action-items/runs/{run['id']}/apply")
    assert (status, body["error"]["code"]) == (400, "INVALID_STATE")
    status, body = api("post", f"/action-items/{place.item_id}/runs")
    assert (status, body["error"]["code"]) == (400, "INVALID_STATE")


def test_a_moved_base_is_refused_and_rebased_over_the_api(
    app: Flask,
    processes: None,
    session: OrmSession,
    api: ProjectsApi,
    alice: Person,
    place: ItemPlace,
    ready: str,
) -> None:
    path = f"/action-items/runs/{ready}"
    move_on(session, alice, place)
    status, body = api("post", f"{path}/apply")
    assert (status, body["error"]["code"]) == (409, "BASE_CHANGED")
    status, body = api("get", f"{path}/rebase")
    assert status == 200
    [decision] = body["rebase"]["decisions_needed"]
    assert (decision["path"], sorted(decision["options"])) == ("add.py", ["use_patch", "use_workspace"])
    status, refused = api("post", f"{path}/rebase")
    assert (status, refused["error"]["code"]) == (409, "REBASE_CONFLICT")
    assert refused["error"]["details"] == {"conflicts": ["add.py"]}
    version = {"If-Match": f'"{body["rebase"]["workspace_version"]}"'}
    done = api("post", f"{path}/rebase", {"decisions": {"add.py": "use_patch"}}, {"If-Match": '"1"'})
    assert (done[0], done[1]["error"]["code"]) == (409, "VERSION_CONFLICT")
    status, body = api("post", f"{path}/rebase", {"decisions": {"add.py": "use_patch"}}, version)
    assert (status, body["run"]["status"], "verified" in body["run"]) == (200, "running", False)
    assert body["run"]["base_manifest_hash"] != body["run"]["result_manifest_hash"]
    engine: TurnEngine = app.extensions["turns"]
    assert engine.idle(20)
    run = api("get", path)[1]["run"]
    assert (run["status"], run["verified"]) == ("ready", True)
    assert [(each["kind"], each["state"]) for each in run["attempts"]] == [("rebase", "passed")]
    assert run["attempts"][0]["checks"][0]["tree_hash"]
    assert api("post", f"{path}/apply")[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"level": "root"}, 422),
        ({"budget": 0}, 422),
        ({"budget": 10**12}, 422),
        ({"budget": "much"}, 422),
        ({"max_attempts": 4}, 422),
        ({"model": "x" * 300}, 422),
        ({"model": "\0"}, 400),
        ([], 422),
        ({"level": "machine"}, 409),
    ],
)
def test_wrong_wishes_are_refused(
    session: OrmSession, api: ProjectsApi, place: ItemPlace, body: Any, status: int
) -> None:
    found = api("post", f"/action-items/{place.item_id}/runs", body)
    assert found[0] in (status, 422), found
    assert not session.scalars(select(ActionItemRun.id)).all()


@pytest.mark.parametrize(
    "body",
    [
        {"decisions": {"add.py": []}},
        {"decisions": []},
        {"decisions": {"add.py": "else"}},
        {"custom_values": {"add.py": 1}},
    ],
)
def test_wrong_decisions_are_refused(
    session: OrmSession, api: ProjectsApi, alice: Person, place: ItemPlace, ready: str, body: Any
) -> None:
    move_on(session, alice, place)
    assert api("post", f"/action-items/runs/{ready}/rebase", body)[0] == 422


def test_strangers_and_nobody_find_nothing(
    client: FlaskClient, place: ItemPlace, ready: str, mallory: Person, anonymous: Person
) -> None:
    stranger, nobody = ProjectsApi(client, mallory), ProjectsApi(client, anonymous)
    random = "0b8e7a40-0000-4000-8000-000000000000"
    calls = [("get", "", None), ("get", "/rebase", None), *(("post", f"/{verb}", None) for verb in MUTATING)]
    for method, path, body in calls:
        theirs = stranger(method, f"/action-items/runs/{ready}{path}", body)
        assert theirs == stranger(method, f"/action-items/runs/{random}{path}", body)
        assert theirs[0] == 404
        assert nobody(method, f"/action-items/runs/{ready}{path}", body)[0] == 401
    for method in ("get", "post"):
        theirs = stranger(method, f"/action-items/{place.item_id}/runs")
        assert theirs == stranger(method, f"/action-items/{random}/runs")
        assert theirs[0] == 404
        assert nobody(method, f"/action-items/{place.item_id}/runs")[0] == 401


def test_a_member_reads_and_acts_in_the_organisation_and_a_viewer_only_reads(
    client: FlaskClient, session: OrmSession, acme: Org, alice: Person, bob: Person
) -> None:
    made = item_place(caller_of(alice.id, Account(org_id=acme.id)), Account(org_id=acme.id))
    run = ready_run(made, {"add.py": MENDED})
    session.commit()
    member = ProjectsApi(client, bob)
    factories.membership(acme, bob.id).role = "viewer"
    session.commit()
    assert member("get", f"/action-items/runs/{run.id}")[0] == 200
    for verb in MUTATING:
        assert member("post", f"/action-items/runs/{run.id}/{verb}")[0] == 403
    factories.membership(acme, bob.id).role = "member"
    session.commit()
    assert member("post", f"/action-items/runs/{run.id}/apply")[0] == 200


# -- pages ---------------------------------------------------------------------------------------------------


def send(who: Person, path: str, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data})


def test_a_run_is_started_watched_and_applied_in_the_browser(
    app: Flask, monkeypatch: pytest.MonkeyPatch, processes: None, alice: Person, place: ItemPlace
) -> None:
    start = f"/projects/{place.project_id}"
    assert "No runs yet" in alice.browser.get(f"{start}/runs").text
    form = alice.browser.get(f"{start}/items/{place.item_id}/run").text
    assert "too few earlier runs" in form
    assert "at most 500 credits" in form
    refused = send(alice, f"{start}/items/{place.item_id}/run", level="process", budget="none")
    assert (refused.status_code, "Enter a number of credits" in refused.text) == (422, True)
    refused = send(alice, f"{start}/items/{place.item_id}/run", level="machine", budget="5")
    assert (refused.status_code, "The run did not start" in refused.text) == (422, True)
    use_agent(monkeypatch, {"add.py": MENDED})
    begun = send(alice, f"{start}/items/{place.item_id}/run", level="process", budget="500")
    assert begun.status_code == 303
    engine: TurnEngine = app.extensions["turns"]
    assert engine.idle(20)
    address = begun.headers["Location"]
    page = alice.browser.get(address).text
    assert "Ready: all checks passed" in page
    assert "Apply the patch" in page
    assert "return a + b" in page
    assert "hx-trigger" not in page.split('id="item-run"')[1].split(">")[0]
    fragment = alice.browser.get(address, headers={"HX-Request": "true"}).text
    assert fragment.lstrip().startswith("<div")
    assert send(alice, f"{address}/apply").status_code == 303
    assert "The patch is applied" in alice.browser.get(address).text
    assert "Applied" in alice.browser.get(f"{start}/runs").text


def test_a_moved_workspace_is_rebased_in_the_browser(
    app: Flask, processes: None, session: OrmSession, alice: Person, place: ItemPlace, ready: str
) -> None:
    address = f"/projects/{place.project_id}/runs/{ready}"
    move_on(session, alice, place)
    page = alice.browser.get(address).text
    assert "The workspace moved since the checks ran" in page
    assert "Apply the patch" not in page
    assert send(alice, f"{address}/apply").status_code == 303
    form = alice.browser.get(f"{address}/rebase").text
    version = re.search(r'name="version" value="(\d+)"', form)
    assert version is not None
    refused = send(alice, f"{address}/rebase", version=version[1], **{"path-1": "add.py"})
    assert (refused.status_code, "One file needs an answer" in refused.text) == (422, True)
    answer = {"path-1": "add.py", "choice-1": "use_workspace"}
    refused = send(alice, f"{address}/rebase", version=version[1], **answer)
    assert (refused.status_code, "all of this patch already" in refused.text) == (422, True)
    answer = {"path-1": "add.py", "choice-1": "custom", "text-1": " "}
    refused = send(alice, f"{address}/rebase", version=version[1], **answer)
    assert (refused.status_code, "Enter the text of the file" in refused.text) == (422, True)
    own = "def add(a, b):\r\n    return b + a\r\n"
    done = send(alice, f"{address}/rebase", version=version[1], **{**answer, "text-1": own})
    assert done.status_code == 303
    engine: TurnEngine = app.extensions["turns"]
    assert engine.idle(20)
    run = session.get_one(ActionItemRun, ready, populate_existing=True)
    assert (run.status, run.verified) == ("failed", None)
    assert "does not hold on the newer files" in (run.error or "")
    project = session.get_one(Workspace, place.workspace_id)
    row = manifest_row(alice.id, run.result_manifest_hash or "")
    assert row is not None
    [entry] = [each for each in manifest_entries(row) if each.path == "add.py"]
    assert blob_bytes(alice.id, entry.hash or "") == own.replace("\r\n", "\n").encode()
    assert project.current_manifest_hash == run.base_manifest_hash
    assert send(alice, f"{address}/rebase").status_code == 303
    assert alice.browser.get(f"{address}/rebase").status_code == 303


def test_an_unverified_and_a_failed_run_say_so(session: OrmSession, alice: Person, place: ItemPlace) -> None:
    run = ready_run(place, {"add.py": MENDED}, verified=False, doubts="Not verified: no check ran.")
    session.commit()
    address = f"/projects/{place.project_id}/runs/{run.id}"
    page = alice.browser.get(address).text
    assert "nothing vouches for it" in page
    assert "no check ran" in page
    run.status, run.verified, run.error, run.error_code = (
        "failed",
        None,
        "No attempt succeeded.",
        "attempts_failed",
    )
    session.commit()
    page = alice.browser.get(address).text
    assert "The run failed" in page
    assert "Apply the patch" not in page
    session.get_one(Workspace, place.workspace_id)


def test_pages_of_others_are_not_found(
    place: ItemPlace, ready: str, mallory: Person, anonymous: Person, alice: Person
) -> None:
    start = f"/projects/{place.project_id}"
    for path in ("/runs", f"/runs/{ready}", f"/runs/{ready}/rebase", f"/items/{place.item_id}/run"):
        assert mallory.browser.get(start + path).status_code == 404
        assert anonymous.browser.get(start + path).status_code in (302, 303)
    for path in (*(f"/runs/{ready}/{verb}" for verb in MUTATING), f"/items/{place.item_id}/run"):
        assert send(mallory, start + path, level="virtual", budget="5").status_code == 404
        assert send(anonymous, start + path).status_code in (302, 303, 400, 401)
    assert alice.browser.get(f"{start}/runs/none").status_code == 404


@pytest.mark.usefixtures("proved")
def test_of_several_who_apply_or_begin_at_once_one_wins(
    app: Flask,
    session: OrmSession,
    monkeypatch: pytest.MonkeyPatch,
    alice: Person,
    place: ItemPlace,
    ready: str,
) -> None:
    def apply(api: ProjectsApi, number: int) -> tuple[int, str]:
        verb = ("apply", "rebase")[number % 2]
        status, body = api("post", f"/action-items/runs/{ready}/{verb}")
        return status, body.get("error", {}).get("code", "")

    results = at_once(app, alice, apply)
    assert [status for status, _ in results].count(200) == 1
    assert {code for _, code in results} <= {"", "INVALID_STATE", "BASE_CHANGED"}
    use_agent(monkeypatch, waiting_for_stop)
    session.execute(update(ActionItem).values(status="pending"))
    session.commit()

    def begin(api: ProjectsApi, number: int) -> tuple[int, str]:
        status, body = api("post", f"/action-items/{place.item_id}/runs", {"level": "virtual"})
        return status, body.get("error", {}).get("code", "")

    results = at_once(app, alice, begin)
    assert [status for status, _ in results].count(200) == 1
    assert {code for _, code in results} == {"", "RUN_IN_PROGRESS"}
    session.rollback()
    [run] = session.scalars(select(ActionItemRun.id).where(ActionItemRun.completed_at.is_(None)))
    assert ProjectsApi(app.test_client(), alice)("post", f"/action-items/runs/{run}/stop")[0] == 200
    engine: TurnEngine = app.extensions["turns"]
    assert engine.idle(30)
