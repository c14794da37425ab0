"""Recorded proofs of the ledger and of the store's statistics: each runs every night, and whenever an operator asks."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import CheckConstraint, Identity, Index, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models import ledger
from models.billing.payments.purchase_proof import prove_purchases
from models.core.db import Base, BigInt, db
from models.core.db import now as utc_now
from models.core.jobs import transaction
from models.ledger.ledger_proof import LedgerCheck
from models.store.statistics import store_proof
from models.store.statistics.store_proof import StoreProof

ProofKind = Literal["ledger", "store"]
SHOWN_DIFFERENCES = 20
"""Stored of each check."""


class ProofRun(Base):
    """One verification of the ledger's totals and the purchases, or of the store's statistics. `findings` are the failed checks, each with its name,
    the number of differences, and the first of them; `error` is the exception type that stopped the run."""

    __tablename__ = "proof_run"
    __table_args__ = (
        CheckConstraint("(kind = ANY (ARRAY['ledger'::text, 'store'::text]))", name="kind_known"),
        Index("idx_proof_run_finished", "kind", "id", postgresql_where=text("(finished_at IS NOT NULL)")),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    kind: Mapped[str] = mapped_column(server_default=text("'ledger'::text"))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    accounts: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    entries: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    messages: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    runs: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    lost_calls: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    """Calls that neither settled nor failed: to review, not counted as differences."""
    checks: Mapped[int] = mapped_column(server_default=text("0"))
    differences: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    findings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    error: Mapped[str | None]


def record_ledger_proof(*, now: datetime | None = None) -> tuple[ProofRun, list[LedgerCheck]]:
    """Run the checks of `flask billing prove` and store the result; returns it with the checks. Uses its own transactions; otherwise
    only reads.

    Re-raises any exception after recording its type.
    """
    checks: list[LedgerCheck] = []

    def prove() -> dict[str, Any]:
        proof = ledger.prove()
        checks.extend([*proof.checks, *prove_purchases()])
        return {
            "accounts": proof.accounts,
            "entries": proof.entries,
            "messages": proof.messages,
            "lost_calls": proof.lost_holds,
            **_outcome(
                (
                    check.name,
                    check.count,
                    [
                        f"{each.subject}: expected {each.expected}, found {each.found}"
                        for each in check.differences
                    ],
                )
                for check in checks
            ),
        }

    return _recorded("ledger", prove, now), checks


def record_store_proof(*, now: datetime | None = None) -> tuple[ProofRun, StoreProof]:
    """`record_ledger_proof` for the checks of `flask store prove`."""
    proofs: list[StoreProof] = []

    def prove() -> dict[str, Any]:
        proof = store_proof.prove()
        proofs.append(proof)
        return {
            "runs": proof.runs,
            **_outcome(
                (
                    check.name,
                    len(check.differences),
                    [
                        f"{each.publisher_id}/{each.agent_id}, {each.subject}: expected {each.expected}, found {each.found}"
                        for each in check.differences[:SHOWN_DIFFERENCES]
                    ],
                )
                for check in proof.checks
            ),
        }

    return _recorded("store", prove, now), proofs[0]


def _outcome(checks: Iterable[tuple[str, int, list[str]]]) -> dict[str, Any]:
    """Columns of the result from the name, the number of differences and the first differences of each check."""
    checks = list(checks)
    return {
        "checks": len(checks),
        "differences": sum(count for _, count, _ in checks),
        "findings": [
            {"check": name, "count": count, "differences": first} for name, count, first in checks if count
        ],
    }


def _recorded(kind: ProofKind, prove: Callable[[], dict[str, Any]], now: datetime | None) -> ProofRun:
    run = ProofRun(kind=kind, started_at=now or utc_now())
    with transaction():
        db.session.add(run)
        db.session.flush()
        id = run.id
    values: dict[str, Any] = {}
    try:
        values = prove()
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


def last_proof(kind: ProofKind = "ledger") -> ProofRun | None:
    """The newest finished run."""
    runs = proof_runs(kind, limit=1)
    return runs[0] if runs else None


def proof_runs(kind: ProofKind, *, limit: int) -> Sequence[ProofRun]:
    """The newest finished runs."""
    return db.session.scalars(
        select(ProofRun)
        .where(ProofRun.kind == kind, ProofRun.finished_at.is_not(None))
        .order_by(ProofRun.id.desc())
        .limit(limit)
        .execution_options(populate_existing=True)
    ).all()
