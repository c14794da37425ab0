"""Validation of submitted definitions (contract 2.6, 3.11 (a), 3.12)."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from models.core.cooperative import in_slices
from models.core.strict_models import InvalidBody, parse
from models.store.publishing import spawning
from models.store.publishing.definition import Definition, conflicts, steps_problem, too_large, values_problem

PREFIX = "Schema validation failed: "
MAX_UNKNOWN = 500
"""Maximum number of unknown agents reported; a request can name 250,000."""
MAX_MESSAGE_CHARS = 500_000
"""Maximum total length of error messages; 500 definitions can have a hundred errors each."""
MAX_REFERENCES = 20_000
"""Maximum number of distinct agents referenced by one request."""
OMITTED = PREFIX + "Details omitted: too many errors. Fix the definitions above first."


@dataclass(frozen=True)
class Problem:
    """An error in a definition (`file_path` is its id) or in a reference."""

    file_path: str
    message: str


@dataclass(frozen=True)
class ValidationResult:
    """The valid definitions, in order, and the errors of the others."""

    definitions: list[Definition]
    problems: list[Problem]


def check(sent: Mapping[str, Any], local_ids: Collection[str] = ()) -> ValidationResult:
    """Validate definitions. The keys of `sent` identify definitions without an id.

    Three stages, each reached only without errors in the previous one: size, references to unknown agents, schema. Read-only.
    Yields to the worker's other requests between definitions.
    """
    large = [(key, raw, message) for key, raw in in_slices(sent.items()) if (message := too_large(raw))]
    if large:
        return ValidationResult([], [_problem(key, raw, message) for key, raw, message in large])
    named = {each for raw in sent.values() for each in spawning.references(raw)}
    if len(named) > MAX_REFERENCES:
        message = f"The definitions reference {len(named)} agents; the limit is {MAX_REFERENCES} per request."
        return ValidationResult([], [Problem("spawnableAgents", message)])
    unknown = spawning.unknown(list(sent.values()), local_ids)
    if unknown:
        reported = islice(unknown.items(), MAX_UNKNOWN)
        return ValidationResult([], [Problem(reference, message) for reference, message in reported])
    valid: list[Definition] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    length = 0
    for key, raw in in_slices(sent.items()):
        result = _definition(raw)
        if isinstance(result, str):
            length += len(result)
            problems.append(_problem(key, raw, result if length <= MAX_MESSAGE_CHARS else OMITTED))
        elif result.id in seen:
            problems.append(_problem(key, raw, "Duplicate agent ID"))
        else:
            seen.add(result.id)
            valid.append(result)
    return ValidationResult(valid, problems)


def _definition(raw: Any) -> Definition | str:
    try:
        result = parse(Definition, _prepared(raw))
    except InvalidBody as error:
        return PREFIX + _pretty(error.issues)
    found = conflicts(result)
    return PREFIX + _pretty(found) if found else steps_problem(result) or values_problem(result) or result


def _prepared(raw: Any) -> Any:
    """Normalise older clients: `subagents` becomes `spawnableAgents`, null store fields are dropped."""
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


def _problem(key: str, raw: Any, message: str) -> Problem:
    named = raw if isinstance(raw, dict) else {}
    agent, name = (
        value[:200] if isinstance(value, str) else "" for value in (named.get("id"), named.get("displayName"))
    )
    where = f'Agent "{agent}"' + (f" ({name})" if name else "") if agent else f"Agent in {key}"
    return Problem(agent or key, f"{where}: {message}")
