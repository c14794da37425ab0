"""Overlaps: what each workspace changed since it left the main one, told once while all still work."""

import random
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.projects import ChangeIndex, Project, Workspace, WorkspaceChange
from models.projects.snapshots.manifest_store import manifest_row, tree_entries
from models.projects.snapshots.merge_base import merge_base
from models.projects.workspaces import overlap_board, overlap_index
from models.projects.workspaces.workspace_files import compared_files, content_of
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, sha

pytestmark = pytest.mark.usefixtures("proved")
START = {"a": "0", "b": "0", "d/c": "0", "d/e": "0"}


class Team:
    """A project with a main workspace and forks of it."""

    def __init__(self, api: ProjectsApi, *names: str) -> None:
        self.api, self.project = api, api.project()
        self.ids = {"main": api.workspace(self.project)}
        self.files = {"main": START}
        self.push("main", {})
        for name in names:
            self.fork(name)

    def head(self, name: str) -> Any:
        return self.api("get", f"/workspaces/{self.ids[name]}")[1]["workspace"]["current_snapshot_id"]

    def fork(self, name: str) -> None:
        self.ids[name] = self.api.workspace(self.project, name, base_snapshot_id=self.head("main"))
        self.files[name] = self.files["main"]

    def changed(self, name: str, changes: dict[str, str | None]) -> str:
        """The manifest of the files with these changes."""
        files = {**self.files[name], **changes}
        self.files[name] = {path: text for path, text in files.items() if text is not None}
        return self.api.tree(self.files[name])

    def push(self, name: str, changes: dict[str, str | None], *merged: str) -> str:
        """Push these changes; the heads of `merged` are parents too."""
        parents = [self.head(each) for each in (name, *merged)]
        hash = self.changed(name, changes)
        return self.api.push(
            self.project, hash, workspace_id=self.ids[name], parent_snapshot_ids=[id for id in parents if id]
        )

    def edit(self, name: str, changes: dict[str, str | None]) -> None:
        """Change files without a snapshot."""
        before = self.api("get", f"/workspaces/{self.ids[name]}")[1]["workspace"]["current_manifest_hash"]
        body = {"manifest_hash": self.changed(name, changes), "previous_manifest_hash": before}
        assert self.api("post", f"/workspaces/{self.ids[name]}/current-manifest", body)[0] == 200

    def board(self, query: str = "") -> Any:
        status, body = self.api("get", f"/projects/{self.project}/overlaps{query}")
        assert status == 200, body
        return body

    def paths(self) -> dict[str, set[str]]:
        """The names of who overlaps, by path; main too if it changed the file."""
        return {
            each["path"]: {change["workspace_name"] for change in each["changes"]}
            | ({"main"} if each["main_changed"] else set())
            for each in self.board()["overlaps"]
        }

    def told(self) -> list[str]:
        """The messages about overlaps, the oldest first."""
        events = self.api("get", f"/projects/{self.project}/events?limit=100")[1]["events"]
        return [each["message"] for each in reversed(events) if each["type"] == "workspace.overlap"]


def test_two_workspaces_that_change_a_file_overlap(mine: ProjectsApi) -> None:
    team = Team(mine, "one", "two")
    team.push("one", {"a": "1", "b": "1"})
    assert team.board()["overlaps"] == []
    team.push("two", {"a": "2", "d/c": None})
    board = team.board()
    overlap = {
        "path": "a",
        "differs": True,
        "main_changed": False,
        "changes": [
            {
                "workspace_id": team.ids[name],
                "workspace_name": name,
                "change": "modified",
                "content": sha(text),
            }
            for name, text in sorted((("one", "1"), ("two", "2")), key=lambda each: team.ids[each[0]])
        ],
    }
    assert (board["overlaps"], board["more"]) == ([overlap], False)
    assert {each["name"]: (each["changed_files"], each["state"]) for each in board["workspaces"]} == {
        "one": (2, "complete"),
        "two": (2, "complete"),
    }


def test_the_same_change_is_no_overlap(mine: ProjectsApi) -> None:
    team = Team(mine, "one", "two")
    for name in ("one", "two"):
        team.push(name, {"a": "1", "b": None, "new": "1"})
    assert (team.paths(), team.told()) == ({}, [])


@pytest.mark.parametrize(
    ("one", "two"), [("1", None), (None, "2"), ("1", "2")], ids=["deleted there", "deleted here", "changed"]
)
def test_deletions_overlap_with_changes(mine: ProjectsApi, one: str | None, two: str | None) -> None:
    team = Team(mine, "one", "two")
    team.push("one", {"a": one})
    team.push("two", {"a": two})
    assert team.paths() == {"a": {"one", "two"}}


def test_an_overlap_is_told_once(mine: ProjectsApi) -> None:
    team = Team(mine, "one", "two", "three")
    team.edit("one", {"a": "1"})
    team.edit("two", {"a": "2", "b": "2"})
    assert team.told() == ["Also changed in one: a"]
    team.edit("two", {"a": "3"})
    team.edit("one", {"a": "4"})
    team.push("one", {"a": "5"})
    assert len(team.told()) == 1
    team.push("three", {"a": "6", "b": "6"})
    assert team.told()[1:] == ["Also changed in one, two: a, b"]
    # it ends, and begins anew
    team.edit("two", {"a": "0"})
    team.edit("two", {"a": "7"})
    assert team.told()[2:] == ["Also changed in one, three: a"]


def test_main_overlaps_with_what_others_changed(mine: ProjectsApi) -> None:
    team = Team(mine, "one", "two")
    team.push("one", {"a": "1"})
    team.push("main", {"a": "main", "b": "main"})
    assert team.paths() == {"a": {"one", "main"}}
    assert team.told() == ["Also changed in one: a"]
    team.push("two", {"b": "2"})
    assert team.told()[1:] == ["Also changed in main: b"]
    team.push("main", {"b": "2"})
    assert team.paths() == {"a": {"one", "main"}}
    team.push("one", {"a": "3"})
    team.push("main", {"a": "again"})
    assert len(team.told()) == 2


def test_a_workspace_that_took_main_over_has_nothing_but_its_own_changes(mine: ProjectsApi) -> None:
    team = Team(mine, "one")
    team.push("one", {"a": "1"})
    team.push("main", {"a": "main", "b": "main"})
    team.push("one", {"a": "both", "b": "main"}, "main")
    assert team.paths() == {}
    assert team.board("?paths=a&paths=b")["overlaps"][0]["path"] == "a"
    assert len(team.board("?paths=a&paths=b")["overlaps"]) == 1


def test_what_lands_in_main_is_no_change_of_the_workspace_any_more(mine: ProjectsApi) -> None:
    team = Team(mine, "one", "two")
    team.push("one", {"a": "1"})
    team.push("two", {"a": "2"})
    team.push("main", {"a": "1"}, "one")
    assert team.paths() == {"a": {"two", "main"}}
    assert {each["name"]: each["changed_files"] for each in team.board()["workspaces"]} == {
        "one": 0,
        "two": 1,
    }


def test_another_main_workspace_is_the_measure(mine: ProjectsApi) -> None:
    team = Team(mine, "one", "two")
    team.push("one", {"a": "1"})
    team.push("two", {"a": "2"})
    assert mine("post", f"/workspaces/{team.ids['one']}/set-as-main")[0] == 200
    board = team.board()
    assert {each["name"] for each in board["workspaces"]} == {"main", "two"}
    assert team.board()["overlaps"][0]["main_changed"] is True
    assert [each["workspace_name"] for each in board["overlaps"][0]["changes"]] == ["two"]


def test_a_deleted_workspace_overlaps_with_nobody(mine: ProjectsApi) -> None:
    team = Team(mine, "one", "two")
    team.push("one", {"a": "1"})
    team.push("two", {"a": "2"})
    mine("delete", f"/workspaces/{team.ids['two']}")
    assert team.paths() == {}
    assert [each["name"] for each in team.board()["workspaces"]] == ["one"]


def test_a_fork_of_a_fork_has_the_changes_that_main_lacks(mine: ProjectsApi) -> None:
    team = Team(mine, "one")
    head = team.push("one", {"a": "1"})
    mine.workspace(team.project, "copy", base_snapshot_id=head)
    assert {each["name"]: each["changed_files"] for each in team.board()["workspaces"]} == {
        "one": 1,
        "copy": 1,
    }
    assert team.paths() == {}


def test_without_a_common_snapshot_files_are_compared_directly(mine: ProjectsApi) -> None:
    team = Team(mine)
    team.ids["far"], team.files["far"] = mine.workspace(team.project, "far"), {"a": "0", "b": "1", "own": "1"}
    team.push("far", {})
    assert team.paths() == {"b": {"far", "main"}}
    team.push("main", {"b": "1", "own": "main"})
    assert team.paths() == {"own": {"far", "main"}}


def test_who_changed_a_file_is_asked_by_path(mine: ProjectsApi) -> None:
    team = Team(mine, "one")
    team.push("one", {"a": "1", "x,y": "1", "d/new": "1"})
    for query, expected in (
        ("?paths=a,d/new", ["a", "d/new"]),
        ("?paths=d/new&paths=a", ["d/new", "a"]),
        ("?paths=x,y", ["x,y"]),
        ("?paths=b,nothing", []),
        ("?paths=a%00b", []),
        ("?paths=%ff", []),
        ("?paths=", []),
    ):
        found = team.board(query)["overlaps"]
        assert [each["path"] for each in found] == expected, query
        assert not any(each["differs"] for each in found)
    many = "&".join(f"paths={number}" for number in range(100))
    assert team.board(f"?{many}")["overlaps"] == []
    for query in (f"?{many}&paths=one", "?paths=" + ",".join(map(str, range(101))), f"?paths={'x' * 5_000}"):
        status, answer = mine("get", f"/projects/{team.project}/overlaps{query}")
        assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_unreadable_files_stop_no_move_and_are_told(mine: ProjectsApi) -> None:
    team = Team(mine, "one", "two")
    team.push("one", {"a": "1"})
    for name in ("two", "main"):
        path = f"/workspaces/{team.ids[name]}/current-manifest"
        before = mine("get", f"/workspaces/{team.ids[name]}")[1]["workspace"]["current_manifest_hash"]
        body = {"manifest_hash": "f" * 64, "previous_manifest_hash": before}
        assert mine("post", path, body)[0] == 200
    states = {each["name"]: each["state"] for each in team.board()["workspaces"]}
    assert states == {"one": "complete", "two": "unreadable"}
    assert team.paths() == {}
    team.push("two", {"a": "2"})
    team.push("main", {"b": "main"})
    assert team.paths() == {"a": {"one", "two"}}


def test_more_changes_than_fit_are_told(mine: ProjectsApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap_index, "MAX_INDEXED", 2)
    monkeypatch.setattr(overlap_board, "MAX_PATHS", 1)
    team = Team(mine, "one", "two")
    for name in ("one", "two"):
        team.push(name, {"a": name, "b": name, "d/c": name})
    board = team.board()
    assert ([each["path"] for each in board["overlaps"]], board["more"]) == (["a"], True)
    assert [(each["changed_files"], each["state"]) for each in board["workspaces"]] == [(3, "cut")] * 2
    assert team.told() == ["Also changed in one: a, b"]


def test_long_paths_and_many_overlaps_make_a_short_event(mine: ProjectsApi) -> None:
    team = Team(mine, "one", "two")
    long = "/".join(["x" * 200] * 20)
    for name in ("one", "two"):
        team.push(name, {long: name, **{str(number): name for number in range(5)}})
    assert team.told() == ["Also changed in one: 0, 1, 2 and 3 more"]
    assert long in team.paths()


def test_strangers_see_no_overlaps(client: FlaskClient, mine: ProjectsApi, mallory: Person) -> None:
    team = Team(mine, "one")
    theirs = ProjectsApi(client, mallory)
    assert theirs("get", f"/projects/{team.project}/overlaps?paths=a")[0] == 404


# --- whatever happens, the index says what a comparison of all files would -------------------------------------------------


def contents(project: Project, manifest_hash: str | None) -> dict[str, str | None]:
    row = manifest_row(project.account_id, manifest_hash) if manifest_hash else None
    entries = tree_entries(project.account_id, row.tree_hash) if row and row.tree_hash else []
    return {entry.path: content_of(entry) for entry in entries if entry.kind != "dir"}


def expected(project: Project, main: Workspace, workspace: Workspace) -> dict[str, tuple[Any, Any, Any]]:
    """What the index must have of a workspace: base, own and main by path."""
    here, there = (compared_files(each) for each in (workspace, main))
    own = contents(project, here.manifest_hash if here else None)
    mains = contents(project, there.manifest_hash if there else None)
    heads = workspace.current_snapshot_id, main.current_snapshot_id
    base = merge_base(project.id, *heads) if all(heads) else None  # type: ignore[arg-type]
    if base is None:
        return {
            path: (None, content, mains.get(path))
            for path, content in own.items()
            if content != mains.get(path)
        }
    before = contents(project, base.manifest_hash)
    return {
        path: (before.get(path), own.get(path), mains.get(path))
        for path in own.keys() | before.keys()
        if own.get(path) != before.get(path)
    }


def check_index(session: OrmSession, project_id: str) -> None:
    session.rollback()
    session.expire_all()
    project = session.get_one(Project, project_id)
    main = session.get_one(Workspace, project.main_workspace_id)
    rows: dict[str, dict[str, tuple[Any, Any, Any]]] = {}
    for row in session.scalars(select(WorkspaceChange).where(WorkspaceChange.project_id == project_id)):
        rows.setdefault(row.workspace_id, {})[row.path] = (row.base, row.own, row.main)
    assert main.id not in rows
    for workspace in session.scalars(select(Workspace).where(Workspace.project_id == project_id)):
        if workspace.id != main.id:
            right = expected(project, main, workspace) if workspace.deleted_at is None else {}
            assert rows.get(workspace.id, {}) == right, workspace.name
    indexed = set(session.scalars(select(ChangeIndex.workspace_id)))
    assert rows.keys() <= indexed


@pytest.mark.parametrize("seed", range(3))
def test_the_index_is_right_after_any_moves(session: OrmSession, mine: ProjectsApi, seed: int) -> None:
    chance = random.Random(seed)
    team = Team(mine, "one", "two", "far")
    names = list(team.ids)
    pushed: list[str] = []

    def changes() -> dict[str, str | None]:
        return {path: chance.choice(["0", "1", "2", None]) for path in START if chance.random() < 0.4}

    def move(name: str) -> None:
        match chance.randrange(10):
            case 0 | 1 | 2 | 3:
                pushed.append(team.push(name, changes()))
            case 4 | 5:
                pushed.append(
                    team.push(name, changes(), chance.choice([each for each in names if each != name]))
                )
            case 6:
                team.edit(name, changes())
            case 7 if pushed:
                mine(
                    "post", f"/workspaces/{team.ids[name]}/sync/undo", {"snapshot_id": chance.choice(pushed)}
                )
            case 8:
                path = f"/workspaces/{team.ids[name]}/operations"
                operation = chance.choice(mine("get", path)[1]["operations"] or [{"id": "none"}])
                mine("post", f"{path}/{operation['id']}/undo", {"decisions": dict.fromkeys(START, "undo")})
            case 9:
                mine("post", f"/workspaces/{team.ids[name]}/set-as-main")

    for _ in range(25):
        move(chance.choice(names))
        check_index(session, team.project)
