"""What an analyser finds, and the fingerprint that it is known by: rule, path, symbol and the normalised text of the place."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models.insights.action_item import MAX_DESCRIPTION, MAX_FILES, MAX_PROMPT, MAX_TITLE

MAX_NAMED_PATH = 120
"""Characters of a path that a title names."""


@dataclass(frozen=True)
class FoundItem:
    """Something to mend. `rule` names the kind of finding, as `ruff:S608`; `path` the file, if it is one; `symbol` the function or name;
    `snippet` the text of the place, which may move to another line without becoming another finding; `line` is shown only.
    `fingerprint` replaces the computed one, for findings that have an id of their own."""

    rule: str
    type: str
    severity: str
    title: str
    description: str = ""
    path: str = ""
    line: int = 0
    symbol: str = ""
    snippet: str = ""
    files: Sequence[str] = ()
    prompt: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def mark(self) -> str:
        """What it is known by in its workspace."""
        return self.fingerprint or fingerprint(self.rule, self.path, self.symbol, self.snippet)

    def since(self, snapshot_id: str) -> "FoundItem":
        """The same, as one that this snapshot did not have."""
        return replace(self, metadata={**self.metadata, "new_since": snapshot_id})

    def columns(self) -> dict[str, Any]:
        """What the table holds of it, without NUL and cut to what fits."""
        files = list(self.files) or ([self.path] if self.path else [])
        metadata = dict(self.metadata)
        if self.line:
            metadata["line"] = self.line
        if self.symbol:
            metadata["symbol"] = _plain(self.symbol, 200)
        return {
            "type": self.type,
            "severity": self.severity,
            "rule": _plain(self.rule, 100),
            "title": _plain(self.title, MAX_TITLE) or self.rule,
            "description": _plain(self.description, MAX_DESCRIPTION) or None,
            "affected_files": [_plain(each, 4_096) for each in files[:MAX_FILES]],
            "suggested_prompt": _plain(self.prompt, MAX_PROMPT) or None,
            "metadata_": metadata,
        }


def fingerprint(rule: str, path: str, symbol: str, snippet: str) -> str:
    """What a finding is known by; spaces and the number of the line make no difference."""
    parts = (rule, path, symbol, " ".join(snippet.split()))
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()[:40]


def by_fingerprint(found: Iterable[FoundItem]) -> dict[str, FoundItem]:
    """Findings by their fingerprints. Those of the same text in one file are numbered in the order of their lines."""
    seen: Counter[str] = Counter()
    known: dict[str, FoundItem] = {}
    for each in sorted(found, key=lambda item: (item.path, item.line, item.rule)):
        seen[each.mark] += 1
        number = seen[each.mark]
        known[each.mark if number == 1 else f"{each.mark}:{number}"] = each
    return known


def named_path(path: str) -> str:
    """A path for a title: its end, if it is long."""
    return path if len(path) <= MAX_NAMED_PATH else f"…{path[-MAX_NAMED_PATH:]}"


def _plain(text: str, most: int) -> str:
    """Text that PostgreSQL can hold."""
    plain = text.replace("\0", "").encode("utf-8", "replace").decode()
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
