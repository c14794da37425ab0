"""Recorded runs of the ledger proof, which verifies all totals once a day."""

from datetime import datetime
from typing import Any

from sqlalchemy import Identity, Index, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models import ledger
from models.billing.payments.purchase_proof import prove_purchases
from models.core.db import Base, BigInt, db
from models.core.db import now as utc_now
from models.core.jobs import transaction


class ProofRun(Base):
    """One verification of the ledger's totals and of the purchases. `findings` are the failed checks, each with its name,
    the number of differences, and the first of them; `error` is the exception type that stopped the run."""

    __tablename__ = "proof_run"
    __table_args__ = (
        Index("idx_proof_run_finished", "id", postgresql_where=text("(finished_at IS NOT NULL)")),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    accounts: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    entries: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    messages: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    lost_calls: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    """Calls that neither settled nor failed: to review, not counted as differences."""
    checks: Mapped[int] = mapped_column(server_default=text("0"))
    differences: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    findings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    error: Mapped[str | None]


def record_proof(*, now: datetime | None = None) -> ProofRun:
    """Run the checks of `flask billing prove` and store the result. Uses its own transactions; otherwise only reads.

    Re-raises any exception after recording its type.
    """
    run = ProofRun(started_at=now or utc_now())
    with transaction():
        db.session.add(run)
        db.session.flush()
        id = run.id
    values: dict[str, Any] = {}
    try:
        proof = ledger.prove()
        checks = [*proof.checks, *prove_purchases()]
        values = {
            "accounts": proof.accounts,
            "entries": proof.entries,
            "messages": proof.messages,
            "lost_calls": proof.lost_holds,
            "checks": len(checks),
            "differences": sum(check.count for check in checks),
            "findings": [
                {
                    "check": check.name,
                    "count": check.count,
                    "differences": [
                        f"{each.subject}: expected {each.expected}, found {each.found}"
                        for each in check.differences
                    ],
                }
                for check in checks
                if check.count
            ],
        }
    except Exception as failure:
        values = {"error": type(failure).__name__}
        raise
    finally:
        with transaction():
            db.session.execute(
                update(ProofRun)
                .where(ProofRun.id == id)
                .values(finished_at=utc_now(), **values)
                .execution_options(synchronize_session=False)
            )
    with transaction():
        return db.session.get_one(ProofRun, id, populate_existing=True)


def last_proof() -> ProofRun | None:
    """The newest finished run."""
    return db.session.scalars(
        select(ProofRun)
        .where(ProofRun.finished_at.is_not(None))
        .order_by(ProofRun.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    ).one_or_none()
