"""Checking definitions that somebody sent, and saying what is wrong with each (contract 2.6, 3.11 (a), 3.12)."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from models.core.cooperative import in_slices
from models.core.strict_models import InvalidBody, parse
from models.store.publishing import spawning
from models.store.publishing.definition import Definition, conflicts, excess, steps_problem, values_problem

LOST = "Schema validation failed: "
MAX_TOLD = 500
"""How many unknown agents are told; there can be a quarter of a million."""
MAX_WORDS = 500_000
"""How many characters are told of definitions; five hundred could have a hundred problems each."""
MAX_REFERENCES = 20_000
"""How many different agents the definitions of one request may name together."""
UNTOLD = LOST + "The definitions above have too many problems to tell these, too. Mend those first."


@dataclass(frozen=True)
class Problem:
    """Something wrong with one definition (`file_path` is its id) or with an agent it names."""

    file_path: str
    message: str


@dataclass(frozen=True)
class ValidationResult:
    """The definitions that are right, in their order, and what is wrong with the others."""

    definitions: list[Definition]
    problems: list[Problem]


def check(sent: Mapping[str, Any], local_ids: Collection[str] = ()) -> ValidationResult:
    """Check definitions, each under a key that stands for it where it has no id.

    What is too large is refused unseen. Then agents that are named but do not exist are the only problems told; only
    when there are none is each definition looked at. Reads only: nothing is written, nothing is run. Between two
    definitions the worker's other requests have their turn.
    """
    large = [(key, raw, words) for key, raw in in_slices(sent.items()) if (words := excess(raw))]
    if large:
        return ValidationResult([], [_problem(key, raw, words) for key, raw, words in large])
    named = {each for raw in sent.values() for each in spawning.references(raw)}
    if len(named) > MAX_REFERENCES:
        words = f"The definitions name {len(named)} agents; at most {MAX_REFERENCES} are taken at once. Send fewer."
        return ValidationResult([], [Problem("spawnableAgents", words)])
    unknown = spawning.unknown(list(sent.values()), local_ids)
    if unknown:
        told = islice(unknown.items(), MAX_TOLD)
        return ValidationResult([], [Problem(reference, words) for reference, words in told])
    good: list[Definition] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    length = 0
    for key, raw in in_slices(sent.items()):
        made = _definition(raw)
        if isinstance(made, str):
            length += len(made)
            problems.append(_problem(key, raw, made if length <= MAX_WORDS else UNTOLD))
        elif made.id in seen:
            problems.append(_problem(key, raw, "Duplicate agent ID"))
        else:
            seen.add(made.id)
            good.append(made)
    return ValidationResult(good, problems)


def _definition(raw: Any) -> Definition | str:
    try:
        made = parse(Definition, _prepared(raw))
    except InvalidBody as error:
        return LOST + _pretty(error.issues)
    found = conflicts(made)
    return LOST + _pretty(found) if found else steps_problem(made) or values_problem(made) or made


def _prepared(raw: Any) -> Any:
    """Older spellings in the present one: `subagents`, and null for what the store's own fields lack."""
    if not isinstance(raw, dict):
        return raw
    whole = {
        key: value
        for key, value in raw.items()
        if value is not None or key not in ("name", "description", "tags")
    }
    if "subagents" in whole:
        whole.setdefault("spawnableAgents", whole["subagents"])
    return whole


def _pretty(issues: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(issues, indent=2, ensure_ascii=False)


def _problem(key: str, raw: Any, words: str) -> Problem:
    named = raw if isinstance(raw, dict) else {}
    agent, name = (
        value[:200] if isinstance(value, str) else "" for value in (named.get("id"), named.get("displayName"))
    )
    where = f'Agent "{agent}"' + (f" ({name})" if name else "") if agent else f"Agent in {key}"
    return Problem(agent or key, f"{where}: {words}")
