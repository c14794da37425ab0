"""The graph of a history: each snapshot in a lane, each line from a child to its parent, whatever the history."""

from hypothesis import given
from hypothesis import strategies as st

from models.projects.snapshots.history_graph import MAX_LANES, history_graph, lanes_of

Rows = list[tuple[str, list[str]]]


@st.composite
def histories(draw: st.DrawFn) -> Rows:
    """Up to 30 snapshots, children first; a parent may be missing from the page."""
    count = draw(st.integers(0, 30))
    return [
        (
            str(at),
            [str(each) for each in draw(st.lists(st.integers(at + 1, count + 3), max_size=4, unique=True))],
        )
        for at in range(count)
    ]


def test_a_line_stays_in_one_lane_and_a_merge_joins_two() -> None:
    line = history_graph([("c", ["b"]), ("b", ["a"]), ("a", [])])
    assert [each.lane for each in line] == [0, 0, 0]
    assert lanes_of(line) == 1
    merge = history_graph([("m", ["b", "c"]), ("c", ["a"]), ("b", ["a"]), ("a", [])])
    assert [each.lane for each in merge] == [0, 1, 0, 0]
    assert merge[0].below == [0, 1]
    assert merge[2].through == [1]
    assert merge[3].above == [0, 1]
    assert lanes_of(merge) == 2
    assert (history_graph([]), lanes_of([])) == ([], 1)


@given(histories())
def test_lines_neither_begin_nor_end_in_nothing(rows: Rows) -> None:
    graph = history_graph(rows)
    assert [each.id for each in graph] == [id for id, _ in rows]
    open_lanes: set[int] = set()
    for row, (_, parents) in zip(graph, rows, strict=True):
        if lanes_of(graph) < MAX_LANES:
            assert set(row.above) | set(row.through) == open_lanes
            assert not set(row.above) & set(row.through)
            assert row.lane not in row.through
            assert bool(row.below) == bool(parents)
        open_lanes = set(row.through) | set(row.below)
    assert lanes_of(graph) <= MAX_LANES
    expected = {parent for _, parents in rows for parent in parents}
    for row in graph:
        assert bool(row.above) == (row.id in expected)


def test_a_parent_above_its_child_draws_no_line() -> None:
    """Clocks may differ by less than they tell."""
    graph = history_graph([("a", []), ("b", ["a"])])
    assert graph[1].below == []
