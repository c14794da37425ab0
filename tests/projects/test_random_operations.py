"""Random moves of two workspaces, with undo, races, restores and collections of garbage: no byte is ever lost."""

import random

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.projects import Blob, Manifest
from models.projects.snapshots import blob_garbage
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi

STEPS = 120
pytestmark = pytest.mark.usefixtures("proved")


class Story:
    """Moves at random, and what must still be readable: the manifest of every snapshot that was ever pushed."""

    def __init__(self, api: ProjectsApi, account_id: str, chance: random.Random) -> None:
        self.api, self.account_id, self.chance = api, account_id, chance
        self.project = api.project()
        self.copies = [api.workspace(self.project, name) for name in ("one", "two")]
        self.pushed: dict[str, str] = {}
        self.done: dict[str, int] = {}

    def files(self) -> dict[str, str]:
        paths = ("a", "b", "d/a", "d/b", "d/e/f", "g")
        return {path: str(self.chance.randrange(4)) for path in paths if self.chance.random() < 0.8}

    def state(self, copy: str) -> dict[str, str | None]:
        found: dict[str, str | None] = self.api("get", f"/workspaces/{copy}")[1]["workspace"]
        return found

    def push(self, copy: str) -> None:
        head = self.state(copy)["current_snapshot_id"]
        hash = self.api.tree(self.files())
        id = self.api.push(self.project, hash, workspace_id=copy, parent_snapshot_ids=[head] if head else [])
        self.pushed[id] = hash

    def race(self, copy: str) -> None:
        hash = self.api.tree(self.files())
        body = {"manifest_hash": hash, "workspace_id": copy}
        status, answer = self.api("post", f"/projects/{self.project}/snapshots", body, {"If-Match": '"999"'})
        assert status == 409
        self.pushed[answer["error"]["details"]["snapshot_id"]] = hash

    def edit(self, copy: str) -> None:
        previous = self.state(copy)["current_manifest_hash"]
        body = {"manifest_hash": self.api.tree(self.files()), "previous_manifest_hash": previous}
        assert self.api("post", f"/workspaces/{copy}/current-manifest", body)[0] == 200

    def restore(self, copy: str) -> None:
        if self.pushed:
            id = self.chance.choice(sorted(self.pushed))
            assert self.api("post", f"/workspaces/{copy}/sync/undo", {"snapshot_id": id})[0] == 200

    def undo(self, copy: str) -> None:
        operations = self.api("get", f"/workspaces/{copy}/operations")[1]["operations"]
        if operations:
            id = self.chance.choice(operations)["id"]
            path = f"/workspaces/{copy}/operations/{id}/undo"
            plan = self.api("get", path)[1]
            decisions = {each: self.chance.choice(["keep", "undo"]) for each in plan["conflicts"]}
            status, answer = self.api("post", path, {"decisions": decisions})
            assert status == 200, answer

    def collect(self, copy: str) -> None:
        """Collect the garbage as if a day had passed, in this account."""
        for table in (Blob, Manifest):
            db.session.execute(update(table).values(used_at=func.now() - func.make_interval(0, 0, 0, 2)))
        blob_garbage.collect(self.account_id, dry_run=False)
        db.session.commit()

    def step(self) -> None:
        weights = {"push": 6, "edit": 4, "undo": 5, "restore": 2, "race": 2, "collect": 1}
        (move,) = self.chance.choices(list(weights), list(weights.values()))
        getattr(self, move)(self.chance.choice(self.copies))
        self.done[move] = self.done.get(move, 0) + 1


@pytest.mark.parametrize("seed", [1, 2])
def test_no_byte_is_lost(session: OrmSession, mine: ProjectsApi, alice: Person, seed: int) -> None:
    story = Story(mine, alice.id, random.Random(seed))
    for _ in range(STEPS):
        story.step()
    assert len(story.done) == 6
    for id, hash in story.pushed.items():
        assert mine("get", f"/snapshots/{id}")[1]["snapshot"]["manifest_hash"] == hash
        for entry in mine.raw("get", f"/blobs/manifests/{hash}").json["files"]:
            assert mine.raw("get", f"/blobs/download/{entry['hash']}").status_code == 200
