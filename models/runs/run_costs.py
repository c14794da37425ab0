"""What a run cost, for scripts: in total, by each run in its tree, by model."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, or_, select

from models.core.db import db
from models.core.errors import NotFound
from models.ledger import Account
from models.orgs import OrgMember
from models.runs.run import AgentRun
from models.runs.run_totals import RunCost, RunTotals, add_up, relatives_of
from models.runs.trace import ModelTotals, models_of

MAX_RUNS = 1000


@dataclass(frozen=True)
class CostOfRun:
    """A run, its totals with all it spawned, the runs of its tree (itself first, at most 1,000, then the most expensive) with
    their own calls, and the models used. `spawned` counts all runs below it."""

    run: AgentRun
    totals: RunTotals
    runs: Sequence[tuple[AgentRun, RunCost]]
    models: Sequence[ModelTotals]

    @property
    def spawned(self) -> int:
        """Runs below it."""
        return self.totals.spawned


def cost_of_run(account: Account, user_id: str, run_id: str) -> CostOfRun:
    """The cost of a run of the account; of the user's own account also of one that they started with it for an organisation to
    which they belong. Raises NotFound."""
    member = select(OrgMember.org_id).where(OrgMember.user_id == user_id)
    delegated = and_(AgentRun.user_id == user_id, AgentRun.paid_by.is_not(None), AgentRun.org_id.in_(member))
    own = AgentRun.account_id == account.id
    query = select(AgentRun).where(AgentRun.id == run_id, own if account.org_id else or_(own, delegated))
    run = None if "\x00" in run_id else db.session.scalar(query)
    if run is None:
        raise NotFound("There is no such run here")
    payer = run.org_id or run.user_id or account.id
    relatives = relatives_of(payer, [run.id])
    totals = add_up(payer, relatives, [each.id for each in relatives])
    below = sorted((id for id in totals if id != run.id), key=lambda id: (-totals[id].own.credits, id))
    shown = [run.id, *below[: MAX_RUNS - 1]]
    rows = {row.id: row for row in db.session.scalars(select(AgentRun).where(AgentRun.id.in_(shown)))}
    return CostOfRun(
        run,
        totals[run.id],
        [(rows[id], totals[id].own) for id in shown if id in rows],
        models_of(payer, totals[run.id].all, list(totals)),
    )
