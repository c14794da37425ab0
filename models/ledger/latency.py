"""Latency histograms: the bucket edges used by every settlement, merging, and quantiles.

Rollups store sixteen bucket counts per row because histograms can be added, unlike averages and percentiles.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import inf

EDGES_MS = (50, 100, 200, 350, 500, 750, 1000, 1500, 2500, 4000, 6000, 10000, 20000, 40000, 80000)
"""Lower edges of buckets 1 to 15; bucket 0 starts at zero and the last bucket is open-ended.

The bucket number in SQL is `width_bucket(latency_ms, EDGES_MS)`. Never change an edge: stored rollups depend on it.
"""

BUCKETS = len(EDGES_MS) + 1

_BOUNDS = [(low, high) for low, high in pairwise((0, *EDGES_MS, inf))]


def merge_histograms(histograms: Iterable[Sequence[int]]) -> list[int]:
    """Add histograms bucket by bucket."""
    return list(map(sum, zip(*histograms, strict=True))) or [0] * BUCKETS


def quantile(histogram: Sequence[int], fraction: float, largest: int = 0) -> float | None:
    """The latency in ms below which `fraction` (0 to 1) of the calls fall, interpolated within its bucket.

    `largest` is the largest latency in the histogram, which no quantile exceeds; 0 if it is unknown. The smallest is not stored: no
    quantile is below the lower edge of its bucket. None for an empty histogram. In the open-ended last bucket it is the lower edge,
    80 s, if the largest is unknown.
    """
    calls = sum(histogram)
    if not calls:
        return None
    if calls == 1 and largest:
        return float(largest)
    rank = fraction * calls
    before = 0
    for (low, high), count in zip(_BOUNDS, histogram, strict=True):
        if count and before + count >= rank:
            top = min(high, max(low, largest)) if largest or high == inf else high
            return min(low + (top - low) * max(0.0, rank - before) / count, top)
        before += count
    return float(largest or EDGES_MS[-1])
