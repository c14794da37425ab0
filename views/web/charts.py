"""Chart geometry: columns, lines, split bars and timelines, in percent and pixels. Templates render the SVG.

Widths and x are percentages of the available width, heights and y are pixels, so charts fit every screen without distorting
text. Templates: `components/chart.html` and `components/trace.html`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil, floor, log10
from typing import Literal, NamedTuple

from views.web import format

Number = int | float | Decimal
Unit = Literal["credits", "calls", "tokens", "ms", "usd", "percent", "number"]
Grain = Literal["hour", "day", "week"]

SIZES = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}

MAX_SERIES = 7
OTHER = 8
TOP = 10
FOOT = 24

FORMATS: dict[Unit, Callable[[Number | None], str]] = {
    "credits": format.credits,
    "calls": format.credits,
    "tokens": lambda value: format.tokens(None if value is None else int(value)),
    "ms": lambda value: format.duration_ms(None if value is None else float(value)),
    "usd": lambda value: format.usd(None if value is None else Decimal(value)),
    "percent": lambda value: format.percent(None if value is None else float(value)),
    "number": lambda value: format.number(None if value is None else float(value)),
}

FRACTIONS = ("usd", "percent", "number")
"""Units of which the scale may have fractions."""


# --- input


@dataclass(frozen=True)
class ChartSeries:
    """A named series with one value per bucket, in order; None for no measurement (line charts only)."""

    name: str
    values: Sequence[Number | None]


# --- output


class Segment(NamedTuple):
    """A rectangle of a series in a column: colour 1 to 8, y and height in pixels."""

    colour: int
    y: float
    height: float


class Column(NamedTuple):
    """One bucket: x and width in percent, labels, segments, and its row of the table."""

    x: float
    width: float
    now: bool
    name: str
    long_name: str
    segments: list[Segment]
    cells: list[str]
    total: str
    zeros: list[bool]
    before: str = ""

    @property
    def values(self) -> Iterator[tuple[str, bool]]:
        """The cells of its row, and whether each is zero."""
        return zip(self.cells, self.zeros, strict=True)


@dataclass(frozen=True)
class AxisLabel:
    """A label of the x axis; `fine` ones are hidden on narrow screens."""

    x: float
    anchor: str
    text: str
    fine: bool


@dataclass(frozen=True)
class AxisTick:
    """A tick of the y axis: y in pixels, and its label."""

    y: float
    text: str


@dataclass(frozen=True)
class LegendEntry:
    """A legend entry, in stack order: colour, name, formatted total."""

    colour: int
    name: str
    total: str


@dataclass(frozen=True)
class ChartLine:
    """One series as an SVG path in a box 1000 wide and `Chart.base` high, and isolated points (percent, pixels)."""

    colour: int
    path: str
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """The view model of `components/chart.html`. `total` is the formatted sum of all values; empty for lines."""

    kind: Literal["columns", "line"]
    unit: Unit
    grain: Grain
    height: int
    columns: list[Column]
    ticks: list[AxisTick]
    labels: list[AxisLabel]
    legend: list[LegendEntry]
    total: str
    empty: bool
    fill: float
    zone: str
    """Of the times in its table."""
    lines: list[ChartLine] = field(default_factory=list)
    before: ChartLine | None = None
    """The totals of the period before; colour 0."""

    @property
    def base(self) -> int:
        """The baseline, in pixels from the top."""
        return self.height - FOOT

    @property
    def joints(self) -> list[float]:
        """The y of all ticks except the first and last."""
        return [tick.y for tick in self.ticks[1:-1]]


# --- charts


def stacked_chart(
    buckets: Sequence[datetime],
    series: Sequence[ChartSeries],
    *,
    unit: Unit,
    now: datetime,
    grain: Grain | None = None,
    palette: Mapping[str, int] | None = None,
    height: int = 250,
    before: Sequence[Number | None] = (),
) -> Chart:
    """A stacked column chart, for sums over time.

    buckets: start of each period, aware, in order, without gaps, at most about 120.
    series: any number, in any order. The seven largest are shown, the rest is summed as "Other".
    unit: unit and format of the values. now: its period is highlighted and labelled "Today" or "Now".
    grain: bucket size; default: from the first two buckets.
    palette: name -> colour, from `palette()`, so that a series keeps its colour across ranges.
    before: the totals of the period before, by column; drawn as a faint line.
    """
    grain = grain or _grain(buckets)
    ranked = _ranked(series, len(buckets), palette)
    stacks = list(zip(*(values for _, _, values in ranked), strict=True)) or [()] * len(buckets)
    sums = [sum(stack) for stack in stacks]
    base = height - FOOT
    largest = max([*sums, *(value for value in before if value is not None)], default=0)
    top, steps = _scale(Decimal(largest), whole=unit not in FRACTIONS)
    write = FORMATS[unit]
    fill = _fill(len(buckets))
    colours = [colour for colour, _, _ in ranked]
    columns = []
    for i, (bucket, stack, total) in enumerate(zip(buckets, stacks, sums, strict=True)):
        x, width = _track(i, len(buckets), fill)
        is_now, name, long_name = _names(bucket, grain, now)
        columns.append(
            Column(
                x=x,
                width=width,
                now=is_now,
                name=name,
                long_name=long_name,
                segments=_stack(zip(colours, stack, strict=True), float(top), base) if total else [],
                cells=[write(value) for value in stack],
                zeros=[not value for value in stack],
                total=write(total),
                before=_before_text(before, i, write),
            )
        )
    return Chart(
        kind="columns",
        unit=unit,
        grain=grain,
        height=height,
        columns=columns,
        ticks=_ticks(top, steps, base, unit),
        labels=_labels(columns, grain),
        legend=[LegendEntry(colour, name, write(sum(values))) for colour, name, values in ranked],
        total=write(sum(sums)),
        empty=not any(sums),
        fill=fill,
        zone=_zone(buckets),
        before=_line(0, before, top, base) if before else None,
    )


def line_chart(
    buckets: Sequence[datetime],
    series: Sequence[ChartSeries],
    *,
    unit: Unit,
    now: datetime,
    grain: Grain | None = None,
    palette: Mapping[str, int] | None = None,
    height: int = 200,
    before: Sequence[Number | None] = (),
) -> Chart:
    """A line chart of at most seven series, for latencies and rates.

    None interrupts the line. Buckets, unit, now, grain, palette and before as in `stacked_chart`. Raises ValueError for more series.
    """
    if len(series) > MAX_SERIES:
        raise ValueError(f"a line chart shows at most {MAX_SERIES} series")
    grain = grain or _grain(buckets)
    base = height - FOOT
    measured = [Decimal(value) for one in series for value in one.values if value is not None]
    earlier = [Decimal(value) for value in before if value is not None]
    top, steps = _scale(max([*measured, *earlier], default=Decimal(0)), whole=unit not in FRACTIONS)
    colours = palette or {}
    drawn = [(colours.get(one.name, n), one) for n, one in enumerate(series, 1)]
    write = FORMATS[unit]
    columns = []
    for i, bucket in enumerate(buckets):
        x, width = _track(i, len(buckets), _fill(len(buckets)))
        is_now, name, long_name = _names(bucket, grain, now)
        columns.append(
            Column(
                x=x,
                width=width,
                now=is_now,
                name=name,
                long_name=long_name,
                segments=[],
                cells=[write(one.values[i]) for one in series],
                zeros=[not one.values[i] for one in series],
                total="",
                before=_before_text(before, i, write),
            )
        )
    return Chart(
        kind="line",
        unit=unit,
        grain=grain,
        height=height,
        columns=columns,
        ticks=_ticks(top, steps, base, unit),
        labels=_labels(columns, grain),
        legend=[LegendEntry(colour, one.name, "") for colour, one in drawn],
        total="",
        empty=not measured,
        fill=_fill(len(buckets)),
        zone=_zone(buckets),
        lines=[_line(colour, one.values, top, base) for colour, one in drawn],
        before=_line(0, before, top, base) if before else None,
    )


def _before_text(before: Sequence[Number | None], index: int, write: Callable[[Number | None], str]) -> str:
    return write(before[index]) if before else ""


def palette(names: Sequence[str]) -> dict[str, int]:
    """Colours for the first seven names, largest first; the others become "Other".

    Rank the names over a fixed range, such as 30 days, and pass the result to every chart of the page.
    """
    return {name: colour for colour, name in enumerate(names[:MAX_SERIES], 1)}


def _ranked(
    series: Sequence[ChartSeries], count: int, colours: Mapping[str, int] | None
) -> list[tuple[int, str, list[Number]]]:
    """(colour, name, values) in stack order; series without a colour are summed as Other."""
    clean = []
    for one in series:
        if len(one.values) != count:
            raise ValueError(f"series {one.name!r} has {len(one.values)} values for {count} buckets")
        values: list[Number] = [value if value and value > 0 else 0 for value in one.values]
        if any(values):
            clean.append((one.name, values))
    clean.sort(key=lambda item: (-sum(item[1]), item[0]))
    given = dict(colours) if colours is not None else palette([name for name, _ in clean])
    if colours is not None:
        free = [colour for colour in range(1, MAX_SERIES + 1) if colour not in given.values()]
        for name, _ in clean:
            if name not in given and free:
                given[name] = free.pop(0)
    shown = sorted((given[name], name, values) for name, values in clean if name in given)
    rest = [values for name, values in clean if name not in given]
    if rest:
        shown.append((OTHER, "Other", [sum(column) for column in zip(*rest, strict=True)]))
    return shown


def _stack(parts: Iterable[tuple[int, Number]], top: float, base: int) -> list[Segment]:
    segments = []
    y = float(base)
    for colour, value in parts:
        if value:
            height = float(value) / top * (base - TOP)
            segments.append(Segment(colour, round(y - height, 2), round(height, 2)))
            y -= height
    # Keep small values visible: a column below two pixels is drawn two pixels high, in the colour of its largest series.
    if segments and base - y < 2:
        largest = max(segments, key=lambda segment: segment.height)
        return [Segment(largest.colour, base - 2, 2)]
    return segments


def _line(colour: int, values: Sequence[Number | None], top: Decimal, base: int) -> ChartLine:
    count = len(values)
    path: list[str] = []
    dots: list[tuple[float, float]] = []
    for i, value in enumerate(values):
        if value is None:
            continue
        x = (i + 0.5) / count * 1000
        y = base - float(max(Decimal(value), Decimal(0)) / top) * (base - TOP)  # a debt is drawn as zero
        before = i > 0 and values[i - 1] is not None
        after = i + 1 < count and values[i + 1] is not None
        path.append(f"{'L' if before else 'M'}{round(x, 2)} {round(y, 2)}")
        if (not before and not after) or (i == count - 1):
            dots.append((round(x / 10, 3), round(y, 2)))
    return ChartLine(colour, "".join(path), dots)


# --- scales


def _scale(largest: Decimal, *, whole: bool) -> tuple[Decimal, int]:
    """The maximum of the scale and its number of steps (3 to 5): the lowest with round steps that includes `largest`."""
    if largest <= 0:
        return (Decimal(3), 3) if whole else (Decimal("0.03"), 3)
    power = Decimal(10) ** floor(log10(largest) - 1)
    best: tuple[Decimal, int] | None = None
    for size in (power, power * 10):
        for factor in ("1", "2", "2.5", "3", "4", "5"):
            step = size * Decimal(factor)
            if whole and step != step.to_integral_value():
                continue
            steps = max(3, ceil(largest / step))
            if steps <= 5 and (best is None or step * steps < best[0]):
                best = (step * steps, steps)
    if best is None:
        return Decimal(3), 3
    return best


def _ticks(top: Decimal, steps: int, base: int, unit: Unit) -> list[AxisTick]:
    marks = [top * i / steps for i in range(steps + 1)]
    return [
        AxisTick(round(base - i / steps * (base - TOP), 2), _axis_label(mark, top, unit))
        for i, mark in enumerate(marks)
    ]


def _axis_label(value: Decimal, top: Decimal, unit: Unit) -> str:
    if value == 0:
        return "0"
    if unit == "ms":
        return f"{_plain(value / 1000)} s" if top >= 1000 else f"{_plain(value)} ms"
    if unit == "percent":
        return f"{_plain(value * 100)}%"
    sign = "$" if unit == "usd" else ""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if top >= 2 * size or value >= size:
            return f"{sign}{_plain(value / size)}{letter}"
    return sign + _plain(value)


def _plain(value: Decimal) -> str:
    return format.trimmed(value, 6)


# --- periods


def _grain(buckets: Sequence[datetime]) -> Grain:
    if len(buckets) < 2:
        return "day"
    distance = buckets[1] - buckets[0]
    if distance < timedelta(days=1):
        return "hour"
    return "day" if distance < timedelta(days=7) else "week"


def _zone(buckets: Sequence[datetime]) -> str:
    return str(buckets[0].tzinfo) if buckets else "UTC"


def _names(bucket: datetime, grain: Grain, now: datetime) -> tuple[bool, str, str]:
    """Whether the bucket contains `now`, its axis label, and its long label for table and tooltip, on the bucket's clock."""
    start, now = bucket, now.astimezone(bucket.tzinfo)
    is_now = start <= now < start + SIZES[grain]
    day = format.short_day(start)
    if grain == "hour":
        clock = f"{start.hour:02}:{start.minute:02}"
        label = "Now" if is_now else clock if start.hour else day
        return is_now, label, f"{format.long_day(start)}, {clock}"
    if grain == "week":
        return is_now, day, f"Week of {day} {start.year}"
    this_year = start.year == now.year
    return (
        is_now,
        "Today" if is_now else day,
        format.long_day(start) if this_year else f"{day} {start.year}",
    )


def _labels(columns: Sequence[Column], grain: Grain) -> list[AxisLabel]:
    """Labels at a regular stride, counted back from the last column, which is always labelled."""
    count = len(columns)
    stride = 1 if count <= 8 else ceil(count / 6)
    labels = []
    for back, i in enumerate(range(count - 1, -1, -stride)):
        middle = round((i + 0.5) / count * 100, 2)
        last = i == count - 1 and count > 8
        if i == 0 and stride > 1 and middle < 2:
            continue
        labels.append(
            AxisLabel(
                100 if last else middle, "end" if last else "middle", columns[i].name, fine=back % 2 == 1
            )
        )
    return labels


def _fill(count: int) -> float:
    if count < 10:
        return 0.46
    return 0.6 if count < 20 else 0.72


def _track(index: int, count: int, fill: float) -> tuple[float, float]:
    cell = 100 / count
    return round((index + (1 - fill) / 2) * cell, 3), round(cell * fill, 3)


# --- split bar


@dataclass(frozen=True)
class SplitPart:
    """A part of a split bar: name, credits, colour 1 to 8 or "held" for calls in progress."""

    name: str
    amount: int
    colour: int | Literal["held"]


@dataclass(frozen=True)
class SplitSlice:
    """A rendered part: colour, x and width in percent."""

    colour: int | Literal["held"]
    x: float
    width: float


@dataclass(frozen=True)
class SplitBar:
    """A split bar and its accessible label."""

    slices: list[SplitSlice]
    label: str


def split_bar(parts: Sequence[SplitPart]) -> SplitBar:
    """A split bar; omits parts that are zero or negative (debts)."""
    present = [part for part in parts if part.amount > 0]
    total = sum(part.amount for part in present)
    slices = []
    x = 0.0
    for part in present:
        width = part.amount / total * 100
        slices.append(SplitSlice(part.colour, round(x, 3), round(width, 3)))
        x += width
    text = ", ".join(f"{part.name} {format.credits(part.amount)}" for part in present)
    return SplitBar(slices, f"Of {format.credits(total)}: {text}" if present else "No credits")


# --- colonnade (landing page)


@dataclass(frozen=True)
class Shaft:
    """A column of the landing page chart, in viewBox units: shaft, capital and filled height."""

    x: float
    width: float
    cap_x: float
    cap_width: float
    used: float
    now: bool


@dataclass(frozen=True)
class Colonnade:
    """The landing page chart: viewBox size, columns, and the y of the horizontal joints."""

    width: int
    height: int
    shafts: list[Shaft]
    joints: list[float]

    @property
    def shaft_height(self) -> int:
        """Height of a shaft between capital and base."""
        return self.height - 50


def colonnade(values: Sequence[int], *, width: int, height: int) -> Colonnade:
    """One column per value, the last one highlighted; the largest value fills 90 %."""
    cell = width / len(values)
    reach = height - 50
    full = max(max(values), 1) / 0.9
    shafts = [
        Shaft(
            x=round(i * cell + cell * 0.24, 2),
            width=round(cell * 0.52, 2),
            cap_x=round(i * cell + cell * 0.13, 2),
            cap_width=round(cell * 0.74, 2),
            used=round(max(value, 0) / full * reach, 2),
            now=i == len(values) - 1,
        )
        for i, value in enumerate(values)
    ]
    return Colonnade(width, height, shafts, [round(30 + reach * i / 6, 2) for i in range(1, 6)])


# --- timeline


@dataclass(frozen=True)
class TimelineSpan:
    """One row of a timeline. `end` is None while in progress; `first_token` of a model call ends the waiting part."""

    kind: Literal["run", "step", "model", "tool"]
    start: datetime
    end: datetime | None
    failed: bool = False
    first_token: datetime | None = None


@dataclass(frozen=True)
class TimelineBar:
    """A rectangle of a row: CSS class; x, width, y and height in percent."""

    css: str
    x: float
    width: float
    y: float
    height: float


@dataclass(frozen=True)
class TimelineTick:
    """A tick of the time axis: x in percent and its label; empty if it would overlap the last one."""

    x: float
    text: str


@dataclass(frozen=True)
class Waterfall:
    """A waterfall chart: ticks at round steps, the formatted total duration, and the bars of each span in order."""

    ticks: list[TimelineTick]
    length: str
    rows: list[list[TimelineBar]]


SHAPES = {"run": (37.5, 25.0), "step": (28.0, 44.0), "model": (31.0, 38.0), "tool": (31.0, 38.0)}
STEPS_MS = [
    *(unit * factor for unit in (1, 10, 100, 1000) for factor in (1, 2, 5)),
    *(
        1000 * seconds
        for seconds in (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400)
    ),
]


def waterfall(spans: Sequence[TimelineSpan], *, now: datetime) -> Waterfall:
    """Place spans on one axis from the first start to the last end; unfinished spans end at `now`."""
    if not spans:
        return Waterfall([], format.duration_ms(0), [])
    begin = min(span.start for span in spans)
    finish = max([_end(span, now) for span in spans])
    length = max(_ms(finish - begin), 1.0)
    return Waterfall(
        ticks=_time_ticks(length),
        length=format.duration_ms(length),
        rows=[_bars(span, begin, length, now) for span in spans],
    )


def _end(span: TimelineSpan, now: datetime) -> datetime:
    return max(span.end or now, span.start)


def _bars(span: TimelineSpan, begin: datetime, length: float, now: datetime) -> list[TimelineBar]:
    y, height = SHAPES[span.kind]
    x = _ms(span.start - begin) / length * 100
    width = _ms(_end(span, now) - span.start) / length * 100
    if span.failed:
        return [_bar("span-bad", x, width, y, height)]
    if span.end is None and span.kind != "step":
        return [_bar("span-open", x, width, y, height)]
    if span.kind == "model" and span.first_token and span.start < span.first_token < _end(span, now):
        waited = _ms(span.first_token - span.start) / length * 100
        return [
            _bar("span-wait", x, waited, y, height),
            _bar("span-model", x + waited, width - waited, y, height),
        ]
    return [_bar(f"span-{span.kind}", x, width, y, height)]


def _bar(css: str, x: float, width: float, y: float, height: float) -> TimelineBar:
    width = min(max(width, 0.25), 100)
    return TimelineBar(css, round(min(x, 100 - width), 3), round(width, 3), y, height)


def _time_ticks(length: float) -> list[TimelineTick]:
    step = next((size for size in STEPS_MS if length / size <= 5), ceil(length / 5 / 86_400_000) * 86_400_000)
    ticks = []
    at = 0
    while at < length:
        x = at / length * 100
        ticks.append(TimelineTick(round(x, 3), "" if x > 88 else _time_label(at, step, length)))
        at += step
    return ticks


def _time_label(at: int, step: int, length: float) -> str:
    if length < 1000:
        return f"{at} ms"
    if step < 60_000:
        return f"{_plain(Decimal(at) / 1000)} s"
    return (
        f"{_plain(Decimal(at) / 60_000)} min" if step < 3_600_000 else f"{_plain(Decimal(at) / 3_600_000)} h"
    )


def _ms(span: timedelta) -> float:
    return span.total_seconds() * 1000
