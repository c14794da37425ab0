"""Evaluation results (`git_eval_results`): recording, lists, visibility."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import randbits
from typing import Any

from sqlalchemy import Index, Select, Text, and_, case, cast, column, func, or_, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, Base, db
from models.core.errors import NotFound

PAGE = 50
MAX_NESTING = 3
"""Levels of the metadata in which numbers are metrics."""
MAX_METRICS = 200
MAX_SCALAR = 200
"""Stored bytes of a text of the metadata in lists."""
SUITE, COMMIT = ("suite", "repo"), ("commit", "commitSha", "sha", "gitSha")
"""Names of the metadata that say the repository and the commit."""


class GitEvalResults(Base):
    """The result of one evaluation over a set of commits. `cost` is in credits. Ids of recorded results begin with the time, so that
    the order of ids is the order of time."""

    __tablename__ = "git_eval_results"
    __table_args__ = (
        Index("idx_git_eval_results_public", "id", postgresql_where=text("is_public")),
        Index("idx_git_eval_results_agent", "agent_model", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    cost_mode: Mapped[str | None]
    reasoner_model: Mapped[str | None]
    agent_model: Mapped[str | None]
    # `metadata` is reserved by SQLAlchemy's declarative base.
    details: Mapped[Any] = mapped_column("metadata", JSONB(none_as_null=True), nullable=True)
    cost: Mapped[int] = mapped_column(server_default=text("0"))
    is_public: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    @property
    def suite(self) -> str | None:
        """The repository that was evaluated."""
        return _text_named(self.details, SUITE)

    @property
    def commit(self) -> str | None:
        """The commit of the agent that was evaluated."""
        return _text_named(self.details, COMMIT)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the metadata by name, nested ones as `outer.inner`; at most `MAX_METRICS`."""
        found: dict[str, float] = {}
        _collect(self.details, "", MAX_NESTING, found)
        return found


def _text_named(details: Any, names: tuple[str, ...]) -> str | None:
    values = details if isinstance(details, dict) else {}
    return next((value for name in names if isinstance(value := values.get(name), str) and value), None)


def _collect(value: Any, name: str, levels: int, found: dict[str, float]) -> None:
    if isinstance(value, bool) or len(found) >= MAX_METRICS:
        return
    if isinstance(value, int | float) and name:
        found[name] = value
    elif isinstance(value, dict) and levels:
        for key, inner in value.items():
            _collect(inner, f"{name}.{key}" if name else key, levels - 1, found)


def record_eval(
    *, cost_mode: str | None, reasoner_model: str | None, agent_model: str | None, metadata: Any, cost: int
) -> GitEvalResults:
    """Add a result, which only operators see. Flushes."""
    made = GitEvalResults(
        id=_timed_id(datetime.now(UTC)),
        cost_mode=cost_mode,
        reasoner_model=reasoner_model,
        agent_model=agent_model,
        details=metadata,
        cost=cost,
    )
    db.session.add(made)
    db.session.flush()
    return made


def _timed_id(moment: datetime) -> str:
    """A version 7 UUID."""
    milliseconds = int(moment.timestamp() * 1000)
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | randbits(12) << 64 | 2 << 62 | randbits(62)))


def latest_evals(limit: int, *, public_only: bool) -> Sequence[GitEvalResults]:
    """The latest results, by id descending."""
    query = select(GitEvalResults).order_by(GitEvalResults.id.desc()).limit(limit)
    return db.session.scalars(query.where(GitEvalResults.is_public) if public_only else query).all()


def eval_with_id(id: str) -> GitEvalResults:
    """The result with this id. Raises NotFound."""
    found = None if "\0" in id else db.session.get(GitEvalResults, id)
    if found is None:
        raise NotFound("Eval result not found")
    return found


@dataclass(frozen=True, slots=True)
class EvalSummary:
    """A result in a list. `scalars` are the numbers and short texts of its metadata, without nested ones."""

    id: str
    created_at: datetime
    agent_model: str | None
    reasoner_model: str | None
    cost_mode: str | None
    cost: int
    is_public: bool
    scalars: dict[str, Any]

    @property
    def suite(self) -> str | None:
        """The repository that was evaluated."""
        return _text_named(self.scalars, SUITE)

    @property
    def commit(self) -> str | None:
        """The commit of the agent that was evaluated."""
        return _text_named(self.scalars, COMMIT)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the metadata by name."""
        found: dict[str, float] = {}
        _collect(self.scalars, "", 1, found)
        return found


def eval_summaries(
    *, agent: str | None = None, before: str | None = None, limit: int = PAGE
) -> tuple[list[EvalSummary], str | None]:
    """Results, newest first, of one agent or model if given, after the one with the id `before`, and the `before` of the next
    page."""
    query = _summaries().order_by(GitEvalResults.id.desc()).limit(limit + 1)
    if agent:
        query = query.where(GitEvalResults.agent_model == agent)
    if before:
        query = query.where(GitEvalResults.id < before)
    rows = [EvalSummary(*row) for row in db.session.execute(query)]
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def _summaries() -> Select[*tuple[Any, ...]]:
    details = GitEvalResults.details
    given = case((func.jsonb_typeof(details) == "object", details), else_=cast({}, JSONB))
    pair = func.jsonb_each(given).table_valued(column("key", Text), column("value", JSONB), name="pair")
    short = or_(
        func.jsonb_typeof(pair.c.value) == "number",
        and_(func.jsonb_typeof(pair.c.value) == "string", func.pg_column_size(pair.c.value) < MAX_SCALAR),
    )
    scalars = select(func.jsonb_object_agg(pair.c.key, pair.c.value)).where(short)
    result = GitEvalResults
    return select(
        *(result.id, result.created_at, result.agent_model, result.reasoner_model),
        *(result.cost_mode, result.cost, result.is_public),
        func.coalesce(scalars.correlate(GitEvalResults).scalar_subquery(), cast({}, JSONB)),
    )


def previous_eval(result: GitEvalResults) -> str | None:
    """The id of the result before this one of the same agent or model, or None."""
    if result.agent_model is None:
        return None
    query = select(GitEvalResults.id).where(
        GitEvalResults.agent_model == result.agent_model, GitEvalResults.id < result.id
    )
    return db.session.scalar(query.order_by(GitEvalResults.id.desc()).limit(1))
