"""Reads an agent definition from a TypeScript module without running it.

The module is parsed (tree-sitter) and its default export taken as a value: objects, arrays, strings, templates without `${}`,
numbers, booleans, null, and constants of the same file that hold these. `handleSteps` becomes JavaScript source.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NoReturn

import tree_sitter_typescript
from tree_sitter import Language, Node, Parser

from models.core.cooperative import heavy
from models.store.publishing.definition import MAX_BYTES, MAX_NESTING
from models.store.publishing.javascript_literals import number_of, text_of
from models.store.publishing.typescript_erasure import NotErasable, erased

STEPS = "handleSteps"
WRAPPERS = ("satisfies_expression", "as_expression", "parenthesized_expression", "non_null_expression")
FUNCTIONS = (
    "generator_function",
    "generator_function_declaration",
    "method_definition",
    "function_expression",
    "arrow_function",
)
CONSTANTS = {"true": True, "false": False, "null": None}
WHAT = {
    "call_expression": "A call",
    "binary_expression": "An operator",
    "ternary_expression": "A condition",
    "template_substitution": "${} in a template",
    "spread_element": "A spread (...)",
    "computed_property_name": "A computed key",
    "member_expression": "A property of another value",
    "arrow_function": "A function",
    "function_expression": "A function",
    "generator_function": "A function",
    "method_definition": "A method",
    "new_expression": "new",
    "regex": "A regular expression",
}
"""What a node is called in a message."""


BUDGET = 2 * MAX_BYTES
"""Bytes of all values, each counted as `VALUE_BYTES` more: constants can be used more than once."""
VALUE_BYTES = 50


class TypeScriptProblem(ValueError):
    """The text is not a definition that can be read; `line` and `column` count from 1, the column in characters."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(f"Line {line}, column {column}: {message}")
        self.line, self.column = line, column


def read(source: str) -> Any:
    """The value of the module's default export, as JSON would give it. Nothing is executed. Raises TypeScriptProblem.

    Takes about a second for a megabyte that was made to be slow; larger texts are rejected.
    """
    data = source.removeprefix("\ufeff").encode(errors="replace")
    if len(data) > MAX_BYTES:
        raise TypeScriptProblem(f"The file has {len(data)} bytes; the limit is {MAX_BYTES}.", 1, 1)
    with heavy(len(data), threshold=50_000):
        root = Parser(_language()).parse(data).root_node
        return DefinitionModule(root, data).value()


@cache
def _language() -> Language:
    return Language(tree_sitter_typescript.language_typescript())


class DefinitionModule:
    """A parsed module and its top-level constants and functions."""

    def __init__(self, root: Node, source: bytes) -> None:
        self._root, self._source = root, source
        self._constants: dict[str, Node] = {}
        self._imported: set[str] = set()
        self._resolving: list[str] = []
        self._budget = BUDGET

    def value(self) -> Any:
        """The default export."""
        if self._root.has_error:
            self._report_syntax_error()
        exported = None
        for statement in self._root.named_children:
            exported = self._default_export(statement) or exported
            self._declare(statement)
        if exported is None:
            message = "There is no default export. End the file with: export default definition"
            raise TypeScriptProblem(message, 1, 1)
        return self._value(exported, 0)

    # -- statements ------------------------------------------------------------------------------------------

    def _default_export(self, statement: Node) -> Node | None:
        if statement.type != "export_statement" or not any(
            child.type == "default" for child in statement.children
        ):
            return None
        return statement.child_by_field_name("value") or self._fail(
            statement, "The default export must be an object."
        )

    def _declare(self, statement: Node) -> None:
        if statement.type == "import_statement":
            self._imported |= {self._text(each) for each in _within(statement) if each.type == "identifier"}
        elif statement.type == "export_statement":
            declaration = statement.child_by_field_name("declaration")
            if declaration is not None:
                self._declare(declaration)
        elif statement.type == "lexical_declaration":
            for each in statement.named_children:
                name, value = each.child_by_field_name("name"), each.child_by_field_name("value")
                if name is not None and value is not None:
                    self._constants[self._text(name)] = value
        elif statement.type == "generator_function_declaration":
            name = statement.child_by_field_name("name")
            if name is not None:
                self._constants[self._text(name)] = statement

    # -- values ----------------------------------------------------------------------------------------------

    def _value(self, node: Node, depth: int) -> Any:
        if depth > MAX_NESTING:
            self._fail(node, f"The definition is nested more than {MAX_NESTING} levels deep.")
        self._budget -= VALUE_BYTES + (node.end_byte - node.start_byte) * (node.child_count <= 3)
        if self._budget < 0:
            self._fail(node, "The definition has too many values.")
        if node.type in WRAPPERS:
            return self._value(_inside(node), depth + 1)
        if node.type in CONSTANTS:
            return CONSTANTS[node.type]
        if node.type in ("string", "template_string"):
            return self._string(node)
        if node.type in ("number", "unary_expression"):
            return self._number(node)
        if node.type == "array":
            return [self._value(each, depth + 1) for each in _named(node)]
        if node.type == "object":
            return self._object(node, depth)
        if node.type in ("identifier", "shorthand_property_identifier"):
            return self._constant(node, lambda value: self._value(value, depth + 1))
        return self._refuse(node)

    def _object(self, node: Node, depth: int) -> dict[str, Any]:
        found = {}
        for each in _named(node):
            if each.type == "shorthand_property_identifier":
                name, value = self._text(each), each
            elif each.type == "pair":
                name = self._key(_field(each, "key"))
                value = _field(each, "value")
            elif each.type == "method_definition":
                name, value = self._key(_field(each, "name")), each
            else:
                self._refuse(each)
            if value.type != "undefined":
                found[name] = (self._steps if name == STEPS else self._value)(value, depth + 1)
        return found

    def _key(self, node: Node) -> str:
        if node.type == "property_identifier":
            return self._text(node)
        if node.type == "string":
            return self._string(node)
        if node.type == "number":
            return str(self._number(node))
        return self._refuse(node)

    def _string(self, node: Node) -> str:
        for each in node.named_children:
            if each.type == "template_substitution":
                self._refuse(each)
        return text_of(self._text(node)[1:-1])

    def _number(self, node: Node) -> int | float:
        operand = node.child_by_field_name("argument") if node.type == "unary_expression" else node
        sign = self._text(node)[0] if operand is not node else ""
        if operand is None or operand.type != "number" or sign not in ("", "-", "+"):
            self._refuse(node)
        value = number_of(self._text(operand))
        if value is None:
            self._fail(node, "This number is too large, or not one that JSON has.")
        return -value if sign == "-" else value

    def _constant(self, node: Node, read_value: Any) -> Any:
        name = self._text(node)
        if name in self._imported:
            self._fail(node, f"“{name}” is imported from another file. Write its value here.")
        if name not in self._constants:
            self._fail(node, f"“{name}” is not a constant of this file. Write its value here.")
        if name in self._resolving:
            self._fail(node, f"“{name}” refers to itself.")
        self._resolving.append(name)
        value = read_value(self._constants[name])
        self._resolving.pop()
        return value

    def _steps(self, node: Node, depth: int) -> Any:
        """`handleSteps` as source that starts with `function*`, without types; text stays as it is."""
        if node.type in WRAPPERS:
            return self._steps(_inside(node), depth)
        if node.type in ("identifier", "shorthand_property_identifier"):
            return self._constant(node, lambda value: self._steps(value, depth))
        if node.type not in FUNCTIONS:
            return self._value(node, depth)
        marks = {child.type for child in node.children}
        if "*" not in marks or "async" in marks:
            self._fail(node, "handleSteps must be a generator function: function* (context) { ... }")
        body, parameters = _field(node, "body"), _field(node, "parameters")
        try:
            return f"function* {STEPS}{erased(parameters, self._source)} {erased(body, self._source)}"
        except NotErasable as problem:
            self._fail(
                problem.node, f"{problem} cannot be used in handleSteps, which is stored as JavaScript."
            )

    # -- problems --------------------------------------------------------------------------------------------

    def _refuse(self, node: Node) -> NoReturn:
        what = WHAT.get(node.type, "This")
        self._fail(
            node, f"{what} cannot be read without running it. Write the value itself: “{self._excerpt(node)}”"
        )

    def _report_syntax_error(self) -> NoReturn:
        for node in _within(self._root):
            if node.is_missing:
                self._fail(node, f"Expected “{node.type}” here.")
            if node.is_error:
                rest = self._source[node.end_byte :].strip()
                what = "This is not TypeScript" if rest else "This is not closed, or not TypeScript"
                self._fail(node, f"{what}: “{self._excerpt(node)}”")
        self._fail(self._root, "This is not TypeScript.")

    def _fail(self, node: Node, message: str) -> NoReturn:
        before = self._source[: node.start_byte].decode(errors="replace")
        line_start = before.rfind("\n") + 1
        raise TypeScriptProblem(message, before.count("\n") + 1, len(before) - line_start + 1)

    def _excerpt(self, node: Node) -> str:
        text = " ".join(self._text(node)[:200].split())
        return text if len(text) <= 40 else f"{text[:39]}…"

    def _text(self, node: Node) -> str:
        return self._source[node.start_byte : node.end_byte].decode(errors="replace")


def _named(node: Node) -> list[Node]:
    return [each for each in node.named_children if each.type != "comment"]


def _inside(node: Node) -> Node:
    return _named(node)[0]


def _field(node: Node, name: str) -> Node:
    found = node.child_by_field_name(name)
    assert found is not None, f"{node.type} without {name}"
    return found


def _within(node: Node) -> Iterator[Node]:
    """All nodes in the order of the text."""
    cursor, deeper = node.walk(), True
    while True:
        if deeper and cursor.node is not None:
            yield cursor.node
        if deeper and cursor.goto_first_child():
            continue
        deeper = cursor.goto_next_sibling()
        if not deeper and not cursor.goto_parent():
            return
