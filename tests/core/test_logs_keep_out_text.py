"""Users' text is never logged: provokes every kind of failure with marked data and searches all logs for the mark."""

import asyncio
import json
import logging
import smtplib
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pydantic
import pytest
import requests
import sqlalchemy.exc
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session

from models.accounts import OAuthAccount, User, signing_in
from models.core import jobs, mail, pool
from models.core.db import db
from models.core.settings import Settings
from tests import factories
from tests.accounts.browsing import token_of
from tests.core.test_jobs import work
from tests.factories import Person
from views.web.logs import LogFormatter

MARK = "xyzzymark"
ROOT = Path(__file__).parents[2]


class Log(logging.Handler):
    """Records formatted as the server writes them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(LogFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def written() -> Iterator[list[str]]:
    handler, root = Log(), logging.getLogger()
    root.addHandler(handler)
    yield handler.lines
    root.removeHandler(handler)


@pytest.fixture
def server_log(session: Session) -> Callable[[], str]:
    """Reads the complete log of the embedded PostgreSQL. A separate process writes it, so a final message is logged and
    awaited."""
    folder = Path(session.execute(text("SHOW data_directory")).scalar_one())
    session.rollback()

    def read() -> str:
        last = f"read up to {uuid.uuid4().hex}"
        session.execute(text(f"DO $$ BEGIN RAISE LOG '{last}'; END $$"))
        session.rollback()
        for _ in range(1200):
            files = [folder / "startup.log", *folder.glob("log/*.log")]
            written = "".join(file.read_text(errors="replace") for file in files if file.exists())
            if last in written:
                return written
            time.sleep(0.05)
        raise AssertionError("PostgreSQL writes no log")

    return read


# -- statements ------------------------------------------------------------------------------------------------

Statement = Callable[[Person], object]


def _sql(query: str, **values: Any) -> Statement:
    return lambda person: db.session.execute(text(query), {"who": person.id, **values})


def _orm(make: Callable[[Person], Any]) -> Statement:
    def flush(person: Person) -> None:
        db.session.add(make(person))
        db.session.flush()

    return flush


def _twice(person: Person) -> None:
    for _ in range(2):
        db.session.add(User(email=f"{MARK}@example.org", name=MARK))
        db.session.flush()


def _many(person: Person) -> None:
    query = text('INSERT INTO "user" (id, email) VALUES (:id, :email)')
    db.session.execute(query, [{"id": f"{MARK}{n}", "email": f"{MARK}@x.org"} for n in range(3)])


STATEMENTS: dict[str, Statement] = {
    "unique, by the mapper": _twice,
    "unique, by many rows": _many,
    "unique, by hand": _sql('INSERT INTO "user" (id, email) SELECT id, id FROM "user" WHERE id = :who'),
    "check": _sql("INSERT INTO publisher (id, name, created_by) VALUES (:mark, :mark, :who)", mark=MARK),
    "foreign key": _orm(
        lambda person: OAuthAccount(user_id=MARK, type=MARK, provider=MARK, provider_account_id=MARK)
    ),
    "not null": _sql('INSERT INTO "user" (id, email) VALUES (:mark, NULL)', mark=MARK),
    "an enum": _sql("UPDATE session SET type = cast(:mark AS session_type)", mark=MARK),
    "a number": _sql("SELECT cast(cast(:mark AS text) AS integer)", mark=MARK),
    "a time": _sql("SELECT cast(cast(:mark AS text) AS timestamptz)", mark=MARK),
    "a boolean": _sql("SELECT cast(cast(:mark AS text) AS boolean)", mark=MARK),
    "json": _sql("SELECT cast(cast(:mark AS text) AS jsonb)", mark=f'{{"a": {MARK}}}'),
    "json with NUL": _sql("SELECT cast(cast(:mark AS text) AS jsonb)", mark=f'{{"{MARK}": "\\u0000"}}'),
    "json too large": _sql(
        "SELECT cast('[\"' || repeat(cast(:mark AS text), 32000000) || '\"]' AS jsonb)", mark=MARK
    ),
    "an array": _sql("SELECT cast(cast(:mark AS text) AS text[])", mark=f"{{{MARK}"),
    "a pattern": _sql("SELECT cast(:mark AS text) ~ cast(:mark AS text)", mark=f"({MARK}"),
    "NUL": _sql("SELECT cast(:mark AS text)", mark=f"{MARK}\0"),
    "half a character": _sql("SELECT cast(:mark AS text)", mark=f"{MARK}\ud800"),
    "no such type": _sql("SELECT :mark", mark={MARK: object()}),
    "a literal": lambda person: db.session.execute(text(f"SELECT {MARK}")),
    "a literal string": lambda person: db.session.execute(text(f"SELECT cast('{MARK}' AS integer)")),
    "a syntax error": lambda person: db.session.execute(text(f"SELEKT '{MARK}'")),
    "no such table": lambda person: db.session.execute(text(f'SELECT * FROM "{MARK}"')),
    "a missing parameter": lambda person: db.session.execute(text("SELECT :a, :b"), {"a": MARK}),
    "too slow": lambda person: (
        db.session.execute(text("SET LOCAL statement_timeout = 20")),
        db.session.execute(text("SELECT pg_sleep(5), cast(:mark AS text)"), {"mark": MARK}),
    ),
    "too slow, in a literal": lambda person: (
        db.session.execute(text("SET LOCAL statement_timeout = 20")),
        db.session.execute(text(f"SELECT pg_sleep(5), '{MARK}'")),
    ),
    "raised by a function": lambda person: db.session.execute(
        text(f"DO $$ BEGIN RAISE EXCEPTION 'no {MARK}' USING DETAIL = '{MARK}', HINT = '{MARK}'; END $$")
    ),
    "a warning of a function": lambda person: (
        db.session.execute(text(f"DO $$ BEGIN RAISE WARNING '{MARK}'; END $$")),
        db.session.execute(text("SELECT 1 / 0")),
    ),
    "out of range": _sql("SELECT cast(cast(:mark AS numeric) AS integer)", mark="9" * 40 + "000111222333"),
    "division in a function, with its row": _sql(
        "INSERT INTO agent_run (id, user_id, agent_id, ancestor_run_ids) VALUES (:mark, :who, :mark, :mark)",
        mark=MARK,
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_that_fails(
    app: Flask, alice: Person, written: list[str], server_log: Callable[[], str], name: str
) -> None:
    with app.app_context():
        try:
            STATEMENTS[name](alice)
        except Exception as error:
            logging.getLogger("stoa.test").exception("it failed")
            logging.getLogger("stoa.test").error("it failed: %s", error)
            logging.getLogger("library").exception("it failed: %s", error)
            logging.getLogger("library").error(f"it failed: {error!r}")
            logging.getLogger("library").error(error)
        else:
            pytest.fail("it did not fail")
        db.session.rollback()
    assert len(written) >= 5
    for line in written:
        assert MARK not in line
        assert "000111222333" not in line
        assert "\n" not in line
    assert MARK not in server_log()


def test_engines_hide_parameters(app: Flask) -> None:
    with app.app_context(), pytest.raises(sqlalchemy.exc.DataError) as failure:
        db.session.execute(text("SELECT :mark / 0"), {"mark": 71077345})
    assert "71077345" not in str(failure.value)
    sources = [
        path.read_text() for room in ("models", "views", "migrations") for path in (ROOT / room).rglob("*.py")
    ]
    made = [call for source in sources for call in source.split("create_engine(")[1:]]
    assert made
    for call in made:
        assert "**engine_options(" in call[:200] or "hide_parameters=True" in call[:300]


QUERIES: dict[str, tuple[str, list[Any]]] = {
    "invalid text": ("SELECT $1::text::integer", [MARK]),
    "json": ("SELECT $1::text::jsonb", [f'{{"{MARK}": "\\u0000"}}']),
    "NUL": ("SELECT $1::text", [f"{MARK}\0"]),
    "half a character": ("SELECT $1::text", [f"{MARK}\ud800"]),
    "a list": ("SELECT ($1::text[])[1]::integer", [[MARK]]),
    "a function of the ledger": (
        "SELECT credit_hold_grow($1, $2::text::bigint, 1, now())",
        [MARK, MARK],
    ),
    "the ledger's admission": (
        "SELECT * FROM gateway_admit($1, $1, $1, true, 1, $1, $1, $1, $1::integer, 0, now())",
        [MARK],
    ),
    "too slow": ("SELECT set_config('statement_timeout', '20', false), $1::text, pg_sleep(0)", [MARK]),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_statement_over_libpq_that_fails(
    app: Flask, postgres_url: str, written: list[str], server_log: Callable[[], str], name: str
) -> None:
    connections = pool.Pool(postgres_url, 1)
    try:
        connections.execute(*QUERIES[name])
        connections.execute("SELECT pg_sleep(5), $1::text", [MARK])  # the statement timeout is short now
    except (psycopg.Error, UnicodeError):
        logging.getLogger("stoa.gateway").exception("call %s could not be settled", 7)
    finally:
        connections.close()
    assert len(written) == 1
    assert MARK not in written[0]
    assert MARK not in server_log()


# -- what the log contains ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT 1 / 0", "DivisionByZero: 22012 at "),
        (
            "INSERT INTO \"user\" (id, email) VALUES ('x', NULL)",
            "NotNullViolation: 23502 table user column email at ",
        ),
        (
            "SELECT credit_net('x', now()), pg_sleep(9)",
            "QueryCanceled: 57014 canceling statement due to statement timeout at ",
        ),
    ],
)
def test_the_log_names_the_error(app: Flask, written: list[str], query: str, expected: str) -> None:
    with app.app_context():
        if "pg_sleep" in query:
            db.session.execute(text("SET LOCAL statement_timeout = 50"))
        with suppress(sqlalchemy.exc.DBAPIError):
            try:
                db.session.execute(text(query))
            except sqlalchemy.exc.DBAPIError:
                logging.getLogger("stoa.test").exception("it failed")
                raise
        db.session.rollback()
    assert f"it failed | {expected}" in written[0]


def test_the_log_names_the_function(app: Flask, written: list[str]) -> None:
    query = "DO $$ BEGIN PERFORM 1 / 0; END $$"
    with app.app_context():
        try:
            db.session.execute(text(query))
        except sqlalchemy.exc.DBAPIError:
            logging.getLogger("stoa.test").exception("it failed")
        db.session.rollback()
    assert "DivisionByZero: 22012" in written[0]


def test_the_log_has_the_reason_of_a_lost_database(written: list[str]) -> None:
    try:
        psycopg.connect("host=/nowhere dbname=stoa", connect_timeout=2)
    except psycopg.OperationalError:
        logging.getLogger("stoa.test").exception("it failed")
    assert "OperationalError: connection" in written[0]
    assert "No such file" in written[0]


def test_the_log_has_errors_of_the_operating_system(written: list[str]) -> None:
    try:
        Path(f"/nowhere/{MARK}").read_text()
    except OSError:
        logging.getLogger("stoa.test").exception("it failed")
    assert "FileNotFoundError: [Errno 2] No such file or directory at " in written[0]
    assert MARK not in written[0]


# -- other failures --------------------------------------------------------------------------------------------


class _Model(pydantic.BaseModel):
    number: int


def _chained() -> None:
    try:
        raise KeyError(MARK)
    except KeyError as error:
        raise RuntimeError(MARK) from error


def _while_another() -> None:
    try:
        raise KeyError(MARK)
    except KeyError:
        raise RuntimeError(MARK)  # noqa: B904


def _group() -> None:
    raise ExceptionGroup(MARK, [ValueError(MARK), ExceptionGroup(MARK, [OSError(MARK)])])


def _noted() -> None:
    error = ValueError(MARK)
    error.add_note(MARK)
    raise error


FAILURES: dict[str, Callable[[], object]] = {
    "a key": lambda: {}[MARK],
    "a number": lambda: int(MARK),
    "an encoding": lambda: f"{MARK}\ud800".encode(),
    "a decoding": lambda: MARK.encode("utf-16").decode("utf-8"),
    "a shape": lambda: _Model.model_validate({"number": MARK}),
    "json": lambda: json.loads(f"{{{MARK}"),
    "an attribute": lambda: getattr(object(), MARK),
    "a cause": _chained,
    "a context": _while_another,
    "a group": _group,
    "a note": _noted,
    "a warning": lambda: warnings.warn(MARK, UserWarning, stacklevel=1),
    "a system's error with a name": lambda: Path(f"/{MARK}").read_text(),
    "a command": lambda: subprocess.run(["false", MARK], check=True),
    "an address": lambda: requests.get(f"http://{MARK}.invalid/{MARK}", timeout=0.2),
    "a scheme": lambda: requests.get(f"{MARK}://x", timeout=0.2),
    "a mail address": lambda: smtplib.SMTP("localhost", 1),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_command_that_fails(
    app: Flask, written: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(signing_in, "create", lambda *_args, **_named: FAILURES[name]())
    result = app.test_cli_runner().invoke(args=["accounts", "create", "ada@example.org", "--name", MARK])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert MARK not in result.output
    assert "flask accounts failed" in written[0]
    assert not [line for line in written if MARK in line]


@pytest.mark.parametrize("name", FAILURES)
def test_an_exception(written: list[str], name: str) -> None:
    try:
        FAILURES[name]()
    except Exception as error:
        logging.getLogger("stoa.test").exception("it failed")
        logging.getLogger("stoa.test").warning("again: %s", error)
    assert len(written) >= 2
    assert not [line for line in written if MARK in line]


FOREIGN: dict[str, tuple[Any, ...]] = {
    "gunicorn's request": ("Error handling request %s %s", "GET", f"/login/link/{MARK}"),
    "gunicorn's refusal": (f"Invalid request from ip=127.0.0.1: Invalid HTTP request line: 'GET /{MARK}'",),
    "urllib3": ("Retrying (%r) after connection broken by '%r': %s", MARK, ValueError(MARK), f"/{MARK}"),
    "asyncio": (f"Task exception was never retrieved\nfuture: <Task exception=ValueError('{MARK}')>",),
    "procrastinate": (f"fetch_job error: ValueError('{MARK}')",),
    "a mapping": ("job %(name)s failed with %(error)s", {"name": MARK, "error": ValueError(MARK)}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_librarys_message(written: list[str], name: str) -> None:
    logging.getLogger("gunicorn.error").warning(*FOREIGN[name])
    assert len(written) == 1
    assert MARK not in written[0]


def test_a_message_that_does_not_fit_its_arguments() -> None:
    record = logging.LogRecord("library", logging.ERROR, "", 1, f"job %s %s: {MARK}", (1,), None)
    assert LogFormatter().format(record).endswith(" ERROR library job %s %s")


def test_numbers_of_a_library_are_kept(written: list[str]) -> None:
    logging.getLogger("gunicorn.error").error("Worker (pid:%s) exited with code %s", 17, 3)
    assert "Worker (pid:17) exited with code 3" in written[0]


def test_a_task_nobody_awaited(written: list[str]) -> None:
    async def fail() -> None:
        raise ValueError(MARK)

    async def main() -> None:
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    # in a thread, because the browser of other tests may run an event loop in this one
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert written
    assert not [line for line in written if MARK in line]


# -- end to end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", f"/login/link/{MARK}"), ("POST", f"/login/link/{MARK}"), ("GET", f"/login?next=/{MARK}")],
)
def test_a_page_that_fails(
    app: Flask, monkeypatch: pytest.MonkeyPatch, written: list[str], method: str, path: str
) -> None:
    from models.accounts import magic_links
    from views.accounts.pages import sign_in

    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError(path)

    browser = app.test_client()
    form = {"csrf_token": token_of(browser.get("/login"))}

    monkeypatch.setattr(magic_links, "find", breaks)
    monkeypatch.setattr(magic_links, "use", breaks)
    monkeypatch.setattr(sign_in, "configured", breaks)
    assert browser.open(path, method=method, data=form).status_code == 500
    assert [line for line in written if "RuntimeError at" in line]
    assert not [line for line in written if MARK in line]


@pytest.mark.parametrize("error", [MARK, f"{MARK}\n", "access_denied"])
def test_callback_parameters(app: Flask, written: list[str], error: str) -> None:
    from authlib.integrations.base_client import OAuthError

    from views.accounts.pages import oauth

    with app.test_request_context("/"):
        oauth._failed("oidc", OAuthError(error=error, description=MARK))
    (line,) = (line for line in written if "sign-in through oidc failed: OAuthError" in line)
    assert MARK not in line
    assert ("access_denied" in line) == (error == "access_denied")


def test_a_job_that_fails(
    app: Flask,
    session: Session,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    written: list[str],
    server_log: Callable[[], str],
) -> None:
    def refuse(settings: Settings, message: mail.Email) -> None:
        raise psycopg.errors.UniqueViolation(f"Key (email)=({message.to}) already exists. {message.text}")

    monkeypatch.setattr(jobs, "get_settings", lambda: settings)
    monkeypatch.setattr(mail, "deliver", refuse)
    mail.send(settings, mail.Email(to=f"{MARK}@example.org", subject=MARK, text=MARK))
    jobs.enqueue(jobs.deliver_mail, sealed=MARK)
    session.commit()
    work(app)
    assert [line for line in written if "mail.deliver" in line]
    assert not [line for line in written if MARK in line]
    assert MARK not in server_log()


def test_a_mail_servers_response(written: list[str]) -> None:
    error = mail.MailError(
        f"the mail server answered 550 5.1.1 <{MARK}@example.org> is unknown", permanent=True
    )
    logging.getLogger("stoa.jobs").warning("failed: %s", error)
    logging.getLogger("stoa.jobs").error("failed", exc_info=error)
    for line in written:
        assert "the mail server answered 550 5.1.1 <***> is unknown" in line


UNCAUGHT = """
import sys, threading
if {gevent}:
    from gevent import monkey; monkey.patch_all()
import gevent
from views.web import logs
logs.init_app([]); logs.show_progress()
def fail(): raise ValueError("{mark}")
class Dies:
    def __del__(self): fail()
thread = threading.Thread(target=fail); thread.start(); thread.join()
gevent.spawn(fail).join()
Dies()
fail()
"""


@pytest.mark.parametrize("gevent", [True, False])
def test_uncaught_exceptions(gevent: bool) -> None:
    script = UNCAUGHT.format(gevent=gevent, mark=MARK)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert MARK not in done.stdout + done.stderr
    assert done.stderr.count("uncaught exception | ValueError at") == 4


def test_a_page_whose_statement_fails(
    app: Flask, alice: Person, session: Session, written: list[str], server_log: Callable[[], str]
) -> None:
    """A complete request that fails on another user's unique e-mail address."""
    factories.user(MARK)

    view = app.view_functions["accounts.login"]
    app.view_functions["accounts.login"] = lambda: _twice(alice)
    try:
        assert app.test_client().get("/login").status_code == 500
    finally:
        app.view_functions["accounts.login"] = view
    assert [
        line for line in written if "UniqueViolation: 23505 constraint user_email_unique table user" in line
    ]
    assert not [line for line in written if MARK in line]
    assert MARK not in server_log()
