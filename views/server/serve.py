"""`flask serve`: web server and job worker on one machine, supervised. `flask work`: the job worker only."""

import errno
import http.client
import json
import math
import resource
import secrets
import signal
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
from sqlalchemy.exc import OperationalError

from models import demo, ledger
from models.accounts import magic_links
from models.core import postgres
from models.core.db import db, now, server_setting
from models.core.pool import Pool
from models.core.settings import DEMO_STRIPE_KEY, ROOT, SIMULATOR_ACCESS, Settings, keep_simulator
from models.deployments.deployed_process import MARK
from views.server.supervisor import ChildProcess, ServeState, Supervisor, die_with_make
from views.web import logs

READY_WITHIN = 90.0  # seconds from starting the web server to its first response
DATABASE_WITHIN = 60.0  # seconds to wait for an external PostgreSQL


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(serve)
    app.cli.add_command(work)
    app.cli.add_command(processes)


@click.command("work")
@with_appcontext
def work() -> None:
    """Run the job worker only (`flask serve` includes one)."""
    from models.core import jobs

    logs.show_progress()
    jobs.work(current_app.app_context)


@click.command("processes")
@with_appcontext
def processes() -> None:
    """Run the programs of deployments only (`flask serve` does)."""
    from models.deployments.process_host import ProcessHost

    logs.show_progress()
    host = ProcessHost(current_app.extensions["settings"], current_app.app_context)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: host.stop())
    host.work()


@click.command("serve")
@with_appcontext
def serve() -> None:
    """Start Stoa: migrations, web server, job worker. Stop with Ctrl-C."""
    settings: Settings = current_app.extensions["settings"]
    logs.show_progress()
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
        web, jobs, programs, *doubles = children
        for double in doubles:
            say(f"Starting the {double.name}, {double.environment['STRIPE_API_BASE']}: cards are play money")
            supervisor.start(double)
        say(f"Starting {settings.stoa_workers} web workers")
        supervisor.start(web)
        chores: list[Callable[[], None]] = [*_chores(settings), partial(_start_programs, settings, programs)]
        try:
            if _wait_until_ready(supervisor, listeners[0], chores):
                # After the web workers are ready, so that they do not load the same code concurrently.
                say("Starting the job worker")
                supervisor.start(jobs)
                try:
                    _print_welcome(settings)
                except OperationalError:
                    db.session.rollback()  # PostgreSQL was just killed; `flask accounts link` prints a link later
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
    """Print a line. Ignores a closed pipe, which must not prevent an orderly shutdown."""
    with suppress(OSError):
        click.echo(line)


def _prepare(settings: Settings) -> None:
    """Wait for the database, check its connection limit, migrate it and sweep stale holds."""
    from flask_migrate import upgrade  # not in web workers, which import this module

    _wait_for_database(settings)
    _check_connections(settings)
    say("Migrating the database")
    upgrade(directory=str(ROOT / "migrations"))
    _seed_demo_once(settings)
    if settings.stoa_stripe == "demo":
        demo.offer_plans()
    # If the server is killed repeatedly, the job worker may never live long enough to sweep.
    ledger.sweep()
    db.session.commit()
    # The supervisor holds no connection while it watches.
    db.engine.dispose()


def _wait_for_database(settings: Settings) -> None:
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
                    f"DATABASE_URL: {_database_name(settings)} cannot be reached: {reason}"
                ) from None
            say(f"Waiting for {_database_name(settings)}")
            time.sleep(3)
    say(f"PostgreSQL {str(version).split()[0]} is up ({_database_name(settings)})")
    db.session.rollback()


def _database_name(settings: Settings) -> str:
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
            + ("." if settings.database_url else ": stop all running flask commands, then start again.")
        )


def _seed_demo_once(settings: Settings) -> None:
    """Seed the demo on the first start. A start that was killed while seeding is repeated."""
    marker = settings.data_dir / "demo_seeded"
    interrupted = marker.exists() and marker.read_text() == "begun"
    if marker.exists() and not interrupted:
        return
    if interrupted:
        demo.remove()
        db.session.commit()
    if demo.is_first_start():
        say("Creating demo data: users, agents and a month of runs (delete it with flask demo remove)")
        marker.write_text("begun")
        pool = Pool(_url(), 1)
        try:
            demo.seed(pool, settings, commit=db.session.commit)
        finally:
            pool.close()
    marker.write_text("done")


def _listen(settings: Settings) -> list[socket.socket]:
    """Open the web server's sockets. This process keeps them, so a restart of the web server refuses no connection."""
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
        return f"PORT: {settings.port} is in use by another program on {host}. Stop it, or set PORT to a free port."
    if error.errno == errno.EACCES:
        return f"PORT: this user may not listen on {settings.port}. Set PORT to 1024 or above."
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
        _program_host(),
        *doubles,
    ]


def _program_host() -> ChildProcess:
    """What runs the programs of deployments; it is not started before there is one."""
    command = [sys.executable, "-m", "flask", "--app", "app:create_app", "processes"]
    child = ChildProcess("host of programs", command, ROOT, grace=20)
    child.next_start = math.inf
    return child


def _start_programs(settings: Settings, child: ChildProcess) -> None:
    """Have the programs of deployments run once one was deployed."""
    if child.next_start == math.inf and (settings.data_dir / MARK).exists():
        say("Starting the host of programs")
        child.next_start = 0.0


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
    """Wait until the web server responds; False if a signal stopped the wait. Runs the chores meanwhile, because the web
    server cannot respond while PostgreSQL is down."""
    began = time.monotonic()
    web = supervisor.children[0]
    while not supervisor.stop_requests:
        if (code := web.ended()) is not None:
            raise click.ClickException(
                f"The web server did not start (exit code {code}); see the output above."
            )
        # chores first and often: a web server that starts without PostgreSQL would start it without a message
        for chore in chores:
            chore()
        elapsed = time.monotonic() - began
        if _responds(listener, min(0.3 + elapsed / 10, 2.0)):
            return True
        if elapsed > READY_WITHIN:
            raise click.ClickException(f"The web server did not respond within {READY_WITHIN:.0f} seconds.")
        time.sleep(0.1)
    return False


def _responds(listener: socket.socket, seconds: float) -> bool:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", "/readyz", headers={"Connection": "close"})
        # pending settlements make /readyz return 503, but they block model calls only
        return bool(json.loads(connection.getresponse().read()).get("database") == "ok")
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _chores(settings: Settings) -> list[Callable[[], None]]:
    return [] if settings.database_url else [partial(_restart_postgres, settings)]


def _restart_postgres(settings: Settings) -> None:
    """Restart the embedded server if it was killed; the pools of other processes reconnect."""
    if postgres.is_running(settings.data_dir):
        return
    say("PostgreSQL was killed; restarting it")
    try:
        postgres.embedded_url(settings.data_dir, max_connections=settings.connections_needed)
    except postgres.PostgresError as error:
        say(f"{error}\nRetrying")


def _print_welcome(settings: Settings) -> None:
    say("")
    say(f"Stoa is ready at {settings.base_url}")
    for who, email in _operators(settings):
        path = magic_links.issue(email, now=now())
        say(f"Sign in {who} (one-time link, valid for 15 minutes): {settings.base_url}{path}")
    db.session.commit()
    db.engine.dispose()
    say("Press Ctrl-C to stop.")
    say("")


def _operators(settings: Settings) -> list[tuple[str, str]]:
    """Users to print a sign-in link for: the first operator and the demo user."""
    found = [(f"as {email}", email) for email in sorted(settings.stoa_admins)[:1]]
    if demo.exists():
        found.append(("as the demo user", demo.EMAIL))
    return found


def _url() -> str:
    return cast(str, current_app.config["SQLALCHEMY_DATABASE_URI"])
