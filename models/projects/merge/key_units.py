"""Merges JSON, TOML and YAML by key: the texts keep their format and comments, and the values are checked with a real parser."""

import json
import tomllib
from collections import Counter
from collections.abc import Callable
from posixpath import basename, splitext
from typing import TYPE_CHECKING, Any

from models.projects.merge.code_grammars import (
    JSON_GRAMMAR,
    MAX_PARSE_BYTES,
    TOML_GRAMMAR,
    YAML_GRAMMAR,
    code_parser,
)
from models.projects.merge.unit_merge import UnitGroup
from models.projects.merge.unit_ranges import FoundUnit, comma_group, line_end, line_group

if TYPE_CHECKING:
    from tree_sitter import Node

MAX_NESTED_KEYS = 32
"""Objects in objects that are divided further."""
MAX_DEPTH = 64
"""Objects and lists in each other, in a text whose value is compared."""
MAX_DOTS = 500
"""Dots in a line: dotted keys take tomllib a time that grows with the square of their parts."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NAMES = {
    **dict.fromkeys((".json", ".ipynb", ".webmanifest", ".geojson"), "json"),
    ".toml": "toml",
    **dict.fromkeys((".yaml", ".yml"), "yaml"),
}


class NotData(Exception):
    """The text is not of its format, or uses a part of it whose meaning cannot be compared: aliases, duplicate keys."""


def key_format(path: str) -> str | None:
    """`json`, `toml` or `yaml`, by the suffix; None for other files."""
    return _NAMES.get(splitext(basename(path))[1].lower())


def key_units(form: str, source: bytes) -> UnitGroup | None:
    """The units of a text in the plain shape: its keys and those inside them. None if it has none, or syntax errors."""
    if len(source) > MAX_PARSE_BYTES:
        return None
    grammar, divide = {
        "json": (JSON_GRAMMAR, _json_units),
        "toml": (TOML_GRAMMAR, _toml_units),
        "yaml": (YAML_GRAMMAR, _yaml_units),
    }[form]
    root = code_parser(grammar).parse(source).root_node
    return None if root.has_error else divide(source, root)


# -- units --------------------------------------------------------------------------------------------------------------


def _json_units(source: bytes, root: "Node") -> UnitGroup | None:
    values = [child for child in root.named_children if child.type != "comment"]
    if len(values) != 1 or values[0].type != "object":
        return None
    return _json_object(source, values[0], 0, len(source), 0)


def _json_object(source: bytes, node: "Node", start: int, end: int, depth: int) -> UnitGroup | None:
    found = []
    for pair in node.named_children:
        key, value = pair.child_by_field_name("key"), pair.child_by_field_name("value")
        if pair.type != "pair" or key is None or value is None:
            return None
        inner = None
        if value.type == "object" and depth < MAX_NESTED_KEYS:
            inner = _inside(_json_object, source, value, depth)
        found.append(FoundUnit(pair, (_text(source, key),), inner=inner))
    return comma_group(source, start, node.start_byte + 1, end, found)


def _inside(
    divide: "Callable[[bytes, Node, int, int, int], UnitGroup | None]",
    source: bytes,
    node: "Node",
    depth: int,
) -> Callable[[int, int], UnitGroup | None]:
    return lambda start, end: divide(source, node, start, end, depth + 1)


def _toml_units(source: bytes, root: "Node") -> UnitGroup | None:
    found = []
    for node in root.named_children:
        if node.type == "comment":
            continue
        if node.type == "pair":
            found.append(_toml_pair(source, node))
            continue
        name, *pairs = (child for child in node.named_children if child.type != "comment")
        last = (
            pairs[-1]
            if pairs
            else next(child for child in reversed(node.children) if child.type in ("]", "]]"))
        )
        key = (node.type, "".join(_text(source, name).split()))
        found.append(FoundUnit(node, key, inner=_toml_table(source, node, pairs), end=last.end_byte))
    return line_group(source, 0, 0, len(source), found)


def _toml_table(source: bytes, node: "Node", pairs: "list[Node]") -> Callable[[int, int], UnitGroup | None]:
    closed = next(child.end_byte for child in node.children if child.type in ("]", "]]"))

    def inner(start: int, end: int) -> UnitGroup | None:
        head_end = line_end(source, closed)
        found = [_toml_pair(source, pair) for pair in pairs]
        return None if head_end is None else line_group(source, start, head_end, end, found)

    return inner


def _toml_pair(source: bytes, pair: "Node") -> FoundUnit:
    return FoundUnit(pair, ("pair", "".join(_text(source, pair.named_children[0]).split())))


def _yaml_units(source: bytes, root: "Node") -> UnitGroup | None:
    documents = [child for child in root.named_children if child.type == "document"]
    mapping = _yaml_mapping(documents[0]) if len(documents) == 1 else None
    return None if mapping is None else _yaml_pairs(source, mapping, 0, 0, len(source), 0)


def _yaml_mapping(node: "Node") -> "Node | None":
    """The mapping that is the value of a document or a key."""
    held = next((child for child in node.named_children if child.type == "block_node"), None)
    inner = held.named_children if held is not None else []
    return inner[0] if len(inner) == 1 and inner[0].type == "block_mapping" else None


def _yaml_pairs(
    source: bytes, mapping: "Node", start: int, head_end: int | None, end: int, depth: int
) -> UnitGroup | None:
    found = []
    for pair in mapping.named_children:
        key, value = pair.child_by_field_name("key"), pair.child_by_field_name("value")
        if pair.type != "block_mapping_pair" or key is None:
            if pair.type == "comment":
                continue
            return None
        inner = None
        held = value.named_children if value is not None and value.type == "block_node" else []
        if len(held) == 1 and held[0].type == "block_mapping" and depth < MAX_NESTED_KEYS:
            inner = _yaml_inside(source, pair, held[0], depth)
        found.append(FoundUnit(pair, (_text(source, key),), inner=inner, end=_yaml_end(source, pair)))
    return None if head_end is None else line_group(source, start, head_end, end, found)


def _yaml_inside(
    source: bytes, pair: "Node", mapping: "Node", depth: int
) -> Callable[[int, int], UnitGroup | None]:
    colon = next(child.end_byte for child in pair.children if child.type == ":")
    return lambda start, end: _yaml_pairs(source, mapping, start, line_end(source, colon), end, depth + 1)


def _yaml_end(source: bytes, pair: "Node") -> int:
    """Blocks may end after the blank lines and comments that follow; a unit ends with its last value."""
    last = pair
    while last.type.startswith("block_") and last.type != "block_scalar":
        held = [child for child in last.named_children if child.type != "comment"]
        if not held:
            break
        last = held[-1]
    return pair.start_byte + len(source[pair.start_byte : last.end_byte].rstrip())


def _text(source: bytes, node: "Node") -> str:
    return source[node.start_byte : node.end_byte].decode(errors="replace")


# -- values -------------------------------------------------------------------------------------------------------------


def parsed(form: str, source: bytes) -> Any:
    """The value of a text as plain data; numbers keep their spelling. Raises NotData."""
    if (
        len(source) > MAX_PARSE_BYTES
        or not _shallow(source)
        or max(map(_dots, source.split(b"\n"))) > MAX_DOTS
    ):
        raise NotData
    try:
        text = source.decode()
        return _checked({"json": _parsed_json, "toml": _parsed_toml, "yaml": _parsed_yaml}[form](text), 0)
    except (ValueError, RecursionError) as error:
        raise NotData from error


def _shallow(source: bytes) -> bool:
    """Whether brackets are not nested too deep: libyaml takes seconds for them. Those in strings count too."""
    depth = 0
    for bracket in source.translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return False
    return True


def _dots(line: bytes) -> int:
    return line.count(b".") if not line.lstrip().startswith(b"#") else 0


def _parsed_json(text: str) -> Any:
    return json.loads(
        text, object_pairs_hook=_unique, parse_int=_number, parse_float=_number, parse_constant=_number
    )


def _parsed_toml(text: str) -> Any:
    return tomllib.loads(text, parse_float=_number)


def _parsed_yaml(text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
            raise NotData
        documents = [_yaml_value(node) for node in yaml.compose_all(text, Loader=loader)]
        return documents[0] if len(documents) == 1 else documents
    except yaml.YAMLError as error:
        raise NotData from error


def _yaml_value(node: Any) -> Any:
    """A composed node as plain data: the tag and text of scalars, so that nothing is constructed."""
    if isinstance(node.value, str):
        return node.tag, node.value
    if node.id == "mapping":
        return _unique([(repr(_yaml_value(key)), _yaml_value(value)) for key, value in node.value])
    return [_yaml_value(each) for each in node.value]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotData
    return found


def _number(text: str) -> tuple[str, str]:
    return "number", text


def _checked(value: Any, depth: int) -> Any:
    """The value if it is not nested deeper than `MAX_DEPTH`; true is told from 1, which Python does not."""
    if depth > MAX_DEPTH:
        raise NotData
    if isinstance(value, dict):
        return {key: _checked(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_checked(each, depth + 1) for each in value]
    return ("boolean", value) if isinstance(value, bool) else value


_ABSENT = object()


def values_agree(base: Any, ours: Any, theirs: Any, merged: Any) -> bool:
    """Whether a value is what both sides made of it: each key as the side that changed it has it, and lists with the items of both."""
    if ours in (theirs, base):
        return bool(merged == theirs)
    if base == theirs:
        return bool(merged == ours)
    versions = (base, ours, theirs, merged)
    if all(isinstance(each, dict) for each in versions):
        keys = set().union(*versions)
        return all(values_agree(*(each.get(key, _ABSENT) for each in versions)) for key in keys)
    if all(isinstance(each, list) for each in versions):
        if len({len(each) for each in versions}) == 1 and all(map(values_agree, *versions)):
            return True
        counts = [Counter(map(repr, each)) for each in versions]
        return all(values_agree(*(count[item] for count in counts)) for item in set().union(*counts))
    return False
