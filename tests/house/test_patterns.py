"""Every regular expression of the application takes time in proportion to its text, however the text was made.

All of them are found in the source, and tried with runs of what they look for: quadratic ones take seconds for these.
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

LENGTH = 10_000
MOST_SECONDS = 0.025
"""Of processor time for one text. In linear time it is a millisecond at most."""
WAYS = ("fullmatch", "match", "search", "findall", "finditer", "sub", "subn", "split")
FLAGS = {
    name: getattr(re, name)
    for name in ("I", "IGNORECASE", "S", "DOTALL", "M", "MULTILINE", "ASCII", "A", "X")
}


@dataclass(frozen=True)
class Use:
    """A pattern, and how it is applied."""

    where: str
    pattern: str | bytes
    flags: int
    ways: tuple[str, ...]

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
                and node.func.attr in ("compile", *WAYS)
            ):
                continue
            way = node.func.attr
            ways = _applied(names.get(id(node), "")) if way == "compile" else (way,)
            yield Use(f"{where}:{node.lineno}", _text(node.args[0]), _flags(node), ways)


def _applied(name: str) -> tuple[str, ...]:
    found = {
        way
        for source in sources().values()
        for way in (re.findall(rf"\b{name}\.({'|'.join(WAYS)})\b", source) if name else ())
    }
    return tuple(sorted(found)) or ("search",)


def _text(node: ast.expr) -> str | bytes:
    """The pattern; a word stands for what is put into it."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, str | bytes)
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "word" for part in node.values)
    raise AssertionError(f"a pattern that cannot be read: {ast.unparse(node)}")


def _flags(call: ast.Call) -> int:
    named = {
        node.attr
        for argument in [*call.args[1:], *(keyword.value for keyword in call.keywords)]
        for node in ast.walk(argument)
        if isinstance(node, ast.Attribute)
    }
    return sum(int(flag) for flag in {FLAGS[name] for name in named if name in FLAGS})


USES = list(uses())

CATEGORIES = {
    codes.CATEGORY_DIGIT: "1",
    codes.CATEGORY_SPACE: " \n",
    codes.CATEGORY_WORD: "a1",
    codes.CATEGORY_NOT_SPACE: "a.",
    codes.CATEGORY_NOT_WORD: ".",
    codes.CATEGORY_NOT_DIGIT: "a",
}


def letters(tree: Any) -> set[str]:
    """Characters that the pattern looks for, one or two of each kind, and one that it does not."""
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
    """Something the pattern matches, looking ahead and behind aside: the first branch, each repetition once."""
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
    """Signs and pairs of signs over and over; what the pattern begins with, over and over or followed by a run of what comes
    next; each with an end that may not fit."""
    source = use.pattern if isinstance(use.pattern, str) else use.pattern.decode("latin-1")
    tree = _parser.parse(source, use.flags)
    signs = sorted(letters(tree))[:12]
    units = {*signs, *map("".join, product(signs, repeat=2))}
    runs = set()
    for branch in _branches(tree):
        parts = [_sample(code, value) for code, value in branch]
        for at in range(len(parts)):
            begin = "".join(parts[:at])
            units |= {begin + parts[at], begin + parts[at] + "a"}
            runs |= {(begin, sign) for sign in {parts[at], *signs} if sign}
    for unit in filter(None, units):
        yield unit * (LENGTH // len(unit))
    for begin, sign in runs:
        for end in ("\0", "a", *signs[:5]):
            yield begin + sign * (LENGTH // len(sign)) + end


def _branches(tree: Any) -> Iterator[Any]:
    """The pattern, or where it begins with alternatives each of them."""
    code, value = tree[0] if len(tree) else (None, None)
    if code is codes.BRANCH:
        for branch in value[1]:
            yield [*branch, *tree[1:]]
    else:
        yield list(tree)


def test_the_patterns_are_found() -> None:
    assert len(USES) > 50


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<![\w/])(?:[\w.-]+/)*[\w-]+\.[A-Za-z]\w{0,5}\b",
        r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\w)",
        r"\s+$",
    ],
)
def test_a_pattern_that_does_is_found(pattern: str) -> None:
    with pytest.raises(AssertionError, match="takes"):
        test_a_pattern_takes_no_longer_than_its_text_is_long(
            Use("here", pattern, re.S, ("search", "findall"))
        )


@pytest.mark.parametrize("use", USES, ids=str)
def test_a_pattern_takes_no_longer_than_its_text_is_long(use: Use) -> None:
    compiled = re.compile(use.pattern, use.flags)
    for text in texts(use):
        given: Any = text if isinstance(use.pattern, str) else text.encode("latin-1", "replace")
        for way in use.ways:
            apply = getattr(compiled, way)
            took = _seconds(way, apply, given)
            if took >= MOST_SECONDS:
                # the collector of garbage may have come between
                took = min(took, _seconds(way, apply, given))
            assert took < MOST_SECONDS, (
                f"{way} takes {took:.2f} s for {text[:30]!r}..., {len(text)} characters"
            )


def _seconds(way: str, apply: Callable[..., Any], text: Any) -> float:
    began = time.process_time()
    if way in ("sub", "subn"):
        apply(lambda found: found[0], text)
    elif way == "finditer":
        list(apply(text))
    else:
        apply(text)
    return time.process_time() - began
