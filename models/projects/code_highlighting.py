"""Kinds of the words of a program, for colours: comments, keywords, strings and values, by the grammars that merge files."""

from collections.abc import Iterator
from posixpath import splitext
from typing import TYPE_CHECKING, NamedTuple

from models.core.cooperative import TimeSlices, heavy
from models.projects.merge.code_grammars import (
    JSON_GRAMMAR,
    MAX_PARSE_BYTES,
    TOML_GRAMMAR,
    YAML_GRAMMAR,
    CodeGrammar,
    code_grammar,
    code_parser,
)

if TYPE_CHECKING:
    from tree_sitter import Node

_DATA = {".json": JSON_GRAMMAR, ".toml": TOML_GRAMMAR, ".yaml": YAML_GRAMMAR, ".yml": YAML_GRAMMAR}
_WORDS = frozenset({"true", "false", "none", "null", "null_scalar", "boolean", "boolean_scalar", "nil"})
_NUMBERS = ("integer", "float", "number", "int_literal", "decimal")
MAX_SPANS = 20_000
"""Coloured words of a file; the rest is plain."""


class CodeWord(NamedTuple):
    """A part of a line. `kind` is `c` for a comment, `k` a keyword, `s` a string, `v` a value, empty for plain text."""

    kind: str
    text: str


def code_lines(path: str, text: str) -> list[list[CodeWord]]:
    """The lines of a file in coloured words; plain for a language without a grammar, or more than `MAX_PARSE_BYTES`."""
    data = text.encode(errors="replace")
    found: list[list[CodeWord]] = [[]]
    at = 0
    for start, end, kind in _spans(_grammar(path), data):
        _add(found, "", data[at:start])
        _add(found, kind, data[start:end])
        at = end
    _add(found, "", data[at:])
    if not found[-1]:
        found.pop()
    return found


def _grammar(path: str) -> CodeGrammar | None:
    return code_grammar(path) or _DATA.get(splitext(path)[1].lower())


def _add(lines: list[list[CodeWord]], kind: str, data: bytes) -> None:
    first, *others = data.decode(errors="replace").split("\n")
    if first:
        lines[-1].append(CodeWord(kind, first))
    lines.extend([CodeWord(kind, line)] if line else [] for line in others)


def _spans(grammar: CodeGrammar | None, data: bytes) -> Iterator[tuple[int, int, str]]:
    """Start, end and kind of coloured words in the order of the text; they do not overlap."""
    if grammar is None or len(data) > MAX_PARSE_BYTES:
        return
    with heavy(len(data), 32 << 10):
        tree = code_parser(grammar).parse(data)
    cursor, slices, count = tree.walk(), TimeSlices(), 0
    deeper = True
    while count < MAX_SPANS:
        node = cursor.node
        kind = _kind(node) if deeper and node is not None else ""
        if kind and node is not None:
            yield node.start_byte, node.end_byte, kind
            count += 1
        if deeper and not kind and cursor.goto_first_child():
            continue
        deeper = cursor.goto_next_sibling()
        if not deeper and not cursor.goto_parent():
            return
        slices.pause()


def _kind(node: "Node") -> str:
    type = node.type
    if not node.is_named:
        return "k" if type.isalpha() and node.child_count == 0 else ""
    if "comment" in type:
        return "c"
    if type in ("string", "template_string", "char_literal", "character_literal") or type.endswith(
        ("string_literal", "quote_scalar")
    ):
        return "s"
    return "v" if type in _WORDS or any(each in type for each in _NUMBERS) else ""
