"""The buckets of the histograms of durations that `agent` and `agent_version` keep. Pages show `agent_costs` instead, which is
exact."""

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
