"""Garbage collection keeps what anything names, a day of grace, and every byte; the proof finds what is lost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db, now
from models.core.files import files
from models.core.settings import Settings
from models.projects import Blob, Manifest, Pack, Tree
from models.projects.project_purge import forget_projects
from models.projects.snapshots import blob_garbage
from models.projects.storage_proof import prove_account
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, indented, sha, typed

Age = Callable[[], None]


@pytest.fixture
def age(session: OrmSession) -> Age:
    """Make everything that is stored two days old."""

    def older() -> None:
        for table in (Blob, Manifest):
            session.execute(update(table).values(used_at=func.now() - timedelta(days=2)))
        session.execute(update(Pack).values(created_at=func.now() - timedelta(days=2)))
        session.commit()

    return older


@contextmanager
def transaction() -> Iterator[None]:
    yield
    db.session.commit()


def collect_all(settings: Settings, later: timedelta = timedelta()) -> None:
    blob_garbage.collect_all(transaction, files(settings), now() + later)


def counts(session: OrmSession) -> tuple[int, int, int]:
    session.rollback()
    return tuple(
        session.scalar(select(func.count()).select_from(table)) or 0 for table in (Blob, Tree, Manifest)
    )  # type: ignore[return-value]


def stored(settings: Settings, account_id: str) -> set[str]:
    folder = settings.data_dir / "files" / blob_garbage.FOLDER / account_id
    return {each.name for each in folder.iterdir()} if folder.exists() else set()


def test_what_nothing_names_is_removed_after_a_day(
    session: OrmSession, mine: ProjectsApi, alice: Person, settings: Settings, age: Age
) -> None:
    project = mine.project()
    mine.push(project, mine.tree({"a": "1", "d/b": "2"}))
    mine.tree({"a": "3", "e/b": "2"})
    mine.blob("4")
    mine.manifest(indented([{"path": "a", "hash": sha("1")}]))  # kept raw
    before = counts(session)
    age()
    found = mine("post", "/blobs/gc", {})[1]
    assert (found["dryRun"], found["scannedBlobs"], found["orphanedBlobs"]) == (True, 5, 3)
    assert counts(session) == before
    found = mine("post", "/blobs/gc", {"dryRun": False, "maxBlobs": 1})[1]
    assert (found["orphanedBlobs"], mine("post", "/blobs/gc")[1]["orphanedBlobs"]) == (1, 2)
    collect_all(settings)
    assert counts(session) == (2, 2, 1)
    assert len(stored(settings, alice.id)) == 2
    assert prove_account(alice.id) == ((1, 2, 2, 0, 0), [])
    assert mine("post", "/blobs/exists", {"hashes": [sha("3")]})[1]["missing"] == [sha("3")]


def test_nothing_is_removed_within_the_day(
    session: OrmSession, mine: ProjectsApi, settings: Settings, age: Age
) -> None:
    mine.tree({"a": "1"})
    before = counts(session)
    collect_all(settings)
    assert counts(session) == before
    age()
    mine("post", "/blobs/exists", {"hashes": [sha("1")]})  # asked for
    collect_all(settings)
    assert counts(session) == (1, 0, 0)


def test_a_new_manifest_keeps_the_old_bytes_that_it_names(
    session: OrmSession, mine: ProjectsApi, settings: Settings, age: Age
) -> None:
    mine.blob("1")
    age()
    mine.manifest(typed({"a": "1"}))
    collect_all(settings)
    assert counts(session) == (1, 1, 1)


@pytest.mark.parametrize("where", ["a workspace", "an operation", "a deleted project", "a deleted workspace"])
def test_what_is_named_anywhere_is_kept(
    session: OrmSession, mine: ProjectsApi, settings: Settings, age: Age, where: str
) -> None:
    project = mine.project()
    main = mine.workspace(project)
    workspace = mine.workspace(project, "other")
    old, new = mine.tree({"a": "1"}), mine.tree({"a": "2"})
    path = f"/workspaces/{workspace}/current-manifest"
    mine("post", path, {"manifest_hash": old})
    if where == "an operation":
        mine("post", path, {"manifest_hash": new, "previous_manifest_hash": old})
    if where == "a deleted project":
        mine("delete", f"/projects/{project}")
    if where == "a deleted workspace":
        assert mine("delete", f"/workspaces/{workspace}")[0] == 200
    assert main != workspace
    age()
    collect_all(settings)
    assert mine.raw("get", f"/blobs/manifests/{old}").data == typed({"a": "1"})
    assert mine.raw("get", f"/blobs/download/{sha('1')}").data == b"1"


def test_a_purged_project_leaves_nothing(
    session: OrmSession, mine: ProjectsApi, alice: Person, settings: Settings, age: Age
) -> None:
    project = mine.project()
    workspace = mine.workspace(project)
    first = mine.push(project, mine.tree({"a": "1"}), workspace_id=workspace)
    mine.push(project, mine.tree({"a": "2"}), workspace_id=workspace, parent_snapshot_ids=[first])
    mine("post", f"/projects/{project}/env-vars", {"key": "A", "value": "1"})
    operation = mine("get", f"/workspaces/{workspace}/operations")[1]["operations"][0]["id"]
    mine("post", f"/workspaces/{workspace}/operations/{operation}/undo")
    forget_projects([project])
    session.commit()
    age()
    collect_all(settings)
    assert counts(session) == (0, 0, 0)
    assert stored(settings, alice.id) == set()
    assert mine("get", "/blobs/stats")[1]["total"]["bytes"] == 0


def test_small_packs_are_joined_and_read_as_before(
    session: OrmSession, mine: ProjectsApi, alice: Person, settings: Settings
) -> None:
    contents = [f"{number}" * 50 for number in range(20)] + [""]
    mine.push(mine.project(), mine.tree({f"f{at}": text for at, text in enumerate(contents)}))
    assert len(stored(settings, alice.id)) == 21
    collect_all(settings)
    assert session.scalar(select(func.count()).select_from(Pack)) == 1
    assert len(stored(settings, alice.id)) == 1
    for content in contents:
        assert mine.raw("get", f"/blobs/download/{sha(content)}").text == content
    assert prove_account(alice.id)[1] == []
    collect_all(settings)


def test_files_of_requests_that_failed_are_removed_after_a_day(
    session: OrmSession, mine: ProjectsApi, alice: Person, settings: Settings
) -> None:
    mine.blob("1")
    files(settings).write(f"{blob_garbage.FOLDER}/{alice.id}/lost", b"x")
    collect_all(settings)
    assert len(stored(settings, alice.id)) == 2
    collect_all(settings, timedelta(days=2))
    assert len(stored(settings, alice.id)) == 1


def test_the_collection_needs_a_manager(mine: ProjectsApi) -> None:
    assert mine("post", "/blobs/gc", {"maxBlobs": 0})[0] == 422
    assert mine("post", "/blobs/gc", {"dryRun": "no"})[0] == 422


def _pack(settings: Settings, account_id: str) -> Path:
    folder = settings.data_dir / "files" / blob_garbage.FOLDER / account_id
    return next(folder.iterdir())


DAMAGES: dict[str, Any] = {
    "a lost pack": lambda session, pack: pack.unlink(),
    "a changed byte": lambda session, pack: pack.write_bytes(
        bytes([pack.read_bytes()[0] ^ 1]) + pack.read_bytes()[1:]
    ),
    "a lost directory": lambda session, pack: session.execute(text("DELETE FROM tree")),
    "another listing": lambda session, pack: session.execute(
        text("UPDATE tree SET listing = (SELECT listing FROM tree ORDER BY hash LIMIT 1)")
    ),
    "a lost operation": lambda session, pack: session.execute(
        text("DELETE FROM workspace_operation WHERE version = 2")
    ),
    "a moved head": lambda session, pack: session.execute(
        text("UPDATE workspace SET current_manifest_hash = 'x'")
    ),
    "a raised version": lambda session, pack: session.execute(text("UPDATE workspace SET version = 9")),
    "a wrong count": lambda session, pack: session.execute(text("UPDATE project_storage SET blob_bytes = 7")),
    "a generation": lambda session, pack: session.execute(text("UPDATE snapshot SET generation = 1")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_proof_finds_damage(
    app: Flask, session: OrmSession, mine: ProjectsApi, alice: Person, settings: Settings, damage: str
) -> None:
    project = mine.project()
    workspace = mine.workspace(project)
    first = mine.push(project, mine.tree({"a": "1", "d/b": "1"}), workspace_id=workspace)
    mine.push(project, mine.tree({"d/b": "1"}), workspace_id=workspace, parent_snapshot_ids=[first])
    result = app.test_cli_runner().invoke(args=["projects", "prove"])
    assert (result.exit_code, "Nothing is lost." in result.output) == (0, True), result.output
    DAMAGES[damage](session, _pack(settings, alice.id))
    session.commit()
    result = app.test_cli_runner().invoke(args=["projects", "prove", "--account", alice.id])
    assert (result.exit_code, "WRONG" in result.output) == (1, True), result.output


def test_files_that_no_client_sent_are_counted_apart(mine: ProjectsApi, alice: Person) -> None:
    mine.push(mine.project(), mine.manifest(typed({"a": "never sent"})))
    found, problems = prove_account(alice.id)
    assert (found.absent, problems) == (1, [])


def test_the_command_collects(
    app: Flask, session: OrmSession, mine: ProjectsApi, alice: Person, age: Age
) -> None:
    mine.blob("1")
    age()
    runner = app.test_cli_runner()
    assert "1 would be removed" in runner.invoke(args=["projects", "gc", alice.id, "--dry-run"]).output
    assert "1 removed" in runner.invoke(args=["projects", "gc", alice.id]).output
    assert counts(session) == (0, 0, 0)
