"""Usage of organisations, counted from their calls a few minutes after they end; nothing is written while a call settles.

A report adds the cells of `org_usage` and the calls since `counted_until`, so it is exact at any time. Counting the same call
twice or never is impossible while calls are stored within `LAG` of their `finished_at`; `recount` repairs even that, nightly.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import ARRAY, ForeignKey, Index, Integer, Numeric, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, BigInt, db
from models.ledger.message import Message
from models.orgs import Org
from models.usage.usage_rows import CALL_COUNTS

LAG = timedelta(minutes=5)
STEP = 20_000
"""Calls that one transaction counts."""
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


class OrgUsage(Base):
    """The usage of an organisation in one bucket, for one value of a dimension: of all members (`user_id` empty) or of one, who
    has no hours.

    `bucket` is the start of an hour, day or week on the clock of the organisation's time zone. Input token counts are
    disjoint: `input_tokens` is uncached only. `cost` is dollars.
    """

    __tablename__ = "org_usage"
    __table_args__ = (
        Index(
            "idx_org_usage_runs",
            "org_id",
            "user_id",
            "bucket",
            "credits",
            postgresql_where=text("(dimension = 'run'::text)"),
        ),
    )

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    dimension: Mapped[str] = mapped_column(primary_key=True)
    grain: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[datetime] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int] = mapped_column(BigInt)
    input_tokens: Mapped[int] = mapped_column(BigInt)
    cache_write_tokens: Mapped[int] = mapped_column(BigInt)
    cache_read_tokens: Mapped[int] = mapped_column(BigInt)
    output_tokens: Mapped[int] = mapped_column(BigInt)
    reasoning_tokens: Mapped[int] = mapped_column(BigInt)
    credits: Mapped[int] = mapped_column(BigInt)
    cost: Mapped[Decimal] = mapped_column(Numeric)
    latency_ms: Mapped[int] = mapped_column(BigInt)
    histogram: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    failed: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    latency_max: Mapped[int] = mapped_column(server_default=text("0"))


class OrgUsageState(Base):
    """The calls of an organisation that finished before `counted_until` are in `org_usage`, by the clock of `time_zone`."""

    __tablename__ = "org_usage_state"

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    time_zone: Mapped[str]
    counted_until: Mapped[datetime]


_KEY = ["user_id", "dimension", "grain", "bucket", "key"]
_SUMS = [*CALL_COUNTS[:-1], "cost", "latency_ms"]
_COLUMNS = ["org_id", *_KEY, *_SUMS, "latency_max", "histogram"]
"""The order of `org_usage_cells`."""
_COUNT = text(
    f"INSERT INTO org_usage AS u ({', '.join(_COLUMNS)})"  # noqa: S608
    " SELECT :org, c.* FROM org_usage_cells(:org, :zone, :start, :until) c"
    " WHERE c.user_id = '' OR c.grain <> 'hour' ORDER BY 2, 3, 4, 5, 6"
    " ON CONFLICT (org_id, user_id, dimension, grain, bucket, key) DO UPDATE SET "
    + ", ".join(f"{name} = u.{name} + excluded.{name}" for name in _SUMS)
    + ", latency_max = greatest(u.latency_max, excluded.latency_max), histogram = (SELECT array_agg(a + b ORDER BY n)"
    " FROM unnest(u.histogram, excluded.histogram) WITH ORDINALITY AS h (a, b, n))"
)


def counted_until(org: Org) -> datetime:
    """Until when the organisation's calls are in its cells. Reports read later ones directly; after a change of the time zone,
    all of them until they are counted anew."""
    state = db.session.get(OrgUsageState, org.id)
    # the session refers weakly to its rows; all figures of a page need this one
    db.session.info["org_usage_state"] = state
    return BEGINNING if state is None or state.time_zone != org.time_zone else state.counted_until


def orgs_to_count(now: datetime) -> Sequence[str]:
    """Ids of the organisations with calls to count: those with a call since they were counted, and those whose time zone
    changed."""
    since = func.coalesce(OrgUsageState.counted_until, BEGINNING)
    waiting = (
        select(Message.id)
        .where(
            Message.org_id == Org.id,
            Message.finished_at >= func.timezone("UTC", since),
            Message.finished_at < now - LAG,
        )
        .exists()
    )
    query = (
        select(Org.id)
        .outerjoin(OrgUsageState, OrgUsageState.org_id == Org.id)
        .where(waiting | (OrgUsageState.time_zone != Org.time_zone))
        .order_by(Org.id)
    )
    return db.session.scalars(query).all()


def counted_orgs(since: datetime) -> Sequence[str]:
    """Ids of the organisations with counted calls after `since`."""
    newest = (
        select(Message.id)
        .where(
            Message.org_id == OrgUsageState.org_id,
            Message.finished_at >= since,
            Message.finished_at < func.timezone("UTC", OrgUsageState.counted_until),
        )
        .exists()
    )
    return db.session.scalars(select(OrgUsageState.org_id).where(newest).order_by(OrgUsageState.org_id)).all()


def count_calls(org_id: str, now: datetime) -> bool:
    """Count up to 20,000 calls of the organisation that ended more than five minutes ago; whether there are more. Commit after
    each call. Locks the organisation's state; flushes."""
    org = db.session.get(Org, org_id)
    if org is None:
        return False
    state = _locked_state(org)
    if state.time_zone != org.time_zone:
        db.session.execute(text("DELETE FROM org_usage WHERE org_id = :org"), {"org": org_id})
        state.time_zone, state.counted_until = org.time_zone, BEGINNING
    last = now - LAG
    following = (
        select(Message.finished_at)
        .where(
            Message.org_id == org_id, Message.finished_at >= state.counted_until, Message.finished_at < last
        )
        .order_by(Message.finished_at)
        .offset(STEP)
        .limit(1)
    )
    until = db.session.scalar(following)
    more = until is not None and until > state.counted_until
    _count(org, state.counted_until, until if until and more else last)
    state.counted_until = until if until and more else max(last, state.counted_until)
    db.session.flush()
    return more


def recount(org_id: str, since: datetime) -> None:
    """Count the weeks since `since` anew, in one transaction. Locks the organisation's state; flushes."""
    org = db.session.get(Org, org_id)
    if org is None or counted_until(org) <= since:
        return
    state = _locked_state(org)
    week = text("SELECT date_trunc('week', CAST(:since AS timestamptz), :zone)")
    start = db.session.execute(week, {"since": since, "zone": org.time_zone}).scalar_one()
    drop = text("DELETE FROM org_usage WHERE org_id = :org AND bucket >= :start")
    db.session.execute(drop, {"org": org_id, "start": start})
    _count(org, start, state.counted_until)


def _locked_state(org: Org) -> OrgUsageState:
    values = {"org_id": org.id, "time_zone": org.time_zone, "counted_until": BEGINNING}
    db.session.execute(insert(OrgUsageState).values(**values).on_conflict_do_nothing())
    query = select(OrgUsageState).where(OrgUsageState.org_id == org.id).with_for_update()
    return db.session.scalars(query.execution_options(populate_existing=True)).one()


def _count(org: Org, start: datetime, until: datetime) -> None:
    if start < until:
        db.session.execute(_COUNT, {"org": org.id, "zone": org.time_zone, "start": start, "until": until})
