"""What a model wrote as a message can keep it: it was paid for, so whatever limit it crosses, what fits is kept and the rest is said to be missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from models.core.errors import Invalid
from models.threads.message_content import MAX_CONTENT_BYTES, MAX_TEXT, answer_parts, check_storable, fitting

CODE = "answer_too_large"
MARK = "\n\n[cut]"
"""What ends a text of which more was written."""
MAX_NAME = 300
"""Characters of a model's name and of a reason that are kept."""
MAX_USAGE_BYTES = 32 << 10
_SPARE_BYTES = 4_096
"""For the brackets and keys around the parts."""

Check = Callable[[str], tuple[str, list[dict[str, Any]]]]
"""Checks the citations in a text: the text as it is kept, and the citations."""


@dataclass(frozen=True)
class FittingAnswer:
    """`problem` says what was left out; empty: nothing but reasoning."""

    parts: list[dict[str, Any]]
    tool_calls: list[Any] | None
    citations: list[dict[str, Any]]
    problem: str = ""


def kept_answer(
    text: str, thinking: str = "", tool_calls: list[Any] | None = None, check: Check | None = None
) -> FittingAnswer:
    """The answer within the limits of a message: its text first, then its tool calls, all or none, citations, and reasoning."""
    whole, problem, citations = text.replace("\x00", ""), "", list[dict[str, Any]]()
    text = fitting(whole)
    is_cut = len(text) < len(whole)
    if check is not None and text:
        text, citations = check(text)
    if is_cut:
        text, problem = text + MARK, "The answer has more than 1 MB. Its beginning is kept."
    room = MAX_CONTENT_BYTES - _SPARE_BYTES - len(orjson.dumps(text))
    size = len(orjson.dumps(tool_calls)) if tool_calls else 0
    if size > room:
        tool_calls, size = None, 0
        problem = problem or "The tool calls of the answer have more than 1 MB. They were left out."
    citations = _first(citations, room - size)
    size += len(orjson.dumps(citations))
    return FittingAnswer(answer_parts(thinking, text, MAX_TEXT - size), tool_calls, citations, problem)


def kept_usage(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The provider's usage object, or of one that cannot be stored its counts."""
    if usage is None:
        return None
    try:
        if check_storable(usage, "usage") <= MAX_USAGE_BYTES:
            return dict(usage)
    except Invalid:
        pass
    counts = {key: value for key, value in usage.items() if type(value) is int and len(key) <= MAX_NAME}
    return dict(list(counts.items())[:20])


def _first(citations: Sequence[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """As many of the citations as there is room for."""
    found: list[dict[str, Any]] = []
    for each in citations:
        room -= len(orjson.dumps(each)) + 1
        if room < 0:
            break
        found.append(each)
    return found
