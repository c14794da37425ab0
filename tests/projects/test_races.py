"""Clients that act at the same time: exactly one wins, nobody's work is lost, and a failing storage stores nothing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from models.core.files import Files, FilesUnavailable
from models.projects import Blob, Manifest, Pack, Snapshot, Tree
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, sha, typed

CLIENTS = 6


def at_once(app: Flask, person: Person, call: Callable[[ProjectsApi, int], Any]) -> list[Any]:
    """The results of `call` by several clients at the same time."""

    def run(number: int) -> Any:
        return Context().run(call, ProjectsApi(app.test_client(), person), number)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(run, range(CLIENTS)))


@pytest.mark.usefixtures("proved")
def test_one_of_several_pushes_wins_and_all_are_stored(
    app: Flask, session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    project = mine.project()
    workspace = mine.workspace(project)
    hashes = [mine.tree({"a": str(number)}) for number in range(CLIENTS)]

    def push(api: ProjectsApi, number: int) -> int:
        body = {"manifest_hash": hashes[number], "workspace_id": workspace}
        return api("post", f"/projects/{project}/snapshots", body, {"If-Match": '"1"'})[0]

    assert sorted(at_once(app, alice, push)) == [201] + [409] * (CLIENTS - 1)
    assert set(session.scalars(select(Snapshot.manifest_hash))) == set(hashes)
    assert mine.raw("get", f"/workspaces/{workspace}").headers["ETag"] == '"2"'


@pytest.mark.usefixtures("proved")
def test_one_of_several_states_of_files_wins_and_all_are_kept(
    app: Flask, session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    workspace = mine.workspace(mine.project())
    hashes = [mine.tree({"a": str(number)}) for number in range(CLIENTS)]

    def move(api: ProjectsApi, number: int) -> int:
        return api("post", f"/workspaces/{workspace}/current-manifest", {"manifest_hash": hashes[number]})[0]

    assert sorted(at_once(app, alice, move)) == [200] + [409] * (CLIENTS - 1)
    current = mine("get", f"/workspaces/{workspace}")[1]["workspace"]["current_manifest_hash"]
    assert {current, *session.scalars(select(Snapshot.manifest_hash))} == set(hashes)


@pytest.mark.usefixtures("proved")
def test_the_same_bytes_sent_at_once_are_stored_once(
    app: Flask, session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    files = [str(number) * 200 for number in range(8)]
    body = b"".join(b"%s 200\n%s" % (sha(text).encode(), text.encode()) for text in files)
    text = typed({f"{at % 3}/{at}": text for at, text in enumerate(files)})

    def send(api: ProjectsApi, number: int) -> tuple[int, int]:
        lines = (
            body
            if number % 2
            else b"".join(reversed([body[at : at + 269] for at in range(0, len(body), 269)]))
        )
        return (
            api.raw("post", "/blobs/batch", lines).status_code,
            api.raw("put", f"/blobs/manifests/{sha(text)}", text).status_code,
        )

    answers = at_once(app, alice, send)
    assert {status for status, _ in answers} == {200}
    assert sorted(status for _, status in answers) == [200] * (CLIENTS - 1) + [201]
    assert session.scalar(select(func.count()).select_from(Blob)) == 8
    assert mine("get", "/blobs/stats")[1]["blobs"]["bytes"] == 1_600


@pytest.mark.usefixtures("proved")
def test_one_undo_of_several_at_once_wins(app: Flask, mine: ProjectsApi, alice: Person) -> None:
    project = mine.project()
    workspace = mine.workspace(project)
    mine.push(project, mine.tree({"a": "1"}), workspace_id=workspace)
    operation = mine("get", f"/workspaces/{workspace}/operations")[1]["operations"][0]["id"]

    def undo(api: ProjectsApi, number: int) -> int:
        path = f"/workspaces/{workspace}/operations/{operation}/undo"
        return api("post", path, None, {"If-Match": '"2"'})[0]

    assert sorted(at_once(app, alice, undo)) == [200] + [409] * (CLIENTS - 1)


def test_one_of_several_workspaces_gets_the_name(app: Flask, mine: ProjectsApi, alice: Person) -> None:
    project = mine.project()

    def create(api: ProjectsApi, number: int) -> int:
        return api("post", f"/projects/{project}/workspaces", {"name": "main"})[0]

    assert sorted(at_once(app, alice, create)) == [201] + [409] * (CLIENTS - 1)


def test_a_failing_storage_stores_nothing(
    session: OrmSession, mine: ProjectsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise FilesUnavailable("No.")

    monkeypatch.setattr(Files, "write", fail)
    raw = typed({"a": "1"}) + b"\n"
    for path, data in ((f"/blobs/upload/{sha('1')}", b"1"), (f"/blobs/manifests/{sha(raw)}", raw)):
        answer = mine.raw("put", path, data)
        assert (answer.status_code, answer.json["error"]["code"]) == (503, "FILES_UNAVAILABLE")
    for table in (Blob, Pack, Tree, Manifest):
        assert session.scalars(select(table)).all() == []
    assert mine("get", "/blobs/stats")[1]["total"]["bytes"] == 0
