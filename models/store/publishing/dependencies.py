"""What an agent may spawn, what those may spawn, and so on: a tree by the rules of contract 2.6. And who may spawn it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import cast, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import TSQUERY

from models.core.db import db
from models.store.publishing.spawning import FullReference
from models.store.tables import Agent

DEEPEST = 5
MOST_NODES = 2_000
"""A tree is cut at so many agents: what each spawns can multiply with every level."""

MOST_OUTLINED = 300
"""Of which as many are looked at for an outline."""

REFERENCE = re.compile(r"([^/@\s]+)/([^/@\s]+)@([^/@\s]+)")


# What `_facts` reads: agents asked for, and what can be reached from them in so many levels as far as it is not too much.
# Mostly that is the whole tree. What is taken down says so and is not followed.
_TAKEN_DOWN = """EXISTS (
        SELECT FROM takedown AS down WHERE down.publisher_id = config.publisher_id
            AND down.agent_id IN ('', config.id) AND down.version IN ('', config.version)
    )"""
_REACHED = text(
    f"""
    WITH RECURSIVE reached (full_id, depth) AS (
        SELECT asked, 0 FROM unnest(CAST(:asked AS text[])) AS asked
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
        SELECT unnest(CAST(:asked AS text[])) AS full_id
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
    """A stored definition names an agent otherwise than `publisher/agent@version`."""


@dataclass(slots=True)
class DependencyNode:
    """An agent in the tree. `available` is false for one that is not published or `taken_down`, and where a branch returns to an
    agent above it (`cyclic`). `spawns` is how many agents it names, `left_out` how many of them the tree leaves out;
    in an outline the children of one that is `repeated` stand where it came first."""

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
        """`open` (its children follow), `missing`, `down` (taken down), `cyclic` or `above` (its children stand where it
        came first)."""
        if self.taken_down:
            return "down"
        if not self.available:
            return "cyclic" if self.cyclic else "missing"
        return "above" if self.repeated else "open"


@dataclass(frozen=True, slots=True)
class DependencyTree:
    """`agents` counts distinct ones, `depth` is the deepest level (the root is 0). `cut`: it was too large, and
    agents were left out."""

    root: DependencyNode
    agents: int
    depth: int
    cyclic: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class Dependents:
    """How many agents there are in all, and those that are used most, with their latest versions."""

    number: int
    shown: Sequence[FullReference]


@dataclass(frozen=True, slots=True)
class _Facts:
    name: str
    prompt: str | None
    spawnable: Sequence[Any]
    taken_down: bool


Known = dict[str, _Facts | None]
"""Agents by their full ids; None for those that are not here."""
_Spot = tuple[DependencyNode, frozenset[str]]
"""A node whose children are still to be found, and the ids on its way from the root, its own among them."""


def tree_of(full_id: str, *, most: int = MOST_NODES, strict: bool = True) -> DependencyTree:
    """The tree below a published version: at most five levels and `most` agents. One statement; one more for a level that
    it left something of.

    Raises BadReference for a definition that cannot be followed; without `strict` what cannot be is not available.
    """
    known = _facts([full_id], DEEPEST)
    root = _node(full_id, frozenset(), known)
    level: list[_Spot] = [(root, frozenset({full_id}))]
    seen, depth, cyclic, cut, left = {full_id}, 0, False, False, most - 1
    for above_it in range(DEEPEST):
        wanted = [(spot, _references(known[spot[0].full_id], strict)) for spot in level]
        below: list[_Spot] = []
        missing = dict.fromkeys(each for _, names in wanted for each in names if each not in known)
        known |= _facts(list(missing)[:left], DEEPEST - above_it - 1)
        for (node, above), names in wanted:
            cut = cut or len(names) > left
            for each in names[:left]:
                child = _node(each, above, known)
                node.children.append(child)
                seen.add(each)
                cyclic = cyclic or child.cyclic
                if child.available:
                    below.append((child, above | {each}))
            node.left_out = len(names) - len(node.children)
            left = max(0, left - len(names))
        depth += any(names for _, names in wanted)
        level = below
        if not level:
            break
    return DependencyTree(root, len(seen), depth, cyclic, cut)


def outline_of(full_id: str, most: int) -> DependencyNode:
    """The tree as people read it: each agent is opened once, where it comes first, and `most` stand below the root.
    Statements as in `tree_of`."""
    root = tree_of(full_id, most=MOST_OUTLINED, strict=False).root
    _thin_out(root, most, set())
    return root


def dependents_of(publisher_id: str, agent_id: str, most: int) -> Dependents:
    """The other agents whose latest version may spawn any version of this one, the most used first. One statement, which
    asks what `catalogue.refresh` keeps."""
    named = cast(_name_of(publisher_id, agent_id), TSQUERY)
    rows = db.session.execute(
        select(Agent.publisher_id, Agent.id, Agent.latest_version, func.count().over().label("number"))
        .where(
            Agent.search.bool_op("@@")(named),
            Agent.latest_version.is_not(None),
            tuple_(Agent.publisher_id, Agent.id) != tuple_(publisher_id, agent_id),
        )
        .order_by(Agent.weekly_runs.desc(), Agent.publisher_id, Agent.id)
        .limit(most)
    ).all()
    places = [FullReference(row.publisher_id, row.id, row.latest_version) for row in rows]
    return Dependents(rows[0].number if rows else 0, places)


def _name_of(publisher_id: str, agent_id: str) -> str:
    """What every row of an agent that spawns this one has in its words."""
    whole = f"{publisher_id}/{agent_id}".replace("\\", "\\\\").replace("'", "''")
    return f"'@{whole}'"


def _node(full_id: str, above: frozenset[str], known: Known) -> DependencyNode:
    facts = known.get(full_id) if REFERENCE.fullmatch(full_id) else None
    node = DependencyNode(full_id, full_id, available=False, cyclic=full_id in above)
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


def _thin_out(node: DependencyNode, room: int, opened: set[str]) -> int:
    """What is left of the room."""
    if not node.available:
        return room
    if node.spawns and node.full_id in opened:
        node.repeated, node.children, node.left_out = True, [], 0
        return room
    opened.add(node.full_id)
    node.left_out += len(node.children[room:])
    node.children = node.children[:room]
    room -= len(node.children)
    for child in node.children:
        room = _thin_out(child, room, opened)
    return room


def _facts(full_ids: Iterable[str], levels: int) -> Known:
    asked = list(full_ids)
    if not asked:
        return {}
    return {
        row.full_id: _Facts(
            row.name, row.prompt, row.spawnable if isinstance(row.spawnable, list) else [], row.taken_down
        )
        if row.id is not None
        else None
        for row in db.session.execute(_REACHED, {"asked": asked, "depth": levels})
    }
