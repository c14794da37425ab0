"""Where the parts of a diagram stand: layers from left to right, lines that pass between boxes, life lines of a sequence.

Our own, because it is small: cycles are broken, layers follow the longest path, and the median of neighbours orders each layer.
Deterministic: the same diagram is drawn the same."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from models.atlas.diagrams import DiagramEdge, DiagramNode, ProjectDiagram

BOX_HEIGHT, ROW_HEIGHT, GAP, LAYER_GAP, MARGIN = 34, 26, 14, 56, 12
CHARACTER, PADDING = 7.2, 24
"""Pixels of a letter of a label, and beside it."""
MAX_LABEL = 30
MAX_LINES = 60
"""Dependencies that are drawn, the strongest: more hide each other. The table has all."""
BESIDE = 8
"""Pixels that the line back stands below the line forth."""
SWEEPS = 6
STEP = 38
"""Pixels between messages of a sequence."""


class DrawnRow(NamedTuple):
    """A node in a box of several: a module in that of its system."""

    node: DiagramNode
    label: str
    y: float


class DrawnBox(NamedTuple):
    """A box, in pixels. `rows` are the nodes in it, if it is a group; `node` is None then."""

    x: float
    y: float
    width: float
    height: float
    label: str
    node: DiagramNode | None
    rows: Sequence[DrawnRow] = ()


class DrawnLine(NamedTuple):
    """A line of an edge: the path in SVG, its label and where that stands. `back`: it closes a cycle."""

    path: str
    label: str
    x: float
    y: float
    back: bool = False


@dataclass
class Drawing:
    """A diagram with places, in pixels; `omitted` dependencies are too many to be drawn."""

    width: float = 0
    height: float = 0
    boxes: list[DrawnBox] = field(default_factory=list)
    lines: list[DrawnLine] = field(default_factory=list)
    omitted: int = 0


class _Part(NamedTuple):
    id: str
    label: str
    node: DiagramNode | None
    rows: Sequence[DiagramNode] = ()

    @property
    def height(self) -> float:
        return BOX_HEIGHT + (len(self.rows) * ROW_HEIGHT + 8 if self.rows else 0)

    @property
    def width(self) -> float:
        longest = max(len(_shortened(text)) for text in (self.label, *(each.label for each in self.rows)))
        return round(longest * CHARACTER + PADDING)


class _Place(NamedTuple):
    """The left upper corner of a box, or of the way of a line through a layer, and where it ends."""

    x: float
    y: float
    end: float


def laid_out(diagram: ProjectDiagram) -> Drawing:
    """The drawing of a diagram; an empty one of a diagram without nodes."""
    if not diagram.nodes:
        return Drawing()
    if diagram.type == "sequence":
        return _sequence(diagram)
    if diagram.type == "component":
        return _grouped(diagram)
    parts = [_Part(each.id, each.label, each) for each in diagram.nodes]
    return _layered(parts, diagram.edges, MAX_LINES if diagram.type == "dependency" else len(diagram.edges))


def _grouped(diagram: ProjectDiagram) -> Drawing:
    """One box for each group, and one line for all edges between two of them."""
    groups: defaultdict[str, list[DiagramNode]] = defaultdict(list)
    for node in diagram.nodes:
        groups[node.group or ""].append(node)
    home = {node.id: node.group or "" for node in diagram.nodes}
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for edge in diagram.edges:
        if home[edge.start] != home[edge.end]:
            counts[home[edge.start], home[edge.end]] += int(edge.label or 1) if edge.label.isdigit() else 1
    parts = [_Part(group, group or "root", None, nodes) for group, nodes in groups.items()]
    strongest = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return _layered(parts, [DiagramEdge(*pair, str(count)) for pair, count in strongest], MAX_LINES)


def _layered(parts: Sequence[_Part], every: Sequence[DiagramEdge], most: int) -> Drawing:
    """The parts in layers, and the first edges between them."""
    edges = every[:most]
    known = {each.id: each for each in parts}
    pairs = [(each.start, each.end) for each in edges if each.start != each.end]
    backward = _cycles([each.id for each in parts], pairs)
    forward = {(end, start) if (start, end) in backward else (start, end) for start, end in pairs}
    depth = _depths([each.id for each in parts], forward)
    layers, ways = _layers(parts, forward, depth)
    _order(layers, ways)
    places = _places(layers, known)
    drawing = Drawing(omitted=len(every) - len(edges))
    for part in parts:
        x, y, _ = places[part.id]
        rows = [
            DrawnRow(node, _shortened(node.label), y + BOX_HEIGHT + at * ROW_HEIGHT + ROW_HEIGHT / 2 + 4)
            for at, node in enumerate(part.rows)
        ]
        drawing.boxes.append(DrawnBox(x, y, part.width, part.height, _shortened(part.label), part.node, rows))
    for edge in edges:
        if edge.start != edge.end:
            drawing.lines.append(_line(edge, (edge.start, edge.end) in backward, ways, places, known))
    drawing.width = max(box.x + box.width for box in drawing.boxes) + MARGIN
    drawing.height = (
        max([box.y + box.height for box in drawing.boxes] + [place.y for place in places.values()]) + MARGIN
    )
    return drawing


def _cycles(ids: Sequence[str], pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Edges without which there is no cycle: those that lead back on the way of a search in depth."""
    targets: defaultdict[str, list[str]] = defaultdict(list)
    incoming: defaultdict[str, int] = defaultdict(int)
    for start, end in pairs:
        targets[start].append(end)
        incoming[end] += 1
    state: dict[str, int] = {}
    backward: set[tuple[str, str]] = set()
    for root in sorted(ids, key=lambda id: incoming[id]):
        stack = [(root, iter(targets[root]))] if root not in state else []
        state.setdefault(root, 1)
        while stack:
            here, rest = stack[-1]
            after = next(rest, None)
            if after is None:
                state[here] = 2
                stack.pop()
            elif state.get(after) == 1:
                backward.add((here, after))
            elif after not in state:
                state[after] = 1
                stack.append((after, iter(targets[after])))
    return backward


def _depths(ids: Sequence[str], forward: set[tuple[str, str]]) -> dict[str, int]:
    """The longest path to each node."""
    depth = dict.fromkeys(ids, 0)
    for _ in ids:
        changed = False
        for start, end in forward:
            if depth[end] < depth[start] + 1:
                depth[end], changed = depth[start] + 1, True
        if not changed:
            break
    return depth


Ways = Mapping[tuple[str, str], list[str]]
"""The nodes on the way of each edge: its ends, and a place in each layer between them."""


def _layers(
    parts: Sequence[_Part], forward: set[tuple[str, str]], depth: Mapping[str, int]
) -> tuple[list[list[str]], Ways]:
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for part in parts:
        layers[depth[part.id]].append(part.id)
    ways = {}
    for start, end in sorted(forward):
        between = [f"\0{start}\0{end}\0{at}" for at in range(depth[start] + 1, depth[end])]
        for at, id in enumerate(between, depth[start] + 1):
            layers[at].append(id)
        ways[start, end] = [start, *between, end]
    return layers, ways


def _order(layers: list[list[str]], ways: Ways) -> None:
    """Put each node at the middle of its neighbours in the next layer, forth and back."""
    before: defaultdict[str, list[str]] = defaultdict(list)
    after: defaultdict[str, list[str]] = defaultdict(list)
    for way in ways.values():
        for start, end in pairwise(way):
            after[start].append(end)
            before[end].append(start)
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        near = before if forth else after
        for at in range(1, len(layers)) if forth else range(len(layers) - 2, -1, -1):
            fixed = {id: place for place, id in enumerate(layers[at - 1 if forth else at + 1])}
            middle = {
                id: sum(found) / len(found)
                for id in layers[at]
                if (found := [fixed[each] for each in near[id] if each in fixed])
            }
            own = {id: place for place, id in enumerate(layers[at])}
            layers[at].sort(key=lambda id: (middle.get(id, own[id]), own[id]))


def _places(layers: Sequence[Sequence[str]], known: Mapping[str, _Part]) -> dict[str, _Place]:
    """Left upper corners; layers stand in the middle of the height."""
    heights = [sum(known[id].height + GAP if id in known else GAP for id in layer) - GAP for layer in layers]
    tallest, x = max(heights), float(MARGIN)
    places: dict[str, _Place] = {}
    for layer, height in zip(layers, heights, strict=True):
        y = MARGIN + (tallest - height) / 2
        end = x + max((known[id].width for id in layer if id in known), default=0)
        for id in layer:
            places[id] = _Place(x, y, x + known[id].width if id in known else end)
            y += (known[id].height if id in known else 0) + GAP
        x = end + LAYER_GAP
    return places


def _line(
    edge: DiagramEdge,
    back: bool,
    ways: Ways,
    places: Mapping[str, _Place],
    known: Mapping[str, _Part],
) -> DrawnLine:
    way = ways[(edge.end, edge.start) if back else (edge.start, edge.end)]
    points: list[tuple[float, float]] = []
    for at, id in enumerate(way):
        place = places[id]
        if id in known:
            middle = place.y + min(known[id].height, BOX_HEIGHT) / 2
            points.append((place.end if at == 0 else place.x, middle))
        else:  # straight through the layer, as its boxes may be wide
            points += [(place.x, place.y), (place.end, place.y)]
    if back:
        points = [(x, y + BESIDE) for x, y in reversed(points)]
    path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (x1, y1), (x2, y2) in pairwise(points):
        bend = (x2 - x1) / 2
        path += f"C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    (x1, y1), (x2, y2) = points[0], points[1]
    return DrawnLine(path, edge.label, (x1 + x2) / 2, (y1 + y2) / 2 + (14 if back else -4), back)


def _sequence(diagram: ProjectDiagram) -> Drawing:
    """Participants beside each other, and their calls below, in order."""
    drawing = Drawing()
    middles: dict[str, float] = {}
    x = float(MARGIN)
    height = MARGIN + BOX_HEIGHT + STEP * (len(diagram.edges) + 1)
    for node in diagram.nodes:
        label = _shortened(node.label)
        width = max(110.0, round(len(label) * CHARACTER + PADDING))
        drawing.boxes.append(DrawnBox(x, MARGIN, width, BOX_HEIGHT, label, node))
        middles[node.id] = x + width / 2
        drawing.lines.append(
            DrawnLine(f"M{middles[node.id]:.0f} {MARGIN + BOX_HEIGHT}V{height - MARGIN}", "", 0, 0, True)
        )
        x += width + LAYER_GAP / 2
    for at, edge in enumerate(diagram.edges, 1):
        y = MARGIN + BOX_HEIGHT + at * STEP
        start, end = middles[edge.start], middles[edge.end]
        bent = (
            f"M{start:.0f} {y}h30v14h-28"
            if start == end
            else f"M{start:.0f} {y}H{end - (2 if end > start else -2):.0f}"
        )
        drawing.lines.append(
            DrawnLine(bent, edge.label, (start + end) / 2 + (34 if start == end else 0), y - 5)
        )
    drawing.width, drawing.height = x + MARGIN, height
    return drawing


def _shortened(label: str) -> str:
    """A label of at most `MAX_LABEL` characters, without its middle."""
    if len(label) <= MAX_LABEL:
        return label
    return f"{label[: MAX_LABEL // 3]}…{label[-(MAX_LABEL - MAX_LABEL // 3 - 1) :]}"
