"""Kill points inside the server's processes: work is suspended before or after a request to Stripe or a commit.

`settings_of_kills` makes the server's Python load this module. A purchase names its stop in a header, a top-up of an
account in a file. Suspended work records this in a file and waits for `SIGKILL`.
"""

import asyncio
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

HEADER = "X-Proof-Stop"
FOLDER = "STOA_PROOF_STOPS"
"""The environment variable with the folder of the requested and reached stops."""

LOADER = "from tests.proof import kill_points\nkill_points.install()\n"


def settings_of_kills(folder: Path) -> dict[str, str]:
    """Environment variables of a server with kill points; the folder must be empty."""
    start = folder / "start"
    start.mkdir()
    (start / "sitecustomize.py").write_text(LOADER)
    root = Path(__file__).parents[2]
    return {FOLDER: str(folder), "PYTHONPATH": f"{start}{os.pathsep}{root}"}


def stop_account(folder: Path, account_id: str, step: int) -> None:
    """Suspend the next top-up of an account at this step; 0: only record its steps."""
    (folder / f"{account_id}.step").write_text(str(step))


def steps_of(folder: Path, name: str) -> list[str]:
    """The reached steps, by description. The last is `stopped` if the work is suspended, `done` if it completed."""
    try:
        return (folder / f"{name}.reached").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []


# -- inside the server ---------------------------------------------------------------------------------------


class Counting:
    """The steps of one purchase or top-up."""

    def __init__(self, name: str, step: int) -> None:
        self.step = step
        self.count = 0
        self._file = Path(os.environ[FOLDER], f"{name}.reached")

    def reach(self, place: str) -> None:
        """Record a step; never returns at the requested stop."""
        self.count += 1
        self.note(place)
        if self.count == self.step:
            self.note("stopped")
            threading.Event().wait()

    def note(self, line: str) -> None:
        """Append a line to the file."""
        with open(self._file, "a") as file:
            file.write(f"{line}\n")


_current: ContextVar[Counting | None] = ContextVar("_current", default=None)


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with the module `app` once it is loaded."""

    def __init__(self, then: Callable[[ModuleType], None]) -> None:
        self.then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual spec of `app`, with a loader that calls the function afterwards."""
        if name != "app":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load, then = spec.loader.exec_module, self.then

            def exec_module(module: ModuleType) -> None:
                load(module)
                then(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Install the kill points in this process after it has loaded the application."""
    if FOLDER in os.environ:
        sys.meta_path.insert(0, AfterImport(_patch))


def _patch(app: Any) -> None:
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    from models.billing.topups import topup_charging
    from models.core import job_queue

    event.listen(Session, "before_commit", lambda _: _reach("before a commit"))
    event.listen(Session, "after_commit", lambda _: _reach("after a commit"))
    app.create_app = _creating(app.create_app)
    app.PAGES_POOL = JOBS_AT_ONCE + 4  # suspended commits hold a connection each
    topup_charging.top_up = _topping_up(topup_charging.top_up)
    job_queue.CONCURRENCY = JOBS_AT_ONCE
    job_queue._work = _working(job_queue._work)


JOBS_AT_ONCE = 10
"""Number of concurrent jobs, all of which may be suspended top-ups."""


def _working(work: Callable[..., Any]) -> Callable[..., Any]:
    async def with_threads(*args: Any) -> Any:
        # other jobs continue beside the suspended ones
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(JOBS_AT_ONCE + 4))
        return await work(*args)

    return with_threads


def _creating(create: Callable[..., Any]) -> Callable[..., Any]:
    def create_app(*args: Any, **kw: Any) -> Any:
        app = create(*args, **kw)
        views = app.view_functions
        views["billing_api.buy_credits"] = _buying(views["billing_api.buy_credits"])
        access = app.extensions.get("stripe")
        if access is not None:
            _watch_requests()
        return app

    return create_app


def _watch_requests() -> None:
    import stripe

    request = stripe.RequestsClient.request
    if hasattr(request, "reaching"):
        return

    def reaching(self: Any, method: str, url: str, *args: Any, **kw: Any) -> Any:
        where = f"{method.upper()} {url.partition('/v1/')[2].partition('?')[0]}"
        _reach(f"before {where}")
        answer = request(self, method, url, *args, **kw)
        _reach(f"after {where}")
        return answer

    reaching.reaching = True  # type: ignore[attr-defined]
    stripe.RequestsClient.request = reaching  # type: ignore[method-assign]


def _buying(view: Callable[[], Any]) -> Callable[[], Any]:
    from flask import request

    @functools.wraps(view)
    def buy() -> Any:
        named = request.headers.get(HEADER)
        if named is None:
            return view()
        name, step = json.loads(named)
        return _counted(Counting(name, step), view)

    return buy


def _topping_up(verb: Callable[..., Any]) -> Callable[..., Any]:
    def top_up(account: Any, **kw: Any) -> Any:
        armed = Path(os.environ[FOLDER], f"{account.id}.step")
        try:
            step = int(armed.read_text())
            armed.unlink()
        except FileNotFoundError:
            return verb(account, **kw)
        return _counted(Counting(account.id, step), lambda: verb(account, **kw))

    return top_up


def _counted(counting: Counting, work: Callable[[], Any]) -> Any:
    token = _current.set(counting)
    try:
        return work()
    finally:
        _current.reset(token)
        counting.note("done")


def _reach(place: str) -> None:
    counting = _current.get()
    if counting is not None:
        counting.reach(place)
