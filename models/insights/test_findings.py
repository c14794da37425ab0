"""Says when a project has no tests, or few of them (fastest contract 4.9)."""

from collections.abc import Iterator
from posixpath import splitext

from models.insights.analysed_tree import AnalysedTree, is_test
from models.insights.item_finding import FoundItem

LANGUAGES = frozenset([".ts", ".tsx", ".js", ".jsx", ".py", ".go", ".rs", ".java", ".rb", ".php"])
MIN_FILES, MANY_FILES = 5, 20
FEW = 0.1
"""Files of tests for one file of code."""


def missing_tests(tree: AnalysedTree) -> Iterator[FoundItem]:
    """One finding at most."""
    code = [path for path in tree.sizes if splitext(path)[1].lower() in LANGUAGES]
    tests = [path for path in code if is_test(path)]
    own = sorted(set(code) - set(tests), key=lambda path: (-tree.sizes[path], path))
    if len(code) < MIN_FILES or len(tests) >= FEW * len(code):
        return
    none = not tests
    severity = ("critical" if len(code) >= MANY_FILES else "warning") if none else "info"
    files = f"{len(code):,} files of code"
    yield FoundItem(
        "tests:missing",
        "test_coverage",
        severity,
        f"{files} and no tests" if none else f"{files} and {len(tests):,} of tests",
        description="Nobody sees when a change breaks something, and fixes of agents cannot be checked. Begin with the largest files.",
        files=own[:10],
        prompt=f"Write tests for what {', '.join(own[:3])} do, with the test runner that is usual for the language. Change no other code.",
        fingerprint="tests:missing",
    )
