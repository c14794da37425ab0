"""Findings of lizard: functions with too many branches, in the languages that ruff does not read."""

import csv
from collections.abc import Iterator

from models.insights.analysed_tree import AnalysedTree
from models.insights.item_finding import FoundItem, named_path
from models.insights.tool_runner import AnalyserFailed, run_tool

MAX_BRANCHES = 20
MAX_FUNCTIONS = 500_000
LANGUAGES = {
    ".js": "javascript",
    ".jsx": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".ts": "typescript",
    ".tsx": "tsx",
    ".go": "go",
    ".rs": "rust",
    ".java": "java",
    ".rb": "ruby",
    ".php": "php",
    ".c": "cpp",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".cs": "csharp",
    ".kt": "kotlin",
    ".swift": "swift",
    ".scala": "scala",
    ".lua": "lua",
}


def lizard_findings(tree: AnalysedTree) -> Iterator[FoundItem]:
    """What lizard finds. Raises AnalyserFailed if it did not come to an end."""
    languages = {LANGUAGES[each] for each in LANGUAGES if any(path.endswith(each) for path in tree.code)}
    if not languages:
        return
    chosen = [part for each in sorted(languages) for part in ("-l", each)]
    rows = csv.reader(run_tool(["-m", "lizard", "--csv", "-i", "-1", *chosen, str(tree.folder)]))
    try:
        for count, row in enumerate(rows):
            if count == MAX_FUNCTIONS:
                raise AnalyserFailed
            if (item := _item(tree, row)) is not None:
                yield item
    except csv.Error as error:
        raise AnalyserFailed from error


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
