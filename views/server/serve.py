"""`flask serve`: the whole of Stoa on one machine, watched. `flask work`: the job worker alone."""

import errno
import http.client
import json
import resource
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import click
from flask import Flask, current_app
from flask.cli import with_appcontext
from flask_migrate import upgrade
from sqlalchemy.exc import OperationalError

from models import demo, ledger
from models.accounts import magic_links
from models.core import postgres
from models.core.db import db, now, server_setting
from models.core.pool import Pool
from models.core.settings import DEMO_STRIPE_KEY, ROOT, SIMULATOR_ACCESS, Settings, keep_simulator
from views.server.supervisor import ChildProcess, ServeState, Supervisor, die_with_make
from views.web import logs

READY_WITHIN = 90.0  # seconds from starting the web server to its first answer
DATABASE_WITHIN = 60.0  # seconds an external PostgreSQL gets to come up beside us


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(serve)
    app.cli.add_command(work)


@click.command("work")
@with_appcontext
def work() -> None:
    """Run the job worker alone (`flask serve` runs one already)."""
    from models.core import jobs

    logs.speak()
    jobs.work(current_app.app_context)


@click.command("serve")
@with_appcontext
def serve() -> None:
    """Start Stoa: migrations, web server, job worker. Ctrl-C stops everything."""
    settings: Settings = current_app.extensions["settings"]
    logs.speak()
    die_with_make()
    record = ServeState(settings.data_dir)
    try:
        acquired = record.acquire(say)
    except OSError as error:
        raise click.ClickException(
            f"STOA_DATA_DIR: {settings.data_dir} cannot be used: {error.strerror}."
        ) from None
    if not acquired:
        address = record.read().get("address", "an unknown address")
        raise click.ClickException(
            f"Stoa already runs from {settings.data_dir}, at {address}. Stop it first."
        )
    try:
        _serve(settings, record)
    finally:
        record.release()
        db.engine.dispose()
        if postgres.release(settings.data_dir):
            say("PostgreSQL stopped")
    say("Stoa stopped")


def _serve(settings: Settings, record: ServeState) -> None:
    for warning in settings.warnings():
        say(f"Warning: {warning}")
    record.clear_leftovers(say)
    listeners = _listen(settings)
    try:
        _prepare(settings)
        children = _children(settings, listeners)
        supervisor = Supervisor(children, record, settings.base_url, say)
        supervisor.listen()
        _raise_file_limit()
        web, jobs, *doubles = children
        for double in doubles:
            say(f"Starting the {double.name}, {double.environment['STRIPE_API_BASE']}: cards are play money")
            supervisor.start(double)
        say(f"Starting {settings.stoa_workers} web workers")
        supervisor.start(web)
        chores = _chores(settings)
        try:
            if _wait_until_ready(supervisor, listeners[0], chores):
                # After the web workers, so that the three do not load the same code at once.
                say("Starting the job worker")
                supervisor.start(jobs)
                try:
                    _welcome(settings)
                except OperationalError:
                    db.session.rollback()  # PostgreSQL was killed just now; `flask accounts link` gives a link later
                supervisor.watch(*chores)
        finally:
            say("Stopping")
            for listener in listeners:
                listener.close()
            supervisor.stop()
            (settings.data_dir / SIMULATOR_ACCESS).unlink(missing_ok=True)
    finally:
        for listener in listeners:
            listener.close()


def say(line: str) -> None:
    """Tell the person at the terminal, if there is one still: a closed pipe must not keep us from stopping in order."""
    with suppress(OSError):
        click.echo(line)


def _prepare(settings: Settings) -> None:
    """Bring the database to where this release needs it."""
    _reach(settings)
    _check_connections(settings)
    say("Migrating the database")
    upgrade(directory=str(ROOT / "migrations"))
    _seed_demo_once(settings)
    # Of a server that is killed again and again no job worker may live long enough to do it.
    ledger.sweep()
    db.session.commit()
    # The supervisor holds no connection while it watches.
    db.engine.dispose()


def _reach(settings: Settings) -> None:
    began = time.monotonic()
    while True:
        try:
            version = server_setting("server_version")
            break
        except OperationalError as error:
            db.session.rollback()
            if time.monotonic() - began > DATABASE_WITHIN or not settings.database_url:
                reason = str(error.orig).strip().splitlines()[-1]
                raise click.ClickException(
                    f"DATABASE_URL: {_where(settings)} cannot be reached: {reason}"
                ) from None
            say(f"Waiting for {_where(settings)}")
            time.sleep(3)
    say(f"PostgreSQL {str(version).split()[0]} is up ({_where(settings)})")
    db.session.rollback()


def _where(settings: Settings) -> str:
    if not settings.database_url:
        return str(settings.data_dir / "postgres")
    url = db.engine.url
    return f"{url.host or 'localhost'}:{url.port or 5432}/{url.database}"


def _check_connections(settings: Settings) -> None:
    allowed = int(server_setting("max_connections"))
    db.session.rollback()
    needed = settings.connections_needed
    if needed > allowed:
        raise click.ClickException(
            f"PostgreSQL allows {allowed} connections, but {settings.stoa_workers} workers and the job worker may need "
            f"{needed}. Lower STOA_WORKERS, or raise max_connections"
            + ("." if settings.database_url else ": stop every flask command that runs, then start again.")
        )


def _seed_demo_once(settings: Settings) -> None:
    """On the very first start. A start that was killed while it seeded is made good by the next."""
    mark = settings.data_dir / "demo_seeded"
    begun = mark.exists() and mark.read_text() == "begun"
    if mark.exists() and not begun:
        return
    if begun:
        demo.remove()
        db.session.commit()
    if demo.is_first_start():
        say(
            "Seeding the demo: made-up people, their agents and a month of runs (flask demo remove deletes it)"
        )
        mark.write_text("begun")
        pool = Pool(_url(), 1)
        try:
            demo.seed(pool, settings, commit=db.session.commit)
        finally:
            pool.close()
    mark.write_text("done")


def _listen(settings: Settings) -> list[socket.socket]:
    """The sockets of the web server. They are held here, so that a restart of the server refuses nobody."""
    hosts = ["127.0.0.1", "::1"] if settings.stoa_host == "localhost" else [settings.stoa_host]
    listeners: list[socket.socket] = []
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, settings.port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            # A machine without IPv6 serves localhost on IPv4 alone.
            if listeners and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue
            for other in listeners:
                other.close()
            raise click.ClickException(_cannot_listen(settings, host, error)) from None
        listeners.append(listener)
    return listeners


def _cannot_listen(settings: Settings, host: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"PORT: {settings.port} is in use by another program on {host}. Stop that, or set PORT to a free one."
    if error.errno == errno.EACCES:
        return f"PORT: {settings.port} needs more rights than this user has. Set PORT to 1024 or above."
    return f"STOA_HOST: cannot listen on {host}: {error.strerror}."


def _children(settings: Settings, listeners: list[socket.socket]) -> list[ChildProcess]:
    fds = [listener.fileno() for listener in listeners]
    web = [sys.executable, "-m", "gunicorn", "--config", str(Path(__file__).with_name("gunicorn_config.py"))]
    web += ["--workers", str(settings.stoa_workers)]
    for fd in fds:
        web += ["--bind", f"fd://{fd}"]
    jobs = [sys.executable, "-m", "flask", "--app", "app:create_app", "work"]
    stripe, doubles = _stripe_simulator(settings) if settings.stoa_stripe == "demo" else ({}, [])
    return [
        ChildProcess("web server", web, ROOT, pass_fds=fds, environment=stripe, grace=25),
        ChildProcess("job worker", jobs, ROOT, environment=stripe, grace=20),
        *doubles,
    ]


def _stripe_simulator(settings: Settings) -> tuple[dict[str, str], list[ChildProcess]]:
    """The simulator on a free port of this machine, which it keeps when it is started again; and what the others must know of
    it: its address, a key, and a webhook secret, made anew with every start."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    port = listener.getsockname()[1]
    fd = listener.detach()  # open until this process ends, so that the port stays ours
    environment = {
        "STRIPE_API_BASE": f"http://127.0.0.1:{port}",
        "STRIPE_SECRET_KEY": f"{DEMO_STRIPE_KEY}{secrets.token_hex(16)}",
        "STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(32)}",
    }
    keep_simulator(settings.data_dir, environment)
    if (
        settings.no_proxy.strip() != "*"
    ):  # the simulator is reached directly, whatever proxy leads to the world
        direct = ",".join(filter(None, [settings.no_proxy, "127.0.0.1"]))
        environment |= {"NO_PROXY": direct, "no_proxy": direct}
    command = [sys.executable, "-m", "views.demo.stripe_simulator", str(fd)]
    return environment, [
        ChildProcess("Stripe simulator", command, ROOT, pass_fds=[fd], environment=environment, grace=5)
    ]


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _wait_until_ready(
    supervisor: Supervisor, listener: socket.socket, chores: list[Callable[[], None]]
) -> bool:
    """True once the web server answers; False when a signal asked to stop before that. The chores are done meanwhile:
    it cannot answer when PostgreSQL was killed."""
    began = time.monotonic()
    web = supervisor.children[0]
    while not supervisor.asked:
        if (code := web.ended()) is not None:
            raise click.ClickException(
                f"The web server did not start (code {code}); its reason stands above."
            )
        # the chores first and often: a web server that comes up without PostgreSQL would start it in silence
        for chore in chores:
            chore()
        elapsed = time.monotonic() - began
        if _answers(listener, min(0.3 + elapsed / 10, 2.0)):
            return True
        if elapsed > READY_WITHIN:
            raise click.ClickException(f"The web server gave no answer within {READY_WITHIN:.0f} seconds.")
        time.sleep(0.1)
    return False


def _answers(listener: socket.socket, seconds: float) -> bool:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", "/readyz", headers={"Connection": "close"})
        # calls that wait to be settled keep calls out, and nobody else
        return bool(json.loads(connection.getresponse().read()).get("database") == "ok")
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _chores(settings: Settings) -> list[Callable[[], None]]:
    return [] if settings.database_url else [partial(_keep_postgres, settings)]


def _keep_postgres(settings: Settings) -> None:
    """Start the embedded server again when it was killed; the pools of the others find it by themselves."""
    if postgres.is_running(settings.data_dir):
        return
    say("PostgreSQL was killed; starting it again")
    try:
        postgres.embedded_url(settings.data_dir, max_connections=settings.connections_needed)
    except postgres.PostgresError as error:
        say(f"{error}\nTrying again")


def _welcome(settings: Settings) -> None:
    say("")
    say(f"Stoa is ready at {settings.base_url}")
    for who, email in _operators(settings):
        path = magic_links.issue(email, now=now())
        say(f"Sign in once, within 15 minutes, {who}: {settings.base_url}{path}")
    db.session.commit()
    db.engine.dispose()
    say("Ctrl-C stops it.")
    say("")


def _operators(settings: Settings) -> list[tuple[str, str]]:
    """Whose sign-in link is of use to the person at this terminal."""
    found = [(f"as {email}", email) for email in sorted(settings.stoa_admins)[:1]]
    if demo.exists():
        found.append(("as the demo user", demo.EMAIL))
    return found


def _url() -> str:
    return cast(str, current_app.config["SQLALCHEMY_DATABASE_URI"])
