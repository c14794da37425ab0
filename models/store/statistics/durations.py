"""What the figures of an agent say: the median duration of its runs."""

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
"""Lower edges of the buckets 1 to 15 of `durations`; bucket 0 starts at nil and the last has no upper edge.

`store_bucket` in the database counts by the same; what was counted would lie if they changed.
"""

_BOUNDS = list(pairwise((0, *EDGES_MS)))


def median_duration_ms(durations: Sequence[int]) -> float | None:
    """How long half of the completed runs took at most, in ms, interpolated inside its bucket; None without a run.

    In the open last bucket its lower edge, two hours: what is known, and no more.
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
