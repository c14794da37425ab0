"""Latency histograms and quantiles."""

import bisect
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ledger.latency import BUCKETS, EDGES_MS, merge_histograms, quantile


def histogram(latencies: list[int]) -> list[int]:
    """The histogram that `width_bucket` produces."""
    counts = [0] * BUCKETS
    for latency in latencies:
        counts[bisect.bisect_right(EDGES_MS, latency)] += 1
    return counts


def test_edges_ascend_and_make_sixteen_buckets() -> None:
    assert list(EDGES_MS) == sorted(set(EDGES_MS))
    assert BUCKETS == 16


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile([0] * BUCKETS, 0.5) is None


@pytest.mark.parametrize("latency", [0, 1, 49, 50, 99, 100, 999, 1000, 79_999])
def test_a_single_call_lies_in_its_own_bucket(latency: int) -> None:
    counts = histogram([latency])
    index = counts.index(1)
    low, high = (0, *EDGES_MS)[index], EDGES_MS[index]
    for fraction in (0.0, 0.5, 0.95, 1.0):
        value = quantile(counts, fraction)
        assert value is not None
        assert low <= value <= high


def test_interpolation_inside_a_bucket() -> None:
    counts = [0] * BUCKETS
    counts[6] = 100
    assert quantile(counts, 0.5) == 875
    assert quantile(counts, 0.0) == 750
    assert quantile(counts, 1.0) == 1000


def test_the_open_bucket_returns_its_lower_edge() -> None:
    assert quantile(histogram([80_000, 900_000]), 0.95) == 80_000


def test_a_quantile_is_within_the_bucket_of_the_true_one() -> None:
    rng = random.Random(7)
    latencies = sorted(int(rng.lognormvariate(7, 1)) for _ in range(5000))
    counts = histogram(latencies)
    for fraction in (0.1, 0.5, 0.9, 0.95, 0.99):
        true = latencies[min(len(latencies) - 1, int(fraction * len(latencies)))]
        index = min(bisect.bisect_right(EDGES_MS, true), len(EDGES_MS) - 1)
        value = quantile(counts, fraction)
        assert value is not None
        assert (0, *EDGES_MS)[max(0, index - 1)] <= value <= EDGES_MS[min(index + 1, len(EDGES_MS) - 1)]


def test_quantiles_never_fall_as_the_fraction_grows() -> None:
    rng = random.Random(3)
    counts = [rng.randrange(50) for _ in range(BUCKETS)]
    values = [quantile(counts, step / 100) or 0 for step in range(101)]
    assert values == sorted(values)


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_stay_between_the_smallest_bucket_and_the_largest_latency(
    latencies: list[int], fraction: float
) -> None:
    lower = (0, *EDGES_MS)[bisect.bisect_right(EDGES_MS, min(latencies))]
    value = quantile(histogram(latencies), fraction, max(latencies))
    assert value is not None
    assert lower <= value <= max(latencies)


@pytest.mark.parametrize(
    ("latencies", "p50", "p95"),
    [
        ([279], 279, 279),
        ([279, 279], 239.5, 275.05),
        ([90_000], 90_000, 90_000),
        ([90_000] * 2, 85_000, 89_500),
    ],
)
def test_quantiles_of_few_calls(latencies: list[int], p50: float, p95: float) -> None:
    counts = histogram(latencies)
    assert quantile(counts, 0.5, max(latencies)) == pytest.approx(p50)
    assert quantile(counts, 0.95, max(latencies)) == pytest.approx(p95)


def test_merging_adds_bucket_by_bucket() -> None:
    assert merge_histograms([]) == [0] * BUCKETS
    assert merge_histograms([[1] * BUCKETS, list(range(BUCKETS))]) == list(range(1, BUCKETS + 1))
