"""What `stoa/demo` says when it is asked to describe a part of a code base: what its documents say first, and what its files define.

It runs on untrusted requests: one JSON object is read, and its lists are cut.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

DESCRIBE = "You describe a part of a code base."
"""How the system's message begins."""
MAX_TEXT = 200_000
MAX_FILES, MAX_SAID = 12, 8
_PROSE = re.compile(r"(\d{1,9}) ([A-Z][^\n#<>`|]{5,200}\.)$")


def description(system: str, said: str) -> str | None:
    """The sentences as JSON, each with the line that it comes from; None for another task."""
    if not system.startswith(DESCRIBE) or len(said) > MAX_TEXT:
        return None
    try:
        facts = orjson.loads(said)
    except orjson.JSONDecodeError:
        return None
    files = facts.get("files") if isinstance(facts, dict) else None
    if not isinstance(files, list):
        return None
    found = [each for file in files[:MAX_FILES] if isinstance(file, dict) for each in _sentences(file)]
    return orjson.dumps(found[:MAX_SAID]).decode()


def _sentences(file: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    path, source, defined = file.get("path"), file.get("source"), file.get("defines")
    if not isinstance(path, str) or not isinstance(source, str):
        return
    for line in source[:20_000].split("\n"):
        if prose := _PROSE.match(line):
            yield {"text": prose[2], "citations": [{"path": path, "line": int(prose[1])}]}
            break
    names = [each for each in defined[:3] if _is_named(each)] if isinstance(defined, list) else []
    if names:
        listed = ", ".join(each["name"] for each in names)
        yield {
            "text": f"{path} defines {listed}.",
            "citations": [
                {"path": path, "line": each["line"], "symbol": each["name"].rpartition(".")[2]}
                for each in names
            ],
        }


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str) and type(value.get("line")) is int
