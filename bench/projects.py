"""Drift between two workspaces of 100,000 files, overlaps while workspaces of 10,000 files move, syncs of them, and merges of trees."""

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import orjson
from flask import Flask

from bench import merge, stoa, syncing
from bench.load import quantile
from bench.stoa import Stoa
from models.core import postgres
from models.core.db import db
from models.projects.merge import merge_trees, plan
from models.projects.snapshots.manifest_store import manifest_row, readable_tree, tree_changes, tree_entries
from models.projects.snapshots.manifest_text import Entry, write_text

FILES, CHANGED = 100_000, 200
MOVING_FILES, WORKSPACES, EDITS, MOVES = 10_000, 10, 20, 6
"""Files of a workspace that moves, workspaces, files that each changes by a move, and moves of each."""
ROUNDS = 15
BUDGET, FOUND_BUDGET = 100, 20
"""Milliseconds: a comparison, and to find the overlaps of a move or to list them."""
PLAN_BUDGET, MERGE_BUDGET = 100, 300
KEY = "cb-pat-bench-projects"
USER = "bench-projects"

Line = tuple[str, str, str, str, bool]
Files = dict[str, str]


@dataclass(slots=True)
class ProjectsResult:
    """What was measured: seconds, and milliseconds of merges."""

    files: int
    moving: int
    health: list[float] = field(default_factory=list)
    drift: list[float] = field(default_factory=list)
    both_trees: float = 0
    differences: float = 0
    stored: list[float] = field(default_factory=list)
    headless: list[float] = field(default_factory=list)
    moves: list[float] = field(default_factory=list)
    main_moves: list[float] = field(default_factory=list)
    board: list[float] = field(default_factory=list)
    overlaps: int = 0
    plan: float = 0
    merge: float = 0
    sync: syncing.SyncTimes | None = None


class Client:
    """Calls of the API with the key of one person, and how long they took."""

    def __init__(self, server: Stoa) -> None:
        self._connection = HTTPConnection("127.0.0.1", server.port, timeout=120)

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[Any, float]:
        data = body if isinstance(body, bytes | None) else orjson.dumps(body)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        began = time.perf_counter()
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        took = time.perf_counter() - began
        if answer.status not in (200, 201):
            raise RuntimeError(f"{method} {path} answered {answer.status}: {text[:500]!r}")
        return orjson.loads(text) if text else None, took

    def manifest(self, files: Files) -> str:
        """Store the manifest of files by the hashes of their contents."""
        text = write_text([Entry(path, "file", 0o644, hash, 2_000) for path, hash in files.items()], "typed")
        name = hashlib.sha256(text).hexdigest()
        self("PUT", f"/v1/blobs/manifests/{name}", text)
        return name

    def push(
        self, project: str, manifest: str, workspace: str | None = None, *parents: str
    ) -> tuple[str, float]:
        """Push a snapshot; its id."""
        body = {"manifest_hash": manifest, "workspace_id": workspace, "parent_snapshot_ids": parents}
        answer, took = self("POST", f"/v1/projects/{project}/snapshots", body)
        return answer["snapshot"]["id"], took

    def workspace(self, project: str, name: str, base: str | None = None) -> str:
        """Make a workspace; its id."""
        body = {"name": name, "base_snapshot_id": base}
        return str(self("POST", f"/v1/projects/{project}/workspaces", body)[0]["workspace"]["id"])

    def project(self, name: str) -> str:
        """Make a project; its id."""
        return str(self("POST", "/v1/projects", {"name": name})[0]["project"]["id"])


def measure(folder: Path, upstream_port: int, scale: float = 1) -> ProjectsResult:
    """Start a server, and measure projects of that scale there."""
    result = ProjectsResult(max(1_000, int(FILES * scale)), max(200, int(MOVING_FILES * scale)))
    with stoa.running(folder / "projects", upstream_port, {"STOA_DEMO": "0"}) as server:
        with server.sql() as connection:
            connection.execute('INSERT INTO "user" (id, email) VALUES (%s, %s)', (USER, "p@example.org"))
            connection.execute(
                'INSERT INTO session ("sessionToken", "userId", type, expires, token_hint)'
                " VALUES (%s, %s, 'pat', now() + interval '1 day', 'bench')",
                (hashlib.sha256(KEY.encode()).hexdigest(), USER),
            )
        client = Client(server)
        _drift(server, client, result)
        _overlaps(client, result)
        result.sync = syncing.measure(client, result.moving)
    trees = merge.Project(result.files, CHANGED, merge.OVERLAPS)
    sides = trees.base, trees.workspace, trees.main
    result.plan = merge.best(partial(plan, *sides))
    result.merge = merge.best(partial(merge_trees, *sides, trees.blobs.__getitem__))
    return result


def _files(count: int) -> Files:
    return {
        f"src/package{number // 1000}/part{number // 50 % 20}/module{number}.py": _hash(str(number))
        for number in range(count)
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _drift(server: Stoa, client: Client, result: ProjectsResult) -> None:
    project, files = client.project("drift"), _files(result.files)
    paths = sorted(files)[:: max(1, result.files // CHANGED)][:CHANGED]
    mine = files | {path: _hash(f"{path} mine") for path in paths}
    main, own = client.workspace(project, "main"), client.workspace(project, "own")
    hashes = [client.manifest(each) for each in (files, mine)]
    for workspace, hash in zip((main, own), hashes, strict=True):
        client.push(project, hash, workspace)
    path = f"/v1/workspaces/{own}/drift/compare"
    for _ in range(ROUNDS):
        answer, took = client("GET", path)
        result.drift.append(took)
        if answer["drift"]["files_modified"] != len(paths):
            raise RuntimeError(f"{answer['drift']['files_modified']} files differ")
        result.stored.append(client("POST", path)[1])
        result.health.append(client("GET", "/api/healthz")[1])
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = (
        f"postgresql+psycopg://{postgres.SUPERUSER}@/{postgres.DATABASE}?host={server.socket_dir}"
    )
    db.init_app(app)
    with app.app_context():
        rows = [manifest_row(USER, hash) for hash in hashes]
        trees = [readable_tree(row) for row in rows if row is not None]
        result.both_trees = _best(lambda: [tree_entries(USER, tree) for tree in trees], 3)
        result.differences = _best(lambda: tree_changes(USER, *trees), ROUNDS)
        db.session.rollback()
        db.engine.dispose()


def _overlaps(client: Client, result: ProjectsResult) -> None:
    """Workspaces that change the same few files of each folder, in turn, and main too."""
    project, files = client.project("overlaps"), _files(result.moving)
    main = client.workspace(project, "main")
    base, _ = client.push(project, client.manifest(files), main)
    names = [f"agent{number}" for number in range(WORKSPACES)]
    ids = {name: client.workspace(project, name, base) for name in names} | {"main": main}
    heads, trees = dict.fromkeys(ids, base), {name: dict(files) for name in ids}
    paths = sorted(files)
    for turn in range(MOVES):
        for at, name in enumerate(ids):
            first = (turn * EDITS * 7 + at * EDITS // 2) % (len(paths) - EDITS)
            trees[name] |= {path: _hash(f"{name} {turn}") for path in paths[first : first + EDITS]}
            manifest = client.manifest(trees[name])
            result.headless.append(client.push(project, manifest, None, heads[name])[1])
            heads[name], took = client.push(project, manifest, ids[name], heads[name])
            (result.main_moves if name == "main" else result.moves).append(took)
            board, took = client("GET", f"/v1/projects/{project}/overlaps")
            result.board.append(took)
            result.overlaps = len(board["overlaps"])
            result.health.append(client("GET", "/api/healthz")[1])


def _best(work: Callable[[], object], rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def lines(result: ProjectsResult) -> Iterator[Line]:
    """Rows of the table."""
    health, drift = _ms(result.health), _ms(result.drift)
    yield (
        f"drift of two workspaces of {result.files:,} files, {CHANGED} differ",
        f"p50 {drift:.1f} ms, p95 {_ms(result.drift, 0.95):.1f}; stored {_ms(result.stored):.1f} (health {health:.1f})",
        f"{drift / (result.both_trees * 1000):.2f} of reading both trees",
        f"at most {BUDGET} ms",
        drift <= BUDGET,
    )
    headless = _ms(result.headless)
    for name, took in (("a workspace", result.moves), ("main", result.main_moves)):
        found = _ms(took) - headless
        yield (
            f"overlaps found when {name} of {result.moving:,} files moves",
            f"{found:.1f} ms ({_ms(took):.1f} - {headless:.1f}), p95 of the move {_ms(took, 0.95):.1f}",
            f"{_ms(took) / headless:.2f}x of storing it",
            f"at most {FOUND_BUDGET} ms",
            found <= FOUND_BUDGET,
        )
    board = _ms(result.board)
    yield (
        f"overlaps of {WORKSPACES} workspaces listed",
        f"p50 {board:.1f} ms, p95 {_ms(result.board, 0.95):.1f} (health {health:.1f})",
        "",
        f"at most {FOUND_BUDGET} ms",
        board <= FOUND_BUDGET,
    )
    if result.sync is not None:
        yield from syncing.lines(result.sync)
    for name, best, budget in (
        ("plan of a merge", result.plan, PLAN_BUDGET),
        ("merge of trees and files", result.merge, MERGE_BUDGET),
    ):
        changed = f"{result.files:,} files, {CHANGED} changed"
        yield f"{name}, {changed}", f"{best:.1f} ms", "", f"at most {budget} ms", best <= budget


def notes(result: ProjectsResult) -> list[str]:
    """Notes below the table."""
    return [
        f"reading both trees of {result.files:,} files: {result.both_trees * 1000:.0f} ms, what differs:"
        f" {result.differences * 1000:.1f} ms; {result.overlaps} overlaps at the end"
    ]


def _ms(took: list[float], part: float = 0.5) -> float:
    return quantile(took, part) * 1000


def main() -> None:
    """`python -m bench.projects`: start a server, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.projects", description=__doc__)
    parser.add_argument("--scale", type=float, default=1)
    folder = Path(os.environ.get("STOA_BENCH_DIR") or Path(tempfile.gettempdir(), "stoa-bench"))
    folder.mkdir(parents=True, exist_ok=True)
    result = measure(folder, 9, parser.parse_args().scale)
    for name, measured, ratio, target, met in lines(result):
        print(f"{name:<60}{measured:<62}{ratio:>28}  {target:<18}{'' if met else 'NOT MET'}")
    print(*notes(result), sep="\n")


if __name__ == "__main__":
    main()
