"""Chart geometry: totals add up, scales are round, everything stays inside the plot."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from tests.web.kit.charts import NOW, days, hours
from views.web import charts
from views.web.charts import (
    OTHER,
    ChartSeries,
    SplitPart,
    TimelineSpan,
    line_chart,
    palette,
    split_bar,
    stacked_chart,
    waterfall,
)

amounts = st.integers(min_value=0, max_value=10**12)


def test_columns_hold_what_the_table_says() -> None:
    chart = stacked_chart(
        days(3), [ChartSeries("b", [1, 0, 3]), ChartSeries("a", [10, 20, 30])], unit="credits", now=NOW
    )
    assert [key.name for key in chart.legend] == ["a", "b"]
    assert [key.total for key in chart.legend] == ["60", "4"]
    assert [column.cells for column in chart.columns] == [["10", "1"], ["20", "0"], ["30", "3"]]
    assert [column.total for column in chart.columns] == ["11", "20", "33"]
    assert chart.total == "64"
    assert [column.now for column in chart.columns] == [False, False, True]
    assert chart.columns[-1].name == "Today"
    assert chart.columns[-1].long_name == "Fri 20 Nov"


def test_segments_stand_on_each_other_from_the_base() -> None:
    chart = stacked_chart(days(1), [ChartSeries("a", [50]), ChartSeries("b", [25])], unit="credits", now=NOW)
    lower, upper = chart.columns[0].segments
    assert lower.y + lower.height == pytest.approx(chart.base)
    assert upper.y + upper.height == pytest.approx(lower.y)
    assert lower.height == pytest.approx(2 * upper.height)


def test_more_than_seven_series_become_other_without_losing_a_credit() -> None:
    many = [ChartSeries(f"m{n}", [n, n]) for n in range(1, 12)]
    chart = stacked_chart(days(2), many, unit="credits", now=NOW)
    assert [key.name for key in chart.legend] == ["m11", "m10", "m9", "m8", "m7", "m6", "m5", "Other"]
    assert chart.legend[-1].colour == OTHER
    assert chart.legend[-1].total == str(2 * (1 + 2 + 3 + 4))
    assert chart.total == str(2 * sum(range(1, 12)))


def test_series_keeps_its_colour_when_another_leads() -> None:
    colours = palette(["steady", "rising"])
    chart = stacked_chart(
        days(1),
        [ChartSeries("steady", [1]), ChartSeries("rising", [9]), ChartSeries("new", [5])],
        unit="credits",
        now=NOW,
        palette=colours,
    )
    assert [(key.colour, key.name) for key in chart.legend] == [(1, "steady"), (2, "rising"), (3, "new")]


def test_small_use_is_still_seen() -> None:
    chart = stacked_chart(days(2), [ChartSeries("a", [1, 1_000_000])], unit="credits", now=NOW)
    assert chart.columns[0].segments[0].height == 2


def test_empty_range_keeps_its_columns() -> None:
    chart = stacked_chart(days(7), [], unit="credits", now=NOW)
    assert chart.empty
    assert len(chart.columns) == 7
    assert chart.total == "0"
    assert len(chart.ticks) == 4


def test_past_range_has_no_lit_column() -> None:
    past = [day - timedelta(days=60) for day in days(5)]
    chart = stacked_chart(past, [ChartSeries("a", [1] * 5)], unit="calls", now=NOW)
    assert not any(column.now for column in chart.columns)
    assert chart.columns[-1].name == "21 Sep"


def test_hours_are_named_by_the_clock() -> None:
    chart = stacked_chart(hours(24), [ChartSeries("a", [1] * 24)], unit="calls", now=NOW)
    assert chart.grain == "hour"
    assert chart.columns[-1].name == "Now"
    assert chart.columns[-2].name == "13:00"
    assert chart.columns[-15].name == "20 Nov"
    assert chart.columns[0].long_name == "Thu 19 Nov, 15:00"


def test_uneven_series_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values for 3 buckets"):
        stacked_chart(days(3), [ChartSeries("a", [1, 2])], unit="credits", now=NOW)


@given(amounts)
def test_scale_is_round_from_three_to_five_steps_and_holds_the_biggest(biggest: int) -> None:
    top, steps = charts._scale(Decimal(biggest), whole=True)
    assert 3 <= steps <= 5
    assert top >= biggest
    step = top / steps
    assert step == step.to_integral_value()
    assert re.fullmatch(r"(1|2|25|3|4|5)0*", str(int(step)))
    if biggest > 3:
        assert top <= biggest * 2


@given(st.decimals(min_value="0.000001", max_value="1000", places=6))
def test_scale_of_dollars_holds_the_biggest(biggest: Decimal) -> None:
    top, steps = charts._scale(biggest, whole=False)
    assert 3 <= steps <= 5
    assert biggest <= top <= biggest * 3


@given(st.lists(st.lists(amounts, min_size=4, max_size=4), max_size=12))
def test_nothing_leaves_the_box_and_sums_agree(rows: list[list[int]]) -> None:
    chart = stacked_chart(
        days(4), [ChartSeries(f"s{n}", row) for n, row in enumerate(rows)], unit="credits", now=NOW
    )
    assert chart.total == f"{sum(map(sum, rows)):,}"
    assert len(chart.legend) <= 8
    for column in chart.columns:
        assert 0 <= column.x <= column.x + column.width <= 100
        for segment in column.segments:
            assert charts.TOP - 0.1 <= segment.y <= chart.base
            assert segment.y + segment.height <= chart.base + 0.1


@pytest.mark.parametrize(
    ("value", "top", "unit", "label"),
    [
        (1500, 6000, "calls", "1.5k"),
        (500, 1500, "calls", "500"),
        (2_500_000, 10_000_000, "tokens", "2.5M"),
        (250, 750, "ms", "250 ms"),
        (500, 2000, "ms", "0.5 s"),
        (Decimal("0.02"), Decimal("0.06"), "usd", "$0.02"),
        (0, 5, "credits", "0"),
    ],
)
def test_labels_of_the_scale(value: Decimal, top: Decimal, unit: charts.Unit, label: str) -> None:
    assert charts._axis_label(Decimal(value), Decimal(top), unit) == label


def test_line_breaks_where_nothing_was_measured() -> None:
    chart = line_chart(days(5), [ChartSeries("Median", [100, 200, None, 400, None])], unit="ms", now=NOW)
    (line,) = chart.lines
    assert line.path.count("M") == 2
    assert line.path.count("L") == 1
    assert len(line.dots) == 1
    assert [column.cells for column in chart.columns] == [["100 ms"], ["200 ms"], ["–"], ["400 ms"], ["–"]]
    assert chart.total == ""


def test_split_bar_leaves_out_debts_and_says_what_it_shows() -> None:
    split = split_bar(
        [
            SplitPart("held", 10, "held"),
            SplitPart("free", 30, 6),
            SplitPart("debt", -5, 5),
            SplitPart("none", 0, 1),
        ]
    )
    assert [(piece.x, piece.width) for piece in split.slices] == [(0, 25), (25, 75)]
    assert split.label == "Of 40: held 10, free 30"
    assert split_bar([]).slices == []


START = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_waterfall_places_spans_on_one_axis() -> None:
    fall = waterfall(
        [
            TimelineSpan("run", at(0), at(40)),
            TimelineSpan("model", at(10), at(20), first_token=at(12)),
            TimelineSpan("tool", at(20), at(20)),
        ],
        now=at(100),
    )
    assert [(tick.x, tick.text) for tick in fall.ticks] == [
        (0, "0 s"),
        (25, "10 s"),
        (50, "20 s"),
        (75, "30 s"),
    ]
    assert fall.length == "40.0 s"
    run, model, tool = fall.rows
    assert (run[0].css, run[0].x, run[0].width) == ("span-run", 0, 100)
    assert [(bar.css, bar.x, bar.width) for bar in model] == [("span-wait", 25, 5), ("span-model", 30, 20)]
    assert tool[0].width == 0.25


def test_open_span_reaches_to_now_and_failed_one_is_told() -> None:
    fall = waterfall(
        [TimelineSpan("run", at(0), None), TimelineSpan("model", at(0), at(5), failed=True)], now=at(10)
    )
    assert fall.rows[0][0].css == "span-open"
    assert fall.rows[0][0].width == 100
    assert fall.rows[1][0].css == "span-bad"


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (0.4, ["0 ms", "100 ms", "200 ms", "300 ms"]),
        (2.0, ["0 s", "0.5 s", "1 s", "1.5 s"]),
        (200, ["0 min", "1 min", "2 min"]),
        (240, ["0 min", "1 min", "2 min", "3 min"]),
        (7200, ["0 min", "30 min", "60 min", "90 min"]),
    ],
)
def test_labels_of_the_time_axis(seconds: float, labels: list[str]) -> None:
    fall = waterfall([TimelineSpan("run", at(0), at(seconds))], now=at(seconds))
    assert [tick.text for tick in fall.ticks if tick.text] == labels


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_bars_stay_on_the_axis(pairs: list[tuple[float, float]]) -> None:
    spans = [TimelineSpan("tool", at(start), at(start + length)) for start, length in pairs]
    fall = waterfall(spans, now=at(0))
    assert len(fall.ticks) <= 6
    for row in fall.rows:
        for bar in row:
            assert 0 <= bar.x <= bar.x + bar.width <= 100.01


def test_chart_is_drawn_with_its_table_in_the_same_fragment(browser: FlaskClient) -> None:
    page = browser.get("/kit-charts?as=alice").text
    assert 'data-table="spent-t"' in page
    assert 'id="spent-t"' in page
    assert page.count('class="col-track col-track--now"') == 5
    assert "Nothing was spent in these 7 days." in page
    assert 'style="' not in page
