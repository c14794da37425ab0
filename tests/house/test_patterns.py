"""Every regular expression of the application runs in linear time.

Collects them from the source and runs them on adversarial texts, on which quadratic patterns take seconds.
"""

import ast
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from models.core.settings import ROOT

LENGTH = 4_000
MAX_TIMES = 5
"""How much longer than a slow linear pattern one may take on a text. Quadratic ones take a hundred times as long."""
FUNCTIONS = ("fullmatch", "match", "search", "findall", "finditer", "sub", "subn", "split")
FLAGS = {
    name: getattr(re, name)
    for name in ("I", "IGNORECASE", "S", "DOTALL", "M", "MULTILINE", "ASCII", "A", "X")
}


@dataclass(frozen=True)
class Use:
    """A pattern and the functions it is used with."""

    where: str
    pattern: str | bytes
    flags: int
    functions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} {self.pattern!r}"


@cache
def sources() -> dict[str, str]:
    files = [file for room in ("models", "views") for file in Path(ROOT, room).rglob("*.py")]
    return {str(file.relative_to(ROOT)): file.read_text() for file in files}


def uses() -> Iterator[Use]:
    for where, source in sources().items():
        tree = ast.parse(source)
        names = {
            id(node.value): target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr in ("compile", *FUNCTIONS)
            ):
                continue
            function = node.func.attr
            functions = _applied(names.get(id(node), "")) if function == "compile" else (function,)
            yield Use(f"{where}:{node.lineno}", _text(node.args[0]), _flags(node), functions)


def _applied(name: str) -> tuple[str, ...]:
    return tuple(sorted(applications().get(name, ()))) or ("search",)


@cache
def applications() -> dict[str, set[str]]:
    """The functions that are applied to each name."""
    found: dict[str, set[str]] = {}
    for source in sources().values():
        for name, function in re.findall(rf"\b(\w+)\.({'|'.join(FUNCTIONS)})\b", source):
            found.setdefault(name, set()).add(function)
    return found


def _text(node: ast.expr) -> str | bytes:
    """The pattern; interpolated values become `word`."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, str | bytes)
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "word" for part in node.values)
    raise AssertionError(f"unsupported pattern: {ast.unparse(node)}")


def _flags(call: ast.Call) -> int:
    named = {
        node.attr
        for argument in [*call.args[1:], *(keyword.value for keyword in call.keywords)]
        for node in ast.walk(argument)
        if isinstance(node, ast.Attribute)
    }
    return sum(int(flag) for flag in {FLAGS[name] for name in named if name in FLAGS})


CATEGORIES = {
    codes.CATEGORY_DIGIT: "1",
    codes.CATEGORY_SPACE: " \n",
    codes.CATEGORY_WORD: "a1",
    codes.CATEGORY_NOT_SPACE: "a.",
    codes.CATEGORY_NOT_WORD: ".",
    codes.CATEGORY_NOT_DIGIT: "a",
}


def letters(tree: Any) -> set[str]:
    """One or two characters of each class in the pattern, and one other."""
    found = {"a"}
    for code, value in tree:
        if code in (codes.LITERAL, codes.NOT_LITERAL):
            found.add(chr(value))
        elif code is codes.RANGE:
            found |= {chr(value[0]), chr(value[1])}
        elif code is codes.CATEGORY:
            found |= set(CATEGORIES[value])
        elif code is codes.IN:
            found |= letters(value)
        elif isinstance(value, tuple | list):
            for part in value:
                if hasattr(part, "data"):
                    found |= letters(part)
                elif isinstance(part, list):
                    for branch in part:
                        found |= letters(branch) if hasattr(branch, "data") else set()
        elif hasattr(value, "data"):
            found |= letters(value)
    return found


def sample(tree: Any) -> str:
    """A text that the pattern matches, ignoring lookarounds: first branches, each repetition once."""
    return "".join(_sample(code, value) for code, value in tree)


def _sample(code: Any, value: Any) -> str:
    if code is codes.LITERAL:
        return chr(value)
    if code in (codes.ANY, codes.NOT_LITERAL):
        return "a"
    if code is codes.IN:
        if value[0][0] is codes.NEGATE:
            refused = letters(value)
            return next(char for char in "ab1 .-" if char not in refused - {"a"})
        return sorted(letters(value[:1]) - {"a"} or {"a"})[-1]
    if code is codes.BRANCH:
        return sample(value[1][0])
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
        return sample(value[2]) * max(1, min(value[0], 600))
    if code is codes.SUBPATTERN:
        return sample(value[3])
    return ""


def texts(use: Use) -> Iterator[str]:
    """Adversarial texts: repeated characters and pairs; repeated prefixes of matches; prefixes followed by a run of the next
    part, with endings that may not match."""
    source = use.pattern if isinstance(use.pattern, str) else use.pattern.decode("latin-1")
    tree = _parser.parse(source, use.flags)
    characters = sorted(letters(tree))[:12]
    units = {*characters, *map("".join, product(characters, repeat=2))}
    runs = set()
    for branch in _branches(tree):
        parts = [_sample(code, value) for code, value in branch]
        for at in range(len(parts)):
            begin = "".join(parts[:at])
            units |= {begin + parts[at], begin + parts[at] + "a"}
            runs |= {(begin, character) for character in {parts[at], *characters} if character}
    for unit in filter(None, units):
        yield unit * (LENGTH // len(unit))
    for begin, character in runs:
        for end in ("\0", "a", *characters[:5]):
            yield begin + character * (LENGTH // len(character)) + end


def _branches(tree: Any) -> Iterator[Any]:
    """The pattern, or each of its leading alternatives."""
    code, value = tree[0] if len(tree) else (None, None)
    if code is codes.BRANCH:
        for branch in value[1]:
            yield [*branch, *tree[1:]]
    else:
        yield list(tree)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<![\w/])(?:[\w.-]+/)*[\w-]+\.[A-Za-z]\w{0,5}\b",
        r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\w)",
        r"\s+$",
    ],
)
def test_quadratic_patterns_are_detected(pattern: str) -> None:
    assert any("takes" in slow for slow in slow_texts(Use("here", pattern, re.S, ("search", "findall"))))


def test_patterns_run_in_linear_time() -> None:
    found = list(uses())
    assert len(found) > 50
    assert [slow for use in found for slow in slow_texts(use)] == []


@cache
def max_seconds() -> float:
    """CPU time that a pattern may take on a text here: of one that tries 64 characters from each place on, `MAX_TIMES`."""
    slow = re.compile(r"\w{1,64}@")
    return MAX_TIMES * min(_seconds("search", slow.search, "1" * LENGTH) for _ in range(5))


def slow_texts(use: Use) -> Iterator[str]:
    """The texts on which a pattern is slow, up to the first of each function."""
    compiled = re.compile(use.pattern, use.flags)
    slow: set[str] = set()
    for text in texts(use):
        given: Any = text if isinstance(use.pattern, str) else text.encode("latin-1", "replace")
        for function in set(use.functions) - slow:
            apply = getattr(compiled, function)
            took = _seconds(function, apply, given)
            for _ in range(4):
                if took >= max_seconds():
                    # garbage collection or another process may have interfered
                    took = min(took, _seconds(function, apply, given))
            if took >= max_seconds():
                slow.add(function)
                yield f"{use}: {function} takes {took:.2f} s for {text[:30]!r}..., {len(text)} characters"


def _seconds(function: str, apply: Callable[..., Any], text: Any) -> float:
    began = time.process_time()
    if function in ("sub", "subn"):
        apply(lambda found: found[0], text)
    elif function == "finditer":
        list(apply(text))
    else:
        apply(text)
    return time.process_time() - began
