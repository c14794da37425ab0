"""Merges the deltas of a stream into one value without losing any field."""

from collections.abc import Mapping
from typing import Any

from models.gateway.lenient_json import whole_text

MAX_DEPTH = 16
"""Deltas are merged down to this depth; below it, the last value wins."""
_ATOMIC_KEYS = frozenset(
    {"role", "id", "type", "index", "format", "finish_reason", "native_finish_reason", "url", "b64_json"}
)
"""Strings that are sent whole and may repeat: never concatenated."""
_TEXT_TYPES = frozenset({"text", "output_text", "thinking", "reasoning.text", "reasoning.summary"})
"""Types of parts that a stream continues without an index."""


class _GrowingText(list[str]):
    """Chunks of one string."""


def merge_delta(
    target: dict[str, Any], delta: Mapping[str, Any], *, grow: bool = True, depth: int = 0
) -> None:
    """Merge a delta into `target`: strings and lists grow, objects merge, the last other value wins. If not `grow`, the last
    string and the last list win too. Read the result with `joined`."""
    for key, value in delta.items():
        existing = target.get(key)
        if value is None:
            target.setdefault(key, None)
        elif isinstance(value, dict) and depth < MAX_DEPTH:
            if not isinstance(existing, dict):
                existing = target[key] = {}
            merge_delta(existing, value, grow=grow, depth=depth + 1)
        elif not grow or depth >= MAX_DEPTH or key in _ATOMIC_KEYS:
            target[key] = value
        elif isinstance(value, str):
            _grow_text(target, key, value, depth)
        elif isinstance(value, list):
            if not isinstance(existing, list) or isinstance(existing, _GrowingText):
                text = "".join(existing) if isinstance(existing, _GrowingText) else ""
                existing = target[key] = []
                if text:
                    _extend(existing, [{"type": "text", "text": text}], depth + 1)
            _extend(existing, value, depth + 1)
        else:
            target[key] = value


def _grow_text(target: dict[str, Any], key: str, value: str, depth: int) -> None:
    existing = target.get(key)
    if isinstance(existing, _GrowingText):
        existing.append(value)
    elif isinstance(existing, list):
        # a content of parts that continues as plain text
        if value:
            _extend(existing, [{"type": "text", "text": value}], depth + 1)
    else:
        target[key] = _GrowingText([value])


def _extend(existing: list[Any], items: list[Any], depth: int) -> None:
    """Merge the items that continue an existing one; append the others."""
    for item in items:
        if not isinstance(item, dict):
            existing.append(item)
            continue
        target = _continued(existing, item)
        if target is None:
            target = {}
            existing.append(target)
        merge_delta(target, item, depth=depth)


def _continued(existing: list[Any], item: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry that an item continues: that of its index, type and id; without an index the last one, if it is text."""
    index, kind = item.get("index"), item.get("type")
    if index is None and str(kind) not in _TEXT_TYPES:
        return None
    for entry in existing if index is not None else existing[-1:]:
        if (
            isinstance(entry, dict)
            and entry.get("index") == index
            and _compatible(entry.get("type"), kind)
            and _compatible(entry.get("id"), item.get("id"))
            # every image is sent whole
            and not ("image_url" in entry and "image_url" in item)
        ):
            return entry
    return None


def _compatible(one: Any, other: Any) -> bool:
    return one is None or other is None or one == other


def joined(value: Any) -> Any:
    """The merged value with its strings joined."""
    if isinstance(value, _GrowingText):
        return whole_text("".join(value))
    if isinstance(value, list):
        return [joined(item) for item in value]
    if isinstance(value, dict):
        return {key: joined(item) for key, item in value.items()}
    return value
