"""Functions, triggers and views of the database. The current definition is `migrations/functions/<room>/<name>.sql`.

A migration that changes one stores the previous definition in `migrations/replaced/<revision>/<room>/<name>.sql`. If
that file is missing, the function is new in the migration; an empty file means it had been removed before. A revision
installs the definition that the next later migration replaces, or else the current one, so that upgrading and
downgrading step by step restores the exact functions of each revision.
"""

import re
from dataclasses import dataclass
from functools import cache
from os.path import exists
from pathlib import Path

from alembic import op
from alembic.script import ScriptDirectory

HERE = Path(__file__).parent

# A statement starts at the left margin and ends before the next statement or its comment.
CREATE = re.compile(
    r"^CREATE (?:OR REPLACE )?(?:CONSTRAINT )?(FUNCTION|AGGREGATE|VIEW|TRIGGER) (\w+).*?(?=^CREATE |^--|\Z)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Statement:
    """A `CREATE ...` statement of a file."""

    kind: str
    name: str
    text: str

    @property
    def head(self) -> str:
        """The part that CREATE OR REPLACE cannot change: a function's signature, or the whole of any other
        statement."""
        return self.text.partition("LANGUAGE")[0] if self.kind == "FUNCTION" else self.text

    @property
    def table(self) -> str:
        """The table of a trigger, else an empty string."""
        found = re.search(r"\sON (\S+)", self.text) if self.kind == "TRIGGER" else None
        return found[1] if found else ""

    @property
    def drop(self) -> str:
        if self.kind == "TRIGGER":
            return f"DROP TRIGGER {self.name} ON {self.table}"
        return f"DROP {'VIEW' if self.kind == 'VIEW' else 'ROUTINE'} {self.name}"


def replace_function(name: str, revision: str) -> None:
    """For `upgrade()`: replace the previous definition of `<room>/<name>` with that of this revision.

    Creates a new function and drops one without a definition. Leaves unchanged statements alone: if only a trigger's
    function changed, the table is not locked. If a signature changes, the old function is dropped; drop dependent
    objects first and recreate them afterwards.
    """
    _replace(replaced_text(name, revision), text_at(name, revision))


def restore_function(name: str, revision: str) -> None:
    """For `downgrade()`: undo `replace_function`. Undo several in reverse order."""
    _replace(text_at(name, revision), replaced_text(name, revision))


def replaced_text(name: str, revision: str) -> str:
    """The definition that this revision replaces, or an empty string."""
    return _read(f"{HERE}/replaced/{revision}/{name}.sql") or ""


def text_at(name: str, revision: str) -> str:
    """The definition at a revision; empty if removed."""
    for later in _later(HERE, revision):
        found = _read(f"{HERE}/replaced/{later}/{name}.sql")
        if found is not None:
            return found
    return _read(f"{HERE}/functions/{name}.sql") or ""


def _read(file: str) -> str | None:
    """The text of a file, or None if it is missing."""
    return Path(file).read_text() if exists(file) else None


def statements(text: str) -> list[Statement]:
    """The statements of a file, in order."""
    return [Statement(found[1], found[2], found[0].rstrip()) for found in CREATE.finditer(text)]


def run_script(sql: str) -> None:
    """Run a script verbatim, without parameter substitution of percent signs and colons."""
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})


def _replace(before: str, after: str) -> None:
    if not before and not after:
        raise LookupError("There is no such function, neither before nor after this migration.")
    old, new = statements(before), statements(after)
    remaining = {statement.head for statement in new}
    for statement in reversed(old):
        if statement.head not in remaining:
            run_script(statement.drop)
    for statement in new:
        if statement not in old:
            run_script(statement.text)


def _later(here: Path, revision: str) -> list[str]:
    """The revisions after this one, oldest first."""
    revisions = _revisions(here)
    return revisions[revisions.index(revision) + 1 :]


@cache
def _revisions(here: Path) -> list[str]:
    """All revisions, oldest first."""
    return [each.revision for each in ScriptDirectory(str(here)).walk_revisions()][::-1]
