"""The analysis of a tree of 10,000 files without a model: all analysers, and each alone."""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from models.insights.analysed_tree import AnalysedTree
from models.insights.analysing import ANALYSERS
from models.insights.tool_runner import AnalyserTools

FILES = 10_000
BUDGET = 60
"""Seconds for all."""
PROGRAM = '''"""Module {n}."""

import os
from pkg{p}.m{q} import f{q}


def f{n}(a: int, b: int) -> int:
    """Add."""
    if a > {n}:
        return f{q}(a - 1, b)
    return a + b + len(os.environ)


''' + "".join(
    f"def g{number}(x: int) -> int:\n    return x * {number} if x else {number}\n\n\n" for number in range(25)
)
SCRIPT = (
    "import {{ f{q} }} from './m{q}.js';\nexport function f{n}(a, b) {{\n  if (a > {n}) return f{q}(a - 1, b);\n  return a + b;\n}}\n"
    + "".join(f"export const g{number} = (x) => (x ? x * {number} : {number});\n" for number in range(40))
)
PAGE = (
    "# Page {n}\n\nSee src/pkg{p}/m{q}.py:3 and [the other](m{q}.md).\n"
    + "A line of text about columns and roofs.\n" * 40
)

Line = tuple[str, str, str, str, bool]


@dataclass(slots=True)
class AnalysisTimes:
    """Seconds by analyser, and how much they read."""

    seconds: dict[str, float] = field(default_factory=dict)
    found: int = 0
    size: int = 0


def measure(scale: float = 1.0) -> AnalysisTimes:
    """Write a tree of Python, JavaScript and Markdown, and analyse it."""
    result = AnalysisTimes()
    with tempfile.TemporaryDirectory(prefix="stoa-bench-") as name:
        tree = _tree(Path(name), int(FILES * scale))
        result.size = sum(tree.sizes.values())
        for analyser, find in ANALYSERS.items():
            began = time.perf_counter()
            result.found += len(list(find(tree)))
            result.seconds[analyser] = time.perf_counter() - began
    return result


def lines(result: AnalysisTimes) -> list[Line]:
    """Rows of the report."""
    whole = sum(result.seconds.values())
    each = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items())
    return [
        (
            "analysis of 10,000 files",
            f"{whole:.1f} s for {result.size >> 20} MB, {result.found:,} findings ({each})",
            "",
            f"under {BUDGET} s",
            whole <= BUDGET,
        )
    ]


def _tree(folder: Path, files: int) -> AnalysedTree:
    texts: dict[str, bytes] = {}
    for number in range(files):
        values = {"n": number, "p": number % 100, "q": max(0, number - 100)}
        kind = number % 10
        if kind < 6:
            path, text = f"src/pkg{number % 100}/m{number}.py", PROGRAM.format(**values)
        elif kind < 9:
            path, text = f"web/m{number}.js", SCRIPT.format(**values)
        else:
            path, text = f"docs/m{number}.md", PAGE.format(**values)
        texts[path] = text.encode()
        if kind < 9:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(texts[path])
    return AnalysedTree({path: len(text) for path, text in texts.items()}, texts, AnalyserTools(folder))


if __name__ == "__main__":
    for line in lines(measure()):
        print(*line, sep=" | ")
