"""Latency as a histogram that can be added up: the bucket edges every settlement writes by, and quantiles from them.

An average of averages lies and percentiles cannot be added; sixteen counts per rollup row can.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

EDGES_MS = (50, 100, 200, 350, 500, 750, 1000, 1500, 2500, 4000, 6000, 10000, 20000, 40000, 80000)
"""Lower edges of the buckets 1 to 15; bucket 0 starts at nil and the last has no upper edge.

`width_bucket(latency_ms, EDGES_MS)` in SQL gives the bucket's number. The rollups of the past were counted
by these edges: changing one makes them lie.
"""

BUCKETS = len(EDGES_MS) + 1

_BOUNDS = [(low, high) for low, high in pairwise((0, *EDGES_MS))]


def merged(histograms: Iterable[Sequence[int]]) -> list[int]:
    """The sum of histograms, bucket by bucket."""
    return list(map(sum, zip(*histograms, strict=True))) or [0] * BUCKETS


def quantile(histogram: Sequence[int], share: float) -> float | None:
    """The latency in ms under which `share` (0 to 1) of the calls stayed, interpolated inside its bucket.

    None when nothing was counted. A quantile in the open last bucket is given as its lower edge, 80 s:
    what is known, and no more.
    """
    calls = sum(histogram)
    if not calls:
        return None
    rank = share * calls
    before = 0
    for (low, high), count in zip(_BOUNDS, histogram, strict=False):
        if count and before + count >= rank:
            return low + (high - low) * max(0.0, rank - before) / count
        before += count
    return float(EDGES_MS[-1])
