"""Learned output sizes of holds: percentile, floor, cap, memory bounds."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.gateway.output_estimator import (
    CAP_OUTPUT,
    DEFAULT_OUTPUT,
    FLOOR_OUTPUT,
    MAX_WINDOWS,
    MIN_CALLS,
    WINDOW,
    CallWindow,
    OutputEstimator,
)

KEY, MODEL = "k" * 64, "openai/house-model"


def learned(*outputs: int, model: str = MODEL) -> OutputEstimator:
    estimator = OutputEstimator()
    for output in outputs:
        estimator.record(KEY, model, output, 1000)
    return estimator


def test_default_until_enough_calls_are_known() -> None:
    estimator = learned(*[1000] * (MIN_CALLS - 1))
    assert estimator.size(KEY, MODEL) == DEFAULT_OUTPUT
    assert estimator.typical_seconds(KEY, MODEL) is None
    estimator.record(KEY, MODEL, 1000, 1000)
    assert estimator.size(KEY, MODEL) == 1500
    assert estimator.typical_seconds(KEY, MODEL) == 1


@pytest.mark.parametrize(
    ("outputs", "size"),
    [
        ([0] * 20, FLOOR_OUTPUT),
        ([-5] * 20, FLOOR_OUTPUT),
        ([10**15] * 20, CAP_OUTPUT),
        # the largest of twenty is above p95, the two largest of twenty are not
        ([1000] * 19 + [9000], 1500),
        ([1000] * 18 + [9000] * 2, 13_500),
        ([1001] * 20, 1502),
    ],
)
def test_size_is_p95_with_headroom_between_floor_and_cap(outputs: list[int], size: int) -> None:
    assert learned(*outputs).size(KEY, MODEL) == size


def test_old_calls_are_forgotten() -> None:
    estimator = learned(*[20_000] * 50, *[1000] * WINDOW)
    assert estimator.size(KEY, MODEL) == 1500


def test_keys_and_models_are_separate() -> None:
    estimator = learned(*[1000] * MIN_CALLS)
    assert estimator.size("other", MODEL) == DEFAULT_OUTPUT
    assert estimator.size(KEY, "other") == DEFAULT_OUTPUT


def test_models_with_unsent_reasoning_hold_the_default_at_least() -> None:
    estimator = learned(*[100] * MIN_CALLS)
    estimator.record("other", MODEL, 100, 1000, unsent_reasoning=True)
    assert estimator.size(KEY, MODEL) == DEFAULT_OUTPUT
    for _ in range(WINDOW):
        estimator.record(KEY, MODEL, 10_000, 1000)
    assert estimator.size(KEY, MODEL) == 15_000


def test_memory_is_bounded() -> None:
    estimator = OutputEstimator()
    for number in range(MAX_WINDOWS + 1):
        for _ in range(MIN_CALLS):
            estimator.record(KEY, f"model-{number}", 1000, 1000, unsent_reasoning=True)
        estimator.record(KEY, "model-0", 1000, 1000)
    assert len(estimator._windows) == MAX_WINDOWS
    assert estimator.size(KEY, "model-0") != DEFAULT_OUTPUT or "model-0" in estimator._reasoning_models
    assert estimator.typical_seconds(KEY, "model-1") is None
    assert estimator.typical_seconds(KEY, "model-0") == 1


@given(st.lists(st.integers(0, 2 * CAP_OUTPUT), min_size=1, max_size=3 * WINDOW))
def test_window_equals_the_percentile_of_its_latest_calls(outputs: list[int]) -> None:
    window = CallWindow()
    for output in outputs:
        window.add(output, output)
    latest = sorted(outputs[-WINDOW:])
    if len(outputs) < MIN_CALLS:
        assert window.size is None
    else:
        p95 = latest[ceil(len(latest) * 95 / 100) - 1]
        assert window.size == ceil(p95 * 3 / 2)
        # at most one call in twenty is above p95
        assert sum(output > p95 for output in latest) * 20 <= len(latest)
    assert window.median_seconds() == latest[(len(latest) - 1) // 2] / 1000


@given(st.lists(st.integers(-10, 10**9), max_size=60), st.integers(0, 10**9))
def test_a_size_stays_within_its_bounds_and_never_falls_with_a_longer_answer(
    outputs: list[int], longer: int
) -> None:
    estimator = learned(*outputs)
    size = estimator.size(KEY, MODEL)
    assert FLOOR_OUTPUT <= size <= CAP_OUTPUT
    if MIN_CALLS <= len(outputs) < WINDOW:
        grown = learned(*outputs, max([longer, *outputs]))
        assert grown.size(KEY, MODEL) >= size
