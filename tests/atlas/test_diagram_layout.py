"""Drawings of diagrams: boxes do not overlap, lines begin and end at boxes, and odd graphs are drawn."""

import itertools
import random

import pytest

from models.atlas.diagram_layout import MAX_LINES, laid_out
from models.atlas.diagrams import DiagramEdge, DiagramNode, ProjectDiagram
from models.atlas.mermaid_text import mermaid_of


def drawn(nodes: int, edges: list[tuple[int, int]], type: str = "dependency") -> ProjectDiagram:
    return ProjectDiagram(
        type,
        "Title",
        [DiagramNode(str(at), f"node {at} " * (at % 4 + 1), group=f"g{at % 3}") for at in range(nodes)],
        [DiagramEdge(str(a), str(b), "1") for a, b in edges],
    )


GRAPHS = {
    "alone": (1, []),
    "itself": (1, [(0, 0)]),
    "apart": (5, []),
    "chain": (6, [(at, at + 1) for at in range(5)]),
    "cycle": (3, [(0, 1), (1, 2), (2, 0)]),
    "both ways": (2, [(0, 1), (1, 0)]),
    "long edges": (5, [(0, 1), (1, 2), (2, 3), (0, 3), (0, 4), (4, 3)]),
    "many": (60, [(a, b) for a, b in itertools.product(range(60), repeat=2) if random.Random(a * 60 + b).random() < 0.05]),
}  # fmt: skip


@pytest.mark.parametrize("type", ["dependency", "flow", "component", "sequence"])
@pytest.mark.parametrize("name", GRAPHS)
def test_boxes_stand_apart_within_the_picture(name: str, type: str) -> None:
    nodes, edges = GRAPHS[name]
    drawing = laid_out(drawn(nodes, edges, type))
    for one, other in itertools.combinations(drawing.boxes, 2):
        apart = (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )
        assert apart, (one, other)
    assert all(box.x >= 0 and box.x + box.width <= drawing.width for box in drawing.boxes)
    assert all(box.y >= 0 and box.y + box.height <= drawing.height for box in drawing.boxes)
    assert drawing == laid_out(drawn(nodes, edges, type)), "the same each time"


def test_each_edge_is_a_line() -> None:
    nodes, edges = GRAPHS["many"]
    assert len(laid_out(drawn(nodes, edges, "flow")).lines) == sum(a != b for a, b in edges)


def test_labels_cannot_write_mermaid() -> None:
    found = ProjectDiagram(
        "dependency",
        "T",
        [DiagramNode("a", 'x"]\n  evil["y'), DiagramNode("b", "c")],
        [DiagramEdge("a", "b", "1|2")],
    )
    assert len(mermaid_of(found).splitlines()) == 4
    assert '"' not in mermaid_of(found).splitlines()[1].replace('["', "").replace('"]', "")


def test_more_dependencies_than_can_be_told_apart_are_left_to_the_table() -> None:
    nodes = [DiagramNode(str(at), f"part {at}", group=str(at % 9)) for at in range(30)]
    edges = [DiagramEdge(str(at % 30), str((at * 7 + 1) % 30), str(500 - at)) for at in range(200)]
    for type in ("dependency", "component"):
        drawing = laid_out(ProjectDiagram(type, "Much", nodes, edges))
        assert len(drawing.lines) <= MAX_LINES
        assert drawing.omitted > 0 or type == "component"
    assert laid_out(ProjectDiagram("dependency", "Little", nodes, edges[:9])).omitted == 0


def test_the_way_back_stands_beside_the_way_forth() -> None:
    nodes = [DiagramNode("a", "a"), DiagramNode("b", "b")]
    found = laid_out(
        ProjectDiagram("dependency", "Both", nodes, [DiagramEdge("a", "b", "5"), DiagramEdge("b", "a", "3")])
    )
    forth, back = found.lines
    assert (forth.back, back.back) == (False, True)
    assert back.y - forth.y > 14, "the labels do not cover each other"
