"""CSV export: completeness, order, formula injection, constant memory, no connection held."""

import csv
import io
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert
from sqlalchemy.orm import Session

from models.core.db import db
from models.usage import Message, usage_calls
from models.usage.export import COLUMNS, csv_of
from models.usage.usage_calls import exported_calls
from tests import factories
from tests.factories import Person
from tests.usage.billed_calls import Call, insert_calls

pytestmark = pytest.mark.usefixtures("kind")

NOW = datetime(2026, 11, 20, 14, 35, 7, 123_456, tzinfo=UTC)


def row(**columns: Any) -> Any:
    """A call as the export query returns it."""
    call = {
        "id": "gen-1",
        "finished_at": NOW,
        "model": "m",
        "agent_id": None,
        "client_id": None,
        "input_tokens": 110,
        "cache_write_tokens": None,
        "cache_read_tokens": 10,
        "output_tokens": 20,
        "reasoning_tokens": None,
        "cost": Decimal("0.00012000000000000000"),
        "credits": 3,
        "byok": False,
        "latency_ms": None,
        "request_id": None,
        "run_id": None,
        "uncached_input_tokens": None,
        "door": None,
        "provider": None,
        "usage_source": None,
        "stream": None,
        "client_gone": None,
        "ttft_ms": None,
        "micro_credits": None,
        **dict.fromkeys(("repo_url", "user_name", "user_email", "key_name", "team_name")),
    }
    return SimpleNamespace(**(call | columns))


def read(chunks: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(chunks), newline="")))


def test_a_line_has_exact_values() -> None:
    (line,) = read(csv_of([row()]))
    assert line["finished_at"] == "2026-11-20T14:35:07.123Z"
    assert line["uncached_input_tokens"] == "100"
    assert line["cost_usd"] == "0.00012"
    assert line["byok"] == "no"
    assert line["latency_ms"] == line["run"] == ""
    assert (line["credits"], line["exact_credits"]) == ("3", "3")


@pytest.mark.parametrize(
    ("micro_credits", "byok", "exact"),
    [(400_000, False, "0.4"), (3_500_001, False, "3.500001"), (0, False, "0"), (400_000, True, "0")],
)
def test_fractions_of_credits_are_exported(micro_credits: int, byok: bool, exact: str) -> None:
    (line,) = read(csv_of([row(micro_credits=micro_credits, byok=byok, key_name="laptop")]))
    assert Decimal(line["exact_credits"]) == Decimal(exact)
    assert line["exact_credits"] == exact
    assert line["key"] == "laptop"


def test_times_are_utc_wherever_the_caller_is() -> None:
    zone = timezone(timedelta(hours=13, minutes=45))
    (line,) = read(csv_of([row(finished_at=NOW.astimezone(zone))]))
    assert line["finished_at"] == "2026-11-20T14:35:07.123Z"


def test_no_calls_export_only_the_header() -> None:
    assert "".join(csv_of([])) == ",".join(COLUMNS) + "\r\n"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_is_run_as_a_formula(start: str) -> None:
    bad = start + 'HYPERLINK("http://evil","x")'
    names = (
        "model",
        "agent_id",
        "client_id",
        "run_id",
        "provider",
        "door",
        "id",
        "request_id",
        "usage_source",
    )
    (line,) = read(csv_of([row(**dict.fromkeys(names, bad))]))
    for column in ("model", "agent", "client", "run", "provider", "door", "message", "call", "usage_source"):
        assert line[column] == f"'{bad}"


def test_commas_quotes_and_line_breaks_stay_in_their_cell() -> None:
    name = 'a,b"c\r\nd\nе'
    (line,) = read(csv_of([row(model=name)]))
    assert line["model"] == name


def test_the_callers_own_provider_key_is_not_charged() -> None:
    (line,) = read(csv_of([row(byok=True, credits=50)]))
    assert (line["credits"], line["byok"]) == ("0", "yes")


def test_the_response_is_a_file_download(session: Session, alice: Person) -> None:
    insert_calls(session, alice.id, [Call(at=datetime.now(UTC) - timedelta(hours=1))])
    session.commit()
    answer = alice.browser.get("/profile/usage.csv?range=24h")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="stoa-usage-')
    assert answer.headers["Content-Disposition"].endswith('-24h.csv"')
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.is_streamed
    assert "Content-Length" not in answer.headers


def test_every_call_once_over_many_batches(
    app: Flask, session: Session, alice: Person, mallory: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_calls, "FIRST_BATCH", 3)
    monkeypatch.setattr(usage_calls, "BATCH", 7)
    same = NOW.replace(microsecond=0)
    mine = [Call(at=same, model=f"m{n}") for n in range(20)]
    mine += [Call(at=same - timedelta(seconds=n), model=f"n{n}") for n in range(1, 24)]
    edges = [Call(at=same + timedelta(seconds=1)), Call(at=same - timedelta(seconds=24))]
    insert_calls(session, alice.id, mine + edges)
    insert_calls(session, mallory.id, [Call(at=same, model="hers")])
    assert alice.user is not None
    organisation = factories.org(alice.user)
    factories.message(alice.user, finished_at=same, org_id=organisation.id, model="the organisation's")
    session.commit()
    with app.app_context():
        start, end = same - timedelta(seconds=24), same + timedelta(seconds=1)
        rows = list(exported_calls(alice.account_id, start, end))
    assert len(rows) == len({each.id for each in rows}) == 44
    assert [each.finished_at for each in rows] == sorted(each.finished_at for each in rows)
    assert {each.model for each in rows} == {call.model for call in [*mine, edges[1]]}


def test_a_slow_reader_holds_no_connection(
    app: Flask, session: Session, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_calls, "FIRST_BATCH", 5)
    monkeypatch.setattr(usage_calls, "BATCH", 10)
    insert_calls(session, alice.id, [Call(at=NOW, model=f"m{n}") for n in range(35)])
    session.commit()
    with app.app_context():
        before = db.engine.pool.checkedout()  # type: ignore[attr-defined]
        rows = exported_calls(alice.account_id, NOW - timedelta(1), NOW + timedelta(1))
        for _ in range(15):
            next(rows)
            assert db.engine.pool.checkedout() == before  # type: ignore[attr-defined]
        rows.close()
        assert db.engine.pool.checkedout() == before  # type: ignore[attr-defined]


def test_the_view_returns_its_connection_before_streaming(
    app: Flask, session: Session, alice: Person
) -> None:
    insert_calls(session, alice.id, [Call(at=datetime.now(UTC))])
    session.commit()
    answer = alice.browser.get("/profile/usage.csv", buffered=False)
    with app.app_context():
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    answer.close()


def test_memory_does_not_grow_with_the_calls(
    app: Flask, session: Session, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_calls, "BATCH", 500)

    def peak(count: int) -> int:
        session.execute(
            insert(Message),
            [
                {
                    "id": f"{count}-{n}",
                    "finished_at": NOW - timedelta(seconds=n),
                    "model": "m",
                    "response": "long text " * 200,
                    "output_tokens": 1,
                    "cost": Decimal(0),
                    "credits": 1,
                    "user_id": alice.id,
                    "org_id": factories.org_of(alice.id),
                }
                for n in range(count)
            ],
        )
        session.commit()
        with app.app_context():
            size = 0
            tracemalloc.start()
            for chunk in csv_of(exported_calls(alice.account_id, NOW - timedelta(30), NOW + timedelta(1))):
                size += len(chunk)
            highest = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert size > count * 40
        return highest

    small = peak(1_000)
    large = peak(6_000)
    assert large < small * 1.3
