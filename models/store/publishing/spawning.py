"""References in `spawnableAgents` (contract 3.11): existence checks and resolution to exact versions."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, TableValuedAlias, Text, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on

from models.core.db import db
from models.store.publishing.takedowns import covers
from models.store.tables import AgentConfig, AgentVersion

BUILT_IN = frozenset(
    (
        "base",
        "base-lite",
        "base-max",
        "base-experimental",
        "claude4-gemini-thinking",
        "superagent",
        "base-agent-builder",
        "ask",
        "planner",
        "dry-run",
        "thinker",
        "file-picker",
        "file-explorer",
        "researcher",
        "reviewer",
        "agent-builder",
        "example-programmatic",
    )
)
"""Agents built into clients (contract 3.11)."""

_KEY = AgentConfig.publisher_id, AgentConfig.id, AgentConfig.version
_PINNED = re.compile(r"([^/@]+)/([^/@]+)@([^/@]+)")
_UNPINNED = re.compile(r"(?:([^/@]+)/)?([^/@]+)")


class UnknownAgent(Exception):
    """A reference cannot be resolved. The message is the contract's."""


class FullReference(NamedTuple):
    """One version of an agent: `publisher/agent@version`."""

    publisher: str
    agent: str
    version: str

    def __str__(self) -> str:
        return f"{self.publisher}/{self.agent}@{self.version}"


AgentKey = tuple[str, str]
"""Publisher and agent id."""


def parse(reference: str) -> FullReference | None:
    """Parse `publisher/agent@version`; None for any other form."""
    found = _PINNED.fullmatch(reference)
    return FullReference(found[1], found[2], found[3]) if found else None


def is_version_of(full: str, reference: str, publisher: str) -> bool:
    """Whether `reference`, in a definition of this publisher, can resolve to the full reference."""
    exact = parse(full)
    return full == reference or (
        exact is not None and (exact.publisher, exact.agent) == _agent(reference, publisher)
    )


def references(raw: Any) -> list[str]:
    """The references of an unvalidated definition, from `spawnableAgents` or its older name `subagents`."""
    if not isinstance(raw, dict):
        return []
    named = raw.get("spawnableAgents", raw.get("subagents"))
    return [each for each in named if isinstance(each, str)] if isinstance(named, list) else []


def unknown(definitions: Sequence[Any], local_ids: Collection[str]) -> dict[str, str]:
    """The error message of each unknown reference (check (a), before authentication).

    Known are built-in agents, agents of this request, the caller's local agents, and published versions. One statement.
    """
    local = {raw["id"] for raw in definitions if isinstance(raw, dict) and isinstance(raw.get("id"), str)}
    local |= {str(own) for raw in definitions if (own := _own_reference(raw))}
    known = BUILT_IN | local | set(local_ids)
    unresolved = dict.fromkeys(
        reference for raw in definitions for reference in references(raw) if reference not in known
    )
    parsed = {reference: parse(reference) for reference in unresolved}
    existing = published([each for each in parsed.values() if each])
    problems = {}
    for reference, version in parsed.items():
        if version is None:
            problems[reference] = (
                f"Invalid agent ID: {reference}. Not found. You must include the publisher, agent id, and version"
                " if the agent is not defined locally."
            )
        elif version not in existing:
            problems[reference] = f"Invalid agent ID: {reference}. Agent not found in database."
    return problems


def _own_reference(raw: Any) -> FullReference | None:
    """The full reference of an unvalidated definition, if it names publisher, id and version."""
    if not isinstance(raw, dict):
        return None
    parts = [raw.get(key) for key in ("publisher", "id", "version")]
    return (
        FullReference(*(str(part) for part in parts))
        if all(isinstance(part, str) for part in parts)
        else None
    )


def resolve(
    reference: str,
    publisher: str,
    new_versions: Mapping[str, str],
    existing: Collection[FullReference],
    latest: Mapping[AgentKey, str],
) -> str:
    """Resolve a reference to `publisher/agent@version` (check (b)). Raises UnknownAgent.

    `new_versions` are the versions of this request by agent id, `existing` the published versions, `latest` the latest version
    by agent. A full reference to another publisher's agent is returned unchanged.
    """
    full = parse(reference)
    if full:
        own = full.publisher == publisher
        if own and new_versions.get(full.agent) != full.version and full not in existing:
            raise UnknownAgent(
                f"Invalid spawnable agent: '{reference}' is not published and not included in this request."
            )
        return reference
    key = _agent(reference, publisher)
    if key:
        owner, agent = key
        version = new_versions.get(agent) if owner == publisher else None
        version = version or latest.get(key)
        if version:
            return f"{owner}/{agent}@{version}"
    raise UnknownAgent(f"Invalid spawnable agent: '{reference}' has no published versions to resolve to.")


def _agent(reference: str, publisher: str) -> AgentKey | None:
    found = _UNPINNED.fullmatch(reference)
    return (found[1] or publisher, found[2]) if found else None


def resolve_all(
    publisher: str, new_versions: Mapping[str, str], named: Iterable[Sequence[str]]
) -> list[list[str]]:
    """Resolve lists of references with `resolve`. Two statements. Raises UnknownAgent for the first failure."""
    lists = [list(each) for each in named]
    distinct = dict.fromkeys(reference for each in lists for reference in each)
    pinned: list[FullReference] = []
    unpinned: list[AgentKey] = []
    for reference in distinct:
        exact = parse(reference)
        if exact is None:
            key = _agent(reference, publisher)
            unpinned += [key] if key else []
        elif exact.publisher == publisher:
            pinned.append(exact)
    existing = published(pinned)
    newest = latest(unpinned)
    return [[resolve(each, publisher, new_versions, existing, newest) for each in names] for names in lists]


def published(references: Collection[FullReference]) -> set[FullReference]:
    """The references that are published and not taken down, yanked ones included."""
    if not references:
        return set()
    names = _as_table(
        publisher=[each.publisher for each in references],
        agent=[each.agent for each in references],
        version=[each.version for each in references],
    )
    rows = db.session.execute(
        select(*_KEY)
        .join(names, tuple_(*_KEY) == tuple_(names.c.publisher, names.c.agent, names.c.version))
        .where(~covers(*_KEY))
    )
    return {FullReference(*row) for row in rows}


def latest(agents: Collection[AgentKey]) -> dict[AgentKey, str]:
    """The latest version of each agent: the highest that is neither yanked nor taken down."""
    if not agents:
        return {}
    names = _as_table(publisher=[each[0] for each in agents], agent=[each[1] for each in agents])
    agent_key = AgentConfig.publisher_id, AgentConfig.id
    rows = db.session.execute(
        select(*_KEY)
        .ext(distinct_on(*agent_key))
        .join(names, tuple_(*agent_key) == tuple_(names.c.publisher, names.c.agent))
        .outerjoin(AgentVersion, tuple_(*AgentVersion.__table__.primary_key) == tuple_(*_KEY))
        .where(AgentVersion.yanked_at.is_(None), ~covers(*_KEY))
        .order_by(*agent_key, AgentConfig.major.desc(), AgentConfig.minor.desc(), AgentConfig.patch.desc())
    )
    return {(row.publisher_id, row.id): row.version for row in rows}


def _as_table(**columns: list[str]) -> TableValuedAlias:
    """Columns of names as a table, in one array parameter per column."""
    arrays = [literal(names, ARRAY(Text)) for names in columns.values()]
    return func.unnest(*arrays).table_valued(*columns, name="names").render_derived()
