"""Workspaces: the rows of the contract, versions, the compare-and-set of their files, and the main one."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.projects import ActivityEvent, Snapshot
from tests.projects.project_calls import ProjectsApi, typed

pytestmark = pytest.mark.usefixtures("proved")
KEYS = {
    *("id", "project_id", "name", "machine_id", "base_snapshot_id", "current_snapshot_id"),
    *("current_manifest_hash", "local_path", "last_seen_at", "created_at", "merge_history"),
}


@pytest.fixture
def project(mine: ProjectsApi) -> str:
    return mine.project()


def test_a_workspace_has_the_shape_of_the_contract(mine: ProjectsApi, project: str) -> None:
    base = mine.push(project, mine.tree({"a": "1"}))
    new = {"name": " main ", "machine_id": "m1", "base_snapshot_id": base, "local_path": "/home/a"}
    status, body = mine("post", f"/projects/{project}/workspaces", new)
    made = body["workspace"]
    assert (status, set(made)) == (201, KEYS)
    assert (made["name"], made["base_snapshot_id"], made["current_snapshot_id"]) == ("main", base, base)
    assert (made["current_manifest_hash"], made["last_seen_at"], made["merge_history"]) == (None, None, None)
    assert mine("get", f"/workspaces/{made['id']}")[1] == {"workspace": made, "drift": None}
    listed = mine("get", f"/projects/{project}/workspaces")[1]["workspaces"]
    assert listed == [{**made, "drift": None}]
    event = mine("get", f"/projects/{project}/events")[1]["events"][0]
    assert (event["type"], event["actor"], event["workspace_id"]) == ("workspace.created", "cli", made["id"])
    embedded = mine("get", f"/projects/{project}")[1]["workspaces"][0]
    assert set(embedded) == KEYS - {"current_manifest_hash", "merge_history"}


def test_the_first_workspace_is_the_main_one(mine: ProjectsApi, project: str) -> None:
    first, second = mine.workspace(project, "one"), mine.workspace(project, "two")

    def main() -> Any:
        return mine("get", f"/projects/{project}")[1]["project"]["main_workspace_id"]

    assert main() == first
    for _ in range(2):
        assert mine("post", f"/workspaces/{second}/set-as-main") == (
            200,
            {"success": True, "main_workspace_id": second},
        )
    assert main() == second
    events = mine("get", f"/projects/{project}/events")[1]["events"]
    assert [each["type"] for each in events].count("workspace.main_changed") == 1
    assert mine("delete", f"/workspaces/{second}")[0] == 409
    assert mine("delete", f"/workspaces/{first}") == (200, {"success": True})
    assert mine("get", f"/workspaces/{first}")[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": " "},
        {"name": 7},
        {"name": "x" * 201},
        {"name": "a", "base_snapshot_id": "snap-0"},
        {"name": "a", "base_snapshot_id": 7},
        {"name": "a", "local_path": "x" * 5_000},
        {"name": "a", "machine_id": ["m"]},
    ],
)
def test_wrong_workspaces_are_422(mine: ProjectsApi, project: str, body: Any) -> None:
    status, answer = mine("post", f"/projects/{project}/workspaces", body)
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert mine("get", f"/projects/{project}/workspaces")[1]["workspaces"] == []


def test_a_base_of_another_project_is_422(mine: ProjectsApi, project: str) -> None:
    base = mine.push(mine.project("Other"), mine.tree({"a": "1"}))
    assert mine("post", f"/projects/{project}/workspaces", {"name": "a", "base_snapshot_id": base})[0] == 422


def test_names_are_taken_once_whatever_their_case(mine: ProjectsApi, project: str) -> None:
    one = mine.workspace(project, "One")
    two = mine.workspace(project, "two")
    for method, path in (("post", f"/projects/{project}/workspaces"), ("patch", f"/workspaces/{two}")):
        status, answer = mine(method, path, {"name": "oNE"})
        assert (status, answer["error"]["code"]) == (409, "WORKSPACE_NAME_TAKEN")
    assert mine("patch", f"/workspaces/{one}", {"name": "ONE"})[1]["workspace"]["name"] == "ONE"
    mine("delete", f"/workspaces/{two}")
    mine.workspace(project, "TWO")


def test_a_change_names_what_it_changes(mine: ProjectsApi, project: str) -> None:
    id = mine.workspace(project, machine_id="m", local_path="/a")
    status, body = mine("patch", f"/workspaces/{id}", {"local_path": None})
    assert (status, body["workspace"]["local_path"], body["workspace"]["machine_id"]) == (200, None, "m")
    status, answer = mine("patch", f"/workspaces/{id}", {"name": "x"}, {"If-Match": '"9"'})
    assert (status, answer["error"]["code"], answer["error"]["details"]) == (
        409,
        "VERSION_CONFLICT",
        {"version": 1},
    )
    assert mine("patch", f"/workspaces/{id}", {"name": "x"}, {"If-Match": "new"})[0] == 422


def test_a_heartbeat_is_seen(mine: ProjectsApi, project: str) -> None:
    id = mine.workspace(project)
    status, body = mine("post", f"/workspaces/{id}/heartbeat")
    assert (status, body["success"]) == (200, True)
    assert mine("get", f"/workspaces/{id}")[1]["workspace"]["last_seen_at"] == body["last_seen_at"]


def test_files_are_compared_and_set(session: OrmSession, mine: ProjectsApi, project: str) -> None:
    path = f"/workspaces/{mine.workspace(project)}/current-manifest"
    one, two, three = (mine.tree({"a": text}) for text in ("1", "2", "3"))
    assert mine("post", path, {"manifest_hash": one}) == (
        200,
        {"updated": True, "current_manifest_hash": one},
    )
    lost = {"updated": False, "current_manifest_hash": one, "conflict": True}
    for previous in ({}, {"previous_manifest_hash": three}, {"previous_manifest_hash": None}):
        assert mine("post", path, {"manifest_hash": two, **previous}) == (409, lost)
    moved = {"manifest_hash": two, "previous_manifest_hash": one}
    assert mine("post", path, moved)[1] == {"updated": True, "current_manifest_hash": two}
    # the loser's tree is kept, once
    kept = session.scalars(select(Snapshot)).one()
    assert (kept.manifest_hash, kept.source) == (two, "system")
    told = session.scalars(select(ActivityEvent).where(ActivityEvent.type == "workspace.out_of_date")).all()
    assert {event.snapshot_id for event in told} == {kept.id}


def test_the_files_need_not_be_stored(mine: ProjectsApi, project: str) -> None:
    path = f"/workspaces/{mine.workspace(project)}/current-manifest"
    assert mine("post", path, {"manifest_hash": "f" * 64})[0] == 200
    assert mine("post", path, {"manifest_hash": "e" * 64})[0] == 409


@pytest.mark.parametrize(
    "body", [{}, {"manifest_hash": ""}, {"manifest_hash": 7}, {"manifest_hash": "x" * 129}]
)
def test_a_missing_manifest_is_422(mine: ProjectsApi, project: str, body: Any) -> None:
    status, answer = mine("post", f"/workspaces/{mine.workspace(project)}/current-manifest", body)
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_every_move_raises_the_version(mine: ProjectsApi, project: str) -> None:
    id = mine.workspace(project)

    def version() -> str:
        return str(mine.raw("get", f"/workspaces/{id}").headers["ETag"])

    hash = mine.tree({"a": "1"})
    assert version() == '"1"'
    mine("post", f"/workspaces/{id}/current-manifest", {"manifest_hash": hash})
    assert version() == '"2"'
    again = {"manifest_hash": hash, "previous_manifest_hash": hash}
    mine("post", f"/workspaces/{id}/current-manifest", again)
    assert version() == '"2"'  # nothing moved
    snapshot = mine.push(project, hash, workspace_id=id)
    assert version() == '"3"'
    mine("get", f"/workspaces/{id}/operations")
    mine("post", f"/workspaces/{id}/heartbeat")
    assert version() == '"3"'
    mine("post", f"/workspaces/{id}/sync/undo", {"snapshot_id": snapshot})
    assert version() == '"4"'


def test_all_snapshots_of_the_project_are_listed_and_the_current_one_marked(
    mine: ProjectsApi, project: str
) -> None:
    one, two = mine.workspace(project, "one"), mine.workspace(project, "two")
    first = mine.push(project, mine.tree({"a": "1"}), workspace_id=one)
    second = mine.push(project, mine.tree({"a": "2"}), workspace_id=two)
    body = mine("get", f"/workspaces/{one}/snapshots")[1]
    assert [(each["id"], each["is_current"]) for each in body["snapshots"]] == [
        (second, False),
        (first, True),
    ]
    assert body["current_snapshot_id"] == first
    assert len(mine("get", f"/workspaces/{one}/snapshots?limit=1")[1]["snapshots"]) == 1


def test_a_snapshot_is_restored_with_its_files(mine: ProjectsApi, project: str) -> None:
    id = mine.workspace(project)
    hashes = [mine.manifest(typed({"a": text})) for text in "12"]
    first, second = (mine.push(project, hash, workspace_id=id) for hash in hashes)
    path = f"/workspaces/{id}/sync/undo"
    assert mine("post", path, {"snapshot_id": first}) == (
        200,
        {"success": True, "restored_snapshot_id": first},
    )
    found = mine("get", f"/workspaces/{id}")[1]["workspace"]
    assert (found["current_snapshot_id"], found["current_manifest_hash"]) == (first, hashes[0])
    event = mine("get", f"/projects/{project}/events")[1]["events"][0]
    assert (event["type"], event["snapshot_id"]) == ("snapshot.pulled", first)
    assert mine("post", path, {"snapshot_id": second}, {"If-Match": '"1"'})[0] == 409
    assert mine("post", path, {})[1]["error"]["code"] == "MISSING_SNAPSHOT_ID"
    assert mine("post", path, {})[0] == 400
    other = mine.push(mine.project("Other"), hashes[0])
    assert mine("post", path, {"snapshot_id": other})[0] == 404
