"""Layout of the dependency tree as SVG: boxes in columns from left to right, joined by lines."""

from collections.abc import Iterator
from dataclasses import dataclass

from models.store.publishing.dependencies import DependencyNode

BOX_WIDTH, BOX_HEIGHT = 176, 40
STEP_X, STEP_Y = 208, 50
MAX_ROWS = 24


@dataclass(frozen=True)
class TreeNode:
    """An agent and its position in pixels."""

    node: DependencyNode
    x: float
    y: float

    @property
    def middle(self) -> float:
        """The y coordinate at which lines meet the box."""
        return self.y + BOX_HEIGHT / 2


@dataclass(frozen=True)
class TreeDrawing:
    """Boxes, line paths and the size of the drawing in pixels."""

    boxes: list[TreeNode]
    paths: list[str]
    width: int
    height: int
    box_width: int = BOX_WIDTH
    box_height: int = BOX_HEIGHT


def drawing(root: DependencyNode) -> TreeDrawing | None:
    """Lay out a tree. None without children, or with more than `MAX_ROWS` leaves."""
    if not root.children or rows(root) > MAX_ROWS:
        return None
    boxes: list[TreeNode] = []
    paths: list[str] = []
    _place(root, 0, 0, boxes, paths)
    columns = max(box.x for box in boxes) + BOX_WIDTH
    return TreeDrawing(boxes, paths, int(columns) + 2, rows(root) * STEP_Y - (STEP_Y - BOX_HEIGHT) + 2)


def walk(node: DependencyNode) -> Iterator[DependencyNode]:
    """The node and its descendants, depth first."""
    yield node
    for child in node.children:
        yield from walk(child)


def rows(node: DependencyNode) -> int:
    """The number of leaves."""
    return sum(map(rows, node.children)) or 1


def _place(node: DependencyNode, depth: int, row: int, boxes: list[TreeNode], paths: list[str]) -> TreeNode:
    """Place the children in rows from `row` on, and the node centred to their left."""
    index = len(boxes)
    placed: list[TreeNode] = []
    at = row
    for child in node.children:
        placed.append(_place(child, depth + 1, at, boxes, paths))
        at += rows(child)
    y = (placed[0].y + placed[-1].y) / 2 if placed else row * STEP_Y + 1
    box = TreeNode(node, depth * STEP_X + 1, y)
    boxes.insert(index, box)
    start, bend = box.x + BOX_WIDTH, box.x + (BOX_WIDTH + STEP_X) / 2
    paths.extend(f"M{start:g} {box.middle:g}H{bend:g}V{each.middle:g}H{each.x:g}" for each in placed)
    return box
