"""Reads one file: what it defines, uses, calls and imports, and where it divides into chunks. Needs no application.

It runs in a process of its own (`fact_process`), because the grammars are native code and files may be hostile."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from posixpath import splitext
from typing import TYPE_CHECKING, Any, NamedTuple

from models.atlas import fact_queries
from models.projects.merge.code_grammars import (
    GO,
    JAVA,
    JAVASCRIPT,
    MAX_PARSE_BYTES,
    PYTHON,
    RUST,
    TSX,
    TYPESCRIPT,
    CodeGrammar,
    code_grammar,
    code_parser,
)

if TYPE_CHECKING:
    from tree_sitter import Node, Query

PARSER_VERSION = 1
"""Raised when the facts of a file change, so that files are read again."""
MAX_TEXT_BYTES = 400_000
"""Bytes of a file that is searched (contract 4.7); one of more than `MAX_PARSE_BYTES` is not parsed."""
MAX_DEFINITIONS, MAX_NAMES, MAX_PLACES, MAX_IMPORTS = 2_000, 4_000, 30, 500
"""Of a file: definitions, names and imports; of a name: lines."""
MAX_NAME = 120
CHUNK_LINES, CHUNK_CHARACTERS = 100, 4_000
"""The largest chunk. One of several definitions is divided at them."""
MAX_CHUNKS = 500
"""Of a file."""
KINDS = ("function", "class", "method", "type", "value")

_QUERIES: tuple[tuple[str, CodeGrammar, str], ...] = (
    ("python", PYTHON, fact_queries.PYTHON_FACTS),
    ("javascript", JAVASCRIPT, fact_queries.JAVASCRIPT_FACTS),
    ("typescript", TYPESCRIPT, fact_queries.TYPESCRIPT_FACTS),
    ("tsx", TSX, fact_queries.TSX_FACTS),
    ("go", GO, fact_queries.GO_FACTS),
    ("rust", RUST, fact_queries.RUST_FACTS),
    ("java", JAVA, fact_queries.JAVA_FACTS),
)
LANGUAGES = {name: grammar for name, grammar, _ in _QUERIES}
BINARY = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "gif",
        "webp",
        "ico",
        "svg",
        "pdf",
        "zip",
        "gz",
        "tar",
        "7z",
        "woff",
        "woff2",
        "mp4",
        "mov",
        "mp3",
        "wav",
        "ogg",
        "bin",
        "dylib",
    ]
)
"""Endings of files that are not searched (contract 4.7)."""
_BEFORE = re.compile(r"\s*(#|//|/\*|\*|@|\[)")
"""A line that belongs to the definition below it: a comment, a decorator, an attribute."""
_HEADING = re.compile(r"(#{1,6}) +(.{1,120})")
_GO_MODULE = re.compile(r"^module\s+(\S{1,300})", re.MULTILINE)


class CodeDefinition(NamedTuple):
    """What a file defines, on the lines `first` to `last` from 1; `name` has those it is in before it, with dots."""

    kind: str
    name: str
    first: int
    last: int


class Span(NamedTuple):
    """The lines `first` to `last` of a chunk, from 1, and what they define or belong to."""

    first: int
    last: int
    symbol: str | None


def language_of(path: str) -> str:
    """The language by whose grammar a file is read, `text` for others that are searched, `gomod` for Go's module files."""
    if path.rpartition("/")[2] == "go.mod":
        return "gomod"
    grammar = code_grammar(path)
    found = next((name for name, each in LANGUAGES.items() if each is grammar), "text") if grammar else "text"
    return "" if splitext(path)[1][1:].lower() in BINARY else found


def read_file(language: str, data: bytes) -> dict[str, Any]:
    """The facts of a file, as they are stored: `defs`, `imports`, `refs` and `calls` by name, `spans`, `package`, `lines`, and `parsed`:
    whether there was a grammar that read it. Nothing of a file without text."""
    text = data.decode(errors="replace").replace("\0", "\ufffd")
    if len(data) > MAX_TEXT_BYTES or b"\0" in data[:8_192] or not text.strip():
        return {"lines": 0, "parsed": False}
    lines = text.split("\n")
    facts: dict[str, Any] = {"lines": len(lines), "parsed": False}
    definitions: list[CodeDefinition] = []
    if language == "gomod":
        found = _GO_MODULE.search(text)
        facts["package"] = found[1] if found else None
    elif language in LANGUAGES and len(data) <= MAX_PARSE_BYTES:
        reading = _FileReading(language, data)
        definitions = reading.definitions()
        facts |= {"parsed": True, "defs": definitions, "imports": reading.imports()}
        facts |= {"refs": reading.places("ref", definitions), "calls": reading.places("call", ())}
        facts["package"] = reading.package()
    units = definitions or (_headings(lines) if language == "text" else [])
    facts["spans"] = _spans(lines, units)
    return facts


class _FileReading:
    """The syntax of one file, as its query captured it."""

    def __init__(self, language: str, data: bytes) -> None:
        from tree_sitter import QueryCursor

        self._language, self._data = language, data
        tree = code_parser(LANGUAGES[language]).parse(data)
        found = QueryCursor(_query(language), match_limit=20_000).captures(tree.root_node)
        # the library gives them in any order
        self._captures: Mapping[str, list[Node]] = {
            name: sorted(nodes, key=lambda node: (node.start_byte, node.end_byte))
            for name, nodes in found.items()
        }
        self._names: set[int] = set()

    def definitions(self) -> list[CodeDefinition]:
        """In the order of the file, with the names that they are in."""
        nodes = [(node, kind) for kind in (*KINDS, "owner") for node in self._captures.get(kind, ())]
        nodes.sort(key=lambda each: (each[0].start_byte, -each[0].end_byte))
        found: list[CodeDefinition] = []
        around: list[tuple[int, str, bool]] = []
        seen: set[int] = set()
        for node, kind in nodes:
            if node.id in seen or len(found) >= MAX_DEFINITIONS:
                continue
            seen.add(node.id)
            while around and around[-1][0] <= node.start_byte:
                around.pop()
            name_node = self._name_node(node, kind)
            name = self._text(name_node)[:MAX_NAME]
            if not name or (around and not around[-1][2]):
                continue  # what functions define inside is theirs alone
            qualified = ".".join((*(each[1] for each in around), name))
            if kind == "method" and self._language == "go":
                qualified = ".".join(filter(None, (self._receiver(node), name)))
            if kind != "owner":
                if name_node is not None:
                    self._names.add(name_node.start_byte)
                in_class = bool(around) and kind == "function"
                found.append(
                    CodeDefinition(
                        "method" if in_class else kind,
                        qualified[:MAX_NAME],
                        node.start_point[0] + 1,
                        node.end_point[0] + 1,
                    )
                )
            around.append((node.end_byte, name, kind in ("class", "type", "owner")))
        return found

    def places(self, capture: str, definitions: Sequence[CodeDefinition]) -> dict[str, list[int]]:
        """The lines on which each name stands, other than where it is defined."""
        found: dict[str, list[int]] = {}
        for node in self._captures.get(capture, ()):
            if capture == "ref" and node.start_byte in self._names:
                continue
            name = self._text(node)
            if not 1 < len(name) <= MAX_NAME:
                continue
            lines = found.get(name)
            if lines is None:
                if len(found) >= MAX_NAMES:
                    continue
                lines = found[name] = []
            line = node.start_point[0] + 1
            if len(lines) < MAX_PLACES and (not lines or lines[-1] != line):
                lines.append(line)
        return {name: sorted(set(lines)) for name, lines in found.items()}

    def imports(self) -> list[tuple[str, int]]:
        """What is imported and on which line, as `import_resolution` reads it."""
        found = dict.fromkeys(
            (spec, node.start_point[0] + 1)
            for node in self._captures.get("spec", ())
            for spec in self._specs(node)
        )
        return list(found)[:MAX_IMPORTS]

    def package(self) -> str | None:
        """The package that the file says it belongs to."""
        nodes = self._captures.get("package", ())
        words = self._text(nodes[0]).rstrip("; \n").split() if nodes else []
        return words[-1][:300] if words else None

    def _specs(self, node: "Node") -> Iterable[str]:
        text = self._text(node)
        match self._language:
            case "python":
                return _python_specs(text)
            case "rust":
                return _rust_specs(node, text)
            case "java":
                return [
                    text.removeprefix("import").strip().removeprefix("static ").rstrip("; ").strip()[:300]
                ]
        return [text.strip("\"'`")[:300]]

    def _name_node(self, node: "Node", kind: str) -> "Node | None":
        if kind == "owner":
            owner = node.child_by_field_name("type")
            return owner.child_by_field_name("type") or owner if owner is not None else None
        if node.type in ("identifier", "type_identifier"):
            return node
        found = node.child_by_field_name("name")
        return found if found is None or found.type.endswith(("identifier", "string")) else None

    def _receiver(self, method: "Node") -> str:
        words = self._text(method.child_by_field_name("receiver")).strip("()").split()
        return words[-1].lstrip("*").partition("[")[0] if words else ""

    def _text(self, node: "Node | None") -> str:
        return (
            ""
            if node is None
            else self._data[node.start_byte : node.end_byte].decode(errors="replace").replace("\0", "")
        )


@cache
def _query(language: str) -> "Query":
    from tree_sitter import Query

    pattern = next(text for name, _, text in _QUERIES if name == language)
    tree_language = code_parser(LANGUAGES[language]).language
    assert tree_language is not None
    return Query(tree_language, pattern)


def _python_specs(text: str) -> Iterator[str]:
    """`a.b` for an import, `a.b|c` for each name from a module."""
    words = re.sub(r"#[^\n]*", " ", text)
    words = re.sub(r"[()\\,]", " ", words)
    words = re.sub(r"\bas\s+\w+", " ", words)
    head, *rest = words.split()
    if head == "import":
        yield from (each[:300] for each in rest)
    elif rest:
        names = rest[2:] or ["*"]
        yield from (f"{rest[0]}|{name}"[:300] for name in names)


def _rust_specs(node: "Node", text: str) -> Iterator[str]:
    """`mod::name` for a module in a file of its own, else each path that a use names, without what is in braces after the first name."""
    if node.type == "mod_item":
        if node.child_by_field_name("body") is None:
            named_node = node.child_by_field_name("name")
            named = named_node.text if named_node is not None else None
            yield f"mod::{(named or b'').decode(errors='replace')[:200]}"
        return
    path = re.sub(r"\s+", " ", re.sub(r"^\s*(pub(\([^)]*\))?\s+)?use\s+", "", text)).rstrip("; ")
    head, brace, inside = path.partition("{")
    if not brace:
        yield path.partition(" as ")[0][:300]
        return
    for name in inside.rstrip("} ").split(",")[:50]:
        plain = name.strip().partition(" as ")[0].partition("{")[0].strip("} ")
        if plain:
            yield f"{head}{plain}"[:300]


def _headings(lines: Sequence[str]) -> list[CodeDefinition]:
    """The sections of a text with headings, as Markdown writes them."""
    marks = [(at, found[2].strip()) for at, line in enumerate(lines, 1) if (found := _HEADING.match(line))]
    marks = marks[:MAX_CHUNKS]
    ends = [at - 1 for at, _ in marks[1:]] + [len(lines)]
    return [CodeDefinition("heading", name, at, end) for (at, name), end in zip(marks, ends, strict=True)]


def _spans(lines: Sequence[str], units: Sequence[CodeDefinition]) -> list[Span]:
    """Chunks that together are the file: at definitions, those inside of a long one too, and cut where they are too large."""
    starts: dict[int, str | None] = {1: None}
    end, divided = 0, False
    for unit in units:
        if unit.kind == "value":
            continue
        inside = unit.first <= end
        if not inside or divided:
            starts[_with_comment(lines, unit.first)] = unit.name
        if not inside:
            end, divided = unit.last, _size(lines, unit.first, unit.last) > CHUNK_CHARACTERS // 2
            if end < len(lines):
                starts.setdefault(end + 1, None)
    found: list[Span] = []
    ordered = sorted(starts)
    for at, first in enumerate(ordered):
        last = ordered[at + 1] - 1 if at + 1 < len(ordered) else len(lines)
        found += _cut(lines, Span(first, last, starts[first]))
    return _joined(lines, [span for span in found if any(map(str.strip, lines[span.first - 1 : span.last]))])[
        :MAX_CHUNKS
    ]


def _with_comment(lines: Sequence[str], first: int) -> int:
    """The first line of the comment, decorators or attributes right above a definition."""
    at = first
    while at > 1 and first - at < 20 and _BEFORE.match(lines[at - 2]):
        at -= 1
    return at


def _cut(lines: Sequence[str], span: Span) -> Iterator[Span]:
    first, size = span.first, 0
    for at in range(span.first, span.last + 1):
        more = min(len(lines[at - 1]) + 1, CHUNK_CHARACTERS)
        if at > first and (size + more > CHUNK_CHARACTERS or at - first >= CHUNK_LINES):
            yield Span(first, at - 1, span.symbol)
            first, size = at, 0
        size += more
    yield Span(first, span.last, span.symbol)


def _joined(lines: Sequence[str], spans: Sequence[Span]) -> list[Span]:
    """Neighbours that are small together as one: of the same symbol or without one."""
    found: list[Span] = []
    for span in spans:
        before = found[-1] if found else None
        alike = before is not None and (before.symbol == span.symbol or span.symbol is None)
        if (
            before is not None
            and alike
            and span.last - before.first < 12
            and before.last + 3 > span.first
            and _size(lines, before.first, span.last) < CHUNK_CHARACTERS // 3
        ):
            found[-1] = Span(before.first, span.last, before.symbol)
        else:
            found.append(span)
    return found


def _size(lines: Sequence[str], first: int, last: int) -> int:
    return sum(len(line) + 1 for line in lines[first - 1 : last])


def enclosing(definitions: Sequence[Sequence[Any]], line: int) -> Sequence[Any] | None:
    """The innermost of these definitions, in the order of their first lines, that has the line."""
    at = bisect_right([each[2] for each in definitions], line)
    return next((each for each in reversed(definitions[:at]) if each[3] >= line), None)
