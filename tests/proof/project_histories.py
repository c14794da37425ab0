"""Random histories of projects by several clients at once, while web workers are killed: no byte and no confirmed move is lost."""

import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import text

from models.core import jobs
from models.core.db import db
from models.core.settings import ROOT
from tests.proof.project_clients import ProjectClient, Shared
from tests.proof.project_truth import Move, Tree, Truth, Turnstile, edited, merge_fault, sha, undone
from tests.proof.stage import Result, Serve, Stage

A_DAY_PASSES = (
    "UPDATE blob SET used_at = used_at - interval '2 days'",
    "UPDATE manifest SET used_at = used_at - interval '2 days'",
    "UPDATE pack SET created_at = created_at - interval '2 days'",
    "UPDATE project SET deleted_at = deleted_at - interval '40 days' WHERE deleted_at IS NOT NULL",
)
"""For what nothing names, and for deleted projects."""
OPERATIONS = (
    "SELECT o.*, w.base_snapshot_id, w.version AS workspace_version FROM workspace_operation o JOIN workspace w ON w.id = o.workspace_id"
    " WHERE o.project_id = ANY(:ids) AND o.version IS NOT NULL ORDER BY o.workspace_id, o.version"
)


def project_histories(
    server: Serve,
    stage: Stage,
    *,
    steps: int = 300,
    projects: int = 2,
    clients: int = 3,
    kills: int = 6,
    days: int = 3,
    proofs: int = 1,
    seed: int = 0,
) -> Result:
    """`steps` random moves by `clients` of each of `projects`, `kills` of web workers and now and then of the job worker, and `days` passed
    for what nothing names, and `proofs` by the operator. Then every confirmed move must stand in the log with what it claimed, every merge and undo must have what a
    model of it has, and every file of every snapshot and state must come back byte for byte."""
    seed = seed or random.SystemRandom().randrange(1, 10**6)
    print(f"project histories: seed {seed}", flush=True)
    truth, turnstile = Truth(), Turnstile()
    shared = [Shared(person) for person in stage.people(projects, 0)]
    makers = [
        ProjectClient(stage.address, each, truth, turnstile, f"{seed}-{number}")
        for number, each in enumerate(shared)
    ]
    for maker in makers:
        _begin(maker)
    cast = [
        ProjectClient(stage.address, each, truth, turnstile, f"{seed}-{number}-{client}")
        for number, each in enumerate(shared)
        for client in range(clients)
    ]
    fate = random.Random(seed)
    moments = {number * steps // (kills + 1): "kill" for number in range(1, kills + 1)}
    moments |= {number * steps // (days + 1) + 1: "day" for number in range(1, days + 1)}
    moments |= {number * steps // (proofs + 1) + 2: "prove" for number in range(1, proofs + 1)}
    _act(server, stage, truth, turnstile, cast, steps, moments, fate)
    server.wait_until_ready()
    counts = _check(stage, truth, shared, makers)
    proved = prove_projects(server)
    assert not truth.faults, f"{len(truth.faults)} faults (seed {seed}), first: {truth.faults[:5]}"
    done = ", ".join(f"{count} {what}" for what, count in sorted(truth.done.items()))
    return Result(
        "projects",
        f"{steps} random moves by {len(cast)} clients in {projects} projects, {kills} kills, {days} days pass (seed {seed}): {done}",
        f"{counts}; {proved}",
    )


def _begin(maker: ProjectClient) -> None:
    """A project with a main workspace, and two that begin with its first snapshot."""
    shared, truth = maker.shared, maker.truth
    shared.id = maker.safe("POST", "/projects", {"name": "Shop"}).json["project"]["id"]
    first = edited(truth, edited(truth, {}, maker.chance), maker.chance)
    hash = maker.send(first)
    for number in range(3):
        body = {"name": f"workspace {number}", "base_snapshot_id": "first" if number else None}
        answer = maker.safe("POST", f"/projects/{shared.id}/workspaces", body)
        assert answer.status == 201, answer
        shared.workspaces.append(answer.json["workspace"]["id"])
        if number == 0:
            pushed = {"manifest_hash": hash, "snapshot_id": "first", "workspace_id": shared.workspaces[0]}
            answer = maker.safe("POST", f"/projects/{shared.id}/snapshots", pushed)
            assert answer.status == 201, answer
            truth.snapshots[shared.id, "first"] = hash
            truth.confirmed["first"] = Move(shared.workspaces[0], "snapshot", "first", hash)
            truth.attempts.append(truth.confirmed["first"])


def _act(
    server: Serve,
    stage: Stage,
    truth: Truth,
    turnstile: Turnstile,
    cast: Iterable[ProjectClient],
    steps: int,
    moments: Mapping[int, str],
    fate: random.Random,
) -> None:
    """All clients act until they made so many steps together; at some of them a worker is killed, a day passes, or the operator proves."""

    def run(client: ProjectClient) -> None:
        while not truth.faults and (number := truth.count("steps")) <= steps:
            match moments.get(number):
                case "kill":
                    _kill(server, truth, fate)
                case "day":
                    _pass_a_day(stage, truth, turnstile)
                case "prove":
                    # others act meanwhile
                    prove_projects(server)
            try:
                client.step()
            except Exception as error:
                truth.fault(f"{type(error).__name__}: {error}")
                raise

    threads = [threading.Thread(target=run, args=(client,), daemon=True) for client in cast]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    truth.done.pop("steps")


def _kill(server: Serve, truth: Truth, fate: random.Random) -> None:
    if truth.count("kills") % 5 == 0:
        for process in server.job_workers():
            process.kill()
    else:
        server.kill_worker(fate.choice)


def _pass_a_day(stage: Stage, truth: Truth, turnstile: Turnstile) -> None:
    """A day passes for what nothing names; then the nightly job runs, beside the clients."""
    with turnstile.alone(), stage.engine.begin() as connection:
        for statement in A_DAY_PASSES:
            connection.execute(text(statement))
    with stage.session():
        jobs.run_now(jobs.collect_projects)
        db.session.commit()
    truth.count("days")


# -- checks --------------------------------------------------------------------------------------------------


def _check(stage: Stage, truth: Truth, shared: list[Shared], readers: list[ProjectClient]) -> str:
    """Compare all that the server has with what it confirmed. Returns what was compared."""
    operations = 0
    for each, reader in zip(shared, readers, strict=True):
        rows = stage.rows(OPERATIONS, ids=[each.id])
        operations += len(rows)
        log = {(row.workspace_id, row.version): row for row in rows}
        _check_confirmed(truth, each, log)
        for row in rows:
            if (wrong := _wrong(truth, each, reader, row, log)) is not None:
                truth.fault(f"operation {row.id} ({row.kind}) of {row.workspace_id}: {wrong}")
    files = sum(_check_bytes(truth, reader) for reader in readers)
    snapshots = _check_snapshots(stage, truth)
    return f"{operations} operations as confirmed, {snapshots} snapshots, {files} files byte for byte"


def _check_confirmed(truth: Truth, shared: Shared, log: Mapping[tuple[str, int], Any]) -> None:
    """Each confirmed move is in the log; each move of the log was confirmed, or its answer was cut off."""
    mine = {key: move for key, move in truth.moves.items() if move.workspace in shared.workspaces}
    for key, move in mine.items():
        row = log.get(key)
        if row is None or row.kind != move.kind:
            truth.fault(f"the confirmed {move.kind} at version {key[1]} of {key[0]} is lost: {row}")
    pushed = {row.after_snapshot_id for row in log.values() if row.kind == "snapshot"}
    for id, move in truth.confirmed.items():
        if move.workspace in shared.workspaces and id not in pushed:
            truth.fault(f"the confirmed snapshot {id} never became the head of {move.workspace}")
    unsure = [move for move in truth.unsure if move.workspace in shared.workspaces]
    unexplained = [
        row
        for key, row in log.items()
        if key not in mine and not (row.kind == "snapshot" and row.after_snapshot_id in truth.confirmed)
    ]
    for row in unexplained:
        like = [move for move in unsure if (move.workspace, move.kind) == (row.workspace_id, row.kind)]
        if like:
            unsure.remove(like[0])
        else:
            truth.fault(f"nobody asked for operation {row.id}: {row.kind} of {row.workspace_id}")


def _wrong(
    truth: Truth, shared: Shared, reader: ProjectClient, row: Any, log: Mapping[Any, Any]
) -> str | None:
    """What is wrong with an operation, compared with a model of it."""
    before = log.get((row.workspace_id, row.version - 1))
    state = (before.after_snapshot_id, before.after_manifest_hash) if before else (row.base_snapshot_id, None)
    if (row.before_snapshot_id, row.before_manifest_hash) != state:
        return f"it does not follow the one before it, {state}"
    attempts = [
        move
        for move in truth.attempts
        if (move.workspace, move.kind) == (row.workspace_id, row.kind) and _fits(move, row)
    ]
    if not attempts:
        return f"no client asked for it: {row.after_snapshot_id}, {row.after_manifest_hash}"
    if row.kind not in ("undo", "sync"):
        return None

    def files(snapshot_id: str | None, manifest_hash: str | None) -> Tree:
        return reader.tree(manifest_hash or _manifest(reader, snapshot_id))

    here = files(row.before_snapshot_id, row.before_manifest_hash)
    made = files(row.after_snapshot_id, row.after_manifest_hash)
    if row.kind == "sync":
        main = files(row.detail["main_snapshot"], None)
        faults = [
            merge_fault(truth, files(move.base, None) if move.base else {}, (here, main, made), move)
            for move in attempts
        ]
        return None if None in faults else faults[0]
    target = next(each for each in log.values() if each.id == row.undoes)
    if (target.after_snapshot_id, target.after_manifest_hash) == state:
        same = (row.after_snapshot_id, row.after_manifest_hash) == (
            target.before_snapshot_id,
            target.before_manifest_hash,
        )
        return None if same else "it does not lead back exactly"
    was = files(target.before_snapshot_id, target.before_manifest_hash)
    then = files(target.after_snapshot_id, target.after_manifest_hash)
    if any(made == undone(was, then, here, move.decisions) for move in attempts):
        return None
    return f"its files are {made}, not {undone(was, then, here, attempts[0].decisions)}"


def _fits(move: Move, row: Any) -> bool:
    match row.kind:
        case "undo":
            return move.undoes == row.undoes
        case "sync":
            return move.preview == row.detail["preview"]
        case "manifest":
            return bool(move.manifest_hash == row.after_manifest_hash)
    return (move.snapshot_id, move.manifest_hash) == (row.after_snapshot_id, row.after_manifest_hash)


def _manifest(reader: ProjectClient, snapshot_id: str | None) -> str | None:
    if snapshot_id is None:
        return None
    key = reader.shared.id, snapshot_id
    if key not in reader.truth.snapshots:
        answer = reader.safe("GET", f"/snapshots/{snapshot_id}")
        assert answer.status == 200, f"the snapshot {snapshot_id} is {answer.status}"
        reader.truth.snapshots[key] = answer.json["snapshot"]["manifest_hash"]
    return reader.truth.snapshots[key]


def _check_snapshots(stage: Stage, truth: Truth) -> int:
    """Each snapshot that was confirmed, also of losers of races, still has its manifest."""
    rows = {
        (row.project_id, row.id): row.manifest_hash
        for row in stage.rows("SELECT project_id, id, manifest_hash FROM snapshot")
    }
    for key, hash in truth.snapshots.items():
        if rows.get(key) != hash:
            truth.fault(f"the snapshot {key[1]} is lost, or has other files")
    return len(rows)


def _check_bytes(truth: Truth, reader: ProjectClient) -> int:
    """Every file of every manifest that a snapshot or an operation of the account names comes back byte for byte."""
    named: set[str] = {hash for (project, _), hash in truth.snapshots.items() if project == reader.shared.id}
    listed = reader.safe("GET", f"/projects/{reader.shared.id}/snapshots?limit=100")
    named |= {each["manifest_hash"] for each in listed.json["snapshots"]}
    moved = [
        move.manifest_hash for move in truth.moves.values() if move.workspace in reader.shared.workspaces
    ]
    named |= {hash for hash in moved if hash}
    for hash in named:
        answer = reader.safe("GET", f"/blobs/manifests/{hash}")
        if answer.status != 200 or sha(answer.body) != hash:
            truth.fault(f"the manifest {hash} is lost: {answer.status}")
    files = {each for hash in named for each in reader.tree(hash).values()}
    found = reader.download(sorted(files))
    for each in files:
        if each not in found or sha(found[each]) != each or truth.bytes.get(each, found[each]) != found[each]:
            truth.fault(f"the file {each} is lost")
    return len(files)


def prove_projects(server: Serve) -> str:
    """Run `flask projects prove` like an operator; its last line. Files that were never sent are lost ones here."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app:create_app", "projects", "prove"],
        cwd=ROOT,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"flask projects prove: {done.stdout}{done.stderr}"
    assert "never sent" not in done.stdout, done.stdout
    return done.stdout.strip().splitlines()[-1]
