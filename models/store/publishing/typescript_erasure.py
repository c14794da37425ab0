"""TypeScript functions as JavaScript: the same text without its types."""

from tree_sitter import Node

ERASED = {
    "type_annotation",
    "type_arguments",
    "type_parameters",
    "type_predicate_annotation",
    "asserts_annotation",
    "interface_declaration",
    "type_alias_declaration",
    "ambient_declaration",
    "function_signature",
}
"""Nodes that say types only."""
MARKS = {("optional_parameter", "?"), ("variable_declarator", "!")}
"""Children of nodes that say types only."""
FIRST_KEPT = {"as_expression", "satisfies_expression", "non_null_expression"}
"""Nodes whose first child is the value."""
LAST_KEPT = {"type_assertion"}
NOT_ERASABLE = {
    "enum_declaration": "An enum",
    "internal_module": "A namespace",
    "module": "A namespace",
    "decorator": "A decorator",
    "class_declaration": "A class",
    "abstract_class_declaration": "A class",
    "class": "A class",
    "import_alias": "An import",
}
MAX_DEPTH = 600


class NotErasable(Exception):
    """A function has a part that is not JavaScript without its types; the message names it, `node` is it."""

    def __init__(self, what: str, node: Node) -> None:
        super().__init__(what)
        self.node = node


def erased(node: Node, source: bytes) -> str:
    """The text of the node without types. Raises NotErasable."""
    parts: list[bytes] = []
    _write(node, source, parts, 0)
    return b"".join(parts).decode(errors="replace")


def _write(node: Node, source: bytes, parts: list[bytes], depth: int) -> None:
    if node.type in NOT_ERASABLE:
        raise NotErasable(NOT_ERASABLE[node.type], node)
    if node.type == "required_parameter" and node.child(0).type == "this":
        raise NotErasable("A this parameter", node)
    if depth > MAX_DEPTH:
        raise NotErasable("So much nesting", node)
    children = _kept(node)
    if not children:
        parts.append(source[node.start_byte : node.end_byte])
        return
    at = children[0].start_byte if node.type in LAST_KEPT else node.start_byte
    for child in children:
        parts.append(source[at : child.start_byte])
        if child.type not in ERASED and (node.type, child.type) not in MARKS:
            _write(child, source, parts, depth + 1)
        at = child.end_byte
    if node.type not in FIRST_KEPT:
        parts.append(source[at : node.end_byte])


def _kept(node: Node) -> list[Node]:
    """The children that can be JavaScript: of a cast, its value."""
    children = node.children
    if node.type in FIRST_KEPT:
        return children[:1]
    if node.type in LAST_KEPT:
        return children[-1:]
    return children
