"""Lists of objects that `stoa/demo` answers when a prompt asks for one as JSON: it says what its facts or messages say, and invents nothing.

It runs on untrusted requests: the prompt is cut before, and the patterns take linear time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

_ASKED = re.compile(
    r"Answer with one JSON array of[^.\n]{0,40} objects?, each with ([a-z, ()0-9_A-Z]{1,400})"
)
_DECIDED = re.compile(r"\b(?:decide|agree|choose|chose|use|go with|switch to|drop|keep)[a-z]*\b", re.I)
MAX_LISTED, MAX_TEXT = 3, 200


def listed(system: Sequence[str], prompt: str) -> str | None:
    """The answer to a prompt whose system text asks for such a list of steps or decisions; None for another prompt."""
    asked = next((found[1] for each in reversed(system) if (found := _ASKED.search(each[-4_000:]))), None)
    if asked is None:
        return None
    try:
        value = orjson.loads(prompt)
    except orjson.JSONDecodeError:
        return "[]"
    if "quote" in asked and isinstance(value, list):
        return orjson.dumps([*_decisions(value)][:MAX_LISTED]).decode()
    if "title" in asked and isinstance(value, dict):
        return orjson.dumps([*_steps(value)][:MAX_LISTED]).decode()
    return "[]"


def _steps(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    name = str(facts.get("name") or "the project")[:60]
    yield {
        "title": f"Write down how to try {name}",
        "description": "A few lines in the README: what to install, what to run, and what one sees then.",
        "rationale": f"The facts name {facts.get('snapshots') or 0} snapshots and say nothing of people who tried it.",
        "category": "launch",
        "priority": 2,
        "effort": "small",
    }


def _decisions(messages: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Sentences that say that something was decided, each quoted from its message."""
    for each in messages[:50]:
        text = str(each.get("text") or "") if isinstance(each, dict) else ""
        for sentence in re.split(r"(?<=[.!])\s|\n", text[:2_000]):
            words = sentence.strip()
            if len(words) >= 12 and not words.endswith("?") and _DECIDED.search(words):
                quote = words[:MAX_TEXT]
                yield {
                    "decision": quote.rstrip("."),
                    "category": "approach",
                    "message": each.get("message"),
                    "quote": quote,
                }
                break
