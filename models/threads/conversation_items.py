"""Items of OpenAI's Conversations API as messages of threads, and the other way round."""

import uuid
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import orjson

from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.gateway.chat_format import BadCall
from models.gateway.formats.body_checks import check_content
from models.ledger.sanitizing import clean_json
from models.threads import tree
from models.threads.kept_answer import MARK
from models.threads.message_content import MAX_PARTS, check_storable
from models.threads.thread import Thread, ThreadMessage
from models.threads.thread_limits import count_written

KIND = "conversation"
PREFIX, THREAD_PREFIX = "conv_", "thrd_"
MAX_ITEMS = 20
"""Items that are added at a time by the client."""
_DEEP = 50
"""How deeply values are nested, and how many a list has, of an item that had to be cut."""
MAX_CONTEXT_BYTES = 20 << 20
"""Bytes of a conversation that a response may continue."""
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_NEEDED = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
    "function_call_output": ("call_id",),
    "custom_tool_call_output": ("call_id",),
}


class ItemsPage(NamedTuple):
    """Items of a conversation, and whether there are more."""

    items: list[dict[str, Any]]
    more: bool


def conversation_id(thread: Thread) -> str:
    """The id of the thread as a conversation."""
    return PREFIX + thread.id.removeprefix(THREAD_PREFIX)


def own_conversation(user_id: str, account_id: str, id: str) -> Thread:
    """The person's conversation that this account pays for. Raises NotFound."""
    try:
        thread = tree.own_thread(user_id, account_id, THREAD_PREFIX + id.removeprefix(PREFIX))
    except NotFound:
        thread = None
    if thread is None or thread.kind != KIND or not id.startswith(PREFIX):
        raise NotFound(f"Conversation with id '{id[:80]}' not found.")
    return thread


# -- adding --------------------------------------------------------------------------------------------------


def checked_items(given: Any, *, limit: int | None = MAX_ITEMS, name: str = "items") -> list[dict[str, Any]]:
    """The items of a request, or of a response's input. Raises BadCall, which names the item that is wrong."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list):
        raise BadCall(f"'{name}' must be a list of items.", param=name)
    if limit is not None and len(given) > limit:
        raise BadCall(f"'{name}' has more than {limit} items. Add the others after them.", param=name)
    return [_checked(item, f"{name}[{number}]") for number, item in enumerate(given)]


def check_storable_request(body: Mapping[str, Any]) -> None:
    """Raise BadCall for a body that PostgreSQL cannot store: with NUL, or nested too deeply."""
    try:
        raw = orjson.dumps(body)
    except (orjson.JSONEncodeError, RecursionError):
        raise BadCall("The body must be JSON that is not nested too deeply.") from None
    if b"\\u0000" in raw and clean_json(body) != body:
        raise BadCall("The body has a NUL character. Remove it.")


def _checked(item: Any, name: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise BadCall(f"'{name}' must be an object.", param=name)
    kind = item.get("type") or "message"
    if not isinstance(kind, str) or not 1 <= len(kind) <= 64:
        raise BadCall(f"'{name}.type' must be the kind of an item, such as 'message'.", param=f"{name}.type")
    if kind == "item_reference":
        raise BadCall(f"'{name}' refers to an item: send the item itself.", param=name)
    try:
        check_storable(item, name)
    except Invalid as error:
        raise BadCall(error.message, param=name) from None
    if kind == "message" and item.get("role") not in _ROLES:
        raise BadCall(f"'{name}.role' must be one of {', '.join(_ROLES)}.", param=f"{name}.role")
    for key in _NEEDED.get(kind, ()):
        if not isinstance(item.get(key), str):
            raise BadCall(f"'{name}.{key}' must be a string.", param=f"{name}.{key}")
    for key in ("content", "output", "summary"):
        if key in item:
            check_content(item[key], f"{name}.{key}")
    return {**item, "type": kind}


def kept_items(given: Sequence[Any]) -> list[dict[str, Any]]:
    """The items of an answer as a conversation can keep them: it was paid for, so what is too large, or has no form that is known, is cut. In
    their order."""
    return [_kept(item) for item in given if isinstance(item, dict)]


def _kept(item: dict[str, Any]) -> dict[str, Any]:
    try:
        return _checked(item, "output")
    except BadCall:
        pass
    for most in (500_000, 140_000, 10_000, 100):
        cut = _cut(item, most, 0)
        try:
            return {**_checked(cut, "output"), "status": "incomplete"}
        except BadCall:
            continue
    return {"type": "message", "role": "assistant", "status": "incomplete", "content": MARK}


def _cut(value: Any, most: int, depth: int) -> Any:
    """The value with texts of at most `most` characters, not nested deeply, and of lists the beginning."""
    if isinstance(value, str):
        return value if len(value) <= most else value[:most] + MARK
    if isinstance(value, dict | list) and depth >= _DEEP:
        return MARK
    if isinstance(value, dict):
        return {key[:most]: _cut(each, most, depth + 1) for key, each in islice(value.items(), _DEEP)}
    if isinstance(value, list):
        return [_cut(each, most, depth + 1) for each in value[:_DEEP]]
    return value


def add_items(
    thread: Thread, items: Sequence[Mapping[str, Any]], *, turn_id: str | None = None, keep_ids: bool = False
) -> list[dict[str, Any]]:
    """Add checked items at the end of the conversation. `keep_ids`: they have those that a response gave them, unless these are taken.
    Those that no turn wrote count against the person's limits of a day. Returns them as they are listed. Locks the thread; flushes. Raises
    Conflict (`thread_full`), Invalid, WriteLimitExceeded."""
    if turn_id is None and items:
        count_written(thread.user_id, messages=len(items), size=len(orjson.dumps(items)))
    thread = tree.lock(thread)
    return [_add(thread, item, turn_id, keep_ids) for item in items]


def _add(thread: Thread, item: Mapping[str, Any], turn_id: str | None, keep_id: bool) -> dict[str, Any]:
    kind = item["type"]
    id = f"{_PREFIXES.get(kind, 'item')}_{uuid.uuid4().hex}"
    given = item.get("id")
    if keep_id and isinstance(given, str) and 4 < len(given) <= 200 and "__" not in given:
        id = given if db.session.get(ThreadMessage, given) is None else id
    stored = {**item, "id": id, **_normal(item)}
    tree.append(thread, id=id, turn_id=turn_id, item=stored, **_message(stored))
    return stored


def _normal(item: Mapping[str, Any]) -> dict[str, Any]:
    """What an item has when it is listed, although clients need not send it."""
    status = item["status"] if isinstance(item.get("status"), str) else "completed"
    if item["type"] != "message":
        return {"status": status}
    content = item.get("content")
    if isinstance(content, str):
        part = "output_text" if item["role"] == "assistant" else "input_text"
        content = [{"type": part, "text": content}]
    return {"status": status, "content": [_normal_part(part) for part in content or ()]}


def _normal_part(part: Mapping[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "output_text": {"annotations": []},
        "input_image": {"detail": "auto", "file_id": None},
    }
    return {**defaults.get(str(part.get("type")), {}), **part}


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item as a message of a thread, for pages, the search and exports."""
    match item["type"]:
        case "message":
            return {"role": _ROLES[item["role"]], "content": _parts(item["content"])}
        case "function_call" | "custom_tool_call":
            arguments = item["arguments"] if item["type"] == "function_call" else item["input"]
            function = {"name": item["name"], "arguments": arguments}
            call = {"id": item["call_id"], "type": "function", "function": function}
            return {"role": "assistant", "content": [], "tool_calls": [call]}
        case "function_call_output" | "custom_tool_call_output":
            return {"role": "tool", "content": _parts(item.get("output")), "tool_call_id": item["call_id"]}
        case "reasoning":
            texts = [
                part["text"] for part in _parts([*_list(item.get("summary")), *_list(item.get("content"))])
            ]
            return {
                "role": "assistant",
                "content": [{"type": "reasoning", "text": "\n\n".join(texts)}] if texts else [],
            }
    return {"role": "assistant", "content": []}


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    parts: list[dict[str, Any]] = []
    for part in _list(content):
        kind = part.get("type")
        if kind in _TEXTS and part.get("text"):
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            parts.append({"type": "text", "text": part["refusal"]})
        elif kind == "input_image" and isinstance(part.get("image_url"), str):
            parts.append({"type": "image_url", "image_url": {"url": part["image_url"]}})
    # the item has them all
    return parts[:MAX_PARTS]


def _list(value: Any) -> list[Any]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


# -- reading -------------------------------------------------------------------------------------------------


def items_page(
    thread: Thread, *, after: str | None = None, newest_first: bool = True, limit: int = 20
) -> ItemsPage:
    """A page of the items, from the one behind the item `after`. Raises NotFound."""
    found: list[dict[str, Any]] = []
    last: ThreadMessage | None = None
    if after is not None:
        last = _message_of(thread, after)
        own = _ordered(items_of(last), newest_first)
        ids = [item["id"] for item in own]
        found += own[ids.index(after) + 1 :] if after in ids else []
    if newest_first:
        more = tree.path(thread, before=last.id if last else None, limit=limit + 1)
    elif last is not None:
        more = tree.path(thread, after=last.id, limit=limit + 1)
    else:
        more = list(islice(tree.walk(thread, size=limit + 1), limit + 1))
    for message in more:
        found += _ordered(items_of(message), newest_first)
    return ItemsPage(found[:limit], len(found) > limit)


def item_of(thread: Thread, id: str) -> dict[str, Any]:
    """An item of the conversation. Raises NotFound."""
    for item in items_of(_message_of(thread, id)):
        if item["id"] == id:
            return item
    raise _unknown(id)


def remove_item(thread: Thread, id: str) -> None:
    """Take an item out of the conversation; what follows it stays. Locks the thread; flushes. Raises NotFound."""
    tree.remove(thread, _message_of(thread, id))


def context_items(thread: Thread) -> list[dict[str, Any]]:
    """All items, oldest first, as a model gets them. Raises BadCall if they are more than a request may have."""
    items: list[dict[str, Any]] = []
    size = 0
    for message in tree.walk(thread):
        own = items_of(message)
        size += len(orjson.dumps(own))
        if size > MAX_CONTEXT_BYTES:
            problem = f"The conversation has more than {MAX_CONTEXT_BYTES >> 20} MB. Begin a new one."
            raise BadCall(problem, param="conversation")
        items += own
    return items


def items_of(message: ThreadMessage) -> list[dict[str, Any]]:
    """The message as items: the one that it was added as; else its text, then a call of each of its tools."""
    if message.item is not None:
        return [message.item]
    if message.role == "tool":
        output = "\n".join(part["text"] for part in message.content if part["type"] == "text")
        head = {"id": message.id, "type": "function_call_output", "call_id": message.tool_call_id or ""}
        return [{**head, "output": output, "status": "completed"}]
    calls = [
        {
            "id": f"{message.id}__{number}",
            "type": "function_call",
            "call_id": call["id"],
            "name": call["function"]["name"],
            "arguments": call["function"]["arguments"],
            "status": "completed",
        }
        for number, call in enumerate(message.tool_calls or (), 1)
    ]
    content = [_item_part(message.role, part) for part in message.content if part["type"] != "reasoning"]
    if calls and not content:
        return calls
    head = {"id": message.id, "type": "message", "role": message.role, "status": message.state}
    return [{**head, "content": content}, *calls]


def _item_part(role: str, part: Mapping[str, Any]) -> dict[str, Any]:
    match part["type"]:
        case "image_url":
            image = part["image_url"]
            return {
                "type": "input_image",
                "image_url": image["url"],
                "detail": image.get("detail", "auto"),
                "file_id": None,
            }
        case "file":
            return {"type": "input_text", "text": f"[{part['name']}]"}
    if role == "assistant":
        return {"type": "output_text", "text": part["text"], "annotations": []}
    return {"type": "input_text", "text": part["text"]}


def _ordered(items: list[dict[str, Any]], newest_first: bool) -> list[dict[str, Any]]:
    return items[::-1] if newest_first else items


def _message_of(thread: Thread, id: str) -> ThreadMessage:
    try:
        message = tree.message_of(thread, id.partition("__")[0])
    except NotFound:
        raise _unknown(id) from None
    if message.removed_at is not None:
        raise _unknown(id)
    return message


def _unknown(id: str) -> NotFound:
    return NotFound(f"Item with id '{id[:80]}' not found.")
