"""Finds secrets in files by their shapes. A value is never stored, shown or hashed: items say where it is, and what it looks like."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from models.core.cooperative import in_slices
from models.insights.analysed_tree import AnalysedTree, is_test
from models.insights.item_finding import FoundItem, named_path

MAX_LINE_BYTES = 2_000
"""Longer lines are data or generated."""
MAX_PER_FILE, MAX_SECRETS = 20, 500


class _Shape(NamedTuple):
    rule: str
    name: str
    pattern: re.Pattern[bytes]


_SHAPES = (
    _Shape(
        "private-key",
        "a private key",
        re.compile(rb"-----BEGIN (?:RSA |EC |DSA |OPENSSH |PGP |ENCRYPTED )?PRIVATE KEY"),
    ),
    _Shape(
        "aws-key", "an access key of AWS", re.compile(rb"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])")
    ),
    _Shape(
        "github-token",
        "a token of GitHub",
        re.compile(rb"(?<!\w)(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255})"),
    ),
    _Shape("gitlab-token", "a token of GitLab", re.compile(rb"(?<!\w)glpat-[\w-]{20,255}")),
    _Shape("slack-token", "a token of Slack", re.compile(rb"(?<!\w)xox[abprs]-[A-Za-z0-9-]{20,255}")),
    _Shape("stripe-key", "a secret key of Stripe", re.compile(rb"(?<!\w)[rs]k_live_[A-Za-z0-9]{20,255}")),
    _Shape("google-key", "a key of Google", re.compile(rb"(?<!\w)AIza[\w-]{35}(?![\w-])")),
    _Shape("anthropic-key", "a key of Anthropic", re.compile(rb"(?<!\w)sk-ant-[\w-]{32,255}")),
    _Shape("openai-key", "a key of OpenAI", re.compile(rb"(?<!\w)sk-(?:proj-)?[A-Za-z0-9_-]{40,255}")),
    _Shape("npm-token", "a token of npm", re.compile(rb"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)")),
    _Shape("pypi-token", "a token of PyPI", re.compile(rb"(?<!\w)pypi-[\w-]{50,255}")),
    _Shape(
        "url-password",
        "a password in an address",
        re.compile(rb"(?<!\w)[a-z][a-z0-9+]{1,20}://[^\s:/@\"'<>]{1,100}:([^\s:/@\"'<>]{6,100})@[\w.-]+"),
    ),
)
_NAMED = re.compile(
    rb"""(?i)(?:secret|token|passwd|password|api_?key|auth_?key|private_?key)[\w-]{0,30}["']?[ \t]{0,3}[:=]{1,2}[ \t]{0,3}["']([^"'\s]{12,200})["']"""
)
"""A name that says secret, and a text that is given to it."""
_PLACEHOLDER = re.compile(
    rb"(?i)example|sample|placeholder|changeme|change-me|your[-_]|dummy|fake|test|xxxx|\*{3}|<[^<>]{0,60}>|\$\{|\{\{|%\(|%s|redacted|not-a-|demo|0123456|abcdef"
)
_DIGIT, _LETTER = re.compile(rb"[0-9]"), re.compile(rb"[A-Za-z]")
_WORD = re.compile(rb"[A-Za-z_]+")
MIN_ENTROPY = 3.5
"""Bits of a character: words and paths have less than random texts."""


_GENERIC = _Shape("named-secret", "a secret", _NAMED)


def secret_findings(tree: AnalysedTree) -> Iterator[FoundItem]:
    """A finding for each line that holds something with the shape of a secret."""
    total = 0
    for path in in_slices(sorted(tree.texts)):
        for count, (shape, number, around) in enumerate(_in_file(tree.texts[path])):
            if count == MAX_PER_FILE or total == MAX_SECRETS:
                break
            total += 1
            yield _item(path, shape, number, around)


def _in_file(data: bytes) -> Iterator[tuple[_Shape, int, str]]:
    """The shape, the number of the line, and the name that stands before the value. A line counts once."""
    found: dict[int, tuple[_Shape, re.Match[bytes]]] = {}
    for shape in (*_SHAPES, _GENERIC):
        for match in shape.pattern.finditer(data):
            start = data.rfind(b"\n", 0, match.start()) + 1
            end = data.find(b"\n", match.end())
            if (len(data) if end < 0 else end) - start <= MAX_LINE_BYTES and start not in found:
                value = match[match.lastindex or 0]
                if not _PLACEHOLDER.search(value) and (shape is not _GENERIC or _is_random(value)):
                    found[start] = shape, match
            if len(found) == MAX_PER_FILE:
                break
    number, last = 1, 0
    for start in sorted(found):
        shape, match = found[start]
        number += data.count(b"\n", last, start)
        last = start
        yield shape, number, _name_before(data[start : match.start()])


def _is_random(value: bytes) -> bool:
    if not (_DIGIT.search(value) and _LETTER.search(value)):
        return False
    counts = Counter(value)
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return entropy >= MIN_ENTROPY


def _name_before(before: bytes) -> str:
    """The last word before the value: it holds no part of it, nor of another one."""
    found = _WORD.findall(before[-80:])
    return found[-1].decode() if found else ""


def _item(path: str, shape: _Shape, number: int, around: str) -> FoundItem:
    severity = "warning" if is_test(path) else "critical"
    return FoundItem(
        f"secret:{shape.rule}",
        "security",
        severity,
        f"{named_path(path)}:{number} seems to hold {shape.name}",
        description="Whoever can read the project can use it, and its history keeps it. Revoke it where it was made, then read the new"
        " one from an environment variable: the project's settings keep those sealed.",
        path=path,
        line=number,
        snippet=around,
        prompt=f"The file {path} holds {shape.name} in line {number}. Read it from an environment variable instead, and say which in the"
        " README. Do not repeat the value anywhere.",
    )
