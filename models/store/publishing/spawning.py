"""The agents a definition may call (contract 3.11): whether they exist, and which version of each is meant."""

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
"""Agents that clients bring along (contract 3.11)."""

_KEY = AgentConfig.publisher_id, AgentConfig.id, AgentConfig.version
_FULL = re.compile(r"([^/@]+)/([^/@]+)@([^/@]+)")
_OPEN = re.compile(r"(?:([^/@]+)/)?([^/@]+)")


class UnknownAgent(Exception):
    """A reference leads nowhere. The text says which, in the contract's words."""


class FullReference(NamedTuple):
    """One version of an agent: `publisher/agent@version`."""

    publisher: str
    agent: str
    version: str

    def __str__(self) -> str:
        return f"{self.publisher}/{self.agent}@{self.version}"


Agent = tuple[str, str]
"""Publisher and agent id."""


def place(reference: str) -> FullReference | None:
    """The version a full reference names; None for any other form."""
    found = _FULL.fullmatch(reference)
    return FullReference(found[1], found[2], found[3]) if found else None


def is_version_of(full: str, reference: str, publisher: str) -> bool:
    """Whether the full reference is what `reference`, in a definition of this publisher, may have been resolved to."""
    exact = place(full)
    return full == reference or (
        exact is not None and (exact.publisher, exact.agent) == _agent(reference, publisher)
    )


def references(raw: Any) -> list[str]:
    """The agents a definition that was not checked yet names; the old key `subagents` where there is no new one."""
    if not isinstance(raw, dict):
        return []
    named = raw.get("spawnableAgents", raw.get("subagents"))
    return [each for each in named if isinstance(each, str)] if isinstance(named, list) else []


def unknown(definitions: Sequence[Any], local_ids: Collection[str]) -> dict[str, str]:
    """What is wrong with each reference that names no agent, by the reference (check (a), before authentication).

    Good are the built-in types, agents of this request, those the caller keeps locally, and published versions.
    One query, whatever the number of references.
    """
    here = {raw["id"] for raw in definitions if isinstance(raw, dict) and isinstance(raw.get("id"), str)}
    here |= {str(own) for raw in definitions if (own := _own_place(raw))}
    known = BUILT_IN | here | set(local_ids)
    asked = dict.fromkeys(
        reference for raw in definitions for reference in references(raw) if reference not in known
    )
    places = {reference: place(reference) for reference in asked}
    there = published([each for each in places.values() if each])
    problems = {}
    for reference, meant in places.items():
        if meant is None:
            problems[reference] = (
                f"Invalid agent ID: {reference}. Not found. You must include the publisher, agent id, and version"
                " if the agent is not defined locally."
            )
        elif meant not in there:
            problems[reference] = f"Invalid agent ID: {reference}. Agent not found in database."
    return problems


def _own_place(raw: Any) -> FullReference | None:
    """The version a definition asks to become, where it says all of it."""
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
    publishing: Mapping[str, str],
    there: Collection[FullReference],
    latest: Mapping[Agent, str],
) -> str:
    """The reference as `publisher/agent@version` (check (b)). Raises Unresolved.

    `publishing` are the versions of this request by agent id, `there` the published versions, `latest` the newest
    that is not yanked by agent. A full reference to another publisher's agent is taken as it is.
    """
    full = place(reference)
    if full:
        own = full.publisher == publisher
        if own and publishing.get(full.agent) != full.version and full not in there:
            raise UnknownAgent(
                f"Invalid spawnable agent: '{reference}' is not published and not included in this request."
            )
        return reference
    meant = _agent(reference, publisher)
    if meant:
        whose, agent = meant
        version = publishing.get(agent) if whose == publisher else None
        version = version or latest.get(meant)
        if version:
            return f"{whose}/{agent}@{version}"
    raise UnknownAgent(f"Invalid spawnable agent: '{reference}' has no published versions to resolve to.")


def _agent(reference: str, publisher: str) -> Agent | None:
    found = _OPEN.fullmatch(reference)
    return (found[1] or publisher, found[2]) if found else None


def resolve_all(
    publisher: str, publishing: Mapping[str, str], named: Iterable[Sequence[str]]
) -> list[list[str]]:
    """Each list of references resolved, as one would by `resolve`. Two queries. Raises Unresolved for the first."""
    lists = [list(each) for each in named]
    every = dict.fromkeys(reference for each in lists for reference in each)
    full: list[FullReference] = []
    loose: list[Agent] = []
    for reference in every:
        exact = place(reference)
        if exact is None:
            meant = _agent(reference, publisher)
            loose += [meant] if meant else []
        elif exact.publisher == publisher:
            full.append(exact)
    there = published(full)
    newest = latest(loose)
    return [[resolve(each, publisher, publishing, there, newest) for each in names] for names in lists]


def published(places: Collection[FullReference]) -> set[FullReference]:
    """Those of the versions that are published and not taken down, yanked ones too."""
    if not places:
        return set()
    asked = _asked(
        publisher=[each.publisher for each in places],
        agent=[each.agent for each in places],
        version=[each.version for each in places],
    )
    rows = db.session.execute(
        select(*_KEY)
        .join(asked, tuple_(*_KEY) == tuple_(asked.c.publisher, asked.c.agent, asked.c.version))
        .where(~covers(*_KEY))
    )
    return {FullReference(*row) for row in rows}


def latest(agents: Collection[Agent]) -> dict[Agent, str]:
    """The highest version of each of the agents that has one; of those that are neither yanked nor taken down."""
    if not agents:
        return {}
    asked = _asked(publisher=[each[0] for each in agents], agent=[each[1] for each in agents])
    of_agent = AgentConfig.publisher_id, AgentConfig.id
    rows = db.session.execute(
        select(*_KEY)
        .ext(distinct_on(*of_agent))
        .join(asked, tuple_(*of_agent) == tuple_(asked.c.publisher, asked.c.agent))
        .outerjoin(AgentVersion, tuple_(*AgentVersion.__table__.primary_key) == tuple_(*_KEY))
        .where(AgentVersion.yanked_at.is_(None), ~covers(*_KEY))
        .order_by(*of_agent, AgentConfig.major.desc(), AgentConfig.minor.desc(), AgentConfig.patch.desc())
    )
    return {(row.publisher_id, row.id): row.version for row in rows}


def _asked(**columns: list[str]) -> TableValuedAlias:
    """Names as rows, in two or three parameters however many they are."""
    arrays = [literal(names, ARRAY(Text)) for names in columns.values()]
    return func.unnest(*arrays).table_valued(*columns, name="asked").render_derived()
