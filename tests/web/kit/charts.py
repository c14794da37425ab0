"""Sample data for the charts of the kit."""

from datetime import UTC, datetime, timedelta
from typing import Any

from views.web.charts import (
    ChartSeries,
    SplitPart,
    TimelineSpan,
    line_chart,
    split_bar,
    stacked_chart,
    waterfall,
)

NOW = datetime(2026, 11, 20, 14, 2, 7, tzinfo=UTC)
MODELS = [
    "anthropic/claude-sonnet-4.5",
    "openai/gpt-5",
    "stoa/demo",
    "google/gemini-2.5-flash",
    "deepseek/deepseek-chat",
    "x/six",
    "x/seven",
    "x/eight",
    "x/nine",
]


def days(count: int) -> list[datetime]:
    today = NOW.replace(hour=0, minute=0, second=0)
    return [today - timedelta(days=back) for back in range(count - 1, -1, -1)]


def hours(count: int) -> list[datetime]:
    return [NOW.replace(minute=0, second=0) - timedelta(hours=back) for back in range(count - 1, -1, -1)]


def wave(index: int, size: int, seed: int) -> int:
    return 0 if (index * 7 + seed) % 11 == 0 else (index * 13 + seed * 29) % size


def sample_charts() -> dict[str, Any]:
    start = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)
    at = lambda seconds: start + timedelta(seconds=seconds)  # noqa: E731
    spans = [
        ("code-reviewer", TimelineSpan("run", at(0), None), 0),
        ("Step 1", TimelineSpan("step", at(0.1), at(6.9)), 1),
        ("anthropic/claude-sonnet-4.5", TimelineSpan("model", at(0.2), at(4.6), first_token=at(1)), 2),
        ("web_search", TimelineSpan("tool", at(4.7), at(6.8)), 2),
        ("security-check", TimelineSpan("run", at(13), at(21), failed=True), 2),
        ("openai/gpt-5", TimelineSpan("model", at(21), None, first_token=at(22)), 2),
    ]
    return {
        "balance": split_bar(
            [
                SplitPart("held", 42, "held"),
                SplitPart("free", 271, 6),
                SplitPart("granted", 400, 4),
                SplitPart("purchased", 3850, 1),
            ]
        ),
        "nothing": split_bar([]),
        "month": stacked_chart(
            days(30),
            [ChartSeries(name, [wave(i, 40 - 4 * n, n) for i in range(30)]) for n, name in enumerate(MODELS)],
            unit="credits",
            now=NOW,
        ),
        "day": stacked_chart(
            hours(24),
            [ChartSeries("Calls", [wave(i, 900, 3) for i in range(24)])],
            unit="calls",
            now=NOW,
            height=200,
        ),
        "week": stacked_chart(
            days(7),
            [
                ChartSeries("Input", [wave(i + 1, 900, 3) * 9000 for i in range(7)]),
                ChartSeries("Output", [wave(i + 1, 90, 5) * 9000 for i in range(7)]),
            ],
            unit="tokens",
            now=NOW,
            height=200,
        ),
        "bare": stacked_chart(days(7), [], unit="credits", now=NOW, height=200),
        "latency": line_chart(
            hours(24),
            [
                ChartSeries("Median", [None if i in (3, 4, 9) else 800 + wave(i, 500, 2) for i in range(24)]),
                ChartSeries(
                    "95th percentile",
                    [None if i in (3, 4, 9) else 2200 + wave(i, 2500, 2) for i in range(24)],
                ),
            ],
            unit="ms",
            now=NOW,
        ),
        "trace": waterfall([span for _, span, _ in spans], now=at(38.6)),
        "spans": spans,
    }
