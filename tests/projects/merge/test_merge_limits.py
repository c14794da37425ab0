"""Inputs made to be slow or to break a parser: they end in a decision, or merge by lines, and nothing is raised."""

import random
from collections.abc import Callable

import pytest

from models.projects.merge import (
    MergeEntry,
    MergeLabel,
    MergeReason,
    merge_contents,
    merge_trees,
    plan,
    tree_merge,
)
from models.projects.merge.line_merge import MAX_LINE_BYTES
from tests.projects.merge.merge_case import BLOBS, MergeCase

pytestmark = pytest.mark.timeout(
    60
)  # far above what any of these takes, and far below what an unbounded one would
SIZE = 200_000
DEEP = 50_000
CHANCE = random.Random(1)
NUMBERS = [f"{number}\n" for number in range(49_000)]


def lines(one: str, other: str) -> tuple[str, str, str]:
    return one, f"{one}\n1\n", f"2\n{other}"


HOSTILE: dict[str, tuple[str, tuple[str, ...]]] = {
    "brackets in JSON": ("a.json", lines("[" * DEEP + "]" * DEEP, "[" * DEEP + "]" * DEEP)),
    "objects in JSON": (
        "a.json",
        (
            '{"a":' * DEEP + "1" + "}" * DEEP,
            '{"a":' * DEEP + "2" + "}" * DEEP,
            '{"a":' * DEEP + "3" + "}" * DEEP,
        ),
    ),
    "brackets in YAML": ("a.yml", lines("[" * DEEP, "[" * DEEP)),
    "indentation in YAML": ("a.yml", lines("".join(" " * n + "a:\n" for n in range(600)), "a: 1\n")),
    "aliases in YAML": (
        "a.yml",
        lines("a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a, *a]\n" for n in range(3000)), "a: 1\n"),
    ),
    "tables in TOML": ("a.toml", lines("[" + ".".join("a" * 1 for _ in range(20_000)) + "]\n", "a = 1\n")),
    "arrays in TOML": ("a.toml", lines("a = " + "[" * DEEP + "]" * DEEP, "a = 1\n")),
    "brackets in Python": ("a.py", lines("x = " + "(" * DEEP + ")" * DEEP + "\n", "x = 1\n")),
    "classes in Python": (
        "a.py",
        lines("".join(" " * n + f"class A{n}:\n" for n in range(500)) + " " * 500 + "a = 1\n", "x = 1\n"),
    ),
    "operators in Python": ("a.py", lines("x = " + "-" * SIZE + "1\n", "x = 1\n")),
    "types in TypeScript": (
        "a.ts",
        lines("let a: " + "A<" * 20_000 + "B" + ">" * 20_000 + ";\n", "let a = 1;\n"),
    ),
    "braces in Java": ("A.java", lines("class A " + "{" * DEEP + "}" * DEEP + "\n", "class A {}\n")),
    "one line": ("a.txt", lines("x" * SIZE, "y" * SIZE)),
    "equal lines": ("a.txt", lines("a\n" * 49_000, "a\n" * 40_000)),
    "lines of two kinds": ("a.txt", lines("a\nb\n" * 24_000, "b\na\n" * 24_000)),
    "units of one name": ("a.py", lines("def f(): pass\n" * 10_000, "def f(): pass\n" * 9_000)),
    "random lines of two kinds": (
        "a.txt",
        tuple("".join(CHANCE.choices(("a\n", "b\n"), k=49_000)) for _ in range(3)),
    ),
    "lines in another order": (
        "a.txt",
        tuple("".join(CHANCE.sample(NUMBERS, len(NUMBERS))) for _ in range(3)),
    ),
    "keys": ("a.json", lines("{" + ",".join(f'"k{n}":1' for n in range(15_000)) + "}", "{}")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_a_bounded_time(name: str) -> None:
    path, versions = HOSTILE[name]
    merged = merge_contents(path, *(each.encode() for each in versions))
    assert merged.data is not None or merged.reason is not None


def test_texts_above_the_limit_are_decisions_and_not_read() -> None:
    def read(digest: str) -> bytes:
        raise AssertionError(digest)

    base, ours, theirs = ({"a": MergeEntry("file", 0o644, digit * 64, MAX_LINE_BYTES)} for digit in "012")
    merge = merge_trees(base, ours, theirs, read)
    assert merge.decisions["a"].reason is MergeReason.TOO_LARGE


def test_what_is_past_the_limit_of_all_files_is_left_to_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_merge, "MAX_MERGED_BYTES", 2 * tree_merge.FILE_COST + 1_000)
    base = dict.fromkeys("abcd", "1\n2\n3\n4\n")
    ours, theirs = ({path: text.replace(*edit) for path, text in base.items()} for edit in ("1x", "4y"))
    for swapped in (False, True):
        merge = MergeCase("", base, ours, theirs).merged(swapped)
        assert [merge.paths[path].label for path in "ab"] == [MergeLabel.LINES] * 2
        assert {path: each.reason for path, each in merge.decisions.items()} == dict.fromkeys(
            "cd", MergeReason.TOO_LARGE
        )


def test_programs_too_large_to_parse_merge_by_lines() -> None:
    text = "".join(f"x{number} = {number}\n" for number in range(30_000))
    merged = merge_contents("a.py", text.encode(), ("y = 1\n" + text).encode(), (text + "z = 1\n").encode())
    assert merged.label is MergeLabel.LINES


def test_many_moved_and_edited_files_are_compared_within_limits() -> None:
    texts = [f"{number}\n" + "x\n" * 4_000 for number in range(40)]
    base = {f"a/{number}": text for number, text in enumerate(texts)}
    ours = {f"b/{number}": text + "edited\n" for number, text in enumerate(texts)}
    theirs = {path: "2\n" + text for path, text in base.items()}
    merge = MergeCase("", base, ours, theirs).merged()
    assert 0 < len(merge.decisions) < len(texts)


@pytest.mark.parametrize(
    "wrong", [lambda path: path + "/" + "a/" * 2_000 + "b", lambda path: path + "é" * 2_000]
)
def test_long_paths_are_paths(wrong: Callable[[str], str]) -> None:
    entry = BLOBS.file("1\n")
    assert len(plan({}, {wrong("a"): entry}, {wrong("b"): entry}).settled) == 2
