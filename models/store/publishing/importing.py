"""Import of definition files: publishes new and changed definitions, skips unchanged ones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import select

from models.core.db import db, now
from models.store.publishing import spawning, validation, versions
from models.store.publishing.definition import Definition
from models.store.publishing.publish import lock_publisher, publish
from models.store.publishing.spawning import UnknownAgent
from models.store.publishing.versions import NONE, BadVersion, VersionNumber
from models.store.tables import AgentConfig

Outcome = Literal["published", "unchanged", "refused"]


@dataclass(frozen=True)
class DefinitionFile:
    """A definition and its source."""

    source: str
    raw: Any


@dataclass(frozen=True)
class ImportResult:
    """The outcome of a definition: `detail` is `publisher/agent@version`, or why it was refused."""

    source: str
    outcome: Outcome
    detail: str


def import_definitions(publisher_id: str, found: Sequence[DefinitionFile]) -> list[ImportResult]:
    """Publish definitions under the publisher, whatever publisher they name; returns one result each. Flushes.

    A definition equal to the published version is unchanged and writes nothing. A refused definition also fails those that
    reference it, but no others. For operators: no access check. Raises NotFound for an unknown publisher.
    """
    lock_publisher(None, publisher_id)
    refused: list[ImportResult] = []
    accepted = _accepted(publisher_id, found, refused)
    unchanged: list[ImportResult] = []
    publishing: dict[str, Definition] = {}
    new_versions: dict[str, str] = {}
    for agent, (source, definition) in accepted.items():
        existing = _published(publisher_id, agent)
        try:
            identical = _identical_version(definition, existing)
            if identical:
                unchanged.append(ImportResult(source, "unchanged", f"{publisher_id}/{agent}@{identical}"))
            else:
                highest = max(existing, default=NONE)
                new_versions[agent] = versions.next_version(highest, definition.version)
                publishing[agent] = definition
        except BadVersion as error:
            refused.append(ImportResult(source, "refused", f"{error}."))
    while failures := _unresolvable(publisher_id, publishing, new_versions):
        for agent, reason in failures.items():
            del publishing[agent], new_versions[agent]
            refused.append(ImportResult(accepted[agent][0], "refused", reason))
    published = publish(list(publishing.values()), by=None, credential="import", arrived=now())
    results = [ImportResult(accepted[each.agent][0], "published", str(each)) for each in published]
    return results + unchanged + refused


def _accepted(
    publisher_id: str, found: Sequence[DefinitionFile], refused: list[ImportResult]
) -> dict[str, tuple[str, Definition]]:
    """The valid definitions with their sources, by id. References are not checked yet."""
    accepted: dict[str, tuple[str, Definition]] = {}
    for each in found:
        raw = {**each.raw, "publisher": publisher_id} if isinstance(each.raw, dict) else each.raw
        # its own references count as known here: `_unresolvable` checks them
        checked = validation.check({each.source: raw}, spawning.references(raw))
        definition = next(iter(checked.definitions), None)
        if definition is None:
            reason = " ".join(problem.message for problem in checked.problems)
        elif definition.id in accepted:
            reason = f"{accepted[definition.id][0]} already defines the agent {definition.id}."
        else:
            accepted[definition.id] = (each.source, definition)
            continue
        refused.append(ImportResult(each.source, "refused", reason))
    return accepted


def _published(publisher_id: str, agent: str) -> dict[VersionNumber, AgentConfig]:
    rows = db.session.scalars(
        select(AgentConfig).where(AgentConfig.publisher_id == publisher_id, AgentConfig.id == agent)
    )
    return {VersionNumber(row.major or 0, row.minor or 0, row.patch or 0): row for row in rows}


def _identical_version(definition: Definition, existing: Mapping[VersionNumber, AgentConfig]) -> str | None:
    """The published version with the same content: the one it names, by default the highest; or None.

    Raises BadVersion if the version it names has other content.
    """
    if definition.version is None:
        highest = existing[max(existing)] if existing else None
        return highest.version if highest and _is_same(definition, highest.data) else None
    row = existing.get(versions.parse(definition.version))
    if row and not _is_same(definition, row.data):
        raise BadVersion(
            f"Version {definition.version} is already published with other content. Use a greater version"
        )
    return row.version if row else None


def _is_same(definition: Definition, data: Mapping[str, Any]) -> bool:
    # PostgreSQL returns numbers beyond 64 bits as integers, the file had floats: parse them the same way
    data = orjson.loads(json.dumps(data))
    mine = definition.stored()
    named, resolved = definition.spawnableAgents, data.get("spawnableAgents") or []
    keys = (mine.keys() | data.keys()) - {"version", "publisher", "spawnableAgents"}
    return (
        all(mine.get(key) == data.get(key) for key in keys)
        and len(named) == len(resolved)
        and all(
            spawning.is_version_of(full, reference, definition.publisher or "")
            for reference, full in zip(named, resolved, strict=True)
        )
    )


def _unresolvable(
    publisher_id: str, publishing: Mapping[str, Definition], new_versions: Mapping[str, str]
) -> dict[str, str]:
    """The definitions that reference an agent which is neither published nor in this import, and the error of each."""
    failures = {}
    for agent, definition in publishing.items():
        others = [
            parsed
            for reference in definition.spawnableAgents
            if (parsed := spawning.parse(reference)) and parsed.publisher != publisher_id
        ]
        missing = set(others) - spawning.published(others)
        try:
            if missing:
                raise UnknownAgent(f"Invalid agent ID: {min(missing)}. Agent not found in database.")
            spawning.resolve_all(publisher_id, new_versions, [definition.spawnableAgents])
        except UnknownAgent as error:
            failures[agent] = str(error)
    return failures
