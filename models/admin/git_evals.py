"""Evaluation results (`git_eval_results`): recording, lists, visibility."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import randbits
from typing import Any

from sqlalchemy import Index, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, Base, db
from models.core.errors import NotFound

PAGE = 50
MAX_NESTING = 3
"""Levels of the metadata in which numbers are metrics."""
MAX_METRICS = 200


class GitEvalResults(Base):
    """The result of one evaluation over a set of commits. `cost` is in credits. Ids of recorded results begin with the time, so that
    the order of ids is the order of time."""

    __tablename__ = "git_eval_results"
    __table_args__ = (Index("idx_git_eval_results_public", "id", postgresql_where=text("is_public")),)

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    cost_mode: Mapped[str | None]
    reasoner_model: Mapped[str | None]
    agent_model: Mapped[str | None]
    # `metadata` is reserved by SQLAlchemy's declarative base.
    details: Mapped[Any] = mapped_column("metadata", JSONB(none_as_null=True), nullable=True)
    cost: Mapped[int] = mapped_column(server_default=text("0"))
    is_public: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    def detail(self, *names: str) -> str | None:
        """The first text of the metadata that has one of these names."""
        values = self.details if isinstance(self.details, dict) else {}
        return next((value for name in names if isinstance(value := values.get(name), str) and value), None)

    @property
    def suite(self) -> str | None:
        """The repository that was evaluated."""
        return self.detail("suite", "repo")

    @property
    def commit(self) -> str | None:
        """The commit of the agent that was evaluated."""
        return self.detail("commit", "commitSha", "sha", "gitSha")

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the metadata by name, nested ones as `outer.inner`; at most `MAX_METRICS`."""
        found: dict[str, float] = {}
        _collect(self.details, "", MAX_NESTING, found)
        return found


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


@dataclass(frozen=True)
class EvalPage:
    """Results, newest first, and the `before` of the next page, None on the last."""

    results: Sequence[GitEvalResults]
    next: str | None


def evals_page(before: str | None = None, limit: int = PAGE) -> EvalPage:
    """A page of all results, by id descending."""
    query = select(GitEvalResults).order_by(GitEvalResults.id.desc()).limit(limit + 1)
    if before:
        query = query.where(GitEvalResults.id < before)
    rows = db.session.scalars(query).all()
    return EvalPage(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)
