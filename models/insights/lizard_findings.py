"""Findings of lizard: functions with too many branches, in the languages that ruff does not read."""

import csv
import re
from collections.abc import Iterator
from itertools import islice
from posixpath import splitext

from models.core.cooperative import in_slices
from models.insights.analysed_tree import AnalysedTree
from models.insights.item_finding import FoundItem, named_path
from models.insights.tool_runner import AnalyserFailed

MAX_BRANCHES = 20
MAX_FUNCTIONS = 500_000
LANGUAGES = frozenset(
    [
        *(
            ".js",
            ".jsx",
            ".mjs",
            ".cjs",
            ".ts",
            ".tsx",
            ".go",
            ".rs",
            ".java",
            ".rb",
            ".php",
            ".c",
            ".cc",
            ".cpp",
        ),
        *(".cs", ".kt", ".swift", ".scala", ".lua"),
    ]
)
_BRANCH = re.compile(
    rb"\b(?:if|elsif|elseif|for|foreach|while|until|unless|case|when|match|catch|guard|and|or)\b|&&|\|\||\?|=>"
)


def lizard_findings(tree: AnalysedTree) -> Iterator[FoundItem]:
    """What lizard finds. Raises AnalyserFailed if it did not come to an end."""
    paths = [path for path in in_slices(tree.code) if _may_be_tangled(tree, path)]
    tools = tree.tools
    if not paths or tools is None:
        return
    with tools.listed(f"{tools.seen}/{path}" for path in paths) as listed:
        rows = csv.reader(tools.run("-m lizard", ["--csv", "-t", "2", "-i", "-1", "-f", listed]))
        try:
            for count, row in enumerate(rows):
                if count == MAX_FUNCTIONS:
                    raise AnalyserFailed
                if (item := _item(tree, row)) is not None:
                    yield item
        except csv.Error as error:
            raise AnalyserFailed from error


def _may_be_tangled(tree: AnalysedTree, path: str) -> bool:
    """Whether a file has as many branches as one function must have: lizard takes a minute for thousands of files, this a moment."""
    if splitext(path)[1].lower() not in LANGUAGES or "\n" in path:
        return False
    found = _BRANCH.finditer(tree.texts[path])
    return sum(1 for _ in islice(found, MAX_BRANCHES)) == MAX_BRANCHES


def _item(tree: AnalysedTree, row: list[str]) -> FoundItem | None:
    """Columns: lines of code, branches, tokens, parameters, length, place, file, function, long name, first line, last line."""
    if len(row) < 11 or not (row[1].isdigit() and row[9].isdigit()):
        return None
    path, branches = tree.relative(row[6]), int(row[1])
    if path is None or branches <= MAX_BRANCHES:
        return None
    symbol = row[7][:200]
    return FoundItem(
        "lizard:complexity",
        "refactoring",
        "info",
        f"{symbol} in {named_path(path)} has too many branches",
        description=f"It has {branches} ways through it, above {MAX_BRANCHES}. Split it into functions that each do one thing.",
        path=path,
        line=int(row[9]),
        symbol=symbol,
        prompt=f"Simplify the function {symbol} in {path} without changing what it does. Keep its tests green.",
    )
