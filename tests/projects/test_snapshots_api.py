"""Snapshots: the steps of the contract in their order, ids that clients compute, and the merge base."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.projects import Snapshot
from models.projects.snapshots.merge_base import distances, nearest_common
from models.projects.snapshots.snapshot_ids import computed_id
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, typed
from views.projects.api.snapshot_routes import _moment as moment

pytestmark = pytest.mark.usefixtures("proved")
AUTHOR = {"author_name": "Ana", "author_email": "ana@example.org", "created_at": "2024-01-01T00:00:00Z"}
KEYS = {
    *("id", "project_id", "workspace_id", "manifest_hash", "parent_snapshot_ids", "source", "summary"),
    "created_at",
}


@pytest.fixture
def project(mine: ProjectsApi) -> str:
    return mine.project()


@pytest.fixture
def hash(mine: ProjectsApi) -> str:
    return mine.tree({"a": "1"})


@pytest.mark.parametrize(
    ("manifest", "parents", "name", "email", "id"),
    [
        (
            "abc123",
            ["parent1"],
            "John",
            "john@example.com",
            "68bfe6f0e3c1c9c06f71201848888b395f3f8e3d924dea99aa7cdb9bdde60d46",
        ),
        (
            "abc",
            ["b", "a", "c"],
            "J",
            "j@e.com",
            "01fc7488894b4aa319af91a20db39643aae320a2ab6a695788b40dd50c6bd1f8",
        ),
        (
            "abc",
            ["c", "b", "a"],
            "J",
            "j@e.com",
            "01fc7488894b4aa319af91a20db39643aae320a2ab6a695788b40dd50c6bd1f8",
        ),
        ("abc123", [], "", "", "dd37c31e68635844e15ce9c0025ffa31d4d6271f8f72d7609daac1dca2a7ebd4"),
    ],
)
def test_ids_are_computed_as_in_the_contract(
    manifest: str, parents: list[str], name: str, email: str, id: str
) -> None:
    assert computed_id(manifest, parents, name, email, moment("2024-01-01T00:00:00Z")) == id


def test_a_push_moves_the_workspace_and_the_project(mine: ProjectsApi, project: str, hash: str) -> None:
    workspace = mine.workspace(project)
    path = f"/projects/{project}/snapshots"
    status, body = mine("post", path, {"manifest_hash": hash, "workspace_id": workspace})
    made = body["snapshot"]
    assert (status, body["created"], set(made)) == (201, True, KEYS)
    assert made["id"].startswith("snap-")
    assert (len(made["id"]), made["source"], made["parent_snapshot_ids"]) == (31, "cli", [])
    found = mine("get", f"/workspaces/{workspace}")[1]["workspace"]
    assert (found["current_snapshot_id"], found["current_manifest_hash"]) == (made["id"], hash)
    assert mine("get", f"/projects/{project}")[1]["project"]["last_snapshot_id"] == made["id"]
    event = mine("get", f"/projects/{project}/events")[1]["events"][0]
    assert (event["type"], event["actor"], event["workspace_id"]) == ("snapshot.pushed", "cli", None)
    assert mine("get", path)[1]["snapshots"] == [made]


def test_a_push_is_repeated_without_effect(mine: ProjectsApi, project: str, hash: str) -> None:
    workspace = mine.workspace(project)
    parents = [mine.push(project, hash), mine.push(project, hash)]
    body = {
        "manifest_hash": hash,
        "snapshot_id": "mine-1",
        "parent_snapshot_ids": ["", *parents, parents[0]],
        "workspace_id": workspace,
    }
    path = f"/projects/{project}/snapshots"
    status, first = mine("post", path, body)
    assert (status, first["snapshot"]["parent_snapshot_ids"]) == (201, parents)
    events = mine("get", f"/projects/{project}/events")
    status, again = mine("post", path, body)
    assert (status, again) == (200, {"snapshot": first["snapshot"], "created": False})
    assert mine("get", f"/projects/{project}/events") == events
    other = mine.tree({"a": "2"})
    for change in (
        {"manifest_hash": other},
        {"parent_snapshot_ids": parents[::-1]},
        {"parent_snapshot_ids": None},
    ):
        status, answer = mine("post", path, {**body, **change})
        assert (status, answer["error"]["code"]) == (409, "CONFLICT")


def test_the_same_id_in_another_project_is_another_snapshot(
    client: FlaskClient, mine: ProjectsApi, mallory: Person, project: str, hash: str
) -> None:
    mine.push(project, hash, snapshot_id="same")
    theirs = ProjectsApi(client, mallory)
    assert theirs("get", "/snapshots/same")[0] == 404
    other = theirs.project("Other")
    theirs.push(other, theirs.tree({"a": "9"}), snapshot_id="same")
    assert theirs("get", "/snapshots/same")[1]["snapshot"]["project_id"] == other
    assert mine("get", "/snapshots/same")[1]["snapshot"]["project_id"] == project


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "VALIDATION_ERROR"),
    ({"manifest_hash": ""}, "VALIDATION_ERROR"),
    ({"manifest_hash": 7}, "VALIDATION_ERROR"),
    ({"workspace_id": "X" * 26}, "VALIDATION_ERROR"),
    ({"parent_snapshot_ids": ["snap-0"]}, "VALIDATION_ERROR"),
    ({"parent_snapshot_ids": ["x" * 200]}, "VALIDATION_ERROR"),
    ({"parent_snapshot_ids": [7]}, "VALIDATION_ERROR"),
    ({"parent_snapshot_ids": [f"p{number}" for number in range(65)]}, "VALIDATION_ERROR"),
    ({"manifest_hash": "f" * 64}, "MANIFEST_NOT_FOUND"),
    ({"manifest_hash": "../x"}, "MANIFEST_NOT_FOUND"),
    ({"snapshot_id": "x" * 129}, "VALIDATION_ERROR"),
    ({"source": "moon"}, "VALIDATION_ERROR"),
    ({"message": "x" * 20_000}, "VALIDATION_ERROR"),
    ({"created_at": "yesterday"}, "VALIDATION_ERROR"),
    ({"created_at": "2024-01-01T00:00:00"}, "VALIDATION_ERROR"),
    ({"created_at": "0001-01-01T00:00:00+14:00"}, "VALIDATION_ERROR"),
    ({"snapshot_id": "0" * 64, **AUTHOR}, "VALIDATION_ERROR"),
]


@pytest.mark.parametrize(("change", "code"), WRONG, ids=lambda each: str(each)[:40])
def test_wrong_pushes_are_422_and_move_nothing(
    session: OrmSession, mine: ProjectsApi, project: str, hash: str, change: dict[str, Any], code: str
) -> None:
    body = {"manifest_hash": hash, **change} if change else {}
    status, answer = mine("post", f"/projects/{project}/snapshots", body)
    assert (status, answer["error"]["code"]) == (422, code)
    assert session.scalars(select(Snapshot)).all() == []


def test_parents_and_workspaces_of_other_projects_are_422(mine: ProjectsApi, project: str, hash: str) -> None:
    other = mine.project("Other")
    foreign = {"parent_snapshot_ids": [mine.push(other, hash)]}, {"workspace_id": mine.workspace(other)}
    for change in foreign:
        assert mine("post", f"/projects/{project}/snapshots", {"manifest_hash": hash, **change})[0] == 422


def test_a_computed_id_is_verified_and_echoed(mine: ProjectsApi, project: str, hash: str) -> None:
    parent = mine.push(project, hash)
    id = computed_id(hash, [parent], "Ana", "ana@example.org", moment(AUTHOR["created_at"]))
    more = {"message": "First", "agent": "claude", "summary": "One file"}
    mine.push(project, hash, snapshot_id=id, parent_snapshot_ids=[parent], **AUTHOR, **more)
    found = mine("get", f"/snapshots/{id}")[1]["snapshot"]
    assert {name: found[name] for name in (*AUTHOR, *more)} == {**AUTHOR, **more}
    assert (found["verified"], found["generation"], found["client_created_at"]) == (
        True,
        2,
        AUTHOR["created_at"],
    )


def test_an_id_without_a_time_is_kept_as_it_is(mine: ProjectsApi, project: str, hash: str) -> None:
    mine.push(project, hash, snapshot_id="0" * 64)
    found = mine("get", f"/snapshots/{'0' * 64}")[1]["snapshot"]
    assert (found["verified"], found["author_name"], found["client_created_at"]) == (False, None, None)


def test_the_loser_of_a_race_is_stored_and_the_head_stays(mine: ProjectsApi, project: str, hash: str) -> None:
    workspace = mine.workspace(project)
    winner = mine.push(project, hash, workspace_id=workspace)
    body = {"manifest_hash": mine.tree({"a": "2"}), "workspace_id": workspace}
    status, answer = mine("post", f"/projects/{project}/snapshots", body, {"If-Match": '"1"'})
    assert (status, answer["error"]["code"]) == (409, "VERSION_CONFLICT")
    lost = answer["error"]["details"]["snapshot_id"]
    assert mine("get", f"/snapshots/{lost}")[0] == 200
    found = mine("get", f"/workspaces/{workspace}")[1]["workspace"]
    assert found["current_snapshot_id"] == winner
    # its answer may have been lost, so the same push says the same again
    again = {**body, "snapshot_id": lost}
    status, answer = mine("post", f"/projects/{project}/snapshots", again, {"If-Match": '"1"'})
    assert (status, answer["error"]["details"]) == (409, {"version": 2, "snapshot_id": lost})
    status, _ = mine("post", f"/projects/{project}/snapshots", body, {"If-Match": '"2"'})
    assert status == 201
    again = {"manifest_hash": hash, "workspace_id": workspace, "snapshot_id": winner}
    assert mine("post", f"/projects/{project}/snapshots", again, {"If-Match": '"1"'})[0] == 200


def test_a_merge_base_is_found_over_all_parents(mine: ProjectsApi, project: str) -> None:
    hash = mine.manifest(typed({}))

    def push(id: str, *parents: str) -> str:
        return mine.push(project, hash, snapshot_id=id, parent_snapshot_ids=list(parents))

    push("root")
    push("a1", "root")
    push("b1", "root")
    push("a2", "a1")
    push("b2", "b1", "a1")
    push("alone")

    def base(one: str, other: str) -> Any:
        return mine("get", f"/projects/{project}/merge-base?one={one}&other={other}")[1].get("merge_base")

    assert base("a2", "b1") == "root"
    assert base("a2", "b2") == base("b2", "a2") == "a1"
    assert base("a1", "a2") == "a1"
    assert base("a2", "a2") == "a2"
    assert base("a2", "alone") is None
    assert mine("get", f"/projects/{project}/merge-base?one=a2&other=none")[0] == 404
    assert mine("get", f"/projects/{project}/merge-base")[0] == 404


def test_of_two_merge_bases_the_later_is_taken(mine: ProjectsApi, project: str) -> None:
    hash = mine.manifest(typed({}))
    for id, parents in {"r": [], "a": ["r"], "b": ["r"], "x": ["a", "b"], "y": ["b", "a"]}.items():
        mine.push(project, hash, snapshot_id=id, parent_snapshot_ids=parents)
    assert mine("get", f"/projects/{project}/merge-base?one=x&other=y")[1] == {"merge_base": "b"}


graphs = st.lists(st.sets(st.integers(0, 30), max_size=3), min_size=2, max_size=30)


@given(graphs)
def test_the_merge_base_has_the_least_sum_of_distances(graph: list[set[int]]) -> None:
    parents = {str(child): [str(each) for each in above if each < child] for child, above in enumerate(graph)}
    one, other = str(len(graph) - 1), str(len(graph) - 2)
    left, right = distances(parents, one), distances(parents, other)
    sums = {id: left[id] + right[id] for id in left.keys() & right.keys()}
    assert nearest_common(parents, one, other) == sorted(
        id for id, total in sums.items() if total == min(sums.values())
    )
    assert all(left[parent] <= left[child] + 1 for child in left for parent in parents[child])
