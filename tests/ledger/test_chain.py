"""The chain of hashes: any history verifies, any change of an export is found, and the recorded heads hold."""

import csv
import io
import json
import threading
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models import ledger
from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.core.pool import Pool
from models.ledger import Account, CreditEntry, LedgerHead, LedgerHeadLeaf
from models.ledger.heads import heads_csv
from models.ledger.statement_check import (
    COLUMNS,
    FIRST,
    StatementCheck,
    check_heads,
    check_statement,
    decoded,
    entry_hash,
    head_hash,
    unknown_heads,
)
from models.usage.statement_export import statement_csv, statement_range
from tests import factories
from tests.factories import Person
from tests.ledger.stage import NOW, assert_proved, give, payer, spend

DAY = timedelta(days=1)


def export(account: Account, first: str | None = None, last: str | None = None) -> str:
    written = "".join(statement_csv(statement_range(account.id, first, last)))
    db.session.rollback()
    return written


def check(written: str) -> StatementCheck:
    return check_statement(decoded(written.encode()))


def rows_of(written: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(written, newline="")))


def written_of(rows: list[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


def set_cell(row: list[str], name: str, value: str) -> None:
    row[COLUMNS.index(name)] = value


def get_cell(row: list[str], name: str) -> str:
    return row[COLUMNS.index(name)]


def history(session: Session, pool: Pool, steps: list[tuple[str, int]]) -> Account:
    """An account that lived through these steps, each a minute after the one before; a head is recorded every day."""
    who = payer(session, factories.new_id("user-"), next_quota_reset=NOW + timedelta(days=3000))
    moment = NOW
    grants: list[str] = []
    for kind, amount in steps:
        moment += timedelta(hours=5)
        if kind == "grant":
            expires = moment + timedelta(hours=12) if amount % 3 == 0 else None
            grants.append(give(session, who.account, amount, now=moment, expires_at=expires))
        elif kind == "charge":
            cause = f"=cause, {amount}\n'\"ü\x1f{factories.new_id()}"
            ledger.charge(who.account, amount, cause=cause, now=moment)
        elif kind == "settle" and ledger.balance(who.account, now=moment).net_balance > 0:
            session.rollback()
            spend(pool, who, amount, now=moment)
        elif kind == "revoke" and grants:
            try:
                ledger.revoke(grants[amount % len(grants)], "refund", now=moment)
            except Conflict:
                session.rollback()
        elif kind == "sweep":
            ledger.sweep(now=moment)
        session.commit()
        record_next(session)
    return who.account


def record_next(session: Session) -> None:
    """Record a head on the day after the last one."""
    last = session.scalar(select(func.max(LedgerHead.day)))
    assert ledger.record_head(datetime.combine(last + DAY, time(), UTC) if last else NOW)
    session.commit()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["grant", "charge", "settle", "settle", "revoke", "sweep"]), st.integers(1, 300)
    ),
    min_size=1,
    max_size=14,
)
LONG = [
    ("grant", 100),
    ("settle", 30),
    ("charge", 90),
    ("settle", 5),
    ("grant", 500),
    ("grant", 33),
    ("settle", 7),
    ("settle", 400),
    ("sweep", 1),
    ("revoke", 1),
    ("settle", 3),
]
"""Debt, cleared debt, an expiry and a revocation."""


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_any_history_verifies(session: Session, pool: Pool, steps: list[tuple[str, int]]) -> None:
    account = history(session, pool, steps)
    found = check(export(account))
    assert found.valid, found.problems
    entries = session.scalars(
        select(CreditEntry).where(CreditEntry.account_id == account.id).order_by(CreditEntry.id)
    ).all()
    assert found.entries == len(entries)
    assert found.account == account.id
    assert found.from_start
    assert found.closing_balance == sum(entry.amount for entry in entries)
    assert found.kinds.total() == found.closing_balance
    if entries:
        assert found.closing_hash == entries[-1].hash.hex()
        assert found.heads[-1].entry_id == entries[-1].id
    recorded, problems = check_heads(io.StringIO(heads_csv(), newline=""))
    assert problems == []
    assert unknown_heads(found, recorded) == []
    assert_proved(session, NOW + timedelta(days=3000))


@pytest.mark.usefixtures("kind")
def test_the_history_of_any_kind_of_account_verifies(session: Session, pool: Pool) -> None:
    account = history(session, pool, LONG)
    found = check(export(account))
    assert found.valid, found.problems
    assert len(found.heads) > 1
    assert_proved(session, NOW + timedelta(days=3000))


def test_the_database_and_the_checker_hash_alike(session: Session) -> None:
    who = payer(session)
    for cause in ("plain", '\x01\b\f\n\r\t\x1f\x7f"\\/', "é \u2028 \U0001f3db", "'=1+1", ""):
        ledger.charge(who.account, 1, cause=cause, now=NOW + timedelta(microseconds=1))
    session.commit()
    previous = FIRST
    for entry in session.scalars(select(CreditEntry).order_by(CreditEntry.id)):
        fields = (
            entry.account_id,
            str(entry.id),
            "2026-11-20T10:30:00.000001Z",
            entry.kind,
            str(entry.amount),
            str(entry.grant_balance_after),
            str(entry.balance_after),
            entry.operation_id,
            entry.cause,
            entry.message_id,
        )
        previous = entry_hash(previous, fields)
        assert entry.hash.hex() == previous, entry.cause
    found = check(export(who.account))
    assert found.valid, found.problems


@pytest.fixture
def statement(session: Session, pool: Pool) -> list[list[str]]:
    """The rows of an export; those of entries are 2 to -1."""
    rows = rows_of(export(history(session, pool, LONG)))
    assert len(rows) > 12
    return rows


@pytest.mark.parametrize("column", COLUMNS)
def test_a_changed_cell_of_any_line_is_found(statement: list[list[str]], column: str) -> None:
    for index in range(1, len(statement)):
        before = get_cell(statement[index], column)
        values = {"0", "7", "x", before + "0", "'" + before, before[:-1], FIRST} - {before, ""}
        # no line says that an entry must have a proof
        for value in values | (
            {""} - {before} if column != "proof" or index == len(statement) - 1 else set()
        ):
            changed = [list(row) for row in statement]
            set_cell(changed[index], column, value)
            found = check(written_of(changed))
            assert not found.valid, (index, column, value)
            line = line_of(statement, index)
            assert any(line <= each.line <= line + 1 for each in found.problems), (index, column, value)


def line_of(rows: list[list[str]], index: int) -> int:
    """The line on which the row begins."""
    return 1 + written_of(rows[:index]).count("\n")


def drop_proofs(rows: list[list[str]]) -> list[list[str]]:
    return [[*row[:-1], "" if row[0] == "entry" else row[-1]] for row in rows]


def test_a_removed_line_is_found(statement: list[list[str]]) -> None:
    for rows in (statement, drop_proofs(statement)):
        for index in range(len(rows)):
            left = rows[:index] + rows[index + 1 :]
            found = check(written_of(left))
            assert not found.valid, index
            if 2 <= index < len(rows) - 1:
                assert line_of(left, index) in {each.line for each in found.problems}, index


def test_a_line_that_is_moved_or_inserted_is_found(statement: list[list[str]]) -> None:
    rows = drop_proofs(statement)
    for index in range(len(rows) - 1):
        swapped = [*rows[:index], rows[index + 1], rows[index], *rows[index + 2 :]]
        found = check(written_of(swapped))
        assert not found.valid, index
        twice = [*rows[: index + 1], *rows[index:]]
        assert not check(written_of(twice)).valid, index
        assert min(each.line for each in found.problems) >= line_of(rows, index), index


def test_a_chain_hashed_anew_is_found_by_a_head_kept_elsewhere(
    session: Session, statement: list[list[str]]
) -> None:
    kept = heads_csv()
    rows = drop_proofs(statement)
    hash = FIRST
    for row in rows[2:-1]:
        if get_cell(row, "id") == get_cell(rows[3], "id"):
            set_cell(row, "cause", "forged")
        fields = [text_of(name, get_cell(row, name)) for name in COLUMNS[1:11]]
        set_cell(row, "previous_hash", hash)
        hash = entry_hash(hash, fields)
        set_cell(row, "hash", hash)
    set_cell(rows[-1], "hash", hash)
    forged = check(written_of(rows))
    assert forged.valid, "nothing in the file itself says so"
    # with the proof of the old head
    proofs = {
        get_cell(row, "id"): get_cell(row, "proof") for row in statement if get_cell(row, "record") == "entry"
    }
    for row in rows[2:-1]:
        set_cell(row, "proof", proofs[get_cell(row, "id")])
    assert not check(written_of(rows)).valid
    # with a head made for it
    made = check(written_of(with_own_heads(drop_proofs(rows))))
    assert made.valid
    recorded, _ = check_heads(io.StringIO(kept, newline=""))
    assert unknown_heads(made, recorded)


def text_of(name: str, cell: str) -> str | None:
    if name in ("account", "kind", "operation_id", "cause", "message_id"):
        return cell.removeprefix("'") if cell else None
    return cell


def with_own_heads(rows: list[list[str]]) -> list[list[str]]:
    from models.ledger.statement_check import leaf_hash

    rows = [list(row) for row in rows]
    row = rows[-2]
    entry_id, balance = int(get_cell(row, "id")), int(get_cell(row, "balance_after"))
    leaf = leaf_hash(get_cell(row, "account"), entry_id, len(rows) - 3, balance, get_cell(row, "hash"))
    head = head_hash("2026-11-21", FIRST, leaf.hex(), 1, 9)
    proof = {"date": "2026-11-21", "previous": FIRST, "accounts": 1, "entries": 9, "position": len(rows) - 3}
    set_cell(row, "proof", json.dumps(proof | {"index": 0, "path": [], "head": head}))
    return rows


def test_an_export_of_some_days_begins_where_the_one_before_ended(session: Session, pool: Pool) -> None:
    account = history(session, pool, LONG)
    whole = check(export(account))
    early, late = check(export(account, last="2026-11-21")), check(export(account, "2026-11-22"))
    assert early.valid
    assert late.valid, late.problems
    assert (late.opening_hash, late.opening_balance) == (early.closing_hash, early.closing_balance)
    assert (late.closing_hash, late.closing_balance) == (whole.closing_hash, whole.closing_balance)
    assert early.entries + late.entries == whole.entries
    assert early.entries
    assert late.entries
    assert not late.from_start
    assert late.heads[-1].hash == whole.heads[-1].hash
    empty = check(export(account, "2027-01-01"))
    assert empty.valid
    assert (empty.entries, empty.opening_hash) == (0, whole.closing_hash)
    before = check(export(account, last="2026-01-01"))
    assert before.valid
    assert (before.entries, before.closing_balance) == (0, 0)
    for days in (("2026-13-01", None), ("20261101", None), ("2026-11-02", "2026-11-01"), (None, "x")):
        with pytest.raises(Invalid):
            statement_range(account.id, *days)


def test_what_is_no_statement_is_told_so() -> None:
    for written in (
        "",
        "\n",
        "a,b\n1,2\n",
        ",".join(COLUMNS) + "\n",
        '"',
        "\x00",
        ",".join(COLUMNS) + "\n" + "x," * 13 + "\n",
    ):
        found = check(written)
        assert not found.valid, written
        assert found.problems[0].text


@settings(max_examples=200, deadline=None)
@given(
    proof=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.just(FIRST),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["date", "path", "head", "index"]), inner)
        ),
        max_leaves=8,
    ),
    cells=st.lists(st.text(max_size=5), min_size=13, max_size=13),
)
def test_nothing_in_a_file_breaks_the_check(proof: Any, cells: list[str]) -> None:
    opening = ["opening", "a", "0", *[""] * 4, "0", *[""] * 4, FIRST, ""]
    fields = ["a", "1", "t", "grant", "5", "5", "5", "op", "c", None]
    hash = entry_hash(FIRST, fields)
    made = ["entry", "a", "1", "t", "grant", "5", "5", "5", "op", "c", "", FIRST, hash]
    names = ("date", "previous", "accounts", "entries", "position", "index", "path", "head")
    whole = json.dumps(dict.fromkeys(names, proof))
    for row in ([*made, json.dumps(proof)], [*made, whole], [*cells, "x"]):
        rows = [list(COLUMNS), opening, row]
        try:
            raw = written_of(rows).encode()
        except (UnicodeEncodeError, csv.Error):
            continue
        assert not check_statement(decoded(raw)).valid


# --- the database ----------------------------------------------------------------------------------------------------


def test_calls_at_once_make_one_chain(app: Flask, session: Session, pool: Pool) -> None:
    payers = [payer(session, name) for name in ("alice", "bob")]
    for each in payers:
        give(session, each.account, 10_000)

    def settle(index: int) -> None:
        for count in range(12):
            spend(pool, payers[(index + count) % 2], 1 + count)
            with app.app_context():
                if count % 4 == 0:
                    ledger.charge(
                        payers[(count // 4 + index) % 2].account, 1, cause=factories.new_id(), now=NOW
                    )
                    db.session.commit()
                if count % 6 == 0:
                    ledger.record_head(NOW + (index * 12 + count) * DAY)
                    db.session.commit()

    threads = [threading.Thread(target=settle, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.record_head(NOW + 100 * DAY)
    session.commit()
    for each in payers:
        found = check(export(each.account))
        assert found.valid, found.problems
        assert found.entries == 1 + 36 + 9
        assert found.heads
    assert_proved(session)


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (
            "UPDATE credit_entry SET cause = 'forged' WHERE id = (SELECT min(id) + 1 FROM credit_entry)",
            "hash",
        ),
        ("UPDATE credit_entry SET hash = sha256('x') WHERE id = (SELECT max(id) FROM credit_entry)", "hash"),
        ("DELETE FROM credit_entry WHERE id = (SELECT min(id) + 1 FROM credit_entry)", "hash"),
        ("UPDATE ledger_head SET entries = entries + 1", "recorded head is"),
        (
            "UPDATE ledger_head_leaf SET leaf = sha256('x') WHERE day = (SELECT max(day) FROM ledger_head_leaf)",
            "heads contain",
        ),
        ("UPDATE ledger_head_leaf SET entries = entries + 1", "heads contain"),
        (
            "DELETE FROM ledger_head_leaf WHERE day = (SELECT max(day) FROM ledger_head_leaf)",
            "recorded head is",
        ),
    ],
)
def test_the_proof_finds_what_somebody_changed_with_the_triggers_off(
    engine: Engine, session: Session, pool: Pool, change: str, failing: str
) -> None:
    history(session, pool, LONG)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(change))
    proof = ledger.prove(now=NOW)
    assert any(failing in each.name for each in proof.checks if each.count), proof.checks


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger_head SET entries = 0",
        "DELETE FROM ledger_head",
        "TRUNCATE ledger_head CASCADE",
        "UPDATE ledger_head_leaf SET entries = 0",
        "UPDATE ledger_head_leaf SET account_id = NULL, entry_id = NULL, entries = NULL",
        "DELETE FROM ledger_head_leaf",
        "TRUNCATE ledger_head_leaf",
        "UPDATE credit_entry SET hash = sha256('x')",
        "SET LOCAL stoa.erase_account = 'alice'; UPDATE ledger_head_leaf SET leaf = 'x', account_id = NULL, entry_id = NULL, entries = NULL",
    ],
)
def test_the_database_refuses_to_change_heads_and_hashes(
    engine: Engine, session: Session, change: str
) -> None:
    give(session, payer(session).account, 5)
    ledger.record_head(NOW)
    session.commit()
    *before, refused = change.split("; ")
    with engine.connect() as connection:
        for statement in before:
            connection.execute(text(statement))
        with pytest.raises(DBAPIError, match="append-only"):
            connection.execute(text(refused))


def test_an_insert_cannot_bring_its_own_hash(engine: Engine, session: Session) -> None:
    account = payer(session).account
    give(session, account, 5)
    row = CreditEntry(
        account_id=account.id,
        operation_id="o",
        kind="grant",
        amount=1,
        grant_balance_after=1,
        balance_after=6,
        cause="c",
        hash=b"x",
    )
    session.add(row)
    session.commit()
    assert len(row.hash) == 32
    assert check(export(account)).valid


def test_a_head_is_recorded_once_a_day_and_covers_what_changed(session: Session) -> None:
    alice, bob = payer(session), payer(session, "bob")
    give(session, alice.account, 5)
    give(session, bob.account, 5)
    first = ledger.record_head(NOW)
    assert first
    assert (first.accounts, first.entries, first.day) == (2, 2, date(2026, 11, 20))
    session.commit()
    assert ledger.record_head(NOW) is None
    assert ledger.record_head(NOW - DAY) is None
    give(session, alice.account, 6)
    give(session, alice.account, 7)
    second = ledger.record_head(NOW + DAY)
    assert second
    assert (second.accounts, second.entries, second.previous) == (1, 4, first.hash)
    third = ledger.record_head(NOW + 2 * DAY)
    assert third
    assert (third.accounts, third.entries) == (0, 4)
    session.commit()
    assert_proved(session)
    assert [head.date for head in check(export(bob.account)).heads] == ["2026-11-20"]


def test_erasing_an_account_leaves_the_heads_and_the_other_proofs_right(session: Session) -> None:
    alice, bob = payer(session), payer(session, "bob")
    for each in (alice, bob):
        give(session, each.account, 5)
    ledger.record_head(NOW)
    session.commit()
    before = [(head.day, head.hash) for head in session.scalars(select(LedgerHead))]
    ledger.erase_account(alice.account.id)
    session.execute(text('DELETE FROM "user" WHERE id = :id'), {"id": alice.id})
    session.commit()
    assert [(head.day, head.hash) for head in session.scalars(select(LedgerHead))] == before
    leaves = session.scalars(select(LedgerHeadLeaf)).all()
    assert sorted(leaf.account_id or "" for leaf in leaves) == ["", bob.account.id]
    found = check(export(bob.account))
    assert found.valid
    assert found.heads
    assert_proved(session)


# --- doors -----------------------------------------------------------------------------------------------------------


def upload(client: FlaskClient, data: bytes, **headers: str) -> Any:
    page = client.get("/verify").get_data(as_text=True)
    token = page.partition('name="csrf_token" value="')[2].partition('"')[0]
    form = {"csrf_token": token, "statement": (io.BytesIO(data), "statement.csv")}
    return client.post("/verify", data=form, content_type="multipart/form-data", headers=headers)


@pytest.fixture
def owned(alice: Person, session: Session) -> Account:
    """alice's account with two grants; the first is in today's head."""
    account = Account(user_id=alice.id)
    give(session, account, 40, now=now())
    ledger.record_head()
    session.commit()
    give(session, account, 60, now=now())
    return account


def test_the_owner_downloads_and_anybody_verifies(alice: Person, client: FlaskClient, owned: Account) -> None:
    answer = alice.browser.get("/profile/statement.csv")
    assert answer.status_code == 200
    assert answer.mimetype == "text/csv"
    found = check(answer.get_data(as_text=True))
    assert found.valid, found.problems
    assert found.account == owned.id
    page = upload(client, answer.data)
    assert page.status_code == 200
    shown = page.get_data(as_text=True)
    assert "Valid" in shown
    assert found.closing_hash in shown
    assert ">recorded<" in shown
    fragment = upload(client, answer.data, **{"HX-Request": "true"}).get_data(as_text=True)
    assert fragment.lstrip().startswith('<div class="stack" id="verification">')
    wrong = upload(client, answer.data.replace(b",40,", b",41,")).get_data(as_text=True)
    assert "Not valid" in wrong
    assert "Line 3: Entry" in wrong


def test_a_statement_is_the_owners_alone(bob: Person, client: FlaskClient, owned: Account) -> None:
    assert owned.id not in bob.browser.get("/profile/statement.csv").get_data(as_text=True)
    for address in ("/profile/statement.csv", "/verify/heads.csv"):
        assert client.get(address).status_code in (302, 303)
    assert check_heads(io.StringIO(bob.browser.get("/verify/heads.csv").get_data(as_text=True)))[1] == []
    assert bob.browser.get("/profile/statement.csv?from=x").status_code == 422


def test_a_file_that_cannot_be_read_is_told_so(client: FlaskClient) -> None:
    for data, status, message in (
        (b"\xff\xfe", 422, "UTF-8"),
        (b"", 200, "Not valid"),
        (b"<script>alert(1)</script>", 200, "Not valid"),
    ):
        answer = upload(client, data)
        assert answer.status_code == status, data[:9]
        assert message in answer.get_data(as_text=True)
        assert b"<script>alert" not in answer.data
    large = client.post("/verify", data=b"x" * (5 << 20), content_type="multipart/form-data; boundary=x")
    assert large.status_code == 413
    token = (
        client.get("/verify")
        .get_data(as_text=True)
        .partition('name="csrf_token" value="')[2]
        .partition('"')[0]
    )
    assert client.post("/verify", data={"csrf_token": token}).status_code == 422


def test_the_commands_verify_files(app: Flask, session: Session, owned: Account, tmp_path: Path) -> None:
    run = app.test_cli_runner()
    file, heads, bad = tmp_path / "statement.csv", tmp_path / "heads.csv", tmp_path / "bad.csv"
    file.write_text(export(owned), newline="")
    bad.write_text(file.read_text().replace(",60,", ",61,"), newline="")
    heads.write_text(run.invoke(args=["billing", "heads", "--record"]).output, newline="")
    good = run.invoke(args=["billing", "verify", str(file), "--heads", str(heads)])
    assert good.exit_code == 0, good.output
    assert "balance 0 to 100" in good.output
    found = run.invoke(args=["billing", "verify", str(bad)])
    assert found.exit_code == 1
    assert "line 4: Entry" in found.output
    heads.write_text(heads.read_text().replace(",1,1,", ",1,2,"), newline="")
    assert run.invoke(args=["billing", "verify", str(file), "--heads", str(heads)]).exit_code == 1


def test_the_checker_runs_alone(session: Session, owned: Account, tmp_path: Path) -> None:
    import subprocess
    import sys

    from models.ledger import statement_check

    file = tmp_path / "statement.csv"
    file.write_text(export(owned), newline="")
    command = [sys.executable, "-I", str(statement_check.__file__), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "valid"), done.stderr


def test_verifying_asks_no_database(
    app: Flask, session: Session, owned: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "statement.csv"
    file.write_text(export(owned), newline="")

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr("sqlalchemy.engine.base.Engine.connect", refused)
    assert app.test_cli_runner().invoke(args=["billing", "verify", str(file)]).exit_code == 0
