"""Divides a program into units: functions, classes and their methods, imports and their names, and the statements between."""

from typing import TYPE_CHECKING

from models.projects.merge.code_grammars import (
    GO,
    JAVA,
    MAX_PARSE_BYTES,
    PYTHON,
    CodeGrammar,
    code_parser,
)
from models.projects.merge.unit_merge import UnitGroup, UnitKey
from models.projects.merge.unit_ranges import FoundUnit, comma_group, line_end, line_group

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_NESTED = 8
"""Classes in classes that are divided further."""
_ASSIGNED = {
    "lexical_declaration",
    "variable_declaration",
    "field_declaration",
    "const_declaration",
    "var_declaration",
}
"""Declarations of constants and variables, which have the name of the first."""
_NAME_LISTS = {"import_spec_list", "use_list", "named_imports"}
_AROUND_LISTS = {"import_clause", "scoped_use_list"}
_PARAMETERS = ("parameters", "formal_parameters", "parameter")


def code_units(grammar: CodeGrammar, source: bytes) -> UnitGroup | None:
    """The units of a program in the plain shape; none of them if some share a line. None if it is too large or has syntax errors."""
    if len(source) > MAX_PARSE_BYTES:
        return None
    root = code_parser(grammar).parse(source).root_node
    if root.has_error:
        return None
    return _CodeDivider(grammar, source).program(root)


class _CodeDivider:
    def __init__(self, grammar: CodeGrammar, source: bytes) -> None:
        self._grammar, self._source = grammar, source

    def program(self, root: "Node") -> UnitGroup:
        found = self._members(root, 0)
        group = line_group(self._source, 0, self._preface(found), len(self._source), found)
        return group or UnitGroup(self._source, [], b"")

    def _preface(self, found: list[FoundUnit]) -> int:
        """Where comments about the whole file end: those before a blank line."""
        first = found[0].node.start_byte if found else len(self._source)
        blank = self._source.rfind(b"\n\n", 0, first)
        return blank + 2 if blank >= 0 else 0

    def _text(self, node: "Node | None") -> str:
        return "" if node is None else self._source[node.start_byte : node.end_byte].decode(errors="replace")

    # -- units -------------------------------------------------------------------------------------------------

    def _members(self, container: "Node", depth: int) -> list[FoundUnit]:
        leading = self._grammar.leading
        found = []
        begun: Node | None = None
        for node in container.named_children:
            if node.is_extra or node.type in leading:
                begun = begun or (node if node.type in leading else None)
                continue
            found.append(self._found(node, depth))
            begun = None
        if begun is not None:
            found.append(FoundUnit(begun, ("statement", self._text(begun)), free=False))
        return found

    def _found(self, node: "Node", depth: int) -> FoundUnit:
        core = node
        while core.type in self._grammar.wrappers:
            held = core.child_by_field_name(self._grammar.wrappers[core.type])
            if held is None:
                break
            core = held
        if core.type in self._grammar.imports:
            return self._import(node, core)
        if core.type in self._grammar.named or core.type == "impl_item":
            return self._named(node, core, depth)
        name = self._assigned(core)
        if name:
            # the order of a dataclass's fields is that of its parameters
            return FoundUnit(
                node, ("assigned", name), free=self._grammar is not PYTHON or depth == 0, name=name
            )
        return FoundUnit(node, ("statement", self._text(node)), free=False)

    def _named(self, node: "Node", core: "Node", depth: int) -> FoundUnit:
        name_node = core.child_by_field_name("name") or core.child_by_field_name("property")
        name = self._text(name_node)
        key: UnitKey = (core.type, name)
        if core.type == "impl_item":
            key = (core.type, *(self._text(core.child_by_field_name(part)) for part in ("trait", "type")))
        elif core.type == "method_declaration" and self._grammar is GO:
            key = (core.type, self._receiver(core), name)
        elif self._grammar is JAVA:
            key = (core.type, name, self._parameter_types(core))
        elif node.type == "decorated_definition" and self._grammar is PYTHON:
            key = (core.type, name, self._accessor(node))
        elif core.type == "method_definition":
            key = (core.type, name, *(child.type for child in core.children if child.type in ("get", "set")))
        signature = next(
            (
                self._text(part)
                for field in _PARAMETERS
                if (part := core.child_by_field_name(field)) is not None
            ),
            None,
        )
        body = core.child_by_field_name("body")

        def inner(begin: int, end: int) -> UnitGroup | None:
            return self._inside(core, body, begin, end, depth)

        divided = body is not None and body.type in self._grammar.bodies and depth < MAX_NESTED
        divided = divided and core.type != "function_definition"
        return FoundUnit(node, key, True, name, signature, inner if divided else None)

    def _inside(
        self, core: "Node", body: "Node | None", begin: int, end: int, depth: int
    ) -> UnitGroup | None:
        """The members of a class or the like; its first line, and its last brace, are the head and the tail."""
        if body is None:
            return None
        opened = body.start_byte + 1
        if self._grammar is PYTHON:
            opened = next((child.end_byte for child in core.children if child.type == ":"), body.start_byte)
        head_end = line_end(self._source, opened)
        if head_end is None:
            return None
        return line_group(self._source, begin, head_end, end, self._members(body, depth + 1))

    def _receiver(self, method: "Node") -> str:
        """The type that a Go method belongs to."""
        words = self._text(method.child_by_field_name("receiver")).strip("()").split()
        return words[-1] if words else ""

    def _parameter_types(self, method: "Node") -> str:
        """Java's methods of one name differ in them."""
        parameters = method.child_by_field_name("parameters")
        types = [each.child_by_field_name("type") for each in parameters.named_children] if parameters else []
        return ",".join(self._text(each) for each in types)

    def _accessor(self, decorated: "Node") -> str:
        """The decorator that makes a Python function the setter or deleter of a property."""
        for child in decorated.children:
            text = self._text(child)
            if child.type == "decorator" and text.endswith((".setter", ".deleter", ".getter")):
                return text
        return ""

    def _assigned(self, core: "Node") -> str:
        if core.type == "expression_statement" and self._grammar is PYTHON:
            held = core.named_children[0] if core.named_child_count == 1 else None
            left = (
                held.child_by_field_name("left") if held is not None and held.type == "assignment" else None
            )
            return self._text(left) if left is not None and left.type == "identifier" else ""
        if core.type == "type_declaration" or core.type in _ASSIGNED:
            named = [each.child_by_field_name("name") for each in core.named_children]
            names = [each for each in named if each is not None]
            return self._text(names[0]) if len(names) == 1 else ""
        return ""

    # -- imports -----------------------------------------------------------------------------------------------

    def _import(self, node: "Node", core: "Node") -> FoundUnit:
        """An import of a list of names is one unit per module, and divided into the names. Others have their text as key."""
        place, names = self._name_list(core)
        if place is None or not names:
            return FoundUnit(node, ("import", " ".join(self._text(core).split())))
        group = line_group if place.type == "import_spec_list" else comma_group
        opened = max(
            (child.end_byte for child in place.children if child.type in ("{", "(", "import")), default=None
        )
        found = [FoundUnit(each, ("name", self._text(each))) for each in names]
        before = self._text(core).partition(self._text(names[0]))[0] if core is place else ""
        around = (
            self._source[core.start_byte : place.start_byte] + self._source[place.end_byte : core.end_byte]
        )
        key: UnitKey = ("from", " ".join((before or around.decode(errors="replace")).rstrip("(; \n").split()))

        def inner(begin: int, end: int) -> UnitGroup | None:
            if opened is None or any(child.type == "comment" for child in place.children):
                return None
            head_end = line_end(self._source, opened) if group is line_group else opened
            return None if head_end is None else group(self._source, begin, head_end, end, found)

        return FoundUnit(node, key, inner=inner)

    def _name_list(self, core: "Node") -> "tuple[Node | None, list[Node]]":
        """The node that lists the imported names, and the names."""
        if core.type == "import_from_statement":
            return core, core.children_by_field_name("name")
        at: Node | None = core
        while at is not None:
            held = next((child for child in at.named_children if child.type in _NAME_LISTS), None)
            if held is not None:
                return held, [child for child in held.named_children if not child.is_extra]
            at = next((child for child in at.named_children if child.type in _AROUND_LISTS), None)
        return None, []
