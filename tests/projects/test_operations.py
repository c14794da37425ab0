"""Operations: every move is one, and any of them is undone by a new one, which keeps what came later."""

import json
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.projects import WorkspaceOperation
from tests.projects.project_calls import ProjectsApi, indented, typed

pytestmark = pytest.mark.usefixtures("proved")


class Copy:
    """A workspace, its pushes and undos."""

    def __init__(self, api: ProjectsApi) -> None:
        self.api, self.project = api, api.project()
        self.id = api.workspace(self.project)

    def push(self, files: dict[str, str]) -> str:
        """Push a snapshot of these files; returns the operation."""
        head = self.api("get", f"/workspaces/{self.id}")[1]["workspace"]["current_snapshot_id"]
        parents = [head] if head else []
        self.api.push(self.project, self.api.tree(files), workspace_id=self.id, parent_snapshot_ids=parents)
        return str(self.operations()[0]["id"])

    def operations(self) -> list[Any]:
        return list(self.api("get", f"/workspaces/{self.id}/operations")[1]["operations"])

    def preview(self, operation: str) -> tuple[int, Any]:
        return self.api("get", f"/workspaces/{self.id}/operations/{operation}/undo")

    def undo(self, operation: str, body: Any = None, version: str = "*") -> tuple[int, Any]:
        path = f"/workspaces/{self.id}/operations/{operation}/undo"
        return self.api("post", path, body, {"If-Match": version})

    def files(self) -> dict[str, str]:
        """What the workspace has, by path."""
        hash = self.api("get", f"/workspaces/{self.id}")[1]["workspace"]["current_manifest_hash"]
        if hash is None:
            return {}
        entries = json.loads(self.api.raw("get", f"/blobs/manifests/{hash}").data)["files"]
        return {each["path"]: self.api.raw("get", f"/blobs/download/{each['hash']}").text for each in entries}


@pytest.fixture
def copy(mine: ProjectsApi) -> Copy:
    return Copy(mine)


def test_every_move_is_an_operation_with_before_and_after(copy: Copy, alice: Any) -> None:
    copy.push({"a": "1"})
    copy.push({"a": "2"})
    second, first = copy.operations()
    assert (first["before_snapshot_id"], second["before_snapshot_id"]) == (None, first["after_snapshot_id"])
    assert (first["version"], second["version"]) == (2, 3)
    assert {each["kind"] for each in (first, second)} == {"snapshot"}
    assert (second["user_id"], second["actor"], second["cost"]) == (alice.id, "cli", 0)
    listed = copy.api("get", f"/projects/{copy.project}/operations")[1]
    assert listed == {"operations": [second, first], "next_cursor": None}
    page = copy.api("get", f"/projects/{copy.project}/operations?limit=1")[1]
    assert page["operations"] == [second]
    rest = copy.api.client.get(
        f"/v1/projects/{copy.project}/operations",
        query_string={"cursor": page["next_cursor"]},
        headers=copy.api.headers,
    ).json
    assert rest["operations"] == [first]


def test_the_last_operation_is_undone_exactly_and_redone(copy: Copy) -> None:
    first = copy.push({"a": "1"})
    second = copy.push({"a": "2", "b": "1"})
    status, plan = copy.preview(second)
    assert (status, plan["exact"], plan["conflicts"]) == (200, True, [])
    assert [(each["path"], each["action"]) for each in plan["changes"]] == [("a", "restore"), ("b", "remove")]
    status, body = copy.undo(second)
    assert (status, body["operation"]["undoes"], body["operation"]["kind"]) == (200, second, "undo")
    assert copy.files() == {"a": "1"}
    assert copy.undo(body["operation"]["id"])[0] == 200
    assert copy.files() == {"a": "2", "b": "1"}
    assert copy.undo(first)[0] == 409  # `a` changed since


def test_an_old_operation_is_undone_and_later_work_kept(copy: Copy) -> None:
    copy.push({"a": "1", "d/b": "1", "d/c": "1"})
    old = copy.push({"a": "2", "d/c": "1", "e": "1"})
    copy.push({"a": "2", "d/c": "2", "e": "1", "f": "1"})
    status, plan = copy.preview(old)
    assert (status, plan["exact"], plan["conflicts"]) == (200, False, [])
    before = copy.operations()
    assert copy.undo(old)[0] == 200
    assert copy.files() == {"a": "1", "d/b": "1", "d/c": "2", "f": "1"}
    assert copy.operations()[1:] == before
    head = copy.api("get", f"/workspaces/{copy.id}")[1]["workspace"]["current_snapshot_id"]
    assert copy.api("get", f"/snapshots/{head}")[1]["snapshot"]["parent_snapshot_ids"] == [
        before[0]["after_snapshot_id"]
    ]


def test_files_that_changed_since_need_a_decision(copy: Copy) -> None:
    copy.push({"a": "1", "b": "1"})
    old = copy.push({"a": "2", "b": "2"})
    copy.push({"a": "3", "b": "3"})
    status, answer = copy.undo(old)
    assert (status, answer["error"]["code"]) == (409, "UNDO_CONFLICT")
    assert answer["error"]["details"] == {"conflicts": ["a", "b"]}
    assert copy.undo(old, {"decisions": {"a": "undo"}})[1]["error"]["details"] == {"conflicts": ["b"]}
    assert copy.undo(old, {"decisions": {"a": "undo", "b": "shrug"}})[0] == 422
    assert copy.files() == {"a": "3", "b": "3"}
    assert copy.undo(old, {"decisions": {"a": "undo", "b": "keep"}})[0] == 200
    assert copy.files() == {"a": "1", "b": "3"}


def test_an_undo_that_another_change_made_already_changes_nothing(copy: Copy) -> None:
    copy.push({"a": "1"})
    old = copy.push({"a": "2"})
    copy.push({"a": "1", "b": "1"})
    assert copy.preview(old)[1]["changes"] == []
    assert copy.undo(old)[0] == 200
    assert copy.files() == {"a": "1", "b": "1"}


def test_an_undo_that_would_put_a_file_below_a_file_is_409(copy: Copy) -> None:
    copy.push({"a": "1"})
    old = copy.push({"b": "1"})
    copy.push({"b": "1", "a/c": "1"})
    status, answer = copy.undo(old)
    assert (status, answer["error"]["code"]) == (409, "UNDO_CONFLICT")
    assert copy.files() == {"b": "1", "a/c": "1"}


def test_manifests_of_any_dialect_are_undone_into_the_typed_one(copy: Copy) -> None:
    def bare(files: dict[str, str]) -> str:
        """A manifest without modes."""
        listed = [{"path": path, "hash": copy.api.blob(text), "size": 1} for path, text in files.items()]
        return copy.api.manifest(indented(listed))

    copy.api.push(copy.project, bare({"a": "1"}), workspace_id=copy.id)
    copy.api.push(copy.project, bare({"a": "2", "b": "1"}), workspace_id=copy.id)
    old = copy.operations()[0]["id"]
    copy.api.push(copy.project, bare({"a": "2", "b": "1", "c": "1"}), workspace_id=copy.id)
    assert copy.undo(old)[0] == 200
    assert copy.files() == {"a": "1", "c": "1"}
    hash = copy.api("get", f"/workspaces/{copy.id}")[1]["workspace"]["current_manifest_hash"]
    assert copy.api.raw("get", f"/blobs/manifests/{hash}").data == typed({"a": "1", "c": "1"})


def test_the_first_push_is_undone(copy: Copy) -> None:
    first = copy.push({"a": "1"})
    assert copy.undo(first)[0] == 200
    found = copy.api("get", f"/workspaces/{copy.id}")[1]["workspace"]
    assert (found["current_snapshot_id"], found["current_manifest_hash"]) == (None, None)


def test_an_undo_expects_the_version_that_was_read(copy: Copy) -> None:
    first = copy.push({"a": "1"})
    assert copy.undo(first, version='"1"')[1]["error"]["code"] == "VERSION_CONFLICT"
    assert copy.files() == {"a": "1"}
    assert copy.undo(first, version='"2"')[0] == 200


def test_a_change_of_the_main_workspace_is_undone(copy: Copy) -> None:
    other = copy.api.workspace(copy.project, "other")
    copy.api("post", f"/workspaces/{other}/set-as-main")
    operation = copy.api("get", f"/workspaces/{other}/operations")[1]["operations"][0]["id"]
    path = f"/workspaces/{other}/operations/{operation}/undo"
    assert copy.api("post", path)[0] == 200
    assert copy.api("get", f"/projects/{copy.project}")[1]["project"]["main_workspace_id"] == copy.id
    assert copy.api("post", path)[0] == 409


def test_states_that_are_not_stored_are_undone_exactly_only(copy: Copy) -> None:
    path = f"/workspaces/{copy.id}/current-manifest"
    copy.api("post", path, {"manifest_hash": "f" * 64})
    unknown = copy.operations()[0]["id"]
    assert copy.undo(unknown)[0] == 200
    copy.api("post", path, {"manifest_hash": "f" * 64})
    copy.push({"a": "1"})
    status, answer = copy.undo(unknown)
    assert (status, answer["error"]["code"]) == (409, "MANIFEST_NOT_FOUND")


def test_texts_that_are_no_manifests_are_kept_and_undone_exactly_only(copy: Copy) -> None:
    first = copy.push({"a": "1"})
    copy.api.push(copy.project, copy.api.manifest(b'"hello"'), workspace_id=copy.id)
    opaque = copy.operations()[0]["id"]
    assert copy.undo(first)[1]["error"]["code"] == "MANIFEST_NOT_FOUND"
    assert copy.api("get", f"/projects/{copy.project}/docs")[1] == {"workspaces": [], "total_files": 0}
    path = f"/projects/{copy.project}/docs/content?workspace={copy.id}&path=a"
    status, answer = copy.api("get", path)
    assert (status, answer["error"]["code"]) == (500, "PARSE_ERROR")
    assert copy.undo(opaque)[0] == 200
    assert copy.files() == {"a": "1"}


@pytest.mark.parametrize("id", ["X" * 26, "%00", "x" * 300])
def test_unknown_operations_are_404(copy: Copy, id: str) -> None:
    assert copy.preview(id)[0] == copy.undo(id)[0] == 404
    other = Copy(copy.api)
    assert copy.undo(other.push({"a": "1"}))[0] == 404


@pytest.mark.parametrize("body", [{"decisions": []}, {"decisions": {"a": 7}}, []])
def test_wrong_decisions_are_422(copy: Copy, body: Any) -> None:
    first = copy.push({"a": "1"})
    copy.push({"a": "2"})
    assert copy.undo(first, body)[0] == 422


def test_reading_writes_no_operation(session: OrmSession, copy: Copy) -> None:
    first = copy.push({"a": "1"})
    copy.push({"a": "2"})
    copy.preview(first)
    copy.operations()
    copy.api("get", f"/workspaces/{copy.id}/snapshots")
    assert len(session.scalars(select(WorkspaceOperation)).all()) == 2
