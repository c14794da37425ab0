"""Syncs at the same time: exactly one wins, and the others leave nothing behind."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.files import Files, FilesUnavailable
from models.projects import Snapshot, SyncPreview
from models.projects.sync import sync_executing
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi
from tests.projects.synced_project import LINES, SyncedProject
from tests.projects.test_races import CLIENTS, at_once

pytestmark = pytest.mark.usefixtures("proved")


@pytest.fixture
def shop(mine: ProjectsApi) -> SyncedProject:
    made = SyncedProject(mine, {"text": LINES})
    made.push(made.main, {"text": LINES.replace("one", "ONE"), "new": "1"})
    made.push(made.copy, {"text": LINES.replace("seven", "SEVEN")})
    return made


def sources(session: OrmSession) -> list[str]:
    session.rollback()
    return sorted(session.scalars(select(Snapshot.source)))


@pytest.mark.parametrize(
    ("previews", "loser"), [(1, (404, "PREVIEW_EXPIRED")), (CLIENTS, (409, "PREVIEW_STALE"))]
)
def test_one_execution_of_several_at_once_wins(
    app: Flask, session: OrmSession, shop: SyncedProject, alice: Person, previews: int, loser: Any
) -> None:
    ids = [shop.prepare()["id"] for _ in range(previews)]

    def execute(api: ProjectsApi, number: int) -> tuple[int, str | None]:
        status, answer = shop.execute(ids[number % previews], api=api)
        return status, answer.get("error", {}).get("code")

    results = at_once(app, alice, execute)
    assert sorted(results, key=lambda each: each[0]) == [(200, None)] + [loser] * (CLIENTS - 1)
    assert sources(session) == ["cli"] * 3 + ["system", "web"]
    assert [each["kind"] for each in shop.operations()] == ["sync", "snapshot"]
    assert shop.files()["text"] == LINES.replace("one", "ONE").replace("seven", "SEVEN")
    states = session.scalars(select(SyncPreview.state)).all()
    assert sorted(states) == sorted(["executed"] + ["open"] * (previews - 1))


def test_a_sync_and_pushes_of_the_same_version_leave_one_winner(
    app: Flask, session: OrmSession, shop: SyncedProject, alice: Person
) -> None:
    preview = shop.prepare()
    version = f'"{preview["workspace_version"]}"'
    pushed = shop.tree({"text": "pushed"})

    def move(api: ProjectsApi, number: int) -> int:
        if number % 2:
            return shop.execute(preview["id"], api=api, version=version)[0]
        body = {"manifest_hash": pushed, "workspace_id": shop.copy}
        return api("post", f"/projects/{shop.id}/snapshots", body, {"If-Match": version})[0]

    results = at_once(app, alice, move)
    assert sum(status in (200, 201) for status in results) == 1
    assert set(results) <= {200, 201, 404, 409}
    assert len(shop.operations()) == 2


def test_a_sync_merges_what_it_showed_while_main_moves(
    app: Flask, session: OrmSession, shop: SyncedProject, alice: Person
) -> None:
    preview = shop.prepare()
    hashes = [shop.tree({"text": str(number)}) for number in range(CLIENTS)]

    def move(api: ProjectsApi, number: int) -> tuple[int, Any]:
        if number == CLIENTS // 2:
            return shop.execute(preview["id"], api=api)
        body = {"manifest_hash": hashes[number], "workspace_id": shop.main}
        return api("post", f"/projects/{shop.id}/snapshots", body)

    status, answer = at_once(app, alice, move)[CLIENTS // 2]
    if status == 200:
        parents = shop.snapshot(answer["snapshot_after_id"])["parent_snapshot_ids"]
        assert parents == [preview["workspace_snapshot_id"], preview["main_snapshot_id"]]
    else:
        assert (status, answer["error"]["details"]["moved"]) == (409, ["main"])


@pytest.mark.parametrize(("where", "name"), [(Files, "write"), (sync_executing, "add_event")])
def test_an_execution_that_fails_half_way_leaves_nothing(
    session: OrmSession, mine: ProjectsApi, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    def fail(*_: Any, **more: Any) -> None:
        raise FilesUnavailable("No.")

    shop = SyncedProject(mine, {"a": "1\n"})
    shop.push(shop.main, {"a": "main\n", "b": "1"})
    shop.push(shop.copy, {"a": "copy\n"})
    preview = shop.prepare()["id"]
    before = shop.state(shop.copy), shop.operations(), sources(session)
    answers: dict[str, Any] = {"decisions": {"a": "custom"}, "custom_values": {"a": "own\n"}}
    with monkeypatch.context() as broken:
        broken.setattr(where, name, fail)
        assert shop.execute(preview, **answers)[0] == 503
    assert (shop.state(shop.copy), shop.operations(), sources(session)) == before
    assert shop.execute(preview, **answers)[0] == 200
    assert shop.files() == {"a": "own\n", "b": "1"}
