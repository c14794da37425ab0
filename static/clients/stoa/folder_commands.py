"""Commands about a folder: init, clone, status, snapshot, log and watch."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoa.console_output import Console, change_lines, counted, files_in
from stoa.failures import Failure, Refused, Unreachable, misused, plain
from stoa.overlap_notice import overlap_lines, overlaps
from stoa.server_calls import BUSY, Server, quoted
from stoa.sign_in import author_of
from stoa.tree_text import changes
from stoa.working_copy import FOLDER, WorkingCopy

if TYPE_CHECKING:
    from stoa.project_exchange import RemoteWorkspace
    from stoa.project_work import ProjectWork, Reconciled


def init(console: Console) -> int:
    """Make the folder a project of the server, with a first snapshot. May be repeated after an interruption."""
    folder = console.folder
    copy = WorkingCopy(folder) if (folder / FOLDER / "config.json").is_file() else None
    if copy and copy.state["head"]:
        raise Failure(
            f"The folder belongs to the project {copy.config['project_id']} already.", code="EXISTS"
        )
    server = console.server(copy)
    if copy is None:
        name, org = console.options.name or folder.name, console.options.org
        body = {"name": name, **({"org_id": org} if org else {})}
        project = server.post("/v1/projects", body)["project"]
        copy = WorkingCopy.create(folder, _config(server, project))
    with copy.locked():
        project_id = copy.config["project_id"]
        if not copy.config.get("workspace_id"):
            name = console.options.workspace or "main"
            copy.configure(
                workspace_id=_registered(server, project_id, name, None, folder),
                author=list(author_of(server)),
            )
        work = console.work(copy)
        record = work.snapshot(console.options.message or "First snapshot")
        done = work.reconcile() if record else None
    answer = {
        "project_id": project_id,
        "workspace_id": copy.config["workspace_id"],
        "snapshot_id": record["id"] if record else None,
        "sent": bool(done and done.how == "sent"),
    }
    files = files_in(work.head_tree())
    console.show(answer, [f"Project {project_id} on {server.url}, with {files}.", *_left_out(work)])
    return 0


def clone(console: Console) -> int:
    """Write a project, or one of its snapshots, into a new folder, as a workspace of its own."""
    from stoa.project_exchange import ProjectExchange
    from stoa.project_work import ProjectWork

    server, wanted = console.server(), console.options.project
    project, snapshot = _found(server, wanted, console.options.org)
    folder = Path(console.folder, console.options.directory or _file_name(project["name"]))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Failure(f"{folder} is not empty. Name another folder.", code="EXISTS")
    author, id = author_of(server), console.options.workspace_id
    if id is None:
        base = snapshot or _head_of_main(server, project) or project["last_snapshot_id"]
        name = console.options.workspace or _own_name()
        id = _registered(server, project["id"], name, base, folder)
    else:
        _check_workspace(server, project, id)
    folder.mkdir(parents=True, exist_ok=True)
    config = {**_config(server, project), "workspace_id": id, "author": list(author)}
    copy = WorkingCopy.create(folder, config)
    with copy.locked():
        exchange = ProjectExchange(server, copy, console.say)
        work = ProjectWork(copy, exchange)
        workspace = exchange.workspace()
        console.warn_kept(work.check_out(workspace).kept)
    answer = {
        "project_id": project["id"],
        "workspace_id": copy.config["workspace_id"],
        "snapshot_id": workspace.snapshot,
        "folder": str(folder),
    }
    files = files_in(exchange.tree(workspace.manifest))
    console.show(answer, [f"Cloned {project['name']} into {folder}: {files}, workspace {workspace.name}."])
    return 0


def status(console: Console) -> int:
    """What changed in the folder since the last snapshot, what is not sent, and whether the server moved."""
    copy = console.copy()
    with copy.locked():
        pending = copy.state.get("pending")
        left_out, found = copy.left_out_if_same(), {}
        if left_out is None:
            head = copy.tree_of(copy.state["head"])
            scanned = copy.scan(head)
            left_out, found = scanned.left_out, changes(head, scanned.tree)
    unsent = copy.unsent(copy.state["head"])
    workspace, problem = _server_state(console, copy)
    moved = workspace is not None and workspace.place != copy.state["remote"]
    both = overlaps(console.server(copy), copy.config, found) if workspace else []
    answer = {
        "project_id": copy.config["project_id"],
        "workspace_id": copy.config.get("workspace_id"),
        "head": copy.state["head"],
        "changes": found,
        "unsent": [each["id"] for each in unsent],
        "server_moved": moved if workspace else None,
        "interrupted": bool(pending),
        "left_out": left_out,
        "overlaps": both,
    }
    lines = [f"Snapshot {copy.state['head'] or '(none)'}"]
    lines += (
        [f"{counted(len(found), 'change')} since then:", *change_lines(found)]
        if found
        else ["No changes since then."]
    )
    lines += [f"{counted(len(unsent), 'snapshot')} not sent: 'sync' or 'snapshot' sends."] if unsent else []
    lines += ["The workspace moved on the server: 'sync' fetches it."] if moved else []
    lines += ["A change of this folder was interrupted: the next 'sync' finishes it."] if pending else []
    lines += [problem] if problem else []
    console.show(answer, [*lines, *overlap_lines(both)])
    return 0


def snapshot(console: Console) -> int:
    """Store the folder as a snapshot, and send it with all that were not sent."""
    copy, options = console.copy(), console.options
    with copy.locked():
        work = console.work(copy, signed_in=not options.offline)
        record = work.snapshot(options.message, options.agent)
        done, problem = _sent(console, work) if not options.offline else (None, None)
        both = overlaps(work.exchange.server, copy.config, ()) if record and done else []
    head = copy.state["head"]
    how = done.how if done else None
    answer = {
        "snapshot_id": head,
        "created": record is not None,
        "sent": how in ("sent", "nothing"),
        "server_moved": how == "moved",
        "left_out": work.left_out,
        "overlaps": both,
    }
    lines = [f"Snapshot {head}" if record else "No changes since the last snapshot."]
    lines += ["It is sent." if record else "What was not sent is sent."] if how == "sent" else []
    lines += (
        ["The workspace moved on the server: 'sync' merges. Your snapshot is stored there."]
        if how == "moved"
        else []
    )
    lines += (
        [f"{problem} The snapshot is stored here; the next 'snapshot' or 'sync' sends it."] if problem else []
    )
    console.show(answer, [*lines, *_left_out(work), *overlap_lines(both)])
    return 1 if how == "moved" else problem.exit_code if problem else 0


def log(console: Console) -> int:
    """The snapshots of the project, or the operations of the workspace, the newest first."""
    copy, options = console.copy(), console.options
    server, path = console.server(copy), console.workspace_path(copy)
    if options.operations:
        rows = server.get(f"{path}/operations", limit=options.limit)["operations"]
        lines = [
            f"{each['created_at'][:16].replace('T', ' ')}  {each['kind']:<8}  {each['id']}  → {each['after_snapshot_id'] or each['after_manifest_hash']}"
            for each in rows
        ]
        console.show({"operations": rows}, lines or ["No operations yet."])
        return 0
    rows = server.get(f"{path}/snapshots", limit=options.limit)["snapshots"]
    sent = {each["id"] for each in rows}
    new = [each for each in reversed(copy.unsent(copy.state["head"])) if each["id"] not in sent]
    lines = [_snapshot_line(each, copy.state["head"], "not sent") for each in new]
    lines += [_snapshot_line(each, copy.state["head"], each["source"]) for each in rows]
    console.show(
        {"unsent": new, "snapshots": rows, "head": copy.state["head"]}, lines or ["No snapshots yet."]
    )
    return 0


def watch(console: Console) -> int:
    """Take and send a snapshot whenever the folder changed and came to rest, until Ctrl-C."""
    copy, options = console.copy(), console.options
    if not 1 <= options.interval <= 3600:
        raise misused("--interval must be 1 to 3600 seconds.")
    console.say(f"Watching {copy.root}. Ctrl-C ends it.")
    before: dict[str, str] = {}
    told: list[dict[str, Any]] = []
    rounds = 0
    while options.rounds is None or rounds < options.rounds:
        rounds += 1
        before = _watched(console, before, told)
        time.sleep(options.interval)
    return 0


def _watched(console: Console, before: dict[str, str], told: list[dict[str, Any]]) -> dict[str, str]:
    """One round: a snapshot if the same changes were there a round ago. Returns the changes. `told` are the overlaps that were said."""
    copy = console.copy()
    try:
        with copy.locked():
            work = console.work(copy)
            found = _fingerprints(copy)
            if not (found and found == before) and not (copy.unsent(copy.state["head"]) and not found):
                return found
            record = work.snapshot(console.options.message or "Watched", console.options.agent)
            done, problem = _sent(console, work)
        if record:
            console.show(
                {
                    "snapshot_id": record["id"],
                    "changes": len(found),
                    "sent": bool(done and done.how == "sent"),
                },
                [f"Snapshot {record['id']}: {counted(len(found), 'change')}"],
            )
            sys.stdout.flush()
        if done and done.how == "moved":
            console.say("The workspace moved on the server: run 'sync'.")
        both = overlaps(work.exchange.server, copy.config, ()) if done else []
        for line in overlap_lines([each for each in both if each not in told]):
            console.say(plain(line))
        told[:] = both
        if problem:
            console.say(str(problem))
        return {}
    except Failure as error:
        passing = isinstance(error, Refused) and (error.status == BUSY or error.status >= 500)
        if not passing and error.code not in ("LOCKED", "CHANGING", "UNREACHABLE", "UNREADABLE"):
            raise
        console.say(plain(error))
        return before


def _fingerprints(copy: WorkingCopy) -> dict[str, str]:
    """How each changed path differs from the last snapshot."""
    if copy.left_out_if_same() is not None:
        return {}
    head = copy.tree_of(copy.state["head"])
    tree = copy.scan(head).tree
    found = changes(head, tree).items()
    return {path: f"{how} {tree[path].hash if path in tree else ''}" for path, how in found}


def _sent(console: Console, work: ProjectWork) -> tuple[Reconciled | None, Failure | None]:
    """Send what is not sent. If the workspace moved, the snapshots are stored beside its head. Not to reach the server is no failure."""
    from stoa.project_work import Reconciled

    copy = work.copy
    try:
        workspace = work.exchange.workspace()
        head = copy.state["head"]
        if head is None or not (copy.unsent(head) or head != copy.state["remote"][0]):
            return Reconciled("nothing", {}, []), None
        if workspace.place in (copy.state["remote"], [head, workspace.manifest]):
            return work.reconcile(workspace=workspace), None
        work.exchange.send(head, None)
        return Reconciled("moved", {}, []), None
    except Unreachable as error:
        return None, error


def _server_state(console: Console, copy: WorkingCopy) -> tuple[RemoteWorkspace | None, str | None]:
    if console.options.offline or not copy.config.get("workspace_id"):
        return None, None
    from stoa.project_exchange import ProjectExchange

    try:
        server = console.server(copy)
        return ProjectExchange(server, copy, console.say).workspace(), None
    except Failure as error:
        return None, f"The server's state is not known: {error}"


def _registered(server: Server, project_id: str, name: str, base: str | None, folder: Path) -> str:
    """Register a folder as a workspace; a name that is taken gets a number. Returns its id."""
    path = f"/v1/projects/{quoted(project_id)}/workspaces"
    import platform

    body = {"machine_id": platform.node()[:200] or None, "local_path": str(folder), "base_snapshot_id": base}
    for number in range(1, 100):
        numbered = name if number == 1 else f"{name}-{number}"
        try:
            return str(server.post(path, {**body, "name": numbered})["workspace"]["id"])
        except Refused as error:
            if error.code != "WORKSPACE_NAME_TAKEN":
                raise
    raise Failure(f"Workspaces named {name} to {name}-99 exist. Choose a name with --workspace.")


def _check_workspace(server: Server, project: dict[str, Any], id: str) -> None:
    """Raise Failure unless the workspace is one of the project's."""
    found = server.get(f"/v1/workspaces/{quoted(id)}")["workspace"]
    if found["project_id"] != project["id"]:
        raise Failure(
            f"The workspace {id} belongs to another project than {project['name']}.", code="NOT_FOUND"
        )


def _config(server: Server, project: dict[str, Any]) -> dict[str, Any]:
    return {"url": server.url, "project_id": project["id"], "org_id": project.get("org_id")}


def _found(server: Server, wanted: str, org: str | None) -> tuple[dict[str, Any], str | None]:
    """The project with this id or name, or that of the snapshot with this id, and then the snapshot."""
    try:
        found = server.get(f"/v1/snapshots/{quoted(wanted)}")["snapshot"]
        return server.get(f"/v1/projects/{quoted(found['project_id'])}")["project"], found["id"]
    except Refused as error:
        if error.status != 404:
            raise
    try:
        return server.get(f"/v1/projects/{quoted(wanted)}")["project"], None
    except Refused as error:
        if error.status != 404:
            raise
    named = [each for each in server.get("/v1/projects", org_id=org)["projects"] if each["name"] == wanted]
    if len(named) == 1:
        return named[0], None
    problem = (
        f"{len(named)} projects have the name '{wanted}': give an id"
        if named
        else f"There is no project or snapshot '{wanted}'"
    )
    raise Failure(f"{problem}.", code="NOT_FOUND", details={"ids": [each["id"] for each in named]})


def _head_of_main(server: Server, project: dict[str, Any]) -> str | None:
    main = project["main_workspace_id"]
    return server.get(f"/v1/workspaces/{quoted(main)}")["workspace"]["current_snapshot_id"] if main else None


def _own_name() -> str:
    import platform

    return (platform.node().partition(".")[0] or "copy")[:60]


def _file_name(name: str) -> str:
    kept = "".join(each if each.isalnum() or each in "-_." else "-" for each in name).strip("-.")
    return kept[:100] or "project"


def _snapshot_line(each: dict[str, Any], head: str | None, word: str) -> str:
    mark = "*" if each["id"] == head else " "
    moment = each["created_at"][:16].replace("T", " ")
    text = each.get("summary") or each.get("message") or ""
    return f"{mark} {moment}  {word:<8}  {text}  {each['id']}"


def _left_out(work: ProjectWork) -> list[str]:
    found = work.left_out
    more = f" and {len(found) - 5:,} more" if len(found) > 5 else ""
    return (
        [
            f"In no snapshot, because they are links out of the folder or no files: {', '.join(found[:5])}{more}."
        ]
        if found
        else []
    )
