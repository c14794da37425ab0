"""What an agent may spawn, what those may spawn, and so on: a tree by the rules of contract 2.6."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from models.db import Database
from models.store.reading import version_of

DEEPEST = 5
MOST_NODES = 2_000
"""A tree is cut at so many agents: what each spawns can multiply with every level."""

REFERENCE = re.compile(r"([^/@\s]+)/([^/@\s]+)@([^/@\s]+)")

_NAMED = text(
    """
    SELECT config.publisher_id, config.id, config.version,
        coalesce(nullif(config.data ->> 'displayName', ''), nullif(config.data ->> 'name', ''), config.id) AS name,
        config.data ->> 'spawnerPrompt' AS prompt,
        config.data -> 'spawnableAgents' AS spawnable
    FROM unnest(CAST(:publishers AS text[]), CAST(:ids AS text[]), CAST(:versions AS text[]))
        AS asked (publisher_id, id, version)
    JOIN agent_config AS config USING (publisher_id, id, version)
    """
)


class BadReference(Exception):
    """A stored definition names an agent otherwise than `publisher/agent@version`."""


@dataclass(slots=True)
class Node:
    """An agent in the tree. `available` is false for one that is not published, and where a branch returns to an
    agent above it (`cyclic`)."""

    publisher: str
    agent_id: str
    version: str
    name: str
    prompt: str | None = None
    available: bool = True
    cyclic: bool = False
    children: list["Node"] = field(default_factory=list)

    @property
    def full_id(self) -> str:
        """`publisher/agent@version`."""
        return f"{self.publisher}/{self.agent_id}@{self.version}"


@dataclass(frozen=True, slots=True)
class Tree:
    """`agents` counts distinct ones, `depth` is the deepest level (the root is 0). `cut`: it was too large, and
    agents were left out."""

    root: Node
    agents: int
    depth: int
    cyclic: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class _Facts:
    name: str
    prompt: str | None
    spawnable: Sequence[Any]


Place = tuple[Node, frozenset[str]]
"""A node whose children are still to be found, and the ids on its way from the root, its own among them."""


def tree_of(database: Database, publisher_id: str, agent_id: str, version: str) -> Tree:
    """The tree below a published version: at most five levels and `MOST_NODES` agents, one statement for each level.

    Raises NotFound as `version_of` does, and BadReference for a definition that cannot be followed.
    """
    found = version_of(database, publisher_id, agent_id, version)
    root = Node(found.publisher_id, found.id, found.version, found.id)
    known = _facts(database, [root.full_id])
    _fill(root, known)
    level: list[Place] = [(root, frozenset({root.full_id}))]
    seen, depth, cyclic, cut, left = {root.full_id}, 0, False, False, MOST_NODES - 1
    for _ in range(DEEPEST):
        wanted = [(place, list(_references(known[place[0].full_id]))) for place in level]
        below: list[Place] = []
        missing = dict.fromkeys(each for _, names in wanted for each in names if each not in known)
        known |= _facts(database, list(missing)[: left + 1])
        for (node, above), names in wanted:
            cut = cut or len(names) > left
            for each in names[:left]:
                child = _child(each, above, known)
                node.children.append(child)
                seen.add(each)
                cyclic = cyclic or child.cyclic
                if child.available:
                    below.append((child, above | {each}))
            left = max(0, left - len(names))
        depth += any(names for _, names in wanted)
        level = below
        if not level:
            break
    return Tree(root, len(seen), depth, cyclic, cut)


def _child(full_id: str, above: frozenset[str], known: dict[str, _Facts]) -> Node:
    publisher, agent_id, version = _parts(full_id)
    child = Node(publisher, agent_id, version, agent_id)
    if full_id in above:
        child.available, child.cyclic = False, True
    elif full_id in known:
        _fill(child, known)
    else:
        child.available = False
    return child


def _fill(node: Node, known: dict[str, _Facts]) -> None:
    facts = known[node.full_id]
    node.name, node.prompt = facts.name, facts.prompt


def _references(facts: _Facts) -> Iterator[str]:
    for each in facts.spawnable:
        if not isinstance(each, str) or not REFERENCE.fullmatch(each) or "\x00" in each:
            raise BadReference(repr(each)[:200])
        yield each


def _parts(full_id: str) -> tuple[str, str, str]:
    found = REFERENCE.fullmatch(full_id)
    assert found is not None
    return found[1], found[2], found[3]


def _facts(database: Database, full_ids: Iterable[str]) -> dict[str, _Facts]:
    names = [_parts(each) for each in full_ids]
    if not names:
        return {}
    publishers, ids, versions = (list(column) for column in zip(*names, strict=True))
    rows = database.execute(_NAMED, {"publishers": publishers, "ids": ids, "versions": versions})
    return {
        f"{row.publisher_id}/{row.id}@{row.version}": _Facts(
            row.name, row.prompt, row.spawnable if isinstance(row.spawnable, list) else []
        )
        for row in rows
    }
