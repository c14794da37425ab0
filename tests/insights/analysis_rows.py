"""Trees to analyse, from texts by path."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from models.insights.analysed_tree import CODE_ENDINGS, AnalysedTree
from models.insights.tool_runner import AnalyserTools

LONG = "".join(f"    if a == {number}:\n        b += 1\n" for number in range(20))
COMPLEX = f"def tangled(a: int) -> int:\n    b = 0\n{LONG}    return b\n"
BRANCHES = "".join(f"  if (a == {number}) {{ b++; }}\n" for number in range(25))
SCRIPT = f"function tangled(a) {{\n  let b = 0;\n{BRANCHES}  return b;\n}}\n"


@contextmanager
def nowhere() -> Iterator[None]:
    """A context that opens nothing."""
    yield


def tree_in(folder: Path, texts: Mapping[str, str | bytes]) -> AnalysedTree:
    """A tree of these files, the code in the folder."""
    data = {path: text if isinstance(text, bytes) else text.encode() for path, text in texts.items()}
    for path, content in data.items():
        if any(path.endswith(each) for each in CODE_ENDINGS):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    return AnalysedTree(
        {path: len(content) for path, content in data.items()}, dict(data), AnalyserTools(folder)
    )
