"""Stores findings as action items: each once, resolved when it is gone, found again when it returns (fastest contract 4.9 [new])."""

from collections.abc import Collection, Iterable

from sqlalchemy import select, update
from sqlalchemy.orm import aliased

from models.core.db import db, lock_name, now
from models.insights.action_item import ActionItem
from models.insights.item_finding import FoundItem, by_fingerprint
from models.projects import Workspace

MAX_STORED = 500
"""Open items of one analyser in a workspace: beyond them the most severe are stored, and a later analysis finds the others."""
_RANK = {"critical": 0, "warning": 1, "info": 2}


def upsert_item(
    workspace: Workspace,
    found: FoundItem,
    *,
    analyser: str,
    source: str = "analysis",
    created_by: str | None = None,
) -> ActionItem:
    """Store a finding, or bring the item with its fingerprint up to date. One that was resolved or applied is pending again; a dismissed
    one stays so. Idempotent; locks the items of the workspace until the transaction ends. Flushes."""
    lock_items(workspace.id)
    query = select(ActionItem).where(
        ActionItem.workspace_id == workspace.id, ActionItem.fingerprint == found.mark
    )
    known = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if known is None:
        known = _new(workspace, found.mark, found, analyser, source, created_by)
    else:
        _renew(known, found)
    db.session.flush()
    return known


def store_found(
    workspace: Workspace,
    analyser: str,
    found: Iterable[FoundItem],
    *,
    elsewhere: Collection[str] = (),
    complete: bool = True,
) -> dict[str, int]:
    """Store all that an analyser found in a workspace, and resolve what it no longer finds, if what it found is `complete`; counts by `new`,
    `kept`, `resolved`. `elsewhere`: fingerprints that another workspace answers for, which are left out here. Locks the items of the
    workspace. Flushes."""
    lock_items(workspace.id)
    current = {mark: each for mark, each in by_fingerprint(found).items() if mark not in elsewhere}
    query = select(ActionItem).where(
        ActionItem.workspace_id == workspace.id,
        ActionItem.analyser == analyser,
        ActionItem.source == "analysis",
    )
    known = {
        each.fingerprint: each for each in db.session.scalars(query.execution_options(populate_existing=True))
    }
    ranked = sorted(current, key=lambda mark: _RANK[current[mark].severity])
    counts = {"new": 0, "kept": 0, "resolved": 0}
    for mark in ranked[:MAX_STORED]:
        if mark in known:
            _renew(known[mark], current[mark])
            counts["kept"] += 1
        else:
            _new(workspace, mark, current[mark], analyser, "analysis", None)
            counts["new"] += 1
    db.session.flush()
    if complete:
        counts["resolved"] = resolve_items(workspace.id, analyser, keep=current)
    return counts


def resolve_items(workspace_id: str, analyser: str, *, keep: Collection[str] = ()) -> int:
    """Resolve the pending items of an analyser in a workspace, but those with these fingerprints; how many. Flushes."""
    moment = now()
    gone = update(ActionItem).where(
        ActionItem.workspace_id == workspace_id,
        ActionItem.analyser == analyser,
        ActionItem.source == "analysis",
        ActionItem.status == "pending",
    )
    if keep:
        gone = gone.where(ActionItem.fingerprint.not_in(keep))
    resolved = gone.values(status="resolved", resolved_at=moment, updated_at=moment, snoozed_until=None)
    returned = db.session.scalars(
        resolved.returning(ActionItem.id), execution_options={"synchronize_session": "fetch"}
    )
    return len(returned.all())


def resolve_twins(main: Workspace) -> None:
    """Resolve the pending items of other workspaces that the main one of their project has too. Flushes."""
    moment, twin = now(), aliased(ActionItem)
    here = select(twin.fingerprint).where(
        twin.workspace_id == main.id, twin.source == "analysis", twin.status != "resolved"
    )
    there = update(ActionItem).where(
        ActionItem.project_id == main.project_id,
        ActionItem.workspace_id != main.id,
        ActionItem.source == "analysis",
        ActionItem.status == "pending",
        ActionItem.fingerprint.in_(here),
    )
    resolved = there.values(status="resolved", resolved_at=moment, updated_at=moment, snoozed_until=None)
    db.session.execute(resolved, execution_options={"synchronize_session": "fetch"})


def open_fingerprints(workspace_id: str, analyser: str) -> set[str]:
    """What is known of an analyser in a workspace, and not resolved."""
    query = select(ActionItem.fingerprint).where(
        ActionItem.workspace_id == workspace_id,
        ActionItem.analyser == analyser,
        ActionItem.status != "resolved",
    )
    return set(db.session.scalars(query))


def lock_items(workspace_id: str) -> None:
    """Let others that store items of the workspace wait until the transaction ends."""
    lock_name(f"action items {workspace_id}")


def _new(
    workspace: Workspace, mark: str, found: FoundItem, analyser: str, source: str, created_by: str | None
) -> ActionItem:
    moment = now()
    made = ActionItem(
        project_id=workspace.project_id,
        workspace_id=workspace.id,
        fingerprint=mark,
        analyser=analyser,
        source=source,
        status="pending",
        created_by=created_by,
        created_at=moment,
        updated_at=moment,
        **found.columns(),
    )
    db.session.add(made)
    return made


def _renew(item: ActionItem, found: FoundItem) -> None:
    """Write what is new; an item that says the same stays unwritten."""
    changed = {name: value for name, value in found.columns().items() if getattr(item, name) != value}
    if item.status in ("resolved", "applied"):
        changed |= {"status": "pending", "resolved_at": None}
    for name, value in changed.items():
        setattr(item, name, value)
    if changed:
        item.updated_at = now()
