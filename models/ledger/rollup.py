"""Hourly and daily usage rollups, written by the settling transaction, so that charts never scan messages."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Integer, Numeric, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, BigInt


class UsageRollup(Base):
    """Usage of an account in one bucket (a UTC hour, day or week, named by its start), per user, model, agent, key,
    provider and type of call (`usage_type`), and per error of the failed calls. The grain of days and weeks of another time zone ends in its name (models/usage/zone_rollups.py).

    A row counts either settled calls, with an empty `error`, or `failed` ones, which used nothing.

    Input token counts are disjoint: `input_tokens` is uncached only. `output_tokens` includes `reasoning_tokens`.
    `cost` is dollars; `latency_ms` and `ttft_ms` are sums over `calls` and `ttft_calls`.
    """

    __tablename__ = "usage_rollup"
    __table_args__ = (
        CheckConstraint(
            "(split_part(grain, ' '::text, 1) = ANY (ARRAY['hour'::text, 'day'::text, 'week'::text]))",
            name="grain_known",
        ),
        CheckConstraint("(cardinality(latency_hist) = 16)", name="latency_hist_buckets"),
    )

    account_id: Mapped[str] = mapped_column(
        ForeignKey("credit_account.id", ondelete="CASCADE"), primary_key=True
    )
    grain: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[datetime] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    agent_id: Mapped[str] = mapped_column(primary_key=True, server_default=text("''::text"))
    key_id: Mapped[str] = mapped_column(primary_key=True, server_default=text("''::text"))
    error: Mapped[str] = mapped_column(primary_key=True, server_default=text("''::text"))
    provider: Mapped[str] = mapped_column(primary_key=True, server_default=text("''::text"))
    type: Mapped[str] = mapped_column(primary_key=True, server_default=text("''::text"))
    calls: Mapped[int] = mapped_column(server_default=text("0"))
    input_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    cache_write_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    cache_read_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    output_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    reasoning_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    cost: Mapped[Decimal] = mapped_column(Numeric, server_default=text("'0'::numeric"))
    credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    latency_ms: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    ttft_ms: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    ttft_calls: Mapped[int] = mapped_column(server_default=text("0"))
    latency_hist: Mapped[list[int]] = mapped_column(
        ARRAY(Integer), server_default=text("array_fill(0, ARRAY[16])")
    )
    failed: Mapped[int] = mapped_column(server_default=text("0"))
    latency_max: Mapped[int] = mapped_column(server_default=text("0"))
    """Of the settled calls; 0 in rows from before it was stored, until they are counted anew."""


class UsageRecounting(Base):
    """An account whose rollups up to `day` were written before they had keys and errors, or providers and types, and are still to be
    counted anew."""

    __tablename__ = "usage_recounting"

    account_id: Mapped[str] = mapped_column(
        ForeignKey("credit_account.id", ondelete="CASCADE"), primary_key=True
    )
    day: Mapped[datetime]
