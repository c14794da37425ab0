"""What a site shows: the file at a path of the immutable tree of its live deployment, straight from the stored bytes, or a process."""

from functools import lru_cache
from typing import NamedTuple

import orjson
from sqlalchemy import select

from models.accounts.users import User
from models.core.db import db
from models.deployments.deployed_process import DeployedProcess
from models.deployments.deployment import DeployedSite, Deployment
from models.projects.project import Project
from models.projects.snapshots.manifest_store import load_listings
from models.projects.snapshots.manifest_text import MAX_DEPTH, MAX_PATH, Entry
from models.projects.snapshots.tree_reading import entries_at
from models.projects.workspaces.workspace import Workspace

INDEX, NOT_FOUND = "index.html", "404.html"
WELL_KNOWN = ".well-known"
REMEMBERED = 2_048
"""Paths whose place in a tree is remembered; trees never change."""


class ServedTree(NamedTuple):
    """What a site shows now."""

    account_id: str
    tree_hash: str


class ServedProcess(NamedTuple):
    """The process that answers for a site; `socket` is where it is reached, None while it is not. `failed`: it was given up."""

    deployment_id: str
    socket: str | None
    failed: bool


class SitePath(NamedTuple):
    """What stands at a path: a file, with status 200 or 404, or the address of a folder to go to; neither if nothing does."""

    entry: Entry | None = None
    status: int = 404
    folder: str | None = None


def served_site(name: str) -> ServedTree | ServedProcess | None:
    """What the site of this name shows; None if there is none, it is offline, its project or workspace is deleted or its owner suspended. One
    statement, so a switch is seen at once and whole."""
    query = (
        select(
            Project.account_id,
            Deployment.tree_hash,
            Deployment.id,
            Deployment.adapter,
            Deployment.state,
            DeployedProcess.socket,
        )
        .join(DeployedSite, DeployedSite.project_id == Project.id)
        .join(Deployment, Deployment.id == DeployedSite.deployment_id)
        .join(Workspace, Workspace.id == DeployedSite.workspace_id)
        .outerjoin(DeployedProcess, DeployedProcess.deployment_id == Deployment.id)
        .outerjoin(User, User.id == Project.account_id)
        .where(DeployedSite.name == name)
        .where(Project.deleted_at.is_(None), Workspace.deleted_at.is_(None))
        .where(User.banned.is_not(True))
    )
    row = db.session.execute(query).one_or_none() if 0 < len(name) <= 63 and name.isascii() else None
    if row is None:
        return None
    account_id, tree_hash, id, adapter, state, socket = row
    if adapter == "process":
        return ServedProcess(id, socket, state == "failed")
    return ServedTree(account_id, tree_hash) if tree_hash else None


def find_path(tree: ServedTree, path: str) -> SitePath:
    """What the tree has at a path of an address, decoded: the file; the file `path.html`; of a folder its `index.html`, or the address
    with a slash. Else `404.html`. Names that begin with a dot are not shown, except below `.well-known`; links are not followed. Raises
    BlobDamaged."""
    segments = path.split("/")[1:] if path.startswith("/") else None
    shown = segments is not None and len(path) <= MAX_PATH and len(segments) < MAX_DEPTH
    found = _place(tree, tuple(segments)) if shown and segments is not None else SitePath()
    if found.entry or found.folder:
        return found
    return SitePath(_file(tree, NOT_FOUND), 404)


@lru_cache(maxsize=REMEMBERED)
def _place(tree: ServedTree, segments: tuple[str, ...]) -> SitePath:
    *above, last = segments
    if not all(map(_is_shown, above)) or not (last == "" or _is_shown(last)):
        return SitePath()
    if last == "":
        return SitePath(_file(tree, "/".join([*above, INDEX])), 200)
    path = "/".join(segments)
    if entry := _file(tree, path) or (None if last.endswith(".html") else _file(tree, f"{path}.html")):
        return SitePath(entry, 200)
    if _file(tree, f"{path}/{INDEX}"):
        return SitePath(folder=f"/{path}/")
    return SitePath()


def _file(tree: ServedTree, path: str) -> Entry | None:
    entry = entries_at(tree.account_id, tree.tree_hash, [path]).get(path)
    return entry if entry is not None and entry.kind == "file" else None


def _is_shown(name: str) -> bool:
    return name != "" and "\0" not in name and (not name.startswith(".") or name == WELL_KNOWN)


def subtree(account_id: str, root: str, folder: str) -> str | None:
    """The tree of a folder of a tree, `.` for itself; None if there is none. Raises BlobDamaged."""
    here = root
    for segment in [] if folder == "." else folder.split("/"):
        rows = orjson.loads(load_listings(account_id, [here])[here])
        below = next((row for row in rows if row[0] == segment and row[1] == "d"), None)
        if below is None:
            return None
        here = str(below[3])
    return here
