"""The traffic of sites: counted in each web worker and added up by day, and limited for each site."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Literal, NamedTuple

import orjson
from sqlalchemy import CheckConstraint, Date, ForeignKey, ForeignKeyConstraint, Index, delete, select, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core import jobs
from models.core.db import Base, BigInt, db, midnight, now
from models.core.job_queue import Context
from models.core.settings import Settings
from models.projects.workspaces.workspace import Workspace

log = logging.getLogger("stoa.sites")

FLUSH_SECONDS = 10.0
"""How long a worker keeps its counts to itself."""
BURST_SECONDS = 5
"""A site that was quiet may have so many seconds' requests at once."""
MAX_SITES = 10_000
"""Sites whose requests a worker counts at the same time."""
MAX_LABEL = 63
"""Characters of a name."""
KEPT = timedelta(days=90)

_ADD = text("""
WITH counted AS (
    SELECT s.workspace_id, s.project_id, s.name, t.day, sum(t.requests)::bigint AS requests, sum(t.bytes)::bigint AS bytes,
        sum(t.refused)::bigint AS refused
    FROM json_to_recordset(CAST(:rows AS json)) AS t (name text, day date, requests bigint, bytes bigint, refused bigint)
    JOIN deployed_site s ON s.name = t.name
    GROUP BY s.workspace_id, t.day
), written AS (
    INSERT INTO site_traffic AS known (workspace_id, day, project_id, requests, bytes, refused)
    SELECT workspace_id, day, project_id, requests, bytes, refused FROM counted ORDER BY workspace_id, day
    ON CONFLICT (workspace_id, day) DO UPDATE SET requests = known.requests + excluded.requests,
        bytes = known.bytes + excluded.bytes, refused = known.refused + excluded.refused
    RETURNING workspace_id, day, bytes
)
SELECT counted.name, written.day, written.bytes FROM written JOIN counted USING (workspace_id, day)
""")


class SiteTraffic(Base):
    """What a site served on a day (UTC): requests, bytes of bodies, and requests beyond the limits."""

    __tablename__ = "site_traffic"
    __table_args__ = (
        CheckConstraint("((requests >= 0) AND (bytes >= 0) AND (refused >= 0))", name="not_negative"),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="site_traffic_workspace_fk",
            ondelete="CASCADE",
        ),
        Index("idx_site_traffic_project", "project_id"),
        Index("idx_site_traffic_day", "day"),
    )

    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    requests: Mapped[int] = mapped_column(BigInt)
    bytes: Mapped[int] = mapped_column(BigInt)
    refused: Mapped[int] = mapped_column(BigInt)


class SiteRefusal(NamedTuple):
    """Why a request is not answered, and in how many seconds another one is."""

    reason: Literal["requests", "bytes"]
    seconds: int


class TrafficDay(NamedTuple):
    """The traffic of a site on a day."""

    day: date
    requests: int
    bytes: int
    refused: int


class _SiteUse:
    """What one worker knows of a site: its bucket of requests, and what it counted of a day and did not add up yet."""

    __slots__ = ("at", "bytes", "day", "refused", "requests", "served", "tokens")

    def __init__(self, day: date, tokens: float, at: float) -> None:
        self.day, self.tokens, self.at = day, tokens, at
        self.requests = self.bytes = self.refused = 0
        self.served = 0
        """Bytes of the day that all workers had served when this one added its own."""


class SiteMeter:
    """The traffic of sites as one web worker counts and limits it. Safe for threads and greenlets."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._context = context
        self._rate = settings.stoa_site_requests_per_second / settings.stoa_workers
        self._burst = max(1.0, self._rate * BURST_SECONDS)
        self._bytes = settings.stoa_site_bytes_per_day
        self._uses: dict[str, _SiteUse] = {}
        self._late: list[dict[str, str | int]] = []
        self._lock = threading.Lock()
        self._waits = False

    def admit(self, name: str, moment: datetime | None = None) -> SiteRefusal | None:
        """Count a request to the site of this name; why it is refused, if it is beyond a limit."""
        moment, at = moment or now(), time.monotonic()
        with self._lock:
            use = self._use(name, moment.date(), at)
            if use is None:
                return None
            use.tokens = min(self._burst, use.tokens + (at - use.at) * self._rate)
            use.at = at
            refusal = self._refusal(use, moment)
            if refusal is None:
                use.tokens -= 1
                use.requests += 1
            else:
                use.refused += 1
        self._wait()
        return refusal

    def counted(self, name: str, body: Iterable[bytes]) -> Iterable[bytes]:
        """The body of a response, of which the bytes that are sent are counted."""
        return _Counted(body, lambda sent: self._add(name, sent))

    def flush(self) -> None:
        """Add up what was counted. Commits. What cannot be written now is tried again with the next."""
        today = now().date()
        with self._lock:
            rows = self._late + [row for name, use in self._uses.items() if (row := _taken(name, use))]
            self._late = []
            self._uses = {
                name: use
                for name, use in self._uses.items()
                if use.day == today and time.monotonic() - use.at < 600
            }
        if not rows:
            return
        try:
            with self._context(), jobs.transaction():
                found = db.session.execute(_ADD, {"rows": orjson.dumps(rows).decode()}).all()
        except Exception as error:
            log.warning("the traffic of sites could not be counted: %s", type(error).__name__)
            with self._lock:
                self._late = rows[:MAX_SITES]
            return
        with self._lock:
            for name, day, served in found:
                if (use := self._uses.get(name)) is not None and use.day == day:
                    use.served = served

    def _refusal(self, use: _SiteUse, moment: datetime) -> SiteRefusal | None:
        if self._bytes and use.served + use.bytes >= self._bytes:
            tomorrow = midnight(moment.date() + timedelta(days=1))
            return SiteRefusal("bytes", max(1, int((tomorrow - moment).total_seconds())))
        return SiteRefusal("requests", 1) if self._rate and use.tokens < 1 else None

    def _use(self, name: str, day: date, at: float) -> _SiteUse | None:
        """What is known of a site today; None if there are too many, or there is none of this name."""
        use = self._uses.get(name)
        if use is not None and use.day == day:
            return use
        if use is None and (len(self._uses) >= MAX_SITES or not 0 < len(name) <= MAX_LABEL):
            return None
        if use is not None and (row := _taken(name, use)):
            self._late.append(row)
        made = self._uses[name] = _SiteUse(day, use.tokens if use else self._burst, at)
        return made

    def _add(self, name: str, sent: int) -> None:
        with self._lock:
            if (use := self._uses.get(name)) is not None:
                use.bytes += sent

    def _wait(self) -> None:
        """Let the counts be added up in a while."""
        with self._lock:
            waits, self._waits = self._waits, True
        if not waits:
            timer = threading.Timer(FLUSH_SECONDS, self._flush_later)
            timer.daemon = True
            timer.start()

    def _flush_later(self) -> None:
        self._waits = False
        self.flush()


class _Counted:
    """A body whose bytes are counted until it is closed."""

    def __init__(self, body: Iterable[bytes], add: Callable[[int], None]) -> None:
        self._body, self._add, self._sent = body, add, 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            self._sent += len(piece)
            yield piece

    def close(self) -> None:
        """The response ended, or its client left."""
        try:
            with suppress(AttributeError):
                self._body.close()  # type: ignore[attr-defined]
        finally:
            sent, self._sent = self._sent, 0
            self._add(sent)


def traffic_of(workspace: Workspace, days: int) -> Sequence[TrafficDay]:
    """The traffic of a workspace's site on the last days, the newest first; zeros where there was none."""
    today = now().date()
    query = select(SiteTraffic).where(
        SiteTraffic.workspace_id == workspace.id, SiteTraffic.day > today - timedelta(days=days)
    )
    known = {row.day: row for row in db.session.scalars(query)}
    wanted = [today - timedelta(days=number) for number in range(days)]
    return [
        TrafficDay(day, row.requests, row.bytes, row.refused)
        if (row := known.get(day))
        else TrafficDay(day, 0, 0, 0)
        for day in wanted
    ]


def forget_traffic(moment: datetime) -> None:
    """Delete the traffic of days that are longer ago than `KEPT`."""
    db.session.execute(delete(SiteTraffic).where(SiteTraffic.day < (moment - KEPT).date()))


def _taken(name: str, use: _SiteUse) -> dict[str, str | int] | None:
    """What was counted of a site since the last time, which begins anew; its bytes count for the limit at once."""
    if not (use.requests or use.bytes or use.refused):
        return None
    row: dict[str, str | int] = {"name": name, "day": use.day.isoformat()}
    row |= {"requests": use.requests, "bytes": use.bytes, "refused": use.refused}
    use.served += use.bytes
    use.requests = use.bytes = use.refused = 0
    return row
