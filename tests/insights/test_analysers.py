"""What each analyser finds and leaves alone, by tables of small trees; and what hostile files do to them."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from models.insights.analysed_tree import AnalysedTree, is_test
from models.insights.citation_findings import dead_citations
from models.insights.cycle_findings import import_cycles
from models.insights.item_finding import FoundItem, by_fingerprint
from models.insights.lizard_findings import lizard_findings
from models.insights.ruff_findings import ruff_findings
from models.insights.secret_findings import secret_findings
from models.insights.test_findings import missing_tests
from models.insights.tool_runner import AnalyserFailed, run_tool
from tests.insights.analysis_rows import COMPLEX, SCRIPT, tree_in

Analyser = Callable[[AnalysedTree], Iterable[FoundItem]]
VALUE = "qN8vR2" + "tY7wZ4kLpM9sXcB3fG6hJ1dE5"
"""Random, and nobody's."""


def rules(analyser: Analyser, folder: Path, texts: dict[str, str]) -> list[tuple[str, str, str]]:
    """The rules, paths and severities that are found."""
    return sorted((each.rule, each.path, each.severity) for each in analyser(tree_in(folder, texts)))


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("a.py", "import subprocess\nsubprocess.run(x := input(), shell=True)\n", ("ruff:S602", "critical")),
        ("a.py", "eval(input())\n", ("ruff:S307", "critical")),
        ("a.py", "import hashlib\nhashlib.md5(b'')\n", ("ruff:S324", "warning")),
        ("a.py", COMPLEX, ("ruff:C901", "info")),
        ("a.py", "print(nobody)\n", ("ruff:F821", "warning")),
        ("a.py", "def broken(:\n", ("ruff:invalid-syntax", "warning")),
        ("tests/test_a.py", "eval(input())\n", None),
        ("a.py", "assert 1\nimport subprocess\nsubprocess.run(['ls'])\nPASSWORD = 'x'\n", None),
        ("a.py", "eval(input())  # noqa: S307\n", None),
        ("a.txt", "eval(input())\n", None),
    ],
)
def test_ruff(tmp_path: Path, path: str, text: str, found: tuple[str, str] | None) -> None:
    expected = [(found[0], path, found[1])] if found else []
    assert rules(ruff_findings, tmp_path, {path: text}) == expected


def test_settings_in_the_tree_change_nothing(tmp_path: Path) -> None:
    texts = {
        "a.py": "eval(input())\n",
        "pyproject.toml": '[tool.ruff]\nexclude = ["*"]\n[tool.ruff.lint]\nignore = ["ALL"]\n',
        ".gitignore": "*\n",
    }
    tree = tree_in(tmp_path, texts)
    for name in ("pyproject.toml", ".gitignore", "ruff.toml"):
        (tmp_path / name).write_bytes(tree.texts.get(name, b'exclude = ["*"]\n'))
    assert [each.rule for each in ruff_findings(tree)] == ["ruff:S307"]


def test_lizard_finds_functions_with_many_branches(tmp_path: Path) -> None:
    go = SCRIPT.replace("function tangled(a)", "func Tangled(a int) int").replace("let b = 0;", "b := 0")
    texts = {
        "a.js": SCRIPT,
        "b.go": f"package b\n{go}",
        "c.ts": "export const c = () => 1;\n",
        "d.py": COMPLEX,
    }
    found = list(lizard_findings(tree_in(tmp_path, texts)))
    assert {(each.path, each.symbol) for each in found} == {("a.js", "tangled"), ("b.go", "Tangled")}
    assert {each.rule for each in found} == {"lizard:complexity"}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("key = AKIA" + "QWERTYUIOPLKJHGF", "aws-key"),
        ("gh" + "p_" + "A1b2C3d4E5" * 4, "github-token"),
        ("xox" + "b-987654321098-qweRTY987654", "slack-token"),
        ("sk_" + "live_" + "A1b2C3d4E5F6G7H8I9J0", "stripe-key"),
        ("sk-" + "ant-" + VALUE + "00", "anthropic-key"),
        ("-----BEGIN " + "RSA PRIVATE KEY-----", "private-key"),
        ("postgres://app:" + "hunter22x@db.internal/app", "url-password"),
        (f'API_KEY = "{VALUE}"', "named-secret"),
        (f"client_secret: '{VALUE}'", "named-secret"),
        (f'"password": "{VALUE}"', "named-secret"),
        (f'API_KEY = "your-{VALUE}"', None),
        ('API_KEY = os.environ["API_KEY"]', None),
        ('password = "correct horse"', None),
        ('token = "aaaaaaaaaaaaaaaaaaaa1"', None),
        ("postgres://app:${PASSWORD}@db/app", None),
        ("AKIA" + "IOSFODNN7EXAMPLE", None),
        ("x" * 3_000 + f' API_KEY = "{VALUE}"', None),
    ],
)
def test_secrets(tmp_path: Path, text: str, rule: str | None) -> None:
    found = list(secret_findings(tree_in(tmp_path, {"settings.toml": f"# one\n{text}\n"})))
    assert [(each.rule, each.line) for each in found] == ([(f"secret:{rule}", 2)] if rule else [])


def test_the_value_of_a_secret_is_nowhere(tmp_path: Path) -> None:
    texts = {"a.py": f'API_KEY = "{VALUE}"; OTHER_TOKEN = "{VALUE[::-1]}"\n'}
    for each in secret_findings(tree_in(tmp_path, texts)):
        told = repr((each, each.columns()))
        assert VALUE[:6] not in told
        assert VALUE[::-1][:6] not in told


def test_a_secret_keeps_its_fingerprint_when_its_value_or_line_changes(tmp_path: Path) -> None:
    before, after = f'API_KEY = "{VALUE}"', f'\n\nAPI_KEY =   "{VALUE[::-1]}"'
    marks = [
        set(by_fingerprint(secret_findings(tree_in(tmp_path, {"a.py": text})))) for text in (before, after)
    ]
    assert marks[0] == marks[1]
    assert len(marks[0]) == 1


@pytest.mark.parametrize(
    ("code", "tests", "severity"),
    [(4, 0, None), (5, 0, "warning"), (20, 0, "critical"), (20, 1, "info"), (18, 2, None)],
)
def test_missing_tests(tmp_path: Path, code: int, tests: int, severity: str | None) -> None:
    texts = {f"src/{number}.py": "x = 1\n" for number in range(code)}
    texts |= {f"tests/test_{number}.py": "" for number in range(tests)}
    expected = [("tests:missing", "", severity)] if severity else []
    assert rules(missing_tests, tmp_path, texts) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("src/__tests__/a.js", True),
        ("tests/a.py", True),
        ("a/test/b.rb", True),
        ("a.spec.ts", True),
        ("test_a.py", True),
        ("a_test.go", True),
        ("contest/a.py", False),
        ("latest.py", False),
        ("src/attest.go", False),
    ],
)
def test_which_paths_are_tests(path: str, expected: bool) -> None:
    assert is_test(path) is expected


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("See src/a.py:2.", []),
        ("See `src/a.py:3`.", ["src/a.py:3"]),
        ("See src/a.py:0, and src/a.py:7.", ["src/a.py:0", "src/a.py:7"]),
        ("See src/gone.py:1", ["src/gone.py:1"]),
        ("See elsewhere/gone.py:1 and gone.py:1", []),
        ("http://localhost.py:8080 and host.example.com:443", []),
        ("[a](src/a.py) [b](docs/) [c](https://x.org) [d](#here) [e](src/a.py#L2)", []),
        ("[a](src/gone.py) [b](docs/gone.md#x)", ["src/gone.py", "docs/gone.md"]),
        ("[a](/absolute) [b](../outside) [c]({{ url }})", []),
        ("```\nsrc/a.py:99\n```", []),
    ],
)
def test_dead_citations(tmp_path: Path, text: str, dead: list[str]) -> None:
    tree = tree_in(tmp_path, {"README.md": text, "src/a.py": "1\n2\n", "docs/b.md": "[up](../README.md)"})
    assert [each.symbol for each in dead_citations(tree)] == dead


def test_cycles_of_imports(tmp_path: Path) -> None:
    texts = {
        "pkg/__init__.py": "",
        "pkg/a.py": "from pkg import b\n",
        "pkg/b.py": "import pkg.c\n",
        "pkg/c.py": "from .a import x\n",
        "pkg/d.py": "def f():\n    from pkg import d2\n",
        "pkg/d2.py": "import pkg.d\n",
        "web/x.ts": "import { y } from './y';\n",
        "web/y.ts": "import { x } from './x';\n",
        "web/z.ts": "import { x } from './x';\n",
    }
    found = [list(each.files) for each in import_cycles(tree_in(tmp_path, texts))]
    assert found == [["pkg/a.py", "pkg/b.py", "pkg/c.py"], ["web/x.ts", "web/y.ts"]]


def test_the_same_finding_twice_in_a_file_is_two_items_that_keep_their_numbers(tmp_path: Path) -> None:
    line = "eval(input())\n"
    before = by_fingerprint(ruff_findings(tree_in(tmp_path, {"a.py": line * 2})))
    after = by_fingerprint(ruff_findings(tree_in(tmp_path, {"a.py": "x = 1\n" + line * 2})))
    assert len(before) == 2
    assert list(before) == list(after)


HOSTILE = {
    "deep.py": "(" * 100_000,
    "nul.py": "x = '\0'",
    "wide.py": "import " + ",".join(f"m{number}" for number in range(50_000)),
    "many.py": "eval(1);" * 30_000,
    "words.md": "a.py:1 " * 70_000,
    "links.md": "](" * 200_000,
    "quotes.js": "'" * 400_000,
    "braces.js": "{" * 300_000,
    "-rf.js": SCRIPT,
    'a"b\n,c.js': SCRIPT,
    "keys.txt": "password" * 60_000,
    "names.go": "func " + "x" * 400_000,
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_files_end_no_worker(tmp_path: Path, name: str) -> None:
    """Each analyser ends, with what it found or by saying that it did not come to an end."""
    tree = tree_in(tmp_path, {name: HOSTILE[name]})
    for analyser in (
        ruff_findings,
        lizard_findings,
        secret_findings,
        missing_tests,
        dead_citations,
        import_cycles,
    ):
        try:
            found = list(analyser(tree))
        except AnalyserFailed:
            continue
        assert len(found) <= 30_000
        for each in found[:50]:
            assert len(each.columns()["title"]) <= 200


def test_a_tool_that_does_not_end_is_killed() -> None:
    with pytest.raises(AnalyserFailed):
        list(run_tool(["/bin/sleep", "60"], wall_seconds=0.3))
    with pytest.raises(AnalyserFailed):
        list(run_tool(["/bin/false-that-is-not-there"]))
