"""Evaluation results (`git_eval_results`)."""

from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, Base


class GitEvalResults(Base):
    """The result of one evaluation over a set of commits."""

    __tablename__ = "git_eval_results"

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    cost_mode: Mapped[str | None]
    reasoner_model: Mapped[str | None]
    agent_model: Mapped[str | None]
    # `metadata` is reserved by SQLAlchemy's declarative base.
    details: Mapped[Any] = mapped_column("metadata", JSONB(none_as_null=True), nullable=True)
    cost: Mapped[int] = mapped_column(server_default=text("0"))
    is_public: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
