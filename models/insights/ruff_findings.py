"""Findings of ruff in Python: security, complexity, names that are not defined, and files that do not parse."""

import json
from collections.abc import Iterator
from typing import Any

from models.insights.analysed_tree import AnalysedTree, is_test
from models.insights.item_finding import FoundItem, named_path
from models.insights.tool_runner import AnalyserFailed

RULES = "S,C901,F821"
IGNORED = "S101,S104,S105,S106,S107,S110,S112,S113,S311,S403,S404,S405,S406,S603,S606,S607"
"""Rules that mostly point at what is meant. Secrets have an analyser of their own, which never quotes them."""
MAX_COMPLEXITY = 15
MAX_RUFF_FINDINGS = 5_000
UNREADABLE = "ruff:invalid-syntax"
"""Of a file that does not parse, the first error counts: the others follow from it."""
_CRITICAL = frozenset(["S102", "S307", "S501", "S602", "S605"])
"""Runs text as a program, or trusts any server."""


def ruff_findings(tree: AnalysedTree) -> Iterator[FoundItem]:
    """What ruff finds. Configuration in the tree is not read. Raises AnalyserFailed if it did not come to an end."""
    if not any(path.endswith((".py", ".pyi")) for path in tree.code):
        return
    if tree.tools is None:
        raise AnalyserFailed
    command = ["check", "--isolated", "--no-cache", "--no-respect-gitignore", "--exit-zero"]
    command += ["--output-format", "json-lines", "--select", RULES, "--ignore", IGNORED]
    command += ["--config", f"lint.mccabe.max-complexity={MAX_COMPLEXITY}", tree.tools.seen]
    unreadable: set[str] = set()
    for count, line in enumerate(tree.tools.run("ruff", command)):
        if count == MAX_RUFF_FINDINGS:
            raise AnalyserFailed
        try:
            found = json.loads(line)
        except ValueError:
            continue
        item = _item(tree, found) if isinstance(found, dict) else None
        if item is None or (item.rule == UNREADABLE and item.path in unreadable):
            continue
        if item.rule == UNREADABLE:
            unreadable.add(item.path)
        yield item


def _item(tree: AnalysedTree, found: dict[str, Any]) -> FoundItem | None:
    path = tree.relative(str(found.get("filename")))
    code = str(found.get("code") or "invalid-syntax")
    if path is None or (is_test(path) and code.startswith("S")):
        return None
    row = int((found.get("location") or {}).get("row") or 0)
    message = str(found.get("message") or "").split("\n", 1)[0]
    here = f"{named_path(path)}:{row}"
    if code == "C901":
        symbol = message.split("`")[1] if message.count("`") > 1 else ""
        return FoundItem(
            "ruff:C901",
            "refactoring",
            "info",
            f"{symbol or 'A function'} in {named_path(path)} has too many branches",
            description=f"{message}. Split it into functions that each do one thing.",
            path=path,
            line=row,
            symbol=symbol,
            prompt=f"Simplify the function {symbol} in {path} without changing what it does. Keep its tests green.",
        )
    if code.startswith("S"):
        severity = "critical" if code in _CRITICAL else "warning"
        return FoundItem(
            f"ruff:{code}",
            "security",
            severity,
            f"{here}: {message}",
            description=f"{message} (rule {code} of ruff).",
            path=path,
            line=row,
            snippet=tree.line(path, row),
            prompt=f"In {path}, line {row}, rule {code} of ruff says: {message}. Make the code safe without changing what it does otherwise.",
        )
    return FoundItem(
        f"ruff:{code}",
        "build_failure",
        "warning",
        f"{here}: {message}",
        description=message,
        path=path,
        line=row,
        snippet=tree.line(path, row),
        prompt=f"In {path}, line {row}: {message}. Correct it.",
    )
