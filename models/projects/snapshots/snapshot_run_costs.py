"""What the runs of agents cost that made snapshots. Each credit is counted by one snapshot: the first that follows its call, of the run
or of one that spawned it."""

from collections.abc import Mapping, Sequence

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, func, select
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, BigInt, db, lock_name
from models.core.errors import Invalid
from models.projects.snapshots.snapshot import Snapshot
from models.projects.snapshots.stored_objects import among
from models.runs import AgentRun
from models.runs.history import find_run
from models.runs.run_totals import add_up, relatives_of


class SnapshotRunCost(Base):
    """The credits of a run's own calls that a snapshot counts: of the run that made it, or one that this run spawned."""

    __tablename__ = "snapshot_run_cost"
    __table_args__ = (
        CheckConstraint("(credits > 0)", name="credits_positive"),
        ForeignKeyConstraint(
            ["project_id", "snapshot_id"],
            ["snapshot.project_id", "snapshot.id"],
            name="snapshot_run_cost_snapshot_fk",
            ondelete="CASCADE",
        ),
        Index("idx_snapshot_run_cost_run", "run_id"),
    )

    project_id: Mapped[str] = mapped_column(primary_key=True)
    snapshot_id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("agent_run.id", ondelete="CASCADE"), primary_key=True)
    credits: Mapped[int] = mapped_column(BigInt)


def run_for_snapshot(account_id: str, user_id: str, run_id: str) -> AgentRun:
    """The run that a person started and the account pays, finished or not. Raises Invalid (422, `run_not_found`), also for anybody else's."""
    found = find_run(account_id, run_id, user_id=user_id)
    if found is None:
        raise Invalid(
            "'run_id' is no run that you started and the account of the project pays.", code="run_not_found"
        )
    return found


def uncounted_costs(account_id: str, run: AgentRun) -> Mapping[str, int]:
    """Credits of settled calls that no snapshot counts yet, by run: of this one and all that it spawned. Locks the costs of its tree until
    the transaction ends."""
    lock_name(f"snapshots of run {run.root_run_id}")
    relatives = relatives_of(account_id, [run.id])
    ids = [each.id for each in relatives]
    counted = _counted(ids)
    totals = add_up(account_id, relatives, ids)
    left = {id: totals[id].own.credits - counted.get(id, 0) for id in ids}
    # a reversed call leaves less than was counted
    return {id: credits for id, credits in left.items() if credits > 0}


def add_costs(snapshot: Snapshot, costs: Mapping[str, int]) -> None:
    """Store what a new snapshot counts."""
    db.session.add_all(
        SnapshotRunCost(
            project_id=snapshot.project_id, snapshot_id=snapshot.id, run_id=run_id, credits=credits
        )
        for run_id, credits in costs.items()
    )


def _counted(run_ids: Sequence[str]) -> dict[str, int]:
    query = select(SnapshotRunCost.run_id, func.sum(SnapshotRunCost.credits))
    rows = db.session.execute(
        query.where(among(SnapshotRunCost.run_id, run_ids)).group_by(SnapshotRunCost.run_id)
    )
    return {row[0]: int(row[1]) for row in rows}
