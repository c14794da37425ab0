"""Imports of prices: each is a proposal until an operator approves it, and then in force on all workers from one full minute on."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Identity, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt


class PriceImport(Base):
    """A proposal. `prices` has an entry for each model, as in STOA_PRICES_FILE with numbers as strings. `result` has all imported
    prices in force from `effective_at` on: those of the approved imports before, and of this one."""

    __tablename__ = "price_import"
    __table_args__ = (
        CheckConstraint(
            "(state = ANY (ARRAY['proposed'::text, 'approved'::text, 'rejected'::text]))", name="state_known"
        ),
        CheckConstraint(
            "((state = 'approved'::text) = ((effective_at IS NOT NULL) AND (result IS NOT NULL)))",
            name="approved_whole",
        ),
        Index(
            "idx_price_import_effective",
            "effective_at",
            "id",
            postgresql_where=text("(state = 'approved'::text)"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    created_by: Mapped[str]
    source: Mapped[str]
    prices: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(server_default=text("'proposed'::text"))
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None]
    effective_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
