"""How much depends on each part of a graph, by PageRank.

A power iteration of its own: rustworkx would bring numpy, some 60 MB, for fifteen lines that rank 10,000 files in half a second."""

import math
from collections.abc import Iterable, Mapping

from models.core.cooperative import TimeSlices

DAMPING, ROUNDS = 0.85, 30
BETWEEN_PAUSES = 64
"""Nodes of a round between looks at the clock."""
NEAR_ENOUGH = 1e-4
"""The largest change of a round, as a share of an average rank, after which it stops."""


def importances(nodes: Iterable[str], edges: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """From 0 to 100 for each node: 100 for what most depends on, directly or not, less 10 for each half of it. Whole numbers, so that a small
    change of the graph changes few of them."""
    names = sorted(nodes)
    if not names:
        return {}
    number = {name: at for at, name in enumerate(names)}
    # always in one order, as sums of fractions differ by it
    shares = [
        (number[source], _shares({number[target]: weight for target, weight in edges[source].items()}))
        for source in names
        if edges.get(source)
    ]
    sinks = sorted(set(range(len(names))).difference(source for source, _ in shares))
    rank = [1.0] * len(names)
    slices = TimeSlices()
    for _ in range(ROUNDS):
        lost = sum(rank[at] for at in sinks) / len(names)
        new = [1 - DAMPING + DAMPING * lost] * len(names)
        for source, targets in shares:
            flow = DAMPING * rank[source]
            for target, share in targets:
                new[target] += flow * share
            if source % BETWEEN_PAUSES == 0:
                slices.pause()
        done = max(abs(after - before) for after, before in zip(new, rank, strict=True)) < NEAR_ENOUGH
        rank = new
        if done:
            break
    top = max(rank)
    return {
        name: max(0, round(100 + 10 * math.log2(value / top)))
        for name, value in zip(names, rank, strict=True)
    }


def _shares(targets: Mapping[int, int]) -> list[tuple[int, float]]:
    """How a node divides its rank: by the square roots of weights, as ten imports do not mean ten times as much."""
    roots = [(target, math.sqrt(weight)) for target, weight in sorted(targets.items())]
    total = sum(root for _, root in roots)
    return [(target, root / total) for target, root in roots]
