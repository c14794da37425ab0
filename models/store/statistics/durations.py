"""The median duration of an agent's runs, from its histogram."""

from collections.abc import Sequence
from itertools import pairwise

EDGES_MS = (
    250,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    40_000,
    60_000,
    120_000,
    300_000,
    600_000,
    1_200_000,
    3_600_000,
    7_200_000,
)
"""Lower edges of the buckets 1 to 15 of `durations`; bucket 0 starts at zero, the last has no upper edge.

Must match `store_bucket` in the database. Changing them would invalidate existing histograms.
"""

_BOUNDS = list(pairwise((0, *EDGES_MS)))


def median_duration_ms(durations: Sequence[int]) -> float | None:
    """The median (p50) duration of completed runs in ms, interpolated within its bucket; None without runs.

    In the last bucket, which is open, its lower edge of two hours.
    """
    half = sum(durations) / 2
    if not half:
        return None
    before = 0
    for (low, high), count in zip(_BOUNDS, durations, strict=False):
        if count and before + count >= half:
            return low + (high - low) * (half - before) / count
        before += count
    return float(EDGES_MS[-1])
