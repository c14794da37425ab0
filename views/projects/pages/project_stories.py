"""Sentences about what happened in a project: its events, and the moves of its workspaces."""

from collections.abc import Mapping, Sequence

from models.projects import ActivityEvent, Snapshot, Workspace, WorkspaceOperation
from models.projects.project_listing import people_of, workspaces_named
from views.projects.pages.project_blueprint import bp

EVENTS = {
    "project.created": "made the project",
    "workspace.created": "made the workspace {workspace}",
    "workspace.deleted": "deleted the workspace {workspace}",
    "workspace.main_changed": "made {workspace} the main workspace",
    "workspace.out_of_date": "came too late to {workspace}; the files are kept as a snapshot",
    "workspace.overlap": "changed in {workspace} what others change too",
    "drift.reported": "reported the drift of {workspace}",
    "snapshot.pushed": "pushed a snapshot to {workspace}",
    "snapshot.pulled": "moved {workspace} to a snapshot",
    "operation.undone": "undid an operation of {workspace}",
    "merge.completed": "merged into {workspace}",
    "deployment.live": "deployed {workspace}",
    "deployment.failed": "could not deploy {workspace}",
    "deployment.rolled_back": "rolled {workspace} back to an earlier deployment",
    "patch.applied": "applied an agent’s patch to {workspace}",
}
OPERATIONS = {
    "snapshot": "pushed a snapshot to {workspace}",
    "manifest": "changed files of {workspace}",
    "set_main": "made {workspace} the main workspace",
    "restore": "moved {workspace} to an earlier snapshot",
    "undo": "undid an operation of {workspace}",
    "sync": "brought {workspace} up to date",
    "land": "landed in {workspace}",
    "turn": "let an agent work in {workspace}",
}
NOBODY = "Somebody who left"


def event_stories(
    project_id: str, events: Sequence[ActivityEvent], snapshots: Mapping[str, Snapshot]
) -> list[tuple[ActivityEvent, str]]:
    """What happened, and who did it. `snapshots` are those that the events name."""
    people = people_of(each.user_id for each in events)
    # events of pushes name no workspace (contract 3.6): their snapshots do
    places = {each.id: each.workspace_id or _pushed_to(each, snapshots) for each in events}
    named = workspaces_named(project_id, places.values())
    return [(each, _event_story(each, places[each.id], people, named)) for each in events]


def _pushed_to(event: ActivityEvent, snapshots: Mapping[str, Snapshot]) -> str | None:
    found = snapshots.get(event.snapshot_id or "")
    return found.workspace_id if found and event.type == "snapshot.pushed" else None


def _event_story(
    event: ActivityEvent, place: str | None, people: Mapping[str, str], workspaces: Mapping[str, Workspace]
) -> str:
    who = _who(event.user_id, event.actor, people)
    told = EVENTS.get(event.type) or event.type.replace(".", " ").replace("_", " ")
    if place is None:
        told = told.removesuffix(" to {workspace}")
    return f"{who} {told.replace('{workspace}', _workspace(place, workspaces))}"


def operation_story(
    operation: WorkspaceOperation, people: Mapping[str, str], workspaces: Mapping[str, Workspace]
) -> str:
    """Who moved which workspace, and how."""
    who = _who(operation.user_id, operation.actor, people)
    told = OPERATIONS.get(operation.kind, operation.kind)
    return f"{who} {told.replace('{workspace}', _workspace(operation.workspace_id, workspaces))}"


def snapshot_title(snapshot: Snapshot | None) -> str:
    """The first line of what a snapshot says of itself; else the beginning of its id."""
    if snapshot is None:
        return "no files"
    text = (snapshot.message or snapshot.summary or "").strip()
    return text.split("\n")[0][:120].strip() or f"Snapshot {short_id(snapshot.id)}"


def short_id(id: str) -> str:
    """The part of a snapshot's id that people compare: the beginning of a hash, the end of others."""
    return id[:12] if len(id) == 64 else id[-12:]


def _who(user_id: str | None, actor: str, people: Mapping[str, str]) -> str:
    if user_id is None and actor == "system":
        return "The server"
    return people.get(user_id or "", NOBODY)


def _workspace(id: str | None, workspaces: Mapping[str, Workspace]) -> str:
    found = workspaces.get(id or "")
    return f"“{found.name}”" if found else "a workspace"


bp.add_app_template_global(snapshot_title)
bp.add_app_template_global(short_id)
