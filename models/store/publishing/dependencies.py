"""The dependency tree of an agent (contract 2.6), and its dependents."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import cast, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import TSQUERY

from models.core.db import db
from models.store.publishing.spawning import FullReference
from models.store.tables import Agent

MAX_DEPTH = 5
MAX_NODES = 2_000
"""Maximum size of a tree, which can grow exponentially with depth."""

MAX_OUTLINE_NODES = 300
"""Maximum number of agents read for an outline."""

REFERENCE = re.compile(r"([^/@\s]+)/([^/@\s]+)@([^/@\s]+)")


# Reads the requested agents and up to 300 descendants within `depth` levels: usually the whole tree. Agents that are taken down
# are flagged and not followed.
_TAKEN_DOWN = """EXISTS (
        SELECT FROM takedown AS down WHERE down.publisher_id = config.publisher_id
            AND down.agent_id IN ('', config.id) AND down.version IN ('', config.version)
    )"""
_REACHED = text(
    f"""
    WITH RECURSIVE reached (full_id, depth) AS (
        SELECT requested, 0 FROM unnest(CAST(:requested AS text[])) AS requested
        UNION
        SELECT child.ref, reached.depth + 1
        FROM reached
        JOIN agent_config AS config ON config.publisher_id = split_part(reached.full_id, '/', 1)
            AND config.id = split_part(split_part(reached.full_id, '/', 2), '@', 1)
            AND config.version = split_part(reached.full_id, '@', 2)
            AND NOT {_TAKEN_DOWN}
        CROSS JOIN LATERAL jsonb_array_elements_text(
            CASE jsonb_typeof(config.data -> 'spawnableAgents')
                WHEN 'array' THEN config.data -> 'spawnableAgents' ELSE '[]' END
        ) WITH ORDINALITY AS child (ref, number)
        WHERE reached.depth < :depth AND child.number <= 100
    ), found AS (
        SELECT unnest(CAST(:requested AS text[])) AS full_id
        UNION SELECT full_id FROM (SELECT full_id FROM reached LIMIT 300) AS first
    )
    SELECT found.full_id, config.id,
        coalesce(nullif(config.data ->> 'displayName', ''), nullif(config.data ->> 'name', ''), config.id) AS name,
        config.data ->> 'spawnerPrompt' AS prompt,
        config.data -> 'spawnableAgents' AS spawnable,
        {_TAKEN_DOWN} AS taken_down
    FROM found
    LEFT JOIN agent_config AS config ON config.publisher_id = split_part(found.full_id, '/', 1)
        AND config.id = split_part(split_part(found.full_id, '/', 2), '@', 1)
        AND config.version = split_part(found.full_id, '@', 2)
    """  # noqa: S608
)


class BadReference(Exception):
    """A stored definition has a reference that is not `publisher/agent@version`."""


@dataclass(slots=True)
class DependencyNode:
    """An agent in the tree. `available` is false if it is not published, `taken_down`, or its own ancestor (`cyclic`). `spawns`
    is the number of its references, `left_out` the number omitted from the tree. In an outline, a `repeated` node has its
    children at its first occurrence."""

    full_id: str
    name: str
    prompt: str | None = None
    available: bool = True
    cyclic: bool = False
    spawns: int = 0
    children: list["DependencyNode"] = field(default_factory=list)
    left_out: int = 0
    repeated: bool = False
    taken_down: bool = False

    @property
    def publisher(self) -> str:
        return self.full_id.partition("/")[0]

    @property
    def agent(self) -> str:
        return self.full_id.partition("/")[2].partition("@")[0] or self.full_id

    @property
    def version(self) -> str:
        return self.full_id.rpartition("@")[2] if "@" in self.full_id else ""

    @property
    def state(self) -> str:
        """`open` (has its children), `missing`, `down` (taken down), `cyclic` or `above` (repeated)."""
        if self.taken_down:
            return "down"
        if not self.available:
            return "cyclic" if self.cyclic else "missing"
        return "above" if self.repeated else "open"


@dataclass(frozen=True, slots=True)
class DependencyTree:
    """`agents` is the number of distinct agents, `depth` the deepest level (the root is 0); `cut` if agents were omitted."""

    root: DependencyNode
    agents: int
    depth: int
    cyclic: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class Dependents:
    """The total number of dependents, and the most used ones with their latest versions."""

    total: int
    top: Sequence[FullReference]


@dataclass(frozen=True, slots=True)
class _Facts:
    name: str
    prompt: str | None
    spawnable: Sequence[Any]
    taken_down: bool


Known = dict[str, _Facts | None]
"""Facts by full id; None for agents that are not published."""
_Branch = tuple[DependencyNode, frozenset[str]]
"""A node to expand, and the ids on its path from the root, including its own."""


def tree_of(full_id: str, *, limit: int = MAX_NODES, strict: bool = True) -> DependencyTree:
    """The dependency tree of a published version: at most five levels and `limit` agents. One statement, and one per level
    that it did not cover.

    Raises BadReference for a malformed reference; without `strict` such a node is unavailable.
    """
    known = _facts([full_id], MAX_DEPTH)
    root = _node(full_id, frozenset(), known)
    level: list[_Branch] = [(root, frozenset({full_id}))]
    seen, depth, cyclic, cut, left = {full_id}, 0, False, False, limit - 1
    for parent_depth in range(MAX_DEPTH):
        expanded = [(branch, _references(known[branch[0].full_id], strict)) for branch in level]
        below: list[_Branch] = []
        missing = dict.fromkeys(each for _, names in expanded for each in names if each not in known)
        known |= _facts(list(missing)[:left], MAX_DEPTH - parent_depth - 1)
        for (node, ancestors), names in expanded:
            cut = cut or len(names) > left
            for each in names[:left]:
                child = _node(each, ancestors, known)
                node.children.append(child)
                seen.add(each)
                cyclic = cyclic or child.cyclic
                if child.available:
                    below.append((child, ancestors | {each}))
            node.left_out = len(names) - len(node.children)
            left = max(0, left - len(names))
        depth += any(names for _, names in expanded)
        level = below
        if not level:
            break
    return DependencyTree(root, len(seen), depth, cyclic, cut)


def outline_of(full_id: str, limit: int) -> DependencyNode:
    """The tree for display: each agent is expanded once, at its first occurrence, with at most `limit` descendants of the
    root. Statements as in `tree_of`."""
    root = tree_of(full_id, limit=MAX_OUTLINE_NODES, strict=False).root
    _prune(root, limit, set())
    return root


def dependents_of(publisher_id: str, agent_id: str, limit: int) -> Dependents:
    """The other agents whose latest version references any version of this one, the most used first. One statement on the
    search index that `catalogue.refresh` maintains."""
    named = cast(_name_of(publisher_id, agent_id), TSQUERY)
    rows = db.session.execute(
        select(Agent.publisher_id, Agent.id, Agent.latest_version, func.count().over().label("total"))
        .where(
            Agent.search.bool_op("@@")(named),
            Agent.latest_version.is_not(None),
            tuple_(Agent.publisher_id, Agent.id) != tuple_(publisher_id, agent_id),
        )
        .order_by(Agent.weekly_runs.desc(), Agent.publisher_id, Agent.id)
        .limit(limit)
    ).all()
    references = [FullReference(row.publisher_id, row.id, row.latest_version) for row in rows]
    return Dependents(rows[0].total if rows else 0, references)


def _name_of(publisher_id: str, agent_id: str) -> str:
    """The search term in `agent.search` of every agent that references this one."""
    whole = f"{publisher_id}/{agent_id}".replace("\\", "\\\\").replace("'", "''")
    return f"'@{whole}'"


def _node(full_id: str, ancestors: frozenset[str], known: Known) -> DependencyNode:
    facts = known.get(full_id) if REFERENCE.fullmatch(full_id) else None
    node = DependencyNode(full_id, full_id, available=False, cyclic=full_id in ancestors)
    node.name = node.agent
    if facts and facts.taken_down:
        node.taken_down = True
    elif facts and not node.cyclic:
        node.name, node.prompt, node.available = facts.name, facts.prompt, True
        node.spawns = len(facts.spawnable)
    return node


def _references(facts: _Facts | None, strict: bool) -> list[str]:
    names = facts.spawnable if facts else ()
    for each in names:
        if strict and not (isinstance(each, str) and REFERENCE.fullmatch(each)):
            raise BadReference(repr(each)[:200])
    return [str(each) for each in names]


def _prune(node: DependencyNode, room: int, expanded: set[str]) -> int:
    """Cut the tree to `room` descendants; returns the remaining room."""
    if not node.available:
        return room
    if node.spawns and node.full_id in expanded:
        node.repeated, node.children, node.left_out = True, [], 0
        return room
    expanded.add(node.full_id)
    node.left_out += len(node.children[room:])
    node.children = node.children[:room]
    room -= len(node.children)
    for child in node.children:
        room = _prune(child, room, expanded)
    return room


def _facts(full_ids: Iterable[str], levels: int) -> Known:
    requested = list(full_ids)
    if not requested:
        return {}
    return {
        row.full_id: _Facts(
            row.name, row.prompt, row.spawnable if isinstance(row.spawnable, list) else [], row.taken_down
        )
        if row.id is not None
        else None
        for row in db.session.execute(_REACHED, {"requested": requested, "depth": levels})
    }
