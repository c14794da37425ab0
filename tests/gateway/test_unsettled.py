"""Unsettled calls: no other call is admitted until they are settled, exactly once, whatever the ledger's fault."""

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession

from models import ledger as models_ledger
from models.gateway import spool as spools
from models.gateway.relay import Gateway
from models.gateway.spool import Spool
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events, wait

DOORS = ("/v1/chat/completions", "/api/v1/chat/completions")
BODY: dict[str, Any] = {"model": "openai/house-model", "messages": MESSAGES}
STREAM = {**BODY, "stream": True}
USE = fakes.usage(100_000, 100_000)
CREDITS = 132
"""Credits of a call with that usage: $0.20 and $1.05, plus 5.5 %."""


@pytest.fixture
def gateway(web: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """The gateway with short timeouts. Waits for its spool to be empty after the test."""
    monkeypatch.setattr(spools, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(spools, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(spools, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(spools, "LONGEST_PAUSE", 0.2)
    monkeypatch.setitem(models_ledger.holds.settle.__kwdefaults__, "timeout_seconds", 0.3)
    monkeypatch.setitem(models_ledger.holds.fail.__kwdefaults__, "timeout_seconds", 0.3)
    made: Gateway = web.application.extensions["gateway"]
    # no thread of an earlier test may settle or store calls of this one
    made.spool._wake.set()
    wait(lambda: made.spool._pid == 0)
    yield made
    wait(lambda: made.spool.calls() == [] and not made.spool.closed())


@pytest.fixture
def spool(gateway: Gateway) -> Spool:
    return gateway.spool


Fault = Callable[[Engine, Gateway, Person], AbstractContextManager[None]]


def refusing(sqlstate: str, table: str = "gateway_call", only: str = "true") -> Fault:
    """PostgreSQL raises an error for every settlement."""

    @contextmanager
    def fault(engine: Engine, gateway: Gateway, person: Person) -> Iterator[None]:
        with engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE FUNCTION out_of_order() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                    f" IF {only.format(user=person.id)} THEN"
                    f" RAISE EXCEPTION 'the disk is full of secrets' USING ERRCODE = '{sqlstate}'; END IF;"
                    " RETURN NEW; END $$"
                )
            )
            connection.execute(
                text(
                    f"CREATE TRIGGER out_of_order BEFORE INSERT ON {table}"
                    " FOR EACH ROW EXECUTE FUNCTION out_of_order()"
                )
            )
        try:
            yield
        finally:
            with engine.begin() as connection:
                connection.execute(text(f"DROP TRIGGER out_of_order ON {table}"))
                connection.execute(text("DROP FUNCTION out_of_order()"))

    return fault


@contextmanager
def locked(engine: Engine, gateway: Gateway, person: Person) -> Iterator[None]:
    """Another transaction locks the account's row."""
    options, gateway.pool._options = gateway.pool._options, dict(gateway.pool._options)
    gateway.pool._options["options"] += " -c lock_timeout=300"
    gateway.pool.close()
    with engine.connect() as connection:
        connection.execute(text("SELECT FROM credit_account WHERE id = :id FOR UPDATE"), {"id": person.id})
        try:
            yield
        finally:
            connection.rollback()
            gateway.pool._options = options
            gateway.pool.close()


@contextmanager
def table_locked(engine: Engine, gateway: Gateway, person: Person) -> Iterator[None]:
    """Another transaction locks the message table."""
    options, gateway.pool._options = gateway.pool._options, dict(gateway.pool._options)
    gateway.pool._options["options"] += " -c statement_timeout=300"
    gateway.pool.close()
    with engine.connect() as connection:
        connection.execute(text("LOCK TABLE message"))
        try:
            yield
        finally:
            connection.rollback()
            gateway.pool._options = options
            gateway.pool.close()


@contextmanager
def refused(engine: Engine, gateway: Gateway, person: Person) -> Iterator[None]:
    """PostgreSQL is unreachable."""
    options, gateway.pool._options = gateway.pool._options, dict(gateway.pool._options)
    gateway.pool._options["host"] = "/nonexistent"
    gateway.pool.close()
    try:
        yield
    finally:
        gateway.pool._options = options


@contextmanager
def read_only(engine: Engine, gateway: Gateway, person: Person) -> Iterator[None]:
    """PostgreSQL is read-only, like a standby."""
    options, gateway.pool._options = gateway.pool._options, dict(gateway.pool._options)
    gateway.pool._options["options"] += " -c default_transaction_read_only=on"
    gateway.pool.close()
    try:
        yield
    finally:
        gateway.pool._options = options
        gateway.pool.close()


FAULTS: dict[str, Fault] = {
    **{
        state: refusing(state)
        for state in (
            *("53100", "53200", "53400", "58030", "57P03", "57014", "55P03", "25006", "40001", "40P01"),
            *("XX000", "XX001", "P0001", "22003", "22021", "23514", "23505", "42883", "54000", "0A000"),
        )
    },
    "message": refusing("53100", "message"),
    "entry": refusing("53100", "credit_entry"),
    "locked": locked,
    "table locked": table_locked,
    "refused": refused,
    "read-only": read_only,
}


def ending_during(fault_active: threading.Event, started: threading.Event, body: Any) -> fakes.Behaviour:
    """A provider that ends its answer once the fault is active."""

    def behaviour(exchange: fakes.Exchange) -> None:
        started.set()
        fault_active.wait(60)
        body(exchange)

    return behaviour


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_call_is_admitted_until_the_last_is_settled(
    web: FlaskClient,
    engine: Engine,
    session: OrmSession,
    fake: FakeUpstream,
    rich: Person,
    bob: Person,
    run: Any,
    facts: Facts,
    gateway: Gateway,
    fault: str,
    streaming: bool,
) -> None:
    assert bob.user is not None
    factories.grant(bob.user, 1000)
    fault_active, started = threading.Event(), threading.Event()
    whole = fakes.stream(fakes.chunks(use=USE)) if streaming else fakes.answer(fakes.completion(use=USE))
    fake.will(ending_during(fault_active, started, whole), fakes.answer())
    answers: list[Any] = []

    def one() -> None:
        answers.append(
            web.application.test_client().post(
                DOORS[0], json=STREAM if streaming else BODY, headers=rich.headers
            )
        )
        answers[0].data  # noqa: B018

    calling = threading.Thread(target=one)
    calling.start()
    assert started.wait(60)
    with FAULTS[fault](engine, gateway, rich):
        fault_active.set()
        calling.join(60)
        (answer,) = answers
        if streaming:
            assert events(answer.data)[-1]["error"]["code"] == "ledger_unavailable"
            assert b"[DONE]" not in answer.data
        else:
            assert (answer.status_code, answer.json["error"]["code"]) == (503, "ledger_unavailable")
        for person in (rich, bob):
            for door in DOORS:
                body = {**BODY, "codebuff_metadata": {"run_id": run.id}}
                later = web.post(door, json=body, headers=person.headers)
                assert (later.status_code, later.json["error"]["code"]) == (503, "ledger_unavailable")
                assert int(later.headers["Retry-After"]) > 0
                assert "message" in later.json["error"]
        assert len(fake.requests) == 1
        assert web.get("/readyz").status_code == 503
    wait(lambda: not gateway.spool.closed())
    call = facts.call()
    assert (call.state, call.credits, call.output_tokens) == ("settled", CREDITS, 100_000)
    (message,) = facts.messages()
    assert message.response
    assert models_ledger.prove().clean
    assert web.get("/readyz").status_code == 200
    assert web.post(DOORS[0], json=BODY, headers=bob.headers).status_code == 200
    assert len(fake.requests) == 2


def test_a_failed_call_that_cannot_be_recorded_blocks_others_too(
    web: FlaskClient, engine: Engine, fake: FakeUpstream, rich: Person, facts: Facts, gateway: Gateway
) -> None:
    fake.will(fakes.answer({"error": {"message": "m"}}, 500))
    with refusing("53100")(engine, gateway, rich):
        assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 500
        assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 503
        assert len(fake.requests) == 1
    wait(lambda: not gateway.spool.closed())
    assert (facts.call().state, facts.call().error) == ("failed", "upstream_status")


def fail_once(web: FlaskClient, engine: Engine, gateway: Gateway, fake: FakeUpstream, person: Person) -> None:
    fake.will(fakes.answer(fakes.completion(use=USE)))
    with refusing("53100")(engine, gateway, person):
        assert web.post(DOORS[0], json=BODY, headers=person.headers).status_code == 503


def test_concurrent_retries_settle_once_after_the_hold_was_swept(
    web: FlaskClient,
    engine: Engine,
    session: OrmSession,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    gateway: Gateway,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle_all = gateway.spool.settle_all
    monkeypatch.setattr(gateway.spool, "settle_all", lambda: 0)
    fail_once(web, engine, gateway, fake, rich)
    # only the spools of this test settle it, not their threads
    monkeypatch.setattr(Spool, "_start_thread", lambda self: None)
    session.execute(text("UPDATE credit_hold SET expires_at = now() - interval '1 minute'"))
    models_ledger.sweep()
    session.commit()
    (path,) = gateway.spool.folder.glob("*.json")
    record = path.read_bytes()
    others = [Spool(gateway.pool, gateway.spool.folder) for _ in range(4)]
    assert all(other.closed() for other in others)
    threads = [threading.Thread(target=other.settle_all) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path.write_bytes(record)
    assert settle_all() == 1
    assert settle_all() == 0
    assert (facts.call().state, facts.call().credits) == ("settled", CREDITS)
    assert facts.holds() == 0
    assert models_ledger.prove().clean


def test_spool_files_are_private(
    web: FlaskClient, engine: Engine, fake: FakeUpstream, rich: Person, gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(gateway.spool, "settle_all", lambda: 0)
    fail_once(web, engine, gateway, fake, rich)
    (path,) = gateway.spool.folder.glob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    stored = orjson.loads(path.read_bytes())["facts"]
    assert stored["request"] == MESSAGES
    assert "Say hello" not in caplog.text
    assert "secrets" not in caplog.text
    assert "53100" in caplog.text
    assert "output_tokens 100000" in caplog.text
    monkeypatch.undo()
    gateway.spool.settle_all()


@pytest.mark.parametrize("full", [False, True])
def test_a_full_disk_loses_nothing(
    web: FlaskClient,
    engine: Engine,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    full: bool,
) -> None:
    written: list[bytes] = []
    write = spools._write

    def no_room(path: Path, record: bytes) -> None:
        reserve = (path.parent / "reserve").exists()
        if full or reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(record)
        write(path, record)

    monkeypatch.setattr(spools, "_write", no_room)
    gateway.spool._refreshed_at = float("-inf")
    fake.will(fakes.answer(fakes.completion(use=USE)))
    with refusing("53100")(engine, gateway, rich):
        for _ in range(3):
            assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 503
        assert web.get("/readyz").status_code == 503
        assert len(fake.requests) == 1
        assert bool(written) is not full
        assert b"Say hello" not in b"".join(written)
    wait(lambda: not gateway.spool.closed())
    assert (facts.call().state, facts.call().credits) == ("settled", CREDITS)
    assert models_ledger.prove().clean


def test_a_refused_call_blocks_only_its_account(
    web: FlaskClient,
    engine: Engine,
    session: OrmSession,
    fake: FakeUpstream,
    rich: Person,
    bob: Person,
    facts: Facts,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert bob.user is not None
    factories.grant(bob.user, 1000)
    monkeypatch.setattr(spools, "MAX_BLOCK_SECONDS", 0.5)
    monkeypatch.setattr(spools, "ASIDE_PAUSE", 0.2)
    with refusing("23514", only="NEW.user_id = '{user}'")(engine, gateway, rich):
        assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 503
        wait(lambda: [call.aside for call in gateway.spool.calls()] == [True])
        before = len(fake.requests)
        assert web.get("/readyz").status_code == 200
        assert web.post(DOORS[0], json=BODY, headers=bob.headers).status_code == 200
        assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 503
        assert len(fake.requests) == before + 1
        (call,) = [call for call in gateway.spool.calls() if call.kind == "settle"]
        assert call.facts is not None
        assert call.facts["output_tokens"] == 20
    wait(lambda: gateway.spool.calls() == [])
    wait(lambda: facts.holds() == 0)
    assert {(call.user_id, call.state) for call in facts.calls()} >= {
        (rich.id, "settled"),
        (bob.id, "settled"),
    }
    assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 200
    assert models_ledger.prove().clean


def failed_call(user_id: str, request_id: str) -> str:
    """The facts of a failed call, as JSON."""
    return orjson.dumps({"request_id": request_id, "user_id": user_id}).decode()


class Refusing:
    """A ledger that refuses the calls of one account and accepts all others."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.received: list[str] = []

    def __call__(self, pool: Any, facts: str) -> None:
        fields = orjson.loads(facts)
        self.received.append(fields["request_id"])
        if fields["user_id"] == self.user_id:
            raise models_ledger.LedgerUnavailable("refused", sqlstate="23514")


@pytest.fixture
def own_spool(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """A spool without a retry thread."""
    monkeypatch.setattr(Spool, "_start_thread", lambda self: None)
    return Spool(gateway.pool, tmp_path / "spool")


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_many_refused_calls_of_an_account_block_others_no_longer_than_one(
    own_spool: Spool, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    ledger = Refusing("poison")
    monkeypatch.setattr(models_ledger.holds, "fail_facts", ledger)
    for number in range(20):
        own_spool.add("fail", failed_call("poison", f"poison-{number:02}"))
    own_spool.add("fail", failed_call("healthy", "healthy"))
    for number, path in enumerate(sorted(own_spool.folder.glob("poison*.json"))):
        os.utime(path, (time.time() + seconds + number,) * 2)
    own_spool.settle_all()
    assert [call.aside for call in own_spool.calls()] == [True] * 20
    assert not own_spool.closed("healthy")
    assert own_spool.closed("poison")
    assert len(ledger.received) < 5
    ledger.user_id = "nobody"
    assert own_spool.settle_all() == 20
    assert not own_spool.closed("poison")


def test_a_call_that_waits_goes_before_those_set_aside(
    own_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_spool.closed()
    for number in range(5):
        name = f"poison-{number}"
        record = spools._record("fail", failed_call("poison", name))
        (own_spool.folder / "aside" / f"{name}.json").write_bytes(record)
    submitted: list[str] = []

    def refuse(pool: Any, facts: str) -> None:
        submitted.append(orjson.loads(facts)["request_id"])
        own_spool.add("fail", failed_call("healthy", "healthy"))
        raise models_ledger.LedgerUnavailable("refused", sqlstate="57014")

    monkeypatch.setattr(models_ledger.holds, "fail_facts", refuse)
    own_spool.settle_all()
    assert len(submitted) == 1


def test_a_file_that_cannot_be_read_for_a_moment_is_not_damaged(
    own_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_ledger.holds, "fail_facts", Refusing("nobody"))
    own_spool.add("fail", failed_call("somebody", "whole"))
    with monkeypatch.context() as patch:

        def exhausted(path: Path) -> bytes:
            raise OSError(errno.EMFILE, "Too many open files")

        patch.setattr(Path, "read_bytes", exhausted)
        assert own_spool.settle_all() == 0
        assert own_spool.closed("anybody")
    assert own_spool.settle_all() == 1
    assert not own_spool.closed("somebody")


def test_texts_that_cannot_be_stored_are_left_out_and_charged(
    web: FlaskClient, engine: Engine, fake: FakeUpstream, rich: Person, facts: Facts, gateway: Gateway
) -> None:
    fake.will(fakes.answer(fakes.completion(use=USE)))
    with refusing("22P05", "message", only="NEW.request IS NOT NULL")(engine, gateway, rich):
        assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 200
    assert (facts.call().credits, facts.messages()[0].request) == (CREDITS, None)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b'{"kind": "settle"}',
        b'{"kind":"settle","facts":[]}',
        b'{"kind":"settle","facts":{}}',
        b'{"kind":"x","facts":{"request_id":"damaged"}}',
        b'{"kind":"settle","facts":{"request_id":"damaged","cost":"much"}}',
        b'{"kind":"settle","facts":{"request_id":"damaged","cost":{}}}',
    ],
)
def test_a_damaged_file_blocks_no_calls(
    web: FlaskClient, fake: FakeUpstream, rich: Person, gateway: Gateway, record: bytes
) -> None:
    gateway.spool.closed()
    path = gateway.spool.folder / "damaged.json"
    path.write_bytes(record)
    wait(lambda: gateway.spool.settle_all() == 0)  # None: the retry thread holds the lock
    assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 200
    (call,) = gateway.spool.calls()
    assert (call.request_id, call.facts, call.aside) == ("damaged", None, True)
    assert gateway.spool.dismiss("damaged") == call
    assert gateway.spool.dismiss("damaged") is None


def test_calls_of_a_user_who_was_deleted_meanwhile_are_forgotten(
    web: FlaskClient,
    engine: Engine,
    session: OrmSession,
    fake: FakeUpstream,
    rich: Person,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway.spool, "settle_all", lambda: 0)
    fail_once(web, engine, gateway, fake, rich)
    session.execute(text("SET LOCAL session_replication_role = replica"))
    for table in ("session", "credit_hold", "credit_ledger", "credit_entry", "credit_account", '"user"'):
        session.execute(text(f"DELETE FROM {table}"))
    session.commit()
    assert len(gateway.spool.calls()) == 1
    monkeypatch.undo()
    gateway.spool.settle_all()  # or the retry thread
    wait(lambda: gateway.spool.calls() == [])


def test_an_unsettled_call_is_counted_as_such(
    web: FlaskClient, engine: Engine, fake: FakeUpstream, rich: Person, gateway: Gateway
) -> None:
    def figure(line: str) -> float:
        found = [each for each in web.get("/metrics").text.splitlines() if each.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0

    settled = 'stoa_calls_total{door="openai",outcome="settled",provider="openai"}'
    unsettled = settled.replace("settled", "unsettled", 1)
    before = figure(settled), figure(unsettled)
    fake.will(fakes.answer(fakes.completion(use=USE)))
    with refusing("53100")(engine, gateway, rich):
        assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 503
        assert (figure(settled), figure(unsettled)) == (before[0], before[1] + 1)
        assert figure('stoa_unsettled_calls{state="waiting"}') == 1
    wait(lambda: not gateway.spool.closed())
    assert figure('stoa_unsettled_calls{state="waiting"}') == 0


def test_a_restart_of_postgresql_is_waited_for(
    web: FlaskClient,
    engine: Engine,
    fake: FakeUpstream,
    rich: Person,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spools, "WAIT_SECONDS", 60.0)
    fail_once(web, engine, gateway, fake, rich)
    began = time.monotonic()
    assert web.post(DOORS[0], json=BODY, headers=rich.headers).status_code == 200
    assert time.monotonic() - began < 50


def test_the_operator_sees_what_was_used_and_settles_it(
    web: FlaskClient,
    engine: Engine,
    session: OrmSession,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle_all, here = gateway.spool.settle_all, threading.current_thread()
    # only the command settles, not the retry thread
    monkeypatch.setattr(
        gateway.spool, "settle_all", lambda: settle_all() if threading.current_thread() is here else 0
    )
    fail_once(web, engine, gateway, fake, rich)
    session.execute(text("UPDATE credit_hold SET state = 'lost', lost_at = now()"))
    session.commit()
    flask = web.application.test_cli_runner()
    (call,) = gateway.spool.calls()
    assert (
        f"{call.request_id}  waiting  user_id {rich.id}" in flask.invoke(args=["billing", "unsettled"]).output
    )
    assert "output_tokens 100000" in flask.invoke(args=["billing", "unsettled"]).output
    assert "cost $1.250000" in flask.invoke(args=["billing", "unsettled"]).output
    assert "known: flask billing unsettled" in flask.invoke(args=["billing", "lost"]).output
    for command in ("lost", "unsettled"):
        assert flask.invoke(args=["billing", command, "--dismiss", call.request_id]).exit_code == 1
    assert "1 settled." in flask.invoke(args=["billing", "unsettled", "--settle"]).output
    assert "All calls are settled." in flask.invoke(args=["billing", "unsettled"]).output
    assert facts.call().credits == CREDITS


def test_the_operator_dismisses_what_is_set_aside(
    web: FlaskClient, session: OrmSession, gateway: Gateway
) -> None:
    gateway.spool.closed()
    (gateway.spool.folder / "damaged.json").write_bytes(b"{")
    wait(lambda: gateway.spool.settle_all() == 0)
    flask = web.application.test_cli_runner()
    assert "damaged  damaged" in flask.invoke(args=["billing", "unsettled"]).output
    assert "Dismissed damaged." in flask.invoke(args=["billing", "unsettled", "--dismiss", "damaged"]).output
    assert session.scalar(text("SELECT count(*) FROM audit_log WHERE action = 'billing.dismiss_unsettled'"))


def test_values_that_psycopg_cannot_send_raise_ledger_unavailable(gateway: Gateway) -> None:
    with pytest.raises(models_ledger.LedgerUnavailable) as refused:
        models_ledger.holds.settle_facts(gateway.pool, "\x00")
    assert isinstance(refused.value.__cause__, psycopg.DataError)


def test_concurrent_writes_of_the_same_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example a request that ends and the retry thread."""
    both, fsync = threading.Barrier(2), os.fsync

    def synced(handle: int) -> None:
        both.wait(60)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    path = tmp_path / "call.json"
    records = (b"short", b"with all its texts" * 1000)
    with ThreadPoolExecutor(2) as pool:
        for written in [pool.submit(spools._write, path, record) for record in records]:
            written.result()
    assert path.read_bytes() in records
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
