"""Applies what a run made to the files that it is based on. After those moved, a rebase comes first."""

from collections.abc import Iterator

from models.core.db import db, now
from models.core.errors import Conflict
from models.insights.action_item import ActionItem
from models.insights.item_run import ActionItemRun
from models.insights.item_run_reading import WrongState, files_now, locked_run, own_run, run_not_found
from models.projects import Project, ProjectCaller, Workspace
from models.projects.activity_log import add_event
from models.projects.project_access import own_project, own_workspace
from models.projects.snapshots.snapshot_making import server_snapshot
from models.projects.snapshots.snapshot_run_costs import add_costs, uncounted_costs
from models.projects.workspaces.head_moves import Mover, check_version, move_head
from models.projects.workspaces.workspace import WorkspaceOperation
from models.runs import AgentRun
from models.runs.history import find_run
from models.runs.run import agent_name_of
from models.turns import Turn


class BaseChanged(Conflict):
    """The workspace moved since the run began (contract 4.9 [new])."""

    code = "base_changed"

    def __init__(self) -> None:
        super().__init__(
            "The files of the workspace changed since the run began. Rebase the patch on them, or run it again."
        )


def apply_run(
    caller: ProjectCaller, run_id: str, mover: Mover, expected: int | None = None
) -> tuple[ActionItemRun, WorkspaceOperation]:
    """Move the workspace to the files that a ready run made. Of several at once one wins. Locks project, workspace, item and run; flushes.
    Raises NotFound, Forbidden, WrongState (400) unless it is ready, BaseChanged and StaleWorkspace (409)."""
    own_run(caller, run_id, "edit_projects")
    project, workspace, item, run = locked_places(caller, run_id)
    check_ready(run)
    check_item(item)
    check_version(workspace, expected)
    if files_now(project, workspace) != run.base_manifest_hash:
        raise BaseChanged
    assert run.result_manifest_hash is not None
    return run, _move(project, workspace, item, run, run.result_manifest_hash, mover)


def locked_places(caller: ProjectCaller, run_id: str) -> tuple[Project, Workspace, ActionItem, ActionItemRun]:
    """A run, its item and where it is, all locked, for whoever may change the project. Raises NotFound, Forbidden."""
    found = own_run(caller, run_id, "edit_projects")
    project = own_project(caller, found.project.id, "edit_projects", lock=True)
    _, workspace = own_workspace(caller, found.workspace.id, "edit_projects", lock=True)
    locked = locked_run(run_id)
    if locked is None:
        raise run_not_found()
    return project, workspace, *locked


def check_ready(run: ActionItemRun) -> None:
    """Raise WrongState (400) unless the patch of the run can be applied."""
    if run.status == "ready":
        return
    told = {
        "applied": "The patch of this run is applied already.",
        "failed": "This run failed, so it has no patch to apply. Run it again.",
        "paused": "This run is paused. Let it go on, or stop it.",
    }
    raise WrongState(told.get(run.status, "This run has not ended. Wait for it, or stop it."))


def check_item(item: ActionItem) -> None:
    """Raise WrongState (400) for an item whose patches are not applied any more."""
    if item.status == "dismissed":
        raise WrongState("The item of this run was dismissed, so its patch is not applied.")


def _move(
    project: Project,
    workspace: Workspace,
    item: ActionItem,
    run: ActionItemRun,
    manifest_hash: str,
    mover: Mover,
) -> WorkspaceOperation:
    """Make the snapshot, which takes the credits of the run, and move the head there; the run and its item are applied."""
    heads = [workspace.current_snapshot_id] if workspace.current_snapshot_id else []
    snapshot = server_snapshot(
        project,
        workspace,
        manifest_hash,
        heads,
        source="web",
        message=item.title,
        user_id=mover.user_id,
    )
    costs: dict[str, int] = {}
    for agent_run in _agent_runs(project, run):
        costs |= uncounted_costs(project.account_id, agent_run)
        snapshot.run_id, snapshot.agent = agent_run.id, agent_name_of(agent_run)[:200]
    snapshot.credits = sum(costs.values())
    db.session.flush()
    add_costs(snapshot, costs)
    operation = move_head(
        workspace,
        mover._replace(cause=snapshot.run_id, cost=snapshot.credits),
        "turn",
        snapshot_id=snapshot.id,
        manifest_hash=manifest_hash,
        detail={"item_run": run.id, "item": item.id, "rebased": _rebased(run)},
    )
    moment = now()
    project.last_snapshot_id, project.updated_at = snapshot.id, moment
    run.status, run.operation_id, run.updated_at = "applied", operation.id, moment
    item.status, item.updated_at = "applied", moment
    item.resolved_at = None
    add_event(
        project.id,
        "patch.applied",
        mover.actor,
        mover.user_id,
        workspace_id=workspace.id,
        snapshot_id=snapshot.id,
        message=item.title,
    )
    db.session.flush()
    return operation


def _rebased(run: ActionItemRun) -> bool:
    return any(each.get("kind") == "rebase" for each in run.attempts)


def _agent_runs(project: Project, run: ActionItemRun) -> Iterator[AgentRun]:
    """The agents' runs of the attempts, in their order, that the account of the project paid."""
    for attempt in run.attempts:
        turn = db.session.get(Turn, attempt["turn_id"]) if attempt.get("turn_id") else None
        found = find_run(project.account_id, turn.run_id) if turn is not None and turn.run_id else None
        if found is not None:
            yield found
