"""gunicorn's configuration. Read as a file by the parent of the web workers, which must import nothing of Stoa:
gevent patches each worker before the application, and psycopg with it, is loaded there."""

import ctypes
import gc
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

GIVE_BACK_SECONDS = 30


def give_back() -> None:
    """Return free memory to the system. glibc by itself returns only the end of its heap, so that what 500 streams at
    once needed would stay with the worker; 0.1 to 6 ms. Elsewhere nothing is done."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Worker(GeventWorker):
    """Closes connections that only wait for their next request as soon as it is told to stop, so that an idle
    browser does not hold up the end for the whole keep-alive time. Streams that are still on their way shortly
    before the end are stopped, told so, and billed for what was delivered."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.idle: dict[Any, Any] = {}

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Around the wait for a request; ends silently when its time, or the worker's, is over."""
        greenlet = gevent.getcurrent()
        with gevent.Timeout(self.cfg.keepalive, False) as timeout:
            self.idle[greenlet] = timeout
            try:
                yield
            finally:
                del self.idle[greenlet]

    def run(self) -> None:
        """Serve until told to stop."""
        gevent.spawn(self._dismiss_idle)
        gevent.spawn(self._keep_small)
        super().run()
        self.wsgi.extensions["gateway"].close()

    def _keep_small(self) -> None:
        while self.alive:
            gevent.sleep(GIVE_BACK_SECONDS)
            give_back()

    def _dismiss_idle(self) -> None:
        while self.alive:
            gevent.sleep(0.25)
        last_call = time.monotonic() + self.cfg.graceful_timeout - 5
        while True:
            for greenlet, timeout in list(self.idle.items()):
                greenlet.kill(timeout, block=False)
            if time.monotonic() > last_call:
                self.wsgi.extensions["gateway"].close()
            gevent.sleep(0.25)


def new_figures(parent: str) -> str:
    """A folder for this server's figures, named by its process. Those of servers that were killed are removed."""
    for old in Path(parent).glob("stoa-metrics-*"):
        number = old.name.split("-")[2]
        if number.isdigit() and not _lives(int(number)):
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"stoa-metrics-{os.getpid()}-", dir=parent)


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def post_fork(arbiter: Any, worker: Any) -> None:
    """Let each worker hold as many sockets as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def child_exit(arbiter: Any, worker: Any) -> None:
    """What the worker counted stays in the sums; what it had in flight is over."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(arbiter: Any) -> None:
    """The figures end with the server."""
    shutil.rmtree(figures, ignore_errors=True)


def post_worker_init(worker: Any) -> None:
    """Once the application is loaded, log as it does."""
    from views import logs

    logs.speak()
    logs.adopt("gunicorn.error")
    # What is loaded stays: the collector need not walk through it while a call waits.
    gc.collect()
    gc.freeze()
    give_back()


wsgi_app = "app:create_app()"
worker_class = Worker
worker_connections = 2000
backlog = 2048
keepalive = 65  # seconds, longer than the minute after which most proxies and clients let go
timeout = 60  # seconds a worker may be stuck without giving way
graceful_timeout = 20  # seconds that calls in flight get to end when the server stops
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  (the heartbeat file)
# Workers add their figures up in files; each must find the folder before it imports the client library.
figures = new_figures(worker_tmp_dir or tempfile.gettempdir())
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={figures}"]
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 16380
accesslog = None
loglevel = "warning"
control_socket_disable = True
proc_name = "stoa"
