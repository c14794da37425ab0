"""Which files belong to no snapshot: the rules of `.fstignore` and `.stoaignore`, after those that always hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FILES = (".fstignore", ".stoaignore")
NEVER = frozenset({".stoa", ".fst", ".git", ".svn", ".hg"})
"""Folders that no rule includes."""
DEFAULTS = [
    "node_modules/",
    "__pycache__/",
    ".DS_Store",
    "Thumbs.db",
    *("*.pyc", "*.pyo", "*.class", "*.o", "*.obj", "*.exe", "*.dll", "*.so", "*.dylib"),
]


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    includes: bool
    folders_only: bool
    whole: bool  # from the root, rather than any one name

    def matches(self, path: str, folder: bool) -> bool:
        if self.folders_only and not folder:
            return False
        return bool(self.pattern.fullmatch(path if self.whole else path.rpartition("/")[2]))


class IgnoreRules:
    """Rules, of which the last that matches decides. A rule without a slash is for a name anywhere, one with a slash for a path from the root;
    a slash at the end is for folders, and for all in them. `*` stands for any characters, all others for themselves; `**/` for any folders above; `!` includes again."""

    def __init__(self, lines: list[str]) -> None:
        self._rules = [rule for line in [*DEFAULTS, *lines] if (rule := _read(line))]
        self.includes_again = any(rule.includes for rule in self._rules)

    @classmethod
    def of(cls, root: Path) -> IgnoreRules:
        """The rules of a working copy."""
        lines: list[str] = []
        for name in FILES:
            if (root / name).is_file():
                lines += (root / name).read_text(encoding="utf-8", errors="replace").splitlines()
        return cls(lines)

    def ignored(self, path: str, folder: bool, above: bool = False) -> bool:
        """Whether a path with `/` is ignored. `above`: its folder is, and it with it unless a rule includes it."""
        if path.rpartition("/")[2].casefold() in NEVER:
            return True
        found = above
        for rule in self._rules:
            if rule.includes == found and rule.matches(path, folder):
                found = not rule.includes
        return found


def _read(line: str) -> _Rule | None:
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    includes = text.startswith("!")
    text = text[1:].strip() if includes else text
    folders_only, text = text.endswith("/"), text.rstrip("/")
    whole, text = "/" in text, text.lstrip("/")
    anywhere = text.startswith("**/")
    text = text[3:] if anywhere else text
    if not text:
        return None
    pattern = re.sub(r"(?:\\\*)+", ".*", re.escape(text))
    return _Rule(
        re.compile(f"(?:.*/)?{pattern}" if anywhere else pattern, re.DOTALL), includes, folders_only, whole
    )
