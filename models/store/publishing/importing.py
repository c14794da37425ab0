"""Publishing a folder of definitions: what is new or changed becomes a version, what is not stays, each with a word."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import select

from models.core.db import db, now
from models.store.publishing import spawning, validation, versions
from models.store.publishing.definition import Definition
from models.store.publishing.publish import manage, publish
from models.store.publishing.spawning import UnknownAgent
from models.store.publishing.versions import NONE, BadVersion, VersionNumber
from models.store.tables import AgentConfig

Word = Literal["published", "unchanged", "refused"]


@dataclass(frozen=True)
class DefinitionFile:
    """A definition and where it was found."""

    source: str
    raw: Any


@dataclass(frozen=True)
class ImportResult:
    """What became of a definition: `about` is `publisher/agent@version`, or why it was refused."""

    source: str
    word: Word
    about: str


def bring(publisher_id: str, found: Sequence[DefinitionFile]) -> list[ImportResult]:
    """Publish these definitions under the publisher, whatever publisher they name; answers one outcome each. Flushes.

    One that says what is published already is unchanged, and nothing is written for it. What is refused stops itself
    and those that call it, nothing else. The operator's verb: nobody's right is checked. Raises NotFound when there
    is no such publisher.
    """
    manage(None, publisher_id)
    refused: list[ImportResult] = []
    good = _accepted(publisher_id, found, refused)
    same: list[ImportResult] = []
    coming: dict[str, Definition] = {}
    becoming: dict[str, str] = {}
    for agent, (source, made) in good.items():
        there = _published(publisher_id, agent)
        try:
            standing = _standing(made, there)
            if standing:
                same.append(ImportResult(source, "unchanged", f"{publisher_id}/{agent}@{standing}"))
            else:
                highest = max(there, default=NONE)
                becoming[agent] = versions.following(highest, made.version)
                coming[agent] = made
        except BadVersion as error:
            refused.append(ImportResult(source, "refused", f"{error}."))
    while lost := _lost(publisher_id, coming, becoming):
        for agent, why in lost.items():
            del coming[agent], becoming[agent]
            refused.append(ImportResult(good[agent][0], "refused", why))
    places = publish(list(coming.values()), by=None, credential="import", arrived=now())
    return [*(ImportResult(good[each.agent][0], "published", str(each)) for each in places), *same, *refused]


def _accepted(
    publisher_id: str, found: Sequence[DefinitionFile], refused: list[ImportResult]
) -> dict[str, tuple[str, Definition]]:
    """The definitions that are right by themselves, with their sources, by id."""
    good: dict[str, tuple[str, Definition]] = {}
    for each in found:
        raw = {**each.raw, "publisher": publisher_id} if isinstance(each.raw, dict) else each.raw
        # whether the agents it calls are there is asked when it is known which of them come along
        checked = validation.check({each.source: raw}, spawning.references(raw))
        made = next(iter(checked.definitions), None)
        if made is None:
            why = " ".join(problem.message for problem in checked.problems)
        elif made.id in good:
            why = f"{good[made.id][0]} defines the agent {made.id} already."
        else:
            good[made.id] = (each.source, made)
            continue
        refused.append(ImportResult(each.source, "refused", why))
    return good


def _published(publisher_id: str, agent: str) -> dict[VersionNumber, AgentConfig]:
    rows = db.session.scalars(
        select(AgentConfig).where(AgentConfig.publisher_id == publisher_id, AgentConfig.id == agent)
    )
    return {VersionNumber(row.major or 0, row.minor or 0, row.patch or 0): row for row in rows}


def _standing(made: Definition, there: Mapping[VersionNumber, AgentConfig]) -> str | None:
    """The published version that says the same: the one it names, or the newest when it names none.

    Raises BadVersion when the version it names says something else.
    """
    if made.version is None:
        newest = there[max(there)] if there else None
        return newest.version if newest and _is_same(made, newest.data) else None
    row = there.get(versions.parse(made.version))
    if row and not _is_same(made, row.data):
        raise BadVersion(
            f"Version {made.version} is published and says something else. Give it a greater version"
        )
    return row.version if row else None


def _is_same(made: Definition, data: Mapping[str, Any]) -> bool:
    # a number beyond 64 bits comes back as an integer, and was a float when it was read from the file
    data = orjson.loads(json.dumps(data))
    mine = made.stored()
    calls, called = made.spawnableAgents, data.get("spawnableAgents") or []
    keys = (mine.keys() | data.keys()) - {"version", "publisher", "spawnableAgents"}
    return (
        all(mine.get(key) == data.get(key) for key in keys)
        and len(calls) == len(called)
        and all(
            spawning.is_version_of(full, reference, made.publisher or "")
            for reference, full in zip(calls, called, strict=True)
        )
    )


def _lost(publisher_id: str, coming: Mapping[str, Definition], becoming: Mapping[str, str]) -> dict[str, str]:
    """Those that call an agent which is neither published nor coming along, and what is wrong."""
    lost = {}
    for agent, made in coming.items():
        others = [
            place
            for reference in made.spawnableAgents
            if (place := spawning.place(reference)) and place.publisher != publisher_id
        ]
        missing = set(others) - spawning.published(others)
        try:
            if missing:
                raise UnknownAgent(f"Invalid agent ID: {min(missing)}. Agent not found in database.")
            spawning.resolve_all(publisher_id, becoming, [made.spawnableAgents])
        except UnknownAgent as error:
            lost[agent] = str(error)
    return lost
