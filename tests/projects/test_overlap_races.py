"""Workspaces that move at the same time: the index of overlaps is that of what they end with, and each overlap is told."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from tests.factories import Person
from tests.projects.project_calls import ProjectsApi
from tests.projects.test_overlaps import START, Team, check_index
from tests.projects.test_races import CLIENTS, at_once

pytestmark = pytest.mark.usefixtures("proved")


def test_workspaces_that_move_at_once_all_overlap(
    app: Flask, session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    names = [f"w{number}" for number in range(CLIENTS)]
    team = Team(mine, *names)
    hashes = [mine.tree({**START, "a": f"by {name}"}) for name in names]

    def push(api: ProjectsApi, number: int) -> str:
        name = names[number]
        return api.push(
            team.project,
            hashes[number],
            workspace_id=team.ids[name],
            parent_snapshot_ids=[team.head("main")],
        )

    at_once(app, alice, push)
    assert team.paths() == {"a": set(names)}
    assert len(team.told()) == CLIENTS - 1
    check_index(session, team.project)


def test_main_moves_and_changes_while_others_move(
    app: Flask, session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    team = Team(mine, "one", "two", "three")
    hashes = [mine.tree({**START, "a": f"a {number}", "b": str(number)}) for number in range(CLIENTS)]

    def move(api: ProjectsApi, number: int) -> Any:
        name = ("main", "one", "two")[number % 3]
        body: dict[str, Any] = {"manifest_hash": hashes[number]}
        match number:
            case 3:
                return api("post", f"/workspaces/{team.ids['one']}/set-as-main")
            case 4:
                return api("delete", f"/workspaces/{team.ids['three']}")
            case _:
                body["workspace_id"] = team.ids[name]
                return api("post", f"/projects/{team.project}/snapshots", body)

    for _ in range(3):
        answers = at_once(app, alice, move)
        assert all(status < 500 for status, _ in answers), answers
        check_index(session, team.project)
