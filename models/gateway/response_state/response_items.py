"""Items of kept responses: as they are kept and listed, and as they are sent again."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.gateway.chat_format import BadCall

REFERENCE = "item_reference"
MAX_REFERENCES = 2_000
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
_STATELESS = (
    "message",
    *("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
)
"""Kinds whose ids mean nothing to a provider that keeps nothing."""


class ItemNotFound(BadCall):
    """An item reference is not that of a kept item."""

    status = 404
    code = "item_not_found"


def is_item_id(value: object) -> bool:
    """Whether a value can be the id of an item."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def references(given: Any) -> list[str]:
    """The ids of the items that an input refers to. Raises BadCall."""
    found: list[str] = []
    for index, item in enumerate(given if isinstance(given, list) else ()):
        if isinstance(item, dict) and item.get("type") == REFERENCE:
            if not is_item_id(item.get("id")):
                raise BadCall(f"'input[{index}].id' must be the id of an item.", param=f"input[{index}].id")
            found.append(item["id"])
    if len(found) > MAX_REFERENCES:
        raise BadCall(f"'input' refers to more than {MAX_REFERENCES:,} items.", param="input")
    return found


def kept_items(given: Any, answer_id: str) -> list[dict[str, Any]]:
    """The input of a request as it is kept: each item has an id, each message a list of contents. References stay references."""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or ()
    return [_kept(item, f"{answer_id.removeprefix('resp_')}_i{number}") for number, item in enumerate(items)]


def _kept(item: Mapping[str, Any], own: str) -> dict[str, Any]:
    kind = str(item.get("type") or "message")
    if kind == REFERENCE:
        return dict(item)
    given = item.get("id")
    id = given if is_item_id(given) else f"{_PREFIXES.get(kind, 'item')}_{own}"
    if kind != "message":
        return {**item, "id": id}
    content = item.get("content")
    if isinstance(content, str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        content = [{"type": part, "text": content}]
    return {**item, "id": id, "type": kind, "status": "completed", "content": content or []}


def own_ids(
    input_items: Iterable[Mapping[str, Any]], output: Iterable[Mapping[str, Any]], given: Any
) -> list[str]:
    """The ids by which items of a response can be referred to: those of its output, and those that its input got here."""
    sent = {item.get("id") for item in given if isinstance(item, dict)} if isinstance(given, list) else set()
    ids = [item.get("id") for item in output]
    ids += [id for item in input_items if (id := item.get("id")) not in sent]
    return [id for id in ids if isinstance(id, str) and is_item_id(id)]


def with_references(given: Any, found: Mapping[str, Any]) -> list[Any]:
    """The input with the items that it refers to. Raises ItemNotFound."""
    items: list[Any] = []
    for index, item in enumerate(given):
        if isinstance(item, dict) and item.get("type") == REFERENCE:
            if item.get("id") not in found:
                raise ItemNotFound(
                    f"Item with id '{item.get('id')}' not found. Items of responses with 'store' false are not kept: "
                    "send the item instead.",
                    param=f"input[{index}]",
                )
            item = sent_again(found[item["id"]])
        items.append(item)
    return items


def sent_again(item: Mapping[str, Any]) -> dict[str, Any]:
    """A kept item as a provider gets it, which does not know its id."""
    if item.get("type") in _STATELESS:
        return {key: value for key, value in item.items() if key not in ("id", "status")}
    return dict(item)


def shown(item: Mapping[str, Any], include: Sequence[str]) -> dict[str, Any]:
    """An item in a list: without its encrypted reasoning, unless that is wanted."""
    if item.get("type") == "reasoning" and "reasoning.encrypted_content" not in include:
        return {key: value for key, value in item.items() if key != "encrypted_content"}
    return dict(item)
