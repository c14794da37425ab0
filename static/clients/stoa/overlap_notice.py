"""Which files others change too: told while both still work, not when they merge."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stoa.failures import Failure
from stoa.server_calls import Server, quoted

MOST_PATHS = 100
MOST_CHARACTERS = 3000
"""Of an address; servers and proxies refuse long ones."""


def overlaps(server: Server, config: dict[str, Any], unsaved: Iterable[str]) -> list[dict[str, Any]]:
    """The files that this workspace and others changed in different ways: `path`, and the names of the others in `workspaces`. Of
    `unsaved` files also those that others changed at all. Empty if the server does not say: it is only a notice."""
    path, own = f"/v1/projects/{quoted(config['project_id'])}/overlaps", config["workspace_id"]
    asked: list[str] = []
    room = MOST_CHARACTERS
    for each in unsaved:
        room -= len(quoted(each)) + len("&paths=")
        if room < 0 or len(asked) == MOST_PATHS:
            break
        asked.append(each)
    try:
        rows = [each for each in server.get(path)["overlaps"] if _has(each, own)]
        rows += server.get(path, paths=asked)["overlaps"] if asked else []
    except Failure:
        return []
    found = {}
    for row in rows:
        names = [each["workspace_name"] for each in row["changes"] if each["workspace_id"] != own]
        names += ["main"] if row["main_changed"] and _has(row, own) else []
        if names and (row["differs"] or row["path"] in asked):
            found[row["path"]] = {"path": row["path"], "workspaces": sorted(set(names))}
    return [found[path] for path in sorted(found)]


def overlap_lines(found: list[dict[str, Any]], most: int = 20) -> list[str]:
    """What is told of overlaps."""
    if not found:
        return []
    lines = [f"  {each['path']}  ({', '.join(each['workspaces'])})" for each in found[:most]]
    more = [f"  … and {len(found) - most:,} more"] if len(found) > most else []
    return ["Others change these files too:", *lines, *more]


def _has(row: dict[str, Any], workspace: str) -> bool:
    return any(each["workspace_id"] == workspace for each in row["changes"])
