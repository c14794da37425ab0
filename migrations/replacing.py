"""Functions, triggers and views of the database: each has one current text, `migrations/functions/<room>/<name>.sql`.

A migration that changes one keeps the text it replaces in `migrations/replaced/<revision>/<room>/<name>.sql`; without
that file the function is new with the migration, and an empty one says that it was removed before. What a revision
installs follows: the text that the next later migration replaces, else the current one. So a database that goes up or
down step by step has the functions of each revision exactly.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import op
from alembic.script import ScriptDirectory

HERE = Path(__file__).parent

# A statement begins at the left margin and ends before the next one, or before the comment of the next one.
CREATE = re.compile(
    r"^CREATE (?:OR REPLACE )?(?:CONSTRAINT )?(FUNCTION|AGGREGATE|VIEW|TRIGGER) (\w+).*?(?=^CREATE |^--|\Z)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Statement:
    """One `CREATE ...` of a file."""

    kind: str
    name: str
    text: str

    @property
    def head(self) -> str:
        """What CREATE OR REPLACE cannot change: of a function its signature, of anything else all of it."""
        return self.text.partition("LANGUAGE")[0] if self.kind == "FUNCTION" else self.text

    @property
    def table(self) -> str:
        """The table of a trigger; nothing for the others."""
        found = re.search(r"\sON (\S+)", self.text) if self.kind == "TRIGGER" else None
        return found[1] if found else ""

    @property
    def drop(self) -> str:
        if self.kind == "TRIGGER":
            return f"DROP TRIGGER {self.name} ON {self.table}"
        return f"DROP {'VIEW' if self.kind == 'VIEW' else 'ROUTINE'} {self.name}"


def replace_function(name: str, revision: str) -> None:
    """For `upgrade()`: bring `<room>/<name>` from the text kept for this revision to the one that is right at it.

    Makes a function that is new, and drops one that has no current text. What is the same in both is not touched: a
    trigger whose function alone changed keeps its table unlocked. Where a signature changes, the old function is
    dropped; what depends on it has to be replaced before and made again after.
    """
    _bring(kept(name, revision), text_at(name, revision))


def restore_function(name: str, revision: str) -> None:
    """For `downgrade()`: the way back of `replace_function`, in the reverse order of several."""
    _bring(text_at(name, revision), kept(name, revision))


def kept(name: str, revision: str) -> str:
    """The text that this revision replaces; empty where there was none."""
    file = HERE / "replaced" / revision / f"{name}.sql"
    return file.read_text() if file.exists() else ""


def text_at(name: str, revision: str) -> str:
    """The text that is right at a revision; empty where it is removed there."""
    for later in _later(HERE, revision):
        file = HERE / "replaced" / later / f"{name}.sql"
        if file.exists():
            return file.read_text()
    file = HERE / "functions" / f"{name}.sql"
    return file.read_text() if file.exists() else ""


def statements(text: str) -> list[Statement]:
    """What a file makes, in its order."""
    return [Statement(found[1], found[2], found[0].rstrip()) for found in CREATE.finditer(text)]


def run_script(sql: str) -> None:
    """Send a script as it is: its percent signs and colons are no parameters."""
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})


def _bring(former: str, wanted: str) -> None:
    if not former and not wanted:
        raise LookupError("There is no such function, neither before this migration nor after it.")
    old, new = statements(former), statements(wanted)
    remaining = {statement.head for statement in new}
    for statement in reversed(old):
        if statement.head not in remaining:
            run_script(statement.drop)
    for statement in new:
        if statement not in old:
            run_script(statement.text)


@cache
def _later(here: Path, revision: str) -> list[str]:
    """The revisions after this one, the first of them first."""
    script = ScriptDirectory(str(here))
    return [later.revision for later in script.iterate_revisions("head", revision)][::-1]
