"""The programming languages whose files merge by structure: which syntax nodes are units, and where their parts are."""

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from posixpath import splitext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Parser

MAX_PARSE_BYTES = 256 << 10
"""Bytes of a file that is parsed. A file made to be slow takes a quarter of a second."""


@dataclass(frozen=True)
class CodeGrammar:
    """A grammar by its package and function. Types of syntax nodes:

    `named`: units with a field `name`, whose order means nothing; `wrappers`: the field of nodes that hold a unit;
    `leading`: what belongs to the unit after it; `bodies`: what holds units inside one;
    `imports`: units of a list of names, and the type of that list and of its members."""

    package: str
    function: str = "language"
    named: frozenset[str] = frozenset()
    wrappers: dict[str, str] = field(default_factory=dict)
    leading: frozenset[str] = frozenset()
    bodies: frozenset[str] = frozenset()
    imports: frozenset[str] = frozenset()


_WORDS = str.split
PYTHON = CodeGrammar(
    "tree_sitter_python",
    named=frozenset(_WORDS("function_definition class_definition")),
    wrappers={"decorated_definition": "definition"},
    bodies=frozenset({"block"}),
    imports=frozenset(_WORDS("import_statement import_from_statement future_import_statement")),
)
_SCRIPT_NAMED = (
    "function_declaration generator_function_declaration class_declaration method_definition field_definition"
    " public_field_definition interface_declaration type_alias_declaration enum_declaration abstract_class_declaration"
    " method_signature property_signature abstract_method_signature function_signature"
)
JAVASCRIPT = CodeGrammar(
    "tree_sitter_javascript",
    named=frozenset(_WORDS(_SCRIPT_NAMED)),
    wrappers={"export_statement": "declaration"},
    leading=frozenset({"decorator"}),
    bodies=frozenset({"class_body"}),
    imports=frozenset({"import_statement"}),
)
TYPESCRIPT = CodeGrammar(
    "tree_sitter_typescript",
    "language_typescript",
    named=JAVASCRIPT.named,
    wrappers=JAVASCRIPT.wrappers,
    leading=JAVASCRIPT.leading,
    bodies=frozenset(_WORDS("class_body interface_body object_type")),
    imports=JAVASCRIPT.imports,
)
TSX = CodeGrammar(
    "tree_sitter_typescript",
    "language_tsx",
    named=TYPESCRIPT.named,
    wrappers=TYPESCRIPT.wrappers,
    leading=TYPESCRIPT.leading,
    bodies=TYPESCRIPT.bodies,
    imports=TYPESCRIPT.imports,
)
GO = CodeGrammar(
    "tree_sitter_go",
    named=frozenset(_WORDS("function_declaration method_declaration")),
    imports=frozenset({"import_declaration"}),
)
RUST = CodeGrammar(
    "tree_sitter_rust",
    named=frozenset(
        _WORDS(
            "function_item struct_item enum_item union_item trait_item mod_item const_item static_item type_item"
        )
    ),
    leading=frozenset({"attribute_item"}),
    bodies=frozenset({"declaration_list"}),
    imports=frozenset({"use_declaration"}),
)
JAVA = CodeGrammar(
    "tree_sitter_java",
    named=frozenset(
        _WORDS(
            "class_declaration interface_declaration enum_declaration record_declaration method_declaration"
            " constructor_declaration annotation_type_declaration"
        )
    ),
    bodies=frozenset(_WORDS("class_body interface_body")),
    imports=frozenset({"import_declaration"}),
)
JSON_GRAMMAR = CodeGrammar("tree_sitter_json")
TOML_GRAMMAR = CodeGrammar("tree_sitter_toml")
YAML_GRAMMAR = CodeGrammar("tree_sitter_yaml")

_BY_SUFFIX = {
    ".py": PYTHON,
    ".pyi": PYTHON,
    ".js": JAVASCRIPT,
    ".mjs": JAVASCRIPT,
    ".cjs": JAVASCRIPT,
    ".jsx": JAVASCRIPT,
    ".ts": TYPESCRIPT,
    ".mts": TYPESCRIPT,
    ".cts": TYPESCRIPT,
    ".tsx": TSX,
    ".go": GO,
    ".rs": RUST,
    ".java": JAVA,
}


def code_grammar(path: str) -> CodeGrammar | None:
    """The grammar of a file's language, by its suffix."""
    return _BY_SUFFIX.get(splitext(path)[1].lower())


def code_parser(grammar: CodeGrammar) -> "Parser":
    """A new parser; parsers are not shared, as threads may not use one at a time."""
    from tree_sitter import Language, Parser

    return Parser(Language(_pointer(grammar.package, grammar.function)))


@cache
def _pointer(package: str, function: str) -> object:
    """Grammars are imported when they are first needed: most workers never merge."""
    return getattr(import_module(package), function)()
