"""Checks an exported statement without the database: its chain of hashes, its balances and its recorded heads.

Uses only the standard library, so that it also runs alone: `python statement_check.py STATEMENT.csv [HEADS.csv]`.
docs/ledger_proof.md describes the format.
"""

import csv
import hashlib
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = (
    "record",
    "account",
    "id",
    "created_at",
    "kind",
    "amount",
    "grant_balance_after",
    "balance_after",
    "operation_id",
    "cause",
    "message_id",
    "previous_hash",
    "hash",
    "proof",
)
"""One record a line: an `opening`, the `entry` lines from the oldest to the newest, a `closing`."""

HEAD_COLUMNS = ("date", "previous", "root", "accounts", "entries", "hash")

FIRST = "0" * 64
"""The hash before an account's first entry, and before the first recorded head."""

MAX_PROBLEMS = 20
"""Problems listed; all are counted."""

MAX_PATH = 64
"""Hashes in a proof of a tree that could exist."""

_ESCAPED = ("'", "=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StatementProblem:
    """What is wrong with a line of the file."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class StatementHead:
    """A recorded head of the ledger that an entry of the statement is proved to be part of."""

    date: str
    hash: str
    entry_id: int
    line: int


@dataclass(slots=True)
class StatementCheck:
    """The result of `check_statement`. Amounts are credits."""

    account: str = ""
    entries: int = 0
    opening_balance: int = 0
    opening_hash: str = FIRST
    closing_balance: int = 0
    closing_hash: str = FIRST
    first_at: str = ""
    last_at: str = ""
    kinds: Counter[str] = field(default_factory=Counter)
    """The sum of the amounts of each kind of entry."""
    heads: list[StatementHead] = field(default_factory=list)
    problems: list[StatementProblem] = field(default_factory=list)
    """The first of them."""
    problem_count: int = 0

    @property
    def valid(self) -> bool:
        """True if the file is consistent. Only a head kept elsewhere shows that it is what was recorded."""
        return self.problem_count == 0

    @property
    def from_start(self) -> bool:
        """The statement begins with the account's first entry."""
        return self.opening_hash == FIRST

    def report(self, line: int, text: str) -> None:
        """Add a problem."""
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(StatementProblem(line, text))


def canonical(values: Iterable[str | None]) -> bytes:
    """A JSON array of strings and nulls as RFC 8785 writes it, in UTF-8: what is hashed."""
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":")).encode()


def entry_hash(previous: str, fields: Iterable[str | None]) -> str:
    """The hash of an entry: of the hash before it and its fields, in the order of COLUMNS, `account` to `message_id`,
    with the id, time and kind in the place they have there."""
    return hashlib.sha256(canonical([previous, *fields])).hexdigest()


def leaf_hash(account: str, entry_id: int, position: int, balance: int, hash: str) -> bytes:
    """The leaf of an account in a head's tree: its last entry, and how many entries it had."""
    fields = canonical([account, str(entry_id), str(position), str(balance), hash])
    return hashlib.sha256(b"\x00" + fields).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node of a Merkle tree (RFC 9162, 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def head_hash(date: str, previous: str, root: str, accounts: int, entries: int) -> str:
    """The hash of a head: of its own figures and the head before it."""
    return hashlib.sha256(canonical(["head", date, previous, root, str(accounts), str(entries)])).hexdigest()


def root_of(leaf: bytes, index: int, size: int, path: Iterable[bytes]) -> bytes | None:
    """The root of a Merkle tree of `size` leaves that has `leaf` at `index`, by its path (RFC 9162, 2.1.3.2), or None."""
    if not 0 <= index < size:
        return None
    last, node = size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        index, last = index >> 1, last >> 1
    return node if last == 0 else None


def cell(text: str | None) -> str:
    """A text as the file has it: an apostrophe before what a spreadsheet would take for a formula, and before an
    apostrophe and an empty text. An empty cell is no text at all."""
    if text is None:
        return ""
    return f"'{text}" if not text or text.startswith(_ESCAPED) else text


def check_statement(lines: Iterable[str], pause: Callable[[], None] = lambda: None) -> StatementCheck:
    """Check an exported statement, given as its lines with their ends.

    Finds changed, removed, inserted and moved lines, and wrong balances and sums, and says which. `pause` is called
    after each line. Never raises for what is in the file.
    """
    check = StatementCheck()
    checker = _Checker(check)
    reader = csv.reader(lines, strict=True)
    begin = 1
    try:
        for row in reader:
            checker.line = begin
            begin = reader.line_num + 1
            checker.read(row)
            pause()
    except csv.Error as error:
        check.report(reader.line_num, f"The line is not CSV: {error}.")
        return check
    checker.end(begin)
    return check


def check_heads(lines: Iterable[str]) -> tuple[dict[str, str], list[StatementProblem]]:
    """Check a list of recorded heads, oldest first, and return the hash of each date, and what is wrong."""
    found: dict[str, str] = {}
    problems: list[StatementProblem] = []
    previous = None
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error as error:
        return {}, [StatementProblem(0, f"The heads are not CSV: {error}.")]
    if not rows or tuple(rows[0]) != HEAD_COLUMNS:
        return {}, [StatementProblem(1, "This is not a list of heads.")]
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(HEAD_COLUMNS) or not (_NUMBER.fullmatch(row[3]) and _NUMBER.fullmatch(row[4])):
            problems.append(StatementProblem(line, "This is not a head."))
            continue
        date, before, root, accounts, entries, hash = row
        if hash != head_hash(date, before, root, int(accounts), int(entries)):
            problems.append(StatementProblem(line, f"The head of {date} was changed."))
        elif previous is not None and before != previous:
            problems.append(StatementProblem(line, f"The head of {date} does not follow the one above it."))
        previous = hash
        found[date] = hash
    return found, problems


def unknown_heads(check: StatementCheck, recorded: Mapping[str, str]) -> list[StatementProblem]:
    """The heads of a statement that `recorded`, by date, has otherwise or does not have."""
    return [
        StatementProblem(
            head.line,
            f"The head of {head.date} differs from the recorded one."
            if head.date in recorded
            else f"No head of {head.date} is recorded.",
        )
        for head in check.heads
        if recorded.get(head.date) != head.hash
    ]


class _Checker:
    """Reads records in order and compares each with those before it."""

    def __init__(self, check: StatementCheck) -> None:
        self.check = check
        self.line = 1
        self.state = "header"
        self.entry_id = 0
        self.grants: dict[str | None, int] = {}
        self.missing: int | None = None
        """Entries before the first line, as the first recorded head tells."""

    def read(self, row: list[str]) -> None:
        if not row:
            self.problem("The line is empty.")
        elif self.state == "header":
            self.state = "opening"
            if tuple(row) != COLUMNS:
                self.state = "foreign"
                self.problem(f"This is not a statement: its first line must be {','.join(COLUMNS)}.")
        elif self.state == "foreign":
            pass
        elif len(row) != len(COLUMNS):
            self.problem(f"The line has {len(row)} cells instead of {len(COLUMNS)}.")
        else:
            self.record(dict(zip(COLUMNS, row, strict=True)))

    def record(self, row: dict[str, str]) -> None:
        if self.state == "closed":
            self.problem("There is a line after the closing.")
        elif self.state == "opening":
            self.opening(row)
        elif row["record"] == "entry":
            self.entry(row)
        elif row["record"] == "closing":
            self.closing(row)
        else:
            self.problem(f"{row['record']!r} is not the record expected here.")

    def end(self, line: int) -> None:
        self.line = line
        if self.state in ("header", "opening"):
            self.problem("The file has no entries and no opening.")
        elif self.state == "entries":
            self.problem("The file ends without its closing: lines are missing.")

    def problem(self, *texts: str) -> None:
        if texts:
            self.check.report(self.line, " ".join(texts))

    def opening(self, row: dict[str, str]) -> None:
        self.state = "entries"
        numbers = self.numbers(row, "id", "balance_after")
        if row["record"] != "opening" or numbers is None or not _HASH.fullmatch(row["hash"]):
            self.problem("The opening is missing or damaged.")
            self.check.account = _text(row["account"]) or ""
            if row["record"] == "entry":
                self.entry(row)
            return
        self.entry_id, self.check.opening_balance = numbers
        self.check.account = _text(row["account"]) or ""
        self.check.opening_hash = self.check.closing_hash = row["hash"]
        self.check.closing_balance = self.check.opening_balance
        extra = [row[name] for name in COLUMNS[3:7] + COLUMNS[8:12] + COLUMNS[13:]]
        if any(extra) or not row["account"] or row["account"] != cell(_text(row["account"])):
            self.problem("The opening was changed.")
        if (row["hash"] == FIRST) != (numbers[0] == 0) or (row["hash"] == FIRST and numbers[1] != 0):
            self.problem("An account begins with entry 0, no hash and a balance of 0.")

    def entry(self, row: dict[str, str]) -> None:
        check = self.check
        numbers = self.numbers(row, "id", "amount", "grant_balance_after", "balance_after")
        if numbers is None or not _HASH.fullmatch(row["hash"]) or not _HASH.fullmatch(row["previous_hash"]):
            self.problem("A number or hash is damaged.")
            return
        entry_id, amount, grant_balance, balance = numbers
        wrong = [] if check.account == _text(row["account"]) else ["It is of another account."]
        # the other cells are hashed as they are; these could be written otherwise
        unescaped = [_text(row[name]) for name in ("account", "kind", "operation_id", "cause", "message_id")]
        written = [row[name] for name in ("account", "kind", "operation_id", "cause", "message_id")]
        if entry_hash(row["previous_hash"], _fields(row)) != row["hash"] or written != [
            *map(cell, unescaped)
        ]:
            wrong.append("Its hash is not that of its fields: it was changed.")
        if row["previous_hash"] != check.closing_hash:
            wrong.append("It does not follow the line above: a line was removed, inserted, moved or changed.")
        if entry_id <= self.entry_id:
            wrong.append("Its id is not above that of the line above.")
        if balance != check.closing_balance + amount:
            wrong.append(f"The balance is {balance:,} instead of {check.closing_balance + amount:,}.")
        operation = _text(row["operation_id"])
        before = self.grants.get(operation, 0 if check.from_start else grant_balance - amount)
        if grant_balance != before + amount:
            wrong.append(f"The grant's balance is {grant_balance:,} instead of {before + amount:,}.")
        self.grants[operation] = grant_balance
        check.entries += 1
        check.kinds[_text(row["kind"]) or ""] += amount
        check.closing_balance, check.closing_hash, self.entry_id = balance, row["hash"], entry_id
        check.first_at = check.first_at or row["created_at"]
        check.last_at = row["created_at"]
        if row["proof"] and not self.proof(row, entry_id, balance):
            wrong.append("The proof that a recorded head contains it is wrong.")
        self.problem(*(f"Entry {entry_id}:", *wrong) if wrong else ())

    def closing(self, row: dict[str, str]) -> None:
        check = self.check
        self.state = "closed"
        numbers = self.numbers(row, "id", "balance_after")
        amount = check.kinds.total()
        sums = {"entries": check.entries, "amount": amount, "kinds": dict(check.kinds)}
        if numbers is None or numbers[0] != self.entry_id or row["hash"] != check.closing_hash:
            self.problem(
                "The closing is not that of the last entry: a line before it was removed, inserted or changed."
            )
        elif numbers[1] != check.closing_balance:
            self.problem(f"The closing balance is {numbers[1]:,} instead of {check.closing_balance:,}.")
        if _object(row["proof"]) != sums or check.closing_balance != check.opening_balance + amount:
            self.problem("The sums are not those of the entries.")
        if row["account"] != cell(check.account) or any(row[name] for name in COLUMNS[3:7] + COLUMNS[8:12]):
            self.problem("The closing was changed.")

    def proof(self, row: dict[str, str], entry_id: int, balance: int) -> bool:
        """Whether the proof of a recorded head is right; adds the head if it is."""
        found = _object(row["proof"])
        names = ("date", "previous", "accounts", "entries", "position", "index", "path", "head")
        if not isinstance(found, dict) or set(found) != set(names):
            return False
        date, previous, accounts, entries, position, index, path, head = (found[name] for name in names)
        if not all(type(each) is int for each in (accounts, entries, position, index)):
            return False
        if not isinstance(path, list) or len(path) > MAX_PATH:
            return False
        if not all(isinstance(each, str) and _HASH.fullmatch(each) for each in (previous, head, *path)):
            return False
        if not isinstance(date, str) or not _DATE.fullmatch(date):
            return False
        leaf = leaf_hash(self.check.account, entry_id, position, balance, row["hash"])
        root = root_of(leaf, index, accounts, map(bytes.fromhex, path))
        if root is None or head != head_hash(date, previous, root.hex(), accounts, entries):
            return False
        missing = position - self.check.entries
        if self.missing is None:
            self.missing = 0 if self.check.from_start else missing
        if missing != self.missing or missing < 0:
            return False
        self.check.heads.append(StatementHead(date, head, entry_id, self.line))
        return True

    @staticmethod
    def numbers(row: dict[str, str], *names: str) -> list[int] | None:
        texts = [row[name] for name in names]
        return [int(text) for text in texts] if all(map(_NUMBER.fullmatch, texts)) else None


def _fields(row: dict[str, str]) -> Iterator[str | None]:
    for name in COLUMNS[1:11]:
        yield _text(row[name]) if name in _TEXTS else row[name]


_TEXTS = frozenset({"account", "kind", "operation_id", "cause", "message_id"})


def _text(written: str) -> str | None:
    return written.removeprefix("'") if written else None


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def decoded(raw: bytes) -> Iterable[str]:
    """The lines of a file with their ends. Raises UnicodeDecodeError for what is not UTF-8."""
    return io.StringIO(raw.decode("utf-8-sig"), newline="\n")


def main(arguments: list[str]) -> int:
    """Check the files named, print what was found, and return the exit code."""
    files = [decoded(Path(name).read_bytes()) for name in arguments]
    check = check_statement(files[0])
    problems = [f"Line {each.line}: {each.text}" for each in check.problems]
    if len(files) > 1:
        recorded, wrong = check_heads(files[1])
        problems += [f"Heads, line {each.line}: {each.text}" for each in wrong]
        problems += [f"Line {each.line}: {each.text}" for each in unknown_heads(check, recorded)]
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"{check.entries} entries, balance {check.closing_balance}, head {check.closing_hash}")
    for head in check.heads:
        print(f"part of the head of {head.date}: {head.hash}")
    print("NOT VALID" if problems else "valid")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
