"""Snapshots that agents' runs make: whose run and workspace meet, what a snapshot costs, and what the pages of both say."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.orgs import Org
from models.projects import Snapshot, SnapshotRunCost, WorkspaceOperation
from models.runs import AgentRun
from tests import factories
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, typed
from tests.projects.test_races import CLIENTS, at_once

pytestmark = pytest.mark.usefixtures("proved")


@pytest.fixture
def project(mine: ProjectsApi) -> str:
    return mine.project()


@pytest.fixture
def workspace(mine: ProjectsApi, project: str) -> str:
    return mine.workspace(project)


@pytest.fixture
def run(session: OrmSession, alice: Person) -> AgentRun:
    assert alice.user
    return factories.run(alice.user, "acme/mender@1.0.0")


def spend(run: AgentRun, person: Person, credits: int, **kw: Any) -> None:
    """A settled call of the run."""
    assert person.user
    message = factories.message(person.user, credits, org_id=run.org_id, **kw)
    factories.call(person.user, message=message, run_id=run.id, org_id=run.org_id)


def push(api: ProjectsApi, project: str, run: AgentRun | str, text: str, **more: Any) -> tuple[int, Any]:
    run_id = run if isinstance(run, str) else run.id
    body = {"manifest_hash": api.tree({"a.txt": text}), "run_id": run_id, **more}
    return api("post", f"/projects/{project}/snapshots", body)


def read(api: ProjectsApi, answer: tuple[int, Any]) -> dict[str, Any]:
    """The whole of a snapshot that was pushed."""
    assert answer[0] == 201, answer
    found: dict[str, Any] = api("get", f"/snapshots/{answer[1]['snapshot']['id']}")[1]["snapshot"]
    return found


def test_a_snapshot_and_its_operation_name_the_run_and_its_credits(
    session: OrmSession, alice: Person, mine: ProjectsApi, project: str, workspace: str, run: AgentRun
) -> None:
    spend(run, alice, 7)
    found = read(mine, push(mine, project, run, "1", workspace_id=workspace))
    assert (found["run_id"], found["credits"], found["agent"]) == (run.id, 7, "mender")
    (operation,) = mine("get", f"/workspaces/{workspace}/operations")[1]["operations"]
    assert (operation["kind"], operation["cause"], operation["cost"]) == ("snapshot", run.id, 7)
    plain = mine.push(project, mine.tree({"a.txt": "2"}), agent="claude")
    found = mine("get", f"/snapshots/{plain}")[1]["snapshot"]
    assert (found["run_id"], found["credits"], found["agent"]) == (None, 0, "claude")


def test_each_credit_is_counted_once(
    session: OrmSession, alice: Person, mine: ProjectsApi, project: str, run: AgentRun
) -> None:
    assert alice.user
    child = factories.run(alice.user, "acme/helper@1.0.0", parent=run)
    spend(run, alice, 5)
    spend(child, alice, 3)
    spend(child, alice, 100, byok=True)
    credits = [
        read(mine, push(mine, project, of, str(number)))["credits"]
        for number, of in enumerate((child, run, child, run))
    ]
    assert credits == [3, 5, 0, 0]
    spend(child, alice, 2)
    spend(run, alice, 1)
    other = mine.project("Other")
    assert read(mine, push(mine, other, run, "9"))["credits"] == 3
    assert read(mine, push(mine, project, child, "9"))["credits"] == 0
    assert sum(session.scalars(select(SnapshotRunCost.credits))) == 11


def test_pushes_at_once_count_each_credit_once(
    app: Flask, session: OrmSession, alice: Person, mine: ProjectsApi, run: AgentRun
) -> None:
    spend(run, alice, 7)
    run_id, hash = run.id, mine.tree({"a.txt": "1"})
    projects = [mine.project(f"P{number}") for number in range(CLIENTS)]

    def one(api: ProjectsApi, number: int) -> int:
        body = {"manifest_hash": hash, "run_id": run_id}
        return api("post", f"/projects/{projects[number]}/snapshots", body)[0]

    assert at_once(app, alice, one) == [201] * CLIENTS
    assert sorted(session.scalars(select(Snapshot.credits))) == [0] * (CLIENTS - 1) + [7]


def test_a_repeated_push_counts_nothing_again(
    session: OrmSession, alice: Person, mine: ProjectsApi, project: str, workspace: str, run: AgentRun
) -> None:
    spend(run, alice, 4)
    more = {"snapshot_id": "mine-1", "workspace_id": workspace}
    read(mine, push(mine, project, run, "1", **more))
    spend(run, alice, 4)
    assert push(mine, project, run, "1", **more)[0] == 200
    assert session.scalars(select(WorkspaceOperation.cost)).all() == [4]


def test_the_loser_of_a_race_names_its_run_too(
    alice: Person, mine: ProjectsApi, project: str, workspace: str, run: AgentRun
) -> None:
    mine.push(project, mine.tree({"a.txt": "0"}), workspace_id=workspace)
    spend(run, alice, 4)
    body = {"manifest_hash": mine.tree({"a.txt": "1"}), "run_id": run.id, "workspace_id": workspace}
    status, answer = mine("post", f"/projects/{project}/snapshots", body, {"If-Match": '"1"'})
    assert status == 409
    found = mine("get", f"/snapshots/{answer['error']['details']['snapshot_id']}")[1]["snapshot"]
    assert (found["run_id"], found["credits"]) == (run.id, 4)


def test_a_run_and_a_project_of_different_owners_never_meet(
    client: FlaskClient, alice: Person, bob: Person, mallory: Person, acme: Org, mine: ProjectsApi
) -> None:
    assert alice.user
    assert bob.user
    assert mallory.user
    own, shared = mine.project(), mine.project("Shared", f"?org_id={acme.id}")
    runs = {
        "alice": factories.run(alice.user, org_id=None),
        "alice for acme": factories.run(alice.user, org_id=acme.id),
        "bob for acme": factories.run(bob.user, org_id=acme.id),
        "mallory": factories.run(mallory.user, org_id=None),
    }
    cases = [(own, "alice"), (shared, "alice for acme")]
    for project in (own, shared):
        query = f"?org_id={acme.id}" if project == shared else ""
        mine.blob("1", query)
        for name, run in [*runs.items(), ("none", None)]:
            body = {"manifest_hash": hash_in(mine, query), "run_id": run.id if run else "x" * 36}
            status, answer = mine("post", f"/projects/{project}/snapshots", body)
            assert status == (201 if (project, name) in cases else 422), (name, answer)
            if status == 422:
                assert answer["error"]["code"] == "RUN_NOT_FOUND"


def hash_in(api: ProjectsApi, query: str) -> str:
    return api.manifest(typed({"a.txt": "1"}), query)


@pytest.mark.parametrize("run_id", ["", None])
def test_no_run_is_none(mine: ProjectsApi, project: str, run_id: Any) -> None:
    body = {"manifest_hash": mine.tree({"a.txt": "1"}), "run_id": run_id}
    status, answer = mine("post", f"/projects/{project}/snapshots", body)
    assert (status, mine("get", f"/snapshots/{answer['snapshot']['id']}")[1]["snapshot"]["run_id"]) == (
        201,
        None,
    )


@pytest.mark.parametrize(("run_id", "status"), [(7, 422), ("a\0b", 400), ("x" * 9000, 422), (["x"], 422)])
def test_ids_that_no_run_has(mine: ProjectsApi, project: str, run_id: Any, status: int) -> None:
    body = {"manifest_hash": mine.tree({"a.txt": "1"}), "run_id": run_id}
    assert mine("post", f"/projects/{project}/snapshots", body)[0] == status


# -- pages ---------------------------------------------------------------------------------------------------


def test_the_page_of_a_run_shows_what_it_changed(
    alice: Person, mine: ProjectsApi, project: str, workspace: str, run: AgentRun
) -> None:
    start = mine.push(project, mine.tree({"a.txt": "one\ntwo\n", "b.txt": "b\n"}), workspace_id=workspace)
    assert "What it changed" not in alice.browser.get(f"/runs/{run.id}").text
    spend(run, alice, 6)
    more = {"run_id": run.id, "workspace_id": workspace}
    middle = mine.tree({"a.txt": "one\n2\n", "b.txt": "b\n"})
    first = mine.push(project, middle, parent_snapshot_ids=[start], message="Half", **more)
    end = mine.tree({"a.txt": "one\n2\n3\n", "<c>.txt": "c\n"})
    last = mine.push(project, end, parent_snapshot_ids=[first], message="Count on", **more)
    page = alice.browser.get(f"/runs/{run.id}").text
    for part in ("What it changed", "Count on", "2 snapshots · 6 credits", "Shop", "main", "&lt;c&gt;.txt"):
        assert part in page, part
    assert ("+2</ins>" in page, "−1</del>" in page) == (True, True)
    href = f"/projects/{project}/comparison?before={start}&amp;after={last}"
    assert href in page
    assert alice.browser.get(href.replace("&amp;", "&")).status_code == 200
    assert "Half" not in page
    snapshot = alice.browser.get(f"/projects/{project}/snapshot?id={first}").text
    assert f'href="/runs/{run.id}"' in snapshot
    assert "6 credits" in snapshot
    operations = alice.browser.get(f"/projects/{project}/operations").text
    assert f'run of <a href="/runs/{run.id}">mender</a>' in operations


def test_the_work_of_others_between_is_not_the_runs(
    alice: Person, mine: ProjectsApi, project: str, run: AgentRun
) -> None:
    first = mine.push(project, mine.tree({"a.txt": "1\n"}), run_id=run.id, message="First of the run")
    theirs = mine.push(project, mine.tree({"a.txt": "1\n", "theirs.txt": "x\n"}), parent_snapshot_ids=[first])
    mine.push(
        project,
        mine.tree({"a.txt": "2\n", "theirs.txt": "x\n"}),
        parent_snapshot_ids=[theirs],
        run_id=run.id,
        message="Second of the run",
    )
    page = alice.browser.get(f"/runs/{run.id}").text
    assert page.index("Second of the run") < page.index("First of the run")
    assert "theirs.txt" not in page
    # before the first are no files
    nothing = f"/projects/{project}/comparison?before=&after={first}"
    assert nothing.replace("&", "&amp;") in page
    assert "One file changed" in alice.browser.get(nothing).text


def test_files_that_cannot_be_read_leave_the_page_whole(
    alice: Person, mine: ProjectsApi, project: str, run: AgentRun
) -> None:
    strange = mine.manifest(b"no manifest that anybody knows")
    mine.push(project, strange, run_id=run.id, message="Strange")
    answer = alice.browser.get(f"/runs/{run.id}")
    assert (answer.status_code, "Strange" in answer.text) == (200, True)


def test_who_sees_what_a_run_of_an_organisation_changed(
    client: FlaskClient, alice: Person, bob: Person, dave: Person, mallory: Person, acme: Org
) -> None:
    assert alice.user
    assert bob.user
    api = ProjectsApi(client, bob)
    project = api.project("Shared", f"?org_id={acme.id}")
    run = factories.run(bob.user, org_id=acme.id)
    api.blob("1", f"?org_id={acme.id}")
    made = api.push(project, hash_in(api, f"?org_id={acme.id}"), run_id=run.id, message="For acme")
    paths = f"/orgs/acme/runs/{run.id}", f"/orgs/acme/projects/{project}/snapshot?id={made}"
    for person, status in ((alice, 200), (bob, 200), (mallory, 404)):
        assert [person.browser.get(path).status_code for path in paths] == [status] * 2
    page = alice.browser.get(paths[0]).text
    assert ("What it changed" in page, f"/orgs/acme/projects/{project}/comparison" in page) == (True, True)
    # a member sees the snapshots of others, and of their runs no more than the id
    factories.join(acme, mallory.id, "member")
    snapshot = mallory.browser.get(paths[1]).text
    assert (run.id in snapshot, f"/runs/{run.id}" in snapshot) == (True, False)
    assert mallory.browser.get(paths[0]).status_code == 404
    # the billing role sees runs, and no projects
    answer = dave.browser.get(paths[0])
    assert (answer.status_code, "What it changed" in answer.text) == (200, False)


def test_a_deleted_project_is_not_shown(
    alice: Person, mine: ProjectsApi, project: str, run: AgentRun
) -> None:
    mine.push(project, mine.tree({"a.txt": "1\n"}), run_id=run.id)
    assert "What it changed" in alice.browser.get(f"/runs/{run.id}").text
    assert mine("delete", f"/projects/{project}")[0] == 200
    assert "What it changed" not in alice.browser.get(f"/runs/{run.id}").text
