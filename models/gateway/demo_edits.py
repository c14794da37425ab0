"""Edits of files that `stoa/demo` makes when it is offered tools for them: what a prompt asks for in plain words, one call after the other.

It runs on untrusted requests: the prompt is cut before, the patterns take linear time, and there are at most `MAX_EDITS` calls.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAX_EDITS = 20
TOOLS = frozenset({"edit_file", "write_file", "delete_file", "read_file", "search", "run_command"})
"""The tools that it calls without being told their names."""
MAX_VALUE = 2_000

_FILE = r"[`'\"“]?(?P<file>[\w./-]{1,200}\.[A-Za-z]\w{0,9}|[\w./-]{1,200}/[\w.-]{1,100}|Makefile|Dockerfile|LICENSE)[`'\"”]?"
_QUOTE = r"(?:'(?P<{0}1>[^'\n]{{1,400}})'|\"(?P<{0}2>[^\"\n]{{1,400}})\"|`(?P<{0}3>[^`\n]{{1,400}})`|“(?P<{0}4>[^”\n]{{1,400}})”)"
_OLD, _NEW = _QUOTE.format("old"), _QUOTE.format("new")
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "edit_file",
        re.compile(
            rf"\bin (?:the file )?{_FILE},? (?:replace|change) {_OLD} (?:with|by|to|into) {_NEW}", re.I
        ),
    ),
    (
        "edit_file",
        re.compile(rf"\b(?:replace|change) {_OLD} (?:with|by|to|into) {_NEW} in (?:the file )?{_FILE}", re.I),
    ),
    (
        "write_file",
        re.compile(
            rf"\b(?:add|create|write|make) (?:a |the )?(?:new )?file (?:named |called )?{_FILE},? "
            r"(?:saying|that says|with(?: the (?:text|content|words))?|containing)[: ]{1,2}(?P<text>[^\n]{1,400})",
            re.I,
        ),
    ),
    ("delete_file", re.compile(rf"\b(?:delete|remove) (?:the )?file {_FILE}", re.I)),
    ("read_file", re.compile(rf"\bread (?:the file )?{_FILE}", re.I)),
    ("search", re.compile(rf"\b(?:search|look) for {_OLD}", re.I)),
    ("run_command", re.compile(r"\brun (?:the command )?`(?P<old1>[^`\n]{1,400})`", re.I)),
)
_NEXT = re.compile(
    r"(?:,? (?:and|then)|[.;]) (?=(?:then )?(?:add|create|delete|remove|in|replace|run|read|search)\b)", re.I
)


class DemoEdit(NamedTuple):
    """A call of a tool for files, and its arguments."""

    tool: str
    arguments: dict[str, Any]


def next_edit(prompt: str, offered: Mapping[str, Any], done: list[str]) -> DemoEdit | None:
    """The next call that the prompt asks for, after the tools that were called `done`; None if there is none, or no tool with its arguments is
    offered."""
    if "edit_file" not in offered or not TOOLS & offered.keys():
        return None
    count = sum(name in TOOLS for name in done)
    for place, edit in enumerate(_edits(prompt)):
        if place >= MAX_EDITS:
            return None
        if place == count:
            return edit if _takes(offered.get(edit.tool), edit.arguments) else None
    return None


def made(prompt: str, offered: Mapping[str, Any], done: list[str]) -> int:
    """How many of the tools that were called `done` were such calls."""
    if "edit_file" not in offered:
        return 0
    return min(sum(name in TOOLS for name in done), sum(1 for _ in _edits(prompt)))


def _takes(function: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether a function is offered that has these arguments."""
    parameters = function.get("parameters") if isinstance(function, dict) else None
    known = parameters.get("properties") if isinstance(parameters, dict) else None
    return isinstance(known, dict) and arguments.keys() <= known.keys()


def _edits(prompt: str) -> Iterator[DemoEdit]:
    found = [
        (match.start(), number, tool, match)
        for number, (tool, pattern) in enumerate(_PATTERNS)
        for match in pattern.finditer(prompt)
    ]
    end = 0
    for start, _, tool, match in sorted(found, key=lambda each: each[:2]):
        if start >= end:
            end = match.end()
            yield DemoEdit(tool, _arguments(tool, match))


def _arguments(tool: str, match: re.Match[str]) -> dict[str, Any]:
    match tool:
        case "edit_file":
            return {
                "path": _file(match),
                "old_text": _quoted(match, "old"),
                "new_text": _quoted(match, "new"),
            }
        case "write_file":
            return {"path": _file(match), "content": f"{_plain(match['text'])}\n"}
        case "search":
            return {"words": _quoted(match, "old")}
        case "run_command":
            return {"command": match["old1"]}
    return {"path": _file(match)}


def _file(match: re.Match[str]) -> str:
    return match["file"].rstrip(".")


def _quoted(match: re.Match[str], name: str) -> str:
    groups = match.groupdict()
    return next((groups[f"{name}{number}"] for number in range(1, 5) if groups.get(f"{name}{number}")), "")


def _plain(text: str) -> str:
    """A text without what begins the next sentence of a prompt, and without quotes around it."""
    text = text.strip()
    if text[:1] in "'\"`“" and (end := text.find({"“": "”"}.get(text[0], text[0]), 1)) > 0:
        return text[1:end]
    return (_NEXT.split(text, 1)[0].strip().removesuffix("."))[:MAX_VALUE]
